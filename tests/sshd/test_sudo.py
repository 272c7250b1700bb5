"""`sudo=`: the real sudo runs scripts and commands, and gets the password once, when it asks."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest

from ssh_service import (
    Host,
    SshClientCache,
    SshJobNotFound,
    find_job,
    fleet,
    list_jobs,
    run,
    start,
    start_job,
)
from ssh_service.commands import sudo_input
from ssh_service.connections import lender
from ssh_service.errors import SshCommandCancelled, SshCommandTimeout, SshSudoRefused
from ssh_service.events import CommandEnded, Event
from ssh_service.secret import Secret
from tests.common import (
    PATIENCE,
    assert_no_frame_knows,
    eventually,
    is_running,
    wait_for_proof,
)
from tests.sshd import sudo_host
from tests.sshd.sudo_host import ALL, NO_PASSWORD, PASSWORD, USER, SudoHost
from tests.terminal import Terminal
from tests.unit.command_line import in_process

VALUE = 'it\'s "$HOME" `id` \\ !x\nsecret value'
# Whether sudo runs everything on a terminal of its own, as it does by default since 1.9.14.
PTY = ["Defaults !use_pty\n", "Defaults use_pty\n"]
TERMINAL = f"Defaults:{USER} requiretty\n"


@pytest.fixture(scope="module")
def _host() -> Iterator[SudoHost]:
    with sudo_host.sudo_host() as host:
        yield host


@pytest.fixture
def host(_host: SudoHost) -> Iterator[SudoHost]:
    yield _host
    _host.real()


class Password:
    """A function that returns a password, and how often it was called."""

    def __init__(self, password: str = PASSWORD) -> None:
        self.calls = 0
        self._password = password

    def __call__(self) -> str:
        self.calls += 1
        return self._password


@pytest.mark.parametrize(
    "password",
    [PASSWORD, PASSWORD.encode(), Secret(PASSWORD), Password()],
    ids=lambda p: type(p).__name__,
)
@pytest.mark.parametrize("options", PTY, ids=["plain", "use_pty"])
def test_script_runs_as_root_with_its_variables_and_its_stdin(
    password: Any, options: str, host: SudoHost, cache: SshClientCache
) -> None:
    """Output and input are the script's own, and sudo's log has nothing of the script."""
    host.rules(ALL + options)
    script = 'id -un; printf "%s" "$VALUE" >&2; cat; exit 3'
    process = run(
        host.web, script, env={"VALUE": VALUE}, stdin="in\0put", sudo=True, sudo_password=password,
        cache=cache, timeout=PATIENCE,
    )  # fmt: skip
    assert (process.stdout, process.stderr) == ("root\nin\0put", VALUE)
    assert (process.exit_status, process.command) == (3, script)
    log = host.log()
    assert "USER=root" in log and "COMMAND=/bin/bash -c" in log
    for hidden in ("id -un", "VALUE", "secret", PASSWORD, "exit 3"):
        assert hidden not in log


@pytest.mark.parametrize("work", ["script", "args"])
def test_password_and_values_are_in_no_log_event_or_process_list(
    work: str, host: SudoHost, cache: SshClientCache, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    events: List[Event] = []
    cache.subscribe(events.append)
    look = "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '"
    options: Dict[str, Any] = {"script": look} if work == "script" else {}
    options = options or {"args": ["sh", "-c", look]}
    process = run(
        host.web, sudo=True, **options, sudo_password=PASSWORD, env={"VALUE": "the value"},
        cache=cache, timeout=PATIENCE,
    )  # fmt: skip
    assert "sudo" in process.stdout
    eventually(lambda: any(isinstance(one, CommandEnded) for one in events), "the last event")
    for hidden in (PASSWORD, "the value"):
        assert hidden not in process.stdout and hidden not in f"{events} {caplog.text} {process}"


def test_script_gets_another_users_rights(host: SudoHost, cache: SshClientCache) -> None:
    for user in ("daemon", f"#{os.stat('/').st_uid}"):
        process = run(
            host.web, "id -un", sudo=user, sudo_password=PASSWORD, cache=cache, timeout=PATIENCE
        )
        assert process.stdout == ("daemon\n" if user == "daemon" else "root\n")


def test_password_is_not_sent_where_no_rule_needs_it(
    host: SudoHost, cache: SshClientCache
) -> None:
    """It would be the script's input."""
    host.rules(NO_PASSWORD)
    password = Password()
    options: List[Dict[str, Any]] = [{}, {"sudo_password": password}]
    for more in options:
        for work in ({"script": "cat"}, {"args": ["cat"]}):
            process = run(
                host.web, sudo=True, stdin="input", cache=cache, timeout=PATIENCE, **work, **more
            )
            assert (process.stdout, process.stderr, process.exit_status) == ("input", "", 0)
    assert password.calls == 0


