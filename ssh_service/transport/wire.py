"""
The bytes below the protocol: one socket, read by one thread, written by many in turn.

Every wait lasts exactly as long as nothing has to be done, so an idle connection costs nothing:
see docs/paramiko_repairs.md#idle-polling.
"""

from __future__ import annotations

import errno
import select
import socket
import ssl
import sys
import time
from typing import Any, Optional, Union

from ssh_service.errors import reason_of
from ssh_service.transport.relay import Relay

Buffer = Union[bytes, bytearray, memoryview]

# One read takes what the kernel has, so that a burst of small packets costs one system call.
_READ_SIZE = 256 * 1024
# Seconds between two looks at whether a channel that stands in for a socket takes data again.
_CHANNEL_POLL_INTERVAL = 0.05
_WINDOW_POLL_INTERVAL = 0.005
# Seconds after which a wait is begun anew: poll() counts milliseconds in a C int.
_MAX_WAIT = 3600.0


class WriteStalled(OSError):
    """The peer has taken no byte for longer than it may."""


class Wire:
    """
    A connected socket, or what stands in for one, as the transport uses it.

    Parameters
    ----------
    sock : socket.socket, paramiko.Channel, paramiko.ProxyCommand or the like
        Connected.  It belongs to the wire from now on.  Whatever is neither a plain socket nor a
        channel needs only `send`, `recv`, `settimeout` and `close`, and is given a `Relay`.
    stall_timeout : float
        Seconds for which the peer may accept no byte before a write fails.

    Attributes
    ----------
    stall_timeout : float
        As given; may be changed.
    backlog : bytes
        What `send_nowait` could not write.

    Notes
    -----
    Thread safety.  `recv` is for the reader thread only; `sendall` and `send_nowait` for one
    thread at a time, which the transport's send lock ensures; everything else for any thread.

    Guarantees.  `close` wakes a thread that waits in `recv` or `sendall`, and never gives the
    descriptor back: another thread may be about to use its number.  `release` does that, once the
    reader knows that nobody is in here any more.
    """

    def __init__(self, sock: Any, stall_timeout: float) -> None:
        self._original = sock
        self._relay: Optional[Relay] = None
        # TLS over a socket holds back bytes that `poll` cannot see.
        is_socket = isinstance(sock, socket.socket) and not isinstance(sock, ssl.SSLSocket)
        if not is_socket and not hasattr(sock, "send_ready"):
            self._relay = Relay(sock)
            sock = self._relay.socket
        self._sock = sock
        self.is_socket = isinstance(sock, socket.socket)
        self.stall_timeout = stall_timeout
        self._closed = False  # by the name that paramiko asks for
        self._drained = False  # reader thread only: the last read took all there was
        self.backlog = b""  # guarded by the gate
        self.last_received = time.monotonic()
        if self.is_socket:
            sock.setblocking(False)

    # What paramiko, or its users, ask of a socket.

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_original":  # not made yet, or being copied
            raise AttributeError(name)
        return getattr(self._original, name)  # `getsockname`, `setsockopt`, `gettimeout`, ...

    def start(self) -> None:
        """Prepare for the first byte; on the reader thread."""
        if self._relay is not None:
            self._relay.start()

    def detach(self) -> None:
        """Leave the socket to the caller, as the transport could not be made."""
        if self._relay is not None:
            self._relay.discard()

    def settimeout(self, timeout: Optional[float]) -> None:
        """Ignore the time-out paramiko sets: every wait of the wire is given its own."""

    def setblocking(self, blocking: bool) -> None:
        """Ignore it, as `settimeout` does."""

    def fileno(self) -> int:
        """Return the descriptor, or -1 once it was given back."""
        return int(self._sock.fileno())

    def close(self) -> None:
        """End both directions, waking whoever waits; the descriptor stays until `release`."""
        self._closed = True
        if not self.is_socket:
            self._sock.close()
            return
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the peer was faster, or the descriptor is given back already
        if self._relay is not None:
            self._relay.stop()

    def release(self) -> None:
        """Give the descriptor back, without a word to the peer (a forked child may call this)."""
        self._closed = True
        if self.is_socket:
            self._sock.close()
        if self._relay is not None:
            self._relay.release()

    def recv(self, timeout: Optional[float], until_writable: bool = False) -> Optional[bytes]:
        """
        Wait for bytes.

        Parameters
        ----------
        timeout : Optional[float]
            Seconds to wait at most; None waits for ever.
        until_writable : bool
            Whether to come back as soon as something could be written.

        Returns
        -------
        Optional[bytes]
            What came, b"" at the end of the stream, or None when the time was up.

        Raises
        ------
        OSError
            The connection was reset, or failed otherwise.
        """
        if self.is_socket:
            data = self._recv_real(timeout, until_writable)
        else:
            longest = _CHANNEL_POLL_INTERVAL if until_writable else _MAX_WAIT
            data = self._recv_channel(longest if timeout is None else min(timeout, longest))
        if data:
            self.last_received = time.monotonic()
        elif data is not None and self._relay is not None and self._relay.error is not None:
            error = self._relay.error
            code = error.errno if isinstance(error, OSError) else None
            raise OSError(code or errno.ECONNRESET, reason_of(error)) from error
        return data

    def _recv_real(self, timeout: Optional[float], until_writable: bool) -> Optional[bytes]:
        for _ in range(2):
            # What was read to its end has to be waited for: a system call less for most packets.
            if self._drained and not _wait(self._sock, True, until_writable, timeout):
                break
            try:
                data = bytes(self._sock.recv(_READ_SIZE))
            except BlockingIOError:
                self._drained = True
            else:
                self._drained = len(data) < _READ_SIZE
                return data
        return None

    def _recv_channel(self, timeout: Optional[float]) -> Optional[bytes]:
        self._sock.settimeout(timeout)
        try:
            return bytes(self._sock.recv(_READ_SIZE))
        except socket.timeout:
            return None
        except OSError as exc:
            raise _jump_host_error(exc) from exc

    def would_block(self) -> bool:
        """Return whether `send_nowait` would write nothing, as earlier data is still waiting."""
        return not (self.is_socket and not self.backlog) and not self.writable()

    def writable(self) -> bool:
        """Tell whether a small message could be written now without waiting; no if closed."""
        if not self.is_socket:
            return bool(self._sock.send_ready())
        try:
            return not self._closed and _wait(self._sock, False, True, 0.0)
        except OSError:
            return False  # given back just now

    def has_peer_closed(self) -> bool:
        """Tell whether the peer has ended the stream, though not all of it may have been read."""
        try:
            return self._closed or (self.is_socket and _has_ended(self._sock))
        except OSError:
            return True  # given back just now

    def sendall(self, data: Buffer) -> None:
        """
        Write all of `data`, waiting for the peer as long as it takes some of it now and then.

        Parameters
        ----------
        data : bytes
            What to write.

        Raises
        ------
        WriteStalled
            The peer took nothing for `stall_timeout` seconds.
        OSError
            The connection was closed or reset.
        """
        view = memoryview(self.backlog + data if self.backlog else data)
        while view:
            if self._closed:
                raise OSError(errno.EPIPE, "the connection is closed")
            sent = self._send(view)
            view = view[sent:]
        self.backlog = b""

    def send_nowait(self, data: bytes) -> None:
        """
        Write what there is room for, without waiting; the rest goes before whatever is next.

        Parameters
        ----------
        data : bytes
            What to write; b"" to see to what is left.

        Raises
        ------
        OSError
            The connection was closed or reset.
        """
        if not self.is_socket:  # the caller asked whether there is room
            self.sendall(data)
            return
        if self._closed:
            raise OSError(errno.EPIPE, "the connection is closed")
        data = self.backlog + data
        try:
            self.backlog = data[self._sock.send(data) :]
        except BlockingIOError:
            self.backlog = data

    def _send(self, view: memoryview) -> int:
        if not self.is_socket:
            # Its one time-out is the reader's, so the wait for its window has to be done here.
            deadline = time.monotonic() + self.stall_timeout
            while not self._sock.send_ready():
                if time.monotonic() >= deadline:
                    raise self._stalled()
                time.sleep(_WINDOW_POLL_INTERVAL)
            try:
                sent = int(self._sock.send(bytes(view[:32768])))
            except OSError as exc:
                raise _jump_host_error(exc) from exc
            if not sent:
                raise OSError(errno.EPIPE, "the connection to the jump host is closed")
            return sent
        try:
            return int(self._sock.send(view))
        except BlockingIOError:
            if not _wait(self._sock, False, True, self.stall_timeout):
                raise self._stalled() from None
            return 0

    def _stalled(self) -> WriteStalled:
        return WriteStalled(errno.ETIMEDOUT, f"the peer took no byte for {self.stall_timeout:g} s")


