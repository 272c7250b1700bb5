"""
The errors of this package, as one tree.

Every error of this package is an `SshServiceError`, and each leaf is also the builtin that code
without any knowledge of this package would catch (`ConnectionError`, `TimeoutError`,
`PermissionError`, ...).  What comes out of a connection or a channel is paramiko's exception too
(`SSHException`, `ChannelException`, `AuthenticationException`), for code that was written for a
`paramiko.Transport`.  All of them survive pickling, and none carries a secret: a message names
the host, the limit and the time that passed, never parameters.
"""

from __future__ import annotations

import errno as _errno
import os
from concurrent.futures import CancelledError
from subprocess import CalledProcessError
from typing import Any, Dict, Optional, Sequence, Tuple, Type, TypeVar

from paramiko.ssh_exception import AuthenticationException, ChannelException, SSHException

# Reason codes of RFC 4254 section 5.1.
OPEN_CONNECT_FAILED = 2
OPEN_UNKNOWN_CHANNEL_TYPE = 3
OPEN_RESOURCE_SHORTAGE = 4

_E = TypeVar("_E", bound=BaseException)

__all__ = [
    "SshAuthError",
    "SshCacheClosed",
    "SshCommandCancelled",
    "SshCommandError",
    "SshCommandTimeout",
    "SshConfigError",
    "SshConnectError",
    "SshConnectTimeout",
    "SshConnectionLost",
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
    "SshTransferError",
    "SshTransferPermissionError",
    "SshTransferTimeout",
    "SshTreeError",
    "copy_for_raise",
    "name_connection",
    "reason_of",
    "transfer_error",
    "tree_error",
]


class SshServiceError(Exception):
    """
    The base of every error this package raises.

    Parameters
    ----------
    message : str
        What happened, in words.
    connection_id, phase : Optional[str]
        See the attributes.

    Attributes
    ----------
    connection_id : Optional[str]
        ``user@host:port`` of the connection, if there is one.
    phase : Optional[str]
        What was in progress: ``resolve``, ``tcp``, ``banner``, ``kex``, ``host key``, ``auth``,
        ``queue``, ``open``, ``run``, ``copy``, ...
    """

    def __init__(
        self,
        message: str = "",
        *,
        connection_id: Optional[str] = None,
        phase: Optional[str] = None,
    ) -> None:
        super().__init__(message)
        self.connection_id = connection_id
        self.phase = phase

    @property
    def retryable(self) -> bool:
        """
        Whether the call can be repeated, and may then succeed.

        True only if repeating it does nothing twice: nothing was sent, or it was a copy, which is
        harmless to repeat.  False if a person has to repair something first.
        """
        return False

    def __str__(self) -> str:
        # OSError's own would show errno and path in place of the message, and not the host.
        return Exception.__str__(self)

    def __reduce__(self) -> Tuple[Any, ...]:
        # The default would call the class with `args` alone and so lose every keyword attribute
        # (and OSError's own __reduce__ would invent a two-argument form).
        return _rebuild, (type(self), self.args, _state(self))


def _state(error: BaseException) -> Dict[str, Any]:
    state = dict(error.__dict__)
    if isinstance(error, OSError):  # these three live in slots, not in __dict__
        for name in ("errno", "strerror", "filename"):
            if getattr(error, name) is not None:
                state[name] = getattr(error, name)
    return state


def _rebuild(cls: Type[_E], args: Tuple[Any, ...], state: Dict[str, Any]) -> _E:
    error = cls.__new__(cls, *args)
    error.args = args
    for name, value in state.items():
        setattr(error, name, value)
    return error


class SshConfigError(SshServiceError, ValueError):
    """A setting is missing, wrong or contradicts another; never retried."""


# Exceptions of a user's function that another attempt would meet again.
PROGRAMMING_ERRORS = (
    TypeError, AttributeError, NameError, AssertionError, ImportError, LookupError,
    ArithmeticError, NotImplementedError,
)  # fmt: skip


class SshConnectError(SshServiceError, ConnectionError, SSHException):  # type: ignore[misc]
    """
    No authenticated connection could be made; `errno` is set if the system gave one.

    Attributes
    ----------
    throttled : bool
        Whether the server dropped the connection at once because it has too many; trying again
        later may help.
    permanent : bool
        Whether trying again cannot help: client and server have no algorithm in common, or a
        function that you passed has a mistake (a ``TypeError``, an ``AttributeError``, ...).
    """

    throttled = False
    permanent = False

    @property
    def retryable(self) -> bool:
        """True unless `permanent`: no command was sent."""
        return not self.permanent


