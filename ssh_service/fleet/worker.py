"""
What runs in a worker: one host at a time for each call, over connections of that process's own.

Where a worker may be lost, a claim comes before a command is sent: `Claims` says to whom.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, Callable, List, NamedTuple, Optional, Set, Tuple

from ssh_service import params
from ssh_service.connections.cache import SshClientCache
from ssh_service.errors import SshCommandCancelled
from ssh_service.fleet import on_dask
from ssh_service.fleet import task as jobs
from ssh_service.fleet.result import HostResult
from ssh_service.fleet.task import Clock, Job

__all__ = ["Task", "cancel", "forget", "is_cancelled", "perform", "work"]

# Seconds for which a worker keeps a connection that nobody uses.
_IDLE_TIMEOUT = 1.0
# Seconds between two looks whether a run was cancelled, where nothing tells the worker.
_LOOK_EVERY = 1.0

_lock = threading.Lock()
_caches: List[SshClientCache] = []  # guarded by _lock; at most one
_cancelled: Set[str] = set()  # runs; changed under _lock
_under_way: Set["_Running"] = set()  # guarded by _lock


class Task(NamedTuple):
    """One host's part of a run; it can be pickled, and its secrets are plain in the pickle."""

    run: str
    number: int
    host: Any
    job: Job

    def __reduce__(self) -> Tuple[Any, ...]:
        return _task, (self.run, self.number, jobs.bare(self.host), self.job)


def _task(run: str, number: int, host: Any, job: Job) -> Task:
    return Task(run, number, params.conceal(host), job)


class _Running:
    def __init__(self, run: str, end: Callable[[], Any]) -> None:
        self.run, self.end = run, end


def _own_cache() -> SshClientCache:
    """Give the cache of this process's workers; a forked child finds it empty."""
    with _lock:
        if not _caches:
            _caches.append(SshClientCache())
        return _caches[0]


def cancel(run: str) -> None:
    """End what this process has under way of a run, and begin no more of it."""
    with _lock:
        _cancelled.add(run)
        running = [one for one in _under_way if one.run == run]
    for one in running:
        one.end()


def forget(run: str) -> None:
    """Forget that a run was cancelled; it is over."""
    with _lock:
        _cancelled.discard(run)


def is_cancelled(run: str) -> bool:
    """Tell whether a run was cancelled, as far as this process was told."""
    return run in _cancelled


def perform(task: Task, claim: Optional[jobs.Claim], done: Callable[[HostResult], None]) -> None:
    """Begin with one host; a copy is also ended here, a command goes on by itself."""
    clock = Clock(task.host)
    if is_cancelled(task.run):
        done(clock.cancelled())
        return
    if task.job.kind != "run":
        done(_copy(task, clock, claim))
        return
    try:
        future = jobs.start(
            _own_cache(), task.job, task.host, idle_timeout=_IDLE_TIMEOUT, claim=claim
        )
    except Exception as error:  # that host's alone, whatever it is
        done(clock.failed(error))
        return
    running = _Running(task.run, future.cancel)
    with _lock:
        _under_way.add(running)
        cancelled = task.run in _cancelled
    if cancelled:
        future.cancel()

    def ended(future: "Future[Any]") -> None:
        with _lock:
            _under_way.discard(running)
        done(clock.result(future))

    future.add_done_callback(ended)


def _copy(task: Task, clock: Clock, claim: Optional[jobs.Claim]) -> HostResult:
    def look_up(*_: Any) -> None:
        if is_cancelled(task.run):
            raise SshCommandCancelled(f"{clock.host}: the copy was cancelled")

    try:
        jobs.copy(
            _own_cache(),
            task.job,
            task.host,
            idle_timeout=_IDLE_TIMEOUT,
            claim=claim,
            progress=look_up,
        )
    except Exception as error:  # that host's alone, whatever it is
        return clock.failed(error)
    return clock.copied()


def work(task: Task) -> HostResult:
    """Do the work at one host and wait for its end, inside a call of an executor."""
    claims = on_dask.claims(task.run)
    claim: Optional[jobs.Claim] = None
    if claims is not None:
        if claims.is_cancelled():
            cancel(task.run)
        ask = claims.claim
        claim = lambda: ask(task.number)  # noqa: E731
    outcome: "Future[HostResult]" = Future()
    perform(task, claim, outcome.set_result)
    while True:
        try:
            return outcome.result(None if claims is None else _LOOK_EVERY)
        except FutureTimeout:
            if claims is not None and claims.is_cancelled():
                cancel(task.run)
