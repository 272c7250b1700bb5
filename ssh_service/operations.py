"""Run a script at a destination, or copy to and from it: over the cached connection."""

from __future__ import annotations

import logging
import os
from concurrent.futures import Future
from typing import Any, Callable, Mapping, Optional, Union

from ssh_service import background, copying, params
from ssh_service.commands import left_running
from ssh_service.commands.command import Command
from ssh_service.commands.output import Output
from ssh_service.commands.result import CompletedProcess
from ssh_service.commands.script import Script
from ssh_service.connections.cache import SshClientCache, check_limits
from ssh_service.copying import ProgressCallback
from ssh_service.errors import SshConfigError, SshConnectError, SshConnectionLost
from ssh_service.event_trackers import CopyWatch
from ssh_service.params import ConnectParams
from ssh_service.sessions import SessionPool

_log = logging.getLogger(__name__)

# How many connections to one destination there may be where nothing else was asked for.
MAX_CONNECTIONS = 4

Path = Union[str, "os.PathLike[str]"]


def submit(
    cache: SshClientCache,
    connect_params: Mapping[str, Any],
    text: Script,
    *,
    env: Optional[Mapping[str, Any]] = None,
    shell: Optional[str] = None,
    timeout: Optional[float] = None,
    max_connections: int = MAX_CONNECTIONS,
    max_output: Optional[int] = None,
    idle_timeout: Optional[float] = None,
    max_lifetime: Optional[float] = None,
    end_left_running: bool = False,
) -> "Future[CompletedProcess]":
    """
    Run a script, without waiting for anything.

    Raises
    ------
    SshConfigError
        A parameter, the script or a variable's name is wrong (a `ValueError`).
    """
    connect_params = params.conceal(connect_params)
    target = params.resolve_concealed(connect_params)
    command = Command(
        text,
        env,
        shell,
        target.connection_id,
        timeout=timeout,
        stdout=Output(max_output),
        stderr=Output(max_output),
        left_running=left_running.at(target.connection_id) if end_left_running else None,
    )
    future = command.take_future()  # first: where the caller is torn from here, it goes
    begin(cache, target, command, max_connections, idle_timeout, max_lifetime)
    return future


def begin(
    cache: SshClientCache,
    target: ConnectParams,
    command: Command,
    max_connections: int = MAX_CONNECTIONS,
    idle_timeout: Optional[float] = None,
    max_lifetime: Optional[float] = None,
) -> None:
    """
    Have a command run at a destination as soon as can be; its future tells of its fate.

    Raises
    ------
    SshConfigError
        `max_connections` is no number of connections, or a limit no number of seconds.
    """
    if not isinstance(max_connections, int) or max_connections < 1:
        raise SshConfigError(f"max_connections: expected 1 or more, got {max_connections!r}")
    check_limits(idle_timeout, max_lifetime)
    if cache.subscribers:
        command.watch(cache.subscribers)
    if command.is_empty():
        command.succeed()  # a shell has nothing to do for it
        return
    try:
        key = target.key
    except SshConfigError as exc:  # a key file: part of the outcome, like a refused key
        command.fail(exc)
        return
    if not background.ensure_threads():
        text = f"{target.connection_id}: the system gives no more threads"
        command.fail(SshConnectError(text, connection_id=target.connection_id, phase="connect"))
        return
    pool = cache.beside(key, lambda: SessionPool(cache, target))
    pool.submit(command, max_connections, idle_timeout, max_lifetime, target)


def upload(
    cache: SshClientCache,
    connect_params: Mapping[str, Any],
    local_path: Path,
    remote_path: Path,
    **options: Any,
) -> None:
    """Copy a file or a tree to a destination."""
    connect_params = params.conceal(connect_params)
    copy("upload", cache, params.resolve(connect_params), local_path, remote_path, **options)


def download(
    cache: SshClientCache,
    connect_params: Mapping[str, Any],
    remote_path: Path,
    local_path: Path,
    **options: Any,
) -> None:
    """Copy a file or a tree from a destination."""
    connect_params = params.conceal(connect_params)
    copy("download", cache, params.resolve(connect_params), remote_path, local_path, **options)


def copy(
    way: str,
    cache: SshClientCache,
    target: ConnectParams,
    source: Path,
    goal: Path,
    *,
    timeout: Optional[float] = None,
    stall_timeout: Optional[float] = None,
    before: Callable[[], None] = lambda: None,
    progress: Optional[ProgressCallback] = None,
    idle_timeout: Optional[float] = None,
    max_lifetime: Optional[float] = None,
    **options: Any,
) -> None:
    """
    Copy over the cached connection; once more if that was lost before anything was sent.

    Raises
    ------
    SshConfigError
        An option is wrong; or see `SshClientCache.acquire`.
    TypeError
        There is no such option.
    """
    check_limits(idle_timeout, max_lifetime)
    how = copying.Options(**options).check()
    limits = copying.limits_from_now(timeout, stall_timeout)
    meter = copying.Meter(progress)
    name, subscribers = target.connection_id, cache.subscribers
    with CopyWatch(name, way, subscribers, lambda: meter.reading) as watch:
        for last_try in (False, True):
            lease = cache.acquire(target, limits.deadline, 0, idle_timeout, max_lifetime)
            try:
                before()
                watch.started()
                transport = lease.pair.result()[0]
                copying.copy(way, transport, source, goal, how, limits, meter)
                return
            except SshConnectionLost as lost:
                if lost.sent or last_try:
                    raise
                _log.debug("%s; trying once more, as nothing was sent", lost)
            finally:
                lease.release(idle_timeout, max_lifetime)
