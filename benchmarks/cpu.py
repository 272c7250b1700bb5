"""The CPU that processes have used."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import List

__all__ = ["below", "of", "tree"]

_TICK = 1 / os.sysconf("SC_CLK_TCK")
# The times of a process itself, and of those that it waited for.
_OWN, _WAITED = slice(11, 13), slice(13, 15)


def _fields(pid: int) -> List[str]:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()


def _seconds(fields: List[str]) -> float:
    return sum(map(int, fields)) * _TICK


def of(pid: int) -> float:
    """Give the CPU seconds of a process."""
    return _seconds(_fields(pid)[_OWN])


def tree() -> List[int]:
    """Give this process and those below it."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            parents[int(folder.name)] = int(_fields(int(folder.name))[1])
    found = [os.getpid()]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def below() -> float:
    """Give the CPU seconds of the processes below, with those that ended and were waited for."""
    seconds = 0.0
    for pid in tree():
        with contextlib.suppress(OSError):
            fields = _fields(pid)
            seconds += _seconds(fields[_WAITED])
            if pid != os.getpid():
                seconds += _seconds(fields[_OWN])
    return seconds
