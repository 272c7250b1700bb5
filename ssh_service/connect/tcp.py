"""From a name to a connected socket, within a deadline."""

from __future__ import annotations

import errno
import os
import selectors
import socket
import threading
import time
from collections import deque
from typing import Any, Callable, Dict, List, Optional, Tuple

from ssh_service.errors import SshConnectError, SshConnectTimeout
from ssh_service.params import ConnectParams

__all__ = ["connect_tcp", "resolve_name"]

# How long one address is waited for before the next is tried beside it.
_STAGGER = 2.0
# Seconds between two questions whether a connection is still wanted.
_LOOK_AGAIN = 0.25

Address = Tuple[Any, ...]


def connect_tcp(
    params: ConnectParams, deadline: float, wanted: Callable[[], bool] = lambda: True
) -> socket.socket:
    """
    Connect to the first address of a host that answers.

    Parameters
    ----------
    params : ConnectParams
        The destination.
    deadline : float
        Monotonic instant until which it must be done.
    wanted : Callable[[], bool]
        Says whether anyone still waits for it.

    Returns
    -------
    socket.socket
        Connected, in blocking mode.

    Raises
    ------
    SshConnectError
        No address can be reached; `errno` is that of the last one tried.  Or nobody waits for it
        any more.
    SshConnectTimeout
        The time ran out, in phase ``resolve`` or ``tcp``.
    """
    addresses = resolve_name(
        params.hostname, params.port, params.family, deadline, params.connection_id, wanted
    )
    return _race(addresses, params, deadline, wanted)


class _Lookup:
    """One call of getaddrinfo, on a thread of its own, for all who ask the same meanwhile."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.addresses: List[Any] = []
        self.error: Optional[OSError] = None


_lookups_lock = threading.Lock()
_lookups: Dict[Tuple[str, int, int], _Lookup] = {}  # guarded by _lookups_lock


def _forget_parent() -> None:
    """In a forked child: the threads that would answer are the parent's."""
    global _lookups_lock
    _lookups_lock = threading.Lock()
    _lookups.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parent)


def resolve_name(
    host: str,
    port: int,
    family: int,
    deadline: float,
    connection_id: str,
    wanted: Callable[[], bool] = lambda: True,
) -> List[Any]:
    """
    Find the addresses of a name, within a deadline.

    The system's resolver can neither be bounded nor interrupted, so it runs on a thread; while
    it hangs, further callers for the same name wait for the same thread.

    Parameters
    ----------
    host : str
        A name, or an address (then no thread is needed).
    port : int
        TCP port.
    family : int
        A `socket` address family; 0 for any.
    deadline : float
        Monotonic instant until which it must be done.
    connection_id : str
        For the error.
    wanted : Callable[[], bool]
        Says whether anyone still waits for it.

    Returns
    -------
    List[Any]
        As `socket.getaddrinfo` returns, in its order, none twice.

    Raises
    ------
    SshConnectError
        There is no such name, or nobody waits for it any more.
    SshConnectTimeout
        The resolver did not answer in time.
    """
    try:
        return socket.getaddrinfo(
            host, port, family, socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
        )
    except (OSError, UnicodeError):
        pass  # a name, then
    key = (host, port, family)
    with _lookups_lock:
        lookup = _lookups.get(key)
        is_first = lookup is None
        if lookup is None:
            lookup = _lookups[key] = _Lookup()
    if is_first:
        threading.Thread(
            target=_look_up, args=(key, lookup), name=f"ssh-service-resolve-{host}", daemon=True
        ).start()
    started = now = time.monotonic()
    while not lookup.done.wait(max(0.0, min(deadline - now, _LOOK_AGAIN))):
        now = time.monotonic()
        if not wanted():
            raise _unwanted(connection_id, "resolve")
        if now < deadline:
            continue
        waited = now - started
        raise SshConnectTimeout(
            f"{connection_id}: no answer from the name service within {waited:.1f} s",
            connection_id=connection_id,
            phase="resolve",
        )
    if lookup.error is not None or not lookup.addresses:
        reason = getattr(lookup.error, "strerror", None) or lookup.error or "no address"
        raise SshConnectError(
            f"{connection_id}: the name {host!r} cannot be resolved: {reason}",
            connection_id=connection_id,
            phase="resolve",
        ) from lookup.error
    return lookup.addresses


