"""Processes that start others while they are stopped or killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from typing import Dict, Iterable, Iterator, List

import pytest

from ssh_service.testing import process_tree
from tests.common import PATIENCE, eventually, is_running

# A chain of processes, of which the newest is always about to fork, for a second or so.
_CHAIN = """
import os, time
for _ in range(200):
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        os._exit(0)
    time.sleep(0.005)
time.sleep(60)
"""

needs_proc = pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs /proc")


def state(pid: int) -> str:
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


def running_members(group: int) -> List[int]:
    """Return the processes of a process group that are no zombies."""
    listing = subprocess.check_output(["ps", "-A", "-o", "pid=,pgid=,state="]).decode()
    lines = [line.split() for line in listing.splitlines()]
    return [int(pid) for pid, of, how in lines if int(of) == group and how[0] != "Z"]


@pytest.fixture(name="chain")
def processes_that_fork_others() -> Iterator["subprocess.Popen[bytes]"]:
    """Start a process whose descendants become more and more, in a group of their own."""
    with subprocess.Popen([sys.executable, "-c", _CHAIN], start_new_session=True) as process:
        try:
            eventually(lambda: len(process_tree.descendants(process.pid)) > 3)
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def tree_of(process: "subprocess.Popen[bytes]") -> List[int]:
    return [process.pid, *process_tree.descendants(process.pid)]


@needs_proc
def test_stop_all_stops_children_forked_meanwhile(chain: "subprocess.Popen[bytes]") -> None:
    """When it returns, every process of the tree has stopped, the newest too."""
    stopped = process_tree.stop_all(lambda: tree_of(chain))
    assert set(map(state, stopped)) == {"T"}
    assert tree_of(chain) == stopped


@needs_proc
def test_kill_all_leaves_nothing_of_a_growing_tree(chain: "subprocess.Popen[bytes]") -> None:
    """A child that is forked while its parent is told to end does not outlive it."""
    victims = process_tree.kill_all(lambda: tree_of(chain))
    chain.wait(PATIENCE)
    eventually(lambda: not any(map(is_running, victims)), "the tree has ended")
    assert running_members(chain.pid) == []


class Slow:
    """Processes that stop after the next look at them, and fork once more before they do."""

    def __init__(self, generations: int) -> None:
        self.told: List[int] = []
        self.generations = generations
        self.table = {1: process_tree._Process(0, "S", "1")}

    def look(self) -> Dict[int, process_tree._Process]:
        seen = dict(self.table)
        for pid in self.told:
            if self.table[pid].state == "S":
                self.table[pid] = self.table[pid]._replace(state="T")
                if pid < self.generations:
                    self.table[pid + 1] = process_tree._Process(pid, "S", str(pid + 1))
        return seen

    def send(self, pids: Iterable[int], number: int) -> List[int]:
        new = list(pids)
        self.told += new
        return new


def test_stop_all_sees_children_forked_after_the_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that forks between the signal and its effect has a child that is found."""
    slow = Slow(generations=5)
    monkeypatch.setattr(process_tree, "_table", slow.look)
    monkeypatch.setattr(process_tree, "send_signal", slow.send)
    stopped = process_tree.stop_all(lambda: [1, *process_tree.descendants(1)])
    assert stopped == [1, 2, 3, 4, 5]
    assert {process.state for process in slow.table.values()} == {"T"}


def test_stop_all_does_not_wait_for_the_parent_of_a_vfork() -> None:
    """A parent that waits for its stopped child to exec cannot stop; it cannot fork either."""
    table = {
        1: process_tree._Process(0, "D", "shell"),
        2: process_tree._Process(1, "T", "shell"),
        3: process_tree._Process(1, "D", "disk"),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process_tree, "_table", lambda: table)
        assert process_tree._running([1, 2, 3, 4]) == [3]


def test_stop_all_of_one_that_does_not_stop_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not report that all have stopped when one has not."""
    monkeypatch.setattr(process_tree, "_STOP_TIMEOUT", 0.05)
    monkeypatch.setattr(process_tree, "send_signal", lambda pids, number: list(pids))
    with pytest.raises(RuntimeError, match=rf"\[{os.getpid()}\] did not stop within 0.05 s"):
        process_tree.stop_all(lambda: [os.getpid()])


def test_send_skips_ended_processes() -> None:
    """Only those who got the signal are returned."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait(PATIENCE)
    assert process_tree.send_signal([process.pid, os.getpid()], 0) == [os.getpid()]


@needs_proc
@pytest.mark.parametrize("same", [True, False])
def test_kill_on_exit_kills_only_its_own_process(same: bool) -> None:
    """A process is known by its start: one that has its number later is spared."""
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            script = process_tree._WATCHER_SCRIPT
            if not same:  # as if the number had passed to another one while it waited
                script = script.replace("read -r _\n", "read -r _\nat=12345\n")
            shell = ["/bin/sh", "-c", script, "watch", str(process.pid)]
            subprocess.run(shell, stdin=subprocess.DEVNULL, check=False, timeout=PATIENCE)
            assert process.poll() is None if not same else process.wait(PATIENCE) == -9
        finally:
            process.kill()
