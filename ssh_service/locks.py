"""
Locks that a ``with`` statement cannot leave taken, whatever a signal handler raises.

CPython 3.14 looks for signals after each call of a function that is written in C.  A ``with``
statement of a plain lock makes such a call, of `__enter__`, before its block begins; an exception
that comes then skips `__exit__` (gh-148874).  Other releases do not look there.
"""

from __future__ import annotations

import operator
import sys
import threading
from typing import Any, Callable

__all__ = ["Lock", "RLock"]


class GuardedLock:
    """
    A lock for CPython 3.14.

    Its `__enter__` is written in Python, and acquires the lock by reading an attribute, without a
    call.  Its `__exit__` is the lock's own and written in C: it ends before Python looks for
    signals.

    Parameters
    ----------
    lock : Union[threading.Lock, threading.RLock]
        The lock.

    Notes
    -----
    Thread safety.  Every method may be called from any thread.
    """

    __slots__ = ("acquire", "release", "locked", "__exit__")

    def __init__(self, lock: Any) -> None:
        self.acquire, self.release, self.locked = lock.acquire, lock.release, lock.locked
        self.__exit__ = lock.__exit__

    def __enter__(self) -> Any:
        return self._acquired

    _acquired = property(operator.methodcaller("acquire"))


def _guarded_lock() -> Any:
    return GuardedLock(threading.Lock())


def _guarded_rlock() -> Any:
    return GuardedLock(threading.RLock())


_is_torn = sys.implementation.name == "cpython" and sys.version_info[:2] == (3, 14)

Lock: Callable[[], threading.Lock] = _guarded_lock if _is_torn else threading.Lock
RLock: Callable[[], threading.RLock] = _guarded_rlock if _is_torn else threading.RLock
