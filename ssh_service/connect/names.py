"""
Name resolution with a deadline.

The system's resolver has no timeout and cannot be interrupted, so it runs on a thread of its own.
While it hangs, other callers with the same name wait for the same thread.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from concurrent.futures import Future
from typing import Any, Callable, Dict, List, Optional, Tuple

from ssh_service.connect.side_calls import wait_until
from ssh_service.errors import SshConnectError, SshConnectTimeout
from ssh_service.locks import Lock
from ssh_service.params import ConnectParams

__all__ = ["POLL_INTERVAL", "resolve_name", "unwanted_error"]

# Seconds between two checks whether the connection is still wanted.
POLL_INTERVAL = 0.25

_LookupKey = Tuple[str, int, int]

_lock = Lock()
_lookups: Dict[_LookupKey, Future[List[Any]]] = {}  # guarded by _lock: pending lookups


def _after_fork_in_child() -> None:
    """Discard the pending lookups: their threads exist only in the parent process."""
    global _lock
    _lock = Lock()
    _lookups.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def resolve_name(
    target: ConnectParams, deadline: float, is_wanted: Callable[[], bool] = lambda: True
) -> List[Any]:
    """
    Return the addresses of a host, in the form of `socket.getaddrinfo`, without duplicates.

    Raises
    ------
    SshConnectError
        The name cannot be resolved, or the connection is no longer wanted.
    SshConnectTimeout
        The resolver did not answer in time.
    """
    key = (target.hostname, target.port, target.family)
    try:
        return socket.getaddrinfo(*key, socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        pass  # a name, not an address
    lookup = _join_lookup(key)
    began = time.monotonic()
    while not wait_until(lookup, min(deadline, time.monotonic() + POLL_INTERVAL)):
        if not is_wanted():
            raise unwanted_error(target, "resolve")
        waited = time.monotonic() - began
        if began + waited >= deadline:
            raise SshConnectTimeout(
                f"{target.connection_id}: no answer from the name service within {waited:.1f} s",
                connection_id=target.connection_id,
                phase="resolve",
            )
    error = lookup.exception()
    if error is None and lookup.result():
        return lookup.result()
    reason = getattr(error, "strerror", None) or error or "no address"
    raise SshConnectError(
        f"{target.connection_id}: the name {target.hostname!r} cannot be resolved: {reason}"
        f"{_hint(target.hostname)}",
        connection_id=target.connection_id,
        phase="resolve",
    ) from error


def _hint(name: str) -> str:
    """Return a hint for a name that contains more than a host, as on a command line."""
    if "@" in name:
        return " (set the user by the parameter username)"
    if name.count(":") == 1:  # an IPv6 address has more colons
        return " (set the port by the parameter port)"
    if "[" in name:
        return " (ssh_service.fleet.expand expands ranges)"
    return ""


def _join_lookup(key: _LookupKey) -> Future[List[Any]]:
    """Return the pending lookup of a name, or start one."""
    with _lock:
        lookup = _lookups.get(key)
        is_first = lookup is None
        if lookup is None:
            lookup = _lookups[key] = Future()
    if is_first:
        threading.Thread(
            target=_resolve, args=(key, lookup), name=f"ssh-service-resolve-{key[0]}", daemon=True
        ).start()
    return lookup


def _resolve(key: _LookupKey, lookup: Future[List[Any]]) -> None:
    found: List[Any] = []
    problem: Optional[Exception] = None
    try:
        found = socket.getaddrinfo(*key, socket.SOCK_STREAM)
    except UnicodeError as error:  # a label of the name is empty or too long
        problem = socket.gaierror(socket.EAI_NONAME, str(error))
    except Exception as error:  # of any kind, because callers wait for the result
        problem = error
    with _lock:
        _lookups.pop(key, None)
    if problem is not None:
        lookup.set_exception(problem)
    else:
        lookup.set_result(list(dict.fromkeys(found)))


def unwanted_error(target: ConnectParams, phase: str) -> SshConnectError:
    """Return the error of a dial that no caller waits for any more."""
    return SshConnectError(
        f"{target.connection_id}: nobody waits for the connection any more",
        connection_id=target.connection_id,
        phase=phase,
    )
