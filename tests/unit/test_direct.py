"""A command on a given connection: started at once, with a correct outcome."""

from __future__ import annotations

from typing import Any

import pytest

from ssh_service.commands import unpooled
from ssh_service.commands.command import Command
from ssh_service.errors import (
    SshCacheClosed,
    SshCommandTimeout,
    SshConnectionLost,
    SshSessionRefused,
)
from tests.common import eventually
from tests.unit.engine_fakes import PATIENCE, FakeTransport, work_done


def begun(transport: FakeTransport, **more: Any) -> Command:
    command = Command("echo", {}, None, transport.connection_id, **more)
    unpooled.start_on_transport(transport, command)
    work_done()
    return command


def test_it_runs_to_its_end() -> None:
    transport = FakeTransport()
    command = begun(transport)
    (channel,) = transport.channels
    assert channel.command == b"echo"
    channel.complete(3, b"out")
    assert (command.future.result(0).exit_status, command.future.result(0).stdout) == (3, "out")


def test_a_connection_that_has_ended_sends_nothing() -> None:
    transport = FakeTransport()
    transport.lose()
    error = begun(transport).future.exception(0)
    assert isinstance(error, SshConnectionLost) and not error.sent


@pytest.mark.parametrize(
    "end, kind",
    [
        (SshSessionRefused("too many sessions", code=1), SshSessionRefused),
        (SshConnectionLost("lost"), SshConnectionLost),
        (None, SshCacheClosed),
    ],
    ids=str,
)
def test_command_ending_before_its_session_opens_is_unsent(end: Any, kind: Any) -> None:
    transport = FakeTransport()
    transport.answers = False
    command = begun(transport)
    transport.channels[0].end(end)
    error = command.future.exception(PATIENCE)
    assert type(error) is kind
    assert not command.is_sent and not getattr(error, "sent", False)


def test_input_no_network_took_is_reported_as_unsent() -> None:
    transport = FakeTransport()
    command = begun(transport)
    transport.channels[0].held_back = True
    transport.lose("reset")
    error = command.future.exception(0)
    assert isinstance(error, SshConnectionLost)
    assert (error.sent, error.process) == (False, None)


def test_command_cancelled_while_opening_returns_its_session() -> None:
    transport = FakeTransport()
    transport.answers = False
    command = begun(transport)
    (channel,) = transport.channels
    assert command.cancel()
    channel.answer()
    work_done()
    assert channel.closed and channel.command is None


def test_where_others_hold_the_sessions_it_waits_for_one() -> None:
    """The server's MaxSessions is not an error, as with a pool."""
    transport = FakeTransport()
    transport.max_sessions, transport.others = 2, 2
    command = begun(transport)
    eventually(lambda: transport.refusals > 2, "it is asked for again and again")
    assert not command.future.done()
    transport.others = 1
    eventually(lambda: [c for c in transport.channels if c.is_open])
    transport.channels[0].complete(0, b"out")
    assert command.future.result(PATIENCE).stdout == "out"


def test_unpooled_command_gets_the_spare_session() -> None:
    """The spare session of a pool."""
    transport = FakeTransport()
    transport.max_sessions, transport.others = 1, 1

    def give_up() -> bool:
        had, transport.others = bool(transport.others), 0
        return had

    transport.reclaimers["spare"] = give_up
    command = begun(transport)
    eventually(lambda: transport.channels)
    assert transport.refusals == 1
    transport.channels[0].complete()
    assert command.future.result(PATIENCE).exit_status == 0


def test_a_wait_for_a_session_lasts_as_long_as_its_time() -> None:
    transport = FakeTransport()
    transport.max_sessions, transport.others = 1, 1
    command = begun(transport, timeout=0.05)
    error = command.future.exception(PATIENCE)
    assert isinstance(error, SshCommandTimeout) and error.phase == "queue"
    work_done()