def test_sudo_itself_runs_the_command_of_args(host: SudoHost, cache: SshClientCache) -> None:
    """So a rule for this one command suffices; arguments and input arrive unchanged."""
    host.rules(f"{USER} ALL=(root) /usr/bin/printf, /usr/bin/tee\n")
    odd = ["%s|", "a  b", "it's", "$HOME", "", "\\", "-n", "one\r\ntwo", "ü\n"]
    common: Dict[str, Any] = {"sudo": True, "cache": cache, "timeout": PATIENCE}
    process = run(host.web, args=["printf", *odd], sudo_password=PASSWORD, **common)
    assert process.stdout == "|".join([*odd[1:], ""]) and process.stderr == ""
    process = run(
        host.web,
        args=["tee", "/dev/stderr"],
        stdin="x" * 300_000,
        sudo_password=PASSWORD,
        **common,
    )
    assert len(process.stdout) == len(process.stderr) == 300_000
    assert "COMMAND=/usr/bin/printf" in host.log() and "sh -c" not in host.log()
    with pytest.raises(SshSudoRefused) as caught:
        run(host.web, "id", sudo_password=PASSWORD, **common)
    assert "not allowed to execute '/bin/bash -c ...' as root" in str(caught.value)
    with pytest.raises(SshSudoRefused, match="not allowed to execute '/usr/bin/id'"):
        run(host.web, args=["id"], sudo_password=PASSWORD, **common)
    with pytest.raises(
        SshSudoRefused, match=r"not allowed to execute '/usr/bin/id \.\.\.' as root"
    ):
        run(host.web, args=["id", "-u", "it's\nsecret"], sudo_password=PASSWORD, **common)
    host.rules(f"{USER} ALL=(root) NOPASSWD: /usr/bin/printf\n")
    assert run(host.web, args=["printf", "on"], **common).stdout == "on"
    with pytest.raises(SshSudoRefused, match="a password is required.*; pass sudo_password$"):
        run(host.web, args=["tee"], **common)


def test_command_of_args_gets_its_variables_and_the_log_does_not(
    host: SudoHost, cache: SshClientCache
) -> None:
    with pytest.raises(SshSudoRefused, match="not allowed to preserve the environment"):
        host.rules(f"{USER} ALL=(root) NOPASSWD: /usr/bin/env\n")
        run(host.web, args=["env"], env={"A": "b"}, sudo=True, cache=cache, timeout=PATIENCE)
    for password in (None, PASSWORD):
        host.rules(NO_PASSWORD if password is None else ALL)
        process = run(
            host.web, args=["sh", "-c", 'printf %s "$VALUE"'], env={"VALUE": VALUE}, sudo=True,
            sudo_password=password, cache=cache, timeout=PATIENCE,
        )  # fmt: skip
        assert process.stdout == VALUE
        assert "secret" not in host.log()


