"""What is to be done at every host, and how it is done at one."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from concurrent.futures import CancelledError
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from ssh_service import operations, params
from ssh_service.commands.command import Command
from ssh_service.commands.output import Output
from ssh_service.commands.result import CommandFuture
from ssh_service.connections.cache import SshClientCache
from ssh_service.copying import ProgressCallback
from ssh_service.errors import SshCommandCancelled
from ssh_service.fleet import hosts
from ssh_service.fleet.result import HostResult, SshWorkerLost, completed, failed
from ssh_service.transport import SshChannel

__all__ = ["Claim", "Clock", "Job", "bare", "copy", "start", "unknown_fate"]

_log = logging.getLogger(__name__)

_warned: List[bool] = []  # not empty once it was; a race warns twice at worst

# Asked just before anything is sent, and never twice for one host; False: it may not be.
Claim = Callable[[], bool]


class Job(NamedTuple):
    """
    What is to be done at every host; it can be pickled.

    Attributes
    ----------
    kind : str
        ``run``, ``upload`` or ``download``.
    arguments : Dict[str, Any]
        What of.
    connect : Dict[str, Any]
        Connect parameters for every host, their secrets wrapped; in a pickle, they are plain.
    timeout : Optional[float]
        Seconds for each host.
    """

    kind: str
    arguments: Dict[str, Any]
    connect: Dict[str, Any]
    timeout: Optional[float]

    def __reduce__(self) -> Tuple[Any, ...]:
        return _job, (self.kind, self.arguments, bare(self.connect), self.timeout)


def _job(kind: str, arguments: Dict[str, Any], connect: Any, timeout: Optional[float]) -> Job:
    return Job(kind, arguments, params.conceal(connect), timeout)


def bare(given: Any) -> Any:
    """Return connect parameters with plain secrets, for another process; warn once."""
    plain = params.reveal(given)
    if plain != given and not _warned:
        _warned.append(True)
        _log.warning(
            "a password, passphrase or private key goes to the workers in plain, in a pickle: "
            "give key files or a callable instead, which are read where the work is done"
        )
    return plain


class _ClaimedCommand(Command):
    """A command that asks, just before it is sent, whether it may be."""

    claim: Optional[Claim] = None

    def start(self, channel: SshChannel) -> bool:
        """Send the script, if that is allowed."""
        if self.claim is not None and not self.over:
            try:
                allowed = self.claim()
            except SshCommandCancelled as error:
                self.fail(error)
                return False
            except Exception as error:  # the other end of the claim is gone, whatever it says
                self.fail(SshWorkerLost(f"{self.connection_id}: not sent: {error}", sent=False))
                return False
            if not allowed:
                self.fail(unknown_fate(self.connection_id))
                return False
        return super().start(channel)


def unknown_fate(name: str, why: str = "the worker was lost on the way") -> SshWorkerLost:
    """Make the error for a host whose worker was lost after its command may have been sent."""
    return SshWorkerLost(f"{name}: {why}; its outcome is unknown, and it was not retried")


def start(
    cache: SshClientCache,
    job: Job,
    host: Any,
    *,
    idle_timeout: Optional[float],
    claim: Optional[Claim] = None,
    stdout: Optional[Output] = None,
    stderr: Optional[Output] = None,
    run_callback: Optional[Callable[..., None]] = None,
) -> CommandFuture:
    """
    Begin a job of kind ``run`` at one host.

    Raises
    ------
    SshConfigError
        The host, or a connect parameter, is wrong.
    """
    target = params.resolve(hosts.connect_params(host, job.connect))
    arguments = job.arguments
    command = _ClaimedCommand(
        arguments["text"],
        arguments["env"],
        arguments["shell"],
        target.connection_id,
        timeout=job.timeout,
        stdout=stdout or Output(arguments["max_output"]),
        stderr=stderr or Output(arguments["max_output"]),
        run_callback=run_callback,
    )
    command.claim = claim
    future = command.take_future()  # first: where the caller is torn from here, it goes
    operations.begin(cache, target, command, idle_timeout=idle_timeout)
    return future


def copy(
    cache: SshClientCache,
    job: Job,
    host: Any,
    *,
    idle_timeout: Optional[float],
    claim: Optional[Claim] = None,
    progress: Optional[ProgressCallback] = None,
) -> None:
    """Do a job of kind ``upload`` or ``download`` at one host."""
    target = params.resolve(hosts.connect_params(host, job.connect))
    local, there = job.arguments["local_path"], job.arguments["remote_path"]
    own_folder = job.kind == "download" and job.arguments["folder_per_host"]
    if own_folder:
        local = os.path.join(local, hosts.folder_name(hosts.name_of(host)))

    made: List[str] = []  # the host's folder, if it was not there

    def before() -> None:
        nonlocal claim
        if claim is not None and not claim():
            raise unknown_fate(target.connection_id)
        claim = None  # granted once, for both tries: what was never sent may go again
        if own_folder and not os.path.isdir(local):
            made.append(local)
            os.makedirs(local, exist_ok=True)

    try:
        operations.copy(
            job.kind,
            cache,
            target,
            *((local, there) if job.kind == "upload" else (there, local)),
            before=before,
            idle_timeout=idle_timeout,
            timeout=job.timeout,
            stall_timeout=job.arguments["stall_timeout"],
            progress=progress,
            **job.arguments["options"],
        )
    except BaseException:
        for folder in made:
            with contextlib.suppress(OSError):  # something did arrive
                os.rmdir(folder)
        raise


class Clock:
    """Makes results of one host, with the time it took."""

    def __init__(self, host: Any) -> None:
        self.host = hosts.name_of(host)
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since it was begun."""
        return time.monotonic() - self._began

    def result(self, future: Any) -> HostResult:
        """Tell what became of a command."""
        try:
            process = future.result()
        except (Exception, CancelledError) as error:  # CancelledError: by itself in Python 3.8
            return failed(self.host, error, self.seconds)
        return completed(self.host, process, self.seconds)

    def failed(self, error: BaseException) -> HostResult:
        """Tell what went wrong."""
        return failed(self.host, error, self.seconds)

    def cancelled(self) -> HostResult:
        """Tell that it was cancelled before anything was sent."""
        text = f"{self.host}: cancelled before anything was sent"
        return self.failed(SshCommandCancelled(text, phase="queue"))

    def copied(self) -> HostResult:
        """Tell that a copy is complete."""
        return completed(self.host, None, self.seconds)
