"""The processes of this machine: who started whom, who is alive, and the end of all of them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Callable, Dict, Iterable, List, NamedTuple, Optional, Set, Union

__all__ = [
    "descendants",
    "die_with_us",
    "is_alive",
    "kill_all",
    "send",
    "started_with",
    "stop_all",
    "unwatch",
]

_POLL = 0.002
"""Seconds between two looks at processes that are about to stop."""

_PATIENCE = 10.0
"""Seconds after which a process that does not stop is an error."""

# Waits for the end of its input, of which we have the only other end.  Meanwhile the process may
# have ended and its number be another's: it is known by the time at which it started.
_WATCH = """
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
    """Return what `root` started, and what that started, as long as the names begin so."""
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
    """Return the processes that have this ``NAME=value`` in their environment (Linux)."""
    needle = variable.encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if needle in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:
            pass  # it has ended, or is someone else's
    return found


def is_alive(pid: int) -> bool:
    """Say whether a process is there, and is no zombie."""
    process = _look_up(pid) if os.path.isdir("/proc/self") else _table().get(pid)
    return process is not None and process.state != "Z"


def send(pids: Iterable[int], number: int) -> List[int]:
    """Send a signal; return who got it: not who has ended, nor who became another user (sudo)."""
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
    Stop processes that may be starting others, and return when nothing of them runs.

    A signal takes effect after it was sent: a process that was told to stop may still fork.  So
    `find` is asked again until it finds nobody new although all of those it found have stopped.

    Raises
    ------
    RuntimeError
        A process did not stop within ten seconds.
    """
    stopped: List[int] = []
    seen: Set[int] = set()
    deadline = time.monotonic() + _PATIENCE
    while True:
        running = _running(stopped)  # before `find`: whom it misses, one of these has started
        new = [pid for pid in find() if pid not in seen]
        if not new and not running:
            return stopped
        seen.update(new)
        stopped += send(new, signal.SIGSTOP)
        if time.monotonic() > deadline:
            late = _running(stopped) or stopped
            raise RuntimeError(f"processes {late} did not stop within {_PATIENCE:g} s")
        if running:
            time.sleep(_POLL)


def kill_all(find: Callable[[], Iterable[int]]) -> List[int]:
    """Kill processes that may be starting others; `find` is called as by `stop_all`."""
    victims = stop_all(find)
    send(victims, signal.SIGKILL)
    return victims


def die_with_us(pid: int) -> "subprocess.Popen[bytes]":
    """Have a process killed when this one ends, however it does: by a signal, too."""
    return subprocess.Popen(
        ["/bin/sh", "-c", _WATCH, "watch", str(pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # a terminal's Ctrl-C is not for it
    )


def unwatch(watch: "subprocess.Popen[bytes]") -> None:
    """Take back what `die_with_us` did."""
    with watch:
        watch.kill()


def _running(pids: Iterable[int]) -> List[int]:
    """Return those of these processes that may still do something."""
    table = _table()
    # The parent of a vfork cannot stop before its child has gone on, nor can it do anything else.
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
        found = {int(entry): _look_up(entry) for entry in os.listdir("/proc") if entry.isdigit()}
        return {pid: process for pid, process in found.items() if process is not None}
    table = {}
    listing = subprocess.check_output(["ps", "-A", "-o", "pid=,ppid=,state=,comm="])
    for line in listing.decode("utf-8", "replace").splitlines():
        number, parent, state, name = line.split(None, 3)
        table[int(number)] = _Process(int(parent), state[0], os.path.basename(name))
    return table


def _look_up(pid: Union[int, str]) -> Optional[_Process]:
    """Read what Linux says of a process; None where it has ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            head, _, rest = file.read().decode("utf-8", "replace").rpartition(") ")
    except OSError:
        return None
    state, parent = rest.split(None, 2)[:2]
    return _Process(int(parent), state, head.partition(" (")[2])
