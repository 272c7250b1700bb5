"""
What ``dask.distributed`` adds: claims at its scheduler.

A scheduler runs a task again when its worker is lost, as it takes tasks for functions without
consequences.  So each command needs a claim just before it is sent, granted once for each host,
at the one place that outlives workers.
"""

from __future__ import annotations

import sys
from concurrent.futures import Executor
from typing import Any, Dict, Optional, Set

from ssh_service.errors import SshCommandCancelled

__all__ = ["Claims", "Ledger", "cancel", "claims", "forget", "is_dask"]

# Runs that the scheduler remembers; the oldest goes first.
_RUNS = 1000
_NAME = "ssh-service-claims"


class Ledger:
    """
    At the scheduler: who may send what.

    Notes
    -----
    Thread safety.  None is needed: a scheduler's loop is a single thread.
    """

    def __init__(self) -> None:
        self._claimed: Dict[str, Set[int]] = {}
        self._cancelled: Dict[str, bool] = {}

    def word(self, verb: str, run: str, number: int) -> str:
        """Answer a question, or take note of something."""
        if verb == "cancel":
            self._cancelled[run] = True
            _trim(self._cancelled)
        elif verb == "forget":
            self._claimed.pop(run, None)
            self._cancelled.pop(run, None)
        if run in self._cancelled:
            return "cancelled"
        if verb != "claim":
            return "granted"
        claimed = self._claimed.setdefault(run, set())
        _trim(self._claimed)
        if number in claimed:
            return "refused"
        claimed.add(number)
        return "granted"


def _trim(runs: Dict[str, Any]) -> None:
    while len(runs) > _RUNS:
        del runs[next(iter(runs))]


async def _word(dask_scheduler: Any, verb: str, run: str, number: int) -> str:
    """Run on the scheduler: have a word with its ledger."""
    ledger: Ledger = dask_scheduler.extensions.setdefault(_NAME, Ledger())
    return ledger.word(verb, run, number)


class Claims:
    """Asks the scheduler, from a worker."""

    def __init__(self, client: Any, run: str) -> None:
        self._client = client
        self._run = run

    def claim(self, number: int) -> bool:
        """
        Ask whether something may be sent.

        Raises
        ------
        SshCommandCancelled
            The run was cancelled.
        """
        answer = self._ask("claim", number)
        if answer == "cancelled":
            raise SshCommandCancelled("the command was cancelled", phase="queue")
        return answer == "granted"

    def is_cancelled(self) -> bool:
        """Ask whether the run was cancelled."""
        try:
            return self._ask("look", 0) == "cancelled"
        except Exception:  # a scheduler that is gone has cancelled nothing
            return False

    def _ask(self, verb: str, number: int) -> str:
        return str(self._client.run_on_scheduler(_word, verb=verb, run=self._run, number=number))


def claims(run: str) -> Optional[Claims]:
    """Tell where claims are to be made."""
    if "distributed" not in sys.modules:
        return None
    from distributed import get_client, get_worker

    try:
        get_worker()
    except ValueError:
        return None
    return Claims(get_client(), run)


def is_dask(executor: Executor) -> bool:
    """Tell whether an executor is dask's."""
    return type(executor).__module__.partition(".")[0] == "distributed"


def _tell(executor: Executor, verb: str, run: str) -> None:
    client = getattr(executor, "_client", None) if is_dask(executor) else None
    if client is not None:
        try:
            client.run_on_scheduler(_word, verb=verb, run=run, number=0)
        except Exception:
            pass  # a cluster that is gone has nothing to end or to remember


def cancel(executor: Executor, run: str) -> None:
    """Have the workers told that a run was cancelled."""
    _tell(executor, "cancel", run)


def forget(executor: Executor, run: str) -> None:
    """Have the scheduler forget a run that is over."""
    _tell(executor, "forget", run)
