"""
The threads that work for the whole process: the clock, those for our own chores, those for users'.

They start when they are first needed and are daemons; what is due when the interpreter ends is
still done.  Nothing here knows about SSH.
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
import threading
import time
from typing import Any, Callable, Deque, List, Optional, Set, Tuple

from ssh_service import crew
from ssh_service.crew import Crew, Strand
from ssh_service.errors import SshServiceError

__all__ = [
    "Strand",
    "Timer",
    "call_at",
    "callback_runner",
    "has_threads",
    "hold_exit",
    "is_at_work",
    "leave_work",
    "let_exit",
    "on_callback_thread",
    "require_threads",
    "rest",
    "run_callback",
    "work",
]

_log = logging.getLogger(__name__)

# Seconds after which a wait of the clock is begun anew; threads cannot wait for some instants.
_LONGEST_WAIT = 3600.0
# Timers that may lie in wait before the cancelled ones among them are thrown out.
_FEW = 1024
# Seconds that calls which are due have at the interpreter's end.
_LAST_CALLS = 1.0
# Seconds that what is being ended on hosts has then: TERM, KILL a second later, round trips.
_LAST_ENDS = 2.5
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
        """See to it that the call is not made, unless it is being made already."""
        self.function = None  # and with it goes all it held alive


class _Clock:
    """
    Makes calls when they are due, on one thread.

    `call_at` takes no lock, which a signal handler could leave taken, and with it all the
    process's time-outs: see docs/paramiko_repairs.md#torn-calls.
    """

    def __init__(self) -> None:
        self._order = itertools.count()
        self._handed_over: Deque[Tuple[float, int, Timer]] = collections.deque()
        self._woken: "queue.SimpleQueue[None]" = queue.SimpleQueue()
        # What follows belongs to the clock's thread; others look at the first.
        self._wakes_at = _AWAKE
        self._due: List[Tuple[float, int, Timer]] = []  # a heap
        self._crowded = _FEW  # the length at which cancelled ones are sought
        self._claim = threading.Lock()  # taken once, by the clock's thread

    def call_at(self, instant: float, function: Callable[[], None]) -> Timer:
        if instant != instant:  # among numbers that can be compared it would be due for ever
            raise ValueError("a call cannot be due at NaN")
        timer = Timer(function)
        self._handed_over.append((instant, next(self._order), timer))
        # A clock that is awake looks at what was handed over before it sleeps.
        wakes_at = self._wakes_at
        if instant < wakes_at or (wakes_at > _AWAKE and len(self._handed_over) > _FEW):
            self._woken.put(None)
        if not self.has_thread():
            _log.error("timed calls have to wait: the system gives no more threads")
        return timer

    def has_thread(self) -> bool:
        if self._claim.locked():
            return True
        try:
            threading.Thread(target=self._run, name="ssh-service-clock", daemon=True).start()
        except RuntimeError:
            return False
        return True

    def _run(self) -> None:
        if not self._claim.acquire(False):
            return  # two were started at once
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
            self._sort_in()
            while self._due and self._due[0][2].function is None:
                heapq.heappop(self._due)
            due = self._due[0][0] if self._due else _NEVER
            wait = due - time.monotonic()
            if wait <= 0:
                return heapq.heappop(self._due)[2]
            self._wakes_at = due
            if not self._handed_over:  # else whoever did so may have thought the clock awake
                try:
                    self._woken.get(timeout=None if due == _NEVER else min(wait, _LONGEST_WAIT))
                except queue.Empty:
                    pass
            self._wakes_at = _AWAKE

    def _sort_in(self) -> None:
        while self._handed_over:
            heapq.heappush(self._due, self._handed_over.popleft())
        if len(self._due) > self._crowded:
            # Most commands end long before their time is up, and their timers with them.
            self._due = [entry for entry in self._due if entry[2].function is not None]
            heapq.heapify(self._due)
            self._crowded = max(_FEW, 2 * len(self._due))


def call_at(instant: float, function: Callable[[], None]) -> Timer:
    """
    Call a function of ours when its time has come.

    Parameters
    ----------
    instant : float
        When, by `time.monotonic`.
    function : Callable[[], None]
        Must not wait: all of the process's timed calls share one thread.

    Returns
    -------
    Timer
        To cancel it.
    """
    return _clock.call_at(instant, function)


def run_callback(function: Callable[..., Any], *args: Any) -> None:
    """
    Run a user's code on a callback thread: later, in the order of these calls, whatever it does.

    Parameters
    ----------
    function : Callable[..., Any]
        May wait, raise (it is logged) and call this package again.
    *args : Any
        Its arguments.
    """
    _submit(_callbacks, _in_order, function, *args)


def callback_runner() -> Callable[..., None]:
    """
    Make what runs a user's code in an order of its own.

    Returns
    -------
    Callable[..., None]
        As `run_callback`, whose calls do not wait for these, nor these for them.
    """
    strand = Strand()
    return lambda function, *args: _submit(_callbacks, strand, function, *args)


def on_callback_thread() -> bool:
    """
    Tell whether this is a thread that runs users' code.

    Returns
    -------
    bool
        True where the caller must not wait for what `run_callback` was given.
    """
    return crew.current_crew() is _callbacks


def work(strand: Strand, function: Callable[..., Any], *args: Any) -> None:
    """
    Have a call of ours made on a thread of ours.

    No exception of a signal's handler, which may reach the caller's thread anywhere, can keep it
    from being made to its end, or leave a lock taken.

    Parameters
    ----------
    strand : Strand
        The calls after which it is made.
    function : Callable[..., Any]
        Must not wait for the network.
    *args : Any
        Its arguments.
    """
    _submit(_workers, strand, function, *args)


def leave_work(strand: Strand, function: Callable[..., Any], *args: Any) -> None:
    """
    Have a call of ours made, where a destructor wants it: no thread is started, no lock taken.

    Parameters
    ----------
    strand, function, *args
        As for `work`.
    """
    _workers.leave(strand, function, *args)


def is_at_work() -> bool:
    """
    Tell whether this thread makes calls that `work` was given.

    Returns
    -------
    bool
        True where the caller must not wait for another of them.
    """
    return crew.current_crew() is _workers


def rest(timeout: float) -> bool:
    """
    Wait until all has been done that was handed to `work`, `run_callback` and its like.

    Parameters
    ----------
    timeout : float
        Seconds.

    Returns
    -------
    bool
        False when the time was up.
    """
    deadline = time.monotonic() + timeout
    return _workers.rest(timeout) and _callbacks.rest(max(0.0, deadline - time.monotonic()))


def require_threads() -> None:
    """
    Refuse to begin what would never end, once the interpreter has ended all threads but one.

    Raises
    ------
    SshServiceError
        It has: this is a finalizer (``__del__``) of what was left when the program was over.
    """
    if sys.is_finalizing():
        raise SshServiceError("the interpreter is shutting down: nothing can be begun any more")


def has_threads() -> bool:
    """
    Tell whether there are the threads that `work` and `call_at` need, and start them.

    Returns
    -------
    bool
        False where the system gives none.
    """
    return _clock.has_thread() and _workers.has_threads()


def _submit(which: Crew, strand: Strand, function: Callable[..., Any], *args: Any) -> None:
    try:
        which.submit(strand, function, *args)
    except RuntimeError as exc:  # for a reader thread, this is no reason to end
        _log.error("calls have to wait: %s", exc)


def _begin() -> Tuple[_Clock, Crew, Crew, Strand]:
    clock = _Clock()
    workers = Crew("ssh-service-worker", clock.call_at)
    return clock, workers, Crew("ssh-service-callbacks", clock.call_at), Strand()


_clock, _workers, _callbacks, _in_order = _begin()
_being_ended: Set[object] = set()  # each change is one step of the interpreter's


def hold_exit(what: object) -> None:
    """
    Have the interpreter's end wait, for some seconds at most, until `let_exit` is called.

    Parameters
    ----------
    what : object
        What is being ended on a host, such as a command.
    """
    _being_ended.add(what)


def let_exit(what: object) -> None:
    """
    Take back what `hold_exit` was told; nothing happens where it was told nothing.

    Parameters
    ----------
    what : object
        The same.
    """
    _being_ended.discard(what)


def _forget_parent() -> None:
    # A forked child has neither the threads nor a sane state of their locks.
    global _clock, _workers, _callbacks, _in_order
    _clock, _workers, _callbacks, _in_order = _begin()
    _being_ended.clear()


def _make_last_calls() -> None:
    # Else a program that closes its cache in its last line would not hear of it, and a command
    # that was given up with the program would go on over there.
    _workers.rest(_LAST_CALLS)
    deadline = time.monotonic() + _LAST_ENDS
    while _being_ended and time.monotonic() < deadline:
        time.sleep(0.002)
    rest(_LAST_CALLS)


atexit.register(_make_last_calls)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parent)
