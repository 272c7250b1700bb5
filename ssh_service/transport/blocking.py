"""paramiko's calls on a channel that wait, with an end to each wait."""

from __future__ import annotations

import errno
import socket
from typing import Callable, Optional, Union

from paramiko.message import Message
from paramiko.ssh_exception import SSHException

from ssh_service.errors import (
    SshConnectionLost,
    SshConnectTimeout,
    SshServiceError,
    copy_for_raise,
)
from ssh_service.transport.nonblocking import NonblockingChannel
from ssh_service.transport.wire import Buffer

# One piece of a blocking sendall; more does not fit a packet of OpenSSH's servers.
_MAX_SEND_BYTES = 32 * 1024


class BlockingChannel(NonblockingChannel):
    """
    The half of `SshChannel` that waits, for code that expects a `paramiko.Channel`.

    Notes
    -----
    Thread safety.  Every method may be called from any thread but the reader's.

    Guarantees.  No call outlives its connection.  `recv` returns b"" only at a real end of the
    output; a connection that was lost raises `SshConnectionLost`.
    """

    error: Optional[SshServiceError]  # why it ended, if not in good order

    # paramiko takes the lock before its `try`; `with` has no such gap: see
    # docs/paramiko_repairs.md#torn-calls

    def _send(self, s: Union[str, Buffer], m: Message) -> int:
        # Text is counted in characters, as by paramiko, but the window in bytes: see
        # docs/paramiko_repairs.md#text-and-the-window
        data = _encoded(s)
        with self.lock:
            if self.closed:
                raise self._closed_error()
            least = len(s[:1].encode("utf-8")) if isinstance(s, str) else 1
            size = self._wait_for_send_window(len(data), least)
            if isinstance(s, str):
                whole = _whole_characters(data, size)
                self.out_window_size += size - whole
                size = whole
            if size == 0:
                return 0
            m.add_string(data[:size])
        self._transmit(m, wait=True)
        return len(data[:size].decode("utf-8")) if isinstance(s, str) else size

    def exec_command(self, command: Union[str, bytes]) -> None:
        """Do as `paramiko.Channel.exec_command`."""
        self._process_requested = True
        super().exec_command(command)

    def invoke_shell(self) -> None:
        """Do as `paramiko.Channel.invoke_shell`."""
        self._process_requested = True
        super().invoke_shell()

    def invoke_subsystem(self, subsystem: str) -> None:
        """Do as `paramiko.Channel.invoke_subsystem`."""
        self._process_requested = True
        super().invoke_subsystem(subsystem)

    def _closed_error(self) -> OSError:
        if isinstance(self.error, SshConnectionLost):
            return copy_for_raise(self.error)
        return OSError(errno.EPIPE, "the channel is closed")

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

    def _wait_for_send_window(self, size: int, least: int = 1) -> int:
        # Ours, because of docs/paramiko_repairs.md#wall-clock.  The caller holds `lock`.
        if not self.out_buffer_cv.wait_for(
            lambda: self.closed or self.eof_sent or self.out_window_size >= least, self.timeout
        ):
            raise socket.timeout("the peer's window stayed closed")
        if self.closed or self.eof_sent:
            return 0
        size = int(min(size, self.out_window_size, self.out_max_packet_size - 64))
        self.out_window_size -= size
        return size

    def sendall(self, s: Union[str, Buffer]) -> None:
        """
        Send all of `s`, waiting for the peer's window.

        Parameters
        ----------
        s : bytes or str
            What to send; text is sent as UTF-8.

        Raises
        ------
        socket.timeout
            The peer took nothing for the channel's time-out.
        OSError
            The channel was closed; `SshConnectionLost` if the connection was.
        """
        self._send_all(s, self.send)

    def sendall_stderr(self, s: Union[str, Buffer]) -> None:
        """Do as `sendall`, as extended data of the kind stderr; for servers."""
        self._send_all(s, self.send_stderr)

    def _send_all(self, s: Union[str, Buffer], send: Callable[[bytes], int]) -> None:
        # Slices of a view copy nothing: see docs/paramiko_repairs.md#quadratic-copies
        view = memoryview(s.encode("utf-8") if isinstance(s, str) else s).cast("B")
        while view:
            sent = send(bytes(view[:_MAX_SEND_BYTES]))
            if not sent:  # where our EOF has been sent, paramiko tries for ever
                raise self._closed_error()
            view = view[sent:]

    def _event_pending(self) -> None:
        super()._event_pending()
        if self.closed:  # see docs/paramiko_repairs.md#request-without-a-reply
            self.event.set()

    def _wait_for_event(self) -> None:
        # Not the channel's time-out, which is for its data: it may be 0.
        transport = self.get_transport()
        timeout = transport.channel_timeout
        if not self.event.wait(timeout):
            self.close()  # a late reply would be taken for that to another request
            raise SshConnectTimeout(
                f"{transport.connection_id}: no reply to a channel request within {timeout:g} s",
                connection_id=transport.connection_id,
                phase="open",
            )
        if not self.event_ready:
            raise (
                copy_for_raise(self.error)
                if self.error
                else SSHException("the channel was closed")
            )

    def recv(self, nbytes: int) -> bytes:
        """Receive as `paramiko.Channel.recv`; a lost connection raises `SshConnectionLost`."""
        return self._checked(super().recv(nbytes))

    def recv_stderr(self, nbytes: int) -> bytes:
        """Receive as `paramiko.Channel.recv_stderr`, with the same exception."""
        return self._checked(super().recv_stderr(nbytes))

    def _checked(self, data: bytes) -> bytes:
        # See docs/paramiko_repairs.md#lost-connection
        if not data and not self.eof_received and isinstance(self.error, SshConnectionLost):
            raise copy_for_raise(self.error)
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
            raise copy_for_raise(self.error)
        return int(self.exit_status)


def _encoded(data: Union[str, Buffer]) -> bytes:
    if isinstance(data, bytes):
        return data
    return data.encode("utf-8") if isinstance(data, str) else bytes(memoryview(data))


def _whole_characters(data: bytes, size: int) -> int:
    """Return how many of the first `size` bytes of UTF-8 text end with a whole character."""
    while 0 < size < len(data) and data[size] & 0xC0 == 0x80:
        size -= 1
    return size
