"""Fakes for the tests of the engine: transports and channels without a network, and gates."""

from __future__ import annotations

import contextlib
import threading
from typing import Any, Callable, ContextManager, Dict, Iterable, List, Optional, Tuple

from ssh_service import background, params
from ssh_service.errors import SshConnectionLost, SshServiceError, SshSessionRefused
from tests.common import PATIENCE

Fake: Any = object
"""The base of what stands for a class of the package: to type checkers it is that class."""


def connect_params(host: str = "alpha", **more: Any) -> Dict[str, Any]:
    """Return parameters that need no file."""
    return {
        "host": host,
        "username": "somebody",
        "password": "open sesame",
        "client_keys": None,
        "agent_path": None,
        "known_hosts": None,
        "config": None,
        **more,
    }


def target(host: str = "alpha", **more: Any) -> params.ConnectParams:
    return params.resolve(connect_params(host, **more))


def in_threads(*functions: Callable[[], Any]) -> List[Any]:
    """Run functions at the same time; return their results, or raise the first error."""
    barrier = threading.Barrier(len(functions))
    results: List[Any] = [None] * len(functions)
    errors: List[BaseException] = []

    def body(number: int, function: Callable[[], Any]) -> None:
        try:
            barrier.wait(PATIENCE)
            results[number] = function()
        except BaseException as exc:
            errors.append(exc)

    threads = [
        threading.Thread(target=body, args=item, daemon=True) for item in enumerate(functions)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * PATIENCE)
        assert not thread.is_alive(), "a thread is stuck"
    if errors:
        raise errors[0]
    return results


def outcome(function: Callable[[], Any]) -> Any:
    """Return what a function returns, or the error it raises."""
    try:
        return function()
    except Exception as exc:
        return exc


def work_done() -> None:
    """Wait until the threads of the process have done what they were given so far."""
    assert background.drain(PATIENCE), "a call is stuck"


callbacks_done = work_done


class FakeTransport(Fake):
    """The part of an `SshTransport` that the cache and the pool use; the test is its server."""

    def __init__(self, connection_id: str = "somebody@alpha:22") -> None:
        self.connection_id = connection_id
        self.remote_version = "SSH-2.0-OpenSSH_9.2p1"
        self.session_limit: Optional[int] = None
        self.session_peak = 0
        self.extras: Dict[str, Any] = {}
        self.sock: Any = None
        self.started: Dict[Any, Optional[int]] = {}  # what `started_sessions` tells
        self.reclaimers: Dict[str, Callable[[], bool]] = {}
        self.others = 0  # channels that are not the pool's
        self.max_sessions: Optional[int] = None  # what the server admits
        self.answers = True  # whether an open is answered at once
        self.window = 1 << 30  # of its channels
        self.opened: List[FakeChannel] = []  # all there ever were
        self.channels: List[FakeChannel] = []  # those that are open or opening
        self.closes = 0
        self.refusals = 0
        self._lock = threading.Lock()
        self._active = True
        self._loss: Optional[Exception] = None
        self._callbacks: List[Callable[..., None]] = []

    def is_active(self) -> bool:
        return self._active

    def probe(self) -> bool:
        return self._active

    def batch(self) -> ContextManager[None]:
        return contextlib.suppress()

    def started_sessions(self) -> Dict[Any, Optional[int]]:
        return dict(self.started)

    def mark_ended(self, starts: Iterable[int]) -> None:
        for number in starts:
            self.started.pop(number, None)

    def reclaim_idle_sessions(self, keep: Optional[str] = None) -> bool:
        return any([give_up() for name, give_up in self.reclaimers.items() if name != keep])

    @property
    def open_channel_count(self) -> int:
        return self.others + sum(not channel.is_idle_spare for channel in self.channels)

    def add_done_callback(self, callback: Callable[..., None]) -> None:
        with self._lock:
            if self._active:
                self._callbacks.append(callback)
                return
        callback(self, self._loss)

    def start_session(self, sink: Any, **_: Any) -> "FakeChannel":
        channel = FakeChannel(self, sink)
        with self._lock:  # so that `lose` tells each channel that there is, as the true one does
            if not self._active:
                raise SshConnectionLost("no connection", sent=False, reason="eof")
            self.opened.append(channel)
            self.channels.append(channel)
        if self.answers:
            channel.answer()
        return channel

    def lose(self, reason: str = "eof") -> None:
        """End it, as the peer or the network does; notifies all channels, then the callbacks."""
        with self._lock:
            if not self._active:
                return
            self._active = False
            clean = reason in ("closed", "goodbye")
            error = SshConnectionLost("the connection ended", reason=reason)
            self._loss = None if clean else error
            callbacks, self._callbacks = self._callbacks, []
        for channel in list(self.channels):
            channel.end(SshConnectionLost("the connection ended", reason=reason))
        for callback in callbacks:
            callback(self, self._loss)

    def close_nowait(self) -> None:
        self.lose("closed")

    def close(self) -> None:
        self.closes += 1
        self.close_nowait()


