"""Handlers of a channel's messages, called by the connection's reader thread."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Optional

from ssh_service.errors import SshServiceError
from ssh_service.transport.lock_free import LockFreeEvent

if TYPE_CHECKING:
    from ssh_service.transport.channel import SshChannel


class ChannelSink:
    """
    Handles the messages of one channel.

    Notes
    -----
    Every method is called on the connection's reader thread, in the order of the messages.  It
    must not block: no waiting, no file access, no user's code.

    Attributes
    ----------
    auto_window : bool
        Whether the window that a chunk took is adjusted as soon as `data` or `stderr` returns.
        Otherwise the sink calls `SshChannel.adjust_window` when it is done with the chunk.
    """

    auto_window = True

    def on_open(self, channel: "SshChannel") -> None:
        """Handle the server's confirmation of the channel."""

    def on_reply(self, ok: bool) -> None:
        """Handle the reply to a request, such as `request_exec`; replies come in order."""

    def on_data(self, chunk: bytes) -> None:
        """Handle bytes of stdout."""

    def on_stderr(self, chunk: bytes) -> None:
        """Handle bytes of stderr."""

    def on_eof(self) -> None:
        """Handle the peer's EOF: no more data will come."""

    def on_exit_status(self, status: int) -> None:
        """Handle the exit status of the remote process."""

    def on_exit_signal(self, name: str, core_dumped: bool, text: str) -> None:
        """Handle the signal that ended the remote process, such as ``TERM``."""

    def on_writable(self) -> None:
        """Handle a WINDOW_ADJUST: more can be sent."""

    def on_close(self, error: Optional[SshServiceError]) -> None:
        """Handle the end of the channel; called exactly once, as the last method."""


class OpenWaiter(ChannelSink):
    """Waits for a channel to be opened, for the blocking interface."""

    def __init__(self) -> None:
        self._done = LockFreeEvent()

    def on_open(self, channel: "SshChannel") -> None:
        """Release the waiting thread."""
        channel.detach_sink()  # before the first request, so before any other message
        self._done.set()

    def on_close(self, error: Optional[SshServiceError]) -> None:
        """Release the waiting thread; the channel keeps the error."""
        self._done.set()

    def wait(self, deadline: float) -> bool:
        """Wait until the channel is open or refused."""
        return self._done.wait(max(0.0, deadline - time.monotonic()))
