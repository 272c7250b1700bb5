"""`reboot`: what is asked, in which order, and what each answer means; nothing is ever sent."""

from __future__ import annotations

from typing import Any, Dict, List, Tuple, Union

import pytest

from ssh_service import CompletedProcess, Host, readiness, reboot
from ssh_service.errors import (
    SshCommandTimeout,
    SshConfigError,
    SshConnectError,
    SshConnectionLost,
    SshConnectTimeout,
    SshExitError,
    SshHostKeyError,
    SshServiceError,
)

WEB = "admin@192.0.2.1"
OLD = "5f0ca1b2-1111-2222-3333-444455556666"


def ended(status: Any, stdout: str = "", stderr: str = "") -> CompletedProcess:
    out, err = stdout.encode(), stderr.encode()
    return CompletedProcess("", None, out, err, status, connection_id=f"{WEB}:22")


READ, ASKED = ended(0, f"{OLD}\n"), ended(0)


class Answers:
    """Stands in for `api.run`: records the calls, and answers in turn; the last one again."""

    def __init__(self, *answers: Union[CompletedProcess, SshServiceError]) -> None:
        self.calls: List[Tuple[Any, Dict[str, Any]]] = []
        self._answers = list(answers)

    def __call__(self, destination: Any, script: Any = None, **options: Any) -> CompletedProcess:
        self.calls.append((script or options["args"], options))
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, SshServiceError):
            raise answer
        if options.get("check"):
            answer.check_returncode()
        return answer

    @property
    def asked(self) -> int:
        return [script for script, _ in self.calls].count(["reboot"])


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(readiness, "_MIN_PAUSE", 0.001)
    monkeypatch.setattr(readiness, "_MAX_PAUSE", 0.01)
    monkeypatch.setattr(readiness, "_MIN_AUTH_PAUSE", 0.001)

    def prepare(*answers: Any) -> Answers:
        made = Answers(*answers)
        monkeypatch.setattr("ssh_service.api.run", made)
        return made

    return prepare


def test_reboot_waits_for_another_boot_id_however_often_the_host_answers(answer: Any) -> None:
    """Neither an answer, nor a lost connection, nor a refused one is the end."""
    lost = SshConnectionLost("lost", sent=True)
    made = answer(READ, ASKED, ended(1), lost, SshConnectError("refused"), ended(1), ended(0))
    assert Host(WEB).reboot(timeout=30, sudo="root", sudo_password="secret") is None
    scripts = [script for script, _ in made.calls]
    assert scripts[:2] == ["cat /proc/sys/kernel/random/boot_id", ["reboot"]]
    assert len(scripts) == 7 and made.asked == 1
    assert all(OLD in script and "reboot" not in script for script in scripts[2:])
    _, options = made.calls[1]
    assert options["sudo"] == "root" and repr(options["sudo_password"]) == "***"
    for _, options in made.calls[2:]:
        assert "sudo" not in options


@pytest.mark.parametrize(
    "outcome",
    [SshConnectionLost("lost", sent=True), ended(None), ended(143), ended(-1)],
    ids=["lost", "no status", "signal", "signalled"],
)
def test_reboot_that_cuts_its_own_command_has_begun(outcome: Any, answer: Any) -> None:
    made = answer(READ, outcome, ended(0))
    reboot(WEB, 30)
    assert made.asked == 1 and len(made.calls) == 3


@pytest.mark.parametrize(
    "outcome, error",
    [
        (ended(1, stderr="Must be root"), SshExitError),
        (ended(127, stderr="reboot: not found"), SshExitError),
        (SshConnectionLost("lost", sent=False), SshConnectionLost),
        (SshHostKeyError("changed"), SshHostKeyError),
    ],
    ids=["refused", "missing", "unsent", "other host key"],
)
def test_reboot_that_has_not_begun_is_an_error_at_once(
    outcome: Any, error: Any, answer: Any
) -> None:
    made = answer(READ, outcome, ended(0))
    with pytest.raises(error):
        reboot(WEB, 30)
    assert len(made.calls) == 2


@pytest.mark.parametrize("outcome", [ended(0), ended(0, "a b\n"), ended(1, "", "no such file")])
def test_host_without_a_boot_id_is_not_rebooted(outcome: Any, answer: Any) -> None:
    made = answer(outcome)
    with pytest.raises(SshExitError):
        reboot(WEB, 30)
    assert made.asked == 0


def test_reboot_that_is_late_says_why(answer: Any) -> None:
    answer(READ, ASKED, ended(1))
    with pytest.raises(SshCommandTimeout) as caught:
        reboot(WEB, 0.05)
    assert str(caught.value) == (
        f"{WEB}:22: not rebooted within 0.05 s: it still has the same boot id"
    )
    answer(READ, ASKED, SshConnectError(f"{WEB}:22: connection refused"))
    with pytest.raises(SshConnectTimeout, match="not rebooted within 0.05 s: not ready .*refused"):
        reboot(WEB, 0.05)


def test_other_host_key_after_the_reboot_ends_it(answer: Any) -> None:
    answer(READ, ASKED, SshHostKeyError("changed"))
    with pytest.raises(SshHostKeyError):
        reboot(WEB, 30)


@pytest.mark.parametrize(
    "options",
    [{"timeout": None}, {"timeout": -1}, {"timeout": 5, "auth_retries": -1}, {"timeout": "5"}],
    ids=str,
)
def test_wrong_parameters_are_refused_before_anything_is_sent(options: Any, answer: Any) -> None:
    made = answer(READ)
    with pytest.raises(SshConfigError):
        reboot(WEB, **options)
    assert made.calls == []
