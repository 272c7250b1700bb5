"""The command line as a process of its own."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Dict, List, Optional, Set

import pytest

from tests.common import PATIENCE, require_part
from tests.unit.command_line import complaint_of

pytest.importorskip("click")
pytest.importorskip("rich")

ROOT = Path(__file__).resolve().parents[2]


def command_line(
    *arguments: str, env: Optional[Dict[str, str]] = None, stdin: str = ""
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "ssh_service", *arguments],
        cwd=str(ROOT),
        env={**os.environ, **(env or {})},
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        timeout=60,
    )


def loaded_by(*arguments: str) -> Set[str]:
    code = (
        "import sys; from ssh_service import cli\n"
        f"status = cli.main({list(arguments)!r})\n"
        "print(*sys.modules, sep='\\n', file=sys.stderr); sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=str(ROOT),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        check=True,
        timeout=60,
    )
    return set(done.stderr.split())


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["completion", "fish"]])
def test_help_loads_neither_the_library_nor_mlos_bench(arguments: List[str]) -> None:
    loaded = loaded_by(*arguments)
    assert not loaded & {"paramiko", "mlos_bench", "rich.live"}
    assert not {name for name in loaded if name.startswith("ssh_service.fleet")}
    assert "ssh_service.services.host_api" not in loaded


def test_run_does_not_import_host_api() -> None:
    loaded = loaded_by("run", "-H", "web01", "-F", "none", "--dry-run", "--", "true")
    assert "paramiko" in loaded
    assert not loaded & {
        "ssh_service.services.host_api",
        "ssh_service.services.base_service",
        "mlos_bench",
    }


def test_version_is_printed() -> None:
    assert command_line("--version").stdout.startswith("ssh-service ")


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_the_extra_it_says_what_to_install(missing: str, tmp_path: Path) -> None:
    (tmp_path / f"{missing}.py").write_text(
        f"raise ModuleNotFoundError('No module named {missing}', name='{missing}')"
    )
    line = complaint_of(command_line("run", env={"PYTHONPATH": str(tmp_path)}))
    assert "pip install 'click>=8.1' 'rich>=13'" in line and missing in line


def test_cli_help_without_the_extra_is_shown(tmp_path: Path) -> None:
    """Help and version need nothing that is missing; the help says what to install."""
    (tmp_path / "click.py").write_text("raise ModuleNotFoundError('no click', name='click')")
    env = {"PYTHONPATH": str(tmp_path)}
    for option in ("-h", "--help"):
        done = command_line(option, env=env)
        assert (done.returncode, done.stderr) == (0, "")
        assert "upload" in done.stdout and "pip install 'click>=8.1'" in done.stdout
    assert command_line("--version", env=env).stdout.startswith("ssh-service ")


@pytest.mark.parametrize("missing", ["mockssh", "rich"])
def test_the_demo_without_its_extra_says_what_to_install(missing: str, tmp_path: Path) -> None:
    (tmp_path / f"{missing}.py").write_text(
        f"raise ModuleNotFoundError('No module named {missing}', name='{missing}')"
    )
    done = command_line("demo", env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "pip install mock-ssh-server 'rich>=13'" in done.stderr.splitlines()[-1]


def test_the_demo_needs_no_click(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("raise ModuleNotFoundError('No module', name='click')")
    done = command_line("demo", "--help", env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 0 and "--host" in done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_there_is_completion_for_the_shells(shell: str) -> None:
    done = command_line("completion", shell)
    assert done.returncode == 0 and "_SSH_SERVICE_COMPLETE" in done.stdout


def complete(words: str, number: int, home: Path) -> List[str]:
    env = {
        "_SSH_SERVICE_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(number),
        "HOME": str(home),
    }
    done = command_line(env=env)
    return [line.partition(",")[2] for line in done.stdout.splitlines()]


def test_commands_and_hosts_are_completed(tmp_path: Path) -> None:
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "config").write_text("Host web01 web02 *.example\nHost=db\n# Host x\n")
    assert complete("ssh-service up", 1, tmp_path) == ["upload"]
    assert complete("ssh-service run -H w", 3, tmp_path) == ["web01", "web02"]
    assert complete("ssh-service run -H root@d", 3, tmp_path) == ["root@db"]


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [["--version"], ["run", "--help"], ["completion", "bash"]])
def test_output_onto_a_full_disk_ends_with_1_and_one_line(
    arguments: List[str], unbuffered: str
) -> None:
    """Python would say "Exception ignored" and end with status 120."""
    require_part(os.path.exists("/dev/full"), "needs /dev/full")
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "ssh_service", *arguments],
            cwd=str(ROOT),
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=PATIENCE,
        )
    told = b"ssh-service: cannot write the output: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, told)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_cli_closed_streams_change_no_status(closed: str) -> None:
    """Output for a stream that the shell closed never goes to a connection that got its number."""
    words = [sys.executable, "-m", "ssh_service", "run", "-H", "localhost", "-p", "1", "-n", "x"]
    command = " ".join(map(shlex.quote, words))
    done = subprocess.run(
        ["/bin/sh", "-c", f"{command} {closed}"],
        cwd=str(ROOT),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert bool(done.stdout) == (">&-" not in closed.replace("2>&-", ""))


def test_messages_onto_a_full_disk_leave_the_status() -> None:
    """Messages to people are lost; the exit status stays the same."""
    require_part(os.path.exists("/dev/full"), "needs /dev/full")
    command = [sys.executable, "-m", "ssh_service", "run", "-H", "localhost", "-p", "1", "--", "x"]
    with open("/dev/full", "wb") as full:
        assert subprocess.call(command, cwd=str(ROOT), stderr=full, timeout=PATIENCE) == 1