def _jump_host_error(error: OSError) -> OSError:
    """Give an error of the jump host's connection an errno: paramiko's reader expects one."""
    text = f"the connection to the jump host failed: {reason_of(error)}"
    return OSError(error.errno or errno.ECONNRESET, text)


if sys.platform == "win32":

    def _wait(sock: socket.socket, read: bool, write: bool, timeout: Optional[float]) -> bool:
        ready = select.select([sock] if read else [], [sock] if write else [], [], timeout)
        return bool(ready[0] or ready[1])

    def _has_ended(sock: socket.socket) -> bool:
        return False

else:

    def _wait(sock: socket.socket, read: bool, write: bool, timeout: Optional[float]) -> bool:
        number = sock.fileno()
        if number < 0:
            raise OSError(errno.EPIPE, "the connection is closed")
        poll = select.poll()  # select.select() cannot watch a descriptor above 1023
        poll.register(number, (select.POLLIN if read else 0) | (select.POLLOUT if write else 0))
        if timeout is not None:
            timeout = min(timeout, _MAX_WAIT)
        # Round up: a wait that ends early would make the caller ask again for the last fraction.
        return bool(poll.poll(None if timeout is None else int(timeout * 1000) + 1))

    def _has_ended(sock: socket.socket) -> bool:
        number = sock.fileno()
        if number < 0:
            return True  # given back just now
        poll = select.poll()
        poll.register(number, getattr(select, "POLLRDHUP", 0))
        return bool(poll.poll(0))  # errors and hang-ups are always told
