"""
The receive windows of streams: they grow with what local programs read, within one budget.

A window is what a server may send ahead, so what may lie in this process's memory if a local
program does not read.
"""

from __future__ import annotations

import os
import threading
import time

# Bytes of all windows of the process.  One stream more may exceed it by `_MIN_SIZE`.
_BUDGET = 48 * 1024 * 1024
# Bytes of a new stream's window, and what it has at least if the budget is used up.
_FIRST_SIZE = 256 * 1024
_MIN_SIZE = 64 * 1024
# Bytes of one window at most: 60 ms at 70 MB/s.
_MAX_SIZE = 4 * 1024 * 1024
# A window grows if all of it was read within so many seconds: then it may be what limits the rate.
_ROUND = 1.0
# The part of a window that is given back at once.
_PART = 4


class WindowBudget:
    """
    Bytes that all windows share.

    Notes
    -----
    Thread safety.  Every method may be called from any thread, but not by a signal handler.
    """

    def __init__(self, total: int = _BUDGET) -> None:
        self._lock = threading.Lock()
        self.left = total  # guarded by _lock

    def take(self, size: int, least: int = 0) -> int:
        """Take up to `size` bytes; `least` even if they are not left."""
        with self._lock:
            taken = max(least, min(size, self.left))
            self.left -= taken
            return taken

    def give(self, size: int) -> None:
        """Give back."""
        with self._lock:
            self.left += size


_budget = WindowBudget()


def budget() -> WindowBudget:
    """Return the budget of the process."""
    return _budget


class Window:
    """
    The receive window of one stream.

    Notes
    -----
    Thread safety.  `written` is for one thread at a time; `release` for any, once that is over.
    """

    def __init__(self, shared: WindowBudget) -> None:
        self._budget = shared
        self.size = shared.take(_FIRST_SIZE, _MIN_SIZE)
        self._due = 0  # written, and not given back yet
        self._in_round = 0
        self._round_began = time.monotonic()

    def written(self, size: int) -> int:
        """Count bytes that the local program took; return how many the server may send now."""
        self._due += size
        self._in_round += size
        if self._due < self.size // _PART:
            return 0
        grown = 0
        if self._in_round >= self.size:
            now = time.monotonic()
            if now - self._round_began < _ROUND:
                grown = self._budget.take(min(self.size, _MAX_SIZE - self.size))
                self.size += grown
            self._in_round, self._round_began = 0, now
        due, self._due = self._due + grown, 0
        return due

    def release(self) -> None:
        """Give the window back to the budget."""
        self._budget.give(self.size)
        self.size = 0


def _after_fork_in_child() -> None:
    global _budget
    _budget = WindowBudget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
