"""What is decided about a destination's sessions: pure steps, without a pool or a clock."""

from __future__ import annotations

from typing import Any, List

import pytest

from ssh_service.commands.command import Command
from ssh_service.errors import SshSessionRefused
from ssh_service.sessions.scheduler import Lanes
from ssh_service.sessions.session import Lane, Session
from tests.unit.engine_fakes import FakeChannel, FakeTransport

REFUSED = SshSessionRefused("too many sessions", code=1)


class Place:
    """One lane with a connection, and what waits for it."""

    def __init__(self) -> None:
        self.lanes = Lanes("somebody@alpha:22")
        self.transport: Any = FakeTransport()
        self._tickets = 0
        self.queue()
        step = self.lanes.next_step(0.0)
        assert step.lane is not None and step.command is None  # it is to be dialled
        self.lane: Lane = step.lane
        self.lane.transport = self.transport

    def queue(self) -> Command:
        command = Command("echo", {}, None, "somebody@alpha:22")
        self._tickets += 1
        command.ticket = self._tickets
        self.lanes.queue(command)
        return command

    def begin(self) -> Session:
        """Give what waits a session, which is being opened."""
        step = self.lanes.next_step(0.0)
        assert step.command is not None and step.lane is self.lane
        session = step.spare or Session(self, self.lane)  # type: ignore[arg-type]
        assert self.lanes.begin(session, step.command, kept=True, fit=True)
        return session

    def open(self, session: Session) -> None:
        channel: Any = FakeChannel(self.transport, session)
        self.lanes.opened(session, channel)


@pytest.fixture
def place() -> Place:
    return Place()


def test_the_pause_to_the_next_attempt_doubles_and_starts_anew_when_a_session_opens(
    place: Place,
) -> None:
    def pauses(count: int) -> List[Any]:
        found = []
        for _ in range(count):
            place.transport.session_limit = 0  # the server refused once more
            found.append(place.lanes.retry_or_give_up(held=True, admitted=True, now=0.0)[0])
            place.lanes.retry(0.0)
        return found

    assert pauses(9) == [0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.1, 0.1, 0.1]
    session = place.begin()
    place.open(session)
    place.lanes.ended(session, None, unsent=False, now=0.0)
    place.queue()
    assert pauses(2) == [0.002, 0.004]


def test_one_timer_at_a_time_is_set(place: Place) -> None:
    place.transport.session_limit = 0
    assert place.lanes.retry_or_give_up(held=True, admitted=True, now=0.0)[0] is not None
    assert place.lanes.retry_or_give_up(held=True, admitted=True, now=0.0) == (None, [])


def test_the_limit_that_is_learnt_is_what_was_open_at_once_before(place: Place) -> None:
    """The server frees a session a moment after its end, and refuses meanwhile."""
    sessions = []
    for _ in range(3):
        place.queue()
        sessions.append(place.begin())
        place.open(sessions[-1])
    place.lanes.ended(sessions[0], None, unsent=False, now=0.0)
    refused = place.begin()
    assert place.lanes.ended(refused, REFUSED, unsent=True, now=0.0).forget
    assert place.transport.session_limit == 3


def test_with_none_of_ours_open_others_hold_them_and_nothing_is_asked_for(place: Place) -> None:
    session = place.begin()
    place.open(session)
    place.lanes.ended(session, None, unsent=False, now=0.0)
    place.queue()
    place.lanes.ended(place.begin(), REFUSED, unsent=True, now=0.0)
    assert place.transport.session_limit == 0
    assert place.lanes.next_step(0.0).stuck == [place.transport]


def test_a_limit_has_one_timer_however_often_it_is_learnt(place: Place) -> None:
    for now, timer in [(0.0, True), (30.0, False), (100.0, True)]:
        place.transport.session_limit = None
        session = place.begin()
        assert place.lanes.ended(session, REFUSED, unsent=True, now=now).forget is timer


def test_where_others_gave_up_a_session_the_server_is_asked_until_it_has_freed_it(
    place: Place,
) -> None:
    """E6: an idle SFTP session gives way to what would have to wait for a long command."""
    lanes = place.lanes
    place.open(place.begin())  # a long command
    place.queue()
    lanes.ended(place.begin(), REFUSED, True, 0.0)
    step = lanes.next_step(0.0)
    assert step.stuck is None and step.full == 2
    assert lanes.waiting_since(step.full) == [place.transport]
    lanes.made_room([place.transport], 0.0)
    lanes.ended(place.begin(), REFUSED, True, 0.0)  # not freed yet
    assert lanes.next_step(0.0).stuck == [place.transport]
    assert lanes.retry_or_give_up(held=True, admitted=True, now=0.0)[0] is not None
    lanes.retry(0.1)
    place.open(place.begin())
    place.queue()
    lanes.ended(place.begin(), REFUSED, True, 0.2)
    assert lanes.next_step(0.2).stuck is None


def test_an_idle_session_is_kept_where_commands_start_all_the_time(place: Place) -> None:
    place.open(place.begin())
    place.queue()
    lanes = place.lanes
    lanes.ended(place.begin(), REFUSED, True, 0.0)
    full = lanes.next_step(0.0).full
    assert full is not None
    lanes.made_room([place.transport], 0.0)
    place.open(place.begin())
    place.queue()
    assert lanes.waiting_since(full) is None


def test_a_server_that_refuses_again_and_again_is_not_asked_at_once(place: Place) -> None:
    """A copy may hold, for hours, what was ours before: no attempt follows the other."""
    lanes, long = place.lanes, place.begin()
    place.open(long)
    place.queue()
    short = place.begin()
    place.open(short)
    lanes.ended(short, None, False, 0.0)
    place.queue()
    for asked in range(10):
        if not place.lane.has_room():
            break
        lanes.ended(place.begin(), REFUSED, True, 0.0)
    assert asked == 4
    assert lanes.next_step(0.0).stuck == [place.transport]
    assert lanes.next_step(60.0).stuck is None  # what runs there frees the next
