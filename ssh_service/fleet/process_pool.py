"""The caller's side of a run on a process pool; the workers' side is `station`."""

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
from typing import Any, Dict, List, Optional, Set, Tuple

from ssh_service.errors import SshServiceError
from ssh_service.fleet import pool_worker
from ssh_service.fleet.executor_base import Executing, Given
from ssh_service.fleet.result import HostResult, SshWorkerLost, failed, one_line
from ssh_service.fleet.task import Job, unknown_fate
from ssh_service.fleet.worker import Task

__all__ = ["ProcessPool"]

# Seconds to the next attempt where a worker's line cannot be taken.
_PAUSE = 0.05


class ProcessPool(Executing):
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
        self._broken: List[Tuple[Given, BaseException]] = []  # guarded by _lock: calls that failed
        self._stopped = False  # guarded by _lock
        self._cancelled = False  # set once, and never taken back
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
        taken: Dict[int, Given] = {}
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
        return self._executor.submit(pool_worker.begin, task, address, self._authkey, self._share)

    def _returned(self, given: Given, call: "Future[Any]") -> None:
        if call.cancelled():
            self._settle(given.number, given.clock.cancelled())
            return
        error = call.exception()
        if isinstance(error, BrokenExecutor):
            with self._lock:
                self._broken.append((given, error))
            self._settle_broken()
            return
        if error is not None:
            self._lost(given, error)
            return
        answer = call.result()
        if answer == pool_worker.CANCELLED or (answer == pool_worker.FULL and self._cancelled):
            self._settle(given.number, given.clock.cancelled())
        elif answer == pool_worker.FULL:
            self._give(given)  # to a process that has room
        # Else its line tells the rest, or the end of the line does.

    def _settle_broken(self) -> None:
        """Settle what the pool broke under, once all has been heard that its workers said."""
        with self._lock:
            if self._lines:
                return  # a pool that lost one worker ends them all, and with them the lines
            broken, self._broken = self._broken, []
        for given, error in broken:
            self._lost(given, error)

    def _lost(self, given: Given, cause: Optional[BaseException] = None) -> None:
        host = given.clock.host
        error = unknown_fate(host)
        if not given.claimed:
            why = one_line(cause) if cause else "the worker was lost"
            error = SshWorkerLost(f"{host}: nothing was sent: {why}", sent=False)
        error.__cause__ = cause
        self._settle(given.number, failed(host, error, given.clock.seconds))

    def cancel(self) -> None:
        """End what is under way in all workers."""
        self._cancelled = True
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


def _result(given: Given, told: bytes) -> HostResult:
    try:
        result: HostResult = pickle.loads(told)  # from a worker that knew the key
        return result
    except Exception as error:  # of whatever it holds: another version's classes, perhaps
        text = f"{given.clock.host}: its result cannot be read: {one_line(error)}"
        return given.clock.failed(SshServiceError(text))
