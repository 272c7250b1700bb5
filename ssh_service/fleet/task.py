"""The task of a fleet, and its execution at one host."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import tempfile
import time
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from ssh_service import local_paths, operations, params
from ssh_service.commands.command import Command
from ssh_service.commands.output import Output
from ssh_service.commands.result import CommandFuture
from ssh_service.commands.sudo import check_sudo, conceal_password
from ssh_service.connections.cache import SshClientCache
from ssh_service.copying import CopyPlan, ProgressCallback
from ssh_service.errors import SshCommandCancelled, SshSessionRefused
from ssh_service.fleet import hosts
from ssh_service.fleet.result import HostResult, SshWorkerLost, completed, failed
from ssh_service.transport import SshChannel

__all__ = [
    "FleetTask",
    "ResultBuilder",
    "SendPermit",
    "copy",
    "outcome_unknown_error",
    "plan_into_missing",
    "start",
    "with_plain_secrets",
]

_log = logging.getLogger(__name__)

_warned: List[bool] = []  # not empty after the warning; a race at worst warns twice

# Called just before anything is sent, at most once per host; False forbids sending.
SendPermit = Callable[[], bool]


class FleetTask(NamedTuple):
    """
    The work to do at every host; it can be pickled.

    Attributes
    ----------
    kind : str
        ``run``, ``upload`` or ``download``.
    arguments : Dict[str, Any]
        The task's arguments by name, except the following.  A secret among them is concealed, and
        plain text in a pickle.
    connect : Dict[str, Any]
        Connect parameters for every host, with concealed secrets; in a pickle, they are plain
        text.
    timeout : Optional[float]
        Seconds for each host; None: no limit.
    """

    kind: str
    arguments: Dict[str, Any]
    connect: Dict[str, Any]
    timeout: Optional[float]

    def __reduce__(self) -> Tuple[Any, ...]:
        return _rebuild_fleet_task, (
            self.kind,
            with_plain_secrets(self.arguments),
            with_plain_secrets(self.connect),
            self.timeout,
        )


def _rebuild_fleet_task(
    kind: str, arguments: Dict[str, Any], connect: Any, timeout: Optional[float]
) -> FleetTask:
    if "sudo_password" in arguments:
        arguments["sudo_password"] = conceal_password(arguments["sudo_password"])
    return FleetTask(kind, arguments, params.conceal(connect), timeout)


def with_plain_secrets(given: Any) -> Any:
    """Return parameters with plain secrets, for another process; warn once per process."""
    plain = params.reveal(given)
    if plain != given and not _warned:
        _warned.append(True)
        _log.warning(
            "a password, passphrase or private key is sent to the workers unencrypted, in a "
            "pickle; pass key files or a callable instead, which the worker itself reads"
        )
    return plain


class _PermittedCommand(Command):
    """A command that requests a permit just before it is sent."""

    permit: Optional[SendPermit] = None

    def start(self, channel: SshChannel) -> bool:
        """Send the script, if the permit is granted."""
        if self.permit is not None and not self.is_done:
            try:
                allowed = self.permit()
            except SshCommandCancelled as error:
                self.settle_unsent(error)
                return False
            except Exception as error:  # the permits' source is unreachable
                self.settle_unsent(
                    SshWorkerLost(f"{self.connection_id}: not sent: {error}", sent=False)
                )
                return False
            if not allowed:
                self.settle_unsent(outcome_unknown_error(self.connection_id))
                return False
        return super().start(channel)


def outcome_unknown_error(name: str, why: str = "the worker was lost") -> SshWorkerLost:
    """Return the error for a host whose worker was lost after it may have sent the command."""
    return SshWorkerLost(f"{name}: {why}; its outcome is unknown, and it was not retried")


def copy_cancelled_error(task: FleetTask, host: Any) -> SshCommandCancelled:
    """Return the error for a host whose copy was cancelled after it had begun."""
    name = params.resolve(hosts.connect_params(host, task.connect)).connection_id
    return SshCommandCancelled(f"{name}: the copy was cancelled", connection_id=name)


def start(
    cache: SshClientCache,
    task: FleetTask,
    host: Any,
    *,
    idle_timeout: Optional[float],
    permit: Optional[SendPermit] = None,
    stdout: Optional[Output] = None,
    stderr: Optional[Output] = None,
    run_callback: Optional[Callable[..., None]] = None,
) -> CommandFuture:
    """
    Start a task of kind ``run`` at one host.

    Raises
    ------
    SshConfigError
        The host or a connect parameter is invalid.
    """
    target = params.resolve(hosts.connect_params(host, task.connect))
    arguments = task.arguments
    command = _PermittedCommand(
        arguments["text"],
        arguments["env"],
        arguments["shell"],
        target.connection_id,
        cwd=arguments["cwd"],
        sudo=check_sudo(arguments["sudo"], arguments["sudo_password"]),
        is_command=arguments["is_command"],
        resembles_args=arguments["resembles_args"],
        timeout=task.timeout,
        stdin=arguments["stdin"],
        pty=arguments["pty"],
        stdout=stdout or Output(arguments["max_output"]),
        stderr=stderr or Output(arguments["max_output"]),
        run_callback=run_callback,
    )
    command.permit = permit
    future = command.take_future()  # first: if an exception interrupts this, dropping it cancels
    operations.submit_command(cache, target, command, idle_timeout=idle_timeout)
    return future


def copy(
    cache: SshClientCache,
    task: FleetTask,
    host: Any,
    *,
    idle_timeout: Optional[float],
    permit: Optional[SendPermit] = None,
    progress: Optional[ProgressCallback] = None,
) -> Optional[CopyPlan]:
    """Do a task of kind ``upload`` or ``download`` at one host; return the plan of a dry run."""
    target = params.resolve(hosts.connect_params(host, task.connect))
    is_dry_run = task.arguments["options"]["dry_run"]
    local, there = task.arguments["local_path"], task.arguments["remote_path"]
    own_folder = task.kind == "download" and task.arguments["folder_per_host"]
    if own_folder:
        local = os.path.join(local, hosts.folder_name(hosts.name_of(host)))

    made: List[str] = []  # the host's folder, if this call created it

    def before() -> None:
        nonlocal permit
        if permit is not None and not permit():
            raise outcome_unknown_error(target.connection_id)
        permit = None  # it covers both attempts: the second is made only if nothing was sent
        if own_folder and not is_dry_run and not local_paths.is_folder(local):
            made.append(local)
            os.makedirs(local, exist_ok=True)

    def copy_with(local_path: Any) -> Optional[CopyPlan]:
        return operations.copy(
            task.kind,
            cache,
            target,
            *((local_path, there) if task.kind == "upload" else (there, local_path)),
            before=before,
            idle_timeout=idle_timeout,
            timeout=task.timeout,
            stall_timeout=task.arguments["stall_timeout"],
            progress=progress,
            **task.arguments["options"],
        )

    try:
        if own_folder and is_dry_run and not local_paths.is_folder(local):
            return plan_into_missing(local, copy_with)
        return copy_with(local)
    except BaseException:
        for folder in made:
            with contextlib.suppress(OSError):  # the folder is not empty: something was copied
                os.rmdir(folder)
        raise


def plan_into_missing(
    folder: str, copy_to: Callable[[str], Optional[CopyPlan]]
) -> Optional[CopyPlan]:
    """Return the plan of a download into a folder that a copy would create."""
    with tempfile.TemporaryDirectory() as empty:
        plan = copy_to(empty)
    return None if plan is None else plan.moved(empty, folder)


class ResultBuilder:
    """Builds the result of one host, and measures the time."""

    def __init__(self, host: Any) -> None:
        self.host = hosts.name_of(host)
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since this was created."""
        return time.monotonic() - self._began

    def result(self, future: Any) -> HostResult:
        """Return the result of a command whose future is done."""
        try:
            process = future.result()
        except SshSessionRefused as error:  # so the script was not sent
            return dataclasses.replace(self.failed(error), sent=False)
        except Exception as error:
            return self.failed(error)
        return completed(self.host, process, self.seconds)

    def failed(self, error: BaseException) -> HostResult:
        """Return the result of a failure."""
        return failed(self.host, error, self.seconds)

    def cancelled(self) -> HostResult:
        """Return the result of a host that was cancelled before anything was sent."""
        text = f"{self.host}: cancelled before anything was sent"
        return self.failed(SshCommandCancelled(text, phase="queue"))

    def copied(self, plan: Optional[CopyPlan]) -> HostResult:
        """Return the result of a complete copy, or of a dry run."""
        return completed(self.host, None, self.seconds, plan)
