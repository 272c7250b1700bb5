"""The caller's side of a run on a process pool; see `pool_worker` for the workers' side."""

from __future__ import annotations

import contextlib
import os
import pickle
import secrets
import socket
import threading
import time
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from multiprocessing import AuthenticationError
from multiprocessing.connection import (
    Connection,
    Listener,
    answer_challenge,
    deliver_challenge,
)
from typing import Any, Dict, List, Mapping, Optional, Set, Tuple

from ssh_service import params
from ssh_service.errors import SshConfigError, SshServiceError
from ssh_service.fleet import pool_worker
from ssh_service.fleet.executor_base import Assignment, ExecutorRunner
from ssh_service.fleet.result import HostResult, SshWorkerLost, failed, one_line
from ssh_service.fleet.task import FleetTask, outcome_unknown_error
from ssh_service.fleet.worker import HostTask

__all__ = ["ProcessPool", "check_picklable"]

# Seconds before the next attempt after accept() failed.
_ACCEPT_RETRY_INTERVAL = 0.05


class ProcessPool(ExecutorRunner):
    """Makes one call per host, which only starts the work; pipes report everything else."""

    def __init__(self, task: FleetTask, parallel: int, executor: ProcessPoolExecutor) -> None:
        if not hasattr(socket, "AF_UNIX"):
            raise SshConfigError(
                "executor: process pools need Unix sockets, which Python lacks on this system"
                " (such as Windows); the default, threads, and dask work here"
            )
        super().__init__(task, executor)
        workers = getattr(executor, "_max_workers", None) or os.cpu_count() or 1
        self._hosts_per_worker = -(-parallel // workers)
        self._authkey = secrets.token_bytes(32)
        # Peers are authenticated later, by the thread that reads the pipe: a silent peer must not
        # block the others, and `_settle_failed_calls` must see each pipe from the start.
        self._listener = Listener(backlog=64)
        self._pipes: Set[Connection] = set()  # guarded by _lock
        self._failed_calls: List[Tuple[Assignment, BaseException]] = []  # guarded by _lock
        self._stopped = False  # guarded by _lock
        self._cancelled = False  # set once
        self._spawn(self._accept)

    def _spawn(self, target: Any, *args: Any) -> None:
        threading.Thread(
            target=target, args=args, name="ssh-service-fleet-pipe", daemon=True
        ).start()

    def _accept(self) -> None:
        while True:
            try:
                pipe = self._listener.accept()
            except OSError:  # the listener was closed, or there are no file descriptors left
                pipe = None
                time.sleep(_ACCEPT_RETRY_INTERVAL)
            with self._lock:
                if self._stopped:
                    break
                if pipe is not None:
                    self._pipes.add(pipe)
            if pipe is not None:
                self._spawn(self._listen, pipe)
        if pipe is not None:
            pipe.close()

    def _listen(self, pipe: Connection) -> None:
        accepted: Dict[int, Assignment] = {}
        try:
            deliver_challenge(pipe, self._authkey)
            answer_challenge(pipe, self._authkey)
            self._receive(pipe, accepted)
        except (EOFError, OSError, AuthenticationError):
            pass  # the worker has ended, or the peer is not one of our workers
        finally:
            with self._lock:
                self._pipes.discard(pipe)
            pipe.close()
        for assignment in accepted.values():
            self._on_worker_lost(assignment)
        self._settle_failed_calls()

    def _receive(self, pipe: Connection, accepted: Dict[int, Assignment]) -> None:
        """Handle a worker's messages until it ends."""
        while True:
            kind, number, payload = pipe.recv()
            with self._lock:
                assignment = self._assignments.get(number)
                if assignment is not None:
                    accepted[number] = assignment
                    assignment.may_have_sent = assignment.may_have_sent or kind == "sending"
            if kind == "done":
                known = accepted.pop(number, None)
                if known is not None:
                    self._settle(number, _unpickle_result(known, payload))

    def _submit(self, host_task: HostTask) -> "Future[Any]":
        address = str(self._listener.address)
        return self._executor.submit(
            pool_worker.start, host_task, address, self._authkey, self._hosts_per_worker
        )

    def _on_call_done(self, assignment: Assignment, call: "Future[Any]") -> None:
        if call.cancelled():
            self._settle(assignment.number, assignment.builder.cancelled())
            return
        error = call.exception()
        if isinstance(error, BrokenExecutor):
            with self._lock:
                self._failed_calls.append((assignment, error))
            self._settle_failed_calls()
            return
        if error is not None:
            try:
                if isinstance(assignment.host, Mapping):
                    check_picklable(assignment.host, f"{assignment.builder.host}: ")
            except SshConfigError as problem:
                self._settle(assignment.number, assignment.builder.failed(problem))
            else:
                self._on_worker_lost(assignment, error)
            return
        answer = call.result()
        if answer == pool_worker.CANCELLED or (answer == pool_worker.FULL and self._cancelled):
            self._settle(assignment.number, assignment.builder.cancelled())
        elif answer == pool_worker.FULL:
            self._submit_assignment(assignment)  # to a process with capacity
        # Otherwise its pipe reports the rest, or reaches its end.

    def _settle_failed_calls(self) -> None:
        """Settle the calls lost by a broken pool, after every pipe was read to its end."""
        with self._lock:
            if self._pipes:
                return  # a pool that lost one worker ends all of them, so the pipes end soon
            failed_calls, self._failed_calls = self._failed_calls, []
        for assignment, error in failed_calls:
            self._on_worker_lost(assignment, error)

    def _on_worker_lost(
        self, assignment: Assignment, cause: Optional[BaseException] = None
    ) -> None:
        host = assignment.builder.host
        error = outcome_unknown_error(host)
        if not assignment.may_have_sent:
            why = one_line(cause) if cause else "the worker was lost"
            error = SshWorkerLost(f"{host}: nothing was sent: {why}", sent=False)
        error.__cause__ = cause
        self._settle(assignment.number, failed(host, error, assignment.builder.seconds))

    def cancel(self) -> None:
        """Cancel everything in progress in all workers."""
        self._cancelled = True
        self._cancel_unstarted()
        with self._lock:
            lines = list(self._pipes)
        for pipe in lines:
            try:
                pipe.send("cancel")
            except OSError:
                pass  # the worker is gone

    def close(self) -> None:
        """Close the pipes; the workers then cancel their remaining work."""
        with self._lock:
            if self._stopped:
                return
            self._stopped = True
            lines = list(self._pipes)
        with socket.socket(socket.AF_UNIX) as waker:  # interrupts `_accept`
            with contextlib.suppress(OSError):
                waker.connect(self._listener.address)
        self._listener.close()
        for pipe in lines:
            try:
                pipe.send("closed")
            except OSError:
                pass


def check_picklable(given: Mapping[str, Any], where: str = "") -> None:
    """
    Check that values can be passed to another process.

    Raises
    ------
    SshConfigError
        A value cannot be pickled.
    """
    for name, value in given.items():
        try:
            pickle.dumps(params.reveal({name: value}))
        except Exception as error:
            raise SshConfigError(
                f"{where}{name}: expected an object that can be pickled, for the executor's"
                f" processes, such as a function of a module, got a {type(value).__name__}"
                f" ({type(error).__name__})"
            ) from None


def _unpickle_result(assignment: Assignment, payload: bytes) -> HostResult:
    try:
        result: HostResult = pickle.loads(payload)  # the peer is authenticated
        return result
    except Exception as error:  # perhaps an error class of another version
        text = f"{assignment.builder.host}: cannot read its result: {one_line(error)}"
        return assignment.builder.failed(SshServiceError(text))
