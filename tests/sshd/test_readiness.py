"""Waiting for hosts that are not ready yet."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Dict, List, Type

import pytest

from ssh_service import (
    CompletedProcess,
    Host,
    SshAuthError,
    SshClientCache,
    SshCommandTimeout,
    SshConfigError,
    SshConnectTimeout,
    SshHostKeyError,
    readiness,
    wait_for,
)
from ssh_service.events import CommandEnded, DialFailed, Event
from ssh_service.testing.pytest_plugin import Sshd
from tests.common import PATIENCE, Outcome, eventually


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "_MIN_PAUSE", 0.02)
    monkeypatch.setattr(readiness, "_MIN_AUTH_PAUSE", 0.02)


def seen(cache: SshClientCache, kind: Type[Event]) -> threading.Event:
    """Return an event that is set by the first event of this kind."""
    found = threading.Event()
    cache.subscribe(lambda event: found.set() if isinstance(event, kind) else None)
    return found


def outcome_of(waiting: Outcome) -> CompletedProcess:
    error = waiting.wait(2 * PATIENCE).error
    assert error is None, error
    assert isinstance(waiting.value, CompletedProcess)
    return waiting.value


def test_host_that_starts_meanwhile_is_ready(sshd: Sshd, cache: SshClientCache) -> None:
    failed = seen(cache, DialFailed)
    sshd.stop()
    web = Host(sshd.connect_params, cache=cache)
    waiting = Outcome(lambda: web.wait_for(PATIENCE, "echo up"))
    assert failed.wait(PATIENCE)
    sshd.restart()
    assert outcome_of(waiting).stdout == "up\n"


def test_script_is_repeated_until_it_succeeds(
    sshd: Sshd, cache: SshClientCache, tmp_path: Path
) -> None:
    ran, flag = seen(cache, CommandEnded), tmp_path / "flag"
    waiting = Outcome(
        lambda: wait_for(sshd.connect_params, PATIENCE, ["test", f"test -e {flag}"], cache=cache)
    )
    assert ran.wait(PATIENCE)
    flag.touch()
    assert outcome_of(waiting).exit_status == 0
    assert sshd.logins() == 1


def test_lost_connection_is_made_again(sshd: Sshd, cache: SshClientCache, tmp_path: Path) -> None:
    """As of a host that goes down while its script runs."""
    begun, flag = tmp_path / "begun", tmp_path / "flag"
    script = f"touch {begun}; [ -e {flag} ] || sleep 60"
    waiting = Outcome(lambda: wait_for(sshd.connect_params, PATIENCE, script, cache=cache))
    eventually(begun.exists)
    flag.touch()
    sshd.cut()
    assert outcome_of(waiting).exit_status == 0


def test_changed_host_key_ends_the_wait_at_once(
    sshd: Sshd, cache: SshClientCache, tmp_path: Path
) -> None:
    other = Path(sshd.client_key + ".pub").read_text().split()[:2]
    known = tmp_path / "known_hosts"
    known.write_text(f"[127.0.0.1]:{sshd.port} {' '.join(other)}\n")
    dials: List[Event] = []
    cache.subscribe(dials.append)
    with pytest.raises(SshHostKeyError):
        wait_for({**sshd.connect_params, "known_hosts": str(known)}, PATIENCE, cache=cache)
    assert len([event for event in dials if isinstance(event, DialFailed)]) <= 1


def test_refused_login_is_repeated_until_the_keys_are_there(
    sshd_factory: Any, cache: SshClientCache
) -> None:
    sshd = sshd_factory()
    authorized = Path(sshd.authorized_keys)
    keys = authorized.read_text()
    authorized.write_text("")
    with pytest.raises(SshAuthError):
        wait_for(sshd.connect_params, PATIENCE, auth_retries=0, cache=cache)
    refused = seen(cache, DialFailed)
    waiting = Outcome(lambda: wait_for(sshd.connect_params, PATIENCE, cache=cache))
    assert refused.wait(PATIENCE)
    authorized.write_text(keys)
    assert outcome_of(waiting).exit_status == 0


def test_error_at_the_end_says_what_was_wrong_last(sshd: Sshd, cache: SshClientCache) -> None:
    where: Dict[str, Any] = sshd.connect_params
    name = f"{sshd.username}@{sshd.host}:{sshd.port}: not ready within 0.3 s"
    with pytest.raises(SshCommandTimeout, match=f"{name}: the script's last exit status is 3"):
        wait_for(where, 0.3, "exit 3", cache=cache)
    with pytest.raises(SshCommandTimeout, match=f"{name}: the script did not end") as hanging:
        wait_for(where, 0.3, "echo begun; sleep 60", cache=cache)
    assert hanging.value.process is not None and hanging.value.process.stdout == "begun\n"
    sshd.stop()
    with pytest.raises(SshConnectTimeout, match=f"{name}: .*Connection refused") as refused:
        wait_for(where, 0.3, cache=cache)
    assert isinstance(refused.value, TimeoutError) and refused.value.retryable


def test_script_that_was_never_sent_is_not_said_to_have_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All sessions of the host may be taken until the time is up."""

    def run(*_: Any, **__: Any) -> None:
        raise SshCommandTimeout("no session is free", phase="queue")

    monkeypatch.setattr("ssh_service.api.run", run)
    with pytest.raises(SshCommandTimeout, match="within 1 s: the script was not sent") as caught:
        wait_for({"host": "web.invalid", "config": None}, 1)
    assert caught.value.phase == "queue" and caught.value.retryable


@pytest.mark.parametrize(
    "given, why",
    [
        ({"timeout": 1, "ready": ["", " "]}, "ready: expected a script"),
        ({"timeout": None}, "timeout: missing"),
        ({"timeout": -1}, "timeout: expected 0 or more seconds"),
        ({"timeout": 1, "auth_retries": -1}, "auth_retries: expected an integer >= 0 or None"),
        ({"timeout": 1, "auth_retries": True}, "auth_retries: expected an integer"),
        ({"timeout": 1, "ready": 5}, "ready: expected a str or an iterable"),
        ({"timeout": 1, "destination": "a b"}, "is not a host name"),
        ({"timeout": 1, "cache": 5}, "cache"),
    ],
    ids=str,
)
def test_invalid_argument_is_refused_at_once(given: Any, why: str) -> None:
    with pytest.raises(SshConfigError, match=why):
        wait_for(**{"destination": "web.invalid", **given})
