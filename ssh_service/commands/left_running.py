"""Processes that a lost connection left running on a host; the next script there ends them."""

from __future__ import annotations

import shlex
from typing import Dict, List, NamedTuple, Optional, Tuple

from ssh_service.commands import processes
from ssh_service.commands.processes import Process
from ssh_service.locks import Lock

# Seconds that the processes have to end after TERM, and again after KILL.
_END_TIMEOUT = 2.0
# The most processes to remember for a destination; there are never many, as the next script ends
# them.
_MAX_PROCESSES = 100


class LeftProcess(NamedTuple):
    """
    A process that may still be running.

    Attributes
    ----------
    process : Process
        The process.
    shell : Optional[str]
        Path of the shell that runs it; None: the user's login shell, which is then a POSIX shell.
    """

    process: Process
    shell: Optional[str]


class LeftRunning:
    """
    The processes that may still be running at one destination.

    Notes
    -----
    Thread safety.  Every method may be called from any thread.

    Guarantees.  A process is ended only if it is the one that our command started: its pid, its
    start time and the host's boot id are compared.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._processes: List[LeftProcess] = []  # guarded by _lock

    def add(self, *left: LeftProcess) -> None:
        """Add processes, except those whose start time or boot id is unknown."""
        known = [one for one in left if one.process.started is not None and one.process.boot]
        with self._lock:
            self._processes += known
            del self._processes[:-_MAX_PROCESSES]

    def take(self, needs_posix: bool) -> List[LeftProcess]:
        """Remove and return the processes that the next script can end."""
        with self._lock:
            taken, self._processes = _split(self._processes, needs_posix)
        return taken


def _split(
    processes: List[LeftProcess], needs_posix: bool
) -> Tuple[List[LeftProcess], List[LeftProcess]]:
    """Return the processes that the next script can end, and the others."""
    taken = [one for one in processes if not needs_posix or one.shell is None]
    return taken, [one for one in processes if one not in taken]


_destinations: Dict[str, LeftRunning] = {}


def for_destination(connection_id: str) -> LeftRunning:
    """Return the processes that may still be running at a destination."""
    return _destinations.setdefault(connection_id, LeftRunning())


def cleanup_script(left: List[LeftProcess]) -> str:
    """Return the commands by which a POSIX shell first ends the processes left running."""
    scripts = [processes.end_script(one.process, ["TERM", "KILL"], _END_TIMEOUT) for one in left]
    # (Each script runs in /bin/sh: the shell that runs this, such as zsh, may not split words.)
    return "".join(
        f"/bin/sh -c {shlex.quote(text)} </dev/null >/dev/null 2>&1;" for text in scripts
    )
