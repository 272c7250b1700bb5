"""A local socket that a forward listens on."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import stat
import sys
import time
from typing import Callable, Iterator, Optional, Tuple

from ssh_service.errors import SshForwardError
from ssh_service.forwarding.addresses import Address, TcpAddress, UnixAddress
from ssh_service.forwarding.selector_thread import READ, SelectorThread

if os.name == "posix":
    import fcntl

_log = logging.getLogger(__name__)

# The kernel's limit of connections that are not accepted yet.
_BACKLOG = 128
# Connections accepted in a row, before other sockets are served.
_MAX_ACCEPTS = 32
# Seconds before the next attempt if the process has no descriptors left.
_PAUSE = 0.5
_SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
# Only the user of this process may connect to a Unix socket.
_MODE = 0o600
# Attempts to lock a folder, and seconds between them: the lock is held for some milliseconds.
_LOCK_ATTEMPTS = 100
_LOCK_PAUSE = 0.01
_FIRST_PORT_OF_ALL = 1024

Accept = Callable[[socket.socket, Tuple[str, int]], None]


class Listener:
    """
    A socket bound to a local address, which accepts connections after `start`.

    A Unix socket also listens at once, as a socket that does not listen counts as stale.

    Parameters
    ----------
    thread : SelectorThread
        The selector thread, which accepts connections and closes the socket.
    address : Address
        The address to listen on.
    on_accept : Callable[[socket.socket, Tuple[str, int]], None]
        Called on the selector thread for each connection, with its non-blocking socket and its
        origin.

    Attributes
    ----------
    address : Address
        The address listened on, with the port that the system chose.

    Raises
    ------
    SshForwardError
        The address cannot be bound.
    """

    def __init__(self, thread: SelectorThread, address: Address, on_accept: Accept) -> None:
        self._thread = thread
        self._on_accept = on_accept
        self._file: Optional[Tuple[int, int]] = None  # device and inode of a Unix socket
        self._is_paused = False  # this and the following: selector thread only
        self._is_short = False  # out of descriptors: a connection was not accepted
        self._is_closed = False
        try:
            self._sock, self.address = self._bind(address)
        except OSError as error:
            raise _to_forward_error(error, address) from error
        thread.own(self._sock)

    def _bind(self, address: Address) -> Tuple[socket.socket, Address]:
        if isinstance(address, UnixAddress):
            sock = _bind_unix(address.path)
            found = os.lstat(address.path)
            self._file = (found.st_dev, found.st_ino)
            return sock, address
        sock = _bind_tcp(address)
        host, port = sock.getsockname()[:2]
        return sock, TcpAddress("*" if address.host == "*" else host, port)

    # On the selector thread.

    def start(self) -> None:
        """
        Listen and accept connections.

        Raises
        ------
        SshForwardError
            Another program has begun to listen on the address.
        """
        try:
            self._sock.listen(_BACKLOG)  # a second call does no harm to a Unix socket
        except OSError as error:
            raise _to_forward_error(error, self.address) from error
        self.resume()

    def pause(self) -> None:
        """Leave new connections in the backlog until `resume`."""
        self._is_paused = True
        if not self._is_closed:
            self._thread.watch(self._sock, 0, self._on_ready)

    def resume(self) -> None:
        """Accept connections again."""
        self._is_paused = False
        if not self._is_closed:
            self._thread.watch(self._sock, READ, self._on_ready)

    def close(self) -> None:
        """Stop listening, and remove the Unix socket unless another one has replaced it."""
        if self._is_closed:
            return
        self._is_closed = True
        self._unlink()  # first, as a listening socket is never replaced
        self._thread.close(self._sock)

    def _unlink(self) -> None:
        if self._file is None or not isinstance(self.address, UnixAddress):
            return
        try:
            found = os.lstat(self.address.path)
            if (found.st_dev, found.st_ino) == self._file:
                os.unlink(self.address.path)
        except OSError as error:
            if error.errno != errno.ENOENT:
                _log.warning("cannot remove the socket %s: %s", self.address, error.strerror)

    def _on_ready(self, _: int) -> None:
        for _ in range(_MAX_ACCEPTS):
            if self._is_paused or self._is_closed:
                return
            try:
                sock, origin = self._sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _SHORTAGES:
                    self._wait_for_room(error)
                    return
                continue  # the client has disconnected
            self._is_short = False
            sock.setblocking(False)
            self._thread.own(sock)
            if isinstance(origin, tuple):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._on_accept(sock, origin[:2] if isinstance(origin, tuple) else ("127.0.0.1", 0))

    def _wait_for_room(self, error: OSError) -> None:
        if not self._is_short:
            self._is_short = True
            _log.warning("%s: cannot accept connections now: %s", self.address, error.strerror)
        self.pause()
        self._thread.call_later(_PAUSE, self._retry)

    def _retry(self) -> None:
        if self._is_short:  # otherwise the forward has paused it in the meantime
            self.resume()


def _bind_tcp(address: TcpAddress) -> socket.socket:
    if address.host == "*":
        return _bind_all(address.port)
    flags = socket.AI_PASSIVE | getattr(socket, "AI_ADDRCONFIG", 0)
    if address.host == "localhost":  # not resolved: it must be loopback
        found = [(socket.AF_INET, ("127.0.0.1", address.port))]
    else:
        found = [
            (family, sockaddr)  # type: ignore[misc]
            for family, _, _, _, sockaddr in socket.getaddrinfo(
                address.host, address.port, 0, socket.SOCK_STREAM, 0, flags
            )
        ]
    return _bound(*found[0])


def _bind_all(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        try:
            return _bound(socket.AF_INET6, ("::", port), dual=True)
        except OSError as error:
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                raise
    return _bound(socket.AF_INET, ("0.0.0.0", port))


def _bound(family: int, sockaddr: Tuple[object, ...], dual: bool = False) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if sys.platform == "win32":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:  # on Windows, this would take another program's port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if dual:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(sockaddr)
    except BaseException:
        sock.close()
        raise
    return sock


def _bind_unix(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        with _folder_lock(os.path.dirname(path)):
            _replace_stale(sock, path)
            try:
                os.chmod(path, _MODE)  # before `listen`: until then, no program can connect
                sock.listen(_BACKLOG)
            except BaseException:
                os.unlink(path)
                raise
    except BaseException:
        sock.close()
        raise
    return sock


def _replace_stale(sock: socket.socket, path: str) -> None:
    try:
        sock.bind(path)
    except OSError as error:
        if error.errno != errno.EADDRINUSE or not _is_stale(path):
            raise
        os.unlink(path)
        sock.bind(path)


@contextlib.contextmanager
def _folder_lock(folder: str) -> Iterator[None]:
    """
    Hold a lock, so that only one forward at a time checks for a stale socket and binds.

    If the folder cannot be locked (on a network file system, or held by another program), only
    forwards that are opened within the same milliseconds can conflict.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # `bind` reports what is wrong, or the folder is not readable
        yield
        return
    try:
        _lock(descriptor)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    if os.name != "posix":
        return
    for _ in range(_LOCK_ATTEMPTS):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(_LOCK_PAUSE)
        except OSError:
            return