@pytest.mark.parametrize("more", [{}, {"pty": True}], ids=str)
def test_command_of_args_without_input_needs_no_remembered_password(
    more: Dict[str, Any], host: SudoHost, cache: SshClientCache
) -> None:
    """One with input could not tell a second prompt from its beginning: a script can."""
    host.rules(f"Defaults timestamp_timeout=0\n{PTY[1]}{ALL}")
    common: Dict[str, Any] = {"sudo": True, "sudo_password": PASSWORD, "cache": cache, **more}
    process = run(host.web, args=["sh", "-c", "id -un; cat"], timeout=PATIENCE, **common)
    assert (process.stdout.split(), process.stderr) == (["root"], "")
    with pytest.raises(SshSudoRefused, match="pass a script instead of args, or no input"):
        run(host.web, args=["cat"], input="x", timeout=PATIENCE, **common)
    process = run(host.web, "id -un; cat", input="x", timeout=PATIENCE, **common)
    assert "root" in process.stdout
    with pytest.raises(SshSudoRefused, match="asked a second time"):
        run(host.web, args=["id"], timeout=PATIENCE, **{**common, "sudo_password": "wrong"})


@pytest.mark.parametrize("work", [{"script": "id"}, {"args": ["id"]}], ids=["script", "args"])
def test_wrong_password_is_sent_once_and_is_an_error(
    work: Dict[str, Any], host: SudoHost, cache: SshClientCache
) -> None:
    """Repeating it could lock the account."""
    password = Password("wrong password")
    with pytest.raises(SshSudoRefused, match="asked a second time") as caught:
        run(host.web, sudo=True, sudo_password=password, cache=cache, timeout=PATIENCE, **work)
    assert isinstance(caught.value, PermissionError) and not caught.value.retryable
    assert caught.value.ended is True and password.calls == 1
    assert "wrong password" not in f"{caught.value!r} {caught.value}"
    assert_no_frame_knows(caught.value, "wrong password")
    assert "1 incorrect password attempt" in host.log()


def test_refusals_of_sudo_are_errors_with_what_it_printed(
    host: SudoHost, cache: SshClientCache
) -> None:
    common: Dict[str, Any] = {"sudo": True, "cache": cache, "timeout": PATIENCE}
    with pytest.raises(SshSudoRefused, match="required.*; pass sudo_password, or args if the"):
        run(host.web, "id", **common)
    host.rules("")
    with pytest.raises(SshSudoRefused, match="not in the sudoers file"):
        run(host.web, "id", sudo_password=PASSWORD, **common)
    host.rules(ALL)
    with pytest.raises(SshSudoRefused, match="unknown user"):
        run(host.web, "id", cache=cache, sudo="no-such-user", timeout=PATIENCE)
    with pytest.raises(SshSudoRefused, match="pass shell='/bin/sh'"):
        run(host.web, "id", shell="/usr/bin/tcsh", sudo_password=PASSWORD, **common)
    fails: Any = lambda: 1 / 0  # noqa: E731
    with pytest.raises(SshSudoRefused, match="sudo_password raised ZeroDivisionError"):
        run(host.web, "id", sudo_password=fails, **common)
    with pytest.raises(SshSudoRefused, match="sudo_password raised SystemExit"):
        run(host.web, "id", sudo_password=sys.exit, **common)
    number: Any = lambda: 3  # noqa: E731
    with pytest.raises(SshSudoRefused, match="sudo_password returned a value of the type int"):
        run(host.web, "id", sudo_password=number, **common)


def test_refusal_of_a_command_of_args_is_an_error_in_any_language(
    host: SudoHost, cache: SshClientCache
) -> None:
    """The account's language is the command's, too; what sudo shows of the command is not."""
    says = "Leider darf »/usr/bin/id --secret« auf web1 nicht ausgeführt werden."
    host.fake(f'#!/bin/sh\ncase "$*" in *-l*) ;; *) echo "{says}" >&2 ;; esac; exit 1\n')
    args = ["id", "--secret"]
    with pytest.raises(SshSudoRefused, match="Leider darf »/usr/bin/id ...« auf web1"):
        run(host.web, args=args, sudo=True, cache=cache, timeout=PATIENCE)


