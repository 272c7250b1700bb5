"""``ssh-service shell`` against a real server."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any, Callable, List

import pytest

pytest.importorskip("click")
pytest.importorskip("rich")

from ssh_service.cli.local_terminal import EscapeFilter  # noqa: E402
from ssh_service.testing.local_sshd import Sshd  # noqa: E402
from tests.common import PATIENCE, eventually, require_part  # noqa: E402
from tests.sshd.web_hosts import argv, write_config  # noqa: E402
from tests.terminal import Terminal  # noqa: E402

ROOT = str(Path(__file__).resolve().parents[2])
Command = Callable[..., List[str]]


@pytest.fixture
def command(sshd: Sshd, tmp_path: Path) -> Command:
    config = write_config(sshd, tmp_path / "config")
    return lambda *words: argv(config, "shell", *words)


def test_terminal_passes_keys_and_size_and_the_exit_status(command: Command) -> None:
    with Terminal(command("web1", "sh"), size=(33, 99), cwd=ROOT) as terminal:
        before = terminal.settings()
        terminal.type(b"stty size; tty\r")
        terminal.wait_for(b"33 99\r\n/dev/pts/")
        assert terminal.settings() != before
        terminal.resize(40, 120)
        terminal.type(b"until stty size | grep '40 120'; do :; done; echo go; cat\r")
        terminal.wait_for(b"40 120\r\ngo\r\n")
        terminal.type(b"cats\r")
        terminal.wait_for(b"cats\r\ncats\r\n")
        terminal.type(b"\x03")  # Ctrl-C, for the remote cat
        terminal.wait_for(rb"\^C\s+[$#] ")  # cat no longer reads what is typed
        terminal.type(b"printf '<%s>' \"$TERM\"; exit 7\r")
        terminal.wait_for(b"<xterm>")
        assert terminal.end() == 7
        assert terminal.settings() == before


def test_stopped_shell_gives_the_terminal_back_and_tilde_dot_leaves(command: Command) -> None:
    with Terminal(command("web1", "cat"), cwd=ROOT) as terminal:
        before = terminal.settings()
        eventually(lambda: terminal.settings() != before)
        terminal.type(b"one\r")
        terminal.wait_for(b"one\r\none\r\n")
        terminal.process.send_signal(signal.SIGTSTP)
        eventually(lambda: terminal.settings() == before)
        terminal.process.send_signal(signal.SIGCONT)
        eventually(lambda: terminal.settings() != before)
        terminal.type(b"a~.\r")
        terminal.wait_for(b"a~[.]\r\na~[.]\r\n")
        terminal.type(b"~~b\r")
        terminal.wait_for(b"~b\r\n~b\r\n")
        terminal.type(b"~.")
        terminal.wait_for(b"\r\nssh-service: connection closed\r\n")
        assert terminal.end() == 255
        assert terminal.settings() == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signal_restores_the_terminal(command: Command, number: int) -> None:
    with Terminal(command("web1", "echo ready; exec sleep 60"), cwd=ROOT) as terminal:
        before = terminal.settings()
        terminal.wait_for(b"ready")
        assert terminal.settings() != before
        assert terminal.end(number) == 128 + number
        assert terminal.settings() == before


def test_signal_restores_a_terminal_whose_output_is_stopped(command: Command) -> None:
    with Terminal(command("web1", "yes"), cwd=ROOT) as terminal:
        before = terminal.settings()
        terminal.wait_for(b"y\r*\n")
        # Nobody reads from here on: what is written soon fills the terminal.
        eventually(lambda: waits_to_write(terminal.process.pid))
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.process.wait(PATIENCE) == 128 + signal.SIGTERM
        assert terminal.settings() == before


def waits_to_write(pid: int) -> bool:
    """Return whether a thread of the process writes to standard output."""
    write = str({"x86_64": 1}.get(os.uname().machine, 64))
    tasks = Path(f"/proc/{pid}/task").iterdir()
    calls = [(task / "syscall").read_text().split()[:2] for task in tasks]
    return [write, "0x1"] in calls


def test_lost_connection_restores_the_terminal_and_says_why(command: Command, sshd: Sshd) -> None:
    with Terminal(command("web1", "echo ready; exec sleep 60"), cwd=ROOT) as terminal:
        before = terminal.settings()
        terminal.wait_for(b"ready")
        sshd.cut()
        assert terminal.end() == 255
        assert terminal.settings() == before
        assert b"ssh-service: " in terminal.shown and b"connection" in terminal.shown


def run(command: List[str], given: bytes) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        command,
        cwd=ROOT,
        input=given,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=2 * PATIENCE,
    )


def test_without_a_terminal_input_and_output_are_passed_on(command: Command) -> None:
    done = run(command("web1", "echo out; echo err >&2; tty; wc -c"), b"x" * 100_000)
    assert done.stdout == b"out\nnot a tty\n100000\n"
    assert (done.stderr, done.returncode) == (b"err\n", 0)
    done = run(command("web1", "kill -9 $$"), b"")
    assert (done.stderr, done.returncode) == (b"ssh-service: ended by signal KILL\n", 137)


def test_command_may_follow_two_hyphens(command: Command) -> None:
    assert run(command("web1", "--", "printf", "%s", "a", "--"), b"").stdout == b"a--"


def test_full_disk_is_status_255_and_one_line(command: Command) -> None:
    require_part(os.path.exists("/dev/full"), "needs /dev/full")
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            command("web1", "echo hi"), cwd=ROOT, stdout=full, stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL, timeout=2 * PATIENCE,
        )  # fmt: skip
    told = b"ssh-service: cannot write the output: No space left on device\n"
    assert (done.stderr, done.returncode) == (told, 255)


def test_host_that_refuses_is_status_255_and_one_line(command: Command) -> None:
    done = run(command("dead"), b"")
    assert done.returncode == 255 and len(done.stderr.splitlines()) == 1
    assert b"Connection refused" in done.stderr


@pytest.mark.parametrize(
    "typed, sent, leaves",
    [
        ([b"~."], b"", True),
        ([b"~", b"."], b"", True),
        ([b"ls ~.", b"\r"], b"ls ~.\r", False),
        ([b"x\n~.more"], b"x\n", True),
        ([b"~~.\r"], b"~.\r", False),
        ([b"~x\r~"], b"~x\r", False),
        ([b"~\r~."], b"~\r", True),
    ],
)
def test_tilde_dot_counts_at_the_beginning_of_a_line(
    typed: Any, sent: bytes, leaves: bool
) -> None:
    escapes = EscapeFilter()
    found = [escapes.feed(data) for data in typed]
    assert b"".join(data for data, _ in found) == sent
    assert any(left for _, left in found) is leaves
