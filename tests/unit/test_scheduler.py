"""Decisions about a destination's sessions: pure steps, without a pool or a clock."""

from __future__ import annotations

from typing import Any, List

import pytest

from ssh_service.commands.command import Command
from ssh_service.errors import SshSessionRefused
from ssh_service.sessions.scheduler import SessionScheduler
from ssh_service.sessions.session import PooledConnection, Session
from tests.unit.engine_fakes import FakeChannel, FakeTransport

REFUSED = SshSessionRefused("too many sessions", code=1)


class Place:
    """One lane with a connection, and what waits for it."""

    def __init__(self) -> None:
        self.scheduler = SessionScheduler("somebody@alpha:22")
        self.transport: Any = FakeTransport()
        self._tickets = 0
        self.queue()
        step = self.scheduler.next_step(0.0)
        assert step.connection is not None and step.command is None  # it is to be dialled
        self.connection: PooledConnection = step.connection
        self.connection.transport = self.transport

    def queue(self) -> Command:
        command = Command("echo", {}, None, "somebody@alpha:22")
        self._tickets += 1
        command.ticket = self._tickets
        self.scheduler.enqueue(command)
        return command

    def begin(self) -> Session:
        """Give what waits a session, which is being opened."""
        step = self.scheduler.next_step(0.0)
        assert step.command is not None and step.connection is self.connection
        session = step.spare or Session(self, self.connection)  # type: ignore[arg-type]
        assert self.scheduler.assign(session, step.command, in_cache=True, is_alive=True)
        return session

    def open(self, session: Session) -> None:
        channel: Any = FakeChannel(self.transport, session)
        self.scheduler.on_opened(session, channel)


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
            found.append(place.scheduler.retry_or_give_up(held=True, admitted=True, now=0.0)[0])
            place.scheduler.retry(0.0)
        return found

    assert pauses(9) == [0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.1, 0.1, 0.1]
    session = place.begin()
    place.open(session)
    place.scheduler.on_ended(session, None, unsent=False, now=0.0)
    place.queue()
    assert pauses(2) == [0.002, 0.004]


def test_one_timer_at_a_time_is_set(place: Place) -> None:
    place.transport.session_limit = 0
    assert place.scheduler.retry_or_give_up(held=True, admitted=True, now=0.0)[0] is not None
    assert place.scheduler.retry_or_give_up(held=True, admitted=True, now=0.0) == (None, [])


def test_the_limit_that_is_learnt_is_what_was_open_at_once_before(place: Place) -> None:
    """The server frees a session a moment after its end, and refuses meanwhile."""
    sessions = []
    for _ in range(3):
        place.queue()
        sessions.append(place.begin())
        place.open(sessions[-1])
    place.scheduler.on_ended(sessions[0], None, unsent=False, now=0.0)
    refused = place.begin()
    assert place.scheduler.on_ended(refused, REFUSED, unsent=True, now=0.0).start_limit_timer
    assert place.transport.session_limit == 3


def test_pool_waits_without_requests_if_others_hold_all_sessions(place: Place) -> None:
    session = place.begin()
    place.open(session)
    place.scheduler.on_ended(session, None, unsent=False, now=0.0)
    place.queue()
    place.scheduler.on_ended(place.begin(), REFUSED, unsent=True, now=0.0)
    assert place.transport.session_limit == 0
    assert place.scheduler.next_step(0.0).starved == [place.transport]


def test_a_limit_has_one_timer_however_often_it_is_learnt(place: Place) -> None:
    for now, timer in [(0.0, True), (30.0, False), (100.0, True)]:
        place.transport.session_limit = None
        session = place.begin()
        assert (
            place.scheduler.on_ended(session, REFUSED, unsent=True, now=now).start_limit_timer
            is timer
        )


def test_session_given_up_is_requested_until_it_is_free(
    place: Place,
) -> None:
    """An idle SFTP session gives way to what would have to wait for a long command."""
    scheduler = place.scheduler
    place.open(place.begin())  # a long command
    place.queue()
    scheduler.on_ended(place.begin(), REFUSED, True, 0.0)
    step = scheduler.next_step(0.0)
    assert step.starved is None and step.starts == 2
    assert scheduler.waiting_since(step.starts) == [place.transport]
    scheduler.on_sessions_reclaimed([place.transport], 0.0)
    scheduler.on_ended(place.begin(), REFUSED, True, 0.0)  # not freed yet
    assert scheduler.next_step(0.0).starved == [place.transport]
    assert scheduler.retry_or_give_up(held=True, admitted=True, now=0.0)[0] is not None
    scheduler.retry(0.1)
    place.open(place.begin())
    place.queue()
    scheduler.on_ended(place.begin(), REFUSED, True, 0.2)
    assert scheduler.next_step(0.2).starved is None


def test_an_idle_session_is_kept_where_commands_start_all_the_time(place: Place) -> None:
    place.open(place.begin())
    place.queue()
    scheduler = place.scheduler
    scheduler.on_ended(place.begin(), REFUSED, True, 0.0)
    starts = scheduler.next_step(0.0).starts
    assert starts is not None
    scheduler.on_sessions_reclaimed([place.transport], 0.0)
    place.open(place.begin())
    place.queue()
    assert scheduler.waiting_since(starts) is None


def test_a_server_that_refuses_again_and_again_is_not_asked_at_once(place: Place) -> None:
    """A copy may hold, for hours, what was ours before: no attempt follows the other."""
    scheduler, long = place.scheduler, place.begin()
    place.open(long)
    place.queue()
    short = place.begin()
    place.open(short)
    scheduler.on_ended(short, None, False, 0.0)
    place.queue()
    for asked in range(10):
        if not place.connection.has_capacity():
            break
        scheduler.on_ended(place.begin(), REFUSED, True, 0.0)
    assert asked == 4
    assert scheduler.next_step(0.0).starved == [place.transport]
    assert scheduler.next_step(60.0).starved is None  # what runs there frees the next
