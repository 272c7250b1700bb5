"""paramiko's blocking calls on a channel, each with a timeout."""

from __future__ import annotations

import contextlib
import errno
import socket
from typing import Callable, Optional, Union

from paramiko.message import Message
from paramiko.ssh_exception import SSHException

from ssh_service import known_servers
from ssh_service.errors import (
    SshConnectionLost,
    SshConnectTimeout,
    SshServiceError,
    copy_for_raise,
)
from ssh_service.transport.nonblocking import NonblockingChannel
from ssh_service.transport.wire import Buffer

# Bytes of one send in `sendall`; more does not fit into a packet of OpenSSH's servers.
_MAX_SEND_BYTES = 32 * 1024


class BlockingChannel(NonblockingChannel):
    """
    The blocking half of `SshChannel`, for code that expects a `paramiko.Channel`.

    Notes
    -----
    Thread safety.  Every method may be called from any thread but the reader's.

    Guarantees.  No call outlives its connection.  `recv` returns b"" only at a real end of the
    output; a connection that was lost raises `SshConnectionLost`.
    """

    error: Optional[SshServiceError]  # why it ended; None after a normal end

    # paramiko takes the lock before its `try`; `with` has no such gap: see
    # docs/paramiko_repairs.md#torn-calls

    def _send(self, s: Union[str, Buffer], m: Message) -> int:
        # As in paramiko, text counts in characters, but the window counts in bytes: see
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
        self._check_request(command)
        self._process_requested = True
        super().exec_command(command)

    def invoke_shell(self) -> None:
        """Do as `paramiko.Channel.invoke_shell`."""
        self._process_requested = True
        super().invoke_shell()

    def invoke_subsystem(self, subsystem: str) -> None:
        """Do as `paramiko.Channel.invoke_subsystem`."""
        self._check_request(subsystem)
        self._process_requested = True
        super().invoke_subsystem(subsystem)

    def set_environment_variable(self, name: Union[str, bytes], value: Union[str, bytes]) -> None:
        """Do as `paramiko.Channel.set_environment_variable`."""
        self._check_request(name, value)
        super().set_environment_variable(name, value)

    def _check_request(self, *texts: Union[str, bytes]) -> None:
        """Refuse a request that would end the connection for all who share it."""
        if not getattr(self.connection, "is_shared", False):
            return
        limit = known_servers.request_limit(self.connection.remote_version)
        size = sum(len(_encoded(text)) for text in texts if isinstance(text, (str, bytes)))
        if limit is not None and size > limit:
            raise SSHException(
                f"{self.connection.connection_id}: a request of {size} bytes would end the"
                f" connection: the server takes {limit} at most; send the rest as input"
            )

    def _closed_error(self) -> OSError:
        if isinstance(self.error, SshConnectionLost):
            return copy_for_raise(self.error)
        error = OSError("Socket is closed")  # paramiko's words, which programs look for
        error.errno = errno.EPIPE
        return error

    def shutdown(self, how: int) -> None:
        """Shut down reading (0), writing (1) or both (2), as `paramiko.Channel.shutdown`."""
        if how in (0, 2):
            self.eof_received = True
        if how in (1, 2):
            with self.lock:
                m = self._send_eof()
            if m is not None:
                # As in paramiko; files call this in their destructors.
                with contextlib.suppress(SshConnectionLost):
                    self._transmit(m, wait=True)

    def _wait_for_send_window(self, size: int, least: int = 1) -> int:
        # Ours, because of docs/paramiko_repairs.md#wall-clock.  The caller holds `lock`.
        if not self.out_buffer_cv.wait_for(
            lambda: self.closed or self.eof_sent or self.out_window_size >= least, self.timeout
        ):
            raise socket.timeout("timed out waiting for the peer's window")
        if self.closed or self.eof_sent:
            return 0
        size = int(min(size, self.out_window_size, self.out_max_packet_size - 64))
        self.out_window_size -= size
        return size

    def sendall(self, s: Union[str, Buffer]) -> None:
        """
        Send all of `s` (text as UTF-8), waiting for the peer's window.

        Raises
        ------
        socket.timeout
            The peer accepted nothing for the channel's timeout.
        OSError
            The channel was closed; `SshConnectionLost` if the connection was.
        """
        self._send_all(s, self.send)

    def sendall_stderr(self, s: Union[str, Buffer]) -> None:
        """Send like `sendall`, but as extended data of type stderr; for servers."""
        self._send_all(s, self.send_stderr)

    def _send_all(self, s: Union[str, Buffer], send: Callable[[bytes], int]) -> None:
        # Slices of a view copy nothing: see docs/paramiko_repairs.md#quadratic-copies
        view = memoryview(s.encode("utf-8") if isinstance(s, str) else s).cast("B")
        while view:
            sent = send(bytes(view[:_MAX_SEND_BYTES]))
            if not sent:  # after our EOF, paramiko tries without end
                raise self._closed_error()
            view = view[sent:]

    def _event_pending(self) -> None:
        super()._event_pending()
        if self.closed:  # see docs/paramiko_repairs.md#request-without-a-reply
            self.event.set()

    def _wait_for_event(self) -> None:
        # Not the channel's timeout, which is for data and may be 0.
        transport = self.connection
        timeout = transport.channel_timeout
        if not self.event.wait(timeout):
            self.close()  # a late reply would be attributed to another request
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
            Seconds to wait; None waits until the channel ends.

        Returns
        -------
        int
            The status; -1 if a signal ended the process (see `exit_signal`) or the server sent
            none.

        Raises
        ------
        socket.timeout
            The timeout passed.
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
    """Return the largest count up to `size` that does not split a UTF-8 character."""
    while 0 < size < len(data) and data[size] & 0xC0 == 0x80:
        size -= 1
    return size
