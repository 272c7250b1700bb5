"""
The trees that copies under way are making, so that the same copy at the same time makes one tree.

A folder that exists is copied *into*; a folder that another thread's call has only just made for
the same tree is not meant by that, nor is one that this call made before it began anew.
"""

from __future__ import annotations

import os
import threading
from typing import Dict, List, Tuple

__all__ = ["NewTrees"]

# Where, from where, to where.
_Key = Tuple[str, bytes, bytes]


class _UnderWay:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.counts: Dict[_Key, int] = {}  # guarded by lock

    def reset_after_fork(self) -> None:
        """Begin anew: those copies are the parent's."""
        self.lock = threading.Lock()
        self.counts = {}


_under_way = _UnderWay()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_under_way.reset_after_fork)


class NewTrees:
    """
    The trees that one call is making, among those of all calls.

    Parameters
    ----------
    place : str
        What tells connections apart.

    Notes
    -----
    Thread safety.  Each call has its own; calls in any threads know of each other's trees.
    """

    def __init__(self, place: str = "") -> None:
        self._place = place
        self._mine: List[_Key] = []

    def add(self, source: bytes, target: bytes) -> None:
        """Note that nothing is at `target`, and that this call makes it of `source`."""
        key = (self._place, source, target)
        self._mine.append(key)
        with _under_way.lock:
            _under_way.counts[key] = _under_way.counts.get(key, 0) + 1

    def join(self, source: bytes, target: bytes) -> bool:
        """Return whether a call that is under way makes `target` of `source`; then join it."""
        key = (self._place, source, target)
        with _under_way.lock:
            if key not in _under_way.counts:
                return False
            _under_way.counts[key] += 1
        self._mine.append(key)
        return True

    def release(self) -> None:
        """Forget those of this call, which is over."""
        with _under_way.lock:
            for key in self._mine:
                _under_way.counts[key] -= 1
                if not _under_way.counts[key]:
                    del _under_way.counts[key]
        self._mine.clear()
