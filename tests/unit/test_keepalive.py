"""The accounts of keepalives, on a clock of the test's own."""

from __future__ import annotations

from typing import List, Tuple

import pytest

from ssh_service.transport.keepalive import KeepaliveMonitor, KeepaliveTimeout

HEARD = 1000.0


def until_lost(monitor: KeepaliveMonitor, now: float = HEARD) -> Tuple[List[float], float]:
    """Hear nothing from `HEARD` on; return when the server was asked, and when it was given up."""
    asked: List[float] = []
    for _ in range(100):
        try:
            ask, wait = monitor.check(now, HEARD)
        except KeepaliveTimeout:
            return asked, now - HEARD
        if ask:
            asked.append(now - HEARD)
        now += max(0.0, wait)
    raise AssertionError("is never given up")


@pytest.mark.parametrize(
    "count, asked",
    [(1, [5.0]), (2, [10.0]), (3, [10.0, 20.0]), (5, [10.0, 20.0, 30.0, 40.0])],
)
def test_a_silent_server_is_asked_and_then_given_up_after_interval_times_count(
    count: int, asked: List[float]
) -> None:
    """A single count leaves time for an answer, too."""
    assert until_lost(KeepaliveMonitor(10, count)) == (asked, 10.0 * count)


def test_peer_that_sends_anything_gets_no_keepalive() -> None:
    monitor = KeepaliveMonitor(10, 3)
    for heard in range(1000, 1100, 9):
        assert monitor.check(heard, heard) == (False, 10)


def test_an_answer_begins_the_count_anew() -> None:
    monitor = KeepaliveMonitor(10, 3)
    assert monitor.check(HEARD, HEARD) == (False, 10)
    assert monitor.check(HEARD + 10, HEARD) == (True, 10)
    assert monitor.check(HEARD + 20, HEARD) == (True, 10)
    assert monitor.check(HEARD + 29, HEARD + 29) == (False, 10)
    assert monitor.check(HEARD + 39, HEARD + 29) == (True, 10)


def test_delayed_reader_sends_a_keepalive_before_giving_up() -> None:
    """Unanswered keepalives count, not time in which this process did not run."""
    monitor = KeepaliveMonitor(10, 3)
    assert monitor.check(HEARD, HEARD) == (False, 10)
    assert until_lost(monitor, HEARD + 500) == ([500, 510], 520)


def test_socket_is_read_again_before_a_connection_is_given_up() -> None:
    """The answer may have come in the moment before."""
    monitor = KeepaliveMonitor(10, 2)
    assert monitor.check(HEARD + 10, HEARD) == (True, 10)
    ask, wait = monitor.check(HEARD + 25, HEARD)
    assert not ask and wait <= 0  # does not wait, but reads
    assert monitor.check(HEARD + 25, HEARD + 24) == (False, 9)
    monitor.check(HEARD + 34, HEARD + 24)
    monitor.check(HEARD + 60, HEARD + 24)
    with pytest.raises(KeepaliveTimeout, match="36.0 s"):
        monitor.check(HEARD + 60, HEARD + 24)


def test_another_interval_holds_from_what_is_heard_next() -> None:
    monitor = KeepaliveMonitor(10, 3)
    assert monitor.check(HEARD, HEARD) == (False, 10)
    monitor.set_interval(1)
    assert monitor.limit == 3
    assert monitor.check(HEARD + 5, HEARD) == (False, 5)
    assert monitor.check(HEARD + 5, HEARD + 5) == (False, 1)
    assert monitor.check(HEARD + 6, HEARD + 5) == (True, 1)


def test_no_interval_means_no_limit() -> None:
    monitor = KeepaliveMonitor(0, 3)
    assert monitor.limit == 0
    monitor.set_interval(5)
    assert monitor.limit == 15 and until_lost(monitor) == ([5, 10], 15)


@pytest.mark.parametrize("before, after", [(10, 0), (0, 10)])
def test_keepalive_change_never_ends_a_live_connection(before: float, after: float) -> None:
    """Whatever is set first, the reader may look a few times before the next is set."""

    class LookedAt(KeepaliveMonitor):
        looking = True

        def __setattr__(self, name: str, value: object) -> None:
            super().__setattr__(name, value)
            if not self.looking and self.limit:
                vars(self).update(looking=True)
                for _ in range(5):
                    self.check(HEARD + 1, HEARD)
                vars(self).update(looking=False)

    monitor = LookedAt(before, 3)
    vars(monitor).update(looking=False)
    monitor.set_interval(after)
    assert monitor.limit == after * 3
