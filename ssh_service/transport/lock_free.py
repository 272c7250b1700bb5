"""An event and a condition whose notifying side never blocks, even if a waiter was interrupted."""

from __future__ import annotations

import threading
import time
from typing import Any, Callable, List, Optional

# Seconds after which the main thread interrupts its wait, so that signal handlers can run.
# CPython ends a wait for a lock when a signal interrupts it, but not when the signal came a moment
# before the wait or was delivered to another thread.
_SIGNAL_INTERVAL = 1.0


def _acquire(waiter: threading.Lock, deadline: Optional[float]) -> bool:
    """Wait for a lock, and let signal handlers run meanwhile."""
    if threading.current_thread() is not threading.main_thread():
        left = -1.0 if deadline is None else max(0.0, deadline - time.monotonic())
        return waiter.acquire(True, min(left, threading.TIMEOUT_MAX))
    while True:
        left = _SIGNAL_INTERVAL
        if deadline is not None:
            left = min(left, max(0.0, deadline - time.monotonic()))
        if waiter.acquire(True, left):
            return True
        if deadline is not None and time.monotonic() >= deadline:
            return False


class LockFreeEvent:
    """
    A `threading.Event` without a lock of its own, whose `set` never blocks.

    An exception of a signal handler (Ctrl-C) can leave ``Event.wait`` with the event's lock taken.
    ``Event.set`` then blocks without end, and with it the reader thread and all its users: see
    docs/paramiko_repairs.md#torn-calls.

    Notes
    -----
    Thread safety.  Every method may be called from any thread.
    """

    __slots__ = ("_is_set", "_waiters")

    def __init__(self) -> None:
        self._is_set = False
        # Each waiting thread has its own lock.  A list's operations are atomic, and an empty list
        # has a tenth of an empty deque's size: a connection has many events.
        self._waiters: List[threading.Lock] = []

    def is_set(self) -> bool:
        """Return whether the event is set."""
        return self._is_set

    def set(self) -> None:
        """Set the event and release all waiting threads."""
        self._is_set = True
        while self._waiters:
            try:
                self._waiters.pop(0).release()
            except IndexError:  # another thread was faster
                return

    def clear(self) -> None:
        """Reset the event: later waits last until the next `set`."""
        self._is_set = False

    def wait(self, timeout: Optional[float] = None) -> bool:
        """Wait until the event is set; return False after `timeout` seconds (None: no limit)."""
        if self._is_set:
            return True
        waiter = threading.Lock()
        waiter.acquire()
        self._waiters.append(waiter)
        try:
            if self._is_set:  # before this thread was in the queue
                return True
            deadline = None if timeout is None else time.monotonic() + timeout
            return _acquire(waiter, deadline) or self._is_set
        finally:
            try:
                self._waiters.remove(waiter)
            except ValueError:
                pass  # `set` took it


class LockFreeCondition:
    """
    A `threading.Condition` without a lock; `notify_all` never blocks (see `LockFreeEvent`).

    Notes
    -----
    Thread safety.  Every method may be called from any thread.
    """

    __slots__ = ("_waiters",)

    def __init__(self) -> None:
        self._waiters: List[threading.Lock] = []

    def notify_all(self) -> None:
        """Let all waiting threads check their predicates again."""
        while self._waiters:
            try:
                self._waiters.pop(0).release()
            except IndexError:  # another thread was faster
                return

    def wait_for(self, predicate: Callable[[], Any], timeout: Optional[float] = None) -> bool:
        """Wait until `predicate()` is true; return False after `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not predicate():
            waiter = threading.Lock()
            waiter.acquire()
            self._waiters.append(waiter)
            try:
                if predicate():  # it became true before this thread was in the queue
                    return True
                if not _acquire(waiter, deadline):
                    return bool(predicate())
            finally:
                try:
                    self._waiters.remove(waiter)
                except ValueError:
                    pass  # `notify_all` took it
        return True
