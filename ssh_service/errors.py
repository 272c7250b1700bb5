"""
The exceptions of this package, in one class hierarchy.

Every exception of this package is an `SshServiceError`.  Each concrete class is also the builtin
exception that code without knowledge of this package would catch (`ConnectionError`,
`TimeoutError`, `PermissionError`, ...).  Errors of connections and channels are also paramiko's
exceptions (`SSHException`, `ChannelException`, `AuthenticationException`), for code that was
written for a `paramiko.Transport`.  All exceptions can be pickled, and none contains a secret: a
message names the host, the limit and the time that has passed, never parameters.
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
    "SshCwdError",
    "SshCwdNotFoundError",
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
    "SshSudoRefused",
    "SshTransferError",
    "SshTransferPermissionError",
    "SshTransferTimeout",
    "SshTreeError",
    "copy_for_raise",
    "cwd_error",
    "name_connection",
    "reason_of",
    "transfer_error",
    "tree_error",
]


class SshServiceError(Exception):
    """
    The base class of every exception that this package raises.

    Parameters
    ----------
    message : str
        A description of the error.
    connection_id, phase : Optional[str]
        The attributes of the same names.

    Attributes
    ----------
    connection_id : Optional[str]
        ``user@host:port`` of the connection; None if there is none.
    phase : Optional[str]
        The operation that failed: ``resolve``, ``tcp``, ``banner``, ``kex``, ``host key``,
        ``auth``, ``queue``, ``open``, ``run``, ``copy``, ...
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
        Whether the call may be repeated, and may then succeed.

        True only if nothing would be done twice: nothing was sent, or the call was a copy, which
        is safe to repeat.  False if a person must correct something first.
        """
        return False

    def __str__(self) -> str:
        # OSError.__str__ would show errno and path instead of the message, and omit the host.
        return Exception.__str__(self)

    def __reduce__(self) -> Tuple[Any, ...]:
        # The default would call the class with `args` only, losing every keyword attribute (and
        # OSError.__reduce__ would use a two-argument form).
        return _rebuild, (type(self), self.args, _state(self))


def _state(error: BaseException) -> Dict[str, Any]:
    state = dict(error.__dict__)
    if isinstance(error, OSError):  # these three are stored in slots, not in __dict__
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
    """A setting is missing or invalid, or contradicts another one; never retried."""


# Exceptions of a user's function that would recur at another attempt.
PROGRAMMING_ERRORS = (
    TypeError, AttributeError, NameError, AssertionError, ImportError, LookupError,
    ArithmeticError, NotImplementedError,
)  # fmt: skip


class SshConnectError(SshServiceError, ConnectionError, SSHException):  # type: ignore[misc]
    """
    No authenticated connection could be made; `errno` is set if the system reported one.

    Attributes
    ----------
    throttled : bool
        Whether the server closed the connection immediately because it has too many; a later
        attempt may succeed.
    permanent : bool
        Whether a later attempt cannot succeed: client and server have no algorithm in common, or a
        function that you passed has a programming error (``TypeError``, ``AttributeError``, ...).
    """

    throttled = False
    permanent = False

    @property
    def retryable(self) -> bool:
        """True unless `permanent`: no command was sent."""
        return not self.permanent


class SshHostKeyError(SshConnectError):
    """
    The server's host key is unknown, changed or revoked; no credentials were sent.

    Attributes
    ----------
    expected : Optional[str]
        The ``SHA256:...`` fingerprint of the known key; None if there is none.
    received : Optional[str]
        The ``SHA256:...`` fingerprint of the key that the server sent.
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
        """False: a person must verify the key first."""
        return False


class SshAuthError(
    SshConnectError, PermissionError, AuthenticationException  # type: ignore[misc]
):
    """
    The server rejected all credentials; never retried.

    Attributes
    ----------
    tried : Tuple[str, ...]
        The keys and methods that were tried, in order, as descriptions without secrets.
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
    """The connection was not established within the time limit."""


class SshConnectionLost(SshServiceError, ConnectionError, SSHException):  # type: ignore[misc]
    """
    An established connection was closed by the peer, the network or this side.

    Attributes
    ----------
    process : Optional[Any]
        The `CompletedProcess` with the output so far; None if no command was running.
    sent : bool
        Whether the request may have reached the server.  Only a request that was not sent can
        safely be repeated.
    reason : str
        The cause: ``eof``, ``reset``, ``silence``, ``protocol``, ``disconnect``, ``host key``,
        ``closed`` or ``unknown``.
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
        """True if nothing was sent, and for copies; False if the server has another host key."""
        return self.reason != "host key" and (not self.sent or self.phase == "copy")


