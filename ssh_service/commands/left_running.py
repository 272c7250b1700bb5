"""Processes that a lost connection has left running on a host, and that are to be ended first."""

from __future__ import annotations

import shlex
import threading
from typing import Dict, List, NamedTuple, Optional, Tuple

from ssh_service.commands import processes
from ssh_service.commands.processes import Process

# Seconds that they have to end after TERM, and after KILL.
_END_TIMEOUT = 2.0
# For one destination; there are never many, as the next script ends them.
_MAX_PROCESSES = 100


class LeftProcess(NamedTuple):
    """
    A process that may still run.

    Attributes
    ----------
    process : Process
        The process.
    shell : Optional[str]
        The shell that runs it; None is the user's login shell, which is a POSIX shell then.

    """

    process: Process
    shell: Optional[str]


class LeftRunning:
    """
    What may still run at one destination.

    Notes
    -----
    Thread safety.  Every method may be called from any thread.

    Guarantees.  A process is ended only if it is the one that was begun: its number, the moment of
    its beginning and the boot of the host are compared.

    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._processes: List[LeftProcess] = []  # guarded by _lock

    def add(self, *left: LeftProcess) -> None:
        """Remember processes."""
        known = [one for one in left if one.process.started is not None and one.process.boot]
        with self._lock:
            self._processes += known
            del self._processes[:-_MAX_PROCESSES]

    def take(self, needs_posix: bool) -> List[LeftProcess]:
        """Take what the next script is to end."""
        with self._lock:
            taken, self._processes = _split(self._processes, needs_posix)
        return taken


def _split(
    processes: List[LeftProcess], needs_posix: bool
) -> Tuple[List[LeftProcess], List[LeftProcess]]:
    """Return those that the next script can end, and the others."""
    taken = [one for one in processes if not needs_posix or one.shell is None]
    return taken, [one for one in processes if one not in taken]


_destinations: Dict[str, LeftRunning] = {}


def for_destination(connection_id: str) -> LeftRunning:
    """Return what may still run at a destination."""
    return _destinations.setdefault(connection_id, LeftRunning())


def cleanup_script(left: List[LeftProcess]) -> str:
    """Write what a POSIX shell runs first, to end what was left running."""
    scripts = [processes.end_script(one.process, ["TERM", "KILL"], _END_TIMEOUT) for one in left]
    # (By a shell of its own, as the one that runs this may split no words, such as zsh.)
    return "".join(
        f"/bin/sh -c {shlex.quote(text)} </dev/null >/dev/null 2>&1;" for text in scripts
    )
