"""Who is told what comes over a channel, by the connection's reader thread."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Optional

from ssh_service.errors import SshServiceError
from ssh_service.transport.latch import Latch

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
    gives_back : bool
        Whether the window that a chunk took is given back as soon as `data` or `stderr` returns.
        Otherwise the sink calls `SshChannel.give_back` when it is done with the chunk.
    """

    gives_back = True

    def opened(self, channel: "SshChannel") -> None:
        """Take note that the server confirmed the channel."""

    def replied(self, ok: bool) -> None:
        """Take the server's answer to a request, such as `request_exec`; they come in order."""

    def data(self, chunk: bytes) -> None:
        """Take bytes of stdout."""

    def stderr(self, chunk: bytes) -> None:
        """Take bytes of stderr."""

    def eof(self) -> None:
        """Take note that no more bytes will come."""

    def exit_status(self, status: int) -> None:
        """Take the exit status of the remote process."""

    def exit_signal(self, name: str, core_dumped: bool, text: str) -> None:
        """Take the signal that ended the remote process, such as ``TERM``."""

    def writable(self) -> None:
        """Take note that the peer widened its window."""

    def closed(self, error: Optional[SshServiceError]) -> None:
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
        self._done = Latch()

    def opened(self, channel: "SshChannel") -> None:
        """Release the waiting thread."""
        channel._sink = None  # before the first request, so before anything else can come
        self._done.set()

    def closed(self, error: Optional[SshServiceError]) -> None:
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
