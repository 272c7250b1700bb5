"""
Store the reason why a trial failed, as a text that fits into the storage.

mlos_bench stores the output of a failed environment as metrics of the trial, in columns of 255
characters.  sqlite accepts longer texts; MySQL and PostgreSQL reject them, which would end the
experiment.  A `CompositeEnv`, the usual root of an experiment, drops the output of its failed
child, including the reason.
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

__all__ = ["MAX_LENGTH", "record", "shorten", "store"]

MAX_LENGTH = 255
_MORE = " ..."
# Versions without schedulers pass the output directly to the optimizer, which raises a ValueError
# if a failed trial has any.
_IS_STORABLE = importlib.util.find_spec("mlos_bench.schedulers") is not None

# Why the last run of an environment failed.  Only the thread that runs it accesses its entry.
_reasons: MutableMapping[Environment, str] = weakref.WeakKeyDictionary()


def store() -> Callable[[], None]:
    """Make failed environments return a short reason as ``error``; return the undo function."""
    with contextlib.ExitStack() as undo:
        undo.callback(wrap(RemoteEnv, {"run": _remote_run}))
        undo.callback(wrap(CompositeEnv, {"run": _composite_run}))
        return undo.pop_all().close


def record(environment: Environment, error: BaseException) -> Optional[Dict[str, str]]:
    """Record why an environment failed, for the `CompositeEnv` around it; return its output."""
    text = _reasons[environment] = shorten(str(error) or type(error).__name__)
    return _output(text)


def shorten(text: str) -> str:
    """Return a text as one line that fits into the storage."""
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
                record(self, error)
                output["error"] = _reasons[self]
            elif not status.is_good():
                _reasons[self] = shorten(_describe_exit(output))
        return (status, *timestamp, output)

    return remote_run


def _describe_exit(output: Dict[str, Any]) -> str:
    """Describe how a failed script ended, with the last line of its stderr."""
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
