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
from ssh_service.services import settings
from ssh_service.services.host_api import Service, Status
from ssh_service.ssh_service import SshService

if TYPE_CHECKING:
    from ssh_service.services.base_service import Methods

__all__ = ["SshHostService"]

_LOG = logging.getLogger(__name__)

_FUTURE = "asyncRemoteExecResultsFuture"  # mlos_bench's name for it
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

    Guarantees.  `remote_exec` never waits for a host.  A script is sent at most once.  Every
    future it hands out resolves, at the latest when the last service leaves its context.
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
        Start a script on a host.

        Parameters
        ----------
        script : Union[str, Iterable[str]]
            The script, or its lines.
        config : dict
            Which host (``ssh_hostname``), and what else differs from the service's config.
        env_params : Optional[dict]
            Environment variables for the script; values go through `str`, None too, which a
            tunable parameter may be.

        Returns
        -------
        Tuple[Status, dict]
            PENDING, at once, and what `get_remote_exec_results` wants: the merged settings and,
            as ``asyncRemoteExecResultsFuture``, a `concurrent.futures.Future` of the
            `CompletedProcess`.

        Raises
        ------
        SshConfigError
            If the host is missing, or a setting, a variable's name or the script is not what it
            may be.  A private key that cannot be used shows in the results instead.
        SshCacheClosed
            Outside the service's context.
        """
        merged = self._merge(config)
        merged[_FUTURE] = self._submit(script, merged, env_params, merged.get("ssh_shell"))
        return Status.PENDING, merged

    def get_remote_exec_results(self, config: Dict[str, Any]) -> Tuple[Status, Dict[str, Any]]:
        """
        Wait for a script's end.

        May be called again, in any thread and after the service's context, with the same result.

        Parameters
        ----------
        config : dict
            What `remote_exec`, `reboot` or `shutdown` returned.

        Returns
        -------
        Tuple[Status, dict]
            SUCCEEDED if the script ended with exit status 0; FAILED if it did not, or if it could
            not be run; TIMED_OUT if it was still running when ``ssh_request_timeout`` had passed;
            CANCELED if the future was cancelled.

            Where the script was started: ``stdout`` and ``stderr``, both text, and
            ``ssh_completed_process_result``, a `CompletedProcess`; all with the output so far,
            where it did not end by itself.  Otherwise ``result``, which is None.  Where there was
            an error, it is there as ``error``.

        Raises
        ------
        ValueError
            If `config` has no future, or a private key could not be used.
        """
        future = config.get(_FUTURE)
        if not future:
            raise ValueError(f"Missing '{_FUTURE}'.")
        if not isinstance(future, Future):
            raise AssertionError(f"'{_FUTURE}' is no Future but a {type(future).__name__}.")
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
        Start to shut a host down.

        Parameters
        ----------
        params : dict
            As the `config` of `remote_exec`.
        force : bool
            Without effect; `reboot` knows it.

        Returns
        -------
        Tuple[Status, dict]
            As from `remote_exec`, for `wait_os_operation`.

        Raises
        ------
        SshConfigError
            See `remote_exec`.
        SshCacheClosed
            See `remote_exec`.
        """
        return self._start_os_operation("shutdown", _SHUTDOWN, params)

    def reboot(self, params: Dict[str, Any], force: bool = False) -> Tuple[Status, Dict[str, Any]]:
        """
        Start to reboot a host.

        Parameters
        ----------
        params : dict
            As the `config` of `remote_exec`.
        force : bool
            Whether the last resort, where no command for the purpose works, is to kill all
            processes rather than to ask them to end.

        Returns
        -------
        Tuple[Status, dict]
            As from `remote_exec`, for `wait_os_operation`.

        Raises
        ------
        SshConfigError
            See `remote_exec`.
        SshCacheClosed
            See `remote_exec`.
        """
        last_resort = _REBOOT_LAST_RESORT_FORCED if force else _REBOOT_LAST_RESORT
        return self._start_os_operation("reboot", (*_REBOOT, last_resort), params)

    def wait_os_operation(self, params: Dict[str, Any]) -> Tuple[Status, Dict[str, Any]]:
        """
        Wait until a host has taken a `reboot` or `shutdown`, or refused it.

        Parameters
        ----------
        params : dict
            What `reboot` or `shutdown` returned.

        Returns
        -------
        Tuple[Status, dict]
            As from `get_remote_exec_results`.  SUCCEEDED, with the loss as ``error``, also if the
            host ended the connection after it had taken the command.

        Raises
        ------
        ValueError
            See `get_remote_exec_results`.
        """
        return self.get_remote_exec_results(params)

    def _start_os_operation(
        self, name: str, commands: Sequence[str], params: Dict[str, Any]
    ) -> Tuple[Status, Dict[str, Any]]:
        merged = self._merge(params)
        # The script is POSIX sh, whatever the user's login shell speaks.
        merged[_FUTURE] = self._submit(_os_operation_script(commands), merged, None, "/bin/sh")
        merged[_OS_OPERATION] = name
        return Status.PENDING, merged

    def _submit(
        self,
        script: Union[str, Iterable[str]],
        merged: Mapping[str, Any],
        env: Optional[Mapping[str, Any]],
        shell: Optional[str],
    ) -> Future[Any]:
        """
        Hand a script to the engine.

        Parameters
        ----------
        script : Union[str, Iterable[str]]
            The script, or its lines.
        merged : Mapping[str, Any]
            What `_merge` returned.
        env : Optional[Mapping[str, Any]]
            Environment variables.
        shell : Optional[str]
            The shell to run it in; None is the user's login shell.

        Returns
        -------
        Future[CompletedProcess]
            The future of its result.
        """
        self._require_context()
        connect_params = self._connect_params(merged)
        try:
            settings.require_identity_files(merged)
        except SshConfigError as exc:  # told with the results, as other unusable keys
            failed: Future[Any] = Future()
            failed.set_exception(exc)
            return failed
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


def _with_none_as_text(env: Mapping[str, Any]) -> Mapping[str, Any]:
    """Let None through, which tunable parameters may be; the engine refuses it."""
    if not isinstance(env, Mapping):
        return env  # which the engine refuses
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
        # A host that goes down takes its connections with it.  That it was the host: the script's
        # trace is there, so it had been accepted, and it was the peer that ended the connection.
        begun = bool(error.process.stderr or error.process.stdout)
        if begun and error.reason in ("eof", "reset", "disconnect"):
            return Status.SUCCEEDED
    return Status.FAILED