class SshHostKeyError(SshConnectError):
    """
    The server's host key is unknown, changed or revoked; no credential was sent.

    Attributes
    ----------
    expected : Optional[str]
        ``SHA256:...`` fingerprint of the known key, if there is one.
    received : Optional[str]
        ``SHA256:...`` fingerprint of the key that the server sent.
    """

    def __init__(
        self,
        message: str = "",
        *,
        expected: Optional[str] = None,
        received: Optional[str] = None,
        connection_id: Optional[str] = None,
        phase: Optional[str] = "host key",
    ) -> None:
        super().__init__(message, connection_id=connection_id, phase=phase)
        self.expected = expected
        self.received = received

    @property
    def retryable(self) -> bool:
        """False: somebody has to find out whose key it is."""
        return False


class SshAuthError(
    SshConnectError, PermissionError, AuthenticationException  # type: ignore[misc]
):
    """
    The server refused every credential; never retried.

    Attributes
    ----------
    tried : Tuple[str, ...]
        The keys and methods that were tried, in order, in words; never a secret.
    """

    def __init__(
        self,
        message: str = "",
        *,
        tried: Tuple[str, ...] = (),
        connection_id: Optional[str] = None,
        phase: Optional[str] = "auth",
    ) -> None:
        super().__init__(message, connection_id=connection_id, phase=phase)
        self.tried = tried

    @property
    def retryable(self) -> bool:
        """False: servers punish repeated attempts."""
        return False


class SshConnectTimeout(SshConnectError, TimeoutError):
    """Connecting took longer than the time limit."""


class SshConnectionLost(SshServiceError, ConnectionError, SSHException):  # type: ignore[misc]
    """
    An established connection was ended by the peer, the network or this side.

    Attributes
    ----------
    process : Optional[Any]
        The `CompletedProcess` with the output so far, if a command was running.
    sent : bool
        Whether the request may have reached the server.  Only a request that was never sent can
        safely be repeated.
    reason : str
        ``eof``, ``reset``, ``silence``, ``protocol``, ``disconnect``, ``host key``, ``closed`` or
        ``unknown``.
    """

    def __init__(
        self,
        message: str = "",
        *,
        process: Optional[Any] = None,
        sent: bool = True,
        reason: str = "unknown",
        connection_id: Optional[str] = None,
        phase: Optional[str] = None,
    ) -> None:
        super().__init__(message, connection_id=connection_id, phase=phase)
        self.process = process
        self.sent = sent
        self.reason = reason

    @property
    def retryable(self) -> bool:
        """True if nothing was sent, and for copies; not if the server showed another host key."""
        return self.reason != "host key" and (not self.sent or self.phase == "copy")


class SshSessionRefused(SshServiceError, ConnectionError, ChannelException):  # type: ignore[misc]
    """
    The server refused to open a channel, or refused the request on it.

    Attributes
    ----------
    code : int
        The reason code of RFC 4254 section 5.1; 0 if the server gave none.
    text : str
        The server's explanation, if it gave one; control characters are escaped.
    """

    def __init__(
        self,
        message: str = "",
        *,
        code: int = 0,
        text: str = "",
        connection_id: Optional[str] = None,
        phase: Optional[str] = "open",
    ) -> None:
        super().__init__(message, connection_id=connection_id, phase=phase)
        self.code = code
        self.text = text

    @property
    def retryable(self) -> bool:
        """True if the server has no room now: it may have some later, and nothing was sent."""
        return self.code in (OPEN_CONNECT_FAILED, OPEN_RESOURCE_SHORTAGE)


class SshCommandError(SshServiceError):
    """
    A command was ended from this side before it completed.

    Attributes
    ----------
    process : Optional[Any]
        The `CompletedProcess` with the output so far; None if the command never started.
    ended : Optional[bool]
        True if the remote process is known to have ended; None if it may still run.
    """

    def __init__(
        self,
        message: str = "",
        *,
        process: Optional[Any] = None,
        ended: Optional[bool] = None,
        connection_id: Optional[str] = None,
        phase: Optional[str] = "run",
    ) -> None:
        super().__init__(message, connection_id=connection_id, phase=phase)
        self.process = process
        self.ended = ended


# Of stderr's end, in messages: lines and characters.
_MAX_LINES, _MAX_TEXT = 3, 300