class FakeChannel(Fake):
    """A session channel; the test answers for the server."""

    def __init__(self, transport: FakeTransport, sink: Any) -> None:
        self.transport = transport
        self.sink = sink
        self.is_idle_spare = False
        self.is_open = False
        self.closed = False
        self.window = transport.window
        self.held_back = False  # whether what is sent is not written
        self.command: Optional[bytes] = None
        self.sent = b""
        self.eof_sent = 0
        self.signals: List[str] = []
        self.terminals = 0  # asked for
        self.start_number: Optional[int] = 0
        self.process: Any = None
        self.given_back = 0
        self.on_send: Callable[[], None] = lambda: None

    @property
    def has_sent(self) -> bool:
        return self.command is not None and not self.held_back

    def get_transport(self) -> FakeTransport:
        return self.transport

    # The server's side.

    def answer(self) -> None:
        """Confirm the channel, or refuse it where there are too many."""
        limit = self.transport.max_sessions
        others = sum(channel.is_open for channel in self.transport.channels)
        if limit is not None and others + self.transport.others >= limit:
            self.transport.refusals += 1
            self.end(SshSessionRefused("too many sessions", code=1))
        else:
            self.is_open = True
            self.sink.on_open(self)

    def end(self, error: Optional[SshServiceError] = None) -> None:
        """Tell the sink of the end."""
        if self in self.transport.channels:
            self.transport.channels.remove(self)
            self.is_open, self.closed = False, True
            self.sink.on_close(error)

    def complete(self, status: int = 0, stdout: bytes = b"") -> None:
        """Run the command to its end."""
        self.sink.on_reply(True)
        if stdout:
            self.sink.on_data(stdout)
        self.sink.on_exit_status(status)
        self.sink.on_eof()
        self.end()

    # What the library calls.

    def request_exec(self, command: bytes) -> None:
        with self.transport._lock:  # as in the gate: what was not sent at the loss never is
            if self.transport._active:
                self.command = command

    def request_pty(self) -> None:
        self.terminals += 1

    def send_some(self, data: Any, *, wait: bool = True) -> int:
        taken = min(len(data), self.window)
        self.window -= taken
        self.sent += bytes(data[:taken])
        self.on_send()
        return taken

    def send_eof(self) -> None:
        self.eof_sent += 1

    def send_signal(self, name: str) -> None:
        self.signals.append(name)

    def adjust_window(self, size: int) -> None:
        self.given_back += size

    def close(self) -> None:
        self.end()

    def close_when_open(self) -> None:
        self.close()


class GatedDialer:
    """
    A dialler that the test holds up, per host, and whose dials it counts.

    Attributes
    ----------
    dials : List[str]
        The hosts dialled, in order.
    transports : List[FakeTransport]
        What was handed out.
    """

    def __init__(self) -> None:
        self.dials: List[str] = []
        self.transports: List[FakeTransport] = []
        self.errors: Dict[str, List[BaseException]] = {}
        self.prepare: Callable[[FakeTransport], None] = lambda transport: None
        self._changed = threading.Condition()
        self._held: Dict[str, bool] = {}

    def hold(self, *hosts: str) -> None:
        with self._changed:
            self._held.update(dict.fromkeys(hosts, True))

    def release(self, *hosts: str) -> None:
        with self._changed:
            for host in hosts or list(self._held):
                self._held[host] = False
            self._changed.notify_all()

    def wait_dialling(self, count: int) -> None:
        """Wait until so many dials have begun."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.dials) >= count, PATIENCE)

    def __call__(self, to: params.ConnectParams, deadline: float, **_: Any) -> FakeTransport:
        with self._changed:
            self.dials.append(to.host)
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: not self._held.get(to.host), PATIENCE)
            errors = self.errors.get(to.host)
            if errors:
                raise errors.pop(0)
            transport = FakeTransport(to.connection_id)
            self.transports.append(transport)
        self.prepare(transport)
        return transport


class Timers:
    """Stands in for `background.call_at`: the test decides when a timer is due."""

    def __init__(self) -> None:
        self.set: List[Tuple[float, background.Timer]] = []

    def call_at(self, instant: float, function: Callable[[], None]) -> background.Timer:
        timer = background.Timer(function)
        self.set.append((instant, timer))
        return timer

    @property
    def live(self) -> List[Tuple[float, background.Timer]]:
        return [item for item in self.set if item[1].function is not None]

    def fire(self) -> None:
        """Make the call that is due first."""
        instant, timer = min(self.live, key=lambda item: item[0])
        function = timer.function
        self.set.remove((instant, timer))
        assert function is not None
        function()
