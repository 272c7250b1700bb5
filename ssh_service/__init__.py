"""
SSH for synchronous programs: cached connections, commands, and copies, from any thread.

Everything is imported on first use.  So ``import ssh_service`` is cheap, and
``from ssh_service import SshClientCache`` needs neither mlos_bench nor an extra.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, List

from ssh_service import _moved

if TYPE_CHECKING:
    from ssh_service.api import close_all, default_cache, download, run, start, upload
    from ssh_service.commands.remote_process import RemoteProcess
    from ssh_service.commands.result import CompletedProcess
    from ssh_service.connections.cache import SshClientCache
    from ssh_service.connections.client import SshClient
    from ssh_service.errors import (
        SshAuthError,
        SshCacheClosed,
        SshCommandCancelled,
        SshCommandError,
        SshCommandTimeout,
        SshConfigError,
        SshConnectError,
        SshConnectionLost,
        SshConnectTimeout,
        SshCwdError,
        SshCwdNotFoundError,
        SshExitError,
        SshFileExistsError,
        SshFileNotFoundError,
        SshForwardError,
        SshHostKeyError,
        SshIsADirectoryError,
        SshJobConflict,
        SshJobError,
        SshJobNotFound,
        SshJobTimeout,
        SshNotADirectoryError,
        SshOutputLimitError,
        SshServiceError,
        SshSessionRefused,
        SshStdioError,
        SshSudoRefused,
        SshTransferError,
        SshTransferPermissionError,
        SshTransferTimeout,
        SshTreeError,
    )
    from ssh_service.forwarding import Forward, forward_local, forward_remote, forward_socks
    from ssh_service.host import Host
    from ssh_service.jobs import Job, JobLines, JobState, find_job, list_jobs, start_job
    from ssh_service.paths.path import SshPath
    from ssh_service.readiness import reboot, wait_for
    from ssh_service.services.host_api import FileShareService, Service, Status
    from ssh_service.ssh_fileshare import SshFileShareService
    from ssh_service.ssh_host_service import SshHostService
    from ssh_service.ssh_service import SshService

    __version__: str

__all__ = [
    # services
    "SshFileShareService",
    "SshHostService",
    "SshService",
    # their base classes
    "FileShareService",
    "Service",
    "Status",
    # functions
    "Forward",
    "Host",
    "RemoteProcess",
    "SshPath",
    "close_all",
    "default_cache",
    "download",
    "forward_local",
    "forward_remote",
    "forward_socks",
    "run",
    "start",
    "upload",
    "reboot",
    "wait_for",
    # jobs
    "Job",
    "JobLines",
    "JobState",
    "find_job",
    "list_jobs",
    "start_job",
    # connections and results
    "CompletedProcess",
    "SshClient",
    "SshClientCache",
    # errors
    "SshAuthError",
    "SshCacheClosed",
    "SshCommandCancelled",
    "SshCommandError",
    "SshCommandTimeout",
    "SshConfigError",
    "SshConnectError",
    "SshConnectTimeout",
    "SshConnectionLost",
    "SshCwdError",
    "SshCwdNotFoundError",
    "SshExitError",
    "SshFileExistsError",
    "SshFileNotFoundError",
    "SshForwardError",
    "SshHostKeyError",
    "SshIsADirectoryError",
    "SshJobConflict",
    "SshJobError",
    "SshJobNotFound",
    "SshJobTimeout",
    "SshNotADirectoryError",
    "SshOutputLimitError",
    "SshServiceError",
    "SshSessionRefused",
    "SshStdioError",
    "SshSudoRefused",
    "SshTransferError",
    "SshTransferPermissionError",
    "SshTransferTimeout",
    "SshTreeError",
    "__version__",
]

_MODULES = {
    "SshAuthError": "errors",
    "SshCacheClosed": "errors",
    "SshCommandCancelled": "errors",
    "SshCommandError": "errors",
    "SshCommandTimeout": "errors",
    "SshConfigError": "errors",
    "SshConnectError": "errors",
    "SshConnectTimeout": "errors",
    "SshConnectionLost": "errors",
    "SshCwdError": "errors",
    "SshCwdNotFoundError": "errors",
    "SshExitError": "errors",
    "SshFileExistsError": "errors",
    "SshFileNotFoundError": "errors",
    "SshForwardError": "errors",
    "SshHostKeyError": "errors",
    "SshIsADirectoryError": "errors",
    "SshJobConflict": "errors",
    "SshJobError": "errors",
    "SshJobNotFound": "errors",
    "SshJobTimeout": "errors",
    "SshNotADirectoryError": "errors",
    "SshOutputLimitError": "errors",
    "SshServiceError": "errors",
    "SshSessionRefused": "errors",
    "SshStdioError": "errors",
    "SshSudoRefused": "errors",
    "SshTransferError": "errors",
    "SshTransferPermissionError": "errors",
    "SshTransferTimeout": "errors",
    "SshTreeError": "errors",
    "CompletedProcess": "commands.result",
    "RemoteProcess": "commands.remote_process",
    "SshPath": "paths.path",
    "close_all": "api",
    "default_cache": "api",
    "download": "api",
    "Forward": "forwarding",
    "Host": "host",
    "forward_local": "forwarding",
    "forward_remote": "forwarding",
    "forward_socks": "forwarding",
    "run": "api",
    "start": "api",
    "upload": "api",
    "reboot": "readiness",
    "wait_for": "readiness",
    "Job": "jobs",
    "JobLines": "jobs",
    "JobState": "jobs",
    "find_job": "jobs",
    "list_jobs": "jobs",
    "start_job": "jobs",
    "FileShareService": "services.host_api",
    "Service": "services.host_api",
    "SshClient": "connections.client",
    "SshClientCache": "connections.cache",
    "SshFileShareService": "ssh_fileshare",
    "SshHostService": "ssh_host_service",
    "SshService": "ssh_service",
    "Status": "services.host_api",
}

_moved.install()

# Modules that are attributes without being imported: upstream's, and those that the manual uses.
_SUBMODULES = frozenset(
    [
        "copying",
        "errors",
        "events",
        "fleet",
        "forwarding",
        "fsspec",
        "jobs",
        "mlos_bench",
        "otel",
        "paramiko",
        "params",
        "paths",
        "ssh_fileshare",
        "ssh_host_service",
        "ssh_service",
        "testing",
    ]
)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    elif name == "__version__":
        value = _version()
    elif name in _SUBMODULES:
        value = importlib.import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value  # so that this is called once
    return value


def __dir__() -> List[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("ssh-service")
    except metadata.PackageNotFoundError:  # run from a source tree
        return "0+unknown"
