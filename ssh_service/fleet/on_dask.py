"""
Permits for a run on ``dask.distributed``, which its scheduler grants.

If a worker is lost, the scheduler runs its task again, assuming that tasks have no side effects.
Each command therefore requests a permit just before it is sent.  A permit is granted once per
host, by the scheduler, because the scheduler outlives the workers.
"""

from __future__ import annotations

import sys
from concurrent.futures import Executor
from typing import Any, Dict, Optional, Set

from ssh_service.errors import SshCommandCancelled

__all__ = ["PermitClient", "PermitLedger", "cancel", "forget", "is_dask", "permit_client"]

# Beyond this number of runs, the scheduler forgets the oldest.
_MAX_RUNS = 1000
_NAME = "ssh-service-permits"


class PermitLedger:
    """
    The permits that the scheduler has granted, and the runs that were cancelled.

    Notes
    -----
    Thread safety.  No lock is needed: the scheduler's event loop is a single thread.
    """

    def __init__(self) -> None:
        self._granted: Dict[str, Set[int]] = {}
        self._cancelled: Dict[str, bool] = {}

    def handle(self, request: str, run: str, number: int) -> str:
        """Answer a ``permit`` or ``status`` request; record ``cancel`` or ``forget``."""
        if request == "cancel":
            self._cancelled[run] = True
            _trim(self._cancelled)
        elif request == "forget":
            self._granted.pop(run, None)
            self._cancelled.pop(run, None)
        if run in self._cancelled:
            return "cancelled"
        if request != "permit":
            return "granted"
        granted = self._granted.setdefault(run, set())
        _trim(self._granted)
        if number in granted:
            return "refused"
        granted.add(number)
        return "granted"


def _trim(runs: Dict[str, Any]) -> None:
    while len(runs) > _MAX_RUNS:
        del runs[next(iter(runs))]


async def _on_scheduler(dask_scheduler: Any, request: str, run: str, number: int) -> str:
    """Pass a request to the ledger; dask calls this on the scheduler."""
    ledger: PermitLedger = dask_scheduler.extensions.setdefault(_NAME, PermitLedger())
    return ledger.handle(request, run, number)


class PermitClient:
    """A worker's connection to the ledger on the scheduler."""

    def __init__(self, client: Any, run: str) -> None:
        self._client = client
        self._run = run

    def request(self, number: int) -> bool:
        """
        Request permission to send a host's command; True at most once per host.

        Raises
        ------
        SshCommandCancelled
            The run was cancelled.
        """
        answer = self._ask("permit", number)
        if answer == "cancelled":
            raise SshCommandCancelled("the command was cancelled", phase="queue")
        return answer == "granted"

    def is_cancelled(self) -> bool:
        """Return whether the run was cancelled; False if the scheduler does not answer."""
        try:
            return self._ask("status", 0) == "cancelled"
        except Exception:  # an unreachable scheduler has not cancelled anything
            return False

    def _ask(self, request: str, number: int) -> str:
        return str(
            self._client.run_on_scheduler(
                _on_scheduler, request=request, run=self._run, number=number
            )
        )


def permit_client(run: str) -> Optional[PermitClient]:
    """Return the client for requesting permits; None outside a dask task."""
    if "distributed" not in sys.modules:
        return None
    from distributed import get_client, get_worker

    try:
        get_worker()
    except ValueError:
        return None
    return PermitClient(get_client(), run)


def is_dask(executor: Executor) -> bool:
    """Return whether an executor belongs to dask."""
    return type(executor).__module__.partition(".")[0] == "distributed"


def _notify_scheduler(executor: Executor, request: str, run: str) -> None:
    client = getattr(executor, "_client", None) if is_dask(executor) else None
    if client is not None:
        try:
            client.run_on_scheduler(_on_scheduler, request=request, run=run, number=0)
        except Exception:
            pass  # a cluster that is gone has no run to cancel or forget


def cancel(executor: Executor, run: str) -> None:
    """Notify the workers that a run was cancelled; only on dask."""
    _notify_scheduler(executor, "cancel", run)


def forget(executor: Executor, run: str) -> None:
    """Make the scheduler forget a run that has ended; only on dask."""
    _notify_scheduler(executor, "forget", run)
