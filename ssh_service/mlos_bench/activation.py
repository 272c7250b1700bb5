"""What is changed in mlos_bench for the time between `install` and `uninstall`."""

from __future__ import annotations

import contextlib
import functools
import threading
from typing import Optional

from ssh_service.services import host_api

__all__ = ["install", "uninstall"]

_lock = threading.Lock()
_installed: Optional[contextlib.ExitStack] = None  # undoes everything; guarded by _lock


def install() -> None:
    """
    Make mlos_bench use the services of this package.

    From now on, in this process:

    - what is imported from ``mlos_bench.services.remote.ssh``, by a program or because a config
      names it, comes from this package;
    - configs may also name ``ssh_service.SshHostService`` and ``ssh_service.SshFileShareService``,
      and are validated;
    - a host that cannot be reached fails the trial whose files were to be copied, as it fails one
      whose script was to run, and not the experiment;
    - the reason why a script or a copy failed while the trial ran is stored as ``error``, a text
      that fits into every storage;
    - trials that fail for a permanent reason, such as a refused login, follow each other ever
      more slowly, and an ERROR says so at the first;
    - an unknown setting is reported by one line that suggests the right one;
    - log lines show the end of a long output, not megabytes of it;
    - connections last while a scheduler is in its context (mlos_bench closes them after each
      trial, from 0.6.3 on).

    Call it before the configs are loaded, and before anything else imports mlos_bench's own
    services: who has those keeps them.  Calling it again does nothing.

    Raises
    ------
    ImportError
        If there is no mlos_bench, or none that can be used.

    Notes
    -----
    Thread safety.  May be called from any thread; nobody should load configs meanwhile.
    """
    global _installed
    if not host_api.Service.__module__.startswith("mlos_bench."):
        raise ImportError(
            "mlos_bench is not installed (pip install mlos_bench pytz), or not wanted "
            f"({host_api.STANDALONE_VARIABLE} is set)."
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
    Undo `install`, completely; without it, do nothing.

    Services that exist stay what they are.
    """
    global _installed
    with _lock:
        done, _installed = _installed, None
        if done is not None:
            done.close()
