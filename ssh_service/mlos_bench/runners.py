"""
Let the newest mlos_bench keep its connections between trials, and survive a failed set-up.

From 0.6.3 on a `TrialRunner` enters the environment and its services for each trial anew, which
closes every connection after each trial.  One whose set-up failed stays marked as running, so
that its next trial ends the experiment with an `AssertionError`.  In older versions, which have no
`TrialRunner`, there is nothing to change.
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
    """Hold the connections while a scheduler is in its context, and free runners that failed."""
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
        if self._is_running:  # not by this call
            return run(self, *args, **kwargs)
        try:
            return run(self, *args, **kwargs)
        finally:
            self._is_running = False

    return run_trial


class _HeldCaches:
    """Keeps the services' cache open for each scheduler that is in its context."""

    def __init__(self) -> None:
        # By the scheduler's identity: the process that entered it.  A forked child starts with an
        # empty cache that nobody has entered.
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
