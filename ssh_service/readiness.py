"""Waiting until a host can be used: after it was created, or while it starts again; reboots."""

from __future__ import annotations

import re
import time
from typing import Optional, Union

from ssh_service import api, params
from ssh_service.commands.command import check_seconds
from ssh_service.commands.result import CompletedProcess
from ssh_service.commands.script import Script, is_empty, join
from ssh_service.commands.sudo import SudoPassword, conceal_password
from ssh_service.connections.cache import SshClientCache, check_cache
from ssh_service.errors import (
    SshAuthError,
    SshCommandTimeout,
    SshConfigError,
    SshConnectError,
    SshConnectionLost,
    SshConnectTimeout,
    SshExitError,
    SshHostKeyError,
    SshServiceError,
    SshSessionRefused,
    copy_for_raise,
)
from ssh_service.params import Destination, Resolvable

__all__ = ["reboot", "wait_for"]

# Seconds between two attempts, doubled each time.
_MIN_PAUSE, _MAX_PAUSE = 0.5, 5.0
# The same after a refused login: sshd blocks addresses with many of these (PerSourcePenalties).
_MIN_AUTH_PAUSE, _MAX_AUTH_PAUSE = 5.0, 30.0

_BOOT_ID_FILE = "/proc/sys/kernel/random/boot_id"
_BOOT_ID = re.compile(r"[0-9A-Za-z-]{1,64}\Z")
# Exit statuses of a shell from here on may be those of signals, which a reboot sends.
_SIGNALS = 128
# Succeeds once the boot id is another one.  It runs in any login shell.
_HAS_REBOOTED = (
    f"/bin/sh -c 'read -r b <{_BOOT_ID_FILE} || exit 2; case $b in \"\"|{{old}}) exit 1;; esac'"
)


def wait_for(
    destination: Destination,
    timeout: float,
    ready: Script = "true",
    *,
    auth_retries: Optional[int] = None,
    cache: Optional[SshClientCache] = None,
) -> CompletedProcess:
    """
    Wait until a script succeeds on a host, which may not have started yet.

    Parameters
    ----------
    destination : Union[str, Mapping[str, Any], Host]
        The server, as for `run`.
    timeout : float
        The number of seconds to wait, including the time for connecting.
    ready : Union[str, Iterable[str]]
        The script, or its lines.  The host is ready as soon as its exit status is 0.
        The script is repeated until then; each run may take all of the time that is left.
    auth_retries : Optional[int]
        The maximum number of times that a refused login is repeated, each time after 5 to 30
        seconds: a new host may refuse logins until its keys are in place.  None: no maximum.  0:
        the first refusal is an error.
    cache : Optional[SshClientCache]
        The cache to take the connection from; None: `default_cache`.

    Returns
    -------
    CompletedProcess
        The outcome of the run that succeeded.

    Raises
    ------
    SshConfigError
        A parameter is invalid (a `ValueError`).
    SshHostKeyError
        The server's host key is not the known one; `wait_for` does not try again.
    SshAuthError
        The login was refused more than `auth_retries` times.
    SshConnectError
        The connection failed for a reason that another attempt cannot change (`permanent`).
    SshConnectTimeout
        The timeout expired, and the last attempt did not connect, or lost its connection (a
        `TimeoutError`).
    SshCommandTimeout
        The timeout expired before the script succeeded (a `TimeoutError`); `process` is the
        outcome of its last run, or the output so far.

    Notes
    -----
    Thread safety.  This may be called from any thread.

    Examples
    --------
    >>> ssh_service.wait_for("admin@new-host", 300, ready="cloud-init status --wait")
    """
    destination = _check(destination, timeout, auth_retries, cache)
    try:
        script = join(ready)
    except SshConfigError as error:
        raise SshConfigError(str(error).replace("script:", "ready:", 1)) from None
    if is_empty(script):  # which `run` takes for done without asking the host
        raise SshConfigError("ready: expected a script, got nothing to run")
    return _Attempts(destination, script, timeout, auth_retries, cache).run()


def reboot(
    destination: Destination,
    timeout: float,
    *,
    sudo: Union[bool, str] = False,
    sudo_password: Optional[SudoPassword] = None,
    auth_retries: Optional[int] = None,
    cache: Optional[SshClientCache] = None,
) -> None:
    """
    Reboot a host, and wait until it is back.

    The host is back when it can be logged in to and has another boot id, not as soon as it
    answers: for a while, a host that shuts down still does.

    Parameters
    ----------
    destination : Union[str, Mapping[str, Any], Host]
        The server, as for `run`.  It must be a Linux host.
    timeout : float
        The number of seconds from the call until the host is back.
    sudo : Union[bool, str]
        Whether sudo runs ``reboot``, as root; or the name of the user whose rights it gets.
    sudo_password : Union[None, str, bytes, Secret, Callable[[], str]]
        The password for sudo, as for `run`.  None: sudo must need no password.
    auth_retries : Optional[int]
        The maximum number of times that a refused login is repeated while the host starts, as for
        `wait_for`.
    cache : Optional[SshClientCache]
        The cache to take the connection from; None: `default_cache`.

    Raises
    ------
    SshConfigError
        A parameter is invalid (a `ValueError`).
    SshExitError
        The host has no boot id, or ``reboot`` failed: the message has the reason.  The host was
        not rebooted.
    SshSudoRefused
        sudo did not run ``reboot`` (a `PermissionError`).
    SshCommandTimeout, SshConnectTimeout
        The host was not back within `timeout` (a `TimeoutError`); the message says whether it
        still has the same boot id, or could not be reached.
    SshServiceError
        The host could not be reached before the reboot, or cannot be reached again for a permanent
        reason, such as another host key; the errors are those of `run`.

    Notes
    -----
    Thread safety.  This may be called from any thread.

    The reboot is requested at most once.  `start_job`'s jobs end with it.

    Examples
    --------
    >>> ssh_service.reboot("admin@web1", timeout=300, sudo=True)
    """
    sudo_password = conceal_password(sudo_password)
    destination = _check(destination, timeout, auth_retries, cache)
    deadline = time.monotonic() + timeout
    read = f"cat {_BOOT_ID_FILE}"
    process = api.run(destination, read, check=True, timeout=timeout, cache=cache)
    old = process.stdout.strip()
    if not _BOOT_ID.match(old):
        where = process.connection_id
        raise SshExitError(
            f"{where}: expected a boot id in {_BOOT_ID_FILE}, got {old!r:.80}",
            process=process,
            connection_id=where,
        )
    _request_reboot(destination, deadline, sudo, sudo_password, cache)
    script = _HAS_REBOOTED.replace("{old}", old)
    attempts = _Attempts(destination, script, deadline - time.monotonic(), auth_retries, cache)
    try:
        attempts.run()
    except (SshCommandTimeout, SshConnectTimeout) as error:
        raise _not_back(error, timeout) from error


