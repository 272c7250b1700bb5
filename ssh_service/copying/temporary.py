"""
The names of unfinished files, which identify their writer, so that all can be cleaned up.

A copy writes next to its target, under a name that identifies the host and the process, and
renames the file at the end.  A later copy that finds such a file can determine from its name
whether its writer may still be running.
"""

from __future__ import annotations

import ctypes
import hashlib
import itertools
import os
import re
import socket
import sys
import zlib
from typing import List, NamedTuple, Optional, Set

from ssh_service.locks import Lock

__all__ = ["TemporaryName", "TemporaryNames", "names"]

# Seconds for which an unfinished file of another machine, or of another boot of this one, is kept:
# whether its writer is alive cannot be checked.
FOREIGN_TTL = 24 * 3600
# Seconds since the last write for which a file is kept even if its writer seems dead, unless the
# writer is this process: cloned machines may agree in all parts of a name.
MIN_IDLE = 15 * 60

# Of Windows: an access right, and the error for a process that does not exist.
_QUERY_LIMITED_INFORMATION, _INVALID_PARAMETER = 0x1000, 87

_PREFIX = b".ssh_service-"
_PATTERN = re.compile(
    rb"\.ssh_service-([0-9a-f]{8})-([0-9a-f]{1,8})-([0-9a-f]{1,16})-([0-9a-f]{1,8})-([0-9a-f]{8})"
)


class TemporaryName(NamedTuple):
    """The parts of the name of an unfinished file."""

    machine: str
    boot: str
    pid: int
    start: int  # of the process, in clock ticks: distinguishes it from a later one with this pid
    target: str  # digest of the target's name


class TemporaryNames:
    """
    Creates names for unfinished files, and decides which of those it finds are stale.

    Notes
    -----
    Thread safety.  Every method may be called from any thread.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._count = itertools.count(1)
        self._in_use: Set[bytes] = set()  # guarded by _lock
        self._machine = _digest(_machine())
        self._boot = _digest(_boot())
        self._process = (0, 0)  # pid and start; replaced as a whole

    def new(self, target: bytes) -> bytes:
        """Return a new name for a target's name, at most 65 bytes; it is in use from now on."""
        pid = os.getpid()
        if self._process[0] != pid:  # at the first call, and after a fork
            self._process = (pid, process_start(pid) or 0)
        parts = (*self._process, next(self._count) & 0xFFFFFFFF)
        host = (self._machine + self._boot).encode()
        name = b"%s%s-%x-%x-%x-%s" % (_PREFIX, host, *parts, target_digest(target))
        with self._lock:
            self._in_use.add(name)
        return name

    def release(self, name: bytes) -> None:
        """Record that a name is no longer in use; a file with this name is stale."""
        with self._lock:
            self._in_use.discard(name)

    def is_stale(self, name: bytes, age: float, may_resume: bool = False) -> bool:
        """
        Return whether a name belongs to an unfinished file that no copy will complete.

        Parameters
        ----------
        name : bytes
            The name, without the folder.
        age : float
            Seconds since the last write, by the clock of the machine with the file.
        may_resume : bool
            Whether a copy may resume the file: in that case, it is kept for a day.
        """
        parsed = parse(name)
        if parsed is None or (may_resume and age < FOREIGN_TTL):
            return False
        if not self._is_of_this_boot(parsed):
            return age > FOREIGN_TTL
        if parsed.pid == os.getpid():
            return self._is_released(name)
        return age > MIN_IDLE and not is_running(parsed.pid, parsed.start)

    def is_resumable_for(self, name: bytes, target: bytes, age: float) -> bool:
        """Return whether a file was left by a dead copy to `target`; `age` is as in `is_stale`."""
        parsed = parse(name)
        if parsed is None or parsed.target != target_digest(target).decode():
            return False
        if parsed.machine != self._machine:
            return False  # the writer may be alive
        if parsed.boot != self._boot:  # of an earlier boot, or of a clone
            return age > MIN_IDLE
        if parsed.pid == os.getpid():
            return self._is_released(name)
        return not is_running(parsed.pid, parsed.start)

    def _is_of_this_boot(self, parsed: TemporaryName) -> bool:
        return (parsed.machine, parsed.boot) == (self._machine, self._boot)

    def _is_released(self, name: bytes) -> bool:
        with self._lock:
            return name not in self._in_use


def parse(name: bytes) -> Optional[TemporaryName]:
    """Return the parts of the name of an unfinished file; None for any other name."""
    match = _PATTERN.fullmatch(name) if name.startswith(_PREFIX) else None
    if match is None:
        return None
    host, pid, start, _, target = (part.decode() for part in match.groups())
    return TemporaryName(host[:4], host[4:], int(pid, 16), int(start, 16), target)


def tree(source: bytes) -> bytes:
    """Return the substitute for a target's name in the marker of a tree from `source`."""
    return b"tree/" + source


def target_digest(target: bytes) -> bytes:
    """Return the part of a temporary name that identifies the target's name."""
    return b"%08x" % zlib.crc32(target)


def process_start(pid: int) -> Optional[int]:
    """Return when a process was started, in clock ticks since boot; None if that is hidden."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The command's name, in parentheses, may contain any character: count from its end.
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None


def is_running(pid: int, start: int) -> bool:
    """Return whether the process with this pid and start time may still run."""
    if not _exists(pid):
        return False
    now = process_start(pid)
    return not (now and start) or now == start


if sys.platform == "win32":

    def _exists(pid: int) -> bool:
        # Not `os.kill`, which would send Ctrl-C, whose number is 0 there.
        kernel = ctypes.WinDLL("kernel32", use_last_error=True)
        handle = kernel.OpenProcess(_QUERY_LIMITED_INFORMATION, False, pid & 0xFFFFFFFF)
        if not handle:
            return ctypes.get_last_error() != _INVALID_PARAMETER  # another user's, or none
        kernel.CloseHandle(handle)
        return True

else:

    def _exists(pid: int) -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except (OSError, OverflowError):
            pass  # the process runs as another user
        return True


def _machine() -> List[str]:
    # Containers may share a machine id or a host name, but not the namespace of pids.
    parts = [socket.gethostname()]
    try:
        with open("/etc/machine-id", encoding="ascii") as file:
            parts.append(file.read().strip())
    except (OSError, ValueError):
        pass
    try:
        parts.append(str(os.stat("/proc/self/ns/pid").st_ino))
    except OSError:
        pass
    return parts


def _boot() -> List[str]:
    # Cloned machines share all of these, but not the boot id.
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return [file.read().strip()]
    except (OSError, ValueError):
        return []


def _digest(parts: List[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:4]


names = TemporaryNames()
