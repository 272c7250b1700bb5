"""
The trees that copies in progress create, so that concurrent copies of one tree make one tree.

An existing folder is copied *into*.  This does not apply to a folder that another call has just
created for the same tree, nor to one that this call created before it was restarted.
"""

from __future__ import annotations

import os
from typing import Dict, List, Tuple

from ssh_service.locks import Lock

__all__ = ["NewTrees"]

# Direction and connection, source, target.
_TreeKey = Tuple[str, bytes, bytes]


class _UnderWay:
    def __init__(self) -> None:
        self.lock = Lock()
        self.counts: Dict[_TreeKey, int] = {}  # guarded by lock

    def leave_locked(self, key: _TreeKey) -> None:
        self.counts[key] -= 1
        if not self.counts[key]:
            del self.counts[key]

    def reset_after_fork(self) -> None:
        """Start empty: the copies belong to the parent process."""
        self.lock = Lock()
        self.counts = {}


_under_way = _UnderWay()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_under_way.reset_after_fork)


class NewTrees:
    """
    The trees that one call creates, among those of all calls; `place` distinguishes connections.

    Notes
    -----
    Thread safety.  Each call has its own object; calls in all threads see each other's trees.
    """

    def __init__(self, place: str = "") -> None:
        self._place = place
        self._mine: List[_TreeKey] = []

    def add(self, source: bytes, target: bytes) -> None:
        """Record that `target` does not exist, and that this call creates it from `source`."""
        key = (self._place, source, target)
        self._mine.append(key)
        with _under_way.lock:
            _under_way.counts[key] = _under_way.counts.get(key, 0) + 1

    def join(self, source: bytes, target: bytes) -> bool:
        """Return whether a call in progress creates `target` from `source`; if so, join it."""
        key = (self._place, source, target)
        with _under_way.lock:
            if key not in _under_way.counts:
                return False
            _under_way.counts[key] += 1
        self._mine.append(key)
        return True

    def release(self) -> None:
        """Forget the trees of this call, which has ended."""
        with _under_way.lock:
            for key in self._mine:
                _under_way.leave_locked(key)
        self._mine.clear()
