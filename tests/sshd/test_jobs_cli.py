"""The command line's jobs, on one host and on several."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable, List

import pytest

pytest.importorskip("click")
pytest.importorskip("rich")

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

    def run(command: str, *arguments: str, hosts: str = "web1") -> Any:
        return in_process("job", command, "-F", str(config), "-H", hosts, "-t", "30", *arguments)

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
    assert done.returncode == 1 and "there is no job cli" in done.stderr


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
    assert job("wait", "many", "--json").stdout.startswith('{"host": "web1", "error": ')


@pytest.mark.parametrize(
    "arguments, text",
    [
        (("start", "--id", "a/b", "--", "true"), "--id: expected 1 to 128 letters"),
        (("clean", "--older", "soon"), "--older: expected a time"),
        (("kill", "-s", "term", "x"), "signal: expected a name such as TERM"),
        (("logs", "a b"), "id: expected 1 to 128 letters"),
    ],
)
def test_wrong_use_says_what_would_be_right(job: Job, arguments: Any, text: str) -> None:
    assert text in complaint_of(job(*arguments))
