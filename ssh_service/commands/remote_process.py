"""A command under way: what a program may do with it."""

from __future__ import annotations

from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, Iterator, Optional, Union

from ssh_service.commands.command import Command, check_seconds
from ssh_service.commands.output import QueueOutput
from ssh_service.commands.result import CompletedProcess
from ssh_service.commands.stdin import as_input
from ssh_service.errors import SshConfigError, SshServiceError, copy_for_raise


class RemoteProcess:
    """
    A command under way; use `start` to get one.

    Attributes
    ----------
    future : concurrent.futures.Future[CompletedProcess]
        Its outcome, see `run`; ``future.cancel()`` ends it.  The output in it, or in its error,
        is what had come and was not taken when the command ended; `result` is exact.

    Notes
    -----
    Thread safety.  Every method may be called from any thread; the lines of one stream should be
    taken by one.  As with `subprocess.Popen`, output that nobody takes stops the command when it
    is more than the window of the connection (some megabytes); `result` takes it.

    As a context manager it ends the command where that has not ended by itself.  One that is
    dropped under way, with its future, does so too, with a ResourceWarning.
    """

    def __init__(self, command: Command, future: "Future[CompletedProcess]") -> None:
        self._command = command
        self.future = future

    def __repr__(self) -> str:
        state = "ended" if self.future.done() else "under way"
        return f"<{type(self).__name__} at {self._command.connection_id} ({state})>"

    def __enter__(self) -> "RemoteProcess":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.future.cancel()

    def write(self, data: Union[str, bytes], timeout: Optional[float] = None) -> None:
        """
        Let the command read something.

        Parameters
        ----------
        data : Union[str, bytes]
            Text is sent as UTF-8.
        timeout : Optional[float]
            Seconds to wait while the command does not read; None waits until it ends.

        Raises
        ------
        BrokenPipeError
            It has ended, or `close_stdin` was called.
        TimeoutError
            The time was up; part of `data` may have been sent.
        """
        check_seconds("timeout", timeout)
        self._command.stdin.write(as_input(data), timeout)

    def close_stdin(self) -> None:
        """Let the command find the end of its input."""
        self._command.stdin.close()

    def signal(self, name: str) -> None:
        """
        Send a signal to the remote process group; later, where the command was not sent yet.

        A command that waits for its connection or its session when it gets KILL, TERM, INT, HUP,
        QUIT or ABRT is never sent: its outcome is that of a process which died by that signal.

        Parameters
        ----------
        name : str
            ``TERM``, ``INT``, ``HUP``, ``USR1``, ...; OpenSSH passes on those of RFC 4254 section
            6.10 alone, and none for forced commands.

        Raises
        ------
        SshConfigError
            `name` is not the name of a signal (a `ValueError`).
        """
        self._command.signal(name)

    def terminate(self) -> None:
        """Send TERM to the remote process group, as `subprocess.Popen.terminate` does."""
        self.signal("TERM")

    def kill(self) -> None:
        """Send KILL to the remote process group; the future then receives the outcome."""
        self.signal("KILL")

    def lines(self) -> Iterator[Any]:
        """
        Take stdout line by line, as the lines come.

        Returns
        -------
        Iterator[Union[str, bytes]]
            Lines with their newlines; it ends with the command.  Where that did not end by
            itself (a lost connection, a time-out, ...), the iterator then raises as `result` does.

        Raises
        ------
        SshConfigError
            The stream goes to ``on_stdout`` (a `ValueError`).
        """
        return self._lines(0, "on_stdout")

    def stderr_lines(self) -> Iterator[Any]:
        """
        Take stderr line by line, as the lines come.

        Returns
        -------
        Iterator[Union[str, bytes]]
            As for `lines`.

        Raises
        ------
        SshConfigError
            The stream goes to ``on_stderr``.
        """
        return self._lines(1, "on_stderr")

    def _lines(self, number: int, callback: str) -> Iterator[Any]:
        output = self._command.outputs[number]
        if not isinstance(output, QueueOutput):
            raise SshConfigError(f"lines: not available when {callback} is set")
        return self._take_lines(output)

    def _take_lines(self, output: QueueOutput) -> Iterator[Any]:
        yield from output.lines()
        error = self.future.exception()
        if error is not None:
            raise copy_for_raise(error) from error

    def result(self, timeout: Optional[float] = None) -> CompletedProcess:
        """
        Wait for the outcome.

        Parameters
        ----------
        timeout : Optional[float]
            Seconds to wait; None: no limit.  The command continues when they are over.

        Returns
        -------
        CompletedProcess
            Its output is what was not taken otherwise.

        Raises
        ------
        TimeoutError
            It has not ended within that time.
        SshServiceError
            As for `run`.
        """
        check_seconds("timeout", timeout)
        for output in self._command.outputs:
            if isinstance(output, QueueOutput):
                output.collect()
        try:
            return self._whole(self.future.result(timeout))
        except SshServiceError as error:
            if isinstance(getattr(error, "process", None), CompletedProcess):
                setattr(error, "process", self._whole(getattr(error, "process")))
            raise
        except FutureTimeout:  # no builtin TimeoutError before Python 3.11
            where = self._command.connection_id
            raise TimeoutError(
                f"{where}: the command is still running after a wait of {timeout:g} s; only the"
                " timeout it was started with ends it"
            ) from None

    def _whole(self, process: CompletedProcess) -> CompletedProcess:
        """Add what waited to be taken when the command ended."""
        stdout, stderr = (output.joined() for output in self._command.outputs)
        return CompletedProcess(
            process.command,
            process.env,
            stdout,
            stderr,
            process.exit_status,
            process.exit_signal,
            process.encoding,
        )
