"""The outcome of a command, and its future."""

from __future__ import annotations

import collections
import logging
import re
import signal
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, Callable, Deque, Dict, Mapping, Optional, Protocol, Tuple

_log = logging.getLogger(__name__)

# Seconds to wait for the standard library's lock, which an interrupted thread may have left taken.
_TORN_LOCK_TIMEOUT = 1.0
# The exit statuses of a shell that could not run a command.
_NOT_RUN = (126, 127)
# What `signal` lacks or numbers otherwise on Windows; equal on all POSIX systems.
_NUMBERS = {"HUP": 1, "INT": 2, "QUIT": 3, "ILL": 4, "ABRT": 6, "FPE": 8, "KILL": 9, "SEGV": 11}
_NUMBERS.update(PIPE=13, ALRM=14, TERM=15)
_ARGS_HINT = "a list is the lines of a script; for one command with its arguments, pass args=[...]"

# A command of `args` that is one word with a blank.
_ONE_QUOTED_WORD = re.compile(r"'[^'\s]+\s[^']*'\Z")
_BLANK_HINT = "the blank was taken as part of the command's name; args has one item for each word"


class CompletedProcess:
    """
    The outcome of a command; in an error, the part that was known when the command failed.

    Attributes
    ----------
    env : Optional[Dict[str, str]]
        The environment variables that the command was given; None if there were none.
    command : Optional[str]
        The script.
    subsystem : Optional[str]
        Always None: a script is not a subsystem.
    exit_status : Optional[int]
        The exit status that the server sent; -1 if a signal ended the process, None if the server
        sent neither.
    exit_signal : Optional[Tuple[str, bool, str, str]]
        The signal that ended the process: its name without ``SIG``, whether core was dumped, the
        server's message, and the language of the message.  None if no signal did.
    returncode : Optional[int]
        The exit status, or minus the signal's number (-99 for a signal that this system does not
        have); None if the server sent neither.
    stdout_bytes, stderr_bytes : bytes
        The output as bytes.
    encoding : str
        The encoding of `stdout` and `stderr`.
    connection_id : Optional[str]
        ``user@host:port`` of the connection.
    """

    # Objects that earlier releases pickled lack these attributes.
    connection_id: Optional[str] = None
    _resembles_args = False

    def __init__(
        self,
        command: Optional[str],
        env: Optional[Mapping[str, str]],
        stdout: bytes,
        stderr: bytes,
        exit_status: Optional[int] = None,
        exit_signal: Optional[Tuple[str, bool, str, str]] = None,
        encoding: str = "utf-8",
        connection_id: Optional[str] = None,
        resembles_args: bool = False,
    ) -> None:
        self.command = command
        self.env: Optional[Dict[str, str]] = dict(env) if env else None
        self.subsystem: Optional[str] = None
        self.exit_status = exit_status
        self.exit_signal = exit_signal
        self.stdout_bytes = stdout
        self.stderr_bytes = stderr
        self.encoding = encoding
        self.connection_id = connection_id
        self._resembles_args = resembles_args
        self._texts: Dict[str, str] = {}

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} exit_status={self.exit_status}"
            f" exit_signal={self.exit_signal and self.exit_signal[0]}"
            f" stdout={len(self.stdout_bytes)} bytes stderr={len(self.stderr_bytes)} bytes"
            f"{self._hint()}>"
        )

    def _hint(self) -> str:
        """Return what to say about a command whose words seem to be given in a wrong form."""
        if self._resembles_args and self.exit_status in _NOT_RUN:
            return f"; {_ARGS_HINT}"
        if self.exit_status in _NOT_RUN and _ONE_QUOTED_WORD.match(self.command or ""):
            return f"; {_BLANK_HINT}"
        return ""

    @property
    def returncode(self) -> Optional[int]:
        """The exit status, or minus the signal's number; None if the server sent neither."""
        if self.exit_signal is None:
            return self.exit_status
        # Only real signals: the server chooses the name, and SIG_DFL is 0, which means success.
        name = self.exit_signal[0]
        number = _NUMBERS.get(name, signal.Signals.__members__.get(f"SIG{name}"))
        return -int(number) if number is not None else -99

    def check_returncode(self) -> None:
        """
        Raise an error unless the exit status is 0, as in `subprocess.CompletedProcess`.

        Raises
        ------
        SshExitError
            The command ended with another exit status, by a signal, or without a status.
        """
        if self.returncode != 0:
            # Imported here, so that unpickling a `CompletedProcess` does not need paramiko.
            from ssh_service.errors import SshExitError

            raise SshExitError.of(self, self._hint())

    @property
    def stdout(self) -> str:
        """The text of stdout; bytes that `encoding` cannot decode become backslash escapes."""
        return self._text("stdout", self.stdout_bytes)

    @property
    def stderr(self) -> str:
        """The text of stderr; bytes that `encoding` cannot decode become backslash escapes."""
        return self._text("stderr", self.stderr_bytes)

    def _text(self, name: str, data: bytes) -> str:
        # Decoded once, at first use; at worst two threads decode it twice, with the same result.
        if name not in self._texts:
            self._texts[name] = data.decode(self.encoding, "backslashreplace")
        return self._texts[name]


