"""
Make new versions of mlos_bench keep connections between trials, and survive a failed set-up.

In 0.6.3 and later, a `TrialRunner` enters the environment and its services for each trial, and
thus closes every connection after each trial.  If a set-up fails, the runner stays marked as
running, and its next trial ends the experiment with an `AssertionError`.  Older versions have no
`TrialRunner` and need no change.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from typing import Any, Callable, Dict

from ssh_service.mlos_bench.methods import Method, wrap
from ssh_service.ssh_service import SshService

__all__ = ["keep_going"]


def keep_going() -> Callable[[], None]:
    """Keep connections in schedulers' contexts, reset failed runners; return the undo function."""
    try:
        runners = importlib.import_module("mlos_bench.schedulers.trial_runner")
    except ModuleNotFoundError:
        return lambda: None
    schedulers = importlib.import_module("mlos_bench.schedulers.base_scheduler")
    held = _HeldCaches()
    with contextlib.ExitStack() as undo:
        undo.callback(wrap(runners.TrialRunner, {"run_trial": _run_trial}))
        undo.callback(wrap(schedulers.Scheduler, {"__enter__": held.enter, "__exit__": held.exit}))
        return undo.pop_all().close


def _run_trial(run: Method) -> Method:
    def run_trial(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self._is_running:  # set by another call
            return run(self, *args, **kwargs)
        try:
            return run(self, *args, **kwargs)
        finally:
            self._is_running = False

    return run_trial


class _HeldCaches:
    """Keeps the services' cache open while any scheduler is in its context."""

    def __init__(self) -> None:
        # The process in which each scheduler was entered, by the scheduler's id().  In a forked
        # child, the cache is empty and not entered.
        self._process: Dict[int, int] = {}

    def enter(self, method: Method) -> Method:
        def enter(scheduler: Any) -> Any:
            SshService.client_cache().enter()
            try:
                entered = method(scheduler)
            except BaseException:
                SshService.client_cache().exit()
                raise
            self._process[id(scheduler)] = os.getpid()
            return entered

        return enter

    def exit(self, method: Method) -> Method:
        def leave(scheduler: Any, *exception: Any) -> Any:
            try:
                return method(scheduler, *exception)
            finally:
                if self._process.pop(id(scheduler), None) == os.getpid():
                    SshService.client_cache().exit()

        return leave