def _look_up(key: Tuple[str, int, int], lookup: _Lookup) -> None:
    host, port, family = key
    try:
        found = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
        lookup.addresses = list(dict.fromkeys(found))
    except OSError as error:
        lookup.error = error
    except UnicodeError as error:  # a label of the name is empty or too long
        lookup.error = socket.gaierror(socket.EAI_NONAME, str(error))
    finally:
        with _lookups_lock:
            _lookups.pop(key, None)
        lookup.done.set()


def _race(
    addresses: List[Any], params: ConnectParams, deadline: float, wanted: Callable[[], bool]
) -> socket.socket:
    """Try the addresses in turn; one that is silent does not hold up the next for long."""
    waiting = deque(addresses)
    failures: List[Tuple[str, OSError]] = []
    started = next_at = time.monotonic()
    with selectors.DefaultSelector() as selector:
        try:
            while waiting or selector.get_map():
                now = time.monotonic()
                if now >= deadline:
                    raise _tcp_timeout(params, now - started, failures)
                if not wanted():
                    raise _unwanted(params.connection_id, "tcp")
                known = len(failures)
                if waiting and now >= next_at:
                    _begin(selector, waiting.popleft(), params, failures)
                    next_at = now + _STAGGER
                until = min(deadline, next_at if waiting else deadline, now + _LOOK_AGAIN)
                winner = _await_one(selector, until, failures)
                if len(failures) > known:
                    next_at = now  # where one has failed, the next is tried at once
                if winner is not None:
                    selector.unregister(winner)
                    return winner
        finally:
            for entry in list(selector.get_map().values()):
                selector.unregister(entry.fileobj)
                entry.fileobj.close()  # type: ignore[union-attr]
    raise _unreachable(params, failures)


def _begin(
    selector: selectors.BaseSelector,
    address: Any,
    params: ConnectParams,
    failures: List[Tuple[str, OSError]],
) -> None:
    family, kind, protocol, _, where = address
    sock = None
    try:
        sock = socket.socket(family, kind, protocol)
        sock.setblocking(False)
        if params.local_addr is not None:
            sock.bind(params.local_addr)
        code = sock.connect_ex(where)
        if code not in (0, errno.EINPROGRESS, errno.EWOULDBLOCK):
            raise OSError(code, os.strerror(code))
        selector.register(sock, selectors.EVENT_WRITE, where)
    except BaseException as error:
        if sock is not None:
            sock.close()
        if not isinstance(error, OSError):
            raise
        failures.append((_spell(where), error))


def _await_one(
    selector: selectors.BaseSelector, until: float, failures: List[Tuple[str, OSError]]
) -> Optional[socket.socket]:
    """Wait until one is connected (returned), or one failed, or `until` has come."""
    if not selector.get_map():
        return None
    for entry, _ in selector.select(max(0.0, until - time.monotonic())):
        sock = entry.fileobj
        assert isinstance(sock, socket.socket)
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            selector.unregister(sock)
            sock.close()
            failures.append((_spell(entry.data), OSError(code, os.strerror(code))))
            continue
        sock.setblocking(True)
        # Without it every small packet of an exec waits 40 ms for an acknowledgement.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return sock
    return None


def _spell(where: Address) -> str:
    host, port = where[0], where[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _list(failures: List[Tuple[str, OSError]]) -> str:
    return "; ".join(f"{where}: {error.strerror or error}" for where, error in failures)


def _tcp_timeout(
    params: ConnectParams, waited: float, failures: List[Tuple[str, OSError]]
) -> SshConnectTimeout:
    besides = f" ({_list(failures)})" if failures else ""
    error = SshConnectTimeout(
        f"{params.connection_id}: no TCP connection within {waited:.1f} s{besides}",
        connection_id=params.connection_id,
        phase="tcp",
    )
    error.errno = errno.ETIMEDOUT
    return error


def _unwanted(connection_id: str, phase: str) -> SshConnectError:
    return SshConnectError(
        f"{connection_id}: nobody waits for the connection any more",
        connection_id=connection_id,
        phase=phase,
    )


def _unreachable(params: ConnectParams, failures: List[Tuple[str, OSError]]) -> SshConnectError:
    last = failures[-1][1] if failures else OSError(errno.EADDRNOTAVAIL, "no address")
    cls = SshConnectTimeout if last.errno == errno.ETIMEDOUT else SshConnectError
    error = cls(
        f"{params.connection_id}: cannot connect: {_list(failures) or last.strerror}",
        connection_id=params.connection_id,
        phase="tcp",
    )
    error.errno = last.errno
    error.__cause__ = last
    return error
