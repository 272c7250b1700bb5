"""One command on a channel that the test holds the other end of: every fate it can have."""

from __future__ import annotations

import concurrent.futures
import gc
import pickle
import sys
import threading
import weakref
from typing import Any, Callable, Iterator, List, Optional

import pytest

from ssh_service import background
from ssh_service.commands.command import Command
from ssh_service.commands.output import CallbackOutput, Output, QueueOutput
from ssh_service.commands.result import CompletedProcess
from ssh_service.errors import (
    SshCacheClosed,
    SshCommandCancelled,
    SshCommandTimeout,
    SshConfigError,
    SshConnectError,
    SshConnectionLost,
    SshConnectTimeout,
    SshOutputLimitError,
    SshSessionRefused,
)
from tests.unit.engine_fakes import (
    PATIENCE,
    FakeChannel,
    FakeTransport,
    Timers,
    callbacks_done,
    in_threads,
)


@pytest.fixture(autouse=True)
def timers(monkeypatch: pytest.MonkeyPatch) -> Timers:
    timers = Timers()
    monkeypatch.setattr(background, "call_at", timers.call_at)
    return timers


def make(text: str = "echo", user: str = "somebody", **more: Any) -> Command:
    return Command(text, more.pop("env", {}), more.pop("shell", None), f"{user}@alpha:22", **more)


def started(command: Command) -> FakeChannel:
    """Start a command on a channel whose messages go to it."""
    channel = FakeChannel(FakeTransport(), command)
    channel.transport.channels.append(channel)
    channel.is_open = True
    assert command.start(channel)
    return channel


def result(command: Command) -> CompletedProcess:
    process = command.future.result(timeout=0)
    assert isinstance(process, CompletedProcess)
    return process


def error(command: Command) -> Any:
    found = command.future.exception(timeout=0)
    assert found is not None
    return found


# It ends by itself.


def test_completed_it_has_the_status_and_both_streams() -> None:
    command = make("the script", env={"A": "b"})
    channel = started(command)
    assert not command.future.done()
    command.on_reply(True)
    command.on_data(b"out")
    command.on_stderr(b"err")
    command.on_data(b"put")
    command.on_exit_status(3)
    command.on_eof()
    assert not command.future.done()  # more could come until CLOSE
    channel.end()
    process = result(command)
    assert (process.stdout, process.stderr) == ("output", "err")
    assert (process.exit_status, process.returncode, process.exit_signal) == (3, 3, None)
    assert (process.command, process.env, process.subsystem) == ("the script", {"A": "b"}, None)


@pytest.mark.parametrize(
    "name, returncode",
    [("KILL", -9), ("TERM", -15), ("SEGV", -11), ("NOSUCH", -99), ("_DFL", -99), ("", -99)],
)
def test_signalled_it_has_the_signal_and_never_looks_like_a_success(
    name: str, returncode: int
) -> None:
    """The server chooses the name, and Python's SIG_DFL is 0."""
    command = make()
    channel = started(command)
    command.on_data(b"before")
    command.on_exit_signal(name, True, "bye")
    channel.end()
    process = result(command)
    assert process.exit_signal == (name, True, "bye", "")
    assert (process.exit_status, process.returncode) == (-1, returncode)
    assert process.stdout == "before"


def test_a_close_without_a_status_is_no_success() -> None:
    command = make()
    started(command).end()
    assert result(command).exit_status is None
    assert result(command).returncode is None


def test_refused_exec_is_reported_and_frees_its_session() -> None:
    command = make()
    channel = started(command)
    command.on_reply(False)
    assert channel.closed
    assert isinstance(error(command), SshSessionRefused)
    assert error(command).phase == "exec"


def test_an_empty_one_succeeds_without_a_server() -> None:
    command = make(" \n")
    assert command.is_empty()
    command.settle_empty()
    assert (result(command).exit_status, result(command).stdout) == (0, "")


