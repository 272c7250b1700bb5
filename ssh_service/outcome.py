"""What came of a command, and the future that tells it."""

from __future__ import annotations

import signal
from concurrent.futures import CancelledError, Future
from typing import Callable, Dict, Mapping, Optional, Tuple


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
        None: a script is no subsystem.
    exit_status : Optional[int]
        As the server sent it; -1 where a signal ended the process, None where nothing was told.
    exit_signal : Optional[Tuple[str, bool, str, str]]
        Name (without ``SIG``), whether core was dumped, the server's text, and its language.
    returncode : Optional[int]
        The exit status, or minus the signal's number; None where nothing was told.
    stdout_bytes, stderr_bytes : bytes
        The output as it came.
    """

    def __init__(
        self,
        command: Optional[str],
        env: Optional[Mapping[str, str]],
        stdout: bytes,
        stderr: bytes,
        exit_status: Optional[int] = None,
        exit_signal: Optional[Tuple[str, bool, str, str]] = None,
    ) -> None:
        self.command = command
        self.env: Optional[Dict[str, str]] = dict(env) if env else None
        self.subsystem: Optional[str] = None
        self.exit_status = exit_status
        self.exit_signal = exit_signal
        self.stdout_bytes = stdout
        self.stderr_bytes = stderr
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

    @property
    def stdout(self) -> str:
        """What the command wrote to stdout; bytes that are not UTF-8 as backslash escapes."""
        return self._text("stdout", self.stdout_bytes)

    @property
    def stderr(self) -> str:
        """What the command wrote to stderr; bytes that are not UTF-8 as backslash escapes."""
        return self._text("stderr", self.stderr_bytes)

    def _text(self, name: str, data: bytes) -> str:
        # Decoded when asked for, and once; two threads at worst do it twice, with one result.
        if name not in self._texts:
            self._texts[name] = data.decode("utf-8", "backslashreplace")
        return self._texts[name]


class CommandFuture(Future):  # type: ignore[type-arg]
    """
    A real `concurrent.futures.Future` whose `cancel` also ends a command that is under way.

    Its done-callbacks run on the callback thread (beside it, where that began the command), so
    that they may wait without stalling a connection; whoever waits in `result` is released first.
    """

    def __init__(self, cancel: Callable[[], bool], run_callback: Callable[..., None]) -> None:
        super().__init__()
        self._cancel = cancel
        self._run_callback = run_callback

    def cancel(self) -> bool:
        """
        End the command, wherever it is.

        Returns
        -------
        bool
            False if it had its outcome already.
        """
        return self._cancel()

    def cancelled(self) -> bool:
        """
        Tell whether the command ended because it was cancelled.

        Returns
        -------
        bool
            False while it is still being ended, though `cancel` was True: the output so far comes
            with the end.  `result` then raises `SshCommandCancelled`, which is a
            `CancelledError`; `exception`, unlike that of other futures, returns it.
        """
        return self.done() and isinstance(self.exception(), CancelledError)

    def _invoke_callbacks(self) -> None:
        # Futures are settled on reader threads, where the user's code has no business.  (A part
        # of the standard library that is private, but has stood since Python 3.2; a test says so.)
        if getattr(self, "_done_callbacks"):
            self._run_callback(getattr(super(), "_invoke_callbacks"))
