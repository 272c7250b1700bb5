"""A command under way, as a program holds it: its lines, its signals, and being dropped."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any, Iterator, List, Tuple

import pytest

from ssh_service import background, params, start
from ssh_service.commands.command import Command
from ssh_service.commands.output import QueueOutput
from ssh_service.commands.remote_process import RemoteProcess
from ssh_service.connections.cache import SshClientCache
from ssh_service.errors import (
    SshCommandTimeout,
    SshConfigError,
    SshConnectError,
    SshConnectionLost,
)
from tests.common import PATIENCE, eventually
from tests.unit.engine_fakes import (
    FakeChannel,
    FakeTransport,
    GatedDialer,
    connect_params,
    work_done,
)


def begun(**more: Any) -> Tuple[RemoteProcess, FakeChannel]:
    command = Command(
        "echo",
        {},
        None,
        "somebody@alpha:22",
        stdout=QueueOutput("utf-8"),
        stderr=QueueOutput("utf-8"),
        more_stdin=True,
        **more,
    )
    channel = FakeChannel(FakeTransport(), command)
    channel.transport.channels.append(channel)
    channel.is_open = True
    assert command.start(channel)
    return RemoteProcess(command, command.take_future()), channel


@pytest.fixture(name="dialer")
def a_dialer() -> GatedDialer:
    return GatedDialer()


@pytest.fixture(name="cache")
def a_cache(dialer: GatedDialer) -> Iterator[SshClientCache]:
    cache = SshClientCache(dialer=dialer)
    yield cache
    dialer.release()
    work_done()
    cache.cleanup()
    work_done()


def channels(dialer: GatedDialer) -> List[FakeChannel]:
    work_done()
    return [c for t in dialer.transports for c in t.opened if c.command is not None]


@pytest.mark.parametrize("stream", ["lines", "stderr_lines"])
def test_lines_of_a_lost_connection_raise_at_their_end(stream: str) -> None:
    """The lines that arrived are returned, then the loss is raised."""
    process, channel = begun()
    (channel.sink.on_data if stream == "lines" else channel.sink.on_stderr)(b"one\ntwo")
    channel.end(SshConnectionLost("lost", reason="eof"))
    seen: List[str] = []
    with pytest.raises(SshConnectionLost):
        for line in getattr(process, stream)():
            seen.append(line)
    assert seen == ["one\n", "two"]


def test_lines_of_a_command_out_of_time_raise_at_their_end() -> None:
    process, channel = begun(timeout=0.01)
    channel.sink.on_data(b"one\n")
    lines = process.lines()
    assert next(lines) == "one\n"
    eventually(lambda: channel.signals == ["TERM"])
    channel.sink.on_exit_signal("TERM", False, "")
    channel.end()
    with pytest.raises(SshCommandTimeout, match="the remote process was ended"):
        next(lines)


@pytest.mark.parametrize("status", [0, 3])
def test_lines_of_a_command_that_ended_by_itself_just_end(status: int) -> None:
    """A non-zero exit is a result."""
    process, channel = begun()
    channel.complete(status, b"one\n")
    assert list(process.lines()) == ["one\n"]


def test_lines_keep_the_command_of_a_process_nobody_else_holds(
    cache: SshClientCache, dialer: GatedDialer
) -> None:
    lines = start(connect_params(), "echo", cache=cache).lines()
    gc.collect()
    eventually(lambda: channels(dialer))
    channels(dialer)[0].complete(0, b"one\n")
    assert list(lines) == ["one\n"]


@pytest.mark.parametrize("name, code", [("KILL", -9), ("TERM", -15), ("INT", -2)])
def test_signalled_before_it_was_sent_a_command_never_is(
    name: str, code: int, cache: SshClientCache, dialer: GatedDialer
) -> None:
    """As a process of Popen's that is killed at once."""
    dialer.hold("alpha")
    process = start(connect_params(), "echo", cache=cache)
    process.signal(name)
    done = process.result(PATIENCE)
    assert (done.returncode, done.exit_status) == (code, -1)
    assert done.exit_signal is not None and done.exit_signal[0] == name
    dialer.release()
    assert channels(dialer) == []


def test_signalled_by_its_methods_it_gets_their_signals() -> None:
    process, channel = begun()
    process.terminate()
    process.kill()
    assert channel.signals == ["TERM", "KILL"]
    channel.end()


