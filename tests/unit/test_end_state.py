"""`EndState`: the first reason is final, and the end is handled once."""

from __future__ import annotations

from typing import Any, List, Optional

import pytest

from ssh_service.errors import SshConnectionLost
from ssh_service.transport.end_state import DoneCallback, EndState
from tests.common import in_threads


def lost(reason: str) -> SshConnectionLost:
    return SshConnectionLost(f"the connection ended: {reason}", reason=reason)


def test_end_state_in_use_has_no_reason() -> None:
    state = EndState()
    assert state.reason is None and state.loss is None


def test_begin_twice_keeps_the_first_reason() -> None:
    state, first = EndState(), lost("reset")
    assert state.begin(first)
    assert not state.begin(lost("eof"))
    assert state.reason is first and state.loss is None
    assert state.complete(lost("eof")) == []
    assert state.reason is first and state.loss is first


def test_complete_without_begin_takes_its_own_reason() -> None:
    state, reason = EndState(), lost("eof")
    state.complete(reason)
    assert state.reason is reason and state.loss is reason


@pytest.mark.parametrize("reason", ["closed", "goodbye"])
def test_complete_after_a_clean_end_is_no_loss(reason: str) -> None:
    state = EndState()
    state.begin(lost(reason))
    state.complete(lost("eof"))
    assert state.loss is None
    assert state.reason is not None and state.reason.reason == reason


def test_begin_after_the_end_returns_false() -> None:
    state, reason = EndState(), lost("eof")
    state.complete(reason)
    assert not state.begin(lost("closed"))
    assert state.reason is reason


def test_complete_by_many_threads_returns_callbacks_once() -> None:
    state = EndState()

    def callback(transport: Any, loss: Optional[SshConnectionLost]) -> None:
        """Do nothing."""

    assert state.add_callback(callback)
    results: List[Optional[List[DoneCallback]]] = []
    in_threads(4, lambda _: results.append(state.complete(lost("eof"))))
    assert sorted(results, key=str) == sorted([[callback], None, None, None], key=str)
    assert not state.add_callback(callback)
