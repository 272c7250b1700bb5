"""
The threads of the process: the timer thread, worker threads, and callback threads for users' code.

They are daemon threads that start at first use.  Calls that are due when the interpreter exits are
still made.  Nothing in this module is specific to SSH.
"""

from __future__ import annotations

import atexit
import collections
import heapq
import itertools
import logging
import os
import queue
import sys
import time
from typing import Any, Callable, Deque, List, Optional, Set, Tuple

from ssh_service import strands, threads
from ssh_service.errors import SshServiceError
from ssh_service.locks import Lock
from ssh_service.strands import Strand, StrandExecutor
from ssh_service.threads import NoMoreThreads, log_refusal

__all__ = [
    "Strand",
    "Timer",
    "call_at",
    "callback_runner",
    "ensure_threads",
    "delay_exit",
    "is_worker_thread",
    "submit_from_destructor",
    "allow_exit",
    "is_callback_thread",
    "require_threads",
    "drain",
    "run_callback",
    "submit",
]

_log = logging.getLogger(__name__)

# The longest single wait of the timer thread, in seconds: threads cannot wait for arbitrarily
# distant instants.
_MAX_WAIT = 3600.0
# The number of timers above which cancelled ones are removed.
_COMPACT_THRESHOLD = 1024
# Seconds for calls that are due when the interpreter exits.
_EXIT_DRAIN_TIMEOUT = 1.0
# Seconds for commands that are being ended at that time: TERM, KILL a second later, round trips.
_EXIT_TERMINATION_TIMEOUT = 2.5
_NEVER, _AWAKE = float("inf"), float("-inf")


class Timer:
    """
    A call that is due at some instant; see `call_at`.

    Notes
    -----
    Thread safety.  `cancel` may be called from any thread, any number of times.
    """

    __slots__ = ("function",)

    def __init__(self, function: Callable[[], None]) -> None:
        self.function: Optional[Callable[[], None]] = function

    def cancel(self) -> None:
        """Cancel the call unless it has already started."""
        self.function = None  # also drops the objects that the function kept alive


class _Clock:
    """
    Makes calls when they are due, on one thread.

    `call_at` takes no lock: if a signal handler's exception left the lock taken, no timeout of the
    process would work any more.  See docs/paramiko_repairs.md#torn-calls.
    """

    def __init__(self) -> None:
        self._order = itertools.count()
        self._submitted: Deque[Tuple[float, int, Timer]] = collections.deque()
        self._wakeups: "queue.SimpleQueue[None]" = queue.SimpleQueue()
        # The other fields belong to the timer thread; other threads only read `_wakes_at`.
        self._wakes_at = _AWAKE
        self._due: List[Tuple[float, int, Timer]] = []  # a heap
        self._compact_at = _COMPACT_THRESHOLD  # the length above which it is compacted
        self._claim = Lock()  # taken once, by the timer thread

    def call_at(self, instant: float, function: Callable[[], None]) -> Timer:
        if instant != instant:  # NaN would break the order of the heap
            raise ValueError("a call cannot be due at NaN")
        timer = Timer(function)
        self._submitted.append((instant, next(self._order), timer))
        # If the timer thread is awake, it takes all submitted timers before it sleeps.
        wakes_at = self._wakes_at
        if instant < wakes_at or (wakes_at > _AWAKE and len(self._submitted) > _COMPACT_THRESHOLD):
            self._wakeups.put(None)
        if not self.ensure_thread():
            log_refusal(_log, "timed calls have to wait: the system gives no more threads")
        return timer

    def ensure_thread(self) -> bool:
        if self._claim.locked():
            return True
        try:
            threads.start_thread(self._run, "ssh-service-clock")
        except NoMoreThreads:
            return False
        return True

    def _run(self) -> None:
        if not self._claim.acquire(False):
            return  # another timer thread was started at the same time
        while True:
            function = self._next().function
            if function is not None:
                try:
                    function()
                except BaseException:  # nothing may end this thread
                    _log.exception("a timed call of ssh_service failed; please report this")
            del function

    def _next(self) -> Timer:
        while True:
            self._merge_submitted()
            while self._due and self._due[0][2].function is None:
                heapq.heappop(self._due)
            due = self._due[0][0] if self._due else _NEVER
            wait = due - time.monotonic()
            if wait <= 0:
                return heapq.heappop(self._due)[2]
            self._wakes_at = due
            # A thread that submitted a timer before `_wakes_at` was set sends no wakeup.
            if not self._submitted:
                try:
                    self._wakeups.get(timeout=None if due == _NEVER else min(wait, _MAX_WAIT))
                except queue.Empty:
                    pass
            self._wakes_at = _AWAKE

    def _merge_submitted(self) -> None:
        while self._submitted:
            heapq.heappush(self._due, self._submitted.popleft())
        if len(self._due) > self._compact_at:
            # Most commands end long before their timeout, and cancel their timers.
            self._due = [entry for entry in self._due if entry[2].function is not None]
            heapq.heapify(self._due)
            self._compact_at = max(_COMPACT_THRESHOLD, 2 * len(self._due))