class SshExitError(SshCommandError, CalledProcessError):
    """
    A command did not end with exit status 0, and `check` was asked for.

    It is a `subprocess.CalledProcessError`, too; its ``cmd`` is never the script, which may hold
    a secret.

    Attributes
    ----------
    returncode : Optional[int]
        The exit status, or minus the signal's number; None if the server sent none.
    cmd : str
        The words "command over SSH".
    output, stdout, stderr : str
        What the command wrote, unless a function took it.
    process : CompletedProcess
        All of the outcome.
    """

    cmd = "command over SSH"

    def __init__(
        self,
        message: str = "",
        *,
        process: Optional[Any] = None,
        ended: Optional[bool] = True,
        connection_id: Optional[str] = None,
        phase: Optional[str] = "run",
    ) -> None:
        # (Not `super`, as CalledProcessError wants other arguments.)
        Exception.__init__(self, message)
        self.process, self.ended = process, ended
        self.connection_id, self.phase = connection_id, phase
        self.returncode: Any = getattr(process, "returncode", None)
        self.output = getattr(process, "stdout", None)
        self.stderr = getattr(process, "stderr", None)

    @classmethod
    def of(cls, process: Any) -> SshExitError:
        """Return the error of a `CompletedProcess`."""
        if process.exit_signal is not None:
            how = f"was ended by the signal {process.exit_signal[0]}"
        elif process.exit_status is None:
            how = "ended, and the server sent no exit status"
        else:
            how = f"ended with exit status {process.exit_status}"
        where = "" if process.connection_id is None else f"{process.connection_id}: "
        lines = process.stderr[-4 * _MAX_TEXT :].split("\n")
        last = " / ".join([line.strip() for line in lines if line.strip()][-_MAX_LINES:])
        end = f": {last[-_MAX_TEXT:]!r}" if last else ""
        text = f"{where}the command {how}{end}"
        return cls(text, process=process, connection_id=process.connection_id)


class SshCommandTimeout(SshCommandError, TimeoutError):
    """A command did not end in time; if `phase` is ``queue``, it was never sent."""

    @property
    def retryable(self) -> bool:
        """True if the command was never sent."""
        return self.phase == "queue"


class SshCommandCancelled(SshCommandError, CancelledError):
    """A command was cancelled by its caller."""


class SshOutputLimitError(SshCommandError):
    """A command wrote more to stdout or to stderr than `max_output`, and was ended."""


class SshForwardError(SshServiceError, OSError):
    """
    A forward cannot listen on its local address; `errno` and `strerror` are the system's.

    A server that refuses to listen raises `SshSessionRefused`.
    """

    @property
    def retryable(self) -> bool:
        """True if the address is taken: it may be free later."""
        return self.errno == _errno.EADDRINUSE


class SshJobError(SshServiceError, RuntimeError):
    """
    A job cannot be started, or did not end by itself.

    Attributes
    ----------
    job_id : Optional[str]
        The job.
    state : Optional[Any]
        What the host says about it, a `JobState`, if it was asked.
    process : Optional[Any]
        The `CompletedProcess` with its output so far, if that was read.
    """

    def __init__(
        self,
        message: str = "",
        *,
        job_id: Optional[str] = None,
        state: Optional[Any] = None,
        process: Optional[Any] = None,
        connection_id: Optional[str] = None,
        phase: Optional[str] = "job",
    ) -> None:
        super().__init__(message, connection_id=connection_id, phase=phase)
        self.job_id = job_id
        self.state = state
        self.process = process


class SshJobNotFound(SshJobError, LookupError):
    """The host has no job with this id, or it was removed."""


class SshJobConflict(SshJobError, ValueError):
    """The id names another job: one with another script, environment, shell, folder or input."""


class SshJobTimeout(SshServiceError, TimeoutError):
    """
    A job still ran, or its host could not be asked, when the time of a call was over.

    It says nothing bad about the job, which goes on.

    Attributes
    ----------
    job_id : Optional[str]
        The job.
    state : Optional[Any]
        What was last heard of it, a `JobState`.
    answered : bool
        Whether its host answered: the job ran then.  Otherwise the message says why not, and what
        the job does is not known.
    """

    def __init__(
        self,
        message: str = "",
        *,
        job_id: Optional[str] = None,
        state: Optional[Any] = None,
        answered: bool = False,
        connection_id: Optional[str] = None,
        phase: Optional[str] = "job",
    ) -> None:
        super().__init__(message, connection_id=connection_id, phase=phase)
        self.job_id = job_id
        self.state = state
        self.answered = answered

    @property
    def retryable(self) -> bool:
        """True: asking again, and waiting longer, changes nothing on the host."""
        return True