def test_a_signal_that_ends_nothing_is_sent_with_the_command(
    cache: SshClientCache, dialer: GatedDialer
) -> None:
    """Remembered while it connects."""
    dialer.hold("alpha")
    process = start(connect_params(), "echo", cache=cache)
    process.signal("USR1")
    process.signal("WINCH")
    dialer.release()
    eventually(lambda: channels(dialer))
    (channel,) = channels(dialer)
    assert channel.signals == ["USR1", "WINCH"]
    channel.complete()
    assert process.result(PATIENCE).exit_status == 0


def test_a_process_that_is_dropped_under_way_is_ended_with_a_warning(
    cache: SshClientCache, dialer: GatedDialer
) -> None:
    process = start(connect_params(), "echo", cache=cache)
    eventually(lambda: channels(dialer))
    with pytest.warns(ResourceWarning, match="somebody@alpha:22: a running command was dropped"):
        del process
        gc.collect()
    (channel,) = channels(dialer)
    eventually(lambda: channel.signals == ["TERM"], "it is ended")
    channel.end()
    work_done()
    assert cache.stats()["leases"] == 0


def test_a_command_without_a_thread_of_ours_fails_at_once(
    cache: SshClientCache, dialer: GatedDialer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system gives no more threads, so that nothing would ever come of it."""
    monkeypatch.setattr(background, "ensure_threads", lambda: False)
    process = start(connect_params(), "echo", cache=cache)
    with pytest.raises(SshConnectError, match="somebody@alpha:22: the system gives no more"):
        process.result(0)
    assert dialer.transports == []


def test_a_future_with_a_done_callback_is_wanted_though_nobody_holds_it(
    cache: SshClientCache, dialer: GatedDialer
) -> None:
    done = threading.Event()
    process = start(connect_params(), "echo", cache=cache)
    process.future.add_done_callback(lambda future: done.set())
    del process
    gc.collect()
    eventually(lambda: channels(dialer))
    channels(dialer)[0].complete()
    assert done.wait(PATIENCE)


def test_a_command_that_is_over_does_not_hold_the_pool(
    cache: SshClientCache, dialer: GatedDialer
) -> None:
    """A result that is kept for long is a result, and no connection."""
    process = start(connect_params(), "echo", cache=cache)
    eventually(lambda: channels(dialer))
    channels(dialer)[0].complete()
    process.result(PATIENCE)
    pool = weakref.ref(cache.session_pool(params.resolve(connect_params()).key, lambda: None))
    assert pool() is not None
    cache.cleanup()
    work_done()
    eventually(lambda: gc.collect() >= 0 and pool() is None, "the pool is let go")
    assert process.result().exit_status == 0


@pytest.mark.parametrize(
    "name, value",
    [
        ("timeout", 10**400),
        ("timeout", float("nan")),
        ("timeout", -1),
        ("timeout", "5"),
        ("encoding", "rot13"),
        ("encoding", "no-such"),
        ("encoding", "utf\0-8"),
        ("stdin", "\ud800"),
    ],
    ids=str,
)
def test_a_wrong_argument_is_named_at_once(name: str, value: Any, cache: SshClientCache) -> None:
    with pytest.raises(SshConfigError, match=f"^{name}: "):
        start(connect_params(), "echo", cache=cache, **{name: value})
    assert cache.stats()["dials"] == 0


@pytest.mark.parametrize("seconds", [10**400, float("nan"), -1])
def test_a_wait_of_no_number_of_seconds_is_refused(seconds: Any) -> None:
    process, channel = begun()
    with pytest.raises(SshConfigError, match="^timeout: "):
        process.result(seconds)
    with pytest.raises(SshConfigError, match="^timeout: "):
        process.write("x", seconds)
    channel.end()


def test_expired_wait_is_not_reported_as_a_command_timeout() -> None:
    """Two things, two texts."""
    process, channel = begun()
    with pytest.raises(TimeoutError, match="is still running after a wait of 0.01 s; only"):
        process.result(0.01)
    channel.end()


def test_start_without_a_thread_is_a_clear_error(
    cache: SshClientCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssh_service.background.ensure_threads", lambda: False)
    with pytest.raises(SshConnectError, match="the system gives no more threads"):
        start(connect_params(), "echo", cache=cache).result(PATIENCE)
