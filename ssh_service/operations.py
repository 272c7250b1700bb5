"""Commands at a destination, and copies to and from it, over the connections of a cache."""

from __future__ import annotations

import logging
from concurrent.futures import Future
from typing import Any, BinaryIO, Callable, Mapping, Optional, Union

from ssh_service import background, copying, params
from ssh_service.commands import left_running
from ssh_service.commands.command import Command
from ssh_service.commands.output import Output
from ssh_service.commands.result import CompletedProcess
from ssh_service.commands.script import Script, StrPath
from ssh_service.connections.cache import SshClientCache, check_limits
from ssh_service.copying import CopyPlan, ProgressCallback
from ssh_service.errors import SshConfigError, SshConnectError, SshConnectionLost
from ssh_service.event_trackers import CopyTracker
from ssh_service.params import ConnectParams
from ssh_service.sessions import SessionPool

_log = logging.getLogger(__name__)

# The default of `max_connections`.
MAX_CONNECTIONS = 4


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
    `SshOutputLimitError`, `SshConnectionLost` (these four have the output so far),
    `SshSessionRefused`, `SshCacheClosed`, or `SshConfigError` for key files.  ``cancel()`` also
    ends a running command.  `timeout` is in seconds from this call.  With `end_left_running`, the
    script first ends the processes, if known, that earlier scripts with this option left running
    when their connection was lost.

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
    # Taken first: if an exception interrupts this call, the dropped future cancels the command.
    future = command.take_future()
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
    Queue a command for a session on the target's connections; its future receives the outcome.

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
    except SshConfigError as exc:  # about a key file: an outcome, as if the server refused the key
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
    local_path: Union[StrPath, bytes, bytearray, memoryview, BinaryIO],
    remote_path: StrPath,
    **options: Any,
) -> Optional[CopyPlan]:
    """Copy a file or a tree to a destination."""
    connect_params = params.conceal(connect_params)
    target = params.resolve(connect_params)
    return copy("upload", cache, target, local_path, remote_path, **options)


def download(
    cache: SshClientCache,
    connect_params: params.Destination,
    remote_path: StrPath,
    local_path: Union[StrPath, BinaryIO],
    **options: Any,
) -> Optional[CopyPlan]:
    """Copy a file or a tree from a destination."""
    connect_params = params.conceal(connect_params)
    target = params.resolve(connect_params)
    return copy("download", cache, target, remote_path, local_path, **options)


def copy(
    direction: str,
    cache: SshClientCache,
    target: ConnectParams,
    source_path: Union[StrPath, bytes, bytearray, memoryview, BinaryIO],
    target_path: Union[StrPath, BinaryIO],
    *,
    timeout: Optional[float] = None,
    stall_timeout: Optional[float] = None,
    before: Callable[[], None] = lambda: None,
    progress: Optional[ProgressCallback] = None,
    idle_timeout: Optional[float] = None,
    max_lifetime: Optional[float] = None,
    **options: Any,
) -> Optional[CopyPlan]:
    """
    Copy over a cached connection; retry once if the connection was lost before data was sent.

    Each attempt calls `before` after it has a connection and before it sends data; if `before`
    raises an exception, the copy is aborted.  `timeout` is in seconds from this call, including
    the time to connect.

    Raises
    ------
    SshConfigError
        An option is invalid.
    SshConnectError
        No authenticated connection could be made; see `SshClientCache.acquire`.
    TypeError
        An option is unknown.
    """
    check_limits(idle_timeout, max_lifetime)
    copy_options = copying.Options(**options).check()
    limits = copying.limits_from_now(timeout, stall_timeout)
    source: Any = source_path
    end: Any = target_path
    if direction == "upload":
        source, copy_options = copying.local_end(source_path, copy_options, is_upload=True)
        copying.check_path("remote_path", target_path)
    else:
        end, copy_options = copying.local_end(target_path, copy_options, is_upload=False)
        copying.check_path("remote_path", source_path)
    meter = copying.Meter(progress)
    name, subscribers = target.connection_id, cache.subscribers
    with CopyTracker(name, direction, subscribers, lambda: meter.reading) as tracker:
        last_try = False
        while True:
            lease = cache.acquire(target, limits.deadline, 0, idle_timeout, max_lifetime)
            try:
                before()
                tracker.publish_started()
                transport = lease.connection.result()[0]
                return copying.copy(direction, transport, source, end, copy_options, limits, meter)
            except SshConnectionLost as lost:
                if lost.sent or last_try:
                    raise
                _log.debug("%s; trying once more, because nothing was sent", lost)
                last_try = True
            finally:
                lease.release(idle_timeout, max_lifetime)
