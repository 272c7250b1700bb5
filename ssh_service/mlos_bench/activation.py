"""What is changed in mlos_bench for the time between `install` and `uninstall`."""

from __future__ import annotations

import contextlib
import threading
from typing import Optional

from ssh_service import host_api

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
    - the reason of a failed script is stored as a text that fits into every storage.

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
            "mlos_bench is not installed (pip install 'ssh-service[mlos]'), or not wanted "
            f"({host_api.STANDALONE_VARIABLE} is set)."
        )
    from ssh_service.mlos_bench import copies, module_names, reasons, schemas

    with _lock:
        if _installed is not None:
            return
        with contextlib.ExitStack() as done:
            changes = (
                schemas.extend,
                module_names.replace,
                copies.fail_trials_only,
                reasons.shorten,
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
