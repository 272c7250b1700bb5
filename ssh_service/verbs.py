"""
The verbs for programs: run, start, upload, download.

They take a destination and need no cache: one of their own, shared by the whole process, keeps
the connections.
"""

from __future__ import annotations

from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, Callable, Iterator, List, Mapping, Optional, Union

from ssh_service import copying, params, remote, script
from ssh_service.cache import SshClientCache
from ssh_service.command import Command, CompletedProcess, Direct
from ssh_service.copying import ProgressCallback
from ssh_service.errors import SshConfigError, SshConnectionLost, SshServiceError
from ssh_service.remote import Path
from ssh_service.script import Script
from ssh_service.streams import CallbackOutput, Output, QueueOutput
from ssh_service.transport import SshTransport

Destination = Union[Mapping[str, Any], SshTransport]
OnOutput = Callable[[Any], None]

# Seconds after which the process's own cache closes a connection that nobody uses.
_IDLE_TIMEOUT = 600.0

_cache = SshClientCache()


def default_cache() -> SshClientCache:
    """
    Return the cache these functions use where none is given.

    Returns
    -------
    SshClientCache
        One for the whole process; it closes what was not used for ten minutes.
    """
    return _cache


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

    As a context manager it ends the command where that has not ended by itself.
    """

    def __init__(self, command: Command) -> None:
        self._command = command
        self.future: "Future[CompletedProcess]" = command.future

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
        self._command.stdin.write(_bytes(data), timeout)

    def close_stdin(self) -> None:
        """Let the command find the end of its input."""
        self._command.stdin.close()

    def signal(self, name: str) -> None:
        """
        Send a signal to the remote process group.

        Parameters
        ----------
        name : str
            ``TERM``, ``INT``, ``HUP``, ``USR1``, ...; OpenSSH passes on those of RFC 4254 section
            6.10 alone, and none for forced commands.

        Raises
        ------
        SshConfigError
            That is no signal's name (a `ValueError`).
        """
        self._command.signal(name)

    def kill(self) -> None:
        """Send KILL to the remote process group; the future then tells of it."""
        self.signal("KILL")

    def lines(self) -> Iterator[Any]:
        """
        Take stdout line by line, as the lines come.

        Returns
        -------
        Iterator[Union[str, bytes]]
            Lines with their newlines; it ends when the command closes its stdout, or ends.
        """
        return _lines(self._command.outputs[0])

    def stderr_lines(self) -> Iterator[Any]:
        """
        Take stderr line by line, as the lines come.

        Returns
        -------
        Iterator[Union[str, bytes]]
            As for `lines`.
        """
        return _lines(self._command.outputs[1])

    def result(self, timeout: Optional[float] = None) -> CompletedProcess:
        """
        Wait for the outcome.

        Parameters
        ----------
        timeout : Optional[float]
            Seconds to wait; None waits for ever.  The command goes on when they are over.

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
            raise TimeoutError(f"the command did not end within {timeout:g} s") from None

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
        )


def _lines(output: Output) -> Iterator[Any]:
    if not isinstance(output, QueueOutput):
        raise ValueError("this stream goes to a callback: its lines cannot be taken as well")
    return output.lines()


def _bytes(data: Union[str, bytes]) -> bytes:
    if not isinstance(data, (str, bytes, bytearray, memoryview)):
        raise SshConfigError(f"stdin: expected a text or bytes, got {type(data).__name__}")
    return data.encode() if isinstance(data, str) else bytes(data)


def start(
    destination: Destination,
    text: Script,
    *,
    env: Optional[Mapping[str, Any]] = None,
    shell: Optional[str] = None,
    stdin: Union[str, bytes] = b"",
    timeout: Optional[float] = None,
    on_stdout: Optional[OnOutput] = None,
    on_stderr: Optional[OnOutput] = None,
    encoding: Optional[str] = "utf-8",
    pty: bool = False,
    max_connections: int = remote.MAX_CONNECTIONS,
    cache: Optional[SshClientCache] = None,
) -> RemoteProcess:
    """
    Start a script, and go on with it while it runs.

    Parameters
    ----------
    destination : Union[Mapping[str, Any], SshTransport]
        Connect parameters, see `SshClientCache.get_client_connection`; or a connection.
    text : Union[str, Iterable[str]]
        The script, or its lines.
    env : Optional[Mapping[str, Any]]
        Environment variables; values go through `str`.
    shell : Optional[str]
        The shell to run it in, a path on the server; None takes the login shell.
    stdin : Union[str, bytes]
        What it can read at first; `RemoteProcess.write` may follow, until `close_stdin`.
    timeout : Optional[float]
        Seconds from now for everything: connecting, waiting for a session, running.
    on_stdout, on_stderr : Optional[Callable[[Union[str, bytes]], None]]
        Called with each piece of output as it comes, on the callback thread; the server sends no
        more than the connection's window ahead of it.  What it raises is logged.
    encoding : Optional[str]
        Of the lines and pieces, undecodable bytes become backslash escapes; None gives bytes.
        Lines need one in which a newline is one byte, as in all but UTF-16 and UTF-32.
    pty : bool
        Whether it gets a terminal; then stderr comes with stdout.
    max_connections : int
        How many connections there may be, where the server limits sessions.
    cache : Optional[SshClientCache]
        Where the connection comes from; None takes the process's own, `default_cache`.

    Returns
    -------
    RemoteProcess
        The command, at once; it may still have to wait for its connection.

    Raises
    ------
    SshConfigError
        A parameter, the script or a variable's name is wrong (a `ValueError`).
    """
    outputs: List[Output] = [
        QueueOutput(encoding) if function is None else CallbackOutput(function, encoding)
        for function in (on_stdout, on_stderr)
    ]
    command = _begin(
        destination,
        text,
        outputs,
        env=env,
        shell=shell,
        stdin=stdin,
        more_stdin=True,
        timeout=timeout,
        pty=pty,
        max_connections=max_connections,
        cache=cache,
    )
    return RemoteProcess(command)


