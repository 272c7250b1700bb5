"""The amounts of a scarce resource that copies hold, counted separately."""

from __future__ import annotations

import weakref
from typing import List

from ssh_service.locks import Lock

__all__ = ["Usage", "UsageTotal"]


class Usage:
    """The amount that one holder uses; only the holder changes `used`."""

    used = 0


def _is_alive(holder: weakref.ref[Usage]) -> bool:
    return holder() is not None


class UsageTotal:
    """
    The sum over all holders that are alive.

    There is no shared counter, which an exception from a signal handler could leave with a wrong
    value.

    Notes
    -----
    Thread safety.  Every method may be called from any thread.  Concurrent callers that check and
    then acquire may exceed a limit slightly; the limits allow for that.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._all: List["weakref.ref[Usage]"] = []  # guarded by _lock; replaced as a whole

    def add(self, usage: Usage) -> None:
        """Add a holder."""
        with self._lock:
            self._all = list(filter(_is_alive, self._all))
            self._all.append(weakref.ref(usage))

    @property
    def used(self) -> int:
        """The total amount that all holders use."""
        with self._lock:
            usage = [known() for known in self._all]
        return sum(max(0, holder.used) for holder in usage if holder is not None)
