"""
Store why a trial failed, as a text that fits into the storage.

mlos_bench stores what a failed environment returns as metrics of the trial, in columns of 255
characters.  sqlite takes longer texts; MySQL and PostgreSQL refuse them, which would end the
experiment.  A `CompositeEnv`, the usual root of an experiment, drops what its failed child
returned, and the reason with it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import weakref
from typing import Any, Callable, Dict, MutableMapping, Optional

from mlos_bench.environments.base_environment import Environment
from mlos_bench.environments.composite_env import CompositeEnv
from mlos_bench.environments.remote.remote_env import RemoteEnv

from ssh_service.mlos_bench.methods import Method, wrap

__all__ = ["MAX_LENGTH", "note", "shorten", "store"]

MAX_LENGTH = 255
_MORE = " ..."
# Versions without schedulers give a trial's output to the optimizer at once, which raises a
# ValueError where a failed trial has any.
_IS_STORABLE = importlib.util.find_spec("mlos_bench.schedulers") is not None

# Why an environment's last run failed.  Only the thread that runs an environment uses its entry.
_reasons: MutableMapping[Environment, str] = weakref.WeakKeyDictionary()


def store() -> Callable[[], None]:
    """Let failed environments return the reason as ``error``, a short text."""
    with contextlib.ExitStack() as undo:
        undo.callback(wrap(RemoteEnv, {"run": _remote_run}))
        undo.callback(wrap(CompositeEnv, {"run": _composite_run}))
        return undo.pop_all().close


def note(environment: Environment, error: BaseException) -> Optional[Dict[str, str]]:
    """Note why an environment's run failed, for the `CompositeEnv` around it."""
    text = _reasons[environment] = shorten(str(error) or type(error).__name__)
    return _output(text)


def shorten(text: str) -> str:
    """Put a text on one line that fits into the storage."""
    text = " ".join(text.split())
    return text if len(text) <= MAX_LENGTH else text[: MAX_LENGTH - len(_MORE)] + _MORE


def _output(reason: str) -> Optional[Dict[str, str]]:
    return {"error": reason} if _IS_STORABLE else None


def _remote_run(run: Method) -> Method:
    def remote_run(self: Any) -> Any:
        _reasons.pop(self, None)
        status, *timestamp, output = run(self)
        if isinstance(output, dict):
            error = output.get("error")
            if isinstance(error, BaseException):
                note(self, error)
                output["error"] = _reasons[self]
            elif not status.is_good():
                _reasons[self] = shorten(_exit_of(output))
        return (status, *timestamp, output)

    return remote_run


def _exit_of(output: Dict[str, Any]) -> str:
    """Say how a failed script ended, with the last line of its stderr."""
    process = output.get("ssh_completed_process_result")
    signal = getattr(process, "exit_signal", None)
    how = (
        f"signal {signal[0]}" if signal else f"exit status {getattr(process, 'exit_status', '?')}"
    )
    lines = str(output.get("stderr") or "").split("\n")
    last = next((line for line in reversed(lines) if line.strip()), "")
    return f"the script ended with {how}" + (f": {last}" if last else "")


def _composite_run(run: Method) -> Method:
    def composite_run(self: Any) -> Any:
        for environment in (self, *self._child_contexts):
            _reasons.pop(environment, None)
        status, *timestamp, output = run(self)
        if not status.is_good() and output is None:
            reason = _reason_of_child(self)
            if reason is not None:
                _reasons[self] = reason
                output = _output(reason)
        return (status, *timestamp, output)

    return composite_run


def _reason_of_child(composite: Any) -> Optional[str]:
    found = (_reasons.get(child) for child in composite._child_contexts)
    return next((reason for reason in found if reason is not None), None)  # the last to run
