"""Subscribers get each event of connections, commands and copies, once and in order."""

from __future__ import annotations

import contextvars
import logging
import pickle
from pathlib import Path
from typing import Any, List, Tuple, Type

import pytest

from ssh_service import background, copying, fleet, operations
from ssh_service.connections.cache import SshClientCache
from ssh_service.copying import Progress
from ssh_service.errors import SshAuthError, SshCommandCancelled, SshConnectionLost
from ssh_service.events import (
    CommandEnded,
    CommandSent,
    ConnectionEnded,
    ConnectionMade,
    CopyEnded,
    CopyStarted,
    DialFailed,
    Event,
)
from ssh_service.testing.mock_sshd import MockSshd
from tests.common import eventually
from tests.unit.engine_fakes import (
    GatedDialer,
    callbacks_done,
    connect_params,
    outcome,
    target,
)


@pytest.fixture
def watched(ssh_cache: SshClientCache) -> Tuple[SshClientCache, List[Any]]:
    seen: List[Any] = []
    ssh_cache.subscribe(seen.append)
    return ssh_cache, seen


def kinds(seen: List[Any]) -> List[type]:
    callbacks_done()
    return [type(event) for event in seen]


def test_command_on_new_connection_publishes_all_events(
    mock_sshd: MockSshd, watched: Tuple[SshClientCache, List[Any]]
) -> None:
    cache, seen = watched
    script = "printf out; printf error >&2; exit 3"
    operations.submit(cache, mock_sshd.connect_params, script).result()
    assert kinds(seen) == [ConnectionMade, CommandSent, CommandEnded]
    made, sent, ended = seen
    assert {event.connection_id for event in seen} == {f"mock@127.0.0.1:{mock_sshd.port}"}
    assert (ended.outcome, ended.exit_status, ended.error) == ("completed", 3, None)
    assert (ended.stdout_bytes, ended.stderr_bytes) == (3, 5)
    assert sent.command == ended.command and ended.sent
    assert 0 < made.seconds <= sent.queued == ended.queued < ended.seconds
    assert made.at <= sent.at < ended.at


def test_the_end_of_a_connection_and_of_the_command_on_it(
    mock_sshd: MockSshd, watched: Tuple[SshClientCache, List[Any]]
) -> None:
    cache, seen = watched
    future = operations.submit(cache, mock_sshd.connect_params, "echo; sleep 60")
    eventually(lambda: CommandSent in kinds(seen))
    mock_sshd.cut()
    assert isinstance(future.exception(10), SshConnectionLost)
    eventually(lambda: ConnectionEnded in kinds(seen))
    by_kind = {type(event): event for event in seen}
    assert by_kind[ConnectionEnded].error == "SshConnectionLost"
    assert by_kind[CommandEnded].outcome == "lost" and by_kind[CommandEnded].sent


def test_closing_is_no_loss(
    mock_sshd: MockSshd, watched: Tuple[SshClientCache, List[Any]]
) -> None:
    cache, seen = watched
    cache.get_client_connection(mock_sshd.connect_params)
    cache.cleanup()
    assert kinds(seen) == [ConnectionMade, ConnectionEnded]
    assert (seen[1].error, seen[1].reason) == (None, None)


def test_failed_dial_publishes_an_unsent_command() -> None:
    dialer = GatedDialer()
    dialer.errors["alpha"] = [SshAuthError("alpha: refused all there was")]
    cache, seen = SshClientCache(dialer=dialer), []  # type: ignore[var-annotated]
    cache.subscribe(seen.append)
    assert isinstance(
        operations.submit(cache, connect_params(), "true").exception(10), SshAuthError
    )
    assert kinds(seen) == [DialFailed, CommandEnded]
    failed, ended = seen
    assert (failed.error, failed.phase) == ("SshAuthError", "auth")
    assert failed.reason == ended.reason == "alpha: refused all there was"
    assert (ended.sent, ended.outcome) == (False, "not connected")
    assert ended.queued == ended.seconds


@pytest.mark.usefixtures("short_patience")
@pytest.mark.parametrize(
    "script, options, word",
    [
        ("sleep 60", {"timeout": 0.5}, "timed out"),
        ("yes", {"max_output": 100}, "output limit"),
        ("", {}, "completed"),
    ],
)
def test_command_ended_event_names_the_outcome(
    mock_sshd: MockSshd,
    watched: Tuple[SshClientCache, List[Any]],
    script: str,
    options: Any,
    word: str,
) -> None:
    cache, seen = watched
    outcome(operations.submit(cache, mock_sshd.connect_params, script, **options).result)
    callbacks_done()
    assert [event.outcome for event in seen if isinstance(event, CommandEnded)] == [word]


