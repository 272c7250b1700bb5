"""The caller's side of a run on an executor: the hosts that were submitted."""

from __future__ import annotations

import secrets
from concurrent.futures import Executor, Future
from typing import Any, Dict, List, Optional

from ssh_service.fleet.hosts import concealed
from ssh_service.fleet.result import HostResult, SshWorkerLost
from ssh_service.fleet.results import Runner
from ssh_service.fleet.task import FleetTask, ResultBuilder
from ssh_service.fleet.worker import HostTask
from ssh_service.locks import Lock

__all__ = ["Assignment", "ExecutorRunner"]


class Assignment:
    """
    A host that was submitted to the executor.

    Attributes
    ----------
    claimed : bool
        Whether a worker has reported that it is about to send.
    call : Optional[Future[Any]]
        The executor's future; None until the call is submitted, and once there is a result.
    """

    def __init__(self, number: int, host: Any) -> None:
        self.number = number
        self.host = host
        self.builder = ResultBuilder(host)
        self.may_have_sent = False
        self.call: Optional["Future[Any]"] = None


class ExecutorRunner(Runner):
    """The base of the executors' runners: each host gets one result, the first that arrives."""

    def __init__(self, task: FleetTask, executor: Executor) -> None:
        self._task = task
        self._executor = executor
        self._run = secrets.token_hex(8)
        self._lock = Lock()
        self._next = 0  # guarded by _lock
        self._assignments: Dict[int, Assignment] = {}  # guarded by _lock: no result yet

    def start(self, host: Any) -> None:
        """Submit one host to the executor."""
        host = concealed(host)
        with self._lock:
            assignment = self._assignments[self._next] = Assignment(self._next, host)
            self._next += 1
        self._submit_assignment(assignment)

    def _submit_assignment(self, assignment: Assignment) -> None:
        try:
            call = self._submit(
                HostTask(self._run, assignment.number, assignment.host, self._task)
            )
        except Exception as error:  # the executor is shut down or broken
            why = f"{assignment.builder.host}: the executor refused the task: {error}"
            lost = SshWorkerLost(why, sent=False)
            self._settle(assignment.number, assignment.builder.failed(lost))
            return
        assignment.call = call
        call.add_done_callback(lambda done: self._on_call_done(assignment, done))

    def _submit(self, host_task: HostTask) -> "Future[Any]":
        raise NotImplementedError

    def _on_call_done(self, assignment: Assignment, call: "Future[Any]") -> None:
        raise NotImplementedError

    def _settle(self, number: int, result: HostResult) -> None:
        with self._lock:
            known = self._assignments.pop(number, None)
        if known is not None:
            known.call = None  # it refers to the assignment; dask keeps a future's result
            self.deliver(result)

    def _unsettled(self) -> List[Assignment]:
        with self._lock:
            return list(self._assignments.values())

    def _cancel_unstarted(self) -> None:
        """Cancel the calls that no worker has started."""
        for assignment in self._unsettled():
            if assignment.call is not None and assignment.call.cancel():
                self._settle(assignment.number, assignment.builder.cancelled())
