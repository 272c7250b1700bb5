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

import logging
from typing import Any, Callable

from mlos_bench.environments.base_environment import Environment
from mlos_bench.environments.local.local_fileshare_env import LocalFileShareEnv
from mlos_bench.environments.status import Status

from ssh_service.errors import SshServiceError
from ssh_service.mlos_bench import reasons
from ssh_service.mlos_bench.methods import Method, wrap
from ssh_service.mlos_bench.permanent import PermanentFailures

__all__ = ["fail_trials_only"]

_LOG = logging.getLogger(__name__)


def fail_trials_only(permanent: PermanentFailures) -> Callable[[], None]:
    """
    Have `LocalFileShareEnv` return a failure where a copy found no host, or lost it.

    Errors that are not the host's, such as a file that is missing, pass as they did.
    """

    def guarded(outcome: Callable[[Any, SshServiceError], Any]) -> Callable[[Method], Method]:
        def wrapper(method: Method) -> Method:
            def guard(self: Any, *args: Any, **kwargs: Any) -> Any:
                try:
                    result = method(self, *args, **kwargs)
                except SshServiceError as exc:
                    if not isinstance(exc, (ConnectionError, TimeoutError)):
                        raise
                    _LOG.error("%s: %s failed: %s", self, method.__name__, exc)
                    permanent.on_failure(exc)
                    return outcome(self, exc)
                permanent.on_success()
                return result

            return guard

        return wrapper

    outcomes = {"setup": _not_set_up, "run": _failed_run, "status": _failed_status}
    return wrap(LocalFileShareEnv, {name: guarded(outcomes[name]) for name in outcomes})


def _not_set_up(environment: Any, error: SshServiceError) -> bool:
    return False


# The base class's status() returns, without copying anything, what surrounds the output: a status,
# in later versions a timestamp, and telemetry.


def _failed_run(environment: Any, error: SshServiceError) -> Any:
    output = reasons.note(environment, error)
    return (Status.FAILED, *Environment.status(environment)[1:-1], output)


def _failed_status(environment: Any, error: SshServiceError) -> Any:
    return (Status.FAILED, *Environment.status(environment)[1:])
