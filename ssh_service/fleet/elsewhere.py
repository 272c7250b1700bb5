"""The work of a fleet on an executor of the caller's."""

from __future__ import annotations

import contextlib
import os
import pickle
import secrets
import socket
import threading
import time
from concurrent.futures import (
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
)
from multiprocessing import AuthenticationError
from multiprocessing.connection import (
    Connection,
    Listener,
    answer_challenge,
    deliver_challenge,
)
from typing import Any, Dict, List, Optional, Set, Tuple

from ssh_service.errors import SshServiceError
from ssh_service.fleet import on_dask, station, worker
from ssh_service.fleet.hosts import name_of
from ssh_service.fleet.job import Clock, Job, unknown_fate
from ssh_service.fleet.result import HostResult, SshWorkerLost, failed
from ssh_service.fleet.results import Runner
from ssh_service.fleet.worker import Task

__all__ = ["runner_for"]

# Seconds to the next attempt where a worker's line cannot be taken.
_PAUSE = 0.05


def runner_for(job: Job, parallel: int, executor: Executor) -> Runner:
    """
    Choose how to give work to an executor.

    Parameters
    ----------
    job : Job
        What to do at each host.
    parallel : int
        At how many hosts at once.
    executor : Executor
        The caller's.

    Returns
    -------
    Runner
        For `Results`.
    """
    if isinstance(executor, ProcessPoolExecutor):
        return _ProcessPool(job, parallel, executor)
    return _AnyExecutor(job, executor)


class _Given:
    """A host that was given to the executor."""

    def __init__(self, number: int, host: Any) -> None:
        self.number = number
        self.host = host
        self.clock = Clock(host)
        self.claimed = False
        self.call: Optional["Future[Any]"] = None


class _Executing(Runner):
    """What all executors have in common: each host has one result, whoever tells of it first."""

    def __init__(self, job: Job, executor: Executor) -> None:
        self._job = job
        self._executor = executor
        self._run = secrets.token_hex(8)
        self._lock = threading.Lock()
        self._next = 0
        self._given: Dict[int, _Given] = {}  # guarded by _lock: those without a result

    def begin(self, host: Any) -> None:
        """Give one host to the executor."""
        with self._lock:
            given = self._given[self._next] = _Given(self._next, host)
            self._next += 1
        self._give(given)

    def _give(self, given: _Given) -> None:
        host = given.host
        try:
            call = self._submit(Task(self._run, given.number, host, self._job))
        except Exception as error:  # shut down, or broken
            lost = SshWorkerLost(f"{name_of(host)}: no worker took it: {error}", sent=False)
            self._settle(given.number, given.clock.failed(lost))
            return
        given.call = call
        call.add_done_callback(lambda done: self._returned(given, done))

    def _submit(self, task: Task) -> "Future[Any]":
        raise NotImplementedError

    def _returned(self, given: _Given, call: "Future[Any]") -> None:
        raise NotImplementedError

    def _settle(self, number: int, result: HostResult) -> None:
        with self._lock:
            known = self._given.pop(number, None)
        if known is not None:
            known.call = None  # which refers to it, too; workers keep results that long
            self.deliver(result)

    def _open(self) -> List[_Given]:
        with self._lock:
            return list(self._given.values())

    def _withdraw(self) -> None:
        """Take back what no worker has begun."""
        for given in self._open():
            if given.call is not None and given.call.cancel():
                self._settle(given.number, given.clock.cancelled())


class _AnyExecutor(_Executing):
    """One call for each host, which lasts until the host is done."""

    def _submit(self, task: Task) -> "Future[Any]":
        return self._executor.submit(worker.work, task)

    def _returned(self, given: _Given, call: "Future[Any]") -> None:
        try:
            result: HostResult = call.result()
        except (Exception, CancelledError) as error:  # CancelledError: by itself in Python 3.8
            if isinstance(error, CancelledError) and not on_dask.is_dask(self._executor):
                result = given.clock.cancelled()  # it had not been begun
            else:
                lost = unknown_fate(given.clock.host, f"no word from the worker ({_text(error)})")
                lost.__cause__ = error
                result = given.clock.failed(lost)
        self._settle(given.number, result)

    def cancel(self) -> None:
        """End what is under way, as far as the workers can be told."""
        if on_dask.is_dask(self._executor):
            # Its futures let themselves be cancelled while their work goes on; so each worker is
            # told, and tells in turn what became of its host.
            on_dask.cancel(self._executor, self._run)
            return
        self._withdraw()
        worker.cancel(self._run)  # workers that are threads of this process

    def close(self) -> None:
        """Forget the run."""
        if self._open():
            self.cancel()
        else:
            worker.forget(self._run)
            on_dask.forget(self._executor, self._run)


