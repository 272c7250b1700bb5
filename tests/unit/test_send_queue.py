"""`SendQueue` and `Batch`: which thread sends queued messages, and when."""

from __future__ import annotations

import threading
import time
from typing import Any, List

import pytest

from ssh_service.transport import reaper
from ssh_service.transport.send_queue import Batch, SendQueue
from tests.common import in_threads


class Recorder:
    """A sender that sends nothing and notes which of its methods were called."""

    def __init__(self) -> None:
        self.calls: List[str] = []

    def send_nowait(self, m: Any, send_state: Any = None) -> None:
        self.calls.append("send")

    def _flush(self) -> bool:
        self.calls.append("flush")
        return True

    def _flush_or_submit(self) -> None:
        self.calls.append("flush or submit")

    def _after_fork_in_child(self) -> None:
        """Do nothing."""


def is_in_batch(queue: SendQueue) -> bool:
    return bool(queue.batches.get(threading.get_ident()))


def test_batch_flushes_once_at_its_end() -> None:
    queue, sender = SendQueue(), Recorder()
    with Batch(sender, queue, defer=False):
        assert is_in_batch(queue) and not sender.calls
    assert not is_in_batch(queue) and sender.calls == ["flush or submit"]


def test_batch_within_a_batch_leaves_the_flush_to_the_outer() -> None:
    queue, sender = SendQueue(), Recorder()
    with Batch(sender, queue, defer=False):
        with Batch(sender, queue, defer=False):
            pass
        assert is_in_batch(queue) and not sender.calls
    assert sender.calls == ["flush or submit"]


def test_batch_of_one_thread_does_not_hold_up_another() -> None:
    queue, sender = SendQueue(), Recorder()
    with Batch(sender, queue, defer=False):
        in_threads(2, lambda _: None if not is_in_batch(queue) else pytest.fail("shared"))


def test_deferred_batch_of_one_message_waits_for_more() -> None:
    queue, sender = SendQueue(), Recorder()
    before = time.monotonic()
    with Batch(sender, queue, defer=True):
        queue.append(("close", None))
    assert not sender.calls and queue.flush_at > before
    assert 0 < queue.time_to_flush(before) <= queue.flush_at - before
    assert queue.time_to_flush(queue.flush_at) == 0.0 and not queue.flush_at


def test_deferred_batch_of_two_messages_flushes() -> None:
    queue, sender = SendQueue(), Recorder()
    with Batch(sender, queue, defer=True):
        queue.extend([("reply", None), ("close", None)])
    assert sender.calls == ["flush"] and not queue.flush_at


def test_time_to_flush_of_an_empty_queue_is_zero() -> None:
    queue = SendQueue()
    assert queue.defer() and queue.flush_at
    assert queue.time_to_flush(time.monotonic()) == 0.0 and not queue.flush_at


def test_interrupted_batch_is_ended_by_its_finalizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception of a signal handler can strike before `__exit__` has done anything."""
    submitted: List[Any] = []
    monkeypatch.setattr(reaper, "submit", submitted.append)
    queue, sender = SendQueue(), Recorder()
    batch = Batch(sender, queue, defer=False)
    batch.__enter__()
    del batch
    assert not is_in_batch(queue) and submitted == [sender]


def test_ended_batches_leave_nothing_behind() -> None:
    queue, sender = SendQueue(), Recorder()

    def batch(_: int) -> None:
        with Batch(sender, queue, defer=False):
            pass

    in_threads(4, batch)
    assert not queue.batches
