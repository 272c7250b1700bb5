"""What tasks wait for beside replies: that something has happened, that there is room."""

from __future__ import annotations

from collections import deque
from typing import Any, Coroutine, Deque, List

from ssh_service.copying.open_files import open_files
from ssh_service.copying.pipeline import Pipeline, Waiter
from ssh_service.copying.sftp.session import SftpSession
from ssh_service.copying.sftp.usage import Usage

__all__ = ["Budget", "HandleBudget", "TaskEvent"]


class TaskEvent:
    """Something that happens once, for which any number of tasks of one pipeline may wait."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._waiters: List[Waiter] = []
        self.is_set = False

    def belongs_to(self, pipeline: Pipeline) -> bool:
        """Tell whether tasks of this pipeline may wait for it."""
        return self._pipeline is pipeline

    def set(self) -> None:
        """Say that it happened."""
        self.is_set = True
        for waiter in self._waiters:
            self._pipeline.wake(waiter)
        self._waiters.clear()

    async def wait(self) -> None:
        """Wait until it has happened."""
        if not self.is_set:
            waiter = Waiter()
            self._waiters.append(waiter)
            await waiter


class Budget(Usage):
    """
    A bound on something that tasks of one pipeline share: bytes on their way, files open.

    Whoever finds no room waits; first come, first served.  What alone exceeds the whole budget
    gets it when nobody else holds any.
    """

    def __init__(self, pipeline: Pipeline, limit: int) -> None:
        self._pipeline = pipeline
        self._limit = limit
        self._queue: Deque[Waiter] = deque()
        self.used = 0

    def try_acquire(self, amount: int = 1) -> bool:
        """Take `amount` if there is room for it and nobody waits; say whether."""
        if self._queue or not self._has_room(amount):
            return False
        self.used += amount
        return True

    def acquire_over_limit(self, amount: int) -> None:
        """Take `amount` whether there is room for it or not: it was there a moment ago."""
        self.used += amount

    async def acquire(self, amount: int = 1) -> None:
        """Take `amount`, when there is room for it."""
        if self.try_acquire(amount):
            return
        waiter = Waiter()
        self._queue.append(waiter)
        try:
            await waiter
            while not self._has_room(amount):
                await waiter
            self.used += amount
        finally:
            self._queue.remove(waiter)
            self._wake_next()  # there may be room for it as well

    async def start(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Start a task that holds one of these, and gives it back itself, when there is room."""
        try:
            await self.acquire()
        except BaseException:
            coroutine.close()
            raise
        try:
            self._pipeline.start(coroutine)
        except BaseException:  # something failed meanwhile, so nothing new begins
            self.release()
            raise

    def _has_room(self, amount: int) -> bool:
        return not self.used or self.used + amount <= self._limit

    def release(self, amount: int = 1) -> None:
        """Give `amount` back."""
        self.used -= amount
        self._wake_next()

    def _wake_next(self) -> None:
        if self._queue:
            self._pipeline.wake(self._queue[0])


class HandleBudget(Budget):
    """
    The bound on open files and folders, here and there.

    The copies on one session share what that allows, and all copies what this process may open.
    """

    def __init__(self, pipeline: Pipeline, session: SftpSession, limit: int) -> None:
        super().__init__(pipeline, limit)
        self._session = session
        session.handles.usage.add(self)
        open_files.usage.add(self)

    def _has_room(self, amount: int) -> bool:
        # A copy that holds none always gets one, so every copy moves; one that holds some waits
        # for its own to be closed.
        if not self.used:
            return True
        return (
            super()._has_room(amount)
            and self._session.has_room_for_handle()
            and open_files.has_room()
        )

    def release_all(self) -> None:
        """Give back whatever is still taken, at the end of a copy that did not end well."""
        self.used = 0
