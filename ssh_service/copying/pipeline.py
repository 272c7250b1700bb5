"""
Many files at once on one thread: coroutines whose every ``await`` is a reply from the server.

The code that copies a file reads from top to bottom, one step after the other.  The pipeline runs
many of them side by side on the caller's own thread, each waiting for its reply while the others
go on, so that neither a round trip nor a batch half empty costs time.  No event loop, no thread.
"""

from __future__ import annotations

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

__all__ = ["ABORTS", "Cancelled", "Pipeline", "PipelineTask", "Waiter"]

_T = TypeVar("_T")

# Seconds the tidying up after a failure, an interrupt or a time-out may take.
_CLEANUP_TIMEOUT = 2.0
# Exceptions looked at, each raised while the one before it was being handled.
_MAX_CHAIN = 20


class Cancelled(BaseException):
    """Thrown into a coroutine that shall stop: it tidies up and passes this on."""


# After these a task may tidy up, and wait for it.
ABORTS = (Cancelled, KeyboardInterrupt, Exception)


class PipelineTask:
    """
    One coroutine on its way.

    Attributes
    ----------
    order : int
        Its place among all that were started.
    failure : Optional[BaseException]
        What it ended with, if not well.
    done : bool
        Whether it has ended.
    """

    __slots__ = ("coroutine", "order", "failure", "done", "result", "waits_for")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], order: int) -> None:
        self.coroutine = coroutine
        self.order = order
        self.failure: Optional[BaseException] = None
        self.done = False
        self.result: Any = None
        self.waits_for: Any = None


class Waiter:
    """What a task waits for that is no reply: its waiter, given by `Pipeline.wake`."""

    __slots__ = ("waiting_task",)

    def __init__(self) -> None:
        self.waiting_task: Optional[PipelineTask] = None

    def __await__(self) -> Generator[Waiter, None, None]:
        yield self


