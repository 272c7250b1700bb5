"""The sessions of one destination: order, limits, losses, on servers that the test plays."""

from __future__ import annotations

import gc
import random
import sys
import threading
import time
import weakref
from typing import Any, Callable, Dict, Iterator, List, Optional

import pytest

from ssh_service import background, operations
from ssh_service.commands import script
from ssh_service.commands.command import Command
from ssh_service.connections.cache import SshClientCache
from ssh_service.errors import (
    SshAuthError,
    SshCacheClosed,
    SshCommandCancelled,
    SshConfigError,
    SshConnectError,
    SshConnectionLost,
    SshConnectTimeout,
    SshSessionRefused,
)
from ssh_service.sessions import SessionPool, pool, scheduler
from tests.common import refuse_threads
from tests.unit.engine_fakes import (
    PATIENCE,
    FakeChannel,
    FakeTransport,
    GatedDialer,
    Timers,
    callbacks_done,
    connect_params,
    in_threads,
    target,
    work_done,
)


@pytest.fixture
def fine_grained() -> Iterator[None]:
    """Let threads be switched as often as can be."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class Site:
    """A pool, its cache and the server it talks to."""

    def __init__(self) -> None:
        self.dialer = GatedDialer()
        self.cache = SshClientCache(dialer=self.dialer)
        self.pool = SessionPool(self.cache, target())
        self.max_connections = 1
        self.commands: List[Command] = []

    @property
    def transports(self) -> List[FakeTransport]:
        return self.dialer.transports

    def submit(self, count: int = 1, **more: Any) -> List[Command]:
        new = []
        for _ in range(count):
            command = Command(f"c{len(self.commands)}", {}, None, "somebody@alpha:22", **more)
            self.commands.append(command)
            new.append(command)
            self.pool.submit(command, self.max_connections)
        work_done()
        return new

    def connected(self) -> None:
        """Wait until the dials under way have ended and the pool knows."""
        work_done()
        for slot in self.cache._slots.all_slots():
            slot.connection.exception(PATIENCE)
        self._settled()
        work_done()

    def _settled(self) -> None:
        # A lane has its transport a moment before its commands are started; both is done by the
        # thread that dialled.
        pause = threading.Event()
        for _ in range(2000):
            names = [thread.name for thread in threading.enumerate()]
            dialling = any(name.startswith("ssh-service-dial-") for name in names)
            if not dialling and all(
                connection.transport for connection in self.pool._scheduler.connections
            ):
                return
            pause.wait(0.005)
        raise AssertionError("a dial does not end")

    def warm(self, max_sessions: Optional[int] = None, **attributes: Any) -> FakeTransport:
        """Have a connection made, with a server like this."""

        def prepare(transport: FakeTransport) -> None:
            transport.max_sessions = max_sessions
            for name, value in attributes.items():
                setattr(transport, name, value)

        self.dialer.prepare = prepare
        (first,) = self.submit()
        self.connected()
        if attributes.get("answers", True):
            self.channel_of(first).complete()
        return self.transports[0]

    def running(self) -> List[FakeChannel]:
        """Return the channels with a command that has not ended, in the order of opening."""
        return [c for t in self.transports for c in t.channels if c.command is not None]

    def next_running(self) -> FakeChannel:
        """Wait until a command runs; return its channel."""
        pause = threading.Event()
        for _ in range(2000):
            if self.running():
                return self.running()[0]
            pause.wait(0.005)
        raise AssertionError("nothing runs")

    def texts(self) -> List[str]:
        return [channel.command.decode() for channel in self.running() if channel.command]

    def channel_of(self, command: Command) -> FakeChannel:
        (channel,) = [c for c in self.running() if c.command == command._text.encode()]
        return channel

    def sent(self) -> List[str]:
        """Return all the scripts that were ever sent."""
        opened = [channel for t in self.transports for channel in t.opened]
        return [c.command.decode() for c in opened if c.command and c.has_sent]


@pytest.fixture
def timers(monkeypatch: pytest.MonkeyPatch) -> Timers:
    timers = Timers()
    monkeypatch.setattr(background, "call_at", timers.call_at)
    return timers


@pytest.fixture
def site(timers: Timers) -> Iterator[Site]:
    site = Site()
    yield site
    site.dialer.release()
    if all(command.future.done() for command in site.commands):
        site.connected()
        assert site.cache.stats()["leases"] == 0
    site.cache.cleanup()
    for command in site.commands:
        command.future.exception(PATIENCE)  # every future resolves
    assert len(site.sent()) == len(set(site.sent())), "something was sent twice"
    callbacks_done()


def error(command: Command) -> Any:
    return command.future.exception(PATIENCE)


# Order, and the server's limit.


def test_commands_start_in_the_order_of_their_submission(site: Site) -> None:
    site.warm(max_sessions=1)
    commands = site.submit(20)
    for number in range(20):
        assert site.texts() == [f"c{number + 1}"]
        site.running()[0].complete()
    assert [command.future.result(0).exit_status for command in commands] == [0] * 20


@pytest.mark.parametrize("limit", [1, 2, 3, 10])
def test_session_limit_is_learnt_respected_and_never_an_error(site: Site, limit: int) -> None:
    transport = site.warm(max_sessions=limit)
    commands = site.submit(50)
    assert len(site.running()) == limit
    refusals = transport.refusals
    assert refusals <= 2
    while site.running():
        assert len(site.running()) <= limit
        site.running()[0].complete()
    assert all(command.future.result(0).exit_status == 0 for command in commands)
    assert transport.session_limit == limit
    assert site.cache.stats()["refusals"] == transport.refusals > 0
    assert transport.refusals == refusals  # once it is known, nothing more is refused
    assert site.dialer.dials == ["alpha"]


def test_refusals_that_come_in_any_order_lose_no_command(site: Site) -> None:
    rng = random.Random(3)
    for _ in range(60):
        place = Site()

        def prepare(transport: FakeTransport) -> None:
            transport.max_sessions = rng.randrange(1, 5)
            transport.answers = False

        place.dialer.prepare = prepare
        commands = place.submit(8)
        place.connected()
        for _ in range(400):
            pending = [c for c in place.transports[0].channels if not c.is_open]
            running = place.running()
            if not pending and not running:
                break
            if pending and (not running or rng.random() < 0.6):
                rng.choice(pending).answer()
            else:
                rng.choice(running).complete()
        assert all(command.future.result(0).exit_status == 0 for command in commands)
        assert sorted(place.sent()) == sorted(f"c{n}" for n in range(8))
        place.cache.cleanup()


def test_further_connections_are_made_where_sessions_run_out(site: Site) -> None:
    site.max_connections = 3
    site.warm(max_sessions=2)
    site.submit(10)
    for _ in range(3):
        site.connected()
    assert len(site.dialer.dials) == 3
    assert len(site.running()) == 6
    while site.running():
        site.running()[0].complete()
    assert len(site.dialer.dials) == 3


def test_failed_additional_connection_does_no_harm(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.max_connections = 2
    site.warm(max_sessions=1)
    site.dialer.errors["alpha"] = [SshConnectError("MaxStartups")]
    commands = site.submit(5)
    site.connected()
    for _ in commands:
        site.running()[0].complete()
    assert all(command.future.result(0).exit_status == 0 for command in commands)
    assert site.dialer.dials == ["alpha"] * 2  # it is not tried again for a while
    now = time.monotonic() + scheduler._CONNECTION_RETRY_INTERVAL
    monkeypatch.setattr(time, "monotonic", lambda: now)
    site.submit(2)
    monkeypatch.undo()
    site.connected()
    assert site.dialer.dials == ["alpha"] * 3


def test_one_dial_at_a_time_brings_further_connections(site: Site) -> None:
    site.max_connections = 4
    site.warm(max_sessions=1)
    site.dialer.hold("alpha")
    site.submit(10)
    site.dialer.wait_dialling(2)
    assert len(site.dialer.dials) == 2
    site.dialer.release()
    site.connected()


def test_a_dial_may_take_as_long_as_the_last_caller_says_not_the_first() -> None:
    allowed: List[int] = []

    def dial(to: Any, deadline: float, **_: Any) -> FakeTransport:
        allowed.append(round(deadline - time.monotonic()))
        raise SshConnectError("refused")

    cache = SshClientCache(dialer=dial)
    for timeout in (5, 60):
        future = operations.submit(cache, connect_params(connect_timeout=timeout), "echo")
        assert isinstance(future.exception(PATIENCE), SshConnectError)
    assert allowed == [5, 60]
    callbacks_done()


def test_a_command_waits_for_a_dial_of_others_as_long_as_its_own_might_take(
    site: Site, timers: Timers
) -> None:
    site.dialer.hold("alpha")
    patient, hasty = [
        operations.submit(site.cache, connect_params(connect_timeout=timeout), "echo")
        for timeout in (60, 5)
    ]
    work_done()
    began = time.monotonic()
    assert [round(due - began) for due, _ in timers.live] == [60, 5]
    timers.fire()
    error = hasty.exception(0)
    assert isinstance(error, SshConnectTimeout) and error.phase == "connect"
    assert "not connected within 5 s (phase: connect)" in str(error)
    callbacks_done()
    timers.fire()
    assert not patient.done()  # it asked for the dial, which ends by itself
    callbacks_done()
    assert timers.live == []
    site.dialer.release()
    site.next_running().complete()
    assert patient.result(PATIENCE).exit_status == 0
    later = operations.submit(site.cache, connect_params(connect_timeout=5), "echo again")
    work_done()
    soon = time.monotonic() + 30
    assert not [due for due, _ in timers.live if due < soon]  # it has no connection to wait for
    site.next_running().complete()
    assert later.result(PATIENCE).exit_status == 0
    assert site.dialer.dials == ["alpha"]


def test_thread_exhaustion_is_reported_by_the_future(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(background, "_clock", background._Clock())  # its thread is still to come
    callbacks_done()

    with monkeypatch.context() as patched:
        refuse_threads(patched)
        future = operations.submit(SshClientCache(), connect_params(), "echo")
        assert isinstance(future.exception(PATIENCE), SshConnectError)


def test_a_command_that_has_its_connection_waits_for_a_session_as_long_as_it_takes(
    site: Site, timers: Timers
) -> None:
    site.dialer.hold("alpha")
    site.dialer.prepare = lambda transport: setattr(transport, "max_sessions", 1)
    cold = [
        operations.submit(site.cache, connect_params(connect_timeout=timeout), f"echo {timeout}")
        for timeout in (60, 5)
    ]
    work_done()
    site.dialer.release()
    running = site.next_running()
    timers.fire()
    assert not cold[1].done()
    running.complete()
    site.next_running().complete()
    assert [future.result(PATIENCE).exit_status for future in cold] == [0, 0]


def test_command_timed_out_while_connecting_is_sent_or_reported_unsent(
    monkeypatch: pytest.MonkeyPatch, fine_grained: None
) -> None:
    pause = threading.Event()
    for round_number in range(200):
        timers, dialer, both = Timers(), GatedDialer(), threading.Barrier(2)
        monkeypatch.setattr(background, "call_at", timers.call_at)
        dialer.hold("alpha")
        dialer.prepare = lambda _, both=both: both.wait(PATIENCE)  # type: ignore
        cache = SshClientCache(dialer=dialer)
        patient, hasty = [
            operations.submit(cache, connect_params(connect_timeout=timeout), f"echo {timeout}")
            for timeout in (60, 5)
        ]
        work_done()
        dialer.release()
        while not both.n_waiting:  # or the dial would always be ahead
            pause.wait(0.0001)
        both.wait(PATIENCE)
        for _ in range(round_number % 40 * 100):
            pass
        timers.fire()  # that of the hasty one
        (slot,) = cache._slots.all_slots()
        slot.connection.result(PATIENCE)
        transport = dialer.transports[0]
        deadline = time.monotonic() + PATIENCE
        while not (patient.done() and hasty.done()):
            assert time.monotonic() < deadline, "a command has no outcome"
            for channel in list(transport.channels):
                if channel.command is not None:
                    channel.complete()
        assert patient.result().exit_status == 0
        sent = sorted(channel.command for channel in transport.opened if channel.command)
        if hasty.exception() is None:
            assert sent == [b"echo 5", b"echo 60"]
        else:
            assert isinstance(hasty.exception(), SshConnectTimeout)
            assert sent == [b"echo 60"]
        cache.cleanup()
    callbacks_done()


def test_command_sent_at_its_deadline_is_not_reported_as_unsent(
    site: Site,
) -> None:
    site.warm()
    (command,) = site.submit()
    command.settle_unsent(SshConnectTimeout("still connecting"))  # decided a moment earlier
    assert not command.future.done()
    site.channel_of(command).complete()
    assert command.future.result(0).exit_status == 0


@pytest.mark.parametrize("most", [0, -1, "4", None, 1.5])
def test_without_a_number_of_connections_nothing_is_dialled(most: Any, site: Site) -> None:
    """None could ever be used, and one after the other would be made."""
    with pytest.raises(SshConfigError, match="max_connections"):
        operations.submit(site.cache, connect_params(), "echo", max_connections=most)
    assert site.cache.stats()["dials"] == 0


def test_submitting_waits_for_nothing(site: Site) -> None:
    site.dialer.hold("alpha")
    commands = site.submit(400)
    assert not any(command.future.done() for command in commands)
    site.dialer.wait_dialling(1)
    assert site.dialer.dials == ["alpha"]
    assert commands[0].waits_for() == "connect"
    site.dialer.prepare = lambda transport: setattr(transport, "max_sessions", 1)
    site.dialer.release()
    site.connected()
    assert commands[-1].waits_for() == "queue"


def test_command_cancelled_in_the_queue_is_never_sent(site: Site) -> None:
    site.warm(max_sessions=1)
    commands = site.submit(6)
    for command in commands[1::2]:
        assert command.future.cancel()
        assert isinstance(error(command), SshCommandCancelled)
    while site.running():
        site.running()[0].complete()
    assert site.sent() == ["c0", "c1", "c3", "c5"]


def test_command_cancelled_while_opening_returns_its_session(site: Site) -> None:
    site.warm(answers=False)
    channel = site.transports[0].channels[0]
    assert site.commands[0].future.cancel()
    channel.answer()
    assert channel.closed and channel.command is None
    assert site.sent() == []
    site.submit()
    site.transports[0].channels[0].answer()
    assert site.texts() == ["c1"]


# Losses.


def test_refused_dial_gives_each_waiter_its_own_error(site: Site) -> None:
    site.dialer.hold("alpha")
    site.dialer.errors["alpha"] = [SshAuthError("refused", tried=("publickey",))]
    commands = site.submit(30)
    site.dialer.release()
    errors = [error(command) for command in commands]
    assert {type(one) for one in errors} == {SshAuthError}
    assert len({id(one) for one in errors}) == 30
    assert all(one.tried == ("publickey",) for one in errors)
    assert site.dialer.dials == ["alpha"]
    site.submit()
    site.connected()
    assert site.texts() == ["c30"]


def test_unsent_command_is_retried_once(site: Site) -> None:
    site.dialer.prepare = lambda transport: setattr(transport, "answers", False)
    (command,) = site.submit()
    site.connected()
    site.transports[0].lose("reset")
    site.connected()
    assert not command.future.done()
    site.transports[1].lose("reset")
    lost = error(command)
    assert isinstance(lost, SshConnectionLost)
    assert (lost.sent, lost.phase, lost.process) == (False, "open", None)
    assert site.dialer.dials == ["alpha"] * 2


def test_retried_command_succeeds_silently(site: Site) -> None:
    site.dialer.prepare = lambda transport: setattr(transport, "answers", False)
    commands = site.submit(5)
    site.connected()
    site.dialer.prepare = lambda transport: None
    site.transports[0].lose("eof")
    site.connected()
    for command in commands:
        site.channel_of(command).complete()
        assert command.future.result(0).exit_status == 0
    assert site.dialer.dials == ["alpha"] * 2


def test_sent_command_is_never_resent(site: Site) -> None:
    site.warm()
    commands = site.submit(10)
    for channel in site.running():
        channel.sink.on_data(b"so far")
    site.transports[0].lose("reset")
    for command in commands:
        assert isinstance(error(command), SshConnectionLost)
        assert error(command).sent is True
        assert error(command).process.stdout == "so far"
    assert site.dialer.dials == ["alpha"]
    site.submit()
    site.connected()
    assert site.dialer.dials == ["alpha"] * 2
    assert site.texts() == ["c11"]


@pytest.mark.parametrize("stdin", [b"", b"for it to read"])
def test_input_no_network_took_is_sent_over_the_next_connection(stdin: bytes, site: Site) -> None:
    """The connection ended between the look at it and the write, or in a key exchange."""
    site.warm(window=0)  # as OpenSSH's are, until it has begun to run something
    (command,) = site.submit(stdin=stdin)
    site.channel_of(command).held_back = True
    site.transports[0].lose("reset")
    site.connected()
    assert not command.future.done()
    channel = site.channel_of(command)
    channel.window = 1000
    channel.sink.on_writable()
    assert (channel.sent, channel.eof_sent) == (stdin, 1)
    channel.complete()
    assert command.future.result(0).exit_status == 0
    assert site.dialer.dials == ["alpha"] * 2


def test_command_with_partly_sent_input_is_reported_unsent(site: Site) -> None:
    site.warm()
    (command,) = site.submit(stdin=b"for it to read")
    site.channel_of(command).held_back = True
    site.transports[0].lose("reset")
    lost = error(command)
    assert isinstance(lost, SshConnectionLost)
    assert (lost.sent, lost.phase, lost.process) == (False, "open", None)
    assert site.dialer.dials == ["alpha"]


def test_a_second_attempt_is_the_last(site: Site) -> None:
    site.warm()
    (command,) = site.submit()
    for transport in (0, 1):
        site.channel_of(command).held_back = True
        site.transports[transport].lose("reset")
        site.connected()
    assert error(command).sent is False
    assert site.dialer.dials == ["alpha"] * 2


def test_command_being_ended_is_not_resent(site: Site) -> None:
    site.warm()
    (command,) = site.submit()
    site.channel_of(command).held_back = True
    assert command.future.cancel()
    site.transports[0].lose("reset")
    assert isinstance(error(command), SshCommandCancelled)
    assert error(command).ended is None
    assert site.dialer.dials == ["alpha"]


class After:
    """A lock after whose n-th release another thread's work happens at once."""

    def __init__(self, lock: Any, count: int, work: Callable[[], Any]) -> None:
        self._lock, self._left, self._work = lock, count, work

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *exc_info: object) -> None:
        self._lock.release()
        self._left -= 1
        if self._left == 0:
            self._work()