def run(
    destination: Destination,
    text: Script,
    *,
    env: Optional[Mapping[str, Any]] = None,
    shell: Optional[str] = None,
    stdin: Union[str, bytes] = b"",
    timeout: Optional[float] = None,
    on_stdout: Optional[OnOutput] = None,
    on_stderr: Optional[OnOutput] = None,
    encoding: Optional[str] = "utf-8",
    pty: bool = False,
    max_output: Optional[int] = None,
    max_connections: int = remote.MAX_CONNECTIONS,
    cache: Optional[SshClientCache] = None,
) -> CompletedProcess:
    """
    Run a script and wait for its outcome.

    Parameters
    ----------
    destination, text, env, shell, timeout, pty, max_connections, cache
        As for `start`.
    stdin : Union[str, bytes]
        What the script can read; it finds the end of the file after it.
    on_stdout, on_stderr, encoding
        As for `start`; what a function was given is not in the outcome.
    max_output : Optional[int]
        Bytes that stdout and stderr may each have; a command that writes more is ended.

    Returns
    -------
    CompletedProcess
        The outcome, whatever the exit status.

    Raises
    ------
    SshConfigError
        A parameter, the script, a variable's name or a key file is wrong (a `ValueError`).
    SshConnectError
        No authenticated connection could be had; nothing was sent.
    SshCommandTimeout
        It did not end in time; `process` has the output so far.
    SshConnectionLost
        The connection ended under it; `process` has the output so far.
    SshOutputLimitError
        It wrote more than `max_output`; `process` has the output up to there.
    SshSessionRefused
        The server admits no session, or runs no commands.
    """
    outputs: List[Output] = [
        Output(max_output) if function is None else CallbackOutput(function, encoding)
        for function in (on_stdout, on_stderr)
    ]
    command = _begin(
        destination,
        text,
        outputs,
        env=env,
        shell=shell,
        stdin=stdin,
        more_stdin=False,
        timeout=timeout,
        pty=pty,
        max_connections=max_connections,
        cache=cache,
    )
    try:
        process: CompletedProcess = command.future.result()
    except KeyboardInterrupt:
        command.future.cancel()  # the user gave up on it: it is not to go on over there
        raise
    return process


def _begin(
    destination: Destination,
    text: Script,
    outputs: List[Output],
    *,
    env: Optional[Mapping[str, Any]],
    shell: Optional[str],
    stdin: Union[str, bytes],
    more_stdin: bool,
    timeout: Optional[float],
    pty: bool,
    max_connections: int,
    cache: Optional[SshClientCache],
) -> Command:
    transport = destination if isinstance(destination, SshTransport) else None
    target = None if isinstance(destination, SshTransport) else params.resolve(destination)
    command = Command(
        script.join(text),
        script.check_environment(env),
        shell,
        transport.connection_id if transport else target.connection_id if target else "",
        timeout=timeout,
        stdin=_bytes(stdin),
        more_stdin=more_stdin,
        stdout=outputs[0],
        stderr=outputs[1],
        pty=pty,
    )
    if target is not None:
        remote.begin(
            default_cache() if cache is None else cache,
            target,
            command,
            max_connections,
            idle_timeout=_IDLE_TIMEOUT,
        )
    elif transport is not None:
        try:
            transport.start_session(Direct(command))
        except SshConnectionLost as exc:
            command.fail(exc)
    return command


def upload(
    destination: Destination,
    local_path: Path,
    remote_path: Path,
    *,
    recursive: bool = True,
    timeout: Optional[float] = None,
    verify: bool = False,
    resume: bool = False,
    fsync: bool = False,
    progress: Optional[ProgressCallback] = None,
    cache: Optional[SshClientCache] = None,
) -> None:
    """
    Copy a local file or tree to a destination.

    Parameters
    ----------
    destination, cache
        As for `start`.
    local_path, remote_path, recursive, timeout, verify, resume, fsync, progress
        As for `ssh_service.copying.upload`, which also says what is raised.
    """
    _copy(
        copying.upload,
        remote.upload,
        destination,
        local_path,
        remote_path,
        cache,
        recursive=recursive,
        timeout=timeout,
        verify=verify,
        resume=resume,
        fsync=fsync,
        progress=progress,
    )


def download(
    destination: Destination,
    remote_path: Path,
    local_path: Path,
    *,
    recursive: bool = True,
    timeout: Optional[float] = None,
    verify: bool = False,
    resume: bool = False,
    fsync: bool = False,
    progress: Optional[ProgressCallback] = None,
    cache: Optional[SshClientCache] = None,
) -> None:
    """
    Copy a file or tree from a destination.

    Parameters
    ----------
    destination, cache
        As for `start`.
    remote_path, local_path, recursive, timeout, verify, resume, fsync, progress
        As for `ssh_service.copying.download`, which also says what is raised.
    """
    _copy(
        copying.download,
        remote.download,
        destination,
        remote_path,
        local_path,
        cache,
        recursive=recursive,
        timeout=timeout,
        verify=verify,
        resume=resume,
        fsync=fsync,
        progress=progress,
    )


def _copy(
    over: Callable[..., None],
    by_cache: Callable[..., None],
    destination: Destination,
    source: Path,
    target: Path,
    cache: Optional[SshClientCache],
    **options: Any,
) -> None:
    if isinstance(destination, SshTransport):
        over(destination, source, target, **options)
    else:
        by_cache(
            default_cache() if cache is None else cache, destination, source, target, **options
        )
