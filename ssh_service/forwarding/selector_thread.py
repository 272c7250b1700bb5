"""
The selector thread, which waits for the local sockets of all forwards of the process.

It accepts connections, reads what local programs send, and writes data that a socket could not
take immediately.  It owns the sockets: no other thread registers or closes them.
"""

from __future__ import annotations

import collections
import heapq
import itertools
import logging
import os
import select
import selectors
import socket
import sys
import threading
import time
from typing import Any, Callable, Deque, Dict, List, Optional, Set, Tuple

from ssh_service import threads
from ssh_service.errors import SshServiceError
from ssh_service.forwarding.wakeups import make_wakeup
from ssh_service.locks import Lock
from ssh_service.socket_errors import socket_error
from ssh_service.threads import NoMoreThreads

_log = logging.getLogger(__name__)

# The maximum duration of one wait, in seconds.
_MAX_WAIT = 3600.0

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
Handler = Callable[[int], None]
ErrorHandler = Callable[[OSError], None]


class SelectorTimer:
    """A call at a later time; `cancel` must be called on the selector thread."""

    __slots__ = ("function",)

    def __init__(self, function: Callable[[], None]) -> None:
        self.function: Optional[Callable[[], None]] = function

    def cancel(self) -> None:
        """Cancel the call."""
        self.function = None


