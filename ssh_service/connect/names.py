"""
From a name to its addresses, within a deadline.

The system's resolver can neither be bounded nor interrupted, so it runs on a thread; while it
hangs, whoever asks for the same name waits for the same thread.
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
from ssh_service.params import ConnectParams

__all__ = ["POLL_INTERVAL", "resolve_name", "unwanted_error"]

# Seconds between two questions whether a connection is still wanted.
POLL_INTERVAL = 0.25

_Key = Tuple[str, int, int]

_lock = threading.Lock()
_lookups: Dict[_Key, Future[List[Any]]] = {}  # guarded by _lock: those under way


def _after_fork_in_child() -> None:
    """In a forked child: the threads that would answer are the parent's."""
    global _lock
    _lock = threading.Lock()
    _lookups.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def resolve_name(
    target: ConnectParams, deadline: float, is_wanted: Callable[[], bool] = lambda: True
) -> List[Any]:
    """
    Find the addresses of a host.

    Parameters
    ----------
    params : ConnectParams
        The destination; where its host is an address, no thread is needed.
    deadline : float
        Monotonic instant until which it must be done.
    is_wanted : Callable[[], bool]
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
    key = (target.hostname, target.port, target.family)
    try:
        return socket.getaddrinfo(*key, socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        pass  # a name, then
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
    """Say what was meant by a name that has more than a host in it, as on a command line."""
    if "@" in name:
        return " (the user is a parameter by itself, username)"
    if name.count(":") == 1:  # more are an IPv6 address
        return " (the port is a parameter by itself, port)"
    if "[" in name:
        return " (ssh_service.fleet.expand writes ranges out)"
    return ""


def _join_lookup(key: _Key) -> Future[List[Any]]:
    """Join a lookup that is under way, or begin one."""
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


def _resolve(key: _Key, lookup: Future[List[Any]]) -> None:
    found: List[Any] = []
    problem: Optional[Exception] = None
    try:
        found = socket.getaddrinfo(*key, socket.SOCK_STREAM)
    except UnicodeError as error:  # a label of the name is empty or too long
        problem = socket.gaierror(socket.EAI_NONAME, str(error))
    except Exception as error:  # whatever it is, somebody waits for it
        problem = error
    with _lock:
        _lookups.pop(key, None)
    if problem is not None:
        lookup.set_exception(problem)
    else:
        lookup.set_result(list(dict.fromkeys(found)))


def unwanted_error(target: ConnectParams, phase: str) -> SshConnectError:
    """
    Make the error of an attempt that nobody waits for.

    Parameters
    ----------
    params : ConnectParams
        The destination.
    phase : str
        How far it is.

    Returns
    -------
    SshConnectError
        Not raised yet.
    """
    return SshConnectError(
        f"{target.connection_id}: nobody waits for the connection any more",
        connection_id=target.connection_id,
        phase=phase,
    )