# The connection ends.


def test_lost_it_has_the_output_so_far_and_an_error_of_its_own() -> None:
    command = make()
    channel = started(command)
    command.on_data(b"so far")
    shared = SshConnectionLost("silence", reason="silence", connection_id="somebody@alpha:22")
    channel.end(shared)
    lost = error(command)
    assert isinstance(lost, SshConnectionLost) and lost is not shared
    assert (lost.reason, lost.sent, lost.phase) == ("silence", True, "run")
    assert lost.process is not None and lost.process.stdout == "so far"
    assert lost.process.exit_status is None
    assert shared.process is None


@pytest.mark.parametrize(
    "status, eof, completed", [(0, True, True), (0, False, False), (None, True, False)]
)
def test_loss_before_close_is_complete_only_with_status_and_eof(
    status: Optional[int], eof: bool, completed: bool
) -> None:
    command = make()
    channel = started(command)
    if status is not None:
        command.on_exit_status(status)
    if eof:
        command.on_eof()
    channel.end(SshConnectionLost("lost"))
    assert (command.future.exception(0) is None) == completed


def test_unsent_command_can_fail_with_a_shared_error() -> None:
    shared = SshConnectError("refused")
    commands = [make() for _ in range(3)]
    for command in commands:
        command.settle_unsent(shared)
        command.settle_unsent(SshCacheClosed("too late"))
        assert isinstance(error(command), SshConnectError)
        assert error(command).__cause__ is shared
    assert len({id(error(command)) for command in commands}) == 3


def test_lost_before_it_was_sent_it_says_that_nothing_was() -> None:
    command = make()
    command.settle_unsent(SshConnectionLost("lost", sent=True))
    assert error(command).sent is False
    assert error(command).process is None


# We end it.


def test_timed_out_it_is_sent_term_then_kill_and_then_given_up(timers: Timers) -> None:
    command = make(timeout=5)
    channel = started(command)
    command.on_data(b"so far")
    timers.fire()
    assert channel.signals == ["TERM"]
    assert not command.future.done()
    timers.fire()
    assert channel.signals == ["TERM", "KILL"]
    assert not channel.closed
    timers.fire()
    assert channel.closed
    timed_out = error(command)
    assert isinstance(timed_out, SshCommandTimeout) and isinstance(timed_out, TimeoutError)
    assert timed_out.ended is None
    assert timed_out.phase == "run"
    assert timed_out.process.stdout == "so far"
    assert timers.live == []


@pytest.mark.parametrize("how", ["status", "signal", "close"])
def test_ended_is_true_if_the_server_confirms_our_signal(how: str, timers: Timers) -> None:
    command = make(timeout=5)
    channel = started(command)
    timers.fire()
    if how == "status":
        command.on_exit_status(143)
        channel.end(SshConnectionLost("lost"))
    elif how == "signal":
        command.on_exit_signal("TERM", False, "")
        channel.end(SshConnectionLost("lost"))
    else:
        channel.end()
    assert error(command).ended is True
    assert timers.live == []