class CommandHandle(Protocol):
    """The part of a command that its future calls."""

    def cancel(self) -> bool:
        """End the command; return False if it already has its outcome."""

    def keep_future(self) -> None:
        """Keep the future alive until it is done, because it has a done-callback."""

    def on_future_dropped(self) -> None:
        """End the command because its future was dropped; called by the future's destructor."""

    def run_callback(self, function: Callable[..., Any], *args: Any) -> None:
        """Run a user's function on a callback thread, in the order of this command's calls."""


class CommandFuture(Future):  # type: ignore[type-arg]
    """
    The future of a command: a `concurrent.futures.Future` whose `cancel` also ends the command.

    Done-callbacks run on a callback thread, so that they may block without stalling a connection
    or another command; threads that wait in `result` continue first.  A future that is dropped
    before it is done, and has no done-callback, ends its command.

    Parameters
    ----------
    command : CommandHandle
        The command.

    Notes
    -----
    Thread safety.  Every method may be called from any thread.  None takes a lock, because an
    exception that a signal handler raises could leave the lock taken:
    docs/paramiko_repairs.md#torn-calls.
    """

    def __init__(self, command: CommandHandle) -> None:
        # Imported here, so that unpickling a `CompletedProcess` does not need paramiko.
        from ssh_service.transport.lock_free import LockFreeEvent

        super().__init__()
        self._command = command
        self._process: Optional[CompletedProcess] = None
        self._error: Optional[BaseException] = None
        self._settled = LockFreeEvent()
        self._callbacks: "Deque[Callable[[Any], Any]]" = collections.deque()

    def __del__(self) -> None:
        settled = getattr(self, "_settled", None)  # None: a signal handler interrupted `__init__`
        if settled is not None and not settled.is_set():
            self._command.on_future_dropped()

    def cancel(self) -> bool:
        """
        End the command, whether it is waiting or running.

        Returns
        -------
        bool
            False if the command already has its outcome, or is already being ended.
        """
        return self._command.cancel()

    def done(self) -> bool:
        """
        Return whether the command has its outcome.

        Returns
        -------
        bool
            True once `result` and `exception` return without waiting.
        """
        return self._settled.is_set()

    def cancelled(self) -> bool:
        """
        Return whether the command ended because it was cancelled.

        Returns
        -------
        bool
            False until a cancelled command has ended, even if `cancel` returned True, because the
            outcome includes the output so far.  Then `result` raises `SshCommandCancelled`, which
            is a `CancelledError`; `exception`, unlike that of other futures, returns it.
        """
        return self.done() and isinstance(self._error, CancelledError)

    def result(self, timeout: Optional[float] = None) -> Any:
        """
        Wait for the outcome, and return or raise it.

        Parameters
        ----------
        timeout : Optional[float]
            Seconds to wait; None: no limit.

        Returns
        -------
        CompletedProcess
            The outcome.

        Raises
        ------
        concurrent.futures.TimeoutError
            There was no outcome within `timeout`.  Any other exception is the command's error.
        """
        error = self.exception(timeout)
        if error is None:
            return self._process
        try:
            raise error
        finally:
            del self, error  # else the traceback would refer to itself

    def exception(self, timeout: Optional[float] = None) -> Optional[BaseException]:
        """
        Wait for the outcome, and return the command's error.

        Parameters
        ----------
        timeout : Optional[float]
            Seconds to wait; None: no limit.

        Returns
        -------
        Optional[BaseException]
            The error; None if the command ended by itself, with any exit status.

        Raises
        ------
        concurrent.futures.TimeoutError
            There was no outcome within `timeout`.
        """
        if not self._settled.wait(timeout):
            raise FutureTimeout()
        return self._error

    def add_done_callback(self, fn: Callable[[Any], Any]) -> None:
        """
        Call a function with this future as soon as there is an outcome.

        Parameters
        ----------
        fn : Callable[[CommandFuture], Any]
            The function.  It is called on a callback thread, or at once on the calling thread if
            the future is already done.  An exception that it raises is logged.
        """
        if self._settled.is_set():
            try:
                fn(self)
            except Exception:  # as the standard library does
                _log.exception("a callback raised")
            return
        self._command.keep_future()
        self._callbacks.append(fn)
        if self._settled.is_set():  # settled meanwhile: that thread may have missed this callback
            self._call_callbacks()

    def set_result(self, result: Any) -> None:
        """Set the outcome; the command calls this once."""
        self._process = result
        self._settle(super().set_result, result)

    def set_exception(self, exception: Optional[BaseException]) -> None:
        """Set the error; the command calls this once."""
        self._error = exception
        self._settle(super().set_exception, exception)

    def _settle(self, set_outcome: Callable[[Any], None], outcome: Any) -> None:
        self._settled.set()
        self._call_callbacks()
        # For `concurrent.futures.wait` and similar functions.  A signal handler that interrupted
        # them may have left this lock taken.  (`_condition` is private, but unchanged since Python
        # 3.2; a test checks that it exists.)
        condition = getattr(self, "_condition")
        if condition.acquire(timeout=_TORN_LOCK_TIMEOUT):
            try:
                set_outcome(outcome)
            finally:
                condition.release()

    def _call_callbacks(self) -> None:
        while True:
            try:
                function = self._callbacks.popleft()
            except IndexError:
                return
            self._command.run_callback(function, self)