@pytest.mark.parametrize("count", range(7))
def test_a_session_that_ends_just_before_it_is_used_is_used_no_more(
    count: int, site: Site
) -> None:
    """
    Between the choice of a session and the sending it may end, and the command be sent elsewhere.

    Then it must not be sent once more over the first, nor be taken for lost with it, however soon
    the second attempt begins.
    """
    transport = site.warm()
    spare = transport.channels[0]
    command = Command("c1", {}, None, "somebody@alpha:22")
    site.commands.append(command)
    start, turns, lock = command.start, iter([True]), site.pool._lock

    def gate(channel: Any) -> bool:
        if next(turns, False):
            assert channel is spare
            site.pool._lock = After(lock, count, site.pool._dispatch)  # type: ignore[assignment]
            spare.end()  # the reader thread is told, and finds it another session
            site.pool._lock = lock
            assert site.channel_of(command) is not spare
        return start(channel)

    command.start = gate  # type: ignore[method-assign]
    site.pool.submit(command, 1)
    work_done()
    assert spare.command is None
    assert not command.future.done()
    channel = site.channel_of(command)
    command.signal("INT")
    work_done()
    assert channel.signals == ["INT"]
    channel.complete()
    assert command.future.result(0).exit_status == 0


def test_a_server_that_ends_every_connection_before_a_session_is_not_dialled_for_ever(
    site: Site,
) -> None:
    site.dialer.prepare = lambda transport: transport.lose("eof")
    site.dialer.hold("alpha")
    commands = site.submit(3)
    site.dialer.release()
    for command in commands:
        lost = error(command)
        assert isinstance(lost, SshConnectionLost)
        assert lost.sent is False
        assert "somebody@alpha:22: the server ended each connection" in str(lost)
    assert len(site.dialer.dials) == 2
    site.dialer.prepare = lambda transport: None
    site.submit()
    site.connected()
    assert site.texts() == ["c3"]