def call_at(instant: float, function: Callable[[], None]) -> Timer:
    """Call a function at a monotonic instant, on the timer thread; it must not block."""
    return _clock.call_at(instant, function)


def run_callback(function: Callable[..., Any], *args: Any) -> None:
    """Run a user's function on the callback thread, in the order of these calls."""
    _submit_to(_callbacks, _in_order, function, *args)


def callback_runner() -> Callable[..., None]:
    """Return a function like `run_callback` whose calls have an order of their own."""
    strand = Strand()
    return lambda function, *args: _submit_to(_callbacks, strand, function, *args)


def is_callback_thread() -> bool:
    """Return whether this is a callback thread, which must not wait for `run_callback`."""
    return strands.current_executor() is _callbacks


def submit(strand: Strand, function: Callable[..., Any], *args: Any) -> None:
    """
    Run a call on a worker thread, in the order of its strand.

    An exception that a signal handler raises in the caller's thread can neither interrupt the call
    nor leave a lock taken.
    """
    _submit_to(_workers, strand, function, *args)


def submit_from_destructor(strand: Strand, function: Callable[..., Any], *args: Any) -> None:
    """Do as `submit` from a destructor: start no thread and take no lock."""
    _workers.enqueue(strand, function, *args)


def is_worker_thread() -> bool:
    """Return whether this is a worker thread, which must not wait for `submit`."""
    return strands.current_executor() is _workers


def drain(timeout: float) -> bool:
    """
    Wait until all calls of `submit`, `run_callback` and similar functions have been made.

    Return False if `timeout` (seconds) was reached first.
    """
    deadline = time.monotonic() + timeout
    return _workers.drain(timeout) and _callbacks.drain(max(0.0, deadline - time.monotonic()))


def require_threads() -> None:
    """
    Check that the interpreter is not shutting down, when other threads no longer run.

    Without threads, an operation that starts then would never end.

    Raises
    ------
    SshServiceError
        The interpreter is shutting down: the caller is a finalizer (``__del__``), for example.
    """
    if sys.is_finalizing():
        raise SshServiceError("the interpreter is shutting down: nothing new can be started")


def ensure_threads() -> bool:
    """Start the timer thread and a worker if necessary; return False if the system refuses."""
    return _clock.ensure_thread() and _workers.ensure_thread()


def _submit_to(
    which: StrandExecutor, strand: Strand, function: Callable[..., Any], *args: Any
) -> None:
    try:
        which.submit(strand, function, *args)
    except NoMoreThreads as exc:  # must not end the calling reader thread
        log_refusal(_log, f"calls have to wait: {exc}")


def _create_threads() -> Tuple[_Clock, StrandExecutor, StrandExecutor, Strand]:
    clock = _Clock()
    workers = StrandExecutor("ssh-service-worker", clock.call_at)
    return clock, workers, StrandExecutor("ssh-service-callbacks", clock.call_at), Strand()


_clock, _workers, _callbacks, _in_order = _create_threads()
_delaying_exit: Set[object] = set()  # changed only by atomic operations


def delay_exit(what: object) -> None:
    """Delay the interpreter's exit until `allow_exit` is called, but only for some seconds."""
    _delaying_exit.add(what)


def allow_exit(what: object) -> None:
    """Undo `delay_exit`; do nothing if it was not called."""
    _delaying_exit.discard(what)


def _after_fork_in_child() -> None:
    # A forked child does not have the threads, and their locks may be in any state.
    global _clock, _workers, _callbacks, _in_order
    _clock, _workers, _callbacks, _in_order = _create_threads()
    _delaying_exit.clear()


def _drain_at_exit() -> None:
    # Otherwise, if a program closes its cache in its last line, its hooks would not be called, and
    # a command that is being ended would keep running on its host.
    _workers.drain(_EXIT_DRAIN_TIMEOUT)
    deadline = time.monotonic() + _EXIT_TERMINATION_TIMEOUT
    while _delaying_exit and time.monotonic() < deadline:
        time.sleep(0.002)
    drain(_EXIT_DRAIN_TIMEOUT)


atexit.register(_drain_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