class SelectorThread:
    """
    Calls handlers of sockets that are ready, and functions that other threads submit.

    Notes
    -----
    Thread safety.  `call_soon`, `own` and `start` may be called from any thread, and `call_soon`
    neither blocks nor takes a lock; everything else runs on the selector thread.
    """

    def __init__(self) -> None:
        self._calls: Deque[Tuple[Callable[..., None], Tuple[Any, ...]]] = collections.deque()
        self._claim = Lock()  # acquired once, by the thread itself
        self._selector = selectors.DefaultSelector()
        self._wakeup = make_wakeup()
        self._selector.register(self._wakeup, READ, self._on_wakeup)
        # The standard library's selectors cannot wait only for an error; epoll can.
        self._errors = select.epoll() if sys.platform == "linux" else None
        if self._errors is not None:
            self._selector.register(self._errors, READ, self._on_errors)
        self._error_handlers: Dict[int, Tuple[socket.socket, ErrorHandler]] = {}
        self._is_asleep = False
        self._sockets: Set[socket.socket] = set()
        self._watched: Dict[socket.socket, Tuple[int, Handler]] = {}
        self._order = itertools.count()
        self._timers: List[Tuple[float, int, SelectorTimer]] = []  # a heap
        self._ident = 0

    def start(self) -> None:
        """
        Start the thread unless it runs.

        Raises
        ------
        SshServiceError
            The system cannot start another thread.
        """
        if self._claim.locked():
            return
        try:
            threads.start_thread(self._run, "ssh-service-selector")
        except NoMoreThreads as error:
            raise SshServiceError(f"cannot forward: {error}") from error

    def is_current(self) -> bool:
        """Return whether the caller is the selector thread, which must never block."""
        return threading.get_ident() == self._ident

    # Callable from any thread.

    def call_soon(self, function: Callable[..., None], *args: Any) -> None:
        """Call a function, which must not block, on the selector thread."""
        self._calls.append((function, args))
        if self._is_asleep:
            self._wakeup.wake()

    def own(self, sock: socket.socket) -> None:
        """Also close the socket in forked children, until `close` is called."""
        self._sockets.add(sock)

    # Only on the selector thread.

    def call_later(self, seconds: float, function: Callable[[], None]) -> SelectorTimer:
        """Call a function, which must not block, after a number of seconds."""
        timer = SelectorTimer(function)
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._order), timer))
        return timer

    def watch(self, sock: socket.socket, events: int, handler: Handler) -> None:
        """Call `handler` when any of `events` occurs; replaces the previous events and handler."""
        before = self._watched.get(sock)
        if not events:
            if before is not None:
                self._selector.unregister(sock)
                del self._watched[sock]
            return
        if before is None:
            self._selector.register(sock, events, handler)
        elif before != (events, handler):
            self._selector.modify(sock, events, handler)
        self._watched[sock] = events, handler

    def watch_error(self, sock: socket.socket, handler: Optional[ErrorHandler]) -> None:
        """
        Call `handler` once the peer has reset a socket; None cancels this.

        The socket must not be watched by `watch`.  Only Linux supports this; elsewhere, a reset is
        noticed when the socket is read or written.
        """
        descriptor = sock.fileno()
        if self._errors is None or (handler is None and descriptor not in self._error_handlers):
            return
        if handler is None:
            del self._error_handlers[descriptor]
            self._errors.unregister(descriptor)
            return
        if descriptor not in self._error_handlers:
            # Edge-triggered: otherwise a Unix socket whose peer has ended would be reported
            # repeatedly.
            self._errors.register(descriptor, select.EPOLLET)
        self._error_handlers[descriptor] = sock, handler

    def _on_errors(self, _: int) -> None:
        if self._errors is None:
            return
        for descriptor, events in self._errors.poll(0):
            if not events & select.EPOLLERR or descriptor not in self._error_handlers:
                continue
            sock, handler = self._error_handlers[descriptor]
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                _call_logged(handler, socket_error(code))

    def close(self, sock: socket.socket) -> None:
        """Close a socket that no other thread uses."""
        self.watch_error(sock, None)
        self.watch(sock, 0, _ignore)
        self._sockets.discard(sock)
        sock.close()

    def _run(self) -> None:
        if not self._claim.acquire(False):
            return  # two threads were started at the same time
        self._ident = threading.get_ident()
        while True:
            try:
                self._step()
            except BaseException:  # no exception may end this thread
                _log.exception("a forward of ssh_service failed; please report this")

    def _step(self) -> None:
        for handler, events in self._wait():
            _call_logged(handler, events)
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            function = heapq.heappop(self._timers)[2].function
            if function is not None:
                _call_logged(function)
        for _ in range(len(self._calls)):  # calls that they add wait until the sockets were served
            function, args = self._calls.popleft()
            _call_logged(function, *args)

    def _wait(self) -> List[Tuple[Handler, int]]:
        wait = _MAX_WAIT
        while self._timers and self._timers[0][2].function is None:
            heapq.heappop(self._timers)
        if self._timers:
            wait = min(wait, max(0.0, self._timers[0][0] - time.monotonic()))
        self._is_asleep = True
        # Check only now: a thread that submitted a call earlier did not wake this one.
        if self._calls:
            wait = 0.0
        try:
            return [(key.data, events) for key, events in self._selector.select(wait)]
        finally:
            self._is_asleep = False

    def _on_wakeup(self, _: int) -> None:
        self._wakeup.drain()

    # In a forked child, where the thread does not exist.

    def abandon(self) -> None:
        """Close this process's copies of all descriptors; the parent's connections stay open."""
        self._selector.close()
        if self._errors is not None:
            self._errors.close()
        self._wakeup.close()
        for sock in list(self._sockets):
            sock.close()


def _call_logged(function: Callable[..., None], *args: Any) -> None:
    try:
        function(*args)
    except BaseException:  # the thread must go on serving other sockets
        _log.exception("a forward of ssh_service failed; please report this")


def _ignore(_: int) -> None:
    pass


_thread: Optional[SelectorThread] = None
_lock = Lock()


def selector_thread() -> SelectorThread:
    """
    Return the running selector thread of this process.

    Raises
    ------
    SshServiceError
        The system has no more threads or descriptors.
    """
    global _thread
    with _lock:
        if _thread is None:
            try:
                _thread = SelectorThread()
            except OSError as error:
                raise SshServiceError(f"cannot forward: {error}") from error
        _thread.start()
        return _thread


def _after_fork_in_child() -> None:
    global _thread, _lock
    inherited, _thread, _lock = _thread, None, Lock()
    if inherited is not None:
        inherited.abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
