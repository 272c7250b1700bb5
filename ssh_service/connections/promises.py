"""
A result that many threads wait for, without a lock that an exception could leave taken.

`concurrent.futures.Future` has a lock.  An exception of a signal handler (Ctrl-C) can leave one of
its methods with that lock taken; the thread that sets the result would then wait without end:
docs/paramiko_repairs.md#torn-calls.
"""

from __future__ import annotations

import collections
import logging
from typing import Any, Callable, Deque, Dict, Generic, Optional, Tuple, TypeVar

from ssh_service.transport.lock_free import LockFreeEvent

_log = logging.getLogger(__name__)

T = TypeVar("T")


class Promise(Generic[T]):
    """
    What `concurrent.futures.Future` does, without a lock; it cannot be cancelled.

    Notes
    -----
    Thread safety.  Every method may be called from any thread.

    Guarantees.  It is settled once.  `settle` never waits.

    """

    def __init__(self) -> None:
        self._settled = LockFreeEvent()
        self._outcome: Dict[str, Tuple[Optional[T], Optional[BaseException]]] = {}
        # Single operations on dicts and deques are atomic: each function is taken by one thread.
        self._callbacks: Deque[Callable[[Promise[T]], Any]] = collections.deque()

    def settle(self, result: Optional[T] = None, error: Optional[BaseException] = None) -> bool:
        """
        Set the result, or the error, unless that was done before.

        Return whether this call was the first.
        """
        outcome = (result, error)
        first = self._outcome.setdefault("is", outcome) is outcome
        self._settled.set()
        while self._callbacks:
            try:
                callback = self._callbacks.popleft()
            except IndexError:  # another thread was faster
                break
            self._call(callback)
        return first

    def _call(self, callback: Callable[[Promise[T]], Any]) -> None:
        try:
            callback(self)
        except Exception:  # the others have to be called all the same
            _log.exception("a callback of a connection that was waited for failed")

    def add_done_callback(self, callback: Callable[[Promise[T]], Any]) -> None:
        """Call a function once, when this is settled."""
        self._callbacks.append(callback)
        if self.done():
            try:
                self._callbacks.remove(callback)
            except ValueError:  # the thread that settled it calls it
                return
            self._call(callback)

    def done(self) -> bool:
        """Return whether it is settled."""
        return self._settled.is_set()

    def wait(self, timeout: Optional[float] = None) -> bool:
        """Wait until it is settled; return False when the time was up."""
        return self._settled.wait(timeout)

    def result(self, timeout: Optional[float] = None) -> T:
        """
        Wait for the result.

        Raises
        ------
        TimeoutError
            It was not settled in that time.
        BaseException
            The error it was settled with.

        """
        error = self.exception(timeout)
        if error is not None:
            raise error
        return self._outcome["is"][0]  # type: ignore[return-value]

    def exception(self, timeout: Optional[float] = None) -> Optional[BaseException]:
        """
        Wait for the outcome.

        Raises
        ------
        TimeoutError
            It was not settled in that time.

        """
        if not self.wait(timeout):
            raise TimeoutError(f"not settled within {timeout:g} s")
        return self._outcome["is"][1]