def test_connections_that_end_without_a_session_long_apart_are_no_pattern(site: Site) -> None:
    """Two idle connections expired unused; that says nothing about the third."""
    for turn in range(4):
        site.dialer.hold("alpha")
        (command,) = site.submit()
        site.dialer.wait_dialling(turn + 1)
        if turn < 3:
            command.future.cancel()
        site.dialer.release()
        site.connected()
        for transport in site.transports[:-1]:
            assert not transport.is_active()
        if turn < 3:
            site.transports[-1].lose("eof")
    assert not command.future.done()


def test_connection_ending_between_two_checks_fails_no_command(site: Site) -> None:
    site.dialer.hold("alpha")
    (first,) = site.submit()
    first.future.cancel()
    site.dialer.release()
    site.connected()
    transport = site.transports[0]
    looks = [True]  # alive at the first look, and not any more at the second
    transport.is_active = lambda: bool(looks and looks.pop())  # type: ignore[method-assign]
    (command,) = site.submit()
    assert not command.future.done()
    del transport.is_active
    transport.lose("eof")
    site.connected()
    site.channel_of(command).complete()
    assert command.future.result(0).exit_status == 0


def test_expired_connection_is_replaced_silently(site: Site) -> None:
    """Its channels end with "closed", as by `cleanup`; waiting commands must not fail with it."""
    site.warm(max_sessions=1)
    commands = site.submit(3)
    site.transports[0].close_nowait()  # by expiry, or by the user: the cache itself is not closed
    assert isinstance(error(commands[0]), SshConnectionLost)  # that was sent
    site.connected()
    for command in commands[1:]:
        site.running()[0].complete()
        assert command.future.result(0).exit_status == 0
    assert site.dialer.dials == ["alpha"] * 2


