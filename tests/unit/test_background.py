"""The clock and the callback thread."""

from __future__ import annotations

import functools
import gc
import logging
import sys
import threading
import time
import weakref
from typing import Any, Callable, List

import pytest

from ssh_service import background, threads
from ssh_service.strands import StrandExecutor
from tests.common import refuse_threads
from tests.injection import HOWS, PLACES, torn_at
from tests.unit.engine_fakes import PATIENCE, callbacks_done


def soon(function: Any) -> background.Timer:
    return background.call_at(time.monotonic(), function)


def never(function: Any) -> background.Timer:
    return background.call_at(time.monotonic() + 3600, function)


@pytest.fixture
def clock() -> background._Clock:
    """Return a clock of the test's own, whose thread is not started."""
    clock = background._Clock()
    clock._claim.acquire()
    return clock


def test_calls_are_made_in_the_order_in_which_they_are_due() -> None:
    made: List[int] = []
    done = threading.Event()
    gate = threading.Event()
    soon(lambda: gate.wait(PATIENCE))
    now = time.monotonic()
    for number in (3, 1, 4, 2, 0):
        background.call_at(now + number / 1e6, functools.partial(made.append, number))
    background.call_at(now + 1e-4, done.set)
    gate.set()
    assert done.wait(PATIENCE)
    assert made == [0, 1, 2, 3, 4]


def test_a_call_that_is_due_earlier_wakes_the_clock() -> None:
    late = never(lambda: None)
    done = threading.Event()
    soon(done.set)
    assert done.wait(PATIENCE)
    late.cancel()


def test_a_call_is_not_made_before_its_time() -> None:
    due = time.monotonic() + 0.05
    made: List[float] = []
    done = threading.Event()

    def call() -> None:
        made.append(time.monotonic())
        done.set()

    background.call_at(due, call)
    assert done.wait(PATIENCE)
    assert made[0] >= due


def test_timer_with_an_infinite_delay_does_not_delay_others() -> None:
    with pytest.raises(ValueError, match="NaN"):
        background.call_at(float("nan"), lambda: None)
    done = threading.Event()
    soon(done.set)
    assert done.wait(PATIENCE)


def test_a_cancelled_call_is_not_made() -> None:
    made: List[str] = []
    gate = threading.Event()
    soon(lambda: gate.wait(PATIENCE))
    timer = soon(lambda: made.append("cancelled"))
    done = threading.Event()
    background.call_at(time.monotonic() + 1e-3, done.set)
    timer.cancel()
    timer.cancel()
    gate.set()
    assert done.wait(PATIENCE)
    assert made == []


def test_cancelled_timer_releases_its_function() -> None:
    class Thing:
        def call(self) -> None:
            pass

    thing = Thing()
    gone = weakref.ref(thing)
    timer = never(thing.call)
    timer.cancel()
    del thing
    gc.collect()
    assert gone() is None


def test_timers_cancelled_long_before_their_time_do_not_pile_up(
    clock: background._Clock,
) -> None:
    """A command with an hour's time-out ends in milliseconds; its timer must not stay an hour."""
    kept = [clock.call_at(time.monotonic() + 3600, lambda: None) for _ in range(10)]
    clock._wakes_at = 0.0  # it sleeps, and none of these is due before it wakes
    most = 0
    for _ in range(50_000):
        clock.call_at(time.monotonic() + 3600, lambda: None).cancel()
        if not clock._wakeups.empty():
            clock._wakeups.get()
            clock._merge_submitted()
        most = max(most, len(clock._due) + len(clock._submitted))
    assert most < 4000
    assert {timer for _, _, timer in clock._due if timer.function} == set(kept)


def test_many_live_timers_are_all_kept_in_order(clock: background._Clock) -> None:
    now = time.monotonic() - 10_000
    timers = [clock.call_at(now + (n * 7919) % 5000, lambda: None) for n in range(5000)]
    for timer in timers[::2]:
        timer.cancel()
    for n in range(3000):
        clock.call_at(now + 5000 + n, lambda: None)
    found = [clock._next() for _ in range(2500)]
    assert set(found) == set(timers[1::2])


