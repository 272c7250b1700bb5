"""What one thread does at a time, and who may do it when that one was torn out."""

from __future__ import annotations

import threading
import time
from typing import List

from ssh_service.copying.exclusive import Exclusive, Turn
from tests.common import Outcome, eventually, in_threads


def test_one_thread_at_a_time_has_its_turn() -> None:
    exclusive, inside = Exclusive(), [0]
    most: List[int] = []

    def work(_: int) -> None:
        turn = Turn()
        assert exclusive.take(turn, 30.0)
        inside[0] += 1
        most.append(inside[0])
        time.sleep(0)  # let others run
        inside[0] -= 1
        exclusive.give(turn)

    in_threads(20, work)
    assert most == [1] * 20


def test_a_wait_that_is_too_long_ends_and_takes_nothing() -> None:
    exclusive, turn = Exclusive(), Turn()
    assert exclusive.take(turn, None)

    def wait() -> bool:
        mine = Turn()
        try:
            return exclusive.take(mine, 0.05)
        finally:
            exclusive.give(mine)

    assert Outcome(wait).wait().value is False
    exclusive.give(turn)
    assert Outcome(wait).wait().value is True


def test_a_turn_that_was_lost_is_given_to_others() -> None:
    """C1: an exception struck before it could be given back."""
    exclusive = Exclusive()
    turn = Turn()
    assert exclusive.take(turn, None)
    kept = Turn()  # as by a traceback: the same thread comes again
    assert exclusive.take(kept, 0.0)
    del kept
    assert Outcome(lambda: exclusive.take(Turn(), 30.0)).wait().value
    held: List[Turn] = []

    def hold() -> None:
        held.append(Turn())
        assert exclusive.take(held[0], 30.0)

    thread = threading.Thread(target=hold)
    thread.start()
    thread.join(30.0)
    eventually(lambda: not thread.is_alive())
    assert exclusive.take(Turn(), 30.0)
