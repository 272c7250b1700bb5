"""A lock that a signal handler's exception cannot leave taken by a ``with`` statement."""

from __future__ import annotations

import _thread
import collections
import functools
import operator
import re
import signal
import sys
import threading
from pathlib import Path
from typing import Any, Callable, Iterator, List

import pytest

import ssh_service
from ssh_service.locks import GuardedLock, Lock, RLock
from tests.common import Outcome


@pytest.fixture(autouse=True)
def interrupts_are_exceptions() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def in_order(functions: List[Callable[[], Any]]) -> Callable[[], Any]:
    """Return a function that is written in C and calls others, so that no signal comes between."""
    calls = functools.partial(map, operator.methodcaller("__call__"), functions)
    return functools.partial(collections.deque, calls())


class Entered:
    """Its `__enter__` and `__exit__` are written in C; a signal comes in the former."""

    __slots__ = ("__exit__",)
    __enter__ = staticmethod(_thread.interrupt_main)

    def __init__(self, lock: threading.Lock) -> None:
        self.__exit__ = lock.__exit__


def enter(what: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        with what:
            pass


def test_where_python_can_leave_a_lock_taken_ours_are_guarded() -> None:
    lock = threading.Lock()
    lock.acquire()
    enter(Entered(lock))
    is_torn = lock.locked()
    assert isinstance(Lock(), GuardedLock) is isinstance(RLock(), GuardedLock) is is_torn


@pytest.mark.skipif(sys.version_info < (3, 10), reason="looks for signals anywhere")
def test_a_signal_as_the_block_of_a_guarded_lock_begins_releases_it() -> None:
    lock = threading.Lock()
    guarded = GuardedLock(lock)
    guarded.acquire = in_order([lock.acquire, _thread.interrupt_main])
    enter(guarded)
    assert not lock.locked()


@pytest.mark.parametrize("make", [Lock, RLock, lambda: GuardedLock(threading.Lock())])
def test_a_lock_excludes_other_threads_until_its_block_ends(make: Callable[[], Any]) -> None:
    lock = make()

    def is_free() -> bool:
        if not lock.acquire(False):
            return False
        lock.release()
        return True

    with pytest.raises(ZeroDivisionError):
        with lock:
            assert Outcome(is_free).wait().value is False
            raise ZeroDivisionError
    assert Outcome(is_free).wait().value is True


def test_a_reentrant_lock_is_reentrant() -> None:
    lock = RLock()
    with lock, lock:
        assert not Outcome(lambda: lock.acquire(False)).wait().value
    assert Outcome(lambda: lock.acquire(False)).wait().value


def test_the_package_takes_no_other_locks() -> None:
    """Nothing else makes plain ones, but for waiters, which no ``with`` statement takes."""
    package = Path(ssh_service.__file__).parent
    exempt = {"locks.py", "transport/lock_free.py", "connections/pacing.py"}
    found = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if re.search(r"threading\.R?Lock\(\)", path.read_text("utf-8"))
        and not {"testing", "demo"} & set(path.parts)
    }
    assert found == exempt
