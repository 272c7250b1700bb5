"""How many local files all copies of this process may hold open, by what the system allows it."""

from __future__ import annotations

import os
import threading

try:
    import resource
except ImportError:  # a system without such limits
    resource = None  # type: ignore[assignment]

__all__ = ["OpenFiles", "open_files"]

# Of the descriptors that the process may have, copies take one in so many: a file that comes down
# takes its folder's, too, and the rest of the program needs its own.
_SHARE = 3
_AT_LEAST = 8


class OpenFiles:
    """
    Counts the files that copies hold open.

    Notes
    -----
    Thread safety.  Every method may be called from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held = 0  # guarded by _lock

    @property
    def limit(self) -> float:
        """How many there may be; read anew each time, as a program may raise its limit."""
        if resource is None:
            return float("inf")
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return float("inf") if soft == resource.RLIM_INFINITY else max(_AT_LEAST, soft // _SHARE)

    def reserve(self, first: bool) -> bool:
        """
        Ask for the right to open one more.

        Parameters
        ----------
        first : bool
            Whether the copy that asks holds none: then it is granted, so that every copy moves.
        """
        limit = self.limit
        with self._lock:
            if self._held >= limit and not first:
                return False
            self._held += 1
            return True

    def release(self) -> None:
        """Give that right back."""
        with self._lock:
            self._held -= 1

    def reset_after_fork(self) -> None:
        """Begin anew: the copies that hold any are the parent's."""
        self._lock = threading.Lock()
        self._held = 0


open_files = OpenFiles()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=open_files.reset_after_fork)