class _ProcessPool(_Executing):
    """A call for each host, which lasts until it is begun; all else comes over a line."""

    def __init__(self, job: Job, parallel: int, executor: ProcessPoolExecutor) -> None:
        super().__init__(job, executor)
        workers = getattr(executor, "_max_workers", None) or os.cpu_count() or 1
        self._share = -(-parallel // workers)
        self._authkey = secrets.token_bytes(32)
        # Whom a line belongs to is asked for later: a process that says nothing is to hold up no
        # other, and one that may have said something is to be known from the first.
        self._listener = Listener(backlog=64)
        self._lines: Set[Connection] = set()  # guarded by _lock
        # guarded by _lock: calls that failed
        self._broken: List[Tuple[_Given, BaseException]] = []
        self._stopped = False  # guarded by _lock
        self._over = False
        self._spawn(self._accept)

    def _spawn(self, target: Any, *args: Any) -> None:
        threading.Thread(
            target=target, args=args, name="ssh-service-fleet-line", daemon=True
        ).start()

    def _accept(self) -> None:
        while True:
            try:
                line = self._listener.accept()
            except OSError:  # it was closed, or there are no more descriptors
                line = None
                time.sleep(_PAUSE)
            with self._lock:
                if self._stopped:
                    break
                if line is not None:
                    self._lines.add(line)
            if line is not None:
                self._spawn(self._listen, line)
        if line is not None:
            line.close()

    def _listen(self, line: Connection) -> None:
        taken: Dict[int, _Given] = {}
        try:
            deliver_challenge(line, self._authkey)
            answer_challenge(line, self._authkey)
            while True:
                kind, number, told = line.recv()
                with self._lock:
                    given = self._given.get(number)
                    if given is not None:
                        taken[number] = given
                        given.claimed = given.claimed or kind == "claim"
                if kind == "done":
                    known = taken.pop(number, None)
                    if known is not None:
                        self._settle(number, _result(known, told))
        except (EOFError, OSError, AuthenticationError):
            pass  # it has ended, or is none of ours
        finally:
            with self._lock:
                self._lines.discard(line)
            line.close()
        for given in taken.values():
            self._lost(given)
        self._settle_broken()

    def _submit(self, task: Task) -> "Future[Any]":
        address = str(self._listener.address)
        return self._executor.submit(station.begin, task, address, self._authkey, self._share)

    def _returned(self, given: _Given, call: "Future[Any]") -> None:
        if call.cancelled():
            self._settle(given.number, given.clock.cancelled())
            return
        error = call.exception()
        if error is not None:
            with self._lock:
                self._broken.append((given, error))
            self._settle_broken(isinstance(error, BrokenExecutor))
        elif call.result() == station.CANCELLED or (call.result() == station.FULL and self._over):
            self._settle(given.number, given.clock.cancelled())
        elif call.result() == station.FULL:
            self._give(given)  # to a process that has room
        # Else its line tells the rest, or the end of the line does.

    def _settle_broken(self, may_have_said_more: bool = True) -> None:
        """Settle what no worker has begun, once all has been heard that was said."""
        with self._lock:
            if self._lines and may_have_said_more:
                return  # a pool that lost one worker ends them all, and with them the lines
            broken, self._broken = self._broken, []
        for given, error in broken:
            self._lost(given, error)

    def _lost(self, given: _Given, cause: Optional[BaseException] = None) -> None:
        host = given.clock.host
        error = unknown_fate(host)
        if not given.claimed:
            why = _text(cause) if cause else "the worker was lost"
            error = SshWorkerLost(f"{host}: nothing was sent: {why}", sent=False)
        error.__cause__ = cause
        self._settle(given.number, failed(host, error, given.clock.seconds))

    def cancel(self) -> None:
        """End what is under way in all workers."""
        self._over = True
        self._withdraw()
        with self._lock:
            lines = list(self._lines)
        for line in lines:
            try:
                line.send("cancel")
            except OSError:
                pass  # that worker is gone

    def close(self) -> None:
        """Hang up, which also tells the workers that nobody waits."""
        with self._lock:
            if self._stopped:
                return
            self._stopped = True
            lines = list(self._lines)
        with socket.socket(socket.AF_UNIX) as knock:  # wakes `_accept`
            with contextlib.suppress(OSError):
                knock.connect(self._listener.address)
        self._listener.close()
        for line in lines:
            try:
                line.send("over")
            except OSError:
                pass


def _text(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _result(given: _Given, told: bytes) -> HostResult:
    try:
        result: HostResult = pickle.loads(told)  # from a worker that knew the key
        return result
    except Exception as error:
        text = f"{given.clock.host}: its result cannot be read: {_text(error)}"
        return given.clock.failed(SshServiceError(text))
