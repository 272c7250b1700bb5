"""The caller's side of a run on an executor: the hosts that were given to it."""

from __future__ import annotations

import secrets
import threading
from concurrent.futures import Executor, Future
from typing import Any, Dict, List, Optional

from ssh_service import params
from ssh_service.fleet.result import HostResult, SshWorkerLost
from ssh_service.fleet.results import Runner
from ssh_service.fleet.task import Clock, Job
from ssh_service.fleet.worker import Task

__all__ = ["Executing", "Given"]


class Given:
    """
    A host that was given to the executor.

    Attributes
    ----------
    claimed : bool
        Whether a worker has asked to send its command, and so may have.
    call : Optional[Future[Any]]
        The executor's; None before it has taken the host, and once there is a result.
    """

    def __init__(self, number: int, host: Any) -> None:
        self.number = number
        self.host = host
        self.clock = Clock(host)
        self.claimed = False
        self.call: Optional["Future[Any]"] = None


class Executing(Runner):
    """What all executors have in common: each host has one result, whoever tells of it first."""

    def __init__(self, job: Job, executor: Executor) -> None:
        self._job = job
        self._executor = executor
        self._run = secrets.token_hex(8)
        self._lock = threading.Lock()
        self._next = 0  # guarded by _lock
        self._given: Dict[int, Given] = {}  # guarded by _lock: those without a result

    def begin(self, host: Any) -> None:
        """Give one host to the executor."""
        host = params.conceal(host)
        with self._lock:
            given = self._given[self._next] = Given(self._next, host)
            self._next += 1
        self._give(given)

    def _give(self, given: Given) -> None:
        try:
            call = self._submit(Task(self._run, given.number, given.host, self._job))
        except Exception as error:  # shut down, or broken
            why = f"{given.clock.host}: no worker took it: {error}"
            lost = SshWorkerLost(why, sent=False)
            self._settle(given.number, given.clock.failed(lost))
            return
        given.call = call
        call.add_done_callback(lambda done: self._returned(given, done))

    def _submit(self, task: Task) -> "Future[Any]":
        raise NotImplementedError

    def _returned(self, given: Given, call: "Future[Any]") -> None:
        raise NotImplementedError

    def _settle(self, number: int, result: HostResult) -> None:
        with self._lock:
            known = self._given.pop(number, None)
        if known is not None:
            known.call = None  # which refers to it, too; workers keep results that long
            self.deliver(result)

    def _open(self) -> List[Given]:
        with self._lock:
            return list(self._given.values())

    def _withdraw(self) -> None:
        """Take back what no worker has begun."""
        for given in self._open():
            if given.call is not None and given.call.cancel():
                self._settle(given.number, given.clock.cancelled())