def test_a_timer_that_is_due_before_the_thread_that_set_it_goes_on_is_not_the_last_step(
    timers: Timers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread may be stopped for long just there, with the whole process or by its load."""
    command = make()
    channel = started(command)
    instants: List[float] = []

    def call_at(instant: float, function: Callable[[], None]) -> background.Timer:
        timer = timers.call_at(instant, function)
        instants.append(instant)
        if len(instants) == 1:
            timers.fire()
        return timer

    monkeypatch.setattr(background, "call_at", call_at)
    assert command.cancel()
    assert channel.signals == ["TERM", "KILL"]
    timers.fire()
    assert isinstance(error(command), SshCommandCancelled)
    assert timers.live == []


def test_command_settles_even_if_no_signal_can_be_sent(timers: Timers) -> None:
    command = make(timeout=5)
    channel = started(command)

    def refuse(name: str) -> None:
        raise MemoryError

    channel.send_signal = refuse  # type: ignore[method-assign]
    for _ in range(2):
        with pytest.raises(MemoryError):
            timers.fire()
    timers.fire()
    assert isinstance(error(command), SshCommandTimeout)
    assert timers.live == []


def test_connection_lost_during_termination_leaves_ended_unknown(timers: Timers) -> None:
    command = make(timeout=5)
    channel = started(command)
    timers.fire()
    channel.end(SshConnectionLost("lost"))
    assert isinstance(error(command), SshCommandTimeout)
    assert error(command).ended is None


def test_reply_to_our_close_does_not_prove_the_end(timers: Timers) -> None:
    """It may come while we give up, and after: the process may run on either way."""
    for late in (False, True):
        command = make(timeout=5)
        channel = started(command)
        if late:
            channel.close_when_open = lambda: None  # type: ignore[method-assign]
        for _ in range(3):
            timers.fire()
        if late:
            channel.end()
        assert error(command).ended is None


def test_cancelled_under_way_it_is_ended_and_cancel_is_true_once(timers: Timers) -> None:
    command = make(timeout=5)
    channel = started(command)
    assert command.future.cancel() is True
    assert command.future.cancel() is False
    assert channel.signals == ["TERM"]
    assert not command.future.cancelled()
    command.on_data(b"so far")
    command.on_exit_signal("TERM", False, "")
    channel.end()
    assert command.future.cancelled() and command.future.done()
    assert isinstance(error(command), concurrent.futures.CancelledError)
    assert (error(command).ended, error(command).process.stdout) == (True, "so far")
    assert command.future.cancel() is False
    assert timers.live == []


def test_cancelled_while_it_waits_it_is_over_at_once_and_never_sent(timers: Timers) -> None:
    command = make(timeout=5)
    assert command.future.cancel() is True
    assert isinstance(error(command), SshCommandCancelled)
    assert (error(command).phase, error(command).process) == ("queue", None)
    assert str(error(command)).endswith("the command was cancelled; it was not sent")
    channel = FakeChannel(FakeTransport(), command)
    assert command.start(channel) is False
    assert channel.command is None
    assert timers.live == []


@pytest.mark.parametrize(
    "waits_for, kind, text",
    [
        ("queue", SshCommandTimeout, "the command was not sent within 5 s"),
        ("banner", SshConnectTimeout, "not connected within 5 s (phase: banner)"),
    ],
)
def test_timed_out_before_it_was_sent_it_says_what_it_waited_for(
    waits_for: str, kind: Any, text: str, timers: Timers
) -> None:
    command = make(timeout=5)
    command.waits_for = lambda: waits_for
    timers.fire()
    assert type(error(command)) is kind
    assert error(command).phase == waits_for
    assert text in str(error(command))
    channel = FakeChannel(FakeTransport(), command)
    assert command.start(channel) is False
    assert channel.command is None


@pytest.mark.parametrize("end", ["cancel", "expire"])
def test_cancel_racing_send_is_reported_correctly(end: str) -> None:
    """Between the look at whether it was sent and the verdict nothing can be sent."""
    rounds = [0, 0]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(1500):
            command = make(timeout=5)
            channel = FakeChannel(FakeTransport(), command)
            finish: Callable[[], Any] = command.cancel if end == "cancel" else command._on_timeout
            sent = in_threads(lambda: command.start(channel), finish)[0]
            assert sent == (channel.command is not None)
            assert sent != command.future.done(), "sent, and told as never sent"
            rounds[sent] += 1
    finally:
        sys.setswitchinterval(before)


class Gate:
    """A lock that lets another thread's work happen right after its n-th release."""

    def __init__(self, count: int, work: Callable[[], Any]) -> None:
        self._lock = threading.Lock()
        self._left = count
        self._work = work

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *exc_info: object) -> None:
        self._lock.release()
        self._left -= 1
        if self._left == 0:
            self._work()


