"""
A thread pool for strands: calls of one strand run in order, different strands run concurrently.

A call is submitted by atomic operations, and still runs if an exception prevents the last of them.
So calls may be submitted by destructors, and by threads in which a signal handler can raise.
"""

from __future__ import annotations

import collections
import logging
import queue
import threading
import time
from typing import Any, Callable, Deque, Optional, Set, Tuple

from ssh_service import threads
from ssh_service.locks import Lock
from ssh_service.threads import NoMoreThreads, log_refusal

_log = logging.getLogger(__name__)

# Seconds that a strand waits for a thread before another thread is started.
_START_DELAY = 0.02
# Seconds after which an idle thread ends; the last one stays.
_IDLE_TIMEOUT = 5.0
# The most threads of one executor.
_MAX_THREADS = 256

Call = Tuple[Callable[..., Any], Tuple[Any, ...]]


class Strand:
    """
    Calls that are made one after the other, in the order in which they were submitted.

    Notes
    -----
    Thread safety.  Only `StrandExecutor` may use the methods and fields.
    """

    __slots__ = ("calls", "_turn")

    def __init__(self) -> None:
        self.calls: Deque[Call] = collections.deque()
        self._turn = Lock()  # held by the thread that makes the calls

    def run(self) -> None:
        """Run the calls, unless another thread is doing so."""
        while self.calls and self._turn.acquire(False):
            try:
                self._make_calls()
            finally:
                self._turn.release()
            # The thread that added a call just before the release found the turn taken, so check
            # again.

    def _make_calls(self) -> None:
        while self.calls:
            _call_logged(*self.calls.popleft())


def _call_logged(function: Callable[..., Any], args: Tuple[Any, ...]) -> None:
    try:
        function(*args)
    except BaseException:  # SystemExit too: others need this thread
        _log.exception("a callback raised")


class StrandExecutor:
    """
    A pool of threads that run strands.

    Usually there is one thread.  When a strand has waited for some milliseconds because all
    threads are busy or blocked, another thread is started.  A thread ends when it has been idle
    for a while, except the last one.

    Parameters
    ----------
    name : str
        The name of the threads.
    call_at : Callable[[float, Callable[[], None]], Any]
        Calls a function at a monotonic instant, see `ssh_service.background.call_at`.

    Notes
    -----
    Thread safety.  Every method may be called from any thread.

    Guarantees.  The calls of one strand are made in order, one at a time.  A call waits for calls
    of other strands for some milliseconds at most, unless `_MAX_THREADS` calls block at once.
    """

    def __init__(self, name: str, call_at: Callable[[float, Callable[[], None]], Any]) -> None:
        self._name = name
        self._call_at = call_at
        self._strands: Deque[Strand] = collections.deque()  # one item for each submitted call
        self._wakeups: "queue.SimpleQueue[None]" = queue.SimpleQueue()
        # Single operations on sets are atomic, so these are read without a lock.
        self._threads: Set[int] = set()
        self._idle: Set[int] = set()
        self._lock = Lock()  # taken only by the executor's own threads
        self._started = 0  # guarded by _lock: items that were taken from `_strands`
        self._finished = 0  # guarded by _lock: items whose calls were made
        self._waiting_until = (
            0  # the value of `_started` once all items that waited at the last check were taken
        )
        # When the timer checks.  If that is long ago, an exception interrupted the setting of it.
        self._check_at = 0.0

    def submit(self, strand: Strand, function: Callable[..., Any], *args: Any) -> None:
        """
        Add a call to a strand.

        Raises
        ------
        NoMoreThreads
            There is no thread, and the system refuses to start one.  The call is made if a later
            `submit` succeeds.
        """
        self.enqueue(strand, function, *args)
        if not self._threads:
            self._start_thread()
        self._watch_if_busy()

    def enqueue(self, strand: Strand, function: Callable[..., Any], *args: Any) -> None:
        """
        Add a call without starting a thread or taking a lock, for use in destructors.

        If an exception interrupts this, either the call is not submitted, or it runs with the next
        one.
        """
        strand.calls.append((function, args))
        self._strands.append(strand)
        self._wakeups.put(None)

    def ensure_thread(self) -> bool:
        """Start a thread if there is none; return whether there is one."""
        if not self._threads:
            try:
                self._start_thread()
            except NoMoreThreads:
                return False
        return True

    def drain(self, timeout: float) -> bool:
        """Wait until all submitted calls have been made; return False if `timeout` was reached."""
        deadline = time.monotonic() + timeout
        self._wakeups.put(None)  # a `submit` may have been interrupted before it sent its wakeup
        while self._threads and not self._is_drained():
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.002)
        return True

    def _is_drained(self) -> bool:
        with self._lock:
            return not self._strands and self._finished == self._started

    # More threads, and fewer.

    def _start_thread(self) -> None:
        thread = threads.start_thread(self._run, self._name)
        self._threads.add(thread.ident or 0)  # the thread itself may not have done so yet

    def _watch_if_busy(self) -> None:
        if not self._idle and time.monotonic() > self._check_at + 2 * _START_DELAY:
            self._watch()

    def _watch(self) -> None:
        self._waiting_until = self._started + len(self._strands)
        self._check_at = time.monotonic() + _START_DELAY
        self._call_at(self._check_at, self._check_waiting)

    def _check_waiting(self) -> None:
        """Start a thread if a strand has waited since the last check."""
        self._check_at = 0.0  # first: later calls set a new check, earlier ones are seen below
        if not self._strands:
            return
        if (
            self._started < self._waiting_until
            and not self._idle
            and len(self._threads) < _MAX_THREADS
        ):
            try:
                self._start_thread()
            except NoMoreThreads as exc:
                log_refusal(_log, f"{self._name}: calls have to wait: {exc}")
        self._watch()

    def _run(self) -> None:
        me = threading.get_ident()
        self._threads.add(me)
        _here.executor = self
        while True:
            self._idle.add(me)
            try:
                self._wakeups.get(timeout=_IDLE_TIMEOUT if len(self._threads) > 1 else None)
            except queue.Empty:
                if self._retire(me):
                    return
            self._idle.discard(me)
            while self._strands:
                self._run_next_strand()

    def _run_next_strand(self) -> None:
        """Run the next strand, unless another thread took it."""
        with self._lock:
            if not self._strands:
                return
            strand = self._strands.popleft()
            self._started += 1
        if self._strands:  # a submitting thread may have seen this thread as idle
            self._watch_if_busy()
        strand.run()
        with self._lock:
            self._finished += 1

    def _retire(self, me: int) -> bool:
        with self._lock:
            if len(self._threads) == 1:
                return False
            self._threads.discard(me)
        self._idle.discard(me)
        # A call that was added while this thread seemed idle would not be run by another thread.
        if not self._strands:
            return True
        self._threads.add(me)
        return False


_here = threading.local()  # its attribute `executor` is the executor of the current thread


def current_executor() -> Optional[StrandExecutor]:
    """Return the executor of the current thread; None if it belongs to none."""
    return getattr(_here, "executor", None)
