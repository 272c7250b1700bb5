"""paramiko's calls on a channel that wait, with an end to each wait."""

from __future__ import annotations

import errno
import socket
from typing import Optional

from paramiko.message import Message
from paramiko.ssh_exception import SSHException

from ssh_service.errors import SshConnectionLost, SshServiceError, again
from ssh_service.transport.posting import PostingChannel
from ssh_service.transport.wire import Buffer

# Seconds a blocking channel request waits for its reply where no time-out was set.
_REPLY_TIMEOUT = 30.0
# One piece of a blocking sendall; more does not fit a packet of OpenSSH's servers.
_PIECE = 32 * 1024


class BlockingChannel(PostingChannel):
    """
    The half of `SshChannel` that waits, for code that expects a `paramiko.Channel`.

    Notes
    -----
    Thread safety.  Every method may be called from any thread but the reader's.

    Guarantees.  No call outlives its connection.  `recv` returns b"" only at a real end of the
    output; a connection that was lost raises `SshConnectionLost`.
    """

    error: Optional[SshServiceError]  # why it ended, if not in good order

    # paramiko takes the lock before its `try`: an exception of a signal's handler between the two
    # leaves it taken for ever, and the reader with it (fault G23).  `with` has no such gap.

    def _send(self, s: bytes, m: Message) -> int:
        with self.lock:
            if self.closed:
                raise OSError(errno.EPIPE, "the channel is closed")
            size = int(self._wait_for_send_window(len(s)))
            if size == 0:
                return 0
            m.add_string(s[:size])
        self._transmit(m, wait=True)
        return size

    def shutdown(self, how: int) -> None:
        """
        End one direction or both, as `paramiko.Channel.shutdown`.

        Parameters
        ----------
        how : int
            0: read no more; 1: write no more; 2: both.
        """
        if how in (0, 2):
            self.eof_received = True
        if how in (1, 2):
            with self.lock:
                m = self._send_eof()
            if m is not None:
                self._transmit(m, wait=True)

    def _wait_for_send_window(self, size: int) -> int:
        # Ours, as paramiko's goes by the wall clock, which may jump.  The caller holds `lock`.
        if not self.out_buffer_cv.wait_for(
            lambda: self.closed or self.eof_sent or self.out_window_size > 0, self.timeout
        ):
            raise socket.timeout("the peer's window stayed closed")
        if self.closed or self.eof_sent:
            return 0
        size = int(min(size, self.out_window_size, self.out_max_packet_size - 64))
        self.out_window_size -= size
        return size

    def sendall(self, s: Buffer) -> None:
        """
        Send all of `s`, waiting for the peer's window.

        Parameters
        ----------
        s : bytes
            What to send.

        Raises
        ------
        socket.timeout
            The peer took nothing for the channel's time-out.
        OSError
            The channel was closed; `SshConnectionLost` if the connection was.
        """
        view = memoryview(s).cast("B")  # slices of a view copy nothing (fault F4)
        while view:
            sent = self.send(bytes(view[:_PIECE]))
            if not sent:
                raise again(self.error) if self.error else BrokenPipeError("channel closed")
            view = view[sent:]

    def _event_pending(self) -> None:
        super()._event_pending()
        if self.closed:  # the end came just before; paramiko waits for it for ever (fault G1)
            self.event.set()

    def _wait_for_event(self) -> None:
        timeout = _REPLY_TIMEOUT if self.timeout is None else self.timeout
        if not self.event.wait(timeout):
            raise socket.timeout(f"no reply to a channel request within {timeout:g} s")
        if not self.event_ready:
            raise again(self.error) if self.error else SSHException("the channel was closed")

    def recv(self, nbytes: int) -> bytes:
        """Receive as `paramiko.Channel.recv`; a lost connection raises `SshConnectionLost`."""
        return self._checked(super().recv(nbytes))

    def recv_stderr(self, nbytes: int) -> bytes:
        """Receive as `paramiko.Channel.recv_stderr`, with the same exception."""
        return self._checked(super().recv_stderr(nbytes))

    def _checked(self, data: bytes) -> bytes:
        # A lost connection must not look like the end of the output (fault G5).
        if not data and not self.eof_received and isinstance(self.error, SshConnectionLost):
            raise again(self.error)
        return data

    def recv_exit_status(self, timeout: Optional[float] = None) -> int:
        """
        Wait for the exit status.

        Parameters
        ----------
        timeout : Optional[float]
            Seconds; None waits until the channel ends.

        Returns
        -------
        int
            The status; -1 if a signal ended the process (see `exit_signal`) or none was sent.

        Raises
        ------
        socket.timeout
            The time was up.
        SshConnectionLost
            The connection ended before a status came.
        """
        if not self.status_event.wait(timeout):
            raise socket.timeout(f"no exit status within {timeout:g} s")
        if self.exit_status == -1 and isinstance(self.error, SshConnectionLost):
            raise again(self.error)
        return int(self.exit_status)
