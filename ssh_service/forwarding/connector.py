"""Connects to a local target without blocking."""

from __future__ import annotations

import errno
import socket
from typing import Any, Callable, List, Optional, Tuple

from ssh_service import background
from ssh_service.forwarding.addresses import Address, UnixAddress
from ssh_service.forwarding.selector_thread import WRITE, SelectorThread, SelectorTimer
from ssh_service.socket_errors import socket_error

# The time limit of a whole attempt, including name resolution; in seconds.
_TIMEOUT = 30.0

Done = Callable[[Optional[socket.socket], Optional[OSError]], None]
_Candidate = Tuple[int, Any]


class Connector:
    """
    One attempt to connect, which tries each address of the name in turn.

    Parameters
    ----------
    thread : SelectorThread
        The selector thread, on which all methods must be called.
    target : Address
        The address to connect to.
    on_done : Callable[[Optional[socket.socket], Optional[OSError]], None]
        Called once, with a connected, non-blocking socket or with the error of the last address;
        never called after `cancel`.
    """

    def __init__(self, thread: SelectorThread, target: Address, on_done: Done) -> None:
        self._thread = thread
        self._target = target
        self._on_done = on_done
        self._sock: Optional[socket.socket] = None
        self._candidates: List[_Candidate] = []
        self._error: Optional[OSError] = None
        self._is_done = False
        self._timer: Optional[SelectorTimer] = None

    def start(self) -> None:
        """Start the attempt."""
        self._timer = self._thread.call_later(_TIMEOUT, self._on_timeout)
        if isinstance(self._target, UnixAddress):
            self._on_resolved([(socket.AF_UNIX, self._target.path)])
            return
        host = "127.0.0.1" if self._target.host == "localhost" else self._target.host
        try:
            found = _look_up(host, self._target.port, socket.AI_NUMERICHOST)
        except OSError:
            # A name: the system's resolver may be slow, so each lookup has a strand of its own.
            background.submit(background.Strand(), self._resolve)
        else:
            self._on_resolved(found)

    def cancel(self) -> None:
        """Cancel the attempt."""
        if not self._is_done:
            self._finish()
            self._discard()

    def _resolve(self) -> None:
        """Resolve the name, on a worker thread."""
        target = self._target
        if isinstance(target, UnixAddress):
            return
        try:
            found = _look_up(target.host, target.port)
        except OSError as error:
            self._thread.call_soon(self._on_resolved, [], error)
        except UnicodeError as error:  # a label of the name is empty or too long
            self._thread.call_soon(self._on_resolved, [], OSError(errno.EINVAL, str(error)))
        else:
            self._thread.call_soon(self._on_resolved, found)

    def _on_resolved(self, found: List[_Candidate], error: Optional[OSError] = None) -> None:
        if not self._is_done:
            self._candidates, self._error = found, error
            self._try_next()

    def _try_next(self) -> None:
        while self._candidates:
            family, address = self._candidates.pop(0)
            try:
                self._sock = sock = socket.socket(family, socket.SOCK_STREAM)
                self._thread.own(sock)
                sock.setblocking(False)
                code = sock.connect_ex(address)
            except OSError as error:  # no descriptor left, or an unsupported family
                self._fail_one(error)
                continue
            if code in (0, errno.EISCONN):
                self._succeed()
                return
            if code in (errno.EINPROGRESS, errno.EWOULDBLOCK):  # the latter on Windows
                self._thread.watch(sock, WRITE, self._on_connected)
                return
            self._fail_one(socket_error(code))
        self._finish()
        self._on_done(None, self._error or OSError(errno.EADDRNOTAVAIL, "no address"))

    def _on_connected(self, _: int) -> None:
        if self._sock is None:
            return
        code = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._fail_one(socket_error(code))
            self._try_next()
        else:
            self._succeed()

    def _on_timeout(self) -> None:
        if not self._is_done:
            self._finish()
            self._discard()
            self._on_done(None, OSError(errno.ETIMEDOUT, f"no connection within {_TIMEOUT:g} s"))

    def _fail_one(self, error: OSError) -> None:
        self._error = error
        self._discard()

    def _discard(self) -> None:
        sock, self._sock = self._sock, None
        if sock is not None:
            self._thread.close(sock)

    def _finish(self) -> None:
        self._is_done = True
        if self._timer is not None:
            self._timer.cancel()

    def _succeed(self) -> None:
        sock, self._sock = self._sock, None
        if sock is None:
            return
        self._finish()
        self._thread.watch(sock, 0, self._on_connected)
        if not isinstance(self._target, UnixAddress):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._on_done(sock, None)


def _look_up(host: str, port: int, flags: int = 0) -> List[_Candidate]:
    found = socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM, 0, flags)
    return [(family, address) for family, _, _, _, address in found]