def test_copy_events_have_files_and_bytes(
    mock_sshd: MockSshd, watched: Tuple[SshClientCache, List[Any]], tmp_path: Path
) -> None:
    cache, seen = watched
    for name in ("one", "two"):
        (tmp_path / "here" / name).mkdir(parents=True)
        (tmp_path / "here" / name / "file").write_bytes(b"x" * 1000)
    operations.upload(cache, mock_sshd.connect_params, tmp_path / "here", tmp_path / "there")
    operations.download(
        cache, mock_sshd.connect_params, tmp_path / "there/one/file", tmp_path / "f"
    )
    assert kinds(seen) == [ConnectionMade, CopyStarted, CopyEnded, CopyStarted, CopyEnded]
    made, began_up, up, began_down, down = seen
    assert {event.connection_id for event in seen} == {f"mock@127.0.0.1:{mock_sshd.port}"}
    assert [event.way for event in seen[1:]] == ["upload"] * 2 + ["download"] * 2
    assert began_up.copy == up.copy != began_down.copy == down.copy
    assert (up.outcome, up.bytes_done, up.files_done) == ("completed", 2000, 2)
    assert (down.outcome, down.bytes_done, down.files_done) == ("completed", 1000, 1)
    assert (up.started, up.error, up.reason) == (True, None, None)
    assert made.seconds <= began_up.queued == up.queued < up.seconds
    assert made.at <= began_up.at < up.at <= began_down.at < down.at


def test_failed_copy_event_has_the_reason(
    mock_sshd: MockSshd, watched: Tuple[SshClientCache, List[Any]], tmp_path: Path
) -> None:
    cache, seen = watched
    with pytest.raises(FileNotFoundError) as caught:
        operations.download(cache, mock_sshd.connect_params, tmp_path / "missing", tmp_path / "f")
    assert kinds(seen)[1:] == [CopyStarted, CopyEnded]
    ended = seen[-1]
    assert (ended.outcome, ended.error) == ("failed", "SshFileNotFoundError")
    assert ended.reason == str(caught.value)
    assert (ended.bytes_done, ended.files_done) == (0, 0)


def test_a_copy_that_was_broken_off_says_how_far_it_came(
    mock_sshd: MockSshd, watched: Tuple[SshClientCache, List[Any]], tmp_path: Path
) -> None:
    cache, seen = watched
    (tmp_path / "large").write_bytes(b"x" * 1_000_000)
    reached: List[int] = []

    def stop(progress: Progress) -> None:
        if progress.bytes_done:
            reached.append(progress.bytes_done)
            raise ValueError("swordfish")  # words that nobody but their author can judge

    with pytest.raises(ValueError, match="swordfish"):
        operations.upload(
            cache, mock_sshd.connect_params, tmp_path / "large", tmp_path / "copy", progress=stop
        )
    assert kinds(seen)[-1] is CopyEnded
    ended = seen[-1]
    assert (ended.outcome, ended.error, ended.reason) == ("failed", "ValueError", None)
    assert ended.bytes_done >= reached[0] > 0


def test_copy_without_connection_was_not_started() -> None:
    dialer = GatedDialer()
    dialer.errors["alpha"] = [SshAuthError("alpha: refused all there was")]
    cache, seen = SshClientCache(dialer=dialer), []  # type: ignore[var-annotated]
    cache.subscribe(seen.append)
    with pytest.raises(SshAuthError):
        operations.upload(cache, connect_params(), "here", "there")
    assert kinds(seen) == [DialFailed, CopyEnded]
    ended = seen[-1]
    assert (ended.started, ended.outcome) == (False, "not connected")
    assert ended.queued == ended.seconds
    assert ended.reason == "alpha: refused all there was"


def test_a_copy_that_was_tried_once_more_is_one_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    cache, seen = SshClientCache(dialer=GatedDialer()), []  # type: ignore[var-annotated]
    cache.subscribe(seen.append)
    losses = [SshConnectionLost("lost", sent=False)]

    def copy(*args: Any) -> None:
        if losses:
            raise losses.pop()
        args[-1].file_done()

    monkeypatch.setattr(copying, "copy", copy)
    operations.upload(cache, connect_params(), "here", "there")
    assert kinds(seen) == [ConnectionMade, CopyStarted, CopyEnded]
    assert (seen[-1].outcome, seen[-1].files_done) == ("completed", 1)
    cache.cleanup()


