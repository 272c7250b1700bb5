"""Run scripts on hosts, reboot them and shut them down."""

from __future__ import annotations

import logging
from concurrent.futures import CancelledError, Future
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Dict,
    Iterable,
    Mapping,
    Optional,
    Sequence,
    Tuple,
    Union,
)

from ssh_service import operations
from ssh_service.errors import (
    SshCommandCancelled,
    SshCommandTimeout,
    SshConfigError,
    SshConnectionLost,
    SshServiceError,
    copy_for_raise,
)
from ssh_service.jobs.detached import submit_detached
from ssh_service.services import settings
from ssh_service.services.host_api import Service, Status
from ssh_service.ssh_service import SshService

if TYPE_CHECKING:
    from ssh_service.services.base_service import Methods

__all__ = ["SshHostService"]

_LOG = logging.getLogger(__name__)

_FUTURE = "asyncRemoteExecResultsFuture"  # mlos_bench's name
_OS_OPERATION = "sshOsOperation"

_SHUTDOWN = ("shutdown -h now", "poweroff", "halt -p", "systemctl poweroff")
_REBOOT = ("shutdown -r now", "reboot", "halt --reboot", "systemctl reboot")
_REBOOT_LAST_RESORT = "kill -TERM 1; kill -TERM -1"
_REBOOT_LAST_RESORT_FORCED = "kill -KILL 1; kill -KILL -1"

# {commands} are tried in turn until one succeeds.
_OS_OPERATION_SCRIPT = """\
sudo=
if [ "$(id -u)" -ne 0 ]; then
    sudo=$(command -v sudo)
    sudo=${{sudo:+$sudo -n}}
fi
shell=/bin/sh
[ -x /bin/bash ] && shell=/bin/bash

set -x
for cmd in {commands}; do
    $sudo $shell -c "$cmd" && exit 0
done

echo 'ERROR: Failed to shutdown/reboot the system.'
exit 1
"""


