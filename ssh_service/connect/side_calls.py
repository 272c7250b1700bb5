"""Calls that may never return: each runs on its own thread, and a dial waits only for a time."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, wait
from typing import Any, Callable

__all__ = ["run_in_thread", "wait_until"]


def run_in_thread(function: Callable[[], Any], name: str) -> Future[Any]:
    """
    Call a function on a daemon thread, named after `name`; return a Future of its result.

    Used for users' callables, and for calls of paramiko whose own timeouts use the wall clock.
    """
    outcome: Future[Any] = Future()

    def run() -> None:
        try:
            outcome.set_result(function())
        except BaseException as error:  # also SystemExit, because a caller waits for the result
            outcome.set_exception(error)

    threading.Thread(target=run, name=f"ssh-service-{name}", daemon=True).start()
    return outcome


def wait_until(outcome: Future[Any], deadline: float) -> bool:
    """Wait for a call until a monotonic instant; return whether it is done."""
    wait([outcome], max(0.0, deadline - time.monotonic()))
    return outcome.done()
