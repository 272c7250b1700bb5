"""A lock that is released if its holder dies, or is interrupted by an exception at any point."""

from __future__ import annotations

import threading
import time
import weakref
from typing import Callable, Optional

from ssh_service.locks import Lock
from ssh_service.transport.lock_free import LockFreeEvent

__all__ = ["RecoverableLock", "LockOwner"]

# Seconds between two checks that the holder still exists.
_LIVENESS_INTERVAL = 0.1


class LockOwner:
    """A token for one acquisition; it belongs to the thread that created it."""

    def __init__(self) -> None:
        self.thread = threading.current_thread()


class RecoverableLock:
    """
    A lock that is released when its holder's thread or frame no longer exists.

    A signal handler may raise between the return of ``Lock.acquire`` and the following ``try``.
    Here, `acquire` is called inside the ``try``, and `release` does nothing if the lock was not
    acquired.  A lock that was never released becomes free when the frame that held its owner is
    gone, or when the same thread acquires it again.

    Notes
    -----
    Thread safety.  Every method may be called from any thread.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._holder: Callable[[], Optional[LockOwner]] = lambda: None  # guarded by _lock
        self._released = LockFreeEvent()  # guarded by _lock: of the holder's owner

    def acquire(self, owner: LockOwner, timeout: Optional[float]) -> bool:
        """Acquire the lock for `owner`, a new token; return False after `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            with self._lock:
                if self._is_free_locked(owner):
                    self._holder, self._released = weakref.ref(owner), LockFreeEvent()
                    return True
                released = self._released
            left = _LIVENESS_INTERVAL if deadline is None else deadline - time.monotonic()
            if left <= 0:
                return False
            released.wait(min(left, _LIVENESS_INTERVAL))

    def _is_free_locked(self, owner: LockOwner) -> bool:
        holder = self._holder()
        return holder is None or holder.thread is owner.thread or not holder.thread.is_alive()

    def release(self, owner: LockOwner) -> None:
        """Release the lock, if `owner` holds it."""
        with self._lock:
            if self._holder() is not owner:
                return
            self._holder, released = (lambda: None), self._released
        released.set()
