"""An exception of a signal's handler anywhere in a call for a command: done or undone, whole."""

from __future__ import annotations

import gc
import queue
import signal
import threading
import time
from functools import partial
from typing import Any, Callable, Dict, Iterator, List

import pytest

from ssh_service import fleet, operations, params, run, start
from ssh_service.connections.cache import SshClientCache
from ssh_service.ssh_host_service import SshHostService
from ssh_service.ssh_service import SshService
from tests.common import PATIENCE, eventually
from tests.injection import HOWS, tear
from tests.unit.engine_fakes import (
    FakeChannel,
    FakeTransport,
    GatedDialer,
    connect_params,
    work_done,
)

# Seconds for the moments of one call; the long test takes all of them.
LIMIT = 1.5


class Server:
    """Plays a reader thread: ``wait`` ends after a moment, unless it is held, or by a signal."""

    def __init__(self) -> None:
        self.is_held = False
        self._events: "queue.SimpleQueue[Any]" = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="played-reader", daemon=True)
        self._thread.start()

    def prepare(self, transport: FakeTransport) -> None:
        transport.start_session = self._start_session(transport)  # type: ignore[method-assign]

    def _start_session(self, transport: FakeTransport) -> Callable[..., FakeChannel]:
        original = transport.start_session
        transport.answers = False

        def start_session(sink: Any, **more: Any) -> FakeChannel:
            channel = original(sink, **more)
            request, signal = channel.request_exec, channel.send_signal
            close = channel.close

            def request_exec(command: bytes) -> None:
                request(command)
                if command == b"hello":
                    self._events.put(lambda: channel.complete(0, b"hello"))
                else:
                    self._events.put(lambda: self._end_soon(channel, 5))

            def send_signal(name: str) -> None:
                signal(name)
                self._events.put(lambda: self._signalled(channel, name))

            channel.request_exec = request_exec  # type: ignore[method-assign]
            channel.send_signal = send_signal  # type: ignore[method-assign]
            channel.close = lambda: self._events.put(close)  # type: ignore[method-assign]
            self._events.put(channel.answer)
            return channel

        return start_session

    def _end_soon(self, channel: FakeChannel, rounds: int) -> None:
        if channel.closed:
            return
        if self.is_held or rounds:
            time.sleep(0.001)
            self._events.put(lambda: self._end_soon(channel, max(0, rounds - 1)))
        else:
            channel.complete(0)

    def _signalled(self, channel: FakeChannel, name: str) -> None:
        if not channel.closed:
            channel.sink.on_exit_signal(name, False, "")
            channel.sink.on_eof()
            channel.end()

    def _serve(self) -> None:
        while True:
            event = self._events.get()
            if event is None:
                return
            event()

    def close(self) -> None:
        self._events.put(None)
        self._thread.join(PATIENCE)


class Place:
    """A cache, the server it talks to, and calls whose every moment is to be torn."""

    service: SshHostService

    def __init__(self) -> None:
        self.server = Server()
        self.dialer = GatedDialer()
        self.dialer.prepare = self.server.prepare
        self.cache = SshClientCache(dialer=self.dialer)

    def running(self) -> List[FakeChannel]:
        return [c for t in self.dialer.transports for c in t.channels if c.command is not None]

    def is_at_rest(self) -> bool:
        """Tell whether nothing runs, waits, or is counted that is not there."""
        if self.running() or self.cache.stats()["leases"]:
            return False
        pool: Any = self.cache._slots.session_pool(params.resolve(connect_params()).key, 0.0)
        return pool is None or not (
            pool._scheduler._queue
            or any(connection.sessions for connection in pool._scheduler.connections)
        )

    def check(self) -> None:
        """Run a plain command, and see that all that was torn has ended and is not counted."""
        self.server.is_held = True  # what is torn ends by being ended, not by itself
        hello = run(connect_params(), "hello", cache=self.cache, timeout=PATIENCE)
        assert hello.stdout == "hello"
        eventually(
            # What an exception's frames hold may be a cycle: the collector lets it go.
            lambda: self.is_at_rest() or (gc.collect() < 0),
            "what was torn has ended, and nothing is counted any more",
        )
        self.server.is_held = False

    def close(self) -> None:
        self.cache.cleanup()
        work_done()
        self.server.close()


