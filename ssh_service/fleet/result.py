"""The result of one host."""

from __future__ import annotations

from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Any, Dict, Optional

from ssh_service.commands.result import CompletedProcess
from ssh_service.copying import CopyPlan
from ssh_service.errors import (
    SshCommandError,
    SshCommandTimeout,
    SshConfigError,
    SshConnectError,
    SshConnectionLost,
    SshServiceError,
    SshTransferTimeout,
)

__all__ = [
    "FAILED",
    "SUCCEEDED",
    "TIMED_OUT",
    "HostResult",
    "SshWorkerLost",
    "completed",
    "failed",
    "one_line",
]

SUCCEEDED = "SUCCEEDED"
FAILED = "FAILED"
TIMED_OUT = "TIMED_OUT"


class SshWorkerLost(SshServiceError):
    """
    The executor's worker for this host was lost.

    Attributes
    ----------
    sent : Optional[bool]
        False: nothing was sent to the host.  None: unknown; the command may have run.
    """

    def __init__(self, message: str = "", *, sent: Optional[bool] = None) -> None:
        super().__init__(message, phase="run" if sent is None else "queue")
        self.sent = sent

    @property
    def retryable(self) -> bool:
        """True if nothing was sent to the host."""
        return self.sent is False


@dataclass(frozen=True)
class HostResult:
    """
    The result of one host.

    Attributes
    ----------
    host : str
        The host as the caller wrote it.
    status : str
        ``SUCCEEDED``: the copy is complete, or the command ended with exit status 0.
        ``TIMED_OUT``: the command or copy started and did not end in time.  ``FAILED``: any other
        outcome.
    seconds : float
        Seconds from the start of the work at this host to its end.
    process : Optional[CompletedProcess]
        The result of the command, with the output so far if it was ended early; None for a copy,
        and if nothing ran.
    error : Optional[BaseException]
        The reason for a failure; None if a command only ended with a non-zero exit status.
    sent : Optional[bool]
        Whether anything was sent to the host, so that work may have started there; None if
        unknown.
    plan : Optional[CopyPlan]
        With ``dry_run=True``: what would be copied at this host.
    """

    host: str
    status: str
    seconds: float
    process: Optional[CompletedProcess] = None
    error: Optional[BaseException] = None
    sent: Optional[bool] = True
    plan: Optional[CopyPlan] = None

    @property
    def ok(self) -> bool:
        """Whether `status` is ``SUCCEEDED``."""
        return self.status == SUCCEEDED

    @property
    def exit_status(self) -> Optional[int]:
        """`CompletedProcess.exit_status`; None if there is no process."""
        return self.process.exit_status if self.process else None

    @property
    def signal(self) -> Optional[str]:
        """The name of the signal that ended the command, without ``SIG``; None if none did."""
        exit_signal = self.process.exit_signal if self.process else None
        return exit_signal[0] if exit_signal else None

    @property
    def stdout(self) -> str:
        """The command's stdout, decoded; empty if there is no process."""
        return self.process.stdout if self.process else ""

    @property
    def stderr(self) -> str:
        """The command's stderr, decoded; empty if there is no process."""
        return self.process.stderr if self.process else ""

    def as_dict(self) -> Dict[str, Any]:
        """
        Return the result as a dict that can be serialized as JSON.

        Returns
        -------
        Dict[str, Any]
            ``host``, ``status``, ``exit_status``, ``signal``, ``seconds``, ``stdout``,
            ``stderr``, ``error`` (text or None); with ``dry_run=True`` also ``plan``, a list of
            dicts with the attributes of `PlannedAction`.
        """
        fields: Dict[str, Any] = {
            "host": self.host,
            "status": self.status,
            "exit_status": self.exit_status,
            "signal": self.signal,
            "seconds": round(self.seconds, 3),
            "stdout": self.stdout,
            "stderr": self.stderr,
            "error": None if self.error is None else one_line(self.error),
        }
        if self.plan is not None:
            fields["plan"] = [action._asdict() for action in self.plan]
        return fields


def one_line(error: BaseException) -> str:
    """Return an error's message on one line, preceded by its class unless it is one of ours."""
    text = " ".join(str(error).split())
    if isinstance(error, SshServiceError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def completed(
    host: str,
    process: Optional[CompletedProcess],
    seconds: float,
    plan: Optional[CopyPlan] = None,
) -> HostResult:
    """Return the result of a command that ended by itself, or of a completed copy."""
    good = process is None or process.exit_status == 0
    return HostResult(host, SUCCEEDED if good else FAILED, seconds, process, plan=plan)


def failed(host: str, error: BaseException, seconds: float) -> HostResult:
    """Return the result of a host that failed with an error."""
    timed_out = isinstance(error, SshTransferTimeout) or (
        isinstance(error, SshCommandTimeout) and error.phase != "queue"
    )
    status = TIMED_OUT if timed_out else FAILED
    process = getattr(error, "process", None)
    return HostResult(host, status, seconds, process, error, _was_sent(error))


def _was_sent(error: BaseException) -> Optional[bool]:
    if isinstance(error, (SshWorkerLost, SshConnectionLost)):
        return error.sent
    if isinstance(error, SshCommandError):
        return error.phase != "queue"
    return not isinstance(error, (SshConnectError, SshConfigError, CancelledError))
