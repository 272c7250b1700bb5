"""TCP connections: attempts to the addresses of a host overlap, in the manner of RFC 8305."""

from __future__ import annotations

import errno
import selectors
import socket
import time
from collections import deque
from typing import Any, Callable, List, Optional, Tuple

from ssh_service.connect.names import POLL_INTERVAL, resolve_name, unwanted_error
from ssh_service.errors import SshConnectError, SshConnectTimeout
from ssh_service.params import ConnectParams
from ssh_service.socket_errors import socket_error

__all__ = ["connect_tcp"]

# Seconds to wait for one address before the next one is tried at the same time.
_ATTEMPT_DELAY = 2.0

SocketAddress = Tuple[Any, ...]


def connect_tcp(
    target: ConnectParams, deadline: float, is_wanted: Callable[[], bool] = lambda: True
) -> socket.socket:
    """
    Return a blocking socket, connected to the first address of a host that answers.

    Raises
    ------
    SshConnectError
        No address can be reached (`errno` is that of the last one tried), or the connection is no
        longer wanted.
    SshConnectTimeout
        The deadline passed, in phase ``resolve`` or ``tcp``.
    """
    addresses = resolve_name(target, deadline, is_wanted)
    with selectors.DefaultSelector() as selector:
        try:
            return _race(selector, addresses, target, deadline, is_wanted)
        finally:
            for entry in list(selector.get_map().values()):
                selector.unregister(entry.fileobj)
                entry.data[0].close()


def _race(
    selector: selectors.BaseSelector,
    addresses: List[Any],
    target: ConnectParams,
    deadline: float,
    is_wanted: Callable[[], bool],
) -> socket.socket:
    """Try the addresses in turn; an address that does not answer delays the next only briefly."""
    waiting = deque(addresses)
    failures: List[Tuple[str, OSError]] = []
    started = next_at = time.monotonic()
    while waiting or selector.get_map():
        now = time.monotonic()
        if now >= deadline:
            raise _tcp_timeout(target, now - started, failures)
        if not is_wanted():
            raise unwanted_error(target, "tcp")
        known = len(failures)
        if waiting and now >= next_at:
            _start_connect(selector, waiting.popleft(), target, failures)
            next_at = now + _ATTEMPT_DELAY
        until = min(deadline, next_at if waiting else deadline, now + POLL_INTERVAL)
        winner = _wait_for_one(selector, until, failures)
        if len(failures) > known:
            next_at = now  # after a failure, try the next one at once
        if winner is not None:
            selector.unregister(winner)
            return winner
    raise _unreachable(target, failures)


def _start_connect(
    selector: selectors.BaseSelector,
    address: Any,
    target: ConnectParams,
    failures: List[Tuple[str, OSError]],
) -> None:
    family, kind, protocol, _, where = address
    sock = None
    try:
        sock = socket.socket(family, kind, protocol)
        sock.setblocking(False)
        if target.local_addr is not None:
            sock.bind(target.local_addr)
        code = sock.connect_ex(where)
        if code not in (0, errno.EINPROGRESS, errno.EWOULDBLOCK):
            raise socket_error(code)
        selector.register(sock, selectors.EVENT_WRITE, (sock, where))
    except BaseException as error:
        if sock is not None:
            sock.close()
        if not isinstance(error, OSError):
            raise
        failures.append((_format_address(where), error))


def _wait_for_one(
    selector: selectors.BaseSelector, until: float, failures: List[Tuple[str, OSError]]
) -> Optional[socket.socket]:
    """Return the first connected socket; None if only attempts failed, or `until` has passed."""
    if not selector.get_map():
        return None
    for entry, _ in selector.select(max(0.0, until - time.monotonic())):
        data: Tuple[socket.socket, SocketAddress] = entry.data
        sock, where = data
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            selector.unregister(sock)
            sock.close()
            failures.append((_format_address(where), socket_error(code)))
            continue
        sock.setblocking(True)
        # paramiko does not set this option: see docs/paramiko_repairs.md#nagles-delay
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return sock
    return None


def _format_address(where: SocketAddress) -> str:
    host, port = where[0], where[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _format_failures(failures: List[Tuple[str, OSError]]) -> str:
    return "; ".join(f"{where}: {error.strerror or error}" for where, error in failures)


def _tcp_timeout(
    target: ConnectParams, waited: float, failures: List[Tuple[str, OSError]]
) -> SshConnectTimeout:
    besides = f" ({_format_failures(failures)})" if failures else ""
    error = SshConnectTimeout(
        f"{target.connection_id}: no TCP connection within {waited:.1f} s{besides}",
        connection_id=target.connection_id,
        phase="tcp",
    )
    error.errno = errno.ETIMEDOUT
    return error


def _unreachable(target: ConnectParams, failures: List[Tuple[str, OSError]]) -> SshConnectError:
    last = failures[-1][1] if failures else OSError(errno.EADDRNOTAVAIL, "no address")
    cls = SshConnectTimeout if last.errno == errno.ETIMEDOUT else SshConnectError
    error = cls(
        f"{target.connection_id}: cannot connect: {_format_failures(failures) or last.strerror}",
        connection_id=target.connection_id,
        phase="tcp",
    )
    error.errno = last.errno
    error.__cause__ = last
    return error
