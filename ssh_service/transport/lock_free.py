"""Events that a reader thread can tell, whatever became of those who waited for them."""

from __future__ import annotations

import collections
import threading
import time
from typing import Any, Callable, Deque, Optional

# Seconds of a wait of the main thread's after which the interpreter looks for signals once more.
# CPython ends a wait for a lock where a signal interrupts it; one that comes a moment before, as
# the thread hands the interpreter over to another, or that another thread receives, does not.
_SIGNAL_INTERVAL = 1.0


def _acquire(waiter: threading.Lock, deadline: Optional[float]) -> bool:
    """Wait for a lock, and let handlers of signals run meanwhile."""
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
    What `threading.Event` does, without a lock of its own.

    An exception of a signal's handler (Ctrl-C) can tear a thread out of ``Event.wait`` with the
    event's lock taken; ``Event.set`` then waits for ever, and with it the reader thread and all
    whom it serves: see docs/paramiko_repairs.md#torn-calls.  `set` never waits here.

    Notes
    -----
    Thread safety.  Every method may be called from any thread.
    """

    def __init__(self) -> None:
        self._is_set = False
        # Each who waits does so for a lock of its own; a deque's operations are atomic.
        self._waiters: Deque[threading.Lock] = collections.deque()

    def is_set(self) -> bool:
        """Tell whether it is set."""
        return self._is_set

    def set(self) -> None:
        """Set it, and release all who wait."""
        self._is_set = True
        while True:
            try:
                self._waiters.popleft().release()
            except IndexError:
                return

    def clear(self) -> None:
        """Let those who wait from now on wait for the next `set`."""
        self._is_set = False

    def wait(self, timeout: Optional[float] = None) -> bool:
        """
        Wait until it is set.

        Parameters
        ----------
        timeout : Optional[float]
            Seconds; None waits for ever.

        Returns
        -------
        bool
            False when the time was up.
        """
        if self._is_set:
            return True
        waiter = threading.Lock()
        waiter.acquire()
        self._waiters.append(waiter)
        try:
            if self._is_set:  # just before we were in the queue
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
    What `threading.Condition` does for who waits, without a lock of its own; see `LockFreeEvent`.

    Notes
    -----
    Thread safety.  Every method may be called from any thread.
    """

    def __init__(self) -> None:
        self._waiters: Deque[threading.Lock] = collections.deque()

    def notify_all(self) -> None:
        """Have all who wait look again; never waits itself."""
        while True:
            try:
                self._waiters.popleft().release()
            except IndexError:
                return

    def wait_for(self, look: Callable[[], Any], timeout: Optional[float] = None) -> bool:
        """
        Wait until something is true.

        Parameters
        ----------
        look : Callable[[], Any]
            Whether it is; asked now, and whenever the bell rings.
        timeout : Optional[float]
            Seconds; None waits for ever.

        Returns
        -------
        bool
            False when the time was up.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while not look():
            waiter = threading.Lock()
            waiter.acquire()
            self._waiters.append(waiter)
            try:
                if look():  # it came true just before we were in the queue
                    return True
                if not _acquire(waiter, deadline):
                    return bool(look())
            finally:
                try:
                    self._waiters.remove(waiter)
                except ValueError:
                    pass  # `notify_all` took it
        return True
