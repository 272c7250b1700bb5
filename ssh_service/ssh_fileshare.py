"""Copy files and trees to and from hosts."""

from __future__ import annotations

import logging
from enum import Enum
from typing import Any, Callable, ClassVar, Dict, Mapping

from ssh_service import operations
from ssh_service.services import settings
from ssh_service.services.host_api import FileShareService
from ssh_service.ssh_service import SshService

__all__ = ["CopyMode", "SshFileShareService"]

_LOG = logging.getLogger(__name__)

_COPY_OPTIONS = {"verify": False, "resume": False, "fsync": False, "preserve": None}


class CopyMode(Enum):
    """The direction of a copy; for programs that import upstream's name, nothing here uses it."""

    DOWNLOAD = 1
    UPLOAD = 2


class SshFileShareService(FileShareService, SshService):
    """
    Copy files and trees to and from hosts.

    Parameters
    ----------
    config : Optional[dict]
        Settings, see `ssh_service.services.settings`.  The dict is copied.
    global_config : Optional[dict]
        See `Service`.
    parent : Optional[Service]
        See `Service`.
    methods : Union[Dict[str, Callable], List[Callable], None]
        Methods to offer beside this class's own.

    Raises
    ------
    SshConfigError
        See `SshService`.

    Notes
    -----
    Thread safety.  In its context, a service's methods may be called from any thread.

    Guarantees.  A copy that ends without an error has copied everything; one that does not leaves
    no half of a file under its name where that can be avoided.
    """

    _SETTINGS: ClassVar[Mapping[str, settings.Setting]] = settings.FILE_SHARE

    def download(
        self, params: Dict[str, Any], remote_path: str, local_path: str, recursive: bool = True
    ) -> None:
        """
        Copy a file or folder from a host.

        Modes and times are kept as far as both sides allow (``ssh_copy_preserve``).

        Parameters
        ----------
        params : dict
            Which host (``ssh_hostname``), and what else differs from the service's config.
        remote_path : str
            The file or folder to copy; ``~`` at the start is the login user's home.
        local_path : str
            Where it goes: into it, if that is a folder, else under this name.
        recursive : bool
            Whether `remote_path` may be a folder.

        Raises
        ------
        SshTransferError
            If something cannot be copied; an `OSError` (`FileNotFoundError`, ...) with its errno.
        SshTransferTimeout
            If the whole took longer than ``ssh_copy_timeout``, or nothing moved for
            ``ssh_request_timeout``.
        SshConnectError
            If there is no connection to be had.
        SshConnectionLost
            If the connection was lost on the way.
        SshConfigError
            If the host is missing, or a setting or key file is not what it may be.
        SshCacheClosed
            Outside the service's context.
        """
        self._copy(operations.download, params, remote_path, local_path, recursive)

    def upload(
        self, params: Dict[str, Any], local_path: str, remote_path: str, recursive: bool = True
    ) -> None:
        """
        Copy a file or folder to a host.

        Modes and times are kept as far as both sides allow (``ssh_copy_preserve``).

        Parameters
        ----------
        params : dict
            Which host (``ssh_hostname``), and what else differs from the service's config.
        local_path : str
            The file or folder to copy.
        remote_path : str
            Where it goes: into it, if that is a folder, else under this name; ``~`` at the start
            is the login user's home.
        recursive : bool
            Whether `local_path` may be a folder.

        Raises
        ------
        SshTransferError
            If something cannot be copied; an `OSError` (`FileNotFoundError`, ...) with its errno.
        SshTransferTimeout
            If the whole took longer than ``ssh_copy_timeout``, or nothing moved for
            ``ssh_request_timeout``.
        SshConnectError
            If there is no connection to be had.
        SshConnectionLost
            If the connection was lost on the way.
        SshConfigError
            If the host is missing, or a setting or key file is not what it may be.
        SshCacheClosed
            Outside the service's context.
        """
        self._copy(operations.upload, params, local_path, remote_path, recursive)

    def _copy(
        self,
        copy: Callable[..., None],
        params: Dict[str, Any],
        source: str,
        goal: str,
        recursive: bool,
    ) -> None:
        merged = self._merge(params)
        self._require_context()
        settings.require_identity_files(merged)
        connect_params = self._connect_params(merged)
        _LOG.debug("%s: %s %s to %s", merged["ssh_hostname"], copy.__name__, source, goal)
        copy(
            self._CLIENT_CACHE,
            connect_params,
            source,
            goal,
            recursive=recursive,
            timeout=merged.get("ssh_copy_timeout"),
            # Unchanged configs of mlos_bench wait for copies without any limit on the whole.
            stall_timeout=self.config.get("ssh_request_timeout"),
            **{name: merged.get(f"ssh_{name}") for name in ("idle_timeout", "max_lifetime")},
            **{
                name: merged.get(f"ssh_copy_{name}", default)
                for name, default in _COPY_OPTIONS.items()
            },
        )
