"""Why a connection ended, and who is notified."""

from __future__ import annotations

from typing import Any, Callable, List, Optional

from ssh_service.errors import SshConnectionLost
from ssh_service.locks import Lock

DoneCallback = Callable[[Any, Optional[SshConnectionLost]], None]

# The reasons of a clean end: closed by this side, or by the server's own decision.
_CLEAN = ("closed", "goodbye")


class EndState:
    """
    The end of one connection: the first reason is final, and the end is handled once.

    Attributes
    ----------
    reason : Optional[SshConnectionLost]
        Why the connection is ending or has ended, even if cleanly; None while it is in use.
    loss : Optional[SshConnectionLost]
        Why the connection was lost; None until it has ended, and after a clean end.

    Notes
    -----
    Thread safety.  Every method may be called from any thread; the attributes are set once and may
    be read without the lock.
    """

    __slots__ = ("_lock", "reason", "loss", "_is_complete", "_callbacks")

    def __init__(self) -> None:
        self._lock = Lock()
        self.reason: Optional[SshConnectionLost] = None  # guarded by _lock
        self.loss: Optional[SshConnectionLost] = None  # guarded by _lock
        self._is_complete = False  # guarded by _lock
        self._callbacks: List[DoneCallback] = []  # guarded by _lock

    def begin(self, reason: SshConnectionLost) -> bool:
        """Set the reason; return False if there was one, or the connection has ended."""
        with self._lock:
            if self.reason is not None or self._is_complete:
                return False
            self.reason = reason
            return True

    def complete(self, reason: SshConnectionLost) -> Optional[List[DoneCallback]]:
        """
        Mark the connection as ended, for `reason` unless there was one before.

        Return the callbacks, which the caller has to call, or None if it had ended before.
        """
        with self._lock:
            if self._is_complete:
                return None
            self._is_complete = True
            self.reason = self.reason or reason
            if self.reason.reason not in _CLEAN:
                self.loss = self.reason
            callbacks, self._callbacks = self._callbacks, []
            return callbacks

    def add_callback(self, callback: DoneCallback) -> bool:
        """Add a callback for the end; return False if the connection has ended."""
        with self._lock:
            if not self._is_complete:
                self._callbacks.append(callback)
            return not self._is_complete
