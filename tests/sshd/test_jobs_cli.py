"""The command line's jobs, on one host and on several."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, List

import pytest

pytest.importorskip("click")
pytest.importorskip("rich")

from tests.common import PATIENCE, eventually  # noqa: E402
from tests.sshd.jobs import JobHost  # noqa: E402
from tests.unit.command_line import complaint_of, in_process  # noqa: E402

Job = Callable[..., Any]


@pytest.fixture
def job(job_host: JobHost, tmp_path: Path) -> Job:
    """Return a function that runs ``ssh-service job`` on two names of one server."""
    sshd = job_host.sshd
    config = tmp_path / "config"
    config.write_text(
        f"Host web*\n HostName {sshd.host}\n Port {sshd.port}\n User {sshd.username}\n"
        f" IdentityFile {sshd.client_key}\n IdentitiesOnly yes\n IdentityAgent none\n"
        f" HostKeyAlias [{sshd.host}]:{sshd.port}\n UserKnownHostsFile {sshd.known_hosts}\n"
    )

    def run(command: str, *arguments: str, hosts: str = "web1", stdin: str = "") -> Any:
        options = ("-F", str(config), "-H", hosts, "-t", "30")
        return in_process("job", command, *options, *arguments, stdin=stdin)

    return run


def lines(done: Any) -> List[Any]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_job_is_started_read_waited_for_and_removed(job: Job) -> None:
    done = job("start", "--id", "cli", "--cwd", "/usr", "--", "pwd; echo oops >&2; exit 3")
    assert (done.returncode, done.stdout, done.stderr) == (0, "web1: cli running\n", "")
    done = job("wait", "cli")
    assert (done.returncode, done.stdout) == (1, "web1: cli ended(3)\n")
    assert job("logs", "-f", "cli").stdout == "/usr\n"
    assert job("logs", "--stderr", "cli").stdout == "oops\n"
    assert job("list").stdout == "web1: cli ended(3)\n"
    (found,) = lines(job("list", "--json"))
    assert (found["host"], found["id"], found["state"], found["exit_status"]) == (
        "web1", "cli", "ended", 3,
    )  # fmt: skip
    assert found["ended"] >= found["began"]
    assert job("remove", "cli").stdout == "web1: cli removed\n"
    done = job("wait", "cli")
    assert done.returncode == 1 and done.stderr.startswith("web1: FAILED: ")
    assert "there is no job cli" in done.stderr


def test_job_gets_variables_and_input(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable's value, and the input, need not be on the command line."""
    monkeypatch.setenv("TOKEN", "it's secret")
    (tmp_path / "input").write_bytes(b"in\xffput")
    given = ["--env", "TOKEN", "--env", "B=c=d", "--stdin", str(tmp_path / "input")]
    script = 'od -An -tx1 | tr -d " \\n"; printf "|%s|%s" "$TOKEN" "$B"'
    assert job("start", "--id", "given", *given, "--", script).returncode == 0
    job("wait", "given")
    assert job("logs", "given").stdout == "696eff707574|it's secret|c=d"
    words = ["--args", "--stdin", "-", "--", "sh", "-c", 'cat; printf "<%s>" "$@"', "sh", "a  b"]
    piped = job("start", "--id", "piped", *words, stdin="of a pipe")
    assert piped.returncode == 0
    job("wait", "piped")
    assert job("logs", "piped").stdout == "of a pipe<a  b>"
    job("remove", "given", "piped")


def test_status_of_jobs_is_asked_for_without_waiting(job: Job) -> None:
    job("start", "--id", "asked", "--", "while :; do sleep 0.1; done")
    assert job("status", "asked").stdout == "web1: asked running\n"
    job("kill", "asked")
    done = job("status", "asked", "never")
    assert (done.returncode, done.stdout) == (1, "web1: asked signalled(TERM)\n")
    assert "there is no job never" in done.stderr
    (found,) = lines(job("status", "--json", "asked"))
    assert (found["state"], found["certain"]) == ("signalled", True)
    job("remove", "asked")


def test_removal_that_was_interrupted_is_finished(job: Job, job_host: JobHost) -> None:
    """Although there is no such job any more, which is said as ever."""
    rest = job_host.folder / ".rest.7" / ("0" * 16)
    rest.mkdir(parents=True)
    done = job("remove", "rest")
    assert done.returncode == 1 and "there is no job rest" in done.stderr
    assert ".rest.7" not in job_host.folders()


def test_job_of_many_hosts_is_killed_and_cleaned(job: Job) -> None:
    """Both names are one host here, so both start one job: the id's."""
    hosts = "web[1-2]"
    done = job("start", "--id", "many", "--", "echo on; while :; do sleep 0.1; done", hosts=hosts)
    assert sorted(done.stdout.splitlines()) == ["web1: many running", "web2: many running"]
    assert job("clean", "--older", "0s").stdout == ""
    done = job("logs", "many", hosts=hosts)
    assert sorted(done.stdout.splitlines()) == ["web1: on", "web2: on"]
    assert job("kill", "-s", "TERM", "many").returncode == 0
    done = job("wait", "many", "--json", hosts=hosts)
    assert done.returncode == 1
    assert [(one["state"], one["signal"]) for one in lines(done)] == [("signalled", "TERM")] * 2
    assert job("clean", "--older", "7d").stdout == ""
    assert job("clean", "--older", "0s").stdout == "web1: many removed\n"
    assert job("wait", "many", "--json").stdout.startswith(
        '{"host": "web1", "id": "many", "error": '
    )


