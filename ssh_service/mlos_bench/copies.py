"""
Let a host that cannot be reached fail a trial, not the experiment.

`SshHostService` returns what became of a script, and mlos_bench stores a trial that failed.
`SshFileShareService.upload` and ``download`` raise, and there mlos_bench's environment for copies,
its scheduler and its command let the error pass, and end with the trial PENDING for ever.

That environment is changed itself, for want of another place.  A service cannot do it: nobody
looks at what a copy returns.  A class put in its stead would have to stand in every package that
exports it, and would be no base of those that users derived.  The scheduler has no place where one
trial begins and ends that is the same in every version, and an error there may be anybody's.
"""

from __future__ import annotations

import functools
import logging
from typing import Any, Callable, Dict

from mlos_bench.environments.base_environment import Environment
from mlos_bench.environments.local.local_fileshare_env import LocalFileShareEnv
from mlos_bench.environments.status import Status

from ssh_service.errors import SshServiceError

__all__ = ["fail_trials_only"]

_LOG = logging.getLogger(__name__)
_Method = Callable[..., Any]


def fail_trials_only() -> Callable[[], None]:
    """
    Have `LocalFileShareEnv` return a failure where a copy found no host, or lost it.

    Errors that are not the host's, such as a file that is missing, pass as they did.

    Returns
    -------
    Callable[[], None]
        What undoes it.
    """
    outcomes = {"setup": _not_set_up, "run": _failed_run, "status": _failed_status}
    before = {name: vars(LocalFileShareEnv)[name] for name in outcomes}
    _set({name: _guarded(before[name], outcome) for name, outcome in outcomes.items()})
    return functools.partial(_set, before)


def _set(methods: Dict[str, _Method]) -> None:
    for name, method in methods.items():
        setattr(LocalFileShareEnv, name, method)


def _guarded(method: _Method, outcome: Callable[[Any], Any]) -> _Method:
    @functools.wraps(method)
    def guarded(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except SshServiceError as exc:
            if not isinstance(exc, (ConnectionError, TimeoutError)):
                raise
            _LOG.error("%s: %s failed: %s", self, method.__name__, exc)
            return outcome(self)

    return guarded


def _not_set_up(environment: Any) -> bool:
    return False


# The base class says how things stand without copying anything: a status, in later versions a
# timestamp, and telemetry.


def _failed_run(environment: Any) -> Any:
    return (Status.FAILED, *Environment.status(environment)[1:-1], None)


def _failed_status(environment: Any) -> Any:
    return (Status.FAILED, *Environment.status(environment)[1:])
