"""The objects other than replies that tasks of one pipeline wait for."""

from __future__ import annotations

from collections import deque
from typing import Any, Coroutine, Deque, List

from ssh_service.copying.open_files import open_files
from ssh_service.copying.pipeline import Pipeline, TaskWaiter
from ssh_service.copying.sftp.session import SftpSession
from ssh_service.copying.sftp.usage import Usage

__all__ = ["Budget", "HandleBudget", "TaskEvent"]


class TaskEvent:
    """A one-time event that tasks of one pipeline can wait for."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._waiters: List[TaskWaiter] = []
        self.is_set = False

    def belongs_to(self, pipeline: Pipeline) -> bool:
        """Return whether tasks of this pipeline may wait for the event."""
        return self._pipeline is pipeline

    def set(self) -> None:
        """Set the event, and wake the waiting tasks."""
        self.is_set = True
        for waiter in self._waiters:
            self._pipeline.wake(waiter)
        self._waiters.clear()

    async def wait(self) -> None:
        """Wait until the event is set."""
        if not self.is_set:
            waiter = TaskWaiter()
            self._waiters.append(waiter)
            await waiter


class Budget(Usage):
    """
    A semaphore for tasks of one pipeline, acquired in any amount (bytes in flight, open files).

    Amounts are granted in the order of the requests.  An amount above the limit is granted while
    nothing else is acquired.
    """

    def __init__(self, pipeline: Pipeline, limit: int) -> None:
        self._pipeline = pipeline
        self._limit = limit
        self._queue: Deque[TaskWaiter] = deque()
        self.used = 0

    def try_acquire(self, amount: int = 1) -> bool:
        """Acquire `amount` and return True if that is possible without waiting."""
        if self._queue or not self._has_room(amount):
            return False
        self.used += amount
        return True

    def acquire_over_limit(self, amount: int) -> None:
        """Acquire `amount` without waiting, even over the limit: it has just been released."""
        self.used += amount

    async def acquire(self, amount: int = 1) -> None:
        """Acquire `amount`, waiting for it if necessary."""
        if self.try_acquire(amount):
            return
        waiter = TaskWaiter()
        self._queue.append(waiter)
        try:
            await self._wait_for_room(waiter, amount)
            self.used += amount
        finally:
            self._queue.remove(waiter)
            self._wake_next()  # the next one may have enough as well

    async def _wait_for_room(self, waiter: TaskWaiter, amount: int) -> None:
        await waiter
        while not self._has_room(amount):
            await waiter

    async def start(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Acquire one, then start a task, which releases it at its end."""
        try:
            await self.acquire()
        except BaseException:
            coroutine.close()
            raise
        try:
            self._pipeline.start(coroutine)
        except BaseException:  # another task has failed, so no new task starts
            self.release()
            raise

    def _has_room(self, amount: int) -> bool:
        return not self.used or self.used + amount <= self._limit

    def release(self, amount: int = 1) -> None:
        """Release `amount`."""
        self.used -= amount
        self._wake_next()

    def _wake_next(self) -> None:
        if self._queue:
            self._pipeline.wake(self._queue[0])


class HandleBudget(Budget):
    """
    The limit on open files and folders, local and remote.

    The copies on one session share the handles that the server allows, and all copies share the
    descriptors of the process.
    """

    def __init__(self, pipeline: Pipeline, session: SftpSession, limit: int) -> None:
        super().__init__(pipeline, limit)
        self._session = session
        session.handles.usage.add(self)
        open_files.usage.add(self)

    def _has_room(self, amount: int) -> bool:
        # A copy that holds none always gets one, so that every copy makes progress; a copy that
        # holds some waits until it has closed one.
        if not self.used:
            return True
        return (
            super()._has_room(amount)
            and self._session.has_room_for_handle()
            and open_files.has_room()
        )

    def release_all(self) -> None:
        """Release everything at the end of a failed copy."""
        self.used = 0