@pytest.mark.parametrize(
    "arguments, text",
    [
        (("start", "--id", "a/b", "--", "true"), "--id: expected 1 to 128 letters"),
        (("start", "--env", "A B=1", "--", "true"), "environment variable 'A B'"),
        (("start", "--env", "NO_SUCH", "--", "true"), "give its value with NO_SUCH=VALUE"),
        (("start", "--stdin", "/no/such", "--", "true"), "--stdin /no/such: No such file"),
        (("start", "--stdin", "-", "-f", "-", "--", "true"), "read only once: -f - and --stdin -"),
        (("clean", "--older", "soon"), "--older: expected a time with its unit, such as 7d"),
        (("clean", "--older", "7"), "--older: expected a time with its unit, such as 7d"),
        (("kill", "-s", "0", "x"), "signal: expected a name such as TERM, or a number"),
        (("logs", "-f", "hosts.txt", "x"), "-f is --follow here"),
        (("logs", "a b"), "id: expected 1 to 128 letters"),
    ],
)
def test_wrong_use_says_what_would_be_right(job: Job, arguments: Any, text: str) -> None:
    assert text in complaint_of(job(*arguments))


def test_command_without_a_subcommand_prints_its_help() -> None:
    done = in_process("job")
    assert done.returncode == 2 and done.stdout == ""
    assert len(done.stderr.splitlines()) > 15 and "  logs " in done.stderr


@pytest.mark.parametrize("command", ["wait", "kill", "remove"])
def test_job_that_is_missing_keeps_nobody_from_the_next_one(job: Job, command: str) -> None:
    job("start", "--id", command, "--", "true")
    job("wait", command)
    done = job(command, "no1", command, "no2")
    assert done.returncode == 1 and done.stdout.startswith(f"web1: {command} ")
    assert [line.rpartition(" ")[2] for line in done.stderr.splitlines()] == ["no1", "no2"]


@pytest.mark.parametrize("name", ["SIGTERM", "term", "15"])
def test_signal_is_named_as_kill_names_it(job: Job, name: str) -> None:
    job("start", "--id", name, "--", "while :; do sleep 0.1; done")
    assert job("kill", "-s", name, name).returncode == 0
    assert job("wait", name).stdout == f"web1: {name} signalled(TERM)\n"


def test_time_limit_of_a_job_is_seen_in_its_state(job: Job) -> None:
    job("start", "--id", "late", "--run-timeout", "0.1", "--", "while :; do sleep 0.1; done")
    assert job("wait", "late").stdout == "web1: late signalled(TERM), timed out\n"


def test_wait_that_takes_too_long_says_that_the_job_keeps_running(job: Job) -> None:
    job("start", "--id", "long", "--", "while :; do sleep 0.1; done")
    done = job("wait", "long", "-t", "2")
    assert done.returncode == 1 and done.stdout == ""
    assert "job long did not end within " in done.stderr and "keeps running" in done.stderr
    assert done.stderr.startswith("web1: TIMED OUT: ") and "TimeoutError" not in done.stderr
    job("kill", "long")


INTERRUPTED = {
    "start": "these jobs may have been started: web1: never",
    "wait": "the job keeps running: never",
    "logs": "the job keeps running: never",
}


@pytest.mark.parametrize("command", list(INTERRUPTED))
def test_interrupted_command_says_what_becomes_of_the_job(
    job: Job, job_host: JobHost, tmp_path: Path, command: str
) -> None:
    """Ctrl-C ends the command at once, and not the job."""
    more = {"start": ["--id", "never", "--", "true"], "logs": ["-f", "never"], "wait": ["never"]}
    if command == "start":
        job_host.sshd.freeze(listener=True)
    else:
        job("start", "--id", "never", "--", "echo on; while :; do sleep 0.1; done")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    options = ["-F", str(tmp_path / "config"), "-H", "web1"]
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "import ssh_service.cli; sys.exit(ssh_service.cli.main(sys.argv[1:]))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, "job", command, *options, *more[command]],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        if command == "logs":
            assert process.stdout.readline() == b"on\n"
        else:
            seen = job_host.sshd.port
            eventually(lambda: _is_connected(process.pid, seen), "it is connected")
            time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=PATIENCE)
    job_host.sshd.thaw()
    assert (process.returncode, stdout) == (130, b"")
    assert stderr.decode() == f"ssh-service: interrupted: {INTERRUPTED[command]}\n"
    if command != "start":
        assert job("kill", "never").stdout == "web1: never signalled(TERM)\n"
        job("remove", "never")


def _is_connected(pid: int, port: int) -> bool:
    with open(f"/proc/{pid}/net/tcp") as table:
        return any(f":{port:04X} 01 " in line for line in table)


def test_help_tells_the_time_limit_of_the_command_from_that_of_the_job() -> None:
    text = " ".join(in_process("job", "start", "--help").stdout.split())
    assert "The time limit of this command for each host, not of its jobs" in text
