"""The CPU that this process and those below it have used."""

from __future__ import annotations

import os
from pathlib import Path
from typing import List

__all__ = ["below", "tree"]


def tree() -> List[int]:
    """Give this process and those below it."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            head, rest = stat.read_text().rsplit(") ", 1)
        except OSError:
            continue
        parents[int(head.split(" ", 1)[0])] = int(rest.split()[1])
    found = [os.getpid()]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def below() -> float:
    """Give the CPU seconds of the processes below, with those that ended and were waited for."""
    ticks = 0
    for pid in tree():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
        except OSError:
            continue
        ticks += sum(map(int, fields[13 if pid == os.getpid() else 11 : 15]))
    return ticks / os.sysconf("SC_CLK_TCK")
