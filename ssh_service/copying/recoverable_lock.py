"""What one thread does at a time, where an exception may strike it at any moment."""

from __future__ import annotations

import threading
import time
import weakref
from typing import Callable, Optional

from ssh_service.transport.lock_free import LockFreeEvent

__all__ = ["RecoverableLock", "LockOwner"]

# Seconds after which it is looked at whether the holder is still there.
_LIVENESS_INTERVAL = 0.1


class LockOwner:
    """The right to be the one; it belongs to the thread that made it."""

    def __init__(self) -> None:
        self.thread = threading.current_thread()


class RecoverableLock:
    """
    A lock for waits with a limit; a thread that was torn out of its turn locks out nobody.

    An exception of a signal's handler may strike between the end of ``Lock.acquire`` and the
    ``try`` that follows.  Here `take` is called inside of it, and `give` does nothing if the owner
    was not had; one that was lost even so ends with its thread's frame, or its next owner.

    Notes
    -----
    Thread safety.  Every method may be called from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holder: Callable[[], Optional[LockOwner]] = lambda: None  # guarded by _lock
        self._over = LockFreeEvent()  # guarded by _lock: of the holder's owner

    def acquire(self, owner: LockOwner, timeout: Optional[float]) -> bool:
        """
        Wait for one's owner.

        Parameters
        ----------
        owner : LockOwner
            A new one of this thread's.
        timeout : Optional[float]
            Seconds; None: no limit.

        Returns
        -------
        bool
            False when the time was up.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            with self._lock:
                if self._is_free_locked(owner):
                    self._holder, self._over = weakref.ref(owner), LockFreeEvent()
                    return True
                over = self._over
            left = _LIVENESS_INTERVAL if deadline is None else deadline - time.monotonic()
            if left <= 0:
                return False
            over.wait(min(left, _LIVENESS_INTERVAL))

    def _is_free_locked(self, owner: LockOwner) -> bool:
        holder = self._holder()
        return holder is None or holder.thread is owner.thread or not holder.thread.is_alive()

    def release(self, owner: LockOwner) -> None:
        """End one's owner, if it was had."""
        with self._lock:
            if self._holder() is not owner:
                return
            self._holder, over = (lambda: None), self._over
        over.set()
