"""How fast a server is dialled: gates in place of a network."""

from __future__ import annotations

import threading
import time
from typing import Any, List

import pytest

from ssh_service.connections import pacing
from ssh_service.connections.pacing import Pacer
from ssh_service.errors import SshAuthError, SshConnectError, SshConnectTimeout

from .engine_fakes import PATIENCE, FakeTransport, in_threads, outcome


def soon(seconds: float = PATIENCE) -> float:
    return time.monotonic() + seconds


def throttled() -> SshConnectError:
    error = SshConnectError("Exceeded MaxStartups", phase="banner")
    error.throttled = True
    return error


class Now:
    """A clock that the test sets."""

    def __init__(self, now: float) -> None:
        self.now = now

    def monotonic(self) -> float:
        return self.now

    def go_on(self, seconds: float) -> None:
        self.now += seconds


class Gate:
    """A dial that says when it has begun, and goes on when it may."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside = 0
        self.most = 0
        self.begun = threading.Semaphore(0)
        self.go = threading.Event()

    def __call__(self) -> Any:
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        self.begun.release()
        assert self.go.wait(PATIENCE)
        with self.lock:
            self.inside -= 1
        return FakeTransport()


def test_at_most_five_dials_to_one_server_are_under_way() -> None:
    pacer, gate = Pacer(), Gate()

    def open_when_five_are_in() -> None:
        for _ in range(5):
            assert gate.begun.acquire(timeout=PATIENCE)
        gate.go.set()

    in_threads(open_when_five_are_in, *[lambda: pacer.dial("a", soon(), gate) for _ in range(20)])
    assert gate.most == 5


def test_dials_of_one_server_never_delay_another() -> None:
    pacer, gate = Pacer(), Gate()

    def dial_another() -> None:
        for _ in range(5):
            assert gate.begun.acquire(timeout=PATIENCE)
        assert isinstance(pacer.dial("b", soon(), FakeTransport), FakeTransport)
        gate.go.set()

    in_threads(dial_another, *[lambda: pacer.dial("a", soon(), gate) for _ in range(5)])


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Now:
    clock = Now(1000.0)
    monkeypatch.setattr(pacing, "time", clock)
    return clock


@pytest.mark.parametrize(
    "jitter, least",
    [(0.0, [0.125, 0.25, 0.5, 1.0, 2.0, 2.0]), (1.0, [0.25, 0.5, 1.0, 2.0, 4.0, 4.0])],
)
def test_dropped_dial_is_repeated_after_growing_pauses(
    jitter: float, least: List[float], clock: Now
) -> None:
    pacer = Pacer(jitter=lambda: jitter)
    pacer._changed.wait = clock.go_on  # type: ignore[assignment,method-assign]
    began: List[float] = []

    def dial() -> Any:
        began.append(clock.now)
        if len(began) <= len(least):
            raise throttled()
        return FakeTransport()

    assert isinstance(pacer.dial("a", 1100.0, dial), FakeTransport)
    assert [after - before for before, after in zip(began, began[1:])] == least


def test_a_refused_credential_is_never_shown_again() -> None:
    calls: List[int] = []

    def dial() -> Any:
        calls.append(1)
        raise SshAuthError("no")

    with pytest.raises(SshAuthError):
        Pacer().dial("a", soon(), dial)
    assert calls == [1]


def test_the_servers_words_are_the_error_when_the_time_is_up(clock: Now) -> None:
    pacer, began = Pacer(jitter=lambda: 0.0), []
    pacer._changed.wait = clock.go_on  # type: ignore[assignment,method-assign]

    def dial() -> Any:
        began.append(clock.now)
        raise throttled()

    with pytest.raises(SshConnectError, match="Exceeded MaxStartups"):
        pacer.dial("a", 1000.3, dial)
    assert began == [1000.0, 1000.125]  # the next one would have been too late


def test_second_dial_attempt_timeout_reports_the_whole_time(
    clock: Now,
) -> None:
    """Not with that of the last wait alone, which may have been next to nothing."""
    pacer, asked = Pacer(jitter=lambda: 0.0), threading.Semaphore(0)

    def dial() -> Any:
        clock.now += 29.8
        raise throttled()

    def is_wanted() -> bool:
        asked.release()
        return True

    def drop_another() -> None:
        for _ in range(2):  # before it is tried again, and while it waits for that
            assert asked.acquire(timeout=PATIENCE)
        with pacer._changed:
            pacer._servers["a"].not_before = 2000.0
        clock.now = 1030.1
        pacer.wake_waiters()

    error, _ = in_threads(
        lambda: outcome(lambda: pacer.dial("a", 1030.0, dial, is_wanted)), drop_another
    )
    assert isinstance(error, SshConnectTimeout)
    assert "timed out after 30.1 s of waiting to dial" in str(error)


def test_waiting_and_later_dials_share_one_limit() -> None:
    """The last dial under way, when it ends, takes nothing away from those who wait."""
    pacer, gate = Pacer(), Gate()
    waits, over = threading.Semaphore(0), threading.Event()

    def is_wanted() -> bool:
        waits.release()
        return True

    def succeed() -> None:
        pacer.dial("a", soon(), gate)
        over.set()

    def wait_for_room() -> None:
        assert gate.begun.acquire(timeout=PATIENCE)
        pacer._servers["a"].not_before = soon()
        pacer.dial("a", soon(), FakeTransport, is_wanted)

    def look() -> None:
        assert waits.acquire(timeout=PATIENCE)
        door = pacer._servers["a"]
        gate.go.set()
        assert over.wait(PATIENCE)
        try:
            assert pacer._servers.get("a") is door
        finally:
            door.not_before = 0.0
            pacer.wake_waiters()

    in_threads(succeed, wait_for_room, look)
    assert not pacer._servers


def test_dial_that_never_gets_its_turn_ends_at_the_deadline() -> None:
    pacer, gate = Pacer(), Gate()

    def too_late() -> None:
        for _ in range(5):
            assert gate.begun.acquire(timeout=PATIENCE)
        name = "somebody@alpha:22"
        error = outcome(
            lambda: pacer.dial(("a", "route"), soon(0.05), FakeTransport, connection_id=name)
        )
        gate.go.set()
        assert isinstance(error, SshConnectTimeout)
        assert error.connection_id == name and str(error).startswith(f"{name}: timed out after")
        assert "route" not in str(error)

    in_threads(too_late, *[lambda: pacer.dial(("a", "route"), soon(), gate) for _ in range(5)])


def test_abandoned_dial_gives_up_its_place_in_the_queue() -> None:
    pacer, gate = Pacer(), Gate()
    wanted = threading.Event()
    wanted.set()
    asked = threading.Semaphore(0)

    def is_wanted() -> bool:
        asked.release()
        return wanted.is_set()

    def give_up() -> None:
        assert asked.acquire(timeout=PATIENCE)  # it has found no room, and waits
        wanted.clear()
        pacer.wake_waiters()

    def wait_in_vain() -> None:
        for _ in range(5):
            assert gate.begun.acquire(timeout=PATIENCE)
        error = outcome(lambda: pacer.dial("a", soon(), FakeTransport, is_wanted))
        gate.go.set()
        assert isinstance(error, SshConnectTimeout)

    in_threads(give_up, wait_in_vain, *[lambda: pacer.dial("a", soon(), gate) for _ in range(5)])


def test_nothing_is_kept_of_a_server_that_was_dialled() -> None:
    pacer = Pacer()
    for number in range(100):
        pacer.dial(number, soon(), FakeTransport)
    assert not pacer._servers
