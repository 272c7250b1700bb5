"""
The receive windows of streams: they grow as local programs read, within a common budget.

A window limits how much the server may send ahead, and thus how much of this process's memory is
used if a local program does not read.
"""

from __future__ import annotations

import os
import time

from ssh_service.locks import Lock

# The total size of all windows of the process in bytes; a stream may exceed it by `_MIN_SIZE`.
_BUDGET = 48 * 1024 * 1024
# The size of a new stream's window in bytes, and its minimum if the budget is used up.
_FIRST_SIZE = 256 * 1024
_MIN_SIZE = 64 * 1024
# The maximum size of a window, in bytes: 60 ms at 70 MB/s.
_MAX_SIZE = 4 * 1024 * 1024
# A window grows if all of it was read within this many seconds: it may limit the throughput.
_ROUND = 1.0
# The window is adjusted once this fraction of it (1/n) was read.
_PART = 4


class WindowBudget:
    """
    The number of bytes that all windows share.

    Notes
    -----
    Thread safety.  Every method may be called from any thread, but not from a signal handler.
    """

    def __init__(self, total: int = _BUDGET) -> None:
        self._lock = Lock()
        self.left = total  # guarded by _lock

    def take(self, size: int, least: int = 0) -> int:
        """Take up to `size` bytes, and at least `least`, even if the budget is used up."""
        with self._lock:
            taken = max(least, min(size, self.left))
            self.left -= taken
            return taken

    def give(self, size: int) -> None:
        """Return bytes to the budget."""
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
    Thread safety.  Only one thread at a time may call `written`; any thread may call `release`
    afterwards.
    """

    def __init__(self, shared: WindowBudget) -> None:
        self._budget = shared
        self.size = shared.take(_FIRST_SIZE, _MIN_SIZE)
        self._due = 0  # bytes written, but not returned to the server's window yet
        self._in_round = 0
        self._round_began = time.monotonic()

    def written(self, size: int) -> int:
        """Count bytes that the local program took; return the size of the window adjustment."""
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
        """Return the window to the budget."""
        self._budget.give(self.size)
        self.size = 0


def _after_fork_in_child() -> None:
    global _budget
    _budget = WindowBudget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
