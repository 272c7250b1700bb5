"""What the command line sends: scripts, input, variables; and how it connects."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any, Callable, List

import pytest

pytest.importorskip("click")
pytest.importorskip("rich")

from ssh_service.testing.local_sshd import Sshd  # noqa: E402
from tests.sshd.auth_server import AuthServer  # noqa: E402
from tests.sshd.web_hosts import ADDRESSES, write_config  # noqa: E402
from tests.terminal import Terminal  # noqa: E402
from tests.unit.command_line import in_process  # noqa: E402

Run = Callable[..., Any]


@pytest.fixture
def server(sshd_factory: Callable[..., Sshd]) -> Sshd:
    return sshd_factory({"ListenAddress": ADDRESSES})


@pytest.fixture
def run(server: Sshd, tmp_path: Path) -> Run:
    config = write_config(server, tmp_path / "config")

    def run(*arguments: str, stdin: str = "") -> Any:
        return in_process("run", "-F", str(config), *arguments, stdin=stdin)

    return run


# --- scripts, input, variables ------------------------------------------------------------------


SCRIPTS = {
    f"#!{sys.executable}\nimport sys\nprint(sys.argv[1:], sys.stdin.read())\n": (
        "['a  b', '$HOME', \"it's\"] in"
    ),
    f"#!/usr/bin/env -S {sys.executable} -B\nprint(__debug__)": "True",
    '#!/bin/bash -e\n[[ -n $1 ]] && echo "$#" "$(cat)"\nfalse\necho no\n': "3 in",
    'printf "%s|" "$@"; cat\n': "a  b|$HOME|it's|in",
    "#!/bin/sh\r\necho 'one\\'\r\necho two \\\r\nthree\r\n": "one\\\ntwo three",
    "#!/bin/sh\n" + "# filler\n" * 20_000 + "echo $1 end\n": "a b end",
}


def test_local_script_runs_there_with_its_interpreter_arguments_and_input(
    run: Run, tmp_path: Path
) -> None:
    """Python, an interpreter with an argument, bash, none, Windows' line ends, a long script."""
    words = ["--", "a  b", "$HOME", "it's"]
    for script, shown in SCRIPTS.items():
        path = tmp_path / "script"
        path.write_bytes(script.encode())
        done = run("-H", "web1", "--script", str(path), "--stdin", "-", *words, stdin="in")
        lines = "".join(f"web1: {line}\n" for line in shown.split("\n"))
        assert (done.stdout, done.returncode) == (lines, 1 if "bash" in script else 0), done.stderr


def test_script_may_come_from_standard_input(run: Run) -> None:
    done = run("-H", "web1", "--script", "-", "x", stdin='echo "$1 $(wc -c)"')
    assert done.stdout == "web1: x 0\n"


def test_every_host_gets_the_whole_input(run: Run, tmp_path: Path) -> None:
    (tmp_path / "input").write_bytes(b"\0line\n" * 100_000)
    done = run("-H", "web[1-4]", "--stdin", str(tmp_path / "input"), "--", "wc -c")
    assert sorted(done.stdout.split("\n")[:4]) == [f"web{n}: 600000" for n in (1, 2, 3, 4)]


def test_variables_are_given_or_taken_from_here(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROM_HERE", "it's $HOME")
    done = run(
        "-H", "web1", "--env", "A=b=c d", "--env", "FROM_HERE", "--", 'echo "$A|$FROM_HERE"'
    )
    assert done.stdout == "web1: b=c d|it's $HOME\n"


def test_words_of_args_reach_the_command_as_they_are(run: Run) -> None:
    done = run("-H", "web1", "--args", "--", "printf", "%s|", "a  b", "$HOME", "it's", "*")
    assert done.stdout.strip() == "web1: a  b|$HOME|it's|*|", done.stderr
    done = run("-H", "web1", "--args", "--script", "file", "--", "x")
    assert done.returncode == 2 and "--args, --script: give at most one" in done.stderr


# --- connecting ---------------------------------------------------------------------------------


def test_jump_hosts_are_used_or_passed_by(run: Run, server: Sshd) -> None:
    def logins(*options: str) -> int:
        before = server.log().count("Accepted publickey")
        done = run("-H", "web1", *options, "--", "true")
        assert done.returncode == 0, done.stderr
        return server.log().count("Accepted publickey") - before

    assert logins() == 1
    assert logins("-J", "web2") == 2
    assert logins("--jump=web2,web3") == 3
    assert logins("-J", "none") == 1
    failed = run("-H", "web1", "-J", "dead", "--", "true")
    assert failed.returncode == 1 and "127.0.0.99" in failed.stderr


def asking(server: AuthServer, *options: str) -> List[str]:
    program = [sys.executable, "-m", "ssh_service", "run", "-F", "none", "--host-key", "off"]
    return [*program, "--ask-password", "-l", "me", *options, "--", "true"]


def test_password_is_asked_for_once_and_never_shown(tmp_path: Path) -> None:
    """The server knows only how to log in: the command itself is refused."""
    with AuthServer(password="pass word") as server:
        hosts = ["-H", f"127.0.0.1:{server.port}", "-H", f"localhost:{server.port}"]
        with Terminal(asking(server, *hosts), {"HOME": str(tmp_path)}) as terminal:
            terminal.wait_for(b"Password for 2 hosts: ")
            terminal.type(b"pass word\n")
            assert terminal.end() == 1
            assert server.attempts.count(("password", True)) == len(server.attempts) >= 2
            assert b"Password" not in terminal.shown and b"pass word" not in terminal.shown


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_question_leaves_a_terminal_that_echoes(number: int, tmp_path: Path) -> None:
    with AuthServer(password="x") as server:
        command = asking(server, "-H", f"127.0.0.1:{server.port}")
        with Terminal(command, {"HOME": str(tmp_path)}) as terminal:
            before = terminal.settings()
            terminal.wait_for(b"Password for me@127.0.0.1:[0-9]+: ")
            assert terminal.settings() != before
            assert terminal.end(number) == 128 + number
            assert terminal.settings() == before
        assert not server.attempts
