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

__all__ = ["Claims", "cancel", "claims", "forget"]

# Runs that the scheduler remembers; the oldest goes first.
_RUNS = 1000
_NAME = "ssh-service-claims"


class _Ledger:
    """At the scheduler: who may send what.  Its loop is a single thread."""

    def __init__(self) -> None:
        self._claimed: Dict[str, Set[int]] = {}
        self._cancelled: Set[str] = set()

    def claim(self, run: str, number: int) -> bool:
        if run in self._cancelled:
            return False
        claimed = self._claimed.setdefault(run, set())
        while len(self._claimed) > _RUNS:
            del self._claimed[next(iter(self._claimed))]
        granted = number not in claimed
        claimed.add(number)
        return granted

    def word(self, verb: str, run: str, number: int) -> bool:
        if verb == "claim":
            return self.claim(run, number)
        if verb == "cancel":
            self._cancelled.add(run)
        elif verb == "forget":
            self._claimed.pop(run, None)
            self._cancelled.discard(run)
        return run in self._cancelled


async def _word(dask_scheduler: Any, verb: str, run: str, number: int) -> bool:
    """Run on the scheduler: have a word with its ledger."""
    ledger = dask_scheduler.extensions.setdefault(_NAME, _Ledger())
    answer: bool = ledger.word(verb, run, number)
    return answer


class Claims:
    """
    Asks the scheduler, from a worker.

    Parameters
    ----------
    client : Any
        The worker's own ``distributed.Client``.
    run : str
        Which run.
    """

    def __init__(self, client: Any, run: str) -> None:
        self._client = client
        self._run = run

    def claim(self, number: int) -> bool:
        """
        Ask whether something may be sent.

        Parameters
        ----------
        number : int
            Which host of the run.

        Returns
        -------
        bool
            True at most once for each.
        """
        return self._ask("claim", number)

    def is_cancelled(self) -> bool:
        """
        Ask whether the run was cancelled.

        Returns
        -------
        bool
            True if so; False also where the scheduler does not answer.
        """
        try:
            return self._ask("look", 0)
        except Exception:
            return False

    def _ask(self, verb: str, number: int) -> bool:
        return bool(self._client.run_on_scheduler(_word, verb=verb, run=self._run, number=number))


def claims(run: str) -> Optional[Claims]:
    """
    Tell where claims are to be made.

    Parameters
    ----------
    run : str
        Which run.

    Returns
    -------
    Optional[Claims]
        None where this is no task of dask's.
    """
    if "distributed" not in sys.modules:
        return None
    from distributed import get_client, get_worker

    try:
        get_worker()
    except ValueError:
        return None
    return Claims(get_client(), run)


def _client_of(executor: Executor) -> Optional[Any]:
    if type(executor).__module__.partition(".")[0] != "distributed":
        return None
    return getattr(executor, "_client", None)


def _tell(executor: Executor, verb: str, run: str) -> None:
    client = _client_of(executor)
    if client is not None:
        try:
            client.run_on_scheduler(_word, verb=verb, run=run, number=0)
        except Exception:
            pass  # a cluster that is gone has nothing to end or to remember


def cancel(executor: Executor, run: str) -> None:
    """
    Have the workers told that a run was cancelled.

    Parameters
    ----------
    executor : Executor
        Any; nothing is done where it is not dask's.
    run : str
        Which.
    """
    _tell(executor, "cancel", run)


def forget(executor: Executor, run: str) -> None:
    """
    Have the scheduler forget a run that is over.

    Parameters
    ----------
    executor : Executor
        Any; nothing is done where it is not dask's.
    run : str
        Which.
    """
    _tell(executor, "forget", run)
