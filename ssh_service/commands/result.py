"""The outcome of a command, and its future."""

from __future__ import annotations

import collections
import logging
import signal
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, Callable, Deque, Dict, Mapping, Optional, Protocol, Tuple

_log = logging.getLogger(__name__)

# Seconds the outcome waits for a lock of the standard library's, taken by who was torn from it.
_TORN_LOCK_TIMEOUT = 1.0


class CompletedProcess:
    """
    A command's outcome, or what was known of it when it was cut off.

    Attributes
    ----------
    env : Optional[Dict[str, str]]
        The environment variables it was given.
    command : Optional[str]
        The script.
    subsystem : Optional[str]
        Always None: a script is not a subsystem.
    exit_status : Optional[int]
        As the server sent it; -1 where a signal ended the process, None if the server sent none.
    exit_signal : Optional[Tuple[str, bool, str, str]]
        Name (without ``SIG``), whether core was dumped, the server's text, and its language.
    returncode : Optional[int]
        The exit status, or minus the signal's number; None if the server sent none.
    stdout_bytes, stderr_bytes : bytes
        The output as it came.
    encoding : str
        The encoding of `stdout` and `stderr`.
    connection_id : Optional[str]
        ``user@host:port`` of its connection.
    """

    connection_id: Optional[str] = None  # of those that 0.1.0 pickled

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
        self._texts: Dict[str, str] = {}

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} exit_status={self.exit_status}"
            f" exit_signal={self.exit_signal and self.exit_signal[0]}"
            f" stdout={len(self.stdout_bytes)} bytes stderr={len(self.stderr_bytes)} bytes>"
        )

    @property
    def returncode(self) -> Optional[int]:
        """See the class."""
        if self.exit_signal is None:
            return self.exit_status
        # Only real signals: the server chose the name, and SIG_DFL is 0, which is success.
        number = signal.Signals.__members__.get(f"SIG{self.exit_signal[0]}")
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
            # Not at the top: a `CompletedProcess` that was pickled is read without paramiko.
            from ssh_service.errors import SshExitError

            raise SshExitError.of(self)

    @property
    def stdout(self) -> str:
        """The text of stdout; bytes that `encoding` cannot decode become backslash escapes."""
        return self._text("stdout", self.stdout_bytes)

    @property
    def stderr(self) -> str:
        """The text of stderr; bytes that `encoding` cannot decode become backslash escapes."""
        return self._text("stderr", self.stderr_bytes)

    def _text(self, name: str, data: bytes) -> str:
        # Decoded when asked for, and once; two threads at worst do it twice, with one result.
        if name not in self._texts:
            self._texts[name] = data.decode(self.encoding, "backslashreplace")
        return self._texts[name]


class CommandHandle(Protocol):
    """The part of a command that its future calls."""

    def cancel(self) -> bool:
        """End the command; False if it had its outcome already."""

    def keep_future(self) -> None:
        """Keep the future alive until it is done, because it has a done-callback."""

    def on_future_dropped(self) -> None:
        """End the command, as its future was dropped; a destructor calls this."""

    def run_callback(self, function: Callable[..., Any], *args: Any) -> None:
        """Run a user's function, in an order of this command's own."""


class CommandFuture(Future):  # type: ignore[type-arg]
    """
    A real `concurrent.futures.Future` whose `cancel` also ends a command that is under way.

    Its done-callbacks run on a callback thread, so that they may wait without stalling a
    connection or another command; threads that wait in `result` are released first.  One that was
    dropped before it is done, with no done-callback, ends its command.

    Parameters
    ----------
    command : Fate
        Whose outcome it tells.

    Notes
    -----
    Thread safety.  Every method may be called from any thread.  None takes a lock, which an
    exception of a signal handler could leave taken: docs/paramiko_repairs.md#torn-calls.
    """

    def __init__(self, command: CommandHandle) -> None:
        # Not at the top: a `CompletedProcess` that was pickled is read without paramiko.
        from ssh_service.transport.lock_free import LockFreeEvent

        super().__init__()
        self._command = command
        self._process: Optional[CompletedProcess] = None
        self._error: Optional[BaseException] = None
        self._settled = LockFreeEvent()
        self._callbacks: "Deque[Callable[[Any], Any]]" = collections.deque()

    def __del__(self) -> None:
        settled = getattr(self, "_settled", None)  # None: a signal's handler tore `__init__`
        if settled is not None and not settled.is_set():
            self._command.on_future_dropped()

    def cancel(self) -> bool:
        """
        End the command, wherever it is.

        Returns
        -------
        bool
            False if it had its outcome already.
        """
        return self._command.cancel()

    def done(self) -> bool:
        """
        Return whether there is an outcome.

        Returns
        -------
        bool
            True once there is.
        """
        return self._settled.is_set()

    def cancelled(self) -> bool:
        """
        Return whether the command ended because it was cancelled.

        Returns
        -------
        bool
            False while it is still being ended, though `cancel` was True: the output so far comes
            with the end.  `result` then raises `SshCommandCancelled`, which is a
            `CancelledError`; `exception`, unlike that of other futures, returns it.
        """
        return self.done() and isinstance(self._error, CancelledError)

    def result(self, timeout: Optional[float] = None) -> Any:
        """
        Wait for the outcome.

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
            There is no outcome yet.  Any other exception is the command's error.
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
        Wait for the outcome, and return its error.

        Parameters
        ----------
        timeout : Optional[float]
            Seconds to wait; None: no limit.

        Returns
        -------
        Optional[BaseException]
            None if the command ended by itself, whatever its exit status.

        Raises
        ------
        concurrent.futures.TimeoutError
            There is no outcome yet.
        """
        if not self._settled.wait(timeout):
            raise FutureTimeout()
        return self._error

    def add_done_callback(self, fn: Callable[[Any], Any]) -> None:
        """
        Have a function called with this future when there is an outcome.

        Parameters
        ----------
        fn : Callable[[CommandFuture], Any]
            Called on a callback thread; at once, on this one, where there is an outcome already.
            What it raises is logged.
        """
        if self._settled.is_set():
            try:
                fn(self)
            except Exception:  # as the standard library does
                _log.exception("a callback raised")
            return
        self._command.keep_future()
        self._callbacks.append(fn)
        if self._settled.is_set():  # just now: the settling thread may have missed this one
            self._call_callbacks()

    def set_result(self, result: Any) -> None:
        """Set the outcome; called by the command, once."""
        self._process = result
        self._settle(super().set_result, result)

    def set_exception(self, exception: Optional[BaseException]) -> None:
        """Set the error; called by the command, once."""
        self._error = exception
        self._settle(super().set_exception, exception)

    def _settle(self, set_outcome: Callable[[Any], None], outcome: Any) -> None:
        self._settled.set()
        self._call_callbacks()
        # For `concurrent.futures.wait` and its like.  A thread that was torn from there by a
        # signal's handler may have left this lock taken.  (A part of the standard library that is
        # private, but has stood since Python 3.2; a test says so.)
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