class SshCacheClosed(SshServiceError, RuntimeError):
    """A service or a cache was used outside its context, or after it was closed."""


class SshTransferError(SshServiceError, OSError):
    """
    A copy failed; `errno`, `strerror` and `filename` are those of the file concerned.

    Attributes
    ----------
    side : Optional[str]
        The side of that file: ``local`` or ``remote``.
    """

    # Build one with `transfer_error`, which picks the leaf that matches the errno.
    side: Optional[str] = None


class SshFileNotFoundError(SshTransferError, FileNotFoundError):
    """A file or folder to copy from, or the folder to copy into, does not exist."""


class SshFileExistsError(SshTransferError, FileExistsError):
    """The target exists and may not be replaced."""


class SshTransferPermissionError(SshTransferError, PermissionError):
    """The file's or the folder's permissions do not allow the copy."""


class SshIsADirectoryError(SshTransferError, IsADirectoryError):
    """A path is a folder where a file is needed."""


class SshNotADirectoryError(SshTransferError, NotADirectoryError):
    """A path is a file where a folder is needed."""


class SshTransferTimeout(SshTransferError, TimeoutError):
    """A copy took longer than `timeout`, or made no progress for `stall_timeout`."""

    @property
    def retryable(self) -> bool:
        """True: a copy may be repeated, and never leaves half a file."""
        return True


class SshTreeError(SshTransferError):
    """
    Some entries of a tree could not be copied, with ``on_error="continue"``.

    Attributes
    ----------
    failures : Tuple[SshTransferError, ...]
        One error for each entry, with its path as `filename`.  The content of a folder that could
        not be made or listed is not included.
    """

    failures: Tuple[SshTransferError, ...] = ()


_T = TypeVar("_T", bound=SshTransferError)

# Of the failures in a tree, those that stand in the message.
_SHOWN_FAILURES = 3

_TRANSFER_LEAVES: Dict[int, Type[SshTransferError]] = {
    _errno.ENOENT: SshFileNotFoundError,
    _errno.EEXIST: SshFileExistsError,
    _errno.EACCES: SshTransferPermissionError,
    _errno.EPERM: SshTransferPermissionError,
    _errno.EISDIR: SshIsADirectoryError,
    _errno.ENOTDIR: SshNotADirectoryError,
}


def transfer_error(
    code: int,
    path: Any,
    detail: Optional[str] = None,
    *,
    side: Optional[str] = None,
    connection_id: Optional[str] = None,
) -> SshTransferError:
    """Build the transfer error that matches an errno."""
    cls = _TRANSFER_LEAVES.get(code, SshTransferError)
    error = describe_transfer(cls, code, path, detail or os.strerror(code), side)
    return name_connection(error, connection_id)


def describe_transfer(
    cls: Type[_T], code: int, path: Any, text: str, side: Optional[str] = None
) -> _T:
    """Build a transfer error of a class of its own."""
    where = f"{path!r}" if side is None else f"{side} {path!r}"
    error = cls(f"{where}: {text}", phase="copy")
    error.errno, error.strerror, error.filename, error.side = code, text, path, side
    return error


def name_connection(error: _T, connection_id: Optional[str]) -> _T:
    """Say of a transfer error which connection it concerns, unless it says so already."""
    if connection_id is not None and error.connection_id is None:
        error.connection_id = connection_id
        error.args = (f"{connection_id}: {error.args[0]}",)
        for failure in getattr(error, "failures", ()):
            name_connection(failure, connection_id)
    return error


def tree_error(failures: Sequence[SshTransferError], path: Any, side: str) -> SshTreeError:
    """Build the error for a tree of which something could not be copied."""
    count = len(failures)
    shown = "; ".join(str(failure) for failure in failures[:_SHOWN_FAILURES])
    rest = f"; and {count - _SHOWN_FAILURES} more" if count > _SHOWN_FAILURES else ""
    text = f"{count} {'entry' if count == 1 else 'entries'} could not be copied: {shown}{rest}"
    error = describe_transfer(SshTreeError, failures[0].errno or 0, path, text, side)
    error.failures = tuple(failures)
    return error


def reason_of(error: BaseException) -> str:
    """Return the text of an error; the name of its class if it has none."""
    try:
        return str(error) or type(error).__name__
    except Exception as failure:
        return f"{type(error).__name__} (its text is not available: {type(failure).__name__})"


def copy_for_raise(error: _E) -> _E:
    """
    Copy an error, so that one of many waiters can raise its own.

    One shared exception object would grow its traceback with every thread that raises it.
    """
    return _rebuild(type(error), error.args, _state(error))