class SshHostService(SshService):
    """
    Run scripts on hosts, reboot them and shut them down.

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

    Guarantees.  `remote_exec` returns without waiting for the host.  A script is sent at most
    once.  Every future is resolved at the latest when the last service leaves its context.

    Examples
    --------
    >>> with SshHostService({"ssh_username": "admin"}) as service:
    ...     _, pending = service.remote_exec(["uptime"], {"ssh_hostname": "web01"})
    ...     status, output = service.get_remote_exec_results(pending)
    """

    _SETTINGS: ClassVar[Mapping[str, settings.Setting]] = settings.HOST

    def __init__(
        self,
        config: Optional[Dict[str, Any]] = None,
        global_config: Optional[Dict[str, Any]] = None,
        parent: Optional[Service] = None,
        methods: Optional[Methods] = None,
    ) -> None:
        own: Methods = [
            self.shutdown,
            self.reboot,
            self.wait_os_operation,
            self.remote_exec,
            self.get_remote_exec_results,
        ]
        super().__init__(config, global_config, parent, self.merge_methods(methods, own))

    def remote_exec(
        self,
        script: Iterable[str],
        config: Dict[str, Any],
        env_params: Optional[Dict[str, Any]] = None,
    ) -> Tuple[Status, Dict[str, Any]]:
        """
        Start a script on a host without waiting for it.

        Parameters
        ----------
        script : Union[str, Iterable[str]]
            The script, or its lines, with or without line ends (Unix or Windows).
        config : dict
            The host, as ``ssh_hostname``, and overrides for settings in the service's config
            (``ssh_port``, ``ssh_username`` and ``ssh_priv_key_path`` may always be overridden).
        env_params : Optional[dict]
            Environment variables for the script; values are converted by `str`, including None,
            which is a possible value of tunable parameters.

        Returns
        -------
        Tuple[Status, dict]
            PENDING, and the argument for `get_remote_exec_results`: the merged settings and, as
            ``asyncRemoteExecResultsFuture``, a `concurrent.futures.Future` of the
            `CompletedProcess`.

        Raises
        ------
        SshConfigError
            If the host is missing, or a setting, the name of a variable or the script is invalid.
            An unusable private key is reported with the results instead.
        SshCacheClosed
            If the service is outside its context.
        """
        merged = self._merge(config)
        merged[_FUTURE] = self._submit(script, merged, env_params, merged.get("ssh_shell"))
        return Status.PENDING, merged

    def get_remote_exec_results(self, config: Dict[str, Any]) -> Tuple[Status, Dict[str, Any]]:
        """
        Wait for the end of a script, and return its results.

        This may be called repeatedly, from any thread and outside the service's context, and
        returns the same results each time.  ``ssh_request_timeout`` limits the wait, in seconds.

        Parameters
        ----------
        config : dict
            The dict that `remote_exec`, `reboot` or `shutdown` returned.

        Returns
        -------
        Tuple[Status, dict]
            SUCCEEDED if the script ended with exit status 0; FAILED if it ended otherwise or could
            not be run; TIMED_OUT if it still ran after ``ssh_request_timeout``; CANCELED if the
            future was cancelled.

            If the script was started, the dict has ``stdout`` and ``stderr`` (text) and
            ``ssh_completed_process_result`` (a `CompletedProcess`), with the output so far if the
            script did not end by itself.  Otherwise, the dict has ``result``, which is None.
            ``error`` is the exception, if there was one.

        Raises
        ------
        ValueError
            If `config` has no future, or a private key was unusable.
        """
        future = config.get(_FUTURE)
        if not future:
            raise ValueError(f"Missing '{_FUTURE}'.")
        if not isinstance(future, Future):
            raise AssertionError(f"'{_FUTURE}' must be a Future, got a {type(future).__name__}.")
        error: Optional[BaseException]
        try:
            error = future.exception()
        except CancelledError as exc:
            error = exc
        if error is None:
            process = future.result()
            succeeded = process.exit_status == 0 and process.returncode == 0
            return Status.SUCCEEDED if succeeded else Status.FAILED, _output(process)
        if isinstance(error, SshConfigError):
            raise copy_for_raise(error) from error
        if not isinstance(error, (SshServiceError, CancelledError)):
            raise error
        status = _status_of(error, os_operation=bool(config.get(_OS_OPERATION)))
        process = getattr(error, "process", None)
        result = {"result": None} if process is None else _output(process)
        _LOG.warning("%s: %s", status.name, error or type(error).__name__)
        return status, {**result, "error": error}

    def shutdown(
        self, params: Dict[str, Any], force: bool = False
    ) -> Tuple[Status, Dict[str, Any]]:
        """
        Start to shut down a host, without waiting for it.

        Parameters
        ----------
        params : dict
            The host and overrides, as for the `config` of `remote_exec`.
        force : bool
            Ignored; accepted for symmetry with `reboot`.

        Returns
        -------
        Tuple[Status, dict]
            PENDING, and the argument for `wait_os_operation`.

        Raises
        ------
        SshConfigError
            If the host is missing, or a setting is invalid.
        SshCacheClosed
            If the service is outside its context.
        """
        return self._start_os_operation("shutdown", _SHUTDOWN, params)

    def reboot(self, params: Dict[str, Any], force: bool = False) -> Tuple[Status, Dict[str, Any]]:
        """
        Start to reboot a host, without waiting for it.

        Parameters
        ----------
        params : dict
            The host and overrides, as for the `config` of `remote_exec`.
        force : bool
            Whether to kill all processes (SIGKILL) instead of terminating them (SIGTERM) if no
            reboot command works.

        Returns
        -------
        Tuple[Status, dict]
            PENDING, and the argument for `wait_os_operation`.

        Raises
        ------
        SshConfigError
            If the host is missing, or a setting is invalid.
        SshCacheClosed
            If the service is outside its context.
        """
        last_resort = _REBOOT_LAST_RESORT_FORCED if force else _REBOOT_LAST_RESORT
        return self._start_os_operation("reboot", (*_REBOOT, last_resort), params)

    def wait_os_operation(self, params: Dict[str, Any]) -> Tuple[Status, Dict[str, Any]]:
        """
        Wait until a host has accepted or refused a `reboot` or `shutdown`.

        Parameters
        ----------
        params : dict
            The dict that `reboot` or `shutdown` returned.

        Returns
        -------
        Tuple[Status, dict]
            The results, as from `get_remote_exec_results`.  The status is also SUCCEEDED, with the
            lost connection as ``error``, if the host closed the connection after it had accepted
            the command.

        Raises
        ------
        ValueError
            If `params` has no future, or a private key was unusable.
        """
        return self.get_remote_exec_results(params)

    def _start_os_operation(
        self, name: str, commands: Sequence[str], params: Dict[str, Any]
    ) -> Tuple[Status, Dict[str, Any]]:
        merged = self._merge(params)
        # The script is for a POSIX shell, regardless of the login shell.
        merged[_FUTURE] = self._submit(
            _os_operation_script(commands), merged, None, "/bin/sh", os_operation=True
        )
        merged[_OS_OPERATION] = name
        return Status.PENDING, merged

    def _submit(
        self,
        script: Union[str, Iterable[str]],
        merged: Mapping[str, Any],
        env: Optional[Mapping[str, Any]],
        shell: Optional[str],
        os_operation: bool = False,
    ) -> Future[Any]:
        """Submit a script, and return the future of its `CompletedProcess`."""
        self._require_context()
        connect_params = self._connect_params(merged)
        try:
            settings.require_identity_files(merged)
        except SshConfigError as exc:  # reported with the results, like other unusable keys
            failed: Future[Any] = Future()
            failed.set_exception(exc)
            return failed
        if not os_operation and _is_detached(merged):
            return submit_detached(
                self._CLIENT_CACHE,
                connect_params,
                script,
                env=_with_none_as_text(env) if env else None,
                shell=shell,
                timeout=self.config.get("ssh_request_timeout"),
                max_output=merged.get("ssh_max_output"),
                job_id=merged.get("ssh_job_id"),
            )
        return operations.submit(
            self._CLIENT_CACHE,
            connect_params,
            script,
            env=_with_none_as_text(env) if env else None,
            shell=shell,
            timeout=self.config.get("ssh_request_timeout"),
            max_connections=merged.get("ssh_max_connections", operations.MAX_CONNECTIONS),
            max_output=merged.get("ssh_max_output"),
            idle_timeout=merged.get("ssh_idle_timeout"),
            max_lifetime=merged.get("ssh_max_lifetime"),
            end_left_running=True,
        )


