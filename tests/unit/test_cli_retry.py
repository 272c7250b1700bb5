"""``--retry``: what is tried again, and what ends it."""

from __future__ import annotations

import os
import signal
import time
from typing import Any, Callable, Dict, List

import pytest

pytest.importorskip("click")
pytest.importorskip("rich")

from ssh_service import errors  # noqa: E402
from ssh_service.cli import hosts_run  # noqa: E402
from ssh_service.cli.hosts_run import HostsRun  # noqa: E402
from ssh_service.fleet.result import HostResult, completed, failed  # noqa: E402
from ssh_service.fleet.results import Results, Runner  # noqa: E402

REFUSED = errors.SshConnectError("refused")
ENDED = errors.SshConnectionLost("lost", sent=True)


class Scripted(Runner):
    """Delivers the next outcome of each host: an error, or None for success."""

    def __init__(self, outcomes: Dict[str, List[Any]]) -> None:
        self._outcomes = outcomes

    def start(self, host: Any) -> None:
        outcome = self._outcomes[host].pop(0)
        result: HostResult
        result = completed(host, None, 0.1) if outcome is None else failed(host, outcome, 0.1)
        self.deliver(result)

    def cancel(self) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    monkeypatch.setattr(hosts_run, "_MAX_RETRY_INTERVAL", 0.05)
    monkeypatch.setattr(hosts_run, "_POLL_INTERVAL", 0.01)

    def run(outcomes: Dict[str, List[Any]], retries: int, fail_fast: bool = False) -> int:
        options = {"fail_fast": fail_fast, "verbose": 0, "retries": retries, "host_key": None}
        return HostsRun(
            list(outcomes), lambda hosts, _: Results(hosts, Scripted(outcomes), 8), False, options
        ).run()

    return run


def test_only_hosts_to_which_nothing_was_sent_are_tried_again(
    run: Callable[..., int], capfd: Any
) -> None:
    outcomes = {
        "good": [None],
        "late": [REFUSED, None],
        "lost": [ENDED],
        "wrong": [errors.SshAuthError("no")],
        "typo": [errors.SshConfigError("no")],
        "dead1": [REFUSED, REFUSED, REFUSED],
        "dead2": [REFUSED, REFUSED, REFUSED],
    }
    assert run(outcomes, 2) == 1
    assert not any(outcomes.values())
    said = capfd.readouterr().err
    assert "nothing was sent to late, dead[1-2]; trying again in 0.05 s (1 of 2)" in said
    assert "nothing was sent to dead[1-2]; trying again in 0.05 s (2 of 2)" in said
    assert said.count("dead1: FAILED: refused") == 1 and "late: FAILED" not in said
    assert said.endswith("2 of 7 hosts succeeded, 5 failed: lost, wrong, typo, dead[1-2]\n")


def test_success_at_a_later_attempt_is_success(run: Callable[..., int]) -> None:
    assert run({"a": [REFUSED, REFUSED, None]}, 2, fail_fast=True) == 0


def test_without_retries_nothing_is_tried_again(run: Callable[..., int], capfd: Any) -> None:
    assert run({"a": [REFUSED]}, 0) == 1
    assert "trying again" not in capfd.readouterr().err


def test_failure_that_stays_ends_the_retries_of_others_with_fail_fast(
    run: Callable[..., int], capfd: Any
) -> None:
    """Every host has its line all the same."""
    assert run({"late": [REFUSED, None], "lost": [ENDED]}, 3, fail_fast=True) == 1
    said = capfd.readouterr().err
    assert "late: FAILED: refused" in said and "lost: FAILED: lost" in said


def test_signal_ends_the_wait_for_the_next_attempt(
    run: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setattr(hosts_run, "_MAX_RETRY_INTERVAL", 1.0)
    sleep = time.sleep

    def interrupted(seconds: float) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        sleep(seconds)

    monkeypatch.setattr(time, "sleep", interrupted)
    assert run({"a": [REFUSED], "b": [None]}, 9) == 128 + signal.SIGTERM
    said = capfd.readouterr().err
    assert "interrupted" in said and "1 of 2 hosts succeeded, 1 failed: a" in said
