"""What became of one host."""

from __future__ import annotations

from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Any, Dict, Optional

from ssh_service.commands.result import CompletedProcess
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
    The worker that a host was given to is no more.

    Attributes
    ----------
    sent : Optional[bool]
        False: nothing was sent to the host.  None: nobody knows what became of it.
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
    What became of one host.

    Attributes
    ----------
    host : str
        As the caller wrote it.
    status : str
        ``SUCCEEDED``: done, with exit status 0.  ``TIMED_OUT``: it was begun and did not end in
        time.  ``FAILED``: everything else.
    seconds : float
        From when it was begun to its end.
    process : Optional[CompletedProcess]
        A command's outcome, or what was known when it was cut off; None where nothing ran.
    error : Optional[BaseException]
        Why it failed; None where a command merely ended with another exit status.
    sent : Optional[bool]
        Whether it may have been begun on the host; None: nobody knows.
    """

    host: str
    status: str
    seconds: float
    process: Optional[CompletedProcess] = None
    error: Optional[BaseException] = None
    sent: Optional[bool] = True

    @property
    def ok(self) -> bool:
        """Whether all went well."""
        return self.status == SUCCEEDED

    @property
    def exit_status(self) -> Optional[int]:
        """As `CompletedProcess.exit_status`."""
        return self.process.exit_status if self.process else None

    @property
    def signal(self) -> Optional[str]:
        """The name of the signal that ended the command, without ``SIG``."""
        told = self.process.exit_signal if self.process else None
        return told[0] if told else None

    @property
    def stdout(self) -> str:
        """What the command wrote."""
        return self.process.stdout if self.process else ""

    @property
    def stderr(self) -> str:
        """What the command complained of."""
        return self.process.stderr if self.process else ""

    def as_dict(self) -> Dict[str, Any]:
        """
        Give what can be written as JSON.

        Returns
        -------
        Dict[str, Any]
            ``host``, ``status``, ``exit_status``, ``signal``, ``seconds``, ``stdout``,
            ``stderr``, ``error`` (text or None).
        """
        return {
            "host": self.host,
            "status": self.status,
            "exit_status": self.exit_status,
            "signal": self.signal,
            "seconds": round(self.seconds, 3),
            "stdout": self.stdout,
            "stderr": self.stderr,
            "error": None if self.error is None else one_line(self.error),
        }


def one_line(error: BaseException) -> str:
    """Say what went wrong, in one line."""
    text = " ".join(str(error).split())
    if isinstance(error, SshServiceError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def completed(host: str, process: Optional[CompletedProcess], seconds: float) -> HostResult:
    """Tell of a command that ran to its end, or of a copy."""
    good = process is None or process.exit_status == 0
    return HostResult(host, SUCCEEDED if good else FAILED, seconds, process)


def failed(host: str, error: BaseException, seconds: float) -> HostResult:
    """Tell of what went wrong."""
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