def _is_detached(merged: Mapping[str, Any]) -> bool:
    detached, job_id = bool(merged.get("ssh_detached")), merged.get("ssh_job_id")
    if job_id is not None and not detached:
        raise SshConfigError(f"ssh_job_id: expected only with ssh_detached true, got {job_id!r}")
    return detached


def _with_none_as_text(env: Mapping[str, Any]) -> Mapping[str, Any]:
    """Convert None, a possible value of tunable parameters, to text; commands reject None."""
    if not isinstance(env, Mapping):
        return env  # commands reject it
    return {name: "None" if value is None else value for name, value in env.items()}


def _os_operation_script(commands: Sequence[str]) -> str:
    return _OS_OPERATION_SCRIPT.format(commands=" ".join(f"'{command}'" for command in commands))


def _output(process: Any) -> Dict[str, Any]:
    return {
        "stdout": process.stdout,
        "stderr": process.stderr,
        "ssh_completed_process_result": process,
    }


def _status_of(error: BaseException, os_operation: bool) -> Status:
    if isinstance(error, (SshCommandCancelled, CancelledError)):
        return Status.CANCELED
    if isinstance(error, SshCommandTimeout) and error.process is not None:
        return Status.TIMED_OUT
    if os_operation and isinstance(error, SshConnectionLost) and error.process is not None:
        # A host that shuts down closes its connections.  The script's trace proves that the script
        # was started, and the error's reason that the peer closed the connection.
        started = bool(error.process.stderr or error.process.stdout)
        if started and error.reason in ("eof", "reset", "disconnect"):
            return Status.SUCCEEDED
    return Status.FAILED
