"""Find, stop and kill a process of this machine and all its descendants."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Callable, Dict, Iterable, List, NamedTuple, Optional, Set, Union

__all__ = [
    "descendants",
    "kill_on_exit",
    "is_alive",
    "kill_all",
    "send_signal",
    "started_with",
    "stop_all",
    "cancel_kill_on_exit",
]

_POLL_INTERVAL = 0.002
"""Seconds between two checks of processes that are stopping."""

_STOP_TIMEOUT = 10.0
"""Seconds to wait for a process to stop before raising an error."""

# Waits for the end of its input, of which this process holds the only writing end.  By then, the
# process may have ended and its pid may belong to another process, so the watcher compares the
# start times.
_WATCHER_SCRIPT = """
started() {
    { read -r line <"/proc/$1/stat" && echo "${line##*) }" | cut -d " " -f 20; } 2>/dev/null ||
        LC_ALL=C ps -o lstart= -p "$1"
}
at=$(started "$1")
read -r _
[ -n "$at" ] && [ "$(started "$1")" = "$at" ] && kill -KILL "$1"
"""


class _Process(NamedTuple):
    parent: int
    state: str
    name: str


def descendants(root: int, name: str = "") -> List[int]:
    """Return the descendants of `root`; only processes whose names start with `name` count."""
    table = _table()
    found: List[int] = []
    parents = {root}
    while parents:
        children = {
            pid
            for pid, process in table.items()
            if process.parent in parents and process.state != "Z" and process.name.startswith(name)
        }
        found += sorted(children)
        parents = children
    return found


def started_with(variable: str) -> List[int]:
    """Return the processes with this ``NAME=value`` in their environment (Linux)."""
    needle = variable.encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if needle in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:
            pass  # the process has ended, or belongs to another user
    return found


def is_alive(pid: int) -> bool:
    """Return whether a process exists and is not a zombie."""
    process = _read_stat(pid) if os.path.isdir("/proc/self") else _table().get(pid)
    return process is not None and process.state != "Z"


def send_signal(pids: Iterable[int], number: int) -> List[int]:
    """Send a signal; return who received it, without ended and other users' processes."""
    reached = []
    for pid in pids:
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            continue
        reached.append(pid)
    return reached


def stop_all(find: Callable[[], Iterable[int]]) -> List[int]:
    """
    Stop processes that may be starting others; return the stopped processes, parents first.

    A process may still fork after SIGSTOP was sent and before it stops.  Therefore `find`, which
    returns parents before their children, is called until all found processes have stopped and
    there are no new ones.

    Raises
    ------
    RuntimeError
        A process did not stop within ten seconds.
    """
    stopped: List[int] = []
    seen: Set[int] = set()
    deadline = time.monotonic() + _STOP_TIMEOUT
    while True:
        running = _running(
            stopped
        )  # before `find`: only these can have started a process that it misses
        new = [pid for pid in find() if pid not in seen]
        if not new and not running:
            return stopped
        seen.update(new)
        stopped += send_signal(new, signal.SIGSTOP)
        if time.monotonic() > deadline:
            late = _running(stopped) or stopped
            raise RuntimeError(f"processes {late} did not stop within {_STOP_TIMEOUT:g} s")
        if running:
            time.sleep(_POLL_INTERVAL)


def kill_all(find: Callable[[], Iterable[int]]) -> List[int]:
    """Kill processes that may be starting others; `find` is called as in `stop_all`."""
    victims = stop_all(find)
    send_signal(victims, signal.SIGKILL)
    return victims


def kill_on_exit(pid: int) -> "subprocess.Popen[bytes]":
    """Kill a child when this process ends, even by a signal; the caller must keep the result."""
    return subprocess.Popen(
        ["/bin/sh", "-c", _WATCHER_SCRIPT, "watch", str(pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # so that Ctrl-C on a terminal does not reach it
    )


def cancel_kill_on_exit(watch: "subprocess.Popen[bytes]") -> None:
    """Undo `kill_on_exit`."""
    with watch:
        watch.kill()


def _running(pids: Iterable[int]) -> List[int]:
    """Return the given processes that may still be running."""
    table = _table()
    # After vfork, a parent can neither run nor stop until its child continues.
    held = {process.parent for process in table.values() if process.state in "Tt"}
    return [
        pid
        for pid in pids
        if pid in table
        and table[pid].state not in "TtZX"
        and not (table[pid].state == "D" and pid in held)
    ]


def _table() -> Dict[int, _Process]:
    if os.path.isdir("/proc/self"):
        found = {int(entry): _read_stat(entry) for entry in os.listdir("/proc") if entry.isdigit()}
        return {pid: process for pid, process in found.items() if process is not None}
    table = {}
    listing = subprocess.check_output(["ps", "-A", "-o", "pid=,ppid=,state=,comm="])
    for line in listing.decode("utf-8", "replace").splitlines():
        number, parent, state, name = line.split(None, 3)
        table[int(number)] = _Process(int(parent), state[0], os.path.basename(name))
    return table


def _read_stat(pid: Union[int, str]) -> Optional[_Process]:
    """Read /proc/PID/stat; None if the process has ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            head, _, rest = file.read().decode("utf-8", "replace").rpartition(") ")
    except OSError:
        return None
    state, parent = rest.split(None, 2)[:2]
    return _Process(int(parent), state, head.partition(" (")[2])