class SshSessionRefused(SshServiceError, ConnectionError, ChannelException):  # type: ignore[misc]
    """
    The server refused to open a channel, or refused a request on it.

    Attributes
    ----------
    code : int
        The reason code of RFC 4254 section 5.1; 0 if the server gave none.
    text : str
        The server's explanation, empty if there is none; control characters are escaped.
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
        """True if the server has reached a limit: nothing was sent, and it may accept later."""
        return self.code in (OPEN_CONNECT_FAILED, OPEN_RESOURCE_SHORTAGE)


class SshCommandError(SshServiceError):
    """
    A command was ended by this side before it completed.

    Attributes
    ----------
    process : Optional[Any]
        The `CompletedProcess` with the output so far; None if the command never started.
    ended : Optional[bool]
        True if the remote process has ended; None if it may still be running.
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


# The maximum number of lines and characters of stderr's end in a message.
_MAX_LINES, _MAX_TEXT = 3, 300


class SshExitError(SshCommandError, CalledProcessError):
    """
    A command with `check` did not end with exit status 0.

    It is also a `subprocess.CalledProcessError`.  Its ``cmd`` is never the script, which may
    contain a secret.

    Attributes
    ----------
    returncode : Optional[int]
        The exit status, or the negative signal number; None if the server sent neither.
    cmd : str
        Always "command over SSH".
    output, stdout, stderr : str
        The command's output, except what was passed to a function.
    process : CompletedProcess
        The complete result.
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
        # (Not `super()`: CalledProcessError takes other arguments.)
        Exception.__init__(self, message)
        self.process, self.ended = process, ended
        self.connection_id, self.phase = connection_id, phase
        self.returncode: Any = getattr(process, "returncode", None)
        self.output = getattr(process, "stdout", None)
        self.stderr = getattr(process, "stderr", None)

    @classmethod
    def of(cls, process: Any, hint: str = "") -> SshExitError:
        """Return the error for a `CompletedProcess`, with a hint at the end of its message."""
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
        text = f"{where}the command {how}{end}{hint}"
        return cls(text, process=process, connection_id=process.connection_id)


class SshCwdError(SshCommandError, OSError):
    """
    A command's `cwd` cannot be entered, so that nothing was run.

    `errno`, `strerror` and `filename` describe the folder.
    """


class SshCwdNotFoundError(SshCwdError, FileNotFoundError):
    """A command's `cwd` does not exist, so that nothing was run."""


def kind_of_path(value: object) -> str:
    """Return the name of a wrong type; for an `SshPath`, also what to pass instead."""
    name = type(value).__name__
    return f"{name}; pass str(path)" if name == "SshPath" else name


def cwd_error(code: int, cwd: str, text: str, connection_id: str) -> SshCwdError:
    """Build the error for a folder that a command cannot be run in."""
    cls = SshCwdNotFoundError if code == _errno.ENOENT else SshCwdError
    error = cls(
        f"{connection_id}: cwd {cwd!r} {text}; nothing was run",
        ended=True,
        connection_id=connection_id,
    )
    error.errno, error.strerror, error.filename = code, text, cwd
    return error


class SshSudoRefused(SshCommandError, PermissionError):
    """
    sudo did not run a command.

    It is not installed, the user may not run the command, the password is wrong or missing, sudo
    requires a terminal, or it asks for something other than a password.  The message has what sudo
    printed.

    Attributes
    ----------
    printed : str
        What sudo printed, as the message has it, without quotes; ``""`` if it printed nothing.
    """

    printed: str = ""


class SshStdioError(SshCommandError, OSError):
    """
    A file that is a command's stdin, stdout or stderr cannot be used; the command was ended.

    `errno`, `strerror` and `filename` describe the file; the cause is the error of the file.
    """


def stdio_error(what: str, file: object, cause: BaseException) -> SshStdioError:
    """Build the error for a file that cannot be read or written."""
    name = getattr(file, "name", None)
    reason = getattr(cause, "strerror", None) or reason_of(cause)
    shown = "" if name is None else f" ({name!r})"
    error = SshStdioError(f"{what}{shown}: {reason}")
    error.errno, error.strerror = getattr(cause, "errno", None), reason
    error.filename = name
    error.__cause__ = cause
    return error


class SshCommandTimeout(SshCommandError, TimeoutError):
    """A command did not end in time; if `phase` is ``queue``, it was never sent."""

    @property
    def retryable(self) -> bool:
        """True if the command was never sent."""
        return self.phase == "queue"


class SshCommandCancelled(SshCommandError, CancelledError):
    """A command was cancelled by its caller."""


class SshOutputLimitError(SshCommandError):
    """A command was ended because stdout or stderr exceeded `max_output`."""


class SshForwardError(SshServiceError, OSError):
    """
    A forward cannot listen on its local address; `errno` and `strerror` are the system's.

    If a server refuses to listen, `SshSessionRefused` is raised instead.
    """

    @property
    def retryable(self) -> bool:
        """True if the address is in use: it may be free later."""
        return self.errno == _errno.EADDRINUSE


