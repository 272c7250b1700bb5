"""Install and remove the changes to mlos_bench."""

from __future__ import annotations

import contextlib
import functools
from typing import Optional

from ssh_service.locks import Lock
from ssh_service.services import host_api

__all__ = ["install", "uninstall"]

_lock = Lock()
_installed: Optional[contextlib.ExitStack] = None  # undoes all changes; guarded by _lock


def install() -> None:
    """
    Make mlos_bench use the services of this package.

    After this call, in this process:

    - imports from ``mlos_bench.services.remote.ssh``, by a program or for a config, return the
      classes of this package;
    - configs may also name ``ssh_service.SshHostService`` and ``ssh_service.SshFileShareService``,
      whose settings are validated;
    - if a copy cannot reach its host, the trial fails, as for a script, and the experiment
      continues;
    - the reason why a script or copy of a trial failed is stored as ``error``, a text that fits
      into every storage;
    - trials that fail for a permanent reason, such as a rejected login, are slowed down, and the
      first is logged as an ERROR;
    - an unknown setting is reported on one line, with a suggestion;
    - log lines show only the end of a long output;
    - connections stay open while a scheduler is in its context (mlos_bench 0.6.3 and later closes
      them after each trial).

    Call this before configs are loaded, and before anything imports mlos_bench's own services,
    because modules that have imported those keep them.  A second call does nothing.

    Raises
    ------
    ImportError
        If mlos_bench is missing or unusable.

    Notes
    -----
    Thread safety.  This may be called from any thread, while no thread loads configs.
    """
    global _installed
    if not host_api.Service.__module__.startswith("mlos_bench."):
        raise ImportError(
            f"mlos_bench is disabled ({host_api.STANDALONE_VARIABLE} is set), or not installed;"
            " install it with: pip install mlos_bench pytz (in a checkout: pip install '.[mlos]')"
        )
    from ssh_service.mlos_bench import copies, logs, module_names, reasons, runners, schemas
    from ssh_service.mlos_bench.permanent import PermanentFailures

    with _lock:
        if _installed is not None:
            return
        with contextlib.ExitStack() as done:
            permanent = PermanentFailures()
            changes = (
                schemas.extend,
                schemas.explain,
                module_names.replace,
                functools.partial(copies.fail_trials_only, permanent),
                permanent.watch_scripts,
                reasons.store,
                logs.shorten,
                runners.keep_going,
            )
            for change in changes:
                done.callback(change())
            _installed = done.pop_all()


def uninstall() -> None:
    """
    Undo all changes of `install`; do nothing if it was not called.

    Existing services are not changed.
    """
    global _installed
    with _lock:
        done, _installed = _installed, None
        if done is not None:
            done.close()