@pytest.mark.parametrize("end", ["cancel", "_on_timeout"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_command_started_during_its_end_is_ended(end: str, count: int) -> None:
    command = make(timeout=5)
    channel = FakeChannel(FakeTransport(), command)
    begun: List[bool] = []
    command._lock = Gate(  # type: ignore[assignment]
        count, lambda: begun.append(command.start(channel))
    )
    getattr(command, end)()
    for sent in begun:
        assert sent == (channel.command is not None)
        assert sent != command.future.done(), "sent, and told as never sent"


def test_timers_that_it_did_not_know_when_it_ended_are_cancelled(timers: Timers) -> None:
    """It ends while the signal is sent; no KILL may follow to what has its number by then."""
    command = make()
    channel = started(command)

    def end_at_once(name: str) -> None:
        channel.signals.append(name)
        command.on_exit_signal(name, False, "")
        channel.end()

    channel.send_signal = end_at_once  # type: ignore[method-assign]
    assert command.cancel()
    assert command.future.cancelled()
    assert timers.live == []


def test_a_signal_goes_to_a_process_that_runs_and_to_no_other() -> None:
    command = make()
    channel = started(command)
    command.signal("INT")
    channel.complete()
    command.signal("INT")
    assert channel.signals == ["INT"]


@pytest.mark.parametrize("name", [9, None, b"TERM", "", "SIGTERM", "TERM\0", "KILL; id", "A" * 99])
def test_invalid_signal_name_never_reaches_the_server(name: Any) -> None:
    command = make(user="root")
    channel = started(command)
    with pytest.raises(SshConfigError, match="signal"):
        command.signal(name)
    assert channel.signals == []
    channel.complete()


@pytest.mark.parametrize("limit", [-1, "5", 1.5, float("nan"), b"5"])
def test_a_limit_of_the_output_is_a_number_of_bytes(limit: Any) -> None:
    """Found out on the reader's thread, it would end the connection under everyone."""
    with pytest.raises(SshConfigError, match="max_output"):
        Output(limit)


def test_output_callback_and_encoding_are_validated() -> None:
    wrong: Any = "no function"
    with pytest.raises(SshConfigError, match="on_stdout"):
        CallbackOutput(wrong, None)
    for encoding in ("no-such-one", "", 5):
        with pytest.raises(SshConfigError, match="encoding"):
            CallbackOutput(print, encoding)  # type: ignore[arg-type]
        with pytest.raises(SshConfigError, match="encoding"):
            QueueOutput(encoding)  # type: ignore[arg-type]


def test_the_time_out_is_seconds() -> None:
    for wrong in (-1, float("nan"), "5", object()):
        with pytest.raises(SshConfigError, match="timeout"):
            make(timeout=wrong)
    for right in (0, 0.5, 10**9, float("inf")):
        make(timeout=right)


# Output.


def test_output_that_is_not_utf8_is_escaped_and_kept() -> None:
    command = make()
    channel = started(command)
    for piece in (b"\xc3", b"\xa4\xff", "日".encode()[:2], "日".encode()[2:], b"\0\r\n"):
        command.on_data(piece)
    channel.end()
    assert result(command).stdout == "ä\\xff日\0\r\n"
    assert result(command).stdout_bytes == b"\xc3\xa4\xff\xe6\x97\xa5\0\r\n"


@pytest.mark.parametrize("stream", ["on_data", "on_stderr"])
def test_more_output_than_it_may_have_ends_it_and_what_fits_is_kept(
    stream: str, timers: Timers
) -> None:
    command = make(stdout=Output(10), stderr=Output(10))
    channel = started(command)
    put = getattr(command, stream)
    put(b"12345")
    put(b"67890")
    assert channel.signals == []
    put(b"ABC")
    assert channel.signals == ["TERM"]
    for _ in range(100):
        put(b"more and more")
    channel.end()
    assert isinstance(error(command), SshOutputLimitError)
    assert "more than 10 bytes" in str(error(command))
    process = error(command).process
    assert process.stdout_bytes + process.stderr_bytes == b"1234567890"


def test_output_after_the_outcome_is_dropped(timers: Timers) -> None:
    command = make(timeout=5)
    channel = started(command)
    command.on_data(b"so far")
    channel.close_when_open = lambda: None  # type: ignore[method-assign]
    for _ in range(3):
        timers.fire()
    command.on_data(b"x" * 1000)
    command.on_stderr(b"x" * 1000)
    assert command.outputs[0].joined() == b"so far"
    assert command.outputs[1].joined() == b""


def test_output_is_held_once_when_it_is_over() -> None:
    """The future holds the command, and the command must not hold a second gigabyte."""
    command = make()
    channel = started(command)
    for _ in range(64):
        command.on_data(b"x" * 4096)
    channel.end()
    process = result(command)
    assert len(process.stdout_bytes) == 64 * 4096
    assert command.outputs[0].joined() is process.stdout_bytes


def test_a_finished_command_holds_no_timer_and_no_timer_holds_it(timers: Timers) -> None:
    command = make(timeout=3600)
    started(command).complete()
    future = command.future
    gone = weakref.ref(command)
    del command
    assert future.result(0).exit_status == 0
    del future
    gc.collect()
    assert gone() is None


def test_a_process_survives_pickling() -> None:
    process = CompletedProcess("echo", {"A": "b"}, b"\xff", b"e", 3)
    copied = pickle.loads(pickle.dumps(process))
    assert (copied.stdout, copied.stderr, copied.returncode) == ("\\xff", "e", 3)
    assert "echo" not in repr(process)  # scripts are not for logs


# Input.


def test_stdin_without_input_is_ended_at_once() -> None:
    channel = started(make())
    assert (channel.sent, channel.eof_sent) == (b"", 1)


def test_input_is_sent_as_the_window_admits_and_then_its_end() -> None:
    command = make(stdin=b"0123456789")
    channel = FakeChannel(FakeTransport(), command)
    channel.window = 4
    assert command.start(channel)
    assert (channel.sent, channel.eof_sent) == (b"0123", 0)
    channel.window = 4
    command.on_writable()
    assert (channel.sent, channel.eof_sent) == (b"01234567", 0)
    command.on_writable()
    assert channel.sent == b"01234567"
    channel.window = 4
    command.on_writable()
    command.on_writable()
    assert (channel.sent, channel.eof_sent) == (b"0123456789", 1)


def test_a_window_that_opens_while_it_is_found_closed_is_not_overlooked() -> None:
    """The reader thread may say "writable" while another thread is about to give up."""
    command = make(stdin=b"0123456789")
    channel = FakeChannel(FakeTransport(), command)
    channel.window = 0

    def open_window() -> None:
        channel.on_send = lambda: None
        channel.window = 100
        command.on_writable()  # as the reader thread does, at the worst moment

    channel.on_send = open_window
    assert command.start(channel)
    assert (channel.sent, channel.eof_sent) == (b"0123456789", 1)


def test_two_threads_that_pump_send_each_byte_once_and_in_order() -> None:
    data = bytes(range(256)) * 20
    for _ in range(50):
        command = make(stdin=data)
        channel = FakeChannel(FakeTransport(), command)
        channel.window = 7
        sending = threading.Lock()

        def nobody_else() -> None:
            assert sending.acquire(False), "two threads send at the same time"
            sending.release()

        channel.on_send = nobody_else
        assert command.start(channel)

        def pump() -> None:
            for _ in range(400):
                channel.window = 13
                command.on_writable()

        in_threads(pump, pump)
        channel.window = len(data)
        command.on_writable()
        assert channel.sent == data
        assert channel.eof_sent == 1


def test_the_script_goes_before_the_input() -> None:
    command = make("cat", env={"A": "b"}, stdin=b"the input")
    channel = started(command)
    assert channel.command is not None and b"read -r" in channel.command
    script, newline, rest = channel.sent.partition(b"\n")
    assert b"export A='b'" in script and newline and rest == b"the input"


def test_input_that_nobody_will_read_is_dropped() -> None:
    command = make(stdin=b"x" * 100_000)
    channel = FakeChannel(FakeTransport(), command)
    channel.window = 10
    channel.transport.channels.append(channel)
    assert command.start(channel)
    channel.complete()
    assert len(command.stdin._data) == 0
    command.on_writable()
    assert len(channel.sent) == 10


def test_write_to_an_ended_command_is_a_clear_error() -> None:
    command = make(more_stdin=True)
    channel = started(command)
    command.stdin.close()
    with pytest.raises(BrokenPipeError, match="^somebody@alpha:22: .* stdin closed"):
        command.stdin.write(b"more")
    channel.complete()
    with pytest.raises(BrokenPipeError, match="^somebody@alpha:22: the command has ended"):
        command.stdin.write(b"more")


# Callbacks.


def test_done_callbacks_run_after_waiters_are_released() -> None:
    command = make()
    channel = started(command)
    seen: List[Any] = []
    for _ in range(2):
        command.future.add_done_callback(
            lambda future: seen.append((future, background.is_callback_thread()))
        )
    gate = threading.Event()
    background.run_callback(gate.wait, PATIENCE)
    channel.complete()
    assert result(command).exit_status == 0  # while the callback thread is blocked
    assert seen == []
    gate.set()
    callbacks_done()
    assert seen == [(command.future, True)] * 2
    command.future.add_done_callback(lambda future: seen.append("late"))
    assert seen[-1] == "late"  # as the standard library's: at once


def test_a_done_callback_that_raises_disturbs_nobody(caplog: pytest.LogCaptureFixture) -> None:
    command = make()
    channel = started(command)
    seen: List[int] = []
    command.future.add_done_callback(lambda future: seen[1])  # an IndexError
    command.future.add_done_callback(lambda future: sys.exit("on purpose"))
    command.future.add_done_callback(lambda future: seen.append(1))
    channel.complete()
    callbacks_done()
    assert result(command).exit_status == 0


def test_it_is_a_future_like_any_other() -> None:
    commands = [make() for _ in range(3)]
    channels = [started(command) for command in commands]
    futures = [command.future for command in commands]
    assert concurrent.futures.wait(futures, timeout=0).done == set()
    channels[1].complete(1)
    assert concurrent.futures.wait(futures, timeout=0).done == {futures[1]}
    assert next(concurrent.futures.as_completed(futures, timeout=1)) is futures[1]
    assert not futures[1].running() and not futures[0].cancelled()
    with pytest.raises(concurrent.futures.TimeoutError):
        futures[0].result(timeout=0)
    futures[0].cancel()
    channels[0].end()
    with pytest.raises(concurrent.futures.CancelledError):
        futures[0].result(timeout=0)
    channels[2].complete()
    assert all(future.done() for future in futures)


# Many at once.


@pytest.fixture
def fine_grained() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_racing_ends_give_one_outcome(fine_grained: None, timers: Timers) -> None:
    """Cancel, time-out, completion and loss at once: one of them settles the future, once."""
    for turn in range(400):
        command = make(timeout=5)
        told: List[Any] = []
        command.future.add_done_callback(told.append)
        channel = started(command)
        in_threads(
            command.cancel,
            command._on_timeout,
            (
                (lambda: channel.complete())
                if turn % 2
                else (lambda: channel.end(SshConnectionLost("lost")))
            ),
        )
        if not command.future.done():
            command._stop_waiting()
        assert command.future.done()
        callbacks_done()
        assert told == [command.future]