def _request_reboot(
    destination: Destination,
    deadline: float,
    sudo: Union[bool, str],
    sudo_password: Optional[SudoPassword],
    cache: Optional[SshClientCache],
) -> None:
    try:
        process = api.run(
            destination,
            args=["reboot"],
            sudo=sudo,
            sudo_password=sudo_password,
            timeout=max(0.0, deadline - time.monotonic()),
            cache=cache,
        )
    except SshConnectionLost as error:
        if not error.sent:
            raise
        return  # the reboot was quicker than the answer
    status = process.exit_status
    if status is not None and 0 < status < _SIGNALS:
        raise SshExitError.of(process)


def _not_back(error: SshServiceError, timeout: float) -> SshServiceError:
    """Return the error for a host that was not back in time."""
    where = error.connection_id
    process = getattr(error, "process", None)
    text = f"{where}: not rebooted within {timeout:g} s"
    if process is not None and process.exit_status == 1:
        text += ": it still has the same boot id"
    else:
        text += f": {str(error).replace(f'{where}: ', '', 1)}"
    late = copy_for_raise(error)
    late.args = (text,)
    return late


def _check(
    destination: Destination,
    timeout: float,
    auth_retries: Optional[int],
    cache: Optional[SshClientCache],
) -> Destination:
    """Check the parameters, and return the destination with its secrets concealed."""
    destination = params.conceal(destination)
    check_seconds("timeout", timeout)
    if timeout is None:
        raise SshConfigError("timeout: missing; expected a number of seconds")
    if auth_retries is not None and (
        isinstance(auth_retries, bool) or not isinstance(auth_retries, int) or auth_retries < 0
    ):
        raise SshConfigError(
            f"auth_retries: expected an integer >= 0 or None, got {auth_retries!r}"
        )
    check_cache(cache)
    if not isinstance(destination, Resolvable):
        params.resolve_concealed(destination)  # its errors are permanent
    return destination


class _Attempts:
    def __init__(
        self,
        destination: Destination,
        ready: str,
        timeout: float,
        auth_retries: Optional[int],
        cache: Optional[SshClientCache],
    ) -> None:
        self._destination = destination
        self._ready = ready
        self._timeout = timeout
        self._deadline = time.monotonic() + timeout
        self._auth_retries = auth_retries
        self._cache = cache
        self._pause, self._auth_pause = _MIN_PAUSE, _MIN_AUTH_PAUSE

    def run(self) -> CompletedProcess:
        last: Union[None, CompletedProcess, SshServiceError] = None
        while True:
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise self._timeout_error(last)
            try:
                last = api.run(self._destination, self._ready, timeout=left, cache=self._cache)
                if last.exit_status == 0:
                    return last
                pause = self._next_pause()
            except SshAuthError as error:
                last, pause = error, self._next_auth_pause(error)
            except (SshConnectError, SshConnectionLost, SshSessionRefused) as error:
                if isinstance(error, SshHostKeyError) or getattr(error, "permanent", False):
                    raise
                last, pause = error, self._next_pause()
            except SshCommandTimeout as error:
                raise self._timeout_error(last if error.phase == "queue" and last else error)
            time.sleep(max(0.0, min(pause, self._deadline - time.monotonic())))

    def _next_pause(self) -> float:
        pause, self._pause = self._pause, min(2 * self._pause, _MAX_PAUSE)
        return pause

    def _next_auth_pause(self, error: SshAuthError) -> float:
        if self._auth_retries is not None:
            if not self._auth_retries:
                raise error
            self._auth_retries -= 1
        pause, self._auth_pause = self._auth_pause, min(2 * self._auth_pause, _MAX_AUTH_PAUSE)
        return pause

    def _timeout_error(
        self, last: Union[None, CompletedProcess, SshServiceError]
    ) -> SshServiceError:
        where = params.resolve_concealed(self._destination).connection_id
        text = f"{where}: not ready within {self._timeout:g} s"
        if isinstance(last, CompletedProcess):
            text += f": the script's last exit status is {last.exit_status}"
            return SshCommandTimeout(text, process=last, ended=True, connection_id=where)
        if isinstance(last, SshCommandTimeout):
            text += ": the script " + ("was not sent" if last.phase == "queue" else "did not end")
            error: SshServiceError = SshCommandTimeout(
                text,
                process=last.process,
                ended=last.ended,
                connection_id=where,
                phase=last.phase,
            )
        else:
            reason = "" if last is None else f": {str(last).replace(f'{where}: ', '', 1)}"
            error = SshConnectTimeout(text + reason, connection_id=where, phase="tcp")
        error.__cause__ = last
        return error
