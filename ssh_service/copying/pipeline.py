"""
Copies many files concurrently on one thread, by coroutines that wait for the server's replies.

The code that copies a file reads from top to bottom.  The pipeline runs many such tasks
concurrently on the caller's thread; while one waits for a reply, the others continue, so that no
time is lost by round trips and half-empty batches.  There is no event loop and no extra thread.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from typing import (
    Any,
    Callable,
    Collection,
    Coroutine,
    Deque,
    Generator,
    NoReturn,
    Optional,
    Set,
    TypeVar,
)

from ssh_service.copying.sftp.client import SftpClient
from ssh_service.copying.sftp.reply import Reply
from ssh_service.interruptions import find_interruption

__all__ = ["ABORTS", "Cancelled", "Pipeline", "PipelineTask", "TaskWaiter"]

_T = TypeVar("_T")

# Seconds for the cleanup after a failure, an interrupt or a timeout.
_CLEANUP_TIMEOUT = 2.0


class Cancelled(BaseException):
    """Thrown into a coroutine to stop it; the coroutine cleans up, and must not swallow it."""


# The exceptions that end a task, but after which it may still await its cleanup.
ABORTS = (Cancelled, KeyboardInterrupt, Exception)


class PipelineTask:
    """
    One running coroutine.

    Attributes
    ----------
    order : int
        The task's position in the order in which tasks were started.
    failure : Optional[BaseException]
        The exception that ended the task; None if there was none.
    """

    __slots__ = ("coroutine", "order", "failure", "done", "result", "waits_for")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], order: int) -> None:
        self.coroutine = coroutine
        self.order = order
        self.failure: Optional[BaseException] = None
        self.done = False
        self.result: Any = None
        self.waits_for: Any = None


class TaskWaiter:
    """Suspends a task until `Pipeline.wake`."""

    __slots__ = ("waiting_task",)

    def __init__(self) -> None:
        self.waiting_task: Optional[PipelineTask] = None

    def __await__(self) -> Generator[TaskWaiter, None, None]:
        yield self


class Pipeline:
    """
    Runs tasks on the calling thread until all have ended.

    Parameters
    ----------
    client : SftpClient
        Sends the requests and receives the replies.
    timeout : Optional[float]
        Seconds without progress after which the run fails; None: no limit.
    on_step : Optional[Callable[[], None]]
        Called regularly between replies, to report progress.

    Notes
    -----
    Guarantees.  When a task fails, the tasks started before it run to their end, and those started
    after it are cancelled; `run` raises the failure of the earliest.  Every task can clean up, for
    a few seconds at most, however the run ends.  After an interrupt (Ctrl-C), `run` raises the
    interrupt, regardless of where it occurred and of the errors that it caused.
    """

    def __init__(
        self,
        client: SftpClient,
        timeout: Optional[float] = None,
        on_step: Optional[Callable[[], None]] = None,
    ) -> None:
        self._client = client
        self._timeout = timeout
        self._on_step = on_step
        self._ready: Deque[PipelineTask] = deque()
        self._tasks: Set[PipelineTask] = set()
        self._background: Set[PipelineTask] = set()  # `join_others` does not wait for these
        self._started = 0
        self._failed: Optional[PipelineTask] = None
        self._stopping = False
        self._broke_deadlock = False
        self._interrupt: Optional[BaseException] = None
        self._outer = sys.exc_info()[1]  # the exception that our caller is handling
        self._join_waiter: Optional[TaskWaiter] = None

    def run(self, main: Coroutine[Any, Any, _T]) -> _T:
        """Run `main`, the first task, and all that it starts; return the result of `main`."""
        task = self.start(main)
        try:
            self._run_all(self._timeout)
            self._await_rest(self._timeout)
        except BaseException as error:
            self._clean_up()
            interrupt = self._interrupt
            if interrupt is not None and interrupt is not error and isinstance(error, Exception):
                raise interrupt from error  # `error` is a consequence
            raise
        if self._failed is not None and self._failed.failure is not None:
            raise self._failed.failure
        return task.result  # type: ignore[no-any-return]

    def start(self, coroutine: Coroutine[Any, Any, Any], background: bool = False) -> PipelineTask:
        """
        Start a task.

        Parameters
        ----------
        coroutine : Coroutine
            The task.
        background : bool
            Whether `join_others` does not wait for the task; `cancel` it before the first task
            ends.

        Raises
        ------
        Cancelled
            Another task has failed, so that no new task is started.
        """
        if self._failed is not None:
            coroutine.close()
            raise Cancelled()  # raised in the caller, which must not continue after a failure
        self._started += 1
        task = PipelineTask(coroutine, self._started)
        self._tasks.add(task)
        if background:
            self._background.add(task)
        self._ready.append(task)
        return task

    def cancel(self, tasks: Collection[PipelineTask]) -> None:
        """Cancel those of the tasks that are still running; they clean up before the run ends."""
        self._cancel(lambda task: task in tasks)

    def wake(self, waiter: TaskWaiter) -> None:
        """Resume the task that waits for `waiter`."""
        if waiter.waiting_task is not None:
            self._ready.append(waiter.waiting_task)
            waiter.waiting_task = None

    def fail(self, error: Exception) -> NoReturn:
        """
        Fail now: earlier tasks continue, all later ones and the caller stop; `run` raises `error`.

        This is for a task that starts others in order, and finds that the next one cannot be
        started.
        """
        self._started += 1
        task = PipelineTask(_nothing(), self._started)
        task.coroutine.close()
        task.failure = error
        self._end(task)
        raise Cancelled()

    def record_interrupt(self, abort: BaseException) -> None:
        """
        Record the interrupt, if any, that stopped a task, before the task waits for its cleanup.

        The task may be stopped again while it waits; `run` still raises the interrupt.  (From
        Python 3.9 on, the interrupt could be found afterwards.)
        """
        self._interrupt = self._interrupt or find_interruption(abort, self._outer)

    def raise_if_late(self) -> None:
        """Raise `TimeUp` if the deadline of the copy has passed."""
        self._client.raise_if_late()

    async def join_others(self) -> None:
        """Wait, in the first task, until all other tasks have ended."""
        while len(self._tasks) - len(self._background) > 1:
            self._join_waiter = TaskWaiter()
            await self._join_waiter

    def _run_all(self, timeout: Optional[float]) -> None:
        while self._tasks:
            while self._ready:
                self._step(self._ready.popleft(), None)
            if not self._tasks:
                break
            if not self._client.outstanding:
                self._break_deadlock()
                continue
            self._take_replies(timeout)
            if self._on_step is not None and not self._stopping:
                self._on_step()

    def _await_rest(self, timeout: Optional[float]) -> None:
        """Wait for replies that no task awaits, such as those to closing files."""
        while self._client.outstanding:
            self._take_replies(timeout)

    def _break_deadlock(self) -> None:
        if self._failed is None or self._broke_deadlock:
            raise RuntimeError("deadlock: tasks are waiting, but no reply is outstanding")
        # The tasks wait for one that the failure has stopped; the caller must receive that
        # failure.
        self._broke_deadlock = True
        self._cancel(lambda task: True)

    def _take_replies(self, timeout: Optional[float]) -> None:
        for reply in self._client.collect(timeout):
            task, reply.waiting_task = reply.waiting_task, None
            if task is not None:
                self._step(task, None)

    def _resume(self, task: PipelineTask, error: Optional[BaseException]) -> None:
        while True:
            if error is None:
                wait = task.coroutine.send(None)
            else:
                wait, error = task.coroutine.throw(error), None
            if isinstance(wait, Reply) and wait.kind:
                continue  # the reply has already arrived
            wait.waiting_task, task.waits_for = task, wait
            return

    def _step(self, task: PipelineTask, error: Optional[BaseException]) -> None:
        """Run a task until it waits or ends; `error` is thrown into it."""
        try:
            self._resume(task, error)
            return
        except StopIteration as stop:
            task.result = stop.value
        except Cancelled as cancelled:
            self._interrupt = self._interrupt or find_interruption(cancelled, self._outer)
        except Exception as failure:
            task.failure = failure
            self._interrupt = self._interrupt or find_interruption(failure, self._outer)
            if self._interrupt is not None and not self._stopping:
                self._tasks.discard(task)
                if self._interrupt is failure:
                    raise
                raise self._interrupt from failure
        except BaseException as interrupt:  # `run` stops all other tasks
            self._interrupt = self._interrupt or interrupt
            # If there is a frame, the interrupt occurred before the task ran.
            if getattr(task.coroutine, "cr_frame", None) is None:
                self._tasks.discard(task)
            raise
        self._end(task)

    def _end(self, task: PipelineTask) -> None:
        task.done = True
        self._tasks.discard(task)
        self._background.discard(task)
        if self._join_waiter is not None and len(self._tasks) - len(self._background) == 1:
            self.wake(self._join_waiter)
        if task.failure is not None:
            if self._failed is None or task.order < self._failed.order:
                self._failed = task
            self._cancel(lambda other: other.order > task.order or other.order == 1)

    def _cancel(self, which: Callable[[PipelineTask], bool]) -> None:
        # Latest first, so that a task ends before those that it depends on.
        for task in sorted(filter(which, self._tasks), key=lambda task: -task.order):
            if not task.done and not task.coroutine.cr_running:  # type: ignore[attr-defined]
                self._unschedule(task)
                self._step(task, Cancelled())

    def _unschedule(self, task: PipelineTask) -> None:
        """Make sure that neither a reply nor `wake` resumes the task."""
        if task in self._ready:
            self._ready.remove(task)
        if task.waits_for is not None:
            task.waits_for.waiting_task = None

    def _clean_up(self) -> None:
        """Cancel all tasks that are still running, and wait briefly for their cleanup."""
        self._stopping = True
        self._client.deadline = None  # the deadline may be the reason why the copy ended
        deadline = time.monotonic() + _CLEANUP_TIMEOUT
        try:
            self._cancel(lambda task: True)
            self._run_until(deadline)
        except Exception:  # the session has ended or hangs: no more cleanup is possible
            pass
        finally:
            for task in self._tasks:
                task.coroutine.close()
            self._tasks.clear()

    def _run_until(self, deadline: float) -> None:
        while (self._tasks or self._client.outstanding) and time.monotonic() < deadline:
            while self._ready:
                self._step(self._ready.popleft(), None)
            if self._client.outstanding:
                self._take_replies(max(0.01, deadline - time.monotonic()))


async def _nothing() -> None:
    pass
