"""``--group``, ``--retry``, and the progress of copies, against a real server."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Callable

import pytest

pytest.importorskip("click")
pytest.importorskip("rich")

from ssh_service.testing.local_sshd import Sshd  # noqa: E402
from tests.sshd.web_hosts import ADDRESSES, argv, write_config  # noqa: E402
from tests.terminal import Terminal  # noqa: E402
from tests.unit.command_line import in_process  # noqa: E402

ROOT = str(Path(__file__).resolve().parents[2])


@pytest.fixture
def server(sshd_factory: Callable[..., Sshd]) -> Sshd:
    return sshd_factory({"ListenAddress": ADDRESSES})


@pytest.fixture
def config(server: Sshd, tmp_path: Path) -> Path:
    return write_config(server, tmp_path / "config")


def run(config: Path, *arguments: str) -> Any:
    return in_process("run", "-F", str(config), *arguments)


def test_group_shows_each_output_once_with_its_hosts_folded(config: Path) -> None:
    """The most frequent first; the failures, and what went to stderr, are folded as well."""
    script = """case "$SSH_CONNECTION" in
        *" 127.0.0.3 "*) ;;
        *" 127.0.0.4 "*) echo other; exit 3;;
        *) echo same; echo warning >&2;; esac"""
    done = run(config, "--group", "-H", "web[1-4]", "-H", "dead", "--", script)
    rule = "---------------\n"
    assert done.stdout == (
        f"{rule}web[1-2] (2)\n{rule}same\n"
        f"{rule}web3 (1): no output\n{rule}"
        f"{rule}web4 (1)\n{rule}other\n"
    )
    first, *others = done.stderr.splitlines()
    assert first == "web[1-2]: warning" and done.returncode == 1
    assert others[0].startswith("dead: FAILED: ") and "Connection refused" in others[0]
    assert others[1] == "web4: FAILED: exit status 3"
    assert others[2].startswith("ssh-service: 3 of 5 hosts succeeded, 2 failed: ")


def test_group_of_silent_hosts_shows_nothing(config: Path) -> None:
    done = run(config, "--group", "-H", "web[1-4]", "--", "true")
    assert (done.stdout, done.stderr) == ("", "ssh-service: 4 of 4 hosts succeeded\n")


def test_retry_repeats_only_what_was_never_sent(config: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    done = run(
        config, "--retry", "1", "-H", "web1", "-H", "dead", "--", f"echo x >>{ran}; kill -9 $$"
    )
    assert ran.read_text() == "x\n"
    assert done.stderr.count("nothing was sent to dead; trying again in 1 s (1 of 1)") == 1
    assert done.returncode == 1 and "2 failed: " in done.stderr.splitlines()[-1]


def test_copy_on_a_terminal_ends_with_how_much_was_copied(config: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 1_500_000)
    command = argv(config, "upload", "-H", "web1", str(tmp_path / "file"), f"{tmp_path}/there")
    with Terminal(command, size=(30, 120), cwd=ROOT) as terminal:
        assert terminal.end() == 0
        shown = re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", terminal.shown).decode()
    assert re.search(r"ssh-service: copied 1 file, 1\.5 MB in [0-9.]+ s \([0-9.]+ .B/s\)", shown)
