"""`RemoteProcess`, the handle of a running command."""

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
    A running command; `start` returns one.

    Attributes
    ----------
    future : concurrent.futures.Future[CompletedProcess]
        The future of the command's outcome; `run` lists the errors.  ``future.cancel()`` ends the
        command.  The outcome, or its error, contains the output that was unread when the command
        ended.  `result` returns the output that is still unread when it is called.

    Notes
    -----
    Thread safety.  Every method may be called from any thread, but only one thread at a time
    should read the lines of a stream.

    As with `subprocess.Popen`, unread output blocks the command once it exceeds the window of the
    connection (some megabytes); `result` reads all output.

    As a context manager, a `RemoteProcess` ends its command at the end of the ``with`` block,
    unless the command has already ended.  If the process and its future are dropped while the
    command is running, the command is ended too, with a `ResourceWarning`.
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
        Write to the command's stdin.

        Parameters
        ----------
        data : Union[str, bytes]
            The data to write; text is encoded as UTF-8.
        timeout : Optional[float]
            Seconds to wait while the command does not read; None: wait until the command ends.

        Raises
        ------
        BrokenPipeError
            The command has ended, or `close_stdin` was called.
        TimeoutError
            `timeout` was reached; part of `data` may have been sent.
        SshConfigError
            `data` is neither text nor bytes, or `timeout` is invalid (a `ValueError`).
        """
        check_seconds("timeout", timeout)
        self._command.stdin.write(as_input(data), timeout)

    def close_stdin(self) -> None:
        """Close the command's stdin: the command reads what was written, then the end of file."""
        self._command.stdin.close()

    def signal(self, name: str) -> None:
        """
        Send a signal to the remote process group, as soon as the command has been sent.

        If the signal is KILL, TERM, INT, HUP, QUIT or ABRT and the command is still waiting for
        its connection or session, the command is never sent.  Its outcome is then that of a
        process that died by the signal.

        Parameters
        ----------
        name : str
            The name without ``SIG``: ``TERM``, ``INT``, ``HUP``, ``USR1``, ...  OpenSSH passes on
            only the signals of RFC 4254 section 6.10, and none for forced commands.

        Raises
        ------
        SshConfigError
            `name` is not the name of a signal without ``SIG`` (a `ValueError`).

        Notes
        -----
        OpenSSH loses a signal that comes before the new process leads a process group.  So a
        signal in the first quarter of a second after the server has reported the start is sent
        when that is over.  On a server that is slower than this, it can still be lost:
        ``future.cancel()`` and the `timeout` of `start` send more than one.
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
        Read stdout line by line, as the lines arrive.

        Returns
        -------
        Iterator[Union[str, bytes]]
            The lines, with their newlines, until the command ends.  If the command did not end by
            itself (a lost connection, a timeout, ...), the iterator then raises the same error as
            `result`.  The lines are bytes if `start` was called with ``encoding=None``.

        Raises
        ------
        SshConfigError
            `start` was called with ``on_stdout`` (a `ValueError`).
        """
        return self._lines(0, "on_stdout")

    def stderr_lines(self) -> Iterator[Any]:
        """
        Read stderr line by line, as the lines arrive.

        Returns
        -------
        Iterator[Union[str, bytes]]
            The lines, with their newlines, until the command ends; see `lines`.

        Raises
        ------
        SshConfigError
            `start` was called with ``on_stderr`` (a `ValueError`).
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
        Wait for the command to end, and return its outcome.

        Parameters
        ----------
        timeout : Optional[float]
            Seconds to wait; None: no limit.  The command keeps running after the timeout.

        Returns
        -------
        CompletedProcess
            The outcome, with the output that `lines` and `stderr_lines` have not returned.

        Raises
        ------
        TimeoutError
            The command did not end within `timeout`.
        SshServiceError
            The command failed, with the same errors as `run`.
        SshConfigError
            `timeout` is invalid (a `ValueError`).
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
        """Return the outcome with all output that is still unread."""
        stdout, stderr = (output.joined() for output in self._command.outputs)
        return CompletedProcess(
            process.command,
            process.env,
            stdout,
            stderr,
            process.exit_status,
            process.exit_signal,
            process.encoding,
            process.connection_id,
            self._command.resembles_args,
        )
