"""Threads that make calls for others: how many there are, and that none is forgotten."""

from __future__ import annotations

import threading
import time
from typing import Any, Iterator, List

import pytest

from ssh_service import strands
from ssh_service.background import call_at
from ssh_service.strands import Strand, StrandExecutor
from tests.common import PATIENCE, eventually


@pytest.fixture(name="hands")
def executor_of_the_tests(monkeypatch: pytest.MonkeyPatch) -> Iterator[StrandExecutor]:
    monkeypatch.setattr(strands, "_IDLE_TIMEOUT", 0.05)
    hands = StrandExecutor("ssh-service-worker-of-a-test", call_at)
    yield hands
    assert hands.drain(PATIENCE)


def test_one_thread_makes_the_calls_of_many_strands(hands: StrandExecutor) -> None:
    seen: List[int] = []
    for _ in range(200):
        hands.submit(Strand(), lambda: seen.append(threading.get_ident()))
    assert hands.drain(PATIENCE)
    assert len(seen) == 200 and len(hands._threads) <= 2


def test_calls_that_wait_get_one_more_thread_each_which_ends_again(hands: StrandExecutor) -> None:
    gate, passed = threading.Event(), threading.Semaphore(0)

    def wait() -> None:
        passed.release()
        gate.wait(PATIENCE)

    for _ in range(8):
        hands.submit(Strand(), wait)
    for _ in range(8):
        assert passed.acquire(timeout=PATIENCE)
    assert len(hands._threads) == 8
    gate.set()
    eventually(lambda: len(hands._threads) == 1, "the others end")
    done = threading.Event()
    hands.submit(Strand(), done.set)
    assert done.wait(PATIENCE)


def test_callback_threads_stay_within_their_limit(
    hands: StrandExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strands, "_MAX_THREADS", 2)
    gate, seen = threading.Event(), []
    for number in range(6):
        hands.submit(Strand(), lambda number=number: (gate.wait(PATIENCE), seen.append(number)))
    threading.Event().wait(0.1)
    assert len(hands._threads) == 2 and not seen
    gate.set()
    assert hands.drain(PATIENCE)
    assert sorted(seen) == list(range(6))


def test_one_strand_is_run_by_one_thread_at_a_time(hands: StrandExecutor) -> None:
    strand, other = Strand(), Strand()
    inside, seen = threading.Lock(), []

    def call(number: int) -> None:
        assert inside.acquire(False)
        seen.append(number)
        time.sleep(0.0001)
        inside.release()

    for number in range(300):
        hands.submit(strand, call, number)
        hands.submit(other, time.sleep, 0.0002)
    assert hands.drain(PATIENCE)
    assert seen == list(range(300))


def test_calls_without_a_thread_run_when_one_starts(hands: StrandExecutor) -> None:
    """A destructor starts none; whoever comes next does."""
    seen: List[Any] = []
    strand = Strand()
    hands.enqueue(strand, seen.append, 1)
    hands.submit(strand, seen.append, 2)
    assert hands.drain(PATIENCE)
    assert seen == [1, 2]


def test_interrupted_submit_is_completed_by_the_next_one(
    hands: StrandExecutor,
) -> None:
    """Appended, and then an exception of a signal's handler: not lost, nor in disorder."""
    seen: List[Any] = []
    strand = Strand()
    strand.calls.append((seen.append, (1,)))
    hands.submit(strand, seen.append, 2)
    assert hands.drain(PATIENCE)
    assert seen == [1, 2]


def test_threads_that_end_as_calls_come_forget_none(hands: StrandExecutor) -> None:
    count = threading.Semaphore(0)
    for _ in range(30):
        gate = threading.Event()
        for _ in range(3):
            hands.submit(Strand(), gate.wait, PATIENCE)
        hands.submit(Strand(), count.release)
        assert count.acquire(timeout=PATIENCE)
        gate.set()
        time.sleep(0.045)
        hands.submit(Strand(), count.release)
        assert count.acquire(timeout=PATIENCE)
