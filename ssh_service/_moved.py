"""The import paths and names of 0.1.0 that have changed since; they go with 0.3.0."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import types
import warnings
from typing import Any, Dict, Mapping, Optional, Sequence

# What follows "ssh_service." in the old path and in the new one.
_NEW_PATHS: Dict[str, str] = {
    "base_service": "services.base_service",
    "cache": "connections.cache",
    "client": "connections.client",
    "command": "commands.command",
    "connect.aside": "connect.side_calls",
    "connect.dialling": "connect.dial",
    "connect.interview": "connect.keyboard_interactive",
    "copying.job": "copying.context",
    "copying.leftovers": "copying.stale_files",
    "copying.remote_process": "copying.shell_command",
    "copying.sftp.lane": "copying.sftp.client",
    "dials": "connections.dials",
    "direct": "commands.unpooled",
    "fault_proxy": "testing.fault_proxy",
    "fleet.elsewhere": "fleet.executor_runners",
    "fleet.executing": "fleet.executor_base",
    "fleet.here": "fleet.local_runner",
    "fleet.job": "fleet.task",
    "fleet.station": "fleet.pool_worker",
    "host_api": "services.host_api",
    "local_server": "testing.local_server",
    "local_sshd": "testing.local_sshd",
    "mock_sshd": "testing.mock_sshd",
    "outcome": "commands.result",
    "pacing": "connections.pacing",
    "process_group": "commands.process_group",
    "process_tree": "testing.process_tree",
    "pytest_plugin": "testing.pytest_plugin",
    "remote": "operations",
    "remote_process": "commands.remote_process",
    "script": "commands.script",
    "service_settings": "services.settings",
    "sessions.lanes": "sessions.scheduler",
    "slots": "connections.slots",
    "streams": "commands",
    "streams.output": "commands.output",
    "streams.stdin": "commands.stdin",
    "transport.ending": "transport.lifecycle",
    "transport.gate": "transport.sending",
    "transport.latch": "transport.lock_free",
    "transport.opening": "transport.channel_opening",
    "transport.posting": "transport.nonblocking",
    "transport.questions": "transport.global_requests",
    "transport.silence": "transport.keepalive",
    "verbs": "api",
    "watches": "event_trackers",
}


class _OldPaths(importlib.abc.Loader):
    """Finds and loads the modules of the table: a finder on ``sys.meta_path``."""

    def find_spec(
        self,
        fullname: str,
        path: Optional[Sequence[str]],
        target: Optional[types.ModuleType] = None,
    ) -> Optional[importlib.machinery.ModuleSpec]:
        package, _, old = fullname.partition(".")
        if package != __package__ or old not in _NEW_PATHS:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=old == "streams")

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        """Leave that to the import system; `exec_module` replaces what it makes."""

    def exec_module(self, module: types.ModuleType) -> None:
        old = module.__name__
        new = f"{__package__}.{_NEW_PATHS[old.partition('.')[2]]}"
        # Level 2 is the importing module: `warnings` passes over the import system's own frames.
        warnings.warn(f"{old} has moved to {new}", DeprecationWarning, stacklevel=2)
        # One module under both names, so that its classes are the same, also for old pickles.
        sys.modules[old] = importlib.import_module(new)


def renamed(module: str, name: str, new_names: Mapping[str, str]) -> Any:
    """Return what the old name of a module's is called now: for the module's ``__getattr__``."""
    if name not in new_names:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    new = new_names[name]
    text = f"{module}.{name} has been renamed to {module}.{new}"
    warnings.warn(text, DeprecationWarning, stacklevel=3)
    return getattr(sys.modules[module], new)


def install() -> None:
    """Let the old paths be imported; called once, by the package's ``__init__``."""
    # First, as `streams` is a package: later finders would load its modules a second time.
    sys.meta_path.insert(0, _OldPaths())
