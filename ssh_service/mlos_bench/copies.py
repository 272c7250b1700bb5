"""
Let a copy that cannot reach its host fail the trial instead of the experiment.

`SshHostService` returns the status of a script, and mlos_bench stores a failed trial.  But
`SshFileShareService.upload` and ``download`` raise an error, which mlos_bench's environment for
copies, its scheduler and its command do not catch, so that the experiment ends and the trial stays
PENDING.

This module patches methods of that environment, because there is no other place: a service cannot
return the failure, as the result of a copy is ignored.  A replacement class would be needed in
every package that exports the original, and would not be the base of classes that users have
derived.  The scheduler has no method for a single trial that is the same in all versions, and
errors in it may have any source.
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
    Make `LocalFileShareEnv` return a failure if a copy cannot reach its host, or loses it.

    Other errors, such as a missing file, are still raised.
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


# status() of the base class copies nothing and returns the values around the output: a status, in
# later versions a timestamp, and telemetry.


def _failed_run(environment: Any, error: SshServiceError) -> Any:
    output = reasons.record(environment, error)
    return (Status.FAILED, *Environment.status(environment)[1:-1], output)


def _failed_status(environment: Any, error: SshServiceError) -> Any:
    return (Status.FAILED, *Environment.status(environment)[1:])
