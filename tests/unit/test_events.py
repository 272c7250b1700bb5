"""The events of one command or copy, without a server."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any, List

import pytest

from ssh_service import background, errors, events
from ssh_service.commands.command import Command
from ssh_service.commands.result import CompletedProcess
from ssh_service.event_trackers import CommandTracker, CopyTracker
from tests.unit.engine_fakes import PATIENCE, FakeChannel, FakeTransport, callbacks_done


def tracker(seen: List[Any]) -> CommandTracker:
    return CommandTracker("me@alpha:22", (seen.append,), lambda: (0, 0))


def test_command_sent_is_published_before_ended() -> None:
    seen: List[Any] = []
    command_tracker = tracker(seen)
    command_tracker.record_sent()
    command_tracker.record_done()
    command_tracker.publish_ended(CompletedProcess(None, None, b"", b"", 0), None)
    command_tracker.publish_sent()
    assert [type(event) for event in seen] == [events.CommandSent, events.CommandEnded]


@pytest.mark.parametrize(
    "error, outcome",
    [
        (errors.SshCommandTimeout(), "timed out"),
        (errors.SshConnectTimeout(), "timed out"),
        (errors.SshCommandCancelled(), "cancelled"),
        (errors.SshOutputLimitError(), "output limit"),
        (errors.SshConnectionLost(), "lost"),
        (errors.SshHostKeyError(), "not connected"),
        (errors.SshSessionRefused(), "refused"),
        (errors.SshCacheClosed(), "closed"),
        (errors.SshConfigError(), "failed"),
    ],
)
def test_each_error_has_its_outcome(error: Exception, outcome: str) -> None:
    seen: List[Any] = []
    tracker(seen).publish_ended(None, error)
    assert [(event.outcome, event.error, event.sent) for event in seen] == [
        (outcome, type(error).__name__, False)
    ]


def test_interrupted_copy_has_outcome_cancelled() -> None:
    seen: List[Any] = []
    with pytest.raises(KeyboardInterrupt):
        with CopyTracker("me@alpha:22", "upload", (seen.append,), lambda: (3, 2)) as copy:
            copy.publish_started()
            raise KeyboardInterrupt
    callbacks_done()
    assert [type(event) for event in seen] == [events.CopyStarted, events.CopyEnded]
    assert (seen[1].outcome, seen[1].error) == ("cancelled", "KeyboardInterrupt")
    assert (seen[1].bytes_done, seen[1].files_done) == (3, 2)


def test_events_of_command_from_a_callback_keep_their_order() -> None:
    """Its callbacks run on a thread of their own, while the callback thread may be busy."""
    seen: List[Any] = []
    sent, goes_on, done = threading.Event(), threading.Event(), threading.Event()

    def subscriber(event: events.Event) -> None:
        seen.append((type(event), threading.get_ident()))
        if isinstance(event, events.CommandSent):
            sent.set()
            assert goes_on.wait(PATIENCE)

    made: "Future[Command]" = Future()
    background.run_callback(lambda: made.set_result(Command("echo", {}, None, "me@alpha:22")))
    command = made.result(PATIENCE)
    command.watch((subscriber,))
    command.future.add_done_callback(lambda _: done.set())
    channel = FakeChannel(FakeTransport(), command)
    channel.transport.channels.append(channel)
    assert command.start(channel)
    assert sent.wait(PATIENCE)
    channel.complete()
    assert done.wait(PATIENCE)
    goes_on.set()
    callbacks_done()
    assert [event for event, _ in seen] == [events.CommandSent, events.CommandEnded]
    assert len({thread for _, thread in seen}) == 1


def test_events_of_finished_command_come_on_the_callback_thread() -> None:
    seen: List[bool] = []
    command = Command("echo", {}, None, "me@alpha:22")
    assert command.cancel()
    command.watch((lambda event: seen.append(background.is_callback_thread()),))
    callbacks_done()
    assert seen == [True]


def test_signal_differs_from_an_exit_status() -> None:
    seen: List[Any] = []
    killed = CompletedProcess(None, None, b"", b"", -1, ("KILL", False, "", ""))
    tracker(seen).publish_ended(killed, None)
    assert (seen[0].outcome, seen[0].exit_status) == ("signalled", -1)
