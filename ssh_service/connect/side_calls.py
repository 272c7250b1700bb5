"""Calls that may take for ever, each on a thread of its own: a dial waits until its deadline."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, wait
from typing import Any, Callable

__all__ = ["run_in_thread", "wait_until"]


def run_in_thread(function: Callable[[], Any], name: str) -> Future[Any]:
    """
    Call a function on a thread that holds up nobody, not even the end of the process.

    Parameters
    ----------
    function : Callable[[], Any]
        Code of a user, or a call of paramiko's whose own time-out goes by the wall clock.
    name : str
        What the call is for; the thread is named after it.

    Returns
    -------
    Future[Any]
        Its outcome.
    """
    outcome: Future[Any] = Future()

    def run() -> None:
        try:
            outcome.set_result(function())
        except BaseException as error:  # SystemExit too: somebody waits for it
            outcome.set_exception(error)

    threading.Thread(target=run, name=f"ssh-service-{name}", daemon=True).start()
    return outcome


def wait_until(outcome: Future[Any], deadline: float) -> bool:
    """
    Wait for the outcome of a call.

    Parameters
    ----------
    outcome : Future[Any]
        From `run_in_thread`.
    deadline : float
        Monotonic instant until which to wait.

    Returns
    -------
    bool
        Whether it is there.
    """
    wait([outcome], max(0.0, deadline - time.monotonic()))
    return outcome.done()