def _is_stale(path: str) -> bool:
    """Return whether a path is a Unix socket of this user on which no process listens."""
    found = os.lstat(path)
    if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid():
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        return probe.connect_ex(path) == errno.ECONNREFUSED


def _what_is_in_the_way(path: str) -> str:
    try:
        found = os.lstat(path)
    except OSError:
        return "another program's socket was there"
    if not stat.S_ISSOCK(found.st_mode):
        return "what is there is not a socket"
    if found.st_uid != os.geteuid():
        return "the socket there is another user's"
    return "another program listens there"


def _to_forward_error(error: OSError, address: Address) -> SshForwardError:
    text = f"cannot listen on {address}: {error.strerror or error}"
    code = error.errno
    if isinstance(address, UnixAddress) and code == errno.EADDRINUSE:
        text += f" ({_what_is_in_the_way(address.path)})"
    elif isinstance(address, UnixAddress) and code == errno.ENOENT:
        text += " (the folder does not exist)"
    elif isinstance(address, TcpAddress) and code == errno.EACCES:
        if address.port < _FIRST_PORT_OF_ALL:
            text += f" (ports below {_FIRST_PORT_OF_ALL} need a privilege; 0 is any free port)"
    elif code == errno.EADDRNOTAVAIL:
        text += " (it is not an address of this machine)"
    ours = SshForwardError(text, phase="listen")
    ours.errno, ours.strerror = code, error.strerror
    return ours