@pytest.fixture(name="place")
def a_place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    place = Place()
    run(connect_params(), "hello", cache=place.cache, timeout=PATIENCE)
    monkeypatch.setattr(SshService, "_CLIENT_CACHE", place.cache)
    place.service = SshHostService({"ssh_known_hosts_path": None, "ssh_username": "somebody"})
    with place.service:
        yield place
    place.close()


def by_start(place: Place) -> None:
    with start(connect_params(), "wait", cache=place.cache) as process:
        process.result()


def by_lines(place: Place) -> None:
    list(start(connect_params(), "wait", cache=place.cache).lines())


def by_service(place: Place) -> None:
    service = place.service
    _, info = service.remote_exec(["wait"], {"ssh_hostname": "alpha"})
    service.wait_os_operation(info)


CALLS: Dict[str, Callable[[Place], Any]] = {
    "run": lambda place: run(connect_params(), "wait", cache=place.cache),
    "run with a limit": lambda p: run(connect_params(), "wait", cache=p.cache, timeout=PATIENCE),
    "run with a function": lambda place: run(
        connect_params(), "wait", cache=place.cache, on_stdout=lambda piece: None
    ),
    "start": by_start,
    "lines": by_lines,
    "submit": lambda place: operations.submit(place.cache, connect_params(), "wait").result(),
    "service": by_service,
    "fleet": lambda place: list(fleet.run([connect_params()], "wait", cache=place.cache)),
}


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of generators
@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("what", CALLS)
def test_interrupted_call_ends_its_command_and_leaks_nothing(
    what: str, how: str, place: Place
) -> None:
    """The destination stays usable; no session, lease or place in the queue is lost."""
    assert tear(lambda: partial(CALLS[what], place), how, place.check, LIMIT) >= 20


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs pthread_kill")
def test_run_interrupted_by_any_exception_ends_its_command_at_once(place: Place) -> None:
    """Also while the exception is handled: its traceback holds the frames of the call."""
    main = threading.main_thread()

    def interrupt() -> None:
        eventually(place.running, "the command runs")
        signal.pthread_kill(main.ident, signal.SIGUSR1)  # type: ignore[arg-type]

    def handler(number: int, frame: Any) -> None:
        raise SystemExit("as handlers of SIGTERM do")

    place.server.is_held = True
    before = signal.signal(signal.SIGUSR1, handler)
    thread = threading.Thread(target=interrupt, name="interrupt", daemon=True)
    try:
        thread.start()
        with pytest.raises(SystemExit) as caught:
            run(connect_params(), "wait", cache=place.cache)
        eventually(lambda: not place.running(), "the command is ended")
        assert caught.value.__traceback__ is not None
    finally:
        signal.signal(signal.SIGUSR1, before)
        thread.join(PATIENCE)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of generators
@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("what", CALLS)
def test_call_interrupted_at_each_line_ends_its_command(what: str, how: str, place: Place) -> None:
    """Each moment there is."""
    assert tear(lambda: partial(CALLS[what], place), how, place.check) > 100


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of generators
@pytest.mark.parametrize("how", HOWS)
def test_a_first_call_torn_anywhere_leaves_a_destination_that_can_be_used(how: str) -> None:
    """No dial that nobody makes."""
    places: List[Place] = []

    def make() -> Callable[[], Any]:
        places.append(Place())
        return partial(CALLS["run"], places[-1])

    def check() -> None:
        places[-1].check()
        places.pop().close()

    try:
        assert tear(make, how, check, LIMIT, at_least=12) >= 12
    finally:
        for place in places:
            place.close()
