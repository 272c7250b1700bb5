"""What copies hold of something that there is little of, each on its own account."""

from __future__ import annotations

import threading
import weakref
from typing import List

__all__ = ["Usage", "UsageTotal"]


class Usage:
    """
    One that holds some.

    Attributes
    ----------
    used : int
        How many it holds; changed by itself alone.
    """

    used = 0


class UsageTotal:
    """
    All that hold some, as long as they live.

    There is no count of them all which an exception of a signal's handler could leave wrong.

    Notes
    -----
    Thread safety.  Every method may be called from any thread.  Who asks, and then takes, may take
    a few too many where others do the same: the limits leave room for that.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._all: List["weakref.ref[Usage]"] = []  # guarded by _lock; replaced as a whole

    def add(self, usage: Usage) -> None:
        """Count one more."""
        with self._lock:
            self._all = [known for known in self._all if known() is not None]
            self._all.append(weakref.ref(usage))

    @property
    def used(self) -> int:
        """How many all of them hold."""
        with self._lock:
            usage = [known() for known in self._all]
        return sum(max(0, holder.used) for holder in usage if holder is not None)
