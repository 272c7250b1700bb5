"""Run a script at a destination, or copy to and from it, over a cache's connections."""

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
from ssh_service.event_trackers import CopyTracker
from ssh_service.params import ConnectParams
from ssh_service.sessions import SessionPool

_log = logging.getLogger(__name__)

# The default of `max_connections`.
MAX_CONNECTIONS = 4

StrPath = Union[str, "os.PathLike[str]"]


def submit(
    cache: SshClientCache,
    connect_params: params.Destination,
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
    Submit a script, and return its future at once.

    The future's outcome is a `CompletedProcess`, with any exit status, or one of these errors:
    `SshConnectError` (nothing was sent), `SshCommandTimeout`, `SshCommandCancelled`,
    `SshOutputLimitError`, `SshConnectionLost` (these have the output so far), `SshSessionRefused`,
    `SshCacheClosed`, or `SshConfigError` for key files.  ``cancel()`` also ends a command that is
    running.  `timeout` counts from this call.  `end_left_running` first ends what earlier scripts
    with this option left running when their connection was lost, if their processes are known.

    Raises
    ------
    SshConfigError
        A parameter, the script or the name of a variable is invalid (a `ValueError`).
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
        left_running=(
            left_running.for_destination(target.connection_id) if end_left_running else None
        ),
    )
    future = command.take_future()  # first: if an exception interrupts this, dropping it cancels
    submit_command(cache, target, command, max_connections, idle_timeout, max_lifetime)
    return future


def submit_command(
    cache: SshClientCache,
    target: ConnectParams,
    command: Command,
    max_connections: int = MAX_CONNECTIONS,
    idle_timeout: Optional[float] = None,
    max_lifetime: Optional[float] = None,
) -> None:
    """
    Queue a command for a session on the target's connections; its future gets the outcome.

    Raises
    ------
    SshConfigError
        `max_connections` or a time limit is invalid.
    """
    if not isinstance(max_connections, int) or max_connections < 1:
        raise SshConfigError(f"max_connections must be an integer >= 1, got {max_connections!r}")
    check_limits(idle_timeout, max_lifetime)
    if cache.subscribers:
        command.watch(cache.subscribers)
    if command.is_empty():
        command.settle_empty()  # there is nothing to send
        return
    try:
        key = target.key
    except SshConfigError as exc:  # a key file: part of the outcome, like a refused key
        command.settle_unsent(exc)
        return
    if not background.ensure_threads():
        text = f"{target.connection_id}: the system gives no more threads"
        command.settle_unsent(
            SshConnectError(text, connection_id=target.connection_id, phase="connect")
        )
        return
    pool = cache.session_pool(key, lambda: SessionPool(cache, target))
    pool.submit(command, max_connections, idle_timeout, max_lifetime, target)


def upload(
    cache: SshClientCache,
    connect_params: params.Destination,
    local_path: StrPath,
    remote_path: StrPath,
    **options: Any,
) -> None:
    """Copy a file or a tree to a destination."""
    connect_params = params.conceal(connect_params)
    copy("upload", cache, params.resolve(connect_params), local_path, remote_path, **options)


def download(
    cache: SshClientCache,
    connect_params: params.Destination,
    remote_path: StrPath,
    local_path: StrPath,
    **options: Any,
) -> None:
    """Copy a file or a tree from a destination."""
    connect_params = params.conceal(connect_params)
    copy("download", cache, params.resolve(connect_params), remote_path, local_path, **options)


def copy(
    direction: str,
    cache: SshClientCache,
    target: ConnectParams,
    source_path: StrPath,
    target_path: StrPath,
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
    Copy over a cached connection; try once more if it was lost before anything was sent.

    `before` is called on each attempt, when there is a connection and nothing has been sent; if it
    raises, the copy is aborted.  `timeout` counts from this call and includes connecting.

    Raises
    ------
    SshConfigError
        An option is invalid; or see `SshClientCache.acquire`.
    TypeError
        There is no such option.
    """
    check_limits(idle_timeout, max_lifetime)
    copy_options = copying.Options(**options).check()
    limits = copying.limits_from_now(timeout, stall_timeout)
    names = ("local_path", "remote_path")
    for name, path in zip(
        names if direction == "upload" else names[::-1], (source_path, target_path)
    ):
        copying.check_path(name, path)
    meter = copying.Meter(progress)
    name, subscribers = target.connection_id, cache.subscribers
    with CopyTracker(name, direction, subscribers, lambda: meter.reading) as tracker:
        for last_try in (False, True):
            lease = cache.acquire(target, limits.deadline, 0, idle_timeout, max_lifetime)
            try:
                before()
                tracker.publish_started()
                transport = lease.connection.result()[0]
                copying.copy(
                    direction, transport, source_path, target_path, copy_options, limits, meter
                )
                return
            except SshConnectionLost as lost:
                if lost.sent or last_try:
                    raise
                _log.debug("%s; trying once more, because nothing was sent", lost)
            finally:
                lease.release(idle_timeout, max_lifetime)
