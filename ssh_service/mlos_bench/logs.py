"""Keep mlos_bench's log lines about scripts and copies readable."""

from __future__ import annotations

import contextlib
import logging
from typing import Any, Callable, Dict

from mlos_bench.environments.local import local_fileshare_env
from mlos_bench.environments.remote.remote_env import RemoteEnv

from ssh_service.errors import SshServiceError
from ssh_service.mlos_bench.methods import Method, wrap

__all__ = ["MAX_LOGGED", "shorten"]

# A log line shows this many characters of each output text, from its end.
MAX_LOGGED = 2000


class LoggedOutput(Dict[str, Any]):
    """A script's output, with a shortened repr() for logs; its values are complete."""

    def __repr__(self) -> str:
        return repr({name: _shortened(value) for name, value in self.items()})


def shorten() -> Callable[[], None]:
    """
    Shorten output in log lines, and drop tracebacks of failed copies; return the undo function.

    mlos_bench logs the complete output of a script at INFO level, and a long traceback if a
    download cannot reach its host.
    """
    logger = logging.getLogger(local_fileshare_env.__name__)
    with contextlib.ExitStack() as undo:
        undo.callback(wrap(RemoteEnv, {"_remote_exec": _remote_exec}))
        logger.addFilter(_without_traceback)
        undo.callback(logger.removeFilter, _without_traceback)
        return undo.pop_all().close


def _remote_exec(execute: Method) -> Method:
    def remote_exec(self: Any, *args: Any, **kwargs: Any) -> Any:
        *how, output = execute(self, *args, **kwargs)
        return (*how, LoggedOutput(output) if isinstance(output, dict) else output)

    return remote_exec


def _shortened(value: Any) -> Any:
    if isinstance(value, str) and len(value) > MAX_LOGGED:
        return f"[{len(value) - MAX_LOGGED} characters not shown] {value[-MAX_LOGGED:]}"
    return value


def _without_traceback(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, SshServiceError):
        record.msg, record.args = f"{record.getMessage()}: {error}", ()
        record.exc_info = record.exc_text = None
    return True
