"""Messages that wait to be sent, and the batches that threads make of them."""

from __future__ import annotations

import threading
import time
from typing import Dict, List, Optional, Set, Tuple

from paramiko.message import Message

from ssh_service.transport import reaper
from ssh_service.transport.outbound import SendState

# Seconds for which a deferred message waits for others.
_COALESCE_DELAY = 0.002


class SendQueue(List[Tuple[Message, Optional[SendState]]]):
    """
    Messages of one connection that wait for the send lock, each with its channel's state.

    It is a list: `append` and `pop` are atomic and take no lock, which an exception of a signal
    handler could leave taken, and they cost no call of Python code.  (A deque takes 600 bytes even
    if it is empty, and this one nearly always is.)

    Attributes
    ----------
    batches : Dict[int, Set[int]]
        By the number of a thread, the batches that it is in; each thread changes only its own.
    flush_at : float
        The monotonic instant at which the reader thread sends a deferred message, or 0.0.

    Notes
    -----
    Thread safety.  `defer` and `time_to_flush` are for the reader thread; the rest for any thread.
    """

    __slots__ = ("batches", "flush_at")

    def __init__(self) -> None:
        super().__init__()
        self.batches: Dict[int, Set[int]] = {}
        self.flush_at = 0.0  # reader thread only

    def defer(self) -> bool:
        """Let a single message wait for others; return False if there are more: send them now."""
        if len(self) > 1:
            return False
        self.flush_at = time.monotonic() + _COALESCE_DELAY
        return True

    def time_to_flush(self, now: float) -> float:
        """Return for how many seconds a deferred message may still wait."""
        if now >= self.flush_at or not self:
            self.flush_at = 0.0
        return max(0.0, self.flush_at - now)


class Batch:
    """See `SendingTransport.batch`; a class, as a generator takes twice as long."""

    _is_open = False

    def __init__(self, sender: reaper.Sender, queue: SendQueue, defer: bool) -> None:
        self._sender = sender
        self._queue = queue
        self._defer = defer
        self._thread = threading.get_ident()

    def __enter__(self) -> None:
        self._is_open = True
        self._queue.batches.setdefault(self._thread, set()).add(id(self))

    def __exit__(self, *exc_info: object) -> None:
        was_last = self._leave()
        if was_last and self._defer:
            if not self._queue.defer():
                self._sender._flush()
        elif was_last:
            self._sender._flush_or_submit()
        self._is_open = False

    def __del__(self) -> None:
        # An exception of a signal handler interrupted `__exit__`: without this, nothing that the
        # thread sends would leave any more.
        if self._is_open:
            self._leave()
            reaper.submit(self._sender)

    def _leave(self) -> bool:
        """Leave the batch; return whether the thread is in no other one."""
        batches = self._queue.batches
        others = batches.get(self._thread, set())
        others.discard(id(self))
        if not others:
            batches.pop(self._thread, None)
        return not others
