"""Copy files and trees to and from hosts."""

from __future__ import annotations

import logging
import os
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
    """The direction of a copy; only for programs that import this name of mlos_bench."""

    DOWNLOAD = 1
    UPLOAD = 2


class SshFileShareService(FileShareService, SshService):
    """
    Copy files and trees to and from hosts.

    Parameters
    ----------
    config : Optional[dict]
        Settings such as ``{"ssh_username": "admin", "ssh_request_timeout": 60}``; see the
        documentation's page of settings.  The dict is copied.
    global_config : Optional[dict]
        Ignored; accepted because mlos_bench passes it.
    parent : Optional[Service]
        A service whose methods this service also exports.
    methods : Union[Dict[str, Callable], List[Callable], None]
        Methods to export in addition to those of this class.

    Raises
    ------
    SshConfigError
        If a setting is unknown or has an invalid value; with mlos_bench the error is also a
        `jsonschema.ValidationError`.

    Notes
    -----
    Thread safety.  While the service is in its context, its methods may be called from any thread.

    Guarantees.  A copy that returns without an error is complete.  A copy that fails leaves no
    incomplete file under its final name, if the server supports that.

    Examples
    --------
    >>> with SshFileShareService({"ssh_username": "admin"}) as service:
    ...     service.upload({"ssh_hostname": "web01"}, "site.conf", "/etc/nginx/conf.d/")
    """

    _SETTINGS: ClassVar[Mapping[str, settings.Setting]] = settings.FILE_SHARE

    def download(
        self, params: Dict[str, Any], remote_path: str, local_path: str, recursive: bool = True
    ) -> None:
        """
        Copy a file or folder from a host.

        Permissions and times are preserved as far as both sides allow (``ssh_copy_preserve``).

        Parameters
        ----------
        params : dict
            The host, as ``ssh_hostname``, and overrides for settings in the service's config
            (``ssh_port``, ``ssh_username`` and ``ssh_priv_key_path`` may always be overridden).
        remote_path : str
            The file or folder to copy; ``~`` at the start is the login user's home directory.
        local_path : str
            The target: the path of the copy or, if it is an existing folder, the folder for the
            copy.
        recursive : bool
            Whether `remote_path` may be a folder; if False, a folder is an error.

        Raises
        ------
        SshTransferError
            If an entry cannot be copied.  The error is an `OSError` with an errno, of the matching
            subclass, such as `SshFileNotFoundError`.
        SshTransferTimeout
            If the copy took longer than ``ssh_copy_timeout``, or made no progress for
            ``ssh_request_timeout`` (both in seconds).
        SshConnectError
            If no authenticated connection could be made.
        SshConnectionLost
            If the connection was lost during the copy.
        SshConfigError
            If the host is missing, or a setting or key file is invalid.
        SshCacheClosed
            If the service is outside its context.
        """
        self._copy(operations.download, params, remote_path, local_path, recursive)

    def upload(
        self, params: Dict[str, Any], local_path: str, remote_path: str, recursive: bool = True
    ) -> None:
        """
        Copy a file or folder to a host.

        Permissions and times are preserved as far as both sides allow (``ssh_copy_preserve``).

        Parameters
        ----------
        params : dict
            The host, as ``ssh_hostname``, and overrides for settings in the service's config
            (``ssh_port``, ``ssh_username`` and ``ssh_priv_key_path`` may always be overridden).
        local_path : str
            The file or folder to copy.
        remote_path : str
            The target: the path of the copy or, if it is an existing folder, the folder for the
            copy; ``~`` at the start is the login user's home directory.
        recursive : bool
            Whether `local_path` may be a folder; if False, a folder is an error.

        Raises
        ------
        SshTransferError
            If an entry cannot be copied.  The error is an `OSError` with an errno, of the matching
            subclass, such as `SshFileNotFoundError`.
        SshTransferTimeout
            If the copy took longer than ``ssh_copy_timeout``, or made no progress for
            ``ssh_request_timeout`` (both in seconds).
        SshConnectError
            If no authenticated connection could be made.
        SshConnectionLost
            If the connection was lost during the copy.
        SshConfigError
            If the host is missing, or a setting or key file is invalid.
        SshCacheClosed
            If the service is outside its context.
        """
        self._copy(operations.upload, params, local_path, remote_path, recursive)

    def _copy(
        self,
        copy: Callable[..., object],
        params: Dict[str, Any],
        source: str,
        target: str,
        recursive: bool,
    ) -> None:
        # Bytes are paths here, as in mlos_bench, and not the content of a file.
        source, target = (os.fsdecode(p) if isinstance(p, bytes) else p for p in (source, target))
        merged = self._merge(params)
        self._require_context()
        settings.require_identity_files(merged)
        connect_params = self._connect_params(merged)
        _LOG.debug("%s: %s %s to %s", merged["ssh_hostname"], copy.__name__, source, target)
        copy(
            self._CLIENT_CACHE,
            connect_params,
            source,
            target,
            recursive=recursive,
            timeout=merged.get("ssh_copy_timeout"),
            # As in mlos_bench, the request timeout does not limit the whole copy.
            stall_timeout=self.config.get("ssh_request_timeout"),
            **{name: merged.get(f"ssh_{name}") for name in ("idle_timeout", "max_lifetime")},
            **{
                name: merged.get(f"ssh_copy_{name}", default)
                for name, default in _COPY_OPTIONS.items()
            },
        )
