"""Run a fleet's work on the caller's executor."""

from __future__ import annotations

from concurrent.futures import CancelledError, Executor, Future, ProcessPoolExecutor
from typing import Any

from ssh_service.fleet import on_dask, worker
from ssh_service.fleet.executor_base import Assignment, ExecutorRunner
from ssh_service.fleet.process_pool import ProcessPool, check_picklable
from ssh_service.fleet.result import HostResult, one_line
from ssh_service.fleet.results import Runner
from ssh_service.fleet.task import FleetTask, outcome_unknown_error
from ssh_service.fleet.worker import HostTask

__all__ = ["runner_for"]


def runner_for(task: FleetTask, parallel: int, executor: Executor) -> Runner:
    """Return the runner for an executor."""
    if isinstance(executor, ProcessPoolExecutor):
        check_picklable({**task.arguments, **task.connect})  # else every host would fail
        return ProcessPool(task, parallel, executor)
    return _AnyExecutor(task, executor)


class _AnyExecutor(ExecutorRunner):
    """Makes one call per host, which returns when the host is finished."""

    def _submit(self, host_task: HostTask) -> "Future[Any]":
        return self._executor.submit(worker.run_task, host_task)

    def _on_call_done(self, assignment: Assignment, call: "Future[Any]") -> None:
        try:
            result: HostResult = call.result()
        except Exception as error:
            if isinstance(error, CancelledError) and not on_dask.is_dask(self._executor):
                result = assignment.builder.cancelled()  # it had not started
            else:
                lost = outcome_unknown_error(
                    assignment.builder.host,
                    f"the worker did not report a result ({one_line(error)})",
                )
                lost.__cause__ = error
                result = assignment.builder.failed(lost)
        self._settle(assignment.number, result)

    def cancel(self) -> None:
        """Cancel everything in progress, if the workers can be notified."""
        if on_dask.is_dask(self._executor):
            # Cancelling a dask future does not stop its work.  Therefore, the workers are
            # notified, and each reports the result of its host.
            on_dask.cancel(self._executor, self._run)
            return
        self._cancel_unstarted()
        worker.cancel(self._run)  # for workers that are threads of this process

    def close(self) -> None:
        """Forget the run; cancel it first if it has not ended."""
        if self._unsettled():
            self.cancel()
        else:
            worker.forget(self._run)
            on_dask.forget(self._executor, self._run)