def test_one_that_expires_just_when_it_is_wanted_is_replaced(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = site.warm()
    slot = site.pool._scheduler.connections[0].slot
    assert slot is not None
    site.cache._slots.remove(slot)  # as expiry does, before it hangs up
    (command,) = site.submit()
    site.connected()
    transport.close_nowait()
    site.channel_of(command).complete()
    assert command.future.result(0).exit_status == 0


def test_an_ended_connection_is_let_go(site: Site) -> None:
    site.warm()
    assert site.pool._scheduler.connections
    site.transports[0].channels[0].close()  # the spare one, long unused
    site.transports[0].lose("eof")
    assert site.pool._scheduler.connections == []
    gone = weakref.ref(site.transports.pop())
    site.commands.clear()
    callbacks_done()
    gc.collect()
    assert gone() is None


# The cache is closed.


def test_cleanup_ends_what_runs_and_what_waits_and_dials_nothing(site: Site) -> None:
    site.max_connections = 2
    site.warm(max_sessions=2)
    commands = site.submit(20)
    for _ in range(2):
        site.connected()
    assert len(site.running()) == 4
    site.cache.cleanup()
    kinds = [type(error(command)) for command in commands]
    assert kinds.count(SshConnectionLost) == 4
    assert kinds.count(SshCacheClosed) == 16
    assert len(site.dialer.dials) == 2
    assert len(site.cache) == 0


@pytest.mark.parametrize("refused", [True, False])
def test_closing_the_cache_reports_unsent_commands_as_unsent(
    refused: bool, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refusal that arrives while the cache is being closed is not reported."""
    site.warm(max_sessions=0, answers=False)
    (channel,) = site.transports[0].channels
    with monkeypatch.context() as patch:
        patch.setattr(
            site.cache.lender, "close_retired", lambda: None
        )  # no connection is told yet
        site.cache._slots.retire_all()
    channel.answer() if refused else site.transports[0].close_nowait()
    assert isinstance(error(site.commands[0]), SshCacheClosed)
    site.cache.lender.close_retired()


def test_cleanup_before_the_pool_has_taken_a_command_ends_it_and_dials_nothing(
    site: Site,
) -> None:
    """A command that was submitted before ends with the cache, even if not accepted yet."""
    gate = threading.Event()
    background.submit(site.pool._strand, gate.wait, PATIENCE)
    command = Command("c", {}, None, "somebody@alpha:22")
    site.pool.submit(command, 1)
    site.cache.cleanup()
    gate.set()
    assert isinstance(command.future.exception(PATIENCE), SshCacheClosed)
    work_done()
    assert not site.pool._scheduler.connections and not site.pool._scheduler._queue
    assert site.dialer.dials == [] and len(site.cache) == 0


def test_cleanup_while_the_pool_leases_a_connection_ends_what_waits_and_dials_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    slots, lease = site.cache._slots, site.cache._slots.lease

    def lease_too_late(*args: Any) -> bool:
        site.cache.cleanup()
        return lease(*args)

    monkeypatch.setattr(slots, "lease", lease_too_late)
    commands = site.submit(5)
    assert {type(error(command)) for command in commands} == {SshCacheClosed}
    work_done()
    assert site.dialer.dials == [] and len(site.cache) == 0


def test_cleanup_while_others_hold_all_sessions_ends_what_waits_and_dials_nothing(
    site: Site,
) -> None:
    transport = site.warm(max_sessions=2)
    transport.reclaim_idle_sessions()
    transport.others = 2  # a copy's, say
    commands = site.submit(3)
    site.cache.cleanup()
    assert {type(error(command)) for command in commands} == {SshCacheClosed}
    assert site.dialer.dials == ["alpha"]


def test_cleanup_while_dialling_ends_what_waits(site: Site) -> None:
    site.dialer.hold("alpha")
    commands = site.submit(5)
    site.dialer.wait_dialling(1)
    site.cache.cleanup()
    assert {type(error(command)) for command in commands} == {SshCacheClosed}
    assert site.dialer.dials == ["alpha"]


@pytest.mark.parametrize("at", ["renew", "request"])
def test_cleanup_at_the_worst_moment_leaves_nothing_open(
    site: Site, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing that was submitted before it may open a connection after it."""
    site.max_connections = 1 if at == "renew" else 4
    site.warm(max_sessions=1)
    commands = site.submit(2)
    plain = getattr(site.cache.lender, at)
    closing = threading.Event()

    def retire() -> None:
        """Take all slots, without a word to any connection yet."""
        with monkeypatch.context() as patch:
            patch.setattr(site.cache.lender, "close_retired", lambda: None)
            site.cache._slots.retire_all()

    def gate(*args: Any, **more: Any) -> Any:
        if not closing.is_set():
            closing.set()
            retire()
        return plain(*args, **more)

    if at == "renew":
        monkeypatch.setattr(site.cache.lender, at, gate)
        site.running()[0].complete()  # so that the next one would begin
    else:
        site.connected()
        retire()
        site.pool._dispatch()
    site.cache.lender.close_retired()
    for command in commands:
        command.future.exception(PATIENCE)
    site.connected()
    for slot in site.cache._slots.all_slots():
        assert not slot.is_live(), "a connection was opened after the cleanup"


# Nothing is admitted.


def test_server_without_sessions_fails_all_and_later_calls_retry(
    site: Site,
) -> None:
    site.warm(max_sessions=0, answers=False)
    commands = [site.commands[0], *site.submit(5)]
    for channel in list(site.transports[0].channels):
        channel.answer()
    assert {type(error(command)) for command in commands} == {SshSessionRefused}
    site.transports[0].max_sessions = 1
    site.transports[0].answers = True
    site.submit()
    assert site.texts() == ["c6"]


def test_waiting_commands_share_one_retry_timer(site: Site, timers: Timers) -> None:
    transport = site.warm(max_sessions=2)
    transport.reclaim_idle_sessions()
    transport.others = 2
    commands = site.submit(50)  # each of them could set a timer of its own
    retries = [timer for timer in timers.live if "_retry" in repr(timer[1].function)]
    assert len(retries) == 1
    for _ in range(20):
        retry = [timer for timer in timers.live if "_retry" in repr(timer[1].function)]
        assert len(retry) == 1
        timers.set.remove(retry[0])
        opened = len(transport.opened)
        retry[0][1].function()  # type: ignore[misc]
        assert len(transport.opened) - opened <= 3
    assert not any(command.future.done() for command in commands)
    transport.others = 0
    while not site.running():
        timers.fire()
    while site.running():
        site.running()[0].complete()
    assert all(command.future.result(0).exit_status == 0 for command in commands)


def test_a_server_of_one_session_is_not_asked_in_vain_without_end(
    site: Site, timers: Timers
) -> None:
    """A copy holds the session that tinysshd has for each connection."""
    transport = site.warm(max_sessions=1, remote_version="SSH-2.0-tinyssh_20250501 A1b2C3d4")
    transport.others = 1
    (command,) = site.submit()
    assert transport.refusals == 1
    transport.others = 0
    for _, timer in list(timers.live):
        timer.function()  # type: ignore[misc]
    site.channel_of(command).complete()


def test_a_retry_requests_one_session_and_more_once_the_server_opens_it(
    site: Site, timers: Timers
) -> None:
    """A copy holds all ten sessions before the first command of a hundred, then ends."""
    transport = site.warm(max_sessions=10)
    transport.reclaim_idle_sessions()
    transport.others = 10
    commands = site.submit(100)
    for _ in range(5):
        refusals = transport.refusals
        timers.fire()
        assert transport.refusals == refusals + 1
    transport.others = 0
    timers.fire()
    assert len(site.running()) == 10
    assert transport.refusals < 20
    while site.running():
        site.running()[0].complete()
    assert all(command.future.result(0).exit_status == 0 for command in commands)


def test_no_more_than_ten_sessions_are_requested_before_the_first_reply(site: Site) -> None:
    """Then as many more as are open: the server of a thousand commands refuses ten, not all."""
    transport = site.warm(max_sessions=12)
    transport.reclaim_idle_sessions()
    transport.answers = False
    commands = site.submit(100)
    assert len(transport.channels) == 10
    transport.answers = True
    for channel in list(transport.channels):
        channel.answer()
    assert len(site.running()) == 12
    assert transport.refusals <= 12
    while site.running():
        site.running()[0].complete()
    assert all(command.future.result(0).exit_status == 0 for command in commands)


def test_a_refusing_connection_is_asked_again_while_others_work(
    site: Site, timers: Timers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that is not freed yet, and one that is in use for hours elsewhere."""
    site.max_connections = 2
    site.warm(max_sessions=1)
    long, short = site.submit(2)
    site.connected()
    further = site.transports[1]
    site.channel_of(short).complete()
    further.reclaim_idle_sessions()
    further.others = 1  # the server has not freed the session of the command that has ended
    (last,) = site.submit()
    monkeypatch.setattr(scheduler, "_REFUSAL_TIMEOUT", 0.0)
    timers.fire()
    assert not last.future.done()  # nor is it given up
    further.others = 0
    timers.fire()
    assert site.texts() == [long._text, last._text]
    site.channel_of(last).complete()
    site.channel_of(long).complete()


def test_a_server_that_goes_on_to_refuse_is_given_up_though_it_admitted_some_before(
    site: Site, timers: Timers, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = site.warm(max_sessions=2)
    transport.reclaim_idle_sessions()
    transport.max_sessions = 0
    commands = site.submit(3)
    for _ in range(3):  # it may just not have freed those that have ended
        timers.fire()
        assert not any(command.future.done() for command in commands)
    monkeypatch.setattr(scheduler, "_REFUSAL_TIMEOUT", 0.0)
    timers.fire()
    assert {type(error(command)) for command in commands} == {SshSessionRefused}
    transport.max_sessions = 1
    (command,) = site.submit()  # whoever comes next finds out anew
    site.channel_of(command).complete()


def test_a_limit_that_was_learnt_beside_others_does_not_stay_for_ever(
    site: Site, timers: Timers, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = site.warm(max_sessions=10)
    transport.reclaim_idle_sessions()
    transport.others = 8  # a copy's, say
    site.submit(9)
    assert len(site.running()) == 2 == transport.session_limit
    transport.others = 0
    timers.fire()  # too soon
    assert len(site.running()) == 2
    monkeypatch.setattr(time, "monotonic", lambda clock=time.monotonic: clock() + 100)
    timers.fire()
    assert len(site.running()) == 9
    while site.running():
        site.running()[0].complete()


# The session in reserve.


def test_a_warm_command_needs_no_session_to_be_opened_first(site: Site) -> None:
    transport = site.warm()
    for number in range(5):
        transport.answers = False
        opened = list(transport.channels)
        assert [c.command for c in opened] == [None]
        (command,) = site.submit()
        assert site.channel_of(command) is opened[0]  # at once, on the one that was open
        site.running()[0].complete()
        transport.answers = True
        for channel in list(transport.channels):
            channel.answer()
    assert len(transport.opened) <= 7


def test_spare_session_does_not_prevent_expiry(site: Site) -> None:
    transport = site.warm()
    assert len(transport.channels) == 1
    assert transport.open_channel_count == 0
    (command,) = site.submit()
    assert transport.open_channel_count == 1
    site.channel_of(command).complete()


def test_one_session_is_enough(site: Site) -> None:
    """With MaxSessions 1 there is none to spare."""
    transport = site.warm(max_sessions=1)
    for _ in range(5):
        (command,) = site.submit()
        site.channel_of(command).complete()
        assert command.future.result(0).exit_status == 0
    assert transport.session_limit == 1
    assert site.dialer.dials == ["alpha"]


def test_the_reserve_is_given_up_for_others_and_replaced_by_the_next_command(site: Site) -> None:
    transport = site.warm()
    assert transport.reclaim_idle_sessions() is True
    assert transport.channels == []
    assert transport.reclaim_idle_sessions() is False
    (command,) = site.submit()
    assert len(transport.channels) == 2
    site.channel_of(command).complete()


def test_spare_session_dropped_while_opening_is_closed(
    site: Site,
) -> None:
    transport = site.warm()
    transport.answers = False
    (command,) = site.submit()
    spare = [c for c in transport.channels if not c.is_open][0]
    assert transport.reclaim_idle_sessions() is True
    spare.answer()
    assert spare.closed
    site.channel_of(command).complete()


def test_the_reserve_is_given_up_when_nothing_was_run_for_a_while(
    site: Site, timers: Timers, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = site.warm()
    assert len(timers.live) == 1
    timers.fire()  # too early
    assert len(transport.channels) == 1
    now = time.monotonic() + pool._SPARE_IDLE_TIMEOUT + 1
    monkeypatch.setattr(time, "monotonic", lambda: now)
    timers.fire()
    assert transport.channels == []
    assert transport.is_active()
    assert timers.live == []


def test_where_many_commands_run_two_sessions_are_ready(site: Site) -> None:
    transport = site.warm(max_sessions=10)
    for command in site.submit(8):
        site.channel_of(command).complete()
    transport.answers = False
    for command in site.submit(2):
        assert site.channel_of(command).is_open
    assert transport.refusals == 0


@pytest.mark.parametrize(
    ("max_sessions", "refusals"), [(1, 1), (2, 1), (3, 1), (8, 1), (9, 1), (10, 0)]
)
def test_spare_sessions_cost_no_further_refusals(
    site: Site, max_sessions: int, refusals: int
) -> None:
    """Whatever runs, a limit is found out once."""
    transport = site.warm(max_sessions=max_sessions)
    for _ in range(5):
        for command in site.submit(min(max_sessions, 8)):
            site.channel_of(command).complete()
    assert transport.refusals == refusals


def test_where_many_commands_run_a_session_taken_while_opening_is_replaced_at_once(
    site: Site,
) -> None:
    transport = site.warm()
    for command in site.submit(8):
        site.channel_of(command).complete()
    transport.answers = False
    commands = site.submit(4)
    opening = [channel for channel in transport.channels if not channel.is_open]
    assert len(opening) == 4  # for two of the commands, and for the next two
    for channel, command in zip(opening, commands[2:]):
        channel.answer()
        assert channel is site.channel_of(command)
    for command in commands:
        site.channel_of(command).complete()


def test_where_many_commands_wait_a_few_sessions_are_requested_at_a_time(site: Site) -> None:
    """The server's limit is not known yet; each request beyond it is an error in sshd's log."""
    transport = site.warm()
    for command in site.submit(8):
        site.channel_of(command).complete()
    transport.answers = False
    before = len(transport.opened)
    site.submit(40)
    assert len(transport.opened) - before <= 10


def test_spare_session_closed_by_the_server_is_not_a_loss(site: Site) -> None:
    transport = site.warm()
    transport.channels[0].end()
    (command,) = site.submit()
    site.channel_of(command).complete()
    assert command.future.result(0).exit_status == 0


def test_spare_session_that_ends_when_needed_is_replaced(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = site.warm()
    spare = transport.channels[0]
    renew = site.cache.lender.renew

    def gate(slot: Any) -> Any:
        spare.end()
        return renew(slot)

    monkeypatch.setattr(site.cache.lender, "renew", gate)
    (command,) = site.submit()
    site.channel_of(command).complete()
    assert command.future.result(0).exit_status == 0
    assert site.dialer.dials == ["alpha"]


# Commands of our own.

# The exec request of a script for a POSIX shell.
OURS = script.deliver("kill", None, "/bin/sh").command.decode()


def test_helper_runs_before_queued_commands(site: Site) -> None:
    transport = site.warm(max_sessions=2)
    site.submit(4)
    assert site.texts() == ["c1", "c2"]
    transport.answers = False  # so that no further connection is ready
    site.dialer.hold("alpha")
    site.commands[1].run_helper("kill", lambda output: None)
    site.running()[0].complete()
    transport.channels[-1].answer()
    assert OURS in site.texts() and "c3" not in site.texts()
    transport.answers = True
    site.dialer.release()
    site.connected()
    while site.running():
        site.running()[0].complete()
    assert site.sent().index(OURS) < site.sent().index("c3") < site.sent().index("c4")


def test_helper_opens_another_connection_if_all_are_full(site: Site) -> None:
    """Ten that hang and time out fill the server; only another connection can end them."""
    site.max_connections = 1
    site.warm(max_sessions=1)
    first, second = site.submit(2)
    replies: List[Any] = []
    first.run_helper("kill", replies.append)
    site.connected()
    assert site.texts() == ["c1", OURS]
    assert len(site.dialer.dials) == 2
    site.running()[1].complete(stdout=b"ended")
    assert replies == [b"ended"]
    assert site.texts() == ["c1"]  # nobody else uses that connection
    site.running()[0].complete()
    assert site.texts() == ["c2"]
    site.channel_of(second).complete()


# Leases.


def test_each_command_under_way_holds_one_lease(site: Site) -> None:
    site.warm()
    assert site.cache.stats()["leases"] == 0
    site.submit(7)
    assert site.cache.stats()["leases"] == 7
    for left in range(6, -1, -1):
        site.running()[0].complete()
        assert site.cache.stats()["leases"] == left


def test_the_limits_of_the_caller_reach_the_cache(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: List[Any] = []
    release = site.cache.lender.release

    def noted(slot: Any, *limits: Any) -> None:
        given.append(limits)
        release(slot, *limits)

    monkeypatch.setattr(site.cache.lender, "release", noted)
    command = Command("c", {}, None, "somebody@alpha:22")
    site.pool.submit(command, 1, 60.0, 3600.0)
    site.connected()
    site.running()[0].complete()
    assert given and set(given) == {(60.0, 3600.0)}


# Everything at once.


@pytest.mark.parametrize("seed", range(6))
def test_each_command_has_one_outcome_and_at_most_one_send(
    seed: int, site: Site, timers: Timers
) -> None:
    """Threads submit and cancel while a server completes, refuses, and loses connections."""
    rng = random.Random(seed)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    site.max_connections = 1 + seed % 3

    def prepare(transport: FakeTransport) -> None:
        transport.max_sessions = rng.randrange(1, 6)
        transport.answers = False
        transport._reader = threading.RLock()

    site.dialer.prepare = prepare
    stop = threading.Event()
    chaos = seed % 2 == 0

    def client(number: int) -> None:
        mine = random.Random(number)
        for _ in range(60):
            command = Command(f"s{number}-{mine.random()}", {}, None, "somebody@alpha:22")
            site.commands.append(command)
            site.pool.submit(command, site.max_connections)
            if chaos and mine.random() < 0.1:
                command.future.cancel()
            if mine.random() < 0.5:
                command.future.exception(PATIENCE)

    def server() -> None:
        """Play all the readers, one event at a time."""
        pause = threading.Event()
        while not stop.is_set():
            live = [t for t in list(site.transports) if t.is_active()]
            channels: List[FakeChannel] = [c for t in live for c in list(t.channels)]
            if not channels:
                pause.wait(0.0005)
                for _, timer in list(timers.live):  # retries come at once here
                    if timer.function is not None and "_retry" in repr(timer.function):
                        function, timer.function = timer.function, None
                        function()
                continue
            channel = rng.choice(channels)
            chance = rng.random()
            if chaos and chance < 0.01:
                channel.transport.lose(rng.choice(["eof", "reset", "closed"]))
            elif not channel.is_open:
                channel.answer()
            elif channel.command is not None:
                if channel.signals or chance > 0.3:
                    channel.complete(0, channel.command)

    reader = threading.Thread(target=server, daemon=True)
    reader.start()
    try:
        in_threads(*[lambda number=number: client(number) for number in range(8)])
        for command in site.commands:
            command.future.exception(PATIENCE)
    finally:
        stop.set()
        reader.join(PATIENCE)
        sys.setswitchinterval(before)
    assert not reader.is_alive()
    sent: Dict[str, int] = {}
    for text in site.sent():
        sent[text] = sent.get(text, 0) + 1
    assert max(sent.values()) == 1
    for command in site.commands:
        found = command.future.exception(0)
        if found is None:
            assert command.future.result(0).stdout == command._text
        elif isinstance(found, SshConnectionLost):
            assert found.sent == (command._text in sent)
        else:
            assert isinstance(found, SshCommandCancelled) and chaos
    if not chaos:
        assert all(command.future.exception(0) is None for command in site.commands)
