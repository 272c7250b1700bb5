"""Signals in the first quarter of a second of a command, which OpenSSH may lose."""

from __future__ import annotations

import types
from typing import Dict

import pytest

from ssh_service import background
from ssh_service.commands import termination
from ssh_service.commands.command import Command
from tests.unit.engine_fakes import FakeChannel, FakeTransport, Timers


@pytest.fixture(autouse=True)
def no_held_signals() -> None:
    """Replace the fixture for all other tests of this folder."""


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Dict[str, float]:
    clock = {"now": 100.0}
    fake = types.SimpleNamespace(monotonic=lambda: clock["now"])
    monkeypatch.setattr(termination, "time", fake)
    return clock


@pytest.fixture(autouse=True)
def timers(monkeypatch: pytest.MonkeyPatch) -> Timers:
    timers = Timers()
    monkeypatch.setattr(background, "call_at", timers.call_at)
    return timers


def started(command: Command) -> FakeChannel:
    channel = FakeChannel(FakeTransport(), command)
    channel.transport.channels.append(channel)
    channel.is_open = True
    assert command.start(channel)
    return channel


def test_early_signals_arrive_in_order_a_quarter_of_a_second_after_the_start(
    timers: Timers, clock: Dict[str, float]
) -> None:
    """The time counts from the server's reply, which it sends after it has forked."""
    command = Command("true", {}, None, "somebody@alpha:22")
    command.signal("USR1")  # before the command is sent
    channel = started(command)
    command.signal("USR2")
    assert (channel.signals, timers.live) == ([], [])
    clock["now"] += 5  # the server is slow
    command.on_reply(True)
    command.signal("INT")
    assert channel.signals == [] and min(when for when, _ in timers.live) == 105.25
    clock["now"] += 0.25
    command.signal("HUP")  # the timer is late
    assert channel.signals == []
    timers.fire()
    assert channel.signals == ["USR1", "USR2", "INT", "HUP"]
    command.signal("QUIT")
    assert channel.signals[4:] == ["QUIT"]
    channel.complete()
    assert timers.live == []


def test_command_that_is_sent_again_gets_its_early_signals_once() -> None:
    command = Command("true", {}, None, "somebody@alpha:22")
    first = started(command)
    command.signal("USR1")
    first.command = None  # it was lost before anything left
    assert command.unsend(first, lost=True)
    second = started(command)
    command.on_reply(True)
    command._send_held_signals()
    assert (first.signals, second.signals) == ([], ["USR1"])
    second.complete()


def test_command_that_ended_gets_no_signal_that_was_held_back(timers: Timers) -> None:
    """Its process id may be another's by then."""
    command = Command("true", {}, None, "somebody@alpha:22")
    channel = started(command)
    command.on_reply(True)
    command.signal("TERM")
    channel.complete()
    assert timers.live == []
    command._send_held_signals()
    assert channel.signals == []


def test_termination_waits_no_longer_for_a_server_that_reports_no_start(timers: Timers) -> None:
    """A frozen server that goes on later must find the signals: nothing else is sent."""
    command = Command("true", {}, None, "somebody@alpha:22", timeout=5)
    channel = started(command)
    timers.fire()
    assert channel.signals == []
    timers.fire()
    assert channel.signals == ["TERM", "KILL"] and not channel.closed
    timers.fire()
    assert channel.closed and timers.live == []


@pytest.mark.parametrize("version", ["SSH-2.0-dropbear_2022.83", "SSH-2.0-AsyncSSH_2.14"])
def test_other_servers_get_signals_at_once(version: str) -> None:
    command = Command("true", {}, None, "somebody@alpha:22")
    transport = FakeTransport()
    transport.remote_version = version
    assert not command._group.may_miss_signals
    command._group.begin(FakeChannel(transport, command), False)
    assert not command._group.may_miss_signals
