"""The work of a fleet on an executor of the caller's."""

from __future__ import annotations

from concurrent.futures import CancelledError, Executor, Future, ProcessPoolExecutor
from typing import Any

from ssh_service.fleet import on_dask, worker
from ssh_service.fleet.executor_base import Executing, Given
from ssh_service.fleet.process_pool import ProcessPool
from ssh_service.fleet.result import HostResult, one_line
from ssh_service.fleet.results import Runner
from ssh_service.fleet.task import Job, unknown_fate
from ssh_service.fleet.worker import Task

__all__ = ["runner_for"]


def runner_for(job: Job, parallel: int, executor: Executor) -> Runner:
    """Choose how to give work to an executor."""
    if isinstance(executor, ProcessPoolExecutor):
        return ProcessPool(job, parallel, executor)
    return _AnyExecutor(job, executor)


class _AnyExecutor(Executing):
    """One call for each host, which lasts until the host is done."""

    def _submit(self, task: Task) -> "Future[Any]":
        return self._executor.submit(worker.work, task)

    def _returned(self, given: Given, call: "Future[Any]") -> None:
        try:
            result: HostResult = call.result()
        except (Exception, CancelledError) as error:  # CancelledError: by itself in Python 3.8
            if isinstance(error, CancelledError) and not on_dask.is_dask(self._executor):
                result = given.clock.cancelled()  # it had not been begun
            else:
                lost = unknown_fate(
                    given.clock.host, f"no word from the worker ({one_line(error)})"
                )
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
