"""The recoverable lock: exclusive, and free again after the death of its holder."""

from __future__ import annotations

import threading
import time
from typing import List

from ssh_service.copying.recoverable_lock import LockOwner, RecoverableLock
from tests.common import Outcome, eventually, in_threads


def test_lock_is_held_by_one_thread_at_a_time() -> None:
    lock, inside = RecoverableLock(), [0]
    most: List[int] = []

    def work(_: int) -> None:
        owner = LockOwner()
        assert lock.acquire(owner, 30.0)
        inside[0] += 1
        most.append(inside[0])
        time.sleep(0)  # let others run
        inside[0] -= 1
        lock.release(owner)

    in_threads(20, work)
    assert most == [1] * 20


def test_acquire_after_timeout_returns_false() -> None:
    lock, owner = RecoverableLock(), LockOwner()
    assert lock.acquire(owner, None)

    def wait() -> bool:
        mine = LockOwner()
        try:
            return lock.acquire(mine, 0.05)
        finally:
            lock.release(mine)

    assert Outcome(wait).wait().value is False
    lock.release(owner)
    assert Outcome(wait).wait().value is True


def test_lock_of_a_lost_owner_can_be_acquired() -> None:
    """An exception struck before it could be given back."""
    lock = RecoverableLock()
    owner = LockOwner()
    assert lock.acquire(owner, None)
    kept = LockOwner()  # as by a traceback: the same thread comes again
    assert lock.acquire(kept, 0.0)
    del kept
    assert Outcome(lambda: lock.acquire(LockOwner(), 30.0)).wait().value
    held: List[LockOwner] = []

    def hold() -> None:
        held.append(LockOwner())
        assert lock.acquire(held[0], 30.0)

    thread = threading.Thread(target=hold)
    thread.start()
    thread.join(30.0)
    eventually(lambda: not thread.is_alive())
    assert lock.acquire(LockOwner(), 30.0)