class Pipeline:
    """
    Runs tasks on the calling thread until all have ended.

    Parameters
    ----------
    client : SftpClient
        Where the requests go and the replies come from.
    timeout : Optional[float]
        Seconds in which something must move; None: no limit.
    on_step : Optional[Callable[[], None]]
        Called now and then, between replies: to report progress.

    Notes
    -----
    Guarantees.  When a task fails, those started before it run to their end and those started
    after it are cancelled; the failure of the earliest is raised.  Whatever ends the run, every
    task gets the chance to tidy up, for a few seconds at most.  An interrupt (Ctrl-C) is what
    `run` raises, wherever it struck and whatever came of it.
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
        self._background: Set[PipelineTask] = set()  # of those: what nobody waits for
        self._started = 0
        self._failed: Optional[PipelineTask] = None
        self._stopping = False
        self._broke_deadlock = False
        self._interrupt: Optional[BaseException] = None
        self._join_waiter: Optional[Waiter] = None

    def run(self, main: Coroutine[Any, Any, _T]) -> _T:
        """
        Run `main`, and all that it starts, to the end.

        Parameters
        ----------
        main : Coroutine
            The first task; it counts as started before all others.

        Returns
        -------
        Any
            What `main` returned.
        """
        task = self.start(main)
        try:
            self._run_all(self._timeout)
            while self._client.outstanding:  # what nobody waits for: files being closed
                self._take_replies(self._timeout)
        except BaseException as error:
            self._clean_up()
            if self._interrupt is not None and isinstance(error, Exception):
                raise self._interrupt from error  # which was the consequence
            raise
        if self._failed is not None and self._failed.failure is not None:
            raise self._failed.failure
        return task.result  # type: ignore[no-any-return]

    def start(self, coroutine: Coroutine[Any, Any, Any], background: bool = False) -> PipelineTask:
        """
        Start a task; it takes its first steps at once, as far as it can without waiting.

        Parameters
        ----------
        coroutine : Coroutine
            What to run.
        background : bool
            Whether `join_others` does not wait for it; `cancel` it before the first task ends.

        Returns
        -------
        PipelineTask
            The task.

        Raises
        ------
        Cancelled
            Another task failed, so nothing new begins.
        """
        if self._failed is not None:
            coroutine.close()
            raise Cancelled()  # into whoever wanted to go on after a failure
        self._started += 1
        task = PipelineTask(coroutine, self._started)
        self._tasks.add(task)
        if background:
            self._background.add(task)
        self._ready.append(task)
        return task

    def cancel(self, tasks: Collection[PipelineTask]) -> None:
        """Cancel tasks, those of them that still run; they tidy up before the run ends."""
        self._cancel(lambda task: task in tasks)

    def wake(self, waiter: Waiter) -> None:
        """Let the task that waits for `waiter` go on."""
        if waiter.waiting_task is not None:
            self._ready.append(waiter.waiting_task)
            waiter.waiting_task = None

    def fail(self, error: Exception) -> NoReturn:
        """
        Fail, as of now: what was started before goes on, the caller and all later tasks stop.

        For a task that starts others, one after the other, and finds that the next one cannot be.

        Parameters
        ----------
        error : Exception
            What `run` raises, unless a task that was started before fails as well.
        """
        self._started += 1
        task = PipelineTask(_nothing(), self._started)
        task.coroutine.close()
        task.failure = error
        self._end(task)
        raise Cancelled()

    def record_interrupt(self, abort: BaseException) -> None:
        """
        Take note of what stopped a task, before that waits for what it has to undo.

        Parameters
        ----------
        abort : BaseException
            One of `ABORTS`.  An interrupt is told in the end even if the task is stopped once
            more meanwhile; from Python 3.9 on, that could be seen afterwards as well.
        """
        self._interrupt = self._interrupt or _find_interrupt(abort)

    async def join_others(self) -> None:
        """Wait, in the first task, until all others have ended."""
        while len(self._tasks) - len(self._background) > 1:
            self._join_waiter = Waiter()
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

    def _break_deadlock(self) -> None:
        if self._failed is None or self._broke_deadlock:
            raise RuntimeError("tasks that wait, and no reply to come")
        # They wait for one that the failure has stopped, which is what the caller must learn.
        self._broke_deadlock = True
        self._cancel(lambda task: True)

    def _take_replies(self, timeout: Optional[float]) -> None:
        for reply in self._client.collect(timeout):
            task, reply.waiting_task = reply.waiting_task, None
            if task is not None:
                self._step(task, None)

    def _step(self, task: PipelineTask, error: Optional[BaseException]) -> None:
        """Run a task to its next wait; `error` is thrown into it."""
        try:
            while True:
                if error is None:
                    wait = task.coroutine.send(None)
                else:
                    wait, error = task.coroutine.throw(error), None
                if isinstance(wait, Reply) and wait.kind:
                    continue  # it came meanwhile
                wait.waiting_task, task.waits_for = task, wait
                return
        except StopIteration as stop:
            task.result = stop.value
        except Cancelled as cancelled:
            self._interrupt = self._interrupt or _find_interrupt(cancelled)
        except Exception as failure:
            task.failure = failure
            self._interrupt = self._interrupt or _find_interrupt(failure)
            if self._interrupt is not None and not self._stopping:
                self._tasks.discard(task)
                raise self._interrupt from failure
        except BaseException as interrupt:  # `run` stops all others
            self._interrupt = self._interrupt or interrupt
            if getattr(task.coroutine, "cr_frame", None) is None:  # else it had not gone on yet
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
        # Latest first: what depends on others ends before them.
        for task in sorted(filter(which, self._tasks), key=lambda task: -task.order):
            if not task.done and not task.coroutine.cr_running:  # type: ignore[attr-defined]
                self._unschedule(task)
                self._step(task, Cancelled())

    def _unschedule(self, task: PipelineTask) -> None:
        """See to it that nothing the task waits for, or has just got, lets it go on."""
        if task in self._ready:
            self._ready.remove(task)
        if task.waits_for is not None:
            task.waits_for.waiting_task = None

    def _clean_up(self) -> None:
        """Cancel all that still runs, and wait a little for what it has to undo."""
        self._stopping = True
        self._client.deadline = None  # it may be what ended the copy
        deadline = time.monotonic() + _CLEANUP_TIMEOUT
        try:
            self._cancel(lambda task: True)
            while (self._tasks or self._client.outstanding) and time.monotonic() < deadline:
                while self._ready:
                    self._step(self._ready.popleft(), None)
                if self._client.outstanding:
                    self._take_replies(max(0.01, deadline - time.monotonic()))
        except Exception:  # the session is gone, or stands still: nothing more can be done there
            pass
        finally:
            for task in self._tasks:
                task.coroutine.close()
            self._tasks.clear()


def _find_interrupt(error: BaseException) -> Optional[BaseException]:
    """
    Find the interrupt that made a task fail in another way: while it was tidying up, say.

    It must reach the caller, who would otherwise be told of a broken pipe for a Ctrl-C.
    """
    seen: Optional[BaseException] = error
    for _ in range(_MAX_CHAIN):
        if seen is None:
            break
        if not isinstance(seen, (Exception, Cancelled, GeneratorExit)):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


async def _nothing() -> None:
    pass
