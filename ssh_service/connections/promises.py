"""
A result that many threads can wait for, without a lock that an exception could leave taken.

`concurrent.futures.Future` has a lock.  If an exception of a signal handler (Ctrl-C) interrupts
one of its methods, the lock can stay taken, and the thread that sets the result would wait
forever: docs/paramiko_repairs.md#torn-calls.
"""

from __future__ import annotations

import logging
from typing import Any, Callable, Dict, Generic, List, Optional, Tuple, TypeVar

from ssh_service.transport.lock_free import LockFreeEvent

_log = logging.getLogger(__name__)

T = TypeVar("T")


class Promise(Generic[T]):
    """
    Like `concurrent.futures.Future`, but without a lock, and without cancellation.

    Notes
    -----
    Thread safety.  Every method may be called from any thread.

    Guarantees.  A promise is settled only once.  `settle` never waits.
    """

    __slots__ = ("_settled", "_outcome", "_callbacks")

    def __init__(self) -> None:
        self._settled = LockFreeEvent()
        self._outcome: Dict[str, Tuple[Optional[T], Optional[BaseException]]] = {}
        # Single operations on dicts and lists are atomic: only one thread gets each callback.
        self._callbacks: List[Callable[[Promise[T]], Any]] = []

    def settle(self, result: Optional[T] = None, error: Optional[BaseException] = None) -> bool:
        """
        Set the result or the error, unless the promise is already settled.

        Return whether this call settled the promise.
        """
        outcome = (result, error)
        first = self._outcome.setdefault("is", outcome) is outcome
        self._settled.set()
        while self._callbacks:
            try:
                callback = self._callbacks.pop(0)
            except IndexError:  # another thread was faster
                break
            self._call(callback)
        return first

    def _call(self, callback: Callable[[Promise[T]], Any]) -> None:
        try:
            callback(self)
        except Exception:  # the other callbacks must still be called
            _log.exception("a callback of a connection that was waited for failed")

    def add_done_callback(self, callback: Callable[[Promise[T]], Any]) -> None:
        """Call a function once, as soon as the promise is settled."""
        self._callbacks.append(callback)
        if self.done():
            try:
                self._callbacks.remove(callback)
            except ValueError:  # the thread that settles the promise calls it
                return
            self._call(callback)

    def done(self) -> bool:
        """Return whether the promise is settled."""
        return self._settled.is_set()

    def wait(self, timeout: Optional[float] = None) -> bool:
        """Wait until the promise is settled; return False if `timeout` (seconds) was reached."""
        return self._settled.wait(timeout)

    def result(self, timeout: Optional[float] = None) -> T:
        """
        Wait for the result.

        Raises
        ------
        TimeoutError
            The promise was not settled within `timeout` seconds.
        BaseException
            The promise was settled with this error.
        """
        error = self.exception(timeout)
        if error is not None:
            raise error
        return self._outcome["is"][0]  # type: ignore[return-value]

    def exception(self, timeout: Optional[float] = None) -> Optional[BaseException]:
        """
        Wait for the outcome; return the error, or None if there is a result.

        Raises
        ------
        TimeoutError
            The promise was not settled within `timeout` seconds.
        """
        if not self.wait(timeout):
            raise TimeoutError(f"not settled within {timeout:g} s")
        return self._outcome["is"][1]
