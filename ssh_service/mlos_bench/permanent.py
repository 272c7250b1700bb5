"""
Slow down trials that fail for a permanent reason.

A wrong host key or a rejected login fails a trial within milliseconds; a whole grid of trials
could fail before a user notices.
"""

from __future__ import annotations

import logging
import threading
from typing import Any, Callable

from mlos_bench.environments.remote.remote_env import RemoteEnv

from ssh_service.errors import SshAuthError, SshHostKeyError
from ssh_service.mlos_bench.methods import Method, wrap

__all__ = ["PermanentFailures"]

_LOG = logging.getLogger(__name__)

_PERMANENT = (SshAuthError, SshHostKeyError)
_MAX_PAUSE = 60.0  # in seconds


class PermanentFailures:
    """
    Counts consecutive failures that another trial cannot fix, and pauses after each failure.

    Notes
    -----
    Thread safety.  The methods may be called from any thread; runners in several threads pause
    independently, but share the count.
    """

    def __init__(self) -> None:
        self._count = 0  # consecutive; a race between runners only changes a pause
        self._wake = threading.Event()  # never set; waiting for it is the pause

    def watch_scripts(self) -> Callable[[], None]:
        """Make `RemoteEnv` report the outcomes of its scripts; return the undo function."""

        def wrapper(execute: Method) -> Method:
            def remote_exec(environment: Any, *args: Any, **kwargs: Any) -> Any:
                *how, output = execute(environment, *args, **kwargs)
                error = output.get("error") if isinstance(output, dict) else None
                if error is None:
                    self.on_success()
                else:
                    self.on_failure(error)
                return (*how, output)

            return remote_exec

        return wrap(RemoteEnv, {"_remote_exec": wrapper})

    def on_success(self) -> None:
        """Reset the count: the next permanent failure is a first one again."""
        self._count = 0

    def on_failure(self, error: BaseException) -> None:
        """Log the first of consecutive permanent failures; pause after each: 1, 2, ... 60 s."""
        if not isinstance(error, _PERMANENT):
            return
        pause = min(2.0**self._count, _MAX_PAUSE)
        self._count += 1
        if self._count == 1:
            _LOG.error(
                "Every trial on this host will fail until this is repaired; the pauses between"
                " trials grow up to %g s (Ctrl-C ends the experiment): %s",
                _MAX_PAUSE,
                str(error).partition("; ")[0],  # the complete text has just been logged
            )
        self._wake.wait(pause)