def test_command_that_fails_with_a_message_like_sudos_is_not_refused(
    host: SudoHost, cache: SshClientCache
) -> None:
    """Before it runs a command, sudo may warn, such as that it cannot resolve its host's name."""
    warns = 'echo "sudo: unable to resolve host web1" >&2; exec /usr/bin/sudo "$@"'
    fails = 'test "$1" || exit 1; echo "sudo: $1" >&2; echo more >&2; exit 1'
    for password in (None, PASSWORD):
        host.real()
        host.rules(ALL if password else NO_PASSWORD)
        common: Dict[str, Any] = {"sudo": True, "sudo_password": password, "cache": cache}
        process = run(host.web, args=["sh", "-c", fails, "x", "it"], timeout=PATIENCE, **common)
        assert (process.exit_status, process.stderr) == (1, "sudo: it\nmore\n")
        host.fake(f"#!/bin/sh\n{warns}\n")
        process = run(host.web, args=["sh", "-c", fails], timeout=PATIENCE, **common)
        assert process.exit_status == 1 and process.stderr == "sudo: unable to resolve host web1\n"
        with pytest.raises(SshSudoRefused, match="command not found"):
            run(host.web, args=["no-such-command"], timeout=PATIENCE, **common)


def test_host_without_sudo_is_an_error(host: SudoHost, cache: SshClientCache) -> None:
    host.fake('#!/bin/sh\necho "sudo: not here" >&2; exit 127\n')
    for password in (None, PASSWORD):
        with pytest.raises(SshSudoRefused, match="sudo did not run the command"):
            run(host.web, "id", sudo=True, sudo_password=password, cache=cache, timeout=PATIENCE)
    profile = host.home / ".bashrc"
    profile.write_text("PATH=/nowhere\n")
    try:
        works: List[Dict[str, Any]] = [{"script": "id"}, {"args": ["id"]}]
        for work in works:
            for password in (None, PASSWORD):
                options: Dict[str, Any] = {"sudo": True, "sudo_password": password}
                with pytest.raises(SshSudoRefused, match="not found"):
                    run(host.web, cache=cache, timeout=PATIENCE, **options, **work)
    finally:
        profile.unlink()