def test_copies_of_a_fleet_publish_events(
    mock_sshd: MockSshd, watched: Tuple[SshClientCache, List[Any]], tmp_path: Path
) -> None:
    cache, seen = watched
    (tmp_path / "file").write_bytes(b"x" * 1000)
    hosts = [mock_sshd.connect_params]
    (result,) = fleet.download(hosts, tmp_path / "file", tmp_path / "there", cache=cache)
    assert result.ok
    assert kinds(seen) == [ConnectionMade, CopyStarted, CopyEnded]
    assert (seen[-1].way, seen[-1].bytes_done) == ("download", 1000)


def test_copy_aborted_by_before_was_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    cache, seen = SshClientCache(dialer=GatedDialer()), []  # type: ignore[var-annotated]
    cache.subscribe(seen.append)

    def refuse() -> None:
        raise SshCommandCancelled("cancelled")

    with pytest.raises(SshCommandCancelled):
        operations.copy("upload", cache, target(), "here", "there", before=refuse)
    assert kinds(seen) == [ConnectionMade, CopyEnded]
    assert (seen[-1].started, seen[-1].outcome) == (False, "cancelled")
    assert cache.stats()["leases"] == 0
    cache.cleanup()


def test_events_hold_no_names_of_files_that_were_copied(
    mock_sshd: MockSshd, watched: Tuple[SshClientCache, List[Any]], tmp_path: Path
) -> None:
    cache, seen = watched
    (tmp_path / "swordfish").write_text("swordfish")
    operations.upload(
        cache, mock_sshd.connect_params, tmp_path / "swordfish", tmp_path / "swordfis"
    )
    assert len(kinds(seen)) == 3
    assert b"swordfis" not in pickle.dumps(seen)


@pytest.mark.usefixtures("short_patience")
def test_events_hold_no_script_no_variable_and_no_output(
    mock_sshd: MockSshd, watched: Tuple[SshClientCache, List[Any]]
) -> None:
    cache, seen = watched
    secret = "swordfish"
    future = operations.submit(
        cache, mock_sshd.connect_params, f"echo {secret}; sleep 60", env={"A": secret}, timeout=1
    )
    assert future.exception(10) is not None
    cache.cleanup()
    assert len(kinds(seen)) == 4
    assert secret.encode() not in pickle.dumps(seen)


def test_subscriber_runs_on_callback_thread_in_callers_context(
    mock_sshd: MockSshd, ssh_cache: SshClientCache, tmp_path: Path
) -> None:
    variable: "contextvars.ContextVar[str]" = contextvars.ContextVar("variable", default="none")
    seen = []

    def subscriber(event: Event) -> None:
        seen.append((type(event), background.is_callback_thread(), variable.get()))

    ssh_cache.subscribe(subscriber)
    variable.set("mine")
    operations.submit(ssh_cache, mock_sshd.connect_params, "true").result()
    operations.upload(ssh_cache, mock_sshd.connect_params, __file__, tmp_path)
    callbacks_done()
    kinds_of_use = (CommandSent, CommandEnded, CopyStarted, CopyEnded)
    assert seen[1:] == [(kind, True, "mine") for kind in kinds_of_use]


@pytest.mark.parametrize("error", [RuntimeError, SystemExit])
def test_subscriber_that_raises_is_logged(
    mock_sshd: MockSshd,
    ssh_cache: SshClientCache,
    caplog: pytest.LogCaptureFixture,
    error: Type[BaseException],
) -> None:
    def bad(event: Event) -> None:
        raise error("a bug of theirs")

    seen: List[Any] = []
    ssh_cache.subscribe(bad)
    ssh_cache.subscribe(seen.append)
    with caplog.at_level(logging.ERROR, "ssh_service"):
        assert operations.submit(ssh_cache, mock_sshd.connect_params, "echo hi").result().stdout
        assert len(kinds(seen)) == 3
    assert "a bug of theirs" in caplog.text


def test_unsubscribed_function_is_not_called(
    mock_sshd: MockSshd, ssh_cache: SshClientCache, tmp_path: Path
) -> None:
    seen: List[Any] = []
    stop = ssh_cache.subscribe(seen.append)
    stop()
    stop()
    assert ssh_cache.subscribers == ()
    operations.submit(ssh_cache, mock_sshd.connect_params, "true").result()
    operations.upload(ssh_cache, mock_sshd.connect_params, __file__, tmp_path)
    assert kinds(seen) == []
