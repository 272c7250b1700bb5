"""
The two threads that work for the whole process: one for the clock, one for users' code.

Both start when they are first needed and are daemons; callbacks that are due when the interpreter
ends are still made.  Nothing here knows about SSH.
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
from typing import Any, Callable, Deque, List, Optional, Tuple

from ssh_service.errors import SshServiceError

_log = logging.getLogger(__name__)

Call = Tuple[Callable[..., Any], Tuple[Any, ...]]

# Seconds after which a wait of the clock is begun anew; threads cannot wait for some instants.
_LONGEST_WAIT = 3600.0
# Timers that may lie in wait before the cancelled ones among them are thrown out.
_FEW = 1024
# Seconds that callbacks which are due have at the interpreter's end.
_LAST_CALLS = 1.0


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
    """Makes calls when they are due, on one thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._due: List[Tuple[float, int, Timer]] = []  # guarded by _changed; a heap
        self._crowded = _FEW  # guarded by _changed: the length at which cancelled ones are sought
        self._order = itertools.count()
        self._thread: Optional[threading.Thread] = None  # guarded by _changed

    def call_at(self, instant: float, function: Callable[[], None]) -> Timer:
        if instant != instant:  # among numbers that can be compared it would be due for ever
            raise ValueError("a call cannot be due at NaN")
        timer = Timer(function)
        with self._changed:
            heapq.heappush(self._due, (instant, next(self._order), timer))
            first = self._due[0][2] is timer
            if len(self._due) > self._crowded:
                # Most commands end long before their time is up, and their timers with them.
                self._due = [entry for entry in self._due if entry[2].function is not None]
                heapq.heapify(self._due)
                self._crowded = max(_FEW, 2 * len(self._due))
            if self._thread is None:
                self._thread = _started(self._run, "ssh-service-clock")
            elif first:
                self._changed.notify()
        return timer

    def _run(self) -> None:
        while True:
            function = self._next().function
            if function is not None:
                try:
                    function()
                except BaseException:  # nothing may end this thread
                    _log.exception("a timed call of ssh_service failed; please report this")
            del function

    def _next(self) -> Timer:
        with self._changed:
            while True:
                while self._due and self._due[0][2].function is None:
                    heapq.heappop(self._due)
                wait = self._due[0][0] - time.monotonic() if self._due else None
                if wait is not None and wait <= 0:
                    return heapq.heappop(self._due)[2]
                self._changed.wait(None if wait is None else min(wait, _LONGEST_WAIT))


class _Callbacks:
    """Runs users' code, in order, on one thread."""

    def __init__(self) -> None:
        self._calls: "queue.SimpleQueue[Call]" = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: Optional[threading.Thread] = None  # guarded by _lock

    def submit(self, function: Callable[..., Any], *args: Any) -> None:
        self._calls.put((function, args))
        try:
            with self._lock:
                if self._thread is None:
                    self._thread = _started(self._run, "ssh-service-callbacks")
        except RuntimeError as exc:  # for a reader thread, this is no reason to end
            _log.error("callbacks have to wait: %s", exc)

    def is_here(self) -> bool:
        return self._thread is threading.current_thread()  # a look; only that thread finds itself

    def finish(self, timeout: float) -> None:
        with self._lock:
            if self._thread is None:
                return
        done = threading.Event()
        self._calls.put((done.set, ()))
        done.wait(timeout)

    def _run(self) -> None:
        _here.is_for_callbacks = True
        while True:
            _perform(*self._calls.get())


class _Aside:
    """Runs users' code, in order, on a thread that ends when there is nothing left to run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: Deque[Call] = collections.deque()  # guarded by _lock
        self._running = False  # guarded by _lock

    def submit(self, function: Callable[..., Any], *args: Any) -> None:
        with self._lock:
            self._calls.append((function, args))
            starts, self._running = not self._running, True
        try:
            if starts:
                _started(self._run, "ssh-service-callbacks-aside")
        except RuntimeError as exc:
            _log.error("callbacks have to wait: %s", exc)
            with self._lock:
                self._running = False

    def _run(self) -> None:
        _here.is_for_callbacks = True
        while True:
            with self._lock:
                if not self._calls:
                    self._running = False
                    return
                call = self._calls.popleft()
            _perform(*call)
            del call


def _perform(function: Callable[..., Any], args: Tuple[Any, ...]) -> None:
    try:
        function(*args)
    except BaseException:  # SystemExit too: everyone's callbacks need this thread
        _log.exception("a callback raised")


_here = threading.local()  # is_for_callbacks: this thread runs users' code


def _started(target: Callable[[], None], name: str) -> threading.Thread:
    thread = threading.Thread(target=target, name=name, daemon=True)
    thread.start()  # where the system gives no more threads, the next call tries again
    return thread


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
    Run a user's code on the callback thread: later, in order, whatever it does.

    Parameters
    ----------
    function : Callable[..., Any]
        May wait, raise (it is logged) and call this package again.
    *args : Any
        Its arguments.
    """
    _callbacks.submit(function, *args)


def run_in_turn(function: Callable[..., Any], *args: Any) -> None:
    """
    Run a call on the callback thread: at once if this is that thread, or else as `run_callback`.

    Parameters
    ----------
    function : Callable[..., Any]
        As for `run_callback`, but what it raises here reaches the caller.
    *args : Any
        Its arguments.
    """
    if _callbacks.is_here():
        function(*args)
    else:
        run_callback(function, *args)


def on_callback_thread() -> bool:
    """
    Tell whether this is the callback thread, or one that stands in for it.

    Returns
    -------
    bool
        True where the caller must not wait for another callback.
    """
    return getattr(_here, "is_for_callbacks", False)


def callback_runner() -> Callable[..., None]:
    """
    Choose who runs a user's code that the caller may wait for.

    Returns
    -------
    Callable[..., None]
        `run_callback`; on the callback thread, which would wait for itself, another like it that
        has a thread of its own.
    """
    return _Aside().submit if on_callback_thread() else run_callback


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


_clock = _Clock()
_callbacks = _Callbacks()


def _forget_parent() -> None:
    # A forked child has neither the threads nor a sane state of their locks.
    global _clock, _callbacks, _here
    _clock, _callbacks, _here = _Clock(), _Callbacks(), threading.local()


def _make_last_calls() -> None:
    # Else a program that closes its cache in its last line would not hear of it.
    _callbacks.finish(_LAST_CALLS)


atexit.register(_make_last_calls)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parent)
