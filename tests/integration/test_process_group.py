"""The scripts that find and end a command's processes, in real shells."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

import pytest

from ssh_service.commands import processes, script
from ssh_service.commands.processes import Process, children_script, end_script, parse_children
from tests.common import eventually, is_running
from tests.unit.test_process_group import BOOT

SHELLS = [[path] for path in map(shutil.which, ("dash", "bash", "mksh")) if path]
SHELLS += [[path, "sh"] for path in [shutil.which("busybox")] if path]
needs_proc = pytest.mark.skipif(not os.path.exists("/proc/1/stat"), reason="needs Linux's /proc")
each_shell = pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: Path(shell[0]).name)


def run(shell: List[str], text: str, **more: str) -> bytes:
    """Run a script as it is run on a server: over stdin."""
    delivery = script.deliver(text, None, shell[0] if len(shell) == 1 else None)
    return subprocess.run(
        [*(shell if len(shell) > 1 else ["/bin/sh"]), "-c", delivery.command],
        input=delivery.preamble,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=60,
        env={"PATH": os.environ["PATH"], **more},
    ).stdout


def identity(pid: int) -> Process:
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    found = processes.parse_stat(
        pid, stat, Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    )
    assert found is not None
    return found


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[Callable[..., Tuple[Any, int]]]:
    """Return what starts a shell with a child that both ignore TERM, and tells their numbers."""
    begun: List[Any] = []

    def start(own_group: bool, text: str = "trap '' TERM; sleep 60 & echo $!; wait") -> Any:
        process = subprocess.Popen(
            ["sh", "-c", text], stdout=subprocess.PIPE, start_new_session=own_group
        )
        begun.append(process)
        assert process.stdout is not None
        return process, int(process.stdout.readline())

    yield start
    for process in begun:
        process.kill()
        process.wait(10)
        process.stdout.close()


@needs_proc
@each_shell
@pytest.mark.parametrize("own_group", [True, False], ids=["group", "tree"])
def test_end_script_ends_a_command_and_its_children(
    shell: List[str], own_group: bool, spawn: Callable[..., Any]
) -> None:
    process, child = spawn(own_group)
    bystander, its_child = spawn(own_group)
    command = identity(process.pid)
    assert command.leads is own_group
    assert run(shell, end_script(command, ["TERM", "KILL"], 0.1)).split() == [b"ended"]
    assert process.wait(10) == -signal.SIGKILL
    eventually(lambda: not is_running(child), "the child ends")
    assert is_running(bystander.pid) and is_running(its_child)
    os.kill(its_child, signal.SIGKILL)


@each_shell
def test_end_script_without_proc_ends_the_group_without_complaint(
    shell: List[str], spawn: Callable[..., Any]
) -> None:
    """The shells differ in how they take the number of a group."""
    process, child = spawn(own_group=True)
    text = end_script(Process(process.pid, True), ["TERM", "KILL"])
    done = subprocess.run([*shell, "-c", text], stderr=subprocess.PIPE, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
    assert process.wait(10) == -signal.SIGKILL
    eventually(lambda: not is_running(child), "the child ends")


@needs_proc
@pytest.mark.parametrize("own_group", [True, False], ids=["group", "tree"])
@pytest.mark.parametrize("change", [{"started": 1}, {"boot": BOOT}])
def test_end_script_leaves_another_process_of_that_number_alone(
    own_group: bool, change: Dict[str, Any], spawn: Callable[..., Any]
) -> None:
    process, child = spawn(own_group)
    other = identity(process.pid)._replace(**change)
    run(["/bin/sh"], end_script(other, ["KILL"], 0.1))
    assert is_running(process.pid) and is_running(child)
    os.kill(child, signal.SIGKILL)


@needs_proc
def test_end_script_sends_other_signals_without_waiting(spawn: Callable[..., Any]) -> None:
    text = "trap 'echo usr; exit 3' USR1; echo $$; while :; do sleep 0.1; done"
    process, _ = spawn(True, text)
    assert run(["/bin/sh"], end_script(identity(process.pid), ["USR1"])) == b""
    assert process.wait(10) == 3


@needs_proc
@each_shell
def test_children_script_lists_what_its_parent_has_begun(
    shell: List[str], spawn: Callable[..., Any]
) -> None:
    first, _ = spawn(True, "echo $$; exec sleep 60")
    second, _ = spawn(False, "echo $$; exec sleep 60")
    text = children_script().replace("$PPID", str(os.getpid()))
    found = {process.pid: process for process in parse_children(run(shell, text)).others}
    assert found[first.pid] == identity(first.pid)
    assert found[second.pid] == identity(second.pid)


@needs_proc
def test_children_script_of_another_connection_wants_our_own_address() -> None:
    """Where something between changes addresses, nobody can tell whose a connection is."""
    text = children_script(("127.0.0.1", 5000))
    for seen in ("10.0.0.1 5001 10.0.0.2 22", ""):
        assert run(["/bin/sh"], text, SSH_CONNECTION=seen) == b""
    # There is no such connection.
    assert run(["/bin/sh"], text, SSH_CONNECTION="127.0.0.1 5001 127.0.0.1 22") == b""
