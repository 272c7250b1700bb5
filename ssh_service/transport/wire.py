"""
The bytes below the protocol: one socket, read by one thread, written by many in turn.

No wait polls, so an idle connection uses no CPU: see docs/paramiko_repairs.md#idle-polling.
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

# One read takes all that the kernel has: a burst of small packets costs one system call.
_READ_SIZE = 256 * 1024
# Fewer bytes than that in one read are acknowledged at once.
_SMALL_READ = 4096
_QUICK_ACK = getattr(socket, "TCP_QUICKACK", None)  # Linux
# Seconds between checks of a channel used as a socket: for its window while reading, writing.
_CHANNEL_POLL_INTERVAL = 0.05
_WINDOW_POLL_INTERVAL = 0.005
# Seconds of one wait at most: poll() counts milliseconds in a C int.
_MAX_WAIT = 3600.0


class WriteStalled(OSError):
    """The peer accepted no byte for the stall timeout."""


class Wire:
    """
    A connected socket or socket-like object, as the transport uses it.

    Parameters
    ----------
    sock : socket.socket, paramiko.Channel, paramiko.ProxyCommand or the like
        Connected, and owned by the wire from now on.  An object that is neither a plain socket nor
        a channel needs only `send`, `recv`, `settimeout` and `close`, and gets a `Relay`.
    stall_timeout : float
        Seconds without progress after which a write fails.

    Attributes
    ----------
    stall_timeout : float
        May be changed.
    backlog : bytes
        Data that `send_nowait` could not write yet.
    acknowledges_at_once : bool
        Whether each small read is acknowledged at once, instead of after 40 ms or with the next
        message: a server that has Nagle's algorithm on holds a small packet back until then.  May
        be set to False.

    Notes
    -----
    Thread safety.  `recv` is for the reader thread only; `sendall` and `send_nowait` for one
    thread at a time, which the transport's send lock ensures; everything else for any thread.

    Guarantees.  `close` wakes a thread that waits in `recv` or `sendall`, but does not close the
    descriptor, whose number another thread may be about to use.  `release` closes it, once no
    thread uses the wire.
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
        self._closed = False  # the name that paramiko uses
        self._drained = False  # reader thread only: the last read took all data
        self.backlog = b""  # guarded by the send lock
        self.last_received = time.monotonic()
        is_tcp = self.is_socket and sock.family in (socket.AF_INET, socket.AF_INET6)
        self.acknowledges_at_once = is_tcp and _QUICK_ACK is not None
        if self.is_socket:
            sock.setblocking(False)

    # The socket methods that paramiko and its users call.

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_original":  # not made yet, or being copied
            raise AttributeError(name)
        return getattr(self._original, name)  # `getsockname`, `setsockopt`, `gettimeout`, ...

    def start(self) -> None:
        """Prepare for the first byte; on the reader thread."""
        if self._relay is not None:
            self._relay.start()

    def detach(self) -> Any:
        """Return the socket to the caller, who owns it from now on; only before `start`."""
        if self._relay is not None:
            self._relay.discard()
        return self._original

    def settimeout(self, timeout: Optional[float]) -> None:
        """Ignore paramiko's timeout: every wait of the wire has its own."""

    def setblocking(self, blocking: bool) -> None:
        """Ignore it, as `settimeout` does."""

    def fileno(self) -> int:
        """Return the descriptor, or -1 once it is closed."""
        return int(self._sock.fileno())

    def close(self) -> None:
        """Shut down both directions and wake waiting threads; the descriptor stays open."""
        self._closed = True
        if not self.is_socket:
            self._sock.close()
            return
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the peer was first, or the descriptor is closed
        if self._relay is not None:
            self._relay.stop()

    def release(self) -> None:
        """Close the descriptor without a message to the peer; a forked child may call this."""
        self._closed = True
        if self.is_socket:
            self._sock.close()
        if self._relay is not None:
            self._relay.release()

    def recv(self, timeout: Optional[float], until_writable: bool = False) -> Optional[bytes]:
        """
        Wait for bytes; return b"" at the end of the stream, None after `timeout` (None: no limit).

        With `until_writable`, return early when the socket becomes writable.

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
            # After a read that took all data, wait first: this saves a system call per packet.
            if self._drained and not _wait(self._sock, True, until_writable, timeout):
                break
            try:
                data = bytes(self._sock.recv(_READ_SIZE))
            except BlockingIOError:
                self._drained = True
            else:
                self._drained = len(data) < _READ_SIZE
                if self.acknowledges_at_once and len(data) < _SMALL_READ:
                    self._sock.setsockopt(socket.IPPROTO_TCP, _QUICK_ACK, 1)  # until the next
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
        """Return whether a small message could be written without waiting; False if closed."""
        if not self.is_socket:
            if hasattr(self._sock, "send_some") and self._sock.get_transport().is_congested:
                return False
            return bool(self._sock.send_ready())
        try:
            return not self._closed and _wait(self._sock, False, True, 0.0)
        except OSError:
            return False  # closed just now

    def has_peer_closed(self) -> bool:
        """Return whether the peer has closed the stream, even if data is left to read."""
        try:
            return self._closed or (self.is_socket and _has_ended(self._sock))
        except OSError:
            return True  # closed just now

    def sendall(self, data: Buffer) -> None:
        """
        Write all of `data`, waiting as long as the peer makes progress.

        Raises
        ------
        WriteStalled
            The peer accepted nothing for `stall_timeout` seconds.
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
        Write without blocking; the rest is kept in `backlog` and goes first next time.

        Raises
        ------
        OSError
            The connection was closed or reset.
        """
        if self._closed:
            raise OSError(errno.EPIPE, "the connection is closed")
        if not self.is_socket:
            self._send_to_channel(self.backlog + data)
            return
        data = self.backlog + data
        try:
            self.backlog = data[self._sock.send(data) :]
        except BlockingIOError:
            self.backlog = data

    def _send_to_channel(self, data: bytes) -> None:
        if not hasattr(self._sock, "send_some"):  # paramiko's: the caller asked for room
            self.backlog = b""
            self.sendall(data)
            return
        view = memoryview(data)
        while view and not self._sock.get_transport().is_congested:
            sent = self._sock.send_some(view, wait=False)
            if not sent:
                break
            view = view[sent:]
        if view and self._sock.closed:
            raise OSError(errno.EPIPE, "the connection to the jump host is closed")
        self.backlog = bytes(view)

    def _send(self, view: memoryview) -> int:
        if not self.is_socket:
            # The channel's only timeout is the reader's, so its window is polled here.
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
        return WriteStalled(
            errno.ETIMEDOUT, f"the peer accepted no data for {self.stall_timeout:g} s"
        )


def _jump_host_error(error: OSError) -> OSError:
    """Return a jump host's error with an errno, which paramiko's reader expects."""
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
        # Round up: a wait that ends early would make the caller wait again for a fraction.
        return bool(poll.poll(None if timeout is None else int(timeout * 1000) + 1))

    def _has_ended(sock: socket.socket) -> bool:
        number = sock.fileno()
        if number < 0:
            return True  # closed just now
        poll = select.poll()
        poll.register(number, getattr(select, "POLLRDHUP", 0))
        return bool(poll.poll(0))  # errors and hang-ups are always reported
