"""An event that a reader thread can set, whatever became of those who waited for it."""

from __future__ import annotations

import collections
import threading
from typing import Deque, Optional


class Latch:
    """
    What `threading.Event` does, without a lock of its own.

    An exception of a signal's handler (Ctrl-C) can tear a thread out of ``Event.wait`` with the
    event's lock taken; ``Event.set`` then waits for ever, and with it the reader thread and all
    whom it serves (fault G23).  `set` never waits here.

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
            limit = -1.0 if timeout is None else min(max(timeout, 0.0), threading.TIMEOUT_MAX)
            return waiter.acquire(True, limit) or self._is_set
        finally:
            try:
                self._waiters.remove(waiter)
            except ValueError:
                pass  # `set` took it
