"""Who is told what comes over a channel, by the connection's reader thread."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Optional

from ssh_service.errors import SshServiceError
from ssh_service.transport.lock_free import LockFreeEvent

if TYPE_CHECKING:
    from ssh_service.transport.channel import SshChannel


class ChannelSink:
    """
    Who is told what comes over a channel.

    Notes
    -----
    Every method is called on the connection's reader thread, in the order in which the messages
    came.  It must return at once: no waiting, no file access, none of the user's code.

    Attributes
    ----------
    auto_window : bool
        Whether the window that a chunk took is given back as soon as `data` or `stderr` returns.
        Otherwise the sink calls `SshChannel.adjust_window` when it is done with the chunk.
    """

    auto_window = True

    def on_open(self, channel: "SshChannel") -> None:
        """Take note that the server confirmed the channel."""

    def on_reply(self, ok: bool) -> None:
        """Take the server's answer to a request, such as `request_exec`; they come in order."""

    def on_data(self, chunk: bytes) -> None:
        """Take bytes of stdout."""

    def on_stderr(self, chunk: bytes) -> None:
        """Take bytes of stderr."""

    def on_eof(self) -> None:
        """Take note that no more bytes will come."""

    def on_exit_status(self, status: int) -> None:
        """Take the exit status of the remote process."""

    def on_exit_signal(self, name: str, core_dumped: bool, text: str) -> None:
        """Take the signal that ended the remote process, such as ``TERM``."""

    def on_writable(self) -> None:
        """Take note that the peer widened its window."""

    def on_close(self, error: Optional[SshServiceError]) -> None:
        """
        Take note of the end; called exactly once, and last.

        Parameters
        ----------
        error : Optional[SshServiceError]
            None when the peer closed the channel (whoever began); `SshSessionRefused` when it was
            never opened; `SshConnectionLost` when the connection ended first.
        """


class OpenWaiter(ChannelSink):
    """Waits for a channel to be opened, for the blocking form."""

    def __init__(self) -> None:
        self._done = LockFreeEvent()

    def on_open(self, channel: "SshChannel") -> None:
        """Release the waiting thread."""
        channel._sink = None  # before the first request, so before anything else can come
        self._done.set()

    def on_close(self, error: Optional[SshServiceError]) -> None:
        """Release the waiting thread; the channel keeps the error."""
        self._done.set()

    def wait(self, deadline: float) -> bool:
        """
        Wait until the channel is open or refused.

        Parameters
        ----------
        deadline : float
            A monotonic instant.

        Returns
        -------
        bool
            False when the time was up.
        """
        return self._done.wait(max(0.0, deadline - time.monotonic()))
