"""
The worker's side of a run on an executor: the work at one host, over this process's connections.

If a worker may be lost and its work repeated, it requests a permit before it sends anything.
"""

from __future__ import annotations

import functools
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, Callable, List, NamedTuple, Optional, Set, Tuple

from ssh_service import params
from ssh_service.connections.cache import SshClientCache
from ssh_service.fleet import on_dask
from ssh_service.fleet import task as tasks
from ssh_service.fleet.result import HostResult
from ssh_service.fleet.task import FleetTask, ResultBuilder
from ssh_service.locks import Lock

__all__ = ["HostTask", "cancel", "forget", "is_cancelled", "run_task", "start_task"]

# Seconds after which a worker closes an unused connection.
_IDLE_TIMEOUT = 1.0
# Seconds between two checks for cancellation if the worker is not notified.
_CANCEL_POLL_INTERVAL = 1.0

_lock = Lock()
_caches: List[SshClientCache] = []  # guarded by _lock; at most one
_cancelled: Set[str] = set()  # runs; changed under _lock
_running: Set["_RunningCommand"] = set()  # guarded by _lock


class HostTask(NamedTuple):
    """The work at one host of a run; it can be pickled, with its secrets as plain text."""

    run: str
    number: int
    host: Any
    task: FleetTask

    def __reduce__(self) -> Tuple[Any, ...]:
        return _rebuild_host_task, (
            self.run,
            self.number,
            tasks.with_plain_secrets(self.host),
            self.task,
        )


def _rebuild_host_task(run: str, number: int, host: Any, task: FleetTask) -> HostTask:
    return HostTask(run, number, params.conceal(host), task)


class _RunningCommand:
    def __init__(self, run: str, cancel: Callable[[], Any]) -> None:
        self.run, self.cancel = run, cancel


def _process_cache() -> SshClientCache:
    """Return the cache that the workers in this process share; it is empty in a forked child."""
    with _lock:
        if not _caches:
            _caches.append(SshClientCache())
        return _caches[0]


def cancel(run: str) -> None:
    """Cancel this process's part of a run, and start no more of its hosts."""
    with _lock:
        _cancelled.add(run)
        running = list(_running)
    for command in running:
        if command.run == run:
            command.cancel()


def forget(run: str) -> None:
    """Forget that a run was cancelled, after the run has ended."""
    with _lock:
        _cancelled.discard(run)


def is_cancelled(run: str) -> bool:
    """Return whether a run was cancelled, according to this process."""
    return run in _cancelled


def start_task(
    host_task: HostTask, permit: Optional[tasks.SendPermit], done: Callable[[HostResult], None]
) -> None:
    """Start the work at one host, and call `done` once; a copy is over when this returns."""
    builder = ResultBuilder(host_task.host)
    if is_cancelled(host_task.run):
        done(builder.cancelled())
        return
    if host_task.task.kind != "run":
        done(_copy(host_task, builder, permit))
        return
    try:
        future = tasks.start(
            _process_cache(),
            host_task.task,
            host_task.host,
            idle_timeout=_IDLE_TIMEOUT,
            permit=permit,
        )
    except Exception as error:  # any error affects only this host
        done(builder.failed(error))
        return
    running = _RunningCommand(host_task.run, future.cancel)
    with _lock:
        _running.add(running)
        cancelled = host_task.run in _cancelled
    if cancelled:
        future.cancel()

    def on_done(future: "Future[Any]") -> None:
        with _lock:
            _running.discard(running)
        done(builder.result(future))

    future.add_done_callback(on_done)


def _copy(
    host_task: HostTask, builder: ResultBuilder, permit: Optional[tasks.SendPermit]
) -> HostResult:
    def raise_if_cancelled(*_: Any) -> None:
        if is_cancelled(host_task.run):
            raise tasks.copy_cancelled_error(host_task.task, host_task.host)

    try:
        plan = tasks.copy(
            _process_cache(),
            host_task.task,
            host_task.host,
            idle_timeout=_IDLE_TIMEOUT,
            permit=permit,
            progress=raise_if_cancelled,
        )
    except Exception as error:  # any error affects only this host
        return builder.failed(error)
    return builder.copied(plan)


def run_task(host_task: HostTask) -> HostResult:
    """Do the work at one host and wait for its end; runs inside a call of an executor."""
    client = on_dask.permit_client(host_task.run)
    permit: Optional[tasks.SendPermit] = None
    if client is not None:
        if client.is_cancelled():
            cancel(host_task.run)
        permit = functools.partial(client.request, host_task.number)
    outcome: "Future[HostResult]" = Future()
    start_task(host_task, permit, outcome.set_result)
    while True:
        try:
            return outcome.result(None if client is None else _CANCEL_POLL_INTERVAL)
        except FutureTimeout:
            if client is not None and client.is_cancelled():
                cancel(host_task.run)
