"""An event whose setting never waits."""

from __future__ import annotations

import signal
import sys
import threading
import time
from typing import Any, Callable

import pytest

from ssh_service.transport import latch as latch_module
from ssh_service.transport.latch import Bell, Latch
from tests.common import Outcome, eventually, in_threads


def test_it_releases_all_who_wait() -> None:
    latch = Latch()
    waiting = [Outcome(lambda: latch.wait(20)) for _ in range(10)]
    eventually(lambda: len(latch._waiters) == 10, "all wait")
    latch.set()
    assert all(one.wait().value is True for one in waiting)
    assert latch.is_set() and latch.wait() and not latch._waiters


def test_it_gives_up_when_its_time_is_over() -> None:
    latch = Latch()
    assert latch.wait(0.0) is False
    assert latch.wait(0.01) is False
    assert latch.wait(-1) is False
    assert not latch._waiters  # nothing is left of those who gave up


def test_it_can_be_set_again_and_again() -> None:
    latch = Latch()
    for _ in range(100):
        waiting = Outcome(lambda: latch.wait(20))
        latch.set()
        assert waiting.wait().value is True
        latch.clear()
        assert not latch.is_set() and not latch.wait(0.0)


def test_nobody_is_overlooked_who_comes_as_it_is_set() -> None:
    for _ in range(200):
        latch = Latch()
        in_threads(4, lambda n, latch=latch: latch.set() if n == 2 else check(latch))


def check(latch: Latch) -> None:
    assert latch.wait(20)


@pytest.mark.parametrize("where", ["acquire", "wait"])
def test_whoever_is_torn_from_it_leaves_nothing_closed(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `threading.Event`, the next `set` waits for ever."""
    latch = Latch()

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
        patched.setattr(latch_module, "threading", Module)
        with pytest.raises(KeyboardInterrupt):
            latch.wait(20)
    waiting = Outcome(lambda: latch.wait(20))
    latch.set()
    assert waiting.wait().value is True


@pytest.mark.parametrize("wait", [lambda: Latch().wait(20), lambda: Bell().wait_for(bool, 20)])
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
