"""An event whose setting never waits."""

from __future__ import annotations

import functools
import signal
import sys
import threading
import time
from typing import Any, Callable

import pytest

from ssh_service.transport import lock_free
from ssh_service.transport.lock_free import LockFreeCondition, LockFreeEvent
from tests.common import Outcome, eventually, in_threads


def test_it_releases_all_who_wait() -> None:
    event = LockFreeEvent()
    waiting = [Outcome(lambda: event.wait(20)) for _ in range(10)]
    eventually(lambda: len(event._waiters) == 10, "all wait")
    event.set()
    assert all(one.wait().value is True for one in waiting)
    assert event.is_set() and event.wait() and not event._waiters


def test_it_gives_up_when_its_time_is_over() -> None:
    event = LockFreeEvent()
    assert event.wait(0.0) is False
    assert event.wait(0.01) is False
    assert event.wait(-1) is False
    assert not event._waiters  # nothing is left of those who gave up


def test_it_can_be_set_again_and_again() -> None:
    event = LockFreeEvent()
    for _ in range(100):
        waiting = Outcome(lambda: event.wait(20))
        event.set()
        assert waiting.wait().value is True
        event.clear()
        assert not event.is_set() and not event.wait(0.0)


def test_waiter_arriving_during_set_is_woken() -> None:
    for _ in range(200):
        event = LockFreeEvent()
        in_threads(4, functools.partial(set_or_check, event))


def set_or_check(event: LockFreeEvent, number: int) -> None:
    if number == 2:
        event.set()
    else:
        check(event)


def check(event: LockFreeEvent) -> None:
    assert event.wait(20)


@pytest.mark.parametrize("where", ["acquire", "wait"])
def test_interrupted_wait_leaves_no_lock_taken(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `threading.Event`, the next `set` waits without end."""
    event = LockFreeEvent()

    class Torn:
        def __init__(self) -> None:
            self.lock = threading.Lock()
            self.calls = 0

        def acquire(self, *args: Any) -> bool:
            self.calls += 1
            if self.calls == (1 if where == "acquire" else 2):
                raise KeyboardInterrupt
            return self.lock.acquire(*args)

        def release(self) -> None:
            self.lock.release()

    class Module:
        Lock = Torn
        TIMEOUT_MAX = threading.TIMEOUT_MAX
        current_thread = staticmethod(threading.current_thread)
        main_thread = staticmethod(threading.main_thread)

    with monkeypatch.context() as patched:
        patched.setattr(lock_free, "threading", Module)
        with pytest.raises(KeyboardInterrupt):
            event.wait(20)
    waiting = Outcome(lambda: event.wait(20))
    event.set()
    assert waiting.wait().value is True


@pytest.mark.parametrize(
    "wait", [lambda: LockFreeEvent().wait(20), lambda: LockFreeCondition().wait_for(bool, 20)]
)
def test_wait_of_main_thread_runs_handlers_of_signals(wait: Callable[[], bool]) -> None:
    """A handler runs though its signal did not interrupt the wait: another thread received it."""

    class Interrupted(Exception):
        pass

    def handler(*_: Any) -> None:
        raise Interrupted

    def send() -> None:
        eventually(lambda: "acquire" in where(main), "the main thread waits")
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)

    def where(ident: int) -> str:
        return sys._current_frames()[ident].f_code.co_name

    main = threading.get_ident()
    before = signal.signal(signal.SIGUSR1, handler)
    thread = threading.Thread(target=send)
    began = time.monotonic()
    try:
        with pytest.raises(Interrupted):
            thread.start()
            wait()
    finally:
        signal.signal(signal.SIGUSR1, before)
        thread.join(10)
    assert time.monotonic() - began < 10