class SshJobError(SshServiceError, RuntimeError):
    """
    A job could not be started, or did not end by itself.

    Attributes
    ----------
    job_id : Optional[str]
        The id of the job.
    state : Optional[Any]
        The host's answer about the job, a `JobState`; None if the host was not queried.
    process : Optional[Any]
        The `CompletedProcess` with the output so far; None if it was not read.
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
    """The id belongs to a job with another script, environment, shell, folder or input."""


class SshJobTimeout(SshServiceError, TimeoutError):
    """
    A call timed out while a job still ran, or its host could not be queried.

    The job is not affected, and continues.

    Attributes
    ----------
    job_id : Optional[str]
        The id of the job.
    state : Optional[Any]
        The host's last answer about the job, a `JobState`.
    answered : bool
        Whether the host answered, so that the job was running at that time.  If not, the message
        has the reason, and the job's state is unknown.
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
        """True: a repeated query, or a longer wait, changes nothing on the host."""
        return True


class SshCacheClosed(SshServiceError, RuntimeError):
    """A service or a cache was used outside its context, or after it was closed."""


class SshTransferError(SshServiceError, OSError):
    """
    A copy, or another use of a file, failed; `errno`, `strerror` and `filename` say why and where.

    Attributes
    ----------
    side : Optional[str]
        The side of this file: ``local`` or ``remote``.
    """

    # Build errors with `transfer_error`, which picks the class that matches the errno.
    side: Optional[str] = None


class SshFileNotFoundError(SshTransferError, FileNotFoundError):
    """The file or folder does not exist, such as the source of a copy, or its target's folder."""


class SshFileExistsError(SshTransferError, FileExistsError):
    """The target exists and must not be replaced."""


class SshTransferPermissionError(SshTransferError, PermissionError):
    """The permissions of the file or folder do not allow what was asked."""


class SshIsADirectoryError(SshTransferError, IsADirectoryError):
    """A path is a folder, but a file is required."""


class SshNotADirectoryError(SshTransferError, NotADirectoryError):
    """A path is a file, but a folder is required."""


class SshTransferTimeout(SshTransferError, TimeoutError):
    """A copy took longer than `timeout`, or made no progress for `stall_timeout`."""

    @property
    def retryable(self) -> bool:
        """True: a copy may be repeated, and never leaves an incomplete file."""
        return True


class SshTreeError(SshTransferError):
    """
    Some entries of a tree could not be copied, with ``on_error="continue"``.

    Attributes
    ----------
    failures : Tuple[SshTransferError, ...]
        One error per entry, with its path as `filename`, sorted by path.  The content of a folder
        that could not be created or listed is not included.
    """

    failures: Tuple[SshTransferError, ...] = ()


_T = TypeVar("_T", bound=SshTransferError)

# The number of failures in a tree that the message includes.
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
    """Build a transfer error of a given class."""
    where = f"{path!r}" if side is None else f"{side} {path!r}"
    error = cls(f"{where}: {text}", phase="copy")
    error.errno, error.strerror, error.filename, error.side = code, text, path, side
    return error


def name_connection(error: _T, connection_id: Optional[str]) -> _T:
    """Set the connection id of a transfer error, unless it has one."""
    if connection_id is not None and error.connection_id is None:
        error.connection_id = connection_id
        error.args = (f"{connection_id}: {error.args[0]}",)
        for failure in getattr(error, "failures", ()):
            name_connection(failure, connection_id)
    return error


def tree_error(failures: Sequence[SshTransferError], path: Any, side: str) -> SshTreeError:
    """Build the error for a tree whose entries could not all be copied."""
    count = len(failures)
    # They arrive in another order each time, as entries are copied side by side.
    failures = sorted(failures, key=lambda failure: str(failure.filename))
    shown = "; ".join(map(str, failures[:_SHOWN_FAILURES]))
    rest = f"; and {count - _SHOWN_FAILURES} more" if count > _SHOWN_FAILURES else ""
    text = f"{count} {'entry' if count == 1 else 'entries'} could not be copied: {shown}{rest}"
    error = describe_transfer(SshTreeError, failures[0].errno or 0, path, text, side)
    error.failures = tuple(failures)
    return error


def reason_of(error: BaseException) -> str:
    """Return the text of an error, or its class name if there is no text."""
    try:
        return str(error) or type(error).__name__
    except Exception as failure:
        return f"{type(error).__name__} (its text is not available: {type(failure).__name__})"


def copy_for_raise(error: _E) -> _E:
    """
    Copy an error, so that each of several waiting threads can raise its own.

    A shared exception object would grow its traceback with every thread that raises it.
    """
    return _rebuild(type(error), error.args, _state(error))