@pytest.mark.parametrize("work", [{"script": "id"}, {"args": ["id"]}], ids=["script", "args"])
def test_other_prompt_or_silence_is_an_error_with_what_was_printed(
    work: Dict[str, Any], host: SudoHost, cache: SshClientCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The password is not for whatever asks."""
    monkeypatch.setattr(sudo_input, "_ANSWER_TIMEOUT", 2.0)
    password = Password()
    common: Dict[str, Any] = {"sudo": True, "sudo_password": password, "cache": cache, **work}
    host.fake('#!/bin/sh\nprintf "Code de vérification: " >&2\nread -r line; echo "$line" >&2\n')
    with pytest.raises(SshSudoRefused, match="did not ask for the password .*Code de v") as caught:
        run(host.web, timeout=PATIENCE, **common)
    assert caught.value.process is not None and password.calls == 0
    host.fake("#!/bin/sh\nexec sleep 61\n")
    monkeypatch.setattr(sudo_input, "_ANSWER_TIMEOUT", 1.0)
    with pytest.raises(SshSudoRefused, match="did not ask for the password within 1 s"):
        run(host.web, timeout=PATIENCE, **common)
    monkeypatch.setattr(sudo_input, "_ANSWER_TIMEOUT", 2.0)
    # It prints our prompt, and echoes what it reads.
    prompt = 'while [ "$1" != -p ]; do shift; done; printf "%s" "$2" >&2; read -r line; '
    broken = 'echo "got $line" | sed "s/word/wo\\n\\trd/" >&2'
    host.fake(f"#!/bin/sh\n{prompt}{broken}; sleep 61\n")
    with pytest.raises(SshSudoRefused, match="did not accept the password within 2 s") as caught:
        run(host.web, timeout=PATIENCE, **common)
    assert "got ***" in str(caught.value) and "rd's" not in str(caught.value)
    assert PASSWORD not in str(caught.value.process and caught.value.process.stderr)


@pytest.mark.parametrize("options", PTY, ids=["plain", "use_pty"])
def test_sudo_that_requires_a_terminal_gets_it_by_pty(
    options: str, host: SudoHost, cache: SshClientCache
) -> None:
    common: Dict[str, Any] = {"sudo": True, "sudo_password": PASSWORD, "cache": cache}
    host.rules(TERMINAL + options + ALL)
    for work in ({"script": "id -un; [ -t 0 ] && echo tty"}, {"args": ["id", "-un"]}):
        with pytest.raises(SshSudoRefused, match="pass pty=True"):
            run(host.web, timeout=PATIENCE, **common, **work)
        process = run(host.web, pty=True, env={"VALUE": VALUE}, timeout=PATIENCE, **common, **work)
        assert process.stdout == ("root\r\ntty\r\n" if "script" in work else "root\r\n")
    with pytest.raises(SshSudoRefused, match="asked a second time"):
        run(
            host.web, "id", pty=True, sudo=True, sudo_password="wrong", cache=cache,
            timeout=PATIENCE,
        )  # fmt: skip


@pytest.mark.parametrize(
    "options, password", [(PTY[0], None), (PTY[1], None), (PTY[1], PASSWORD)], ids=repr
)
def test_command_of_args_gets_its_input_on_a_terminal_of_sudos_own(
    options: str, password: Any, host: SudoHost, cache: SshClientCache
) -> None:
    """Meanwhile ours becomes raw, so that a Ctrl-D which it took before would be a NUL."""
    host.rules(options + (ALL if password else NO_PASSWORD))
    common: Dict[str, Any] = {"sudo": True, "sudo_password": password, "cache": cache}
    command = ["sh", "-c", "[ -t 0 ] && stty -echo; cat; id -un"]
    for given, shown in (("", ""), ("one\ntwo\n", "one\r\ntwo\r\n")):
        process = run(host.web, args=command, input=given, pty=True, timeout=PATIENCE, **common)
        assert process.stdout.replace(given.replace("\n", "\r\n"), "", 1) in (
            "root\r\n",
            f"{shown}root\r\n",
        )


def test_control_c_is_for_the_command_of_args(host: SudoHost, cache: SshClientCache) -> None:
    """It goes on as it likes; the shell that has started sudo is not ended."""
    host.rules(PTY[0] + NO_PASSWORD)
    command = ["sh", "-c", "stty -echo; trap 'echo int' INT; echo on; read x; read x; echo $x"]
    with start(host.web, args=command, sudo=True, pty=True, cache=cache) as process:
        lines = process.lines()
        assert next(lines) == "on\r\n"
        process.write("\x03")
        assert next(lines) == "int\r\n"
        process.write("one\ntwo\n")
        assert next(lines) in ("one\r\n", "two\r\n")
        assert process.result(PATIENCE).exit_status == 0


def test_cwd_of_a_script_is_entered_with_the_rights_of_root(
    host: SudoHost, tmp_path: Path, cache: SshClientCache
) -> None:
    tmp_path.chmod(0o700)
    common: Dict[str, Any] = {"sudo": True, "sudo_password": PASSWORD, "cache": cache}
    process = run(host.web, "pwd", cwd=tmp_path, timeout=PATIENCE, **common)
    assert process.stdout == f"{tmp_path}\n"
    with pytest.raises(FileNotFoundError):
        run(host.web, "id", cwd=tmp_path / "x", timeout=PATIENCE, **common)
    with pytest.raises(OSError, match="may not be entered|does not exist"):
        run(host.web, args=["id"], cwd=tmp_path, timeout=PATIENCE, **common)
    process = run(host.web, args=["pwd"], cwd=host.home, timeout=PATIENCE, **common)
    assert process.stdout == f"{host.home}\n"


def pids(text: str) -> List[int]:
    return [int(word) for word in text.split()]


@pytest.mark.parametrize("options", PTY, ids=["plain", "use_pty"])
@pytest.mark.parametrize("more", [{}, {"pty": True}], ids=str)
def test_time_out_ends_roots_processes(
    options: str, more: Dict[str, Any], host: SudoHost, cache: SshClientCache
) -> None:
    """The server may not signal them, so sudo runs a script that does."""
    host.rules(options + ALL)
    script = "trap '' TERM; echo $$; sleep 62 & echo $!; wait"
    run(host.web, "true", cache=cache, timeout=PATIENCE)  # connects
    with pytest.raises(SshCommandTimeout) as caught:
        run(host.web, script, sudo=True, sudo_password=PASSWORD, cache=cache, timeout=3, **more)
    assert caught.value.process is not None
    numbers = pids(caught.value.process.stdout)
    assert len(numbers) == 2
    eventually(lambda: not any(map(is_running, numbers)), "they end")


@pytest.mark.parametrize("options", PTY, ids=["plain", "use_pty"])
def test_command_of_args_that_ignores_signals_has_ended_when_the_error_says_so(
    options: str, host: SudoHost, cache: SshClientCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a terminal, the server closes the session while root's process still runs."""
    host.rules(options + NO_PASSWORD)
    command = ["sh", "-c", "trap '' TERM HUP INT; echo $$; sleep 64 & wait; wait"]

    wait_for_proof(monkeypatch)
    with start(host.web, args=command, sudo=True, pty=True, cache=cache) as process:
        (number,) = pids(next(process.lines()))
        process.future.cancel()
        error = process.future.exception(PATIENCE)
    assert isinstance(error, SshCommandCancelled)
    assert error.ended is True and not is_running(number)


def test_cancelled_command_of_args_ends_if_the_rules_allow_it(
    host: SudoHost, cache: SshClientCache
) -> None:
    common: Dict[str, Any] = {"sudo": True, "sudo_password": PASSWORD, "cache": cache}
    with start(host.web, args=["sh", "-c", "echo $$; sleep 63"], **common) as process:
        (number,) = pids(next(process.lines()))
        process.future.cancel()
        assert isinstance(process.future.exception(PATIENCE), SshCommandCancelled)
    eventually(lambda: not is_running(number), "it ends")
    host.rules(f"{USER} ALL=(root) NOPASSWD: /usr/bin/sleep\n")
    with pytest.raises(SshCommandTimeout) as caught:
        run(host.web, args=["sleep", "64.5"], sudo=True, cache=cache, timeout=2)
    assert caught.value.ended is None and "may still run" in str(caught.value)
    assert host.processes("64.5")


def test_interrupted_command_of_args_has_ended_when_its_cache_is_closed(
    host: SudoHost, cache: SshClientCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ending it takes another session, on a connection that is still needed for that."""
    wait_for_proof(monkeypatch)
    monkeypatch.setattr(lender, "_ENDING_TIMEOUT", PATIENCE)
    shown: List[str] = []

    def interrupt(text: str) -> None:
        shown.append(text)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(
            host.web, args=["sh", "-c", "echo $$; sleep 68"], sudo=True, sudo_password=PASSWORD,
            on_stdout=interrupt, cache=cache, timeout=PATIENCE,
        )  # fmt: skip
    cache.cleanup()
    (number,) = pids("".join(shown))
    eventually(lambda: not is_running(number), "it ends")


def test_time_out_while_sudo_asks_runs_nothing(
    host: SudoHost, tmp_path: Path, cache: SshClientCache
) -> None:
    def slow() -> str:
        time.sleep(3)
        return PASSWORD

    for work in ({"script": f"touch {tmp_path}/x"}, {"args": ["touch", f"{tmp_path}/x"]}):
        with pytest.raises(SshCommandTimeout) as caught:
            run(host.web, sudo=True, sudo_password=slow, cache=cache, timeout=1.5, **work)
        assert caught.value.ended is True
    assert list(tmp_path.iterdir()) == []


def test_signal_reaches_roots_script(host: SudoHost, cache: SshClientCache) -> None:
    script = 'trap "echo usr; exit 7" USR1; echo on; while :; do sleep 0.1; done'
    with start(host.web, script, sudo=True, sudo_password=PASSWORD, cache=cache) as process:
        assert next(process.lines()) == "on\n"
        process.signal("USR1")
        assert process.result(PATIENCE).exit_status == 7


def test_job_that_sudo_starts_is_roots(host: SudoHost, cache: SshClientCache) -> None:
    """The user who logs in finds it only by sudo."""
    common: Dict[str, Any] = {"sudo": True, "sudo_password": PASSWORD, "cache": cache}
    job = start_job(host.web, "id -un; cat; sleep 66", id="roots", stdin="in\n", **common)
    lines = job.lines(timeout=2 * PATIENCE)
    assert [next(lines), next(lines)] == ["root\n", "in\n"]
    with pytest.raises(SshJobNotFound):
        find_job(host.web, "roots", cache=cache)
    assert find_job(host.web, "roots", **common) == job
    assert list_jobs(host.web, **common) == [job] and list_jobs(host.web, cache=cache) == []
    assert str(job.kill()) == "signalled(TERM)"
    job.remove()
    assert PASSWORD not in host.log() and "sleep 66" not in host.log()
    with pytest.raises(SshSudoRefused, match="; pass sudo_password; jobs need a rule that allows"):
        start_job(host.web, "true", sudo=True, cache=cache)


def test_sudo_works_alike_in_hosts_and_fleets(host: SudoHost, cache: SshClientCache) -> None:
    web = Host(host.web, cache=cache)
    assert web.run("id -un", sudo=True, sudo_password=PASSWORD).stdout == "root\n"
    work: List[Dict[str, Any]] = [{"script": "id -un"}, {"args": ["id", "-un"]}]
    for one in work:
        (result,) = fleet.run([host.web], sudo=True, sudo_password=PASSWORD, **one)
        assert (result.stdout, result.stderr) == ("root\n", "")
    (result,) = fleet.run([host.web], "id", sudo=True, sudo_password="wrong")
    assert isinstance(result.error, SshSudoRefused)


def command_line(host: SudoHost, *words: str) -> List[str]:
    where = ["-F", "none", "--host-key", "off", "-i", host.sshd.client_key]
    first = 2 if words[0] == "job" else 1
    there = ["-H", f"{USER}@{host.sshd.host}:{host.sshd.port}"]
    return [*words[:first], *where, *there, *words[first:]]


def test_command_line_runs_commands_and_jobs_by_sudo(host: SudoHost) -> None:
    host.rules(NO_PASSWORD)
    for options, user in ((["--sudo"], "root"), (["--sudo-user", "daemon"], "daemon")):
        done = in_process(*command_line(host, "run", *options, "--", "id", "-un"))
        assert done.stdout.endswith(f"{user}\n") and done.returncode == 0, done.stderr
    host.rules(f"{USER} ALL=(root) NOPASSWD: /usr/bin/id\n")
    done = in_process(*command_line(host, "run", "--sudo", "--args", "--", "/usr/bin/id", "-un"))
    assert done.stdout.endswith("root\n") and done.returncode == 0, done.stderr
    host.rules(NO_PASSWORD)
    done = in_process(*command_line(host, "job", "start", "--sudo", "--id", "j", "--", "id -un"))
    assert done.returncode == 0, done.stderr
    done = in_process(*command_line(host, "job", "logs", "--sudo", "j"))
    assert done.stdout == "root\n"
    assert in_process(*command_line(host, "job", "list")).stdout == ""
    assert in_process(*command_line(host, "job", "remove", "--sudo", "j")).returncode == 0


def test_command_line_gives_sudo_a_terminal_and_repeats_no_refusal(host: SudoHost) -> None:
    host.rules(f"Defaults requiretty\n{NO_PASSWORD}")
    words = command_line(host, "run", "--sudo", "--", "id -un; test -t 1")
    refused = in_process(*words)
    assert refused.stderr.count("have a tty") == 1 and refused.stderr.count("give --pty") == 1
    folded = in_process("run", "--group", *words[1:])
    assert folded.stderr.count("have a tty") == 1
    done = in_process("run", "--pty", *words[1:])
    assert done.stdout.split()[1:] == ["root"] and done.returncode == 0, done.stderr


def test_command_line_asks_for_the_password_for_sudo_once_and_never_shows_it(
    host: SudoHost,
) -> None:
    words = command_line(host, "run", "--ask-sudo-password", "--", "id", "-un")
    with Terminal([sys.executable, "-m", "ssh_service", *words]) as terminal:
        terminal.wait_for(b"Password for sudo on sudoer@127.0.0.1:[0-9]+: ", 2 * PATIENCE)
        terminal.type(f"{PASSWORD}\n".encode())
        terminal.wait_for(b"root")
        assert terminal.end() == 0
        assert PASSWORD.encode() not in terminal.shown