@pytest.mark.parametrize("instant", [float("inf"), 1e30, threading.TIMEOUT_MAX * 3])
def test_an_instant_that_never_comes_does_not_end_the_clock(instant: float) -> None:
    """Threads cannot wait for more than some 292 years; `wait` raises OverflowError."""
    timer = background.call_at(instant, lambda: None)
    done = threading.Event()
    soon(done.set)
    assert done.wait(PATIENCE)
    timer.cancel()


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit])
def test_a_call_that_raises_does_not_end_the_clock(
    error: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise error("on purpose")

    with caplog.at_level(logging.CRITICAL + 1, background.__name__):
        soon(fail)
        done = threading.Event()
        background.call_at(time.monotonic() + 1e-3, done.set)
        assert done.wait(PATIENCE)


def test_callbacks_run_in_order_on_a_thread_that_is_not_the_callers() -> None:
    seen: List[Any] = []
    for number in range(100):
        background.run_callback(lambda n: seen.append((n, threading.get_ident())), number)
    background.run_callback(lambda: seen.append(background.is_callback_thread()))
    callbacks_done()
    assert [item[0] for item in seen[:-1]] == list(range(100))
    assert threading.get_ident() not in {item[1] for item in seen[:-1]}
    assert seen[-1] is True
    assert not background.is_callback_thread()


def test_calls_of_a_runner_keep_their_order_and_wait_for_no_other_runner() -> None:
    """A call that waits without end delays only the calls of its own strand."""
    gate, done = threading.Event(), threading.Event()
    seen: List[Any] = []
    stuck, free = background.callback_runner(), background.callback_runner()
    stuck(gate.wait, PATIENCE)
    stuck(seen.append, "after the gate")
    background.run_callback(gate.wait, PATIENCE)
    for number in range(100):
        free(seen.append, number)
    free(lambda: 1 / 0)
    free(lambda: seen.append(background.is_callback_thread()))
    free(done.set)
    assert done.wait(PATIENCE)
    assert seen == [*range(100), True]
    gate.set()
    callbacks_done()
    assert seen[-1] == "after the gate"


def test_strand_keeps_order_whoever_submits() -> None:
    strand = background.Strand()
    seen: List[Any] = []
    for number in range(50):
        background.submit(strand, seen.append, 2 * number)
        background.submit_from_destructor(strand, seen.append, 2 * number + 1)
    background.submit(strand, lambda: seen.append(background.is_worker_thread()))
    callbacks_done()
    assert seen == [*range(100), True]
    assert not background.is_worker_thread()


@pytest.mark.parametrize(
    "error", [ValueError, SystemExit, KeyboardInterrupt, pytest.fail.Exception]
)
def test_a_callback_that_raises_does_not_stop_those_after_it(
    error: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise error("on purpose")

    with caplog.at_level(logging.ERROR, background.__name__):
        background.run_callback(fail)
        callbacks_done()
    assert "a callback raised" in caplog.text


def test_a_callback_may_have_further_callbacks_run() -> None:
    done = threading.Event()
    background.run_callback(lambda: background.run_callback(done.set))
    assert done.wait(PATIENCE)


def test_nothing_is_kept_alive_once_it_was_called() -> None:
    class Thing:
        def call(self, other: Any) -> None:
            pass

    thing = Thing()
    gone = weakref.ref(thing)
    background.run_callback(thing.call, thing)
    soon(lambda thing=thing: thing.call(thing))
    callbacks_done()
    done = threading.Event()
    background.call_at(time.monotonic() + 1e-3, done.set)
    assert done.wait(PATIENCE)
    del thing
    callbacks_done()
    gc.collect()
    assert gone() is None


def test_a_thread_that_could_not_be_started_is_started_by_the_next_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = background._Clock()
    executor = StrandExecutor("ssh-service-callbacks-of-a-test", clock.call_at)
    strand = background.Strand()
    called = [threading.Event(), threading.Event()]
    with monkeypatch.context() as patch:
        refuse_threads(patch)
        assert not (clock.ensure_thread() or executor.ensure_thread())
        clock.call_at(time.monotonic(), called[0].set)  # which is kept
        with pytest.raises(RuntimeError):
            executor.submit(strand, called[1].set)
    assert clock.ensure_thread() and executor.ensure_thread()
    clock.call_at(time.monotonic(), lambda: None)
    assert all(event.wait(PATIENCE) for event in called)


def test_callback_waits_where_no_thread_can_be_started(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A call that has done its work, such as a copy, does not fail because of it."""
    clock = background._Clock()
    executor = StrandExecutor("ssh-service-callbacks-of-a-test", clock.call_at)
    monkeypatch.setattr(background, "_callbacks", executor)
    monkeypatch.setattr(background, "_clock", clock)
    called: List[int] = []
    last = threading.Event()
    with monkeypatch.context() as patch:
        refuse_threads(patch)
        background.run_callback(called.append, 1)
    assert "can't start new thread" in caplog.text
    background.run_callback(called.append, 2)
    background.run_callback(last.set)
    assert last.wait(PATIENCE) and called == [1, 2]


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("submit", [background.submit, background.run_callback])
def test_an_exception_of_a_signal_handler_is_not_taken_for_a_lack_of_threads(
    submit: Callable[..., None], how: str
) -> None:
    """Both may be a RuntimeError; the caller gets that of the handler, at every moment."""
    callbacks_done()  # the threads are there
    strand = (background.Strand(),) if submit is background.submit else ()
    for moment in range(1000):
        error = RuntimeError("time is up")
        raised: List[BaseException] = []

        def call() -> None:
            try:
                submit(*strand, threading.Event().set)
            except RuntimeError as caught:
                raised.append(caught)

        if not torn_at(moment, call, how, PLACES[:1], error):
            break
        assert raised == [error], moment
    assert 5 < moment < 999


def test_only_a_refusal_of_the_system_is_a_lack_of_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def torn(thread: threading.Thread) -> None:
        raise RuntimeError("time is up")

    with monkeypatch.context() as patch:
        refuse_threads(patch)
        with pytest.raises(threads.NoMoreThreads, match="can't start new thread"):
            threads.start_thread(callbacks_done, "of a test")
        patch.setattr(threading.Thread, "start", torn)
        with pytest.raises(RuntimeError, match="time is up") as caught:
            threads.start_thread(callbacks_done, "of a test")
    assert not isinstance(caught.value, threads.NoMoreThreads)


def test_the_switch_interval_does_not_matter() -> None:
    """No wake-up is lost when threads set timers as fast as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        events = [threading.Event() for _ in range(400)]

        def body(mine: List[threading.Event]) -> None:
            for event in mine:
                soon(event.set)
                assert event.wait(PATIENCE)

        threads = [
            threading.Thread(target=body, args=(events[n::4],), daemon=True) for n in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(6 * PATIENCE)
        assert all(event.is_set() for event in events)
    finally:
        sys.setswitchinterval(before)
