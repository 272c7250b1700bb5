"""
The main functions of the package: `run`, `start`, `upload` and `download`.

They take a destination.  By default they share one cache, `default_cache`, which keeps the
connections for the whole process.
"""

from __future__ import annotations

import subprocess
from typing import IO, Any, Mapping, Optional, Sequence, Tuple, Union

from ssh_service import operations, params
from ssh_service.commands import unpooled
from ssh_service.commands.command import Command
from ssh_service.commands.files import FileOutput, feed
from ssh_service.commands.output import (
    CallbackOutput,
    DiscardedOutput,
    OnOutput,
    Output,
    QueueOutput,
    check_encoding,
)
from ssh_service.commands.remote_process import RemoteProcess
from ssh_service.commands.result import CommandFuture, CompletedProcess
from ssh_service.commands.script import Script, StrPath, one_script, resembles_args
from ssh_service.commands.stdin import one_input
from ssh_service.commands.sudo import SudoPassword, check_sudo, conceal_password
from ssh_service.connections.cache import SshClientCache, check_cache
from ssh_service.copies import download, upload
from ssh_service.defaults import IDLE_TIMEOUT, close_all, default_cache
from ssh_service.errors import SshConfigError
from ssh_service.params import Destination
from ssh_service.transport import SshTransport

__all__ = ["IDLE_TIMEOUT", "close_all", "default_cache", "download", "run", "start", "upload"]


def start(
    destination: Union[Destination, SshTransport],
    script: Optional[Script] = None,
    *,
    args: Optional[Sequence[StrPath]] = None,
    env: Optional[Mapping[str, Any]] = None,
    shell: Optional[str] = None,
    cwd: Optional[StrPath] = None,
    sudo: Union[bool, str] = False,
    sudo_password: Optional[SudoPassword] = None,
    stdin: Union[None, str, bytes, int, IO[Any]] = b"",
    input: Union[None, str, bytes] = None,
    stdout: Union[None, int, IO[Any]] = None,
    stderr: Union[None, int, IO[Any]] = None,
    timeout: Optional[float] = None,
    on_stdout: Optional[OnOutput] = None,
    on_stderr: Optional[OnOutput] = None,
    encoding: Optional[str] = "utf-8",
    pty: bool = False,
    max_connections: int = operations.MAX_CONNECTIONS,
    cache: Optional[SshClientCache] = None,
) -> RemoteProcess:
    """
    Start a script on a server, and return a handle while the script runs.

    Parameters
    ----------
    destination : Union[str, Mapping[str, Any], Host, SshTransport]
        The server: ``"[user@]host[:port]"``, settings such as
        ``{"host": "web01", "username": "admin"}`` (`ssh_service.params.SETTINGS` lists all), a
        `Host`, or an open connection.
    script : Union[None, str, Iterable[str]]
        The script, or its lines, for the shell on the server.  The lines may include their line
        ends, LF or CR LF, so an open text file can be passed.
    args : Optional[Sequence[Union[str, os.PathLike]]]
        Instead of `script`: one command with its arguments, such as ``["echo", "a  b"]``.  They
        are quoted for any login shell; with `env`, a line end or many kilobytes, ``/bin/sh`` runs
        the command.
    env : Optional[Mapping[str, Any]]
        Environment variables for the script; values are converted by `str`.  None and bytes are
        refused as values.  None: no variables.
    shell : Optional[str]
        Path of the shell on the server that runs the script; None: the user's login shell.
    cwd : Union[None, str, os.PathLike]
        The folder on the server that the script runs in: an absolute path, or one that begins
        with ``~`` or ``~user``.  None: the user's home directory.
    sudo : Union[bool, str]
        Whether sudo runs the script, as root; or the name of the user whose rights it gets.  A
        script needs a rule that allows its shell; sudo itself runs the command of `args`, so that
        a rule for this one command suffices.  See the page about security.
    sudo_password : Union[None, str, bytes, Secret, Callable[[], str]]
        The password of the user for sudo, or a function that returns it, called once, on a
        callback thread, if sudo asks.  It is sent after sudo's own prompt, at most once for each
        time that sudo is started.  None: sudo must need no password.
    stdin : Union[None, str, bytes, int, IO]
        The first part of the script's standard input.  `RemoteProcess.write` adds to it
        until `RemoteProcess.close_stdin` ends it.  Or a file, which is read to its end, on a
        thread.  `subprocess.DEVNULL` is end of file at once, None and `subprocess.PIPE` the same
        as ``b""``.
    input : Union[None, str, bytes]
        All of the standard input, as in `subprocess.run`; end of file follows, so that
        `RemoteProcess.write` is an error.  Only one of `stdin` and `input` may be given.
    stdout, stderr : Union[None, int, IO]
        Files that are open for writing and receive the output, on a callback thread: text files
        get text, all others bytes.  They are not closed.  `subprocess.DEVNULL` drops the output.
        None, and `subprocess.PIPE`: see `on_stdout` and `on_stderr`.
    timeout : Optional[float]
        Seconds from the call until the script must have ended, including the time to connect and
        to wait for a session.  None: no limit, except the connect timeout.
    on_stdout, on_stderr : Optional[Callable[[Union[str, bytes]], None]]
        Called with each piece of output as it arrives, on a callback thread.  A slow function
        slows the command down, because the server may send at most one window of unprocessed
        output.  An exception that the function raises is logged.  None: `RemoteProcess.lines`,
        `RemoteProcess.stderr_lines` and `RemoteProcess.result` return the output.
    encoding : Optional[str]
        The encoding of the output, for `RemoteProcess.lines`, `on_stdout`, `on_stderr`, and the
        outcome's ``stdout`` and ``stderr``.  Bytes that cannot be decoded become backslash
        escapes.  None: lines and pieces are bytes, and the outcome's text is decoded as UTF-8.
        UTF-16 and UTF-32 are refused, because a newline is more than one byte in them.
    pty : bool
        Whether to allocate a terminal, as ``ssh -tt`` does.  If so, stderr arrives within stdout,
        input is echoed, and the end of `stdin` is sent as Ctrl-D.  With `env`, `shell` or a script
        of many kilobytes, the server needs ``stty``.
    max_connections : int
        The most connections to open to this destination.  An additional connection is opened only
        when the server's limit on sessions per connection is reached.
    cache : Optional[SshClientCache]
        The cache that provides the connection; None: `default_cache`.

    Returns
    -------
    RemoteProcess
        The command.  It may still be waiting for its connection: its methods raise the errors of
        connecting and running.

    Raises
    ------
    SshConfigError
        A parameter, the script or the name of a variable is invalid (a `ValueError`).

    Notes
    -----
    Thread safety.  This may be called from any thread.  Calls with the same destination share
    its connection.

    Examples
    --------
    >>> process = ssh_service.start({"host": "web01"}, "tail -f /var/log/syslog")
    >>> for line in process.lines():
    ...     print(line)
    """
    destination, sudo_password = params.conceal(destination), conceal_password(sudo_password)
    command, future = _submit(
        destination,
        cache,
        max_connections,
        one_script(script, args),
        env,
        shell,
        cwd=cwd,
        sudo=check_sudo(sudo, sudo_password, args is not None and shell is not None),
        is_command=args is not None,
        resembles_args=resembles_args(script),
        timeout=timeout,
        stdin=one_input(stdin, input),
        more_stdin=input is None and stdin != subprocess.DEVNULL,
        stdout=_output("stdout", stdout, on_stdout, encoding) or QueueOutput(encoding),
        stderr=_output("stderr", stderr, on_stderr, encoding) or QueueOutput(encoding),
        pty=pty,
        encoding=encoding,
    )
    return RemoteProcess(command, future)


def run(
    destination: Union[Destination, SshTransport],
    script: Optional[Script] = None,
    *,
    args: Optional[Sequence[StrPath]] = None,
    env: Optional[Mapping[str, Any]] = None,
    shell: Optional[str] = None,
    cwd: Optional[StrPath] = None,
    sudo: Union[bool, str] = False,
    sudo_password: Optional[SudoPassword] = None,
    stdin: Union[None, str, bytes, int, IO[Any]] = b"",
    input: Union[None, str, bytes] = None,
    stdout: Union[None, int, IO[Any]] = None,
    stderr: Union[None, int, IO[Any]] = None,
    timeout: Optional[float] = None,
    on_stdout: Optional[OnOutput] = None,
    on_stderr: Optional[OnOutput] = None,
    encoding: Optional[str] = "utf-8",
    pty: bool = False,
    check: bool = False,
    max_output: Optional[int] = None,
    max_connections: int = operations.MAX_CONNECTIONS,
    cache: Optional[SshClientCache] = None,
) -> CompletedProcess:
    """
    Run a script on a server, wait for it to end, and return its outcome.

    Parameters
    ----------
    destination : Union[str, Mapping[str, Any], Host, SshTransport]
        The server: ``"[user@]host[:port]"``, settings such as
        ``{"host": "web01", "username": "admin"}`` (`ssh_service.params.SETTINGS` lists all), a
        `Host`, or an open connection.
    script : Union[None, str, Iterable[str]]
        The script, or its lines, for the shell on the server.  The lines may include their line
        ends, LF or CR LF, so an open text file can be passed.
    args : Optional[Sequence[Union[str, os.PathLike]]]
        Instead of `script`: one command with its arguments, such as ``["echo", "a  b"]``.  They
        are quoted for any login shell; with `env`, a line end or many kilobytes, ``/bin/sh`` runs
        the command.
    env : Optional[Mapping[str, Any]]
        Environment variables for the script; values are converted by `str`.  None and bytes are
        refused as values.  None: no variables.
    shell : Optional[str]
        Path of the shell on the server that runs the script; None: the user's login shell.
    cwd : Union[None, str, os.PathLike]
        The folder on the server that the script runs in: an absolute path, or one that begins
        with ``~`` or ``~user``.  None: the user's home directory.
    sudo : Union[bool, str]
        Whether sudo runs the script, as root; or the name of the user whose rights it gets.  A
        script needs a rule that allows its shell; sudo itself runs the command of `args`, so that
        a rule for this one command suffices.  See the page about security.
    sudo_password : Union[None, str, bytes, Secret, Callable[[], str]]
        The password of the user for sudo, or a function that returns it, called once, on a
        callback thread, if sudo asks.  It is sent after sudo's own prompt, at most once for each
        time that sudo is started.  None: sudo must need no password.
    stdin : Union[None, str, bytes, int, IO]
        The script's standard input; end of file follows.  Or a file, which is read from its
        current position to its end while the script runs, on a thread.  A text file is sent as
        UTF-8.  None, `subprocess.DEVNULL` and `subprocess.PIPE` are the same as ``b""``.
    input : Union[None, str, bytes]
        Another name for `stdin`, as in `subprocess.run`; only one of the two may be given.
    stdout, stderr : Union[None, int, IO]
        Files that are open for writing and receive the output while the script runs, on a callback
        thread: text files get text, all others bytes.  They are not closed, and the outcome does
        not contain this output.  `subprocess.DEVNULL` drops the output.  None, and
        `subprocess.PIPE`: see `on_stdout` and `on_stderr`.
    timeout : Optional[float]
        Seconds from the call until the script must have ended, including the time to connect and
        to wait for a session.  None: no limit, except the connect timeout.
    on_stdout, on_stderr : Optional[Callable[[Union[str, bytes]], None]]
        Called with each piece of output as it arrives, on a callback thread.  A slow function
        slows the command down, because the server may send at most one window of unprocessed
        output.  An exception that the function raises is logged.  The outcome does not contain
        this output.  None: the outcome contains the output.
    encoding : Optional[str]
        The encoding of the outcome's ``stdout`` and ``stderr``, which are always text, and of the
        pieces for `on_stdout` and `on_stderr`.  Bytes that cannot be decoded become backslash
        escapes.  None: the pieces are bytes; this requires `on_stdout` or `on_stderr`.  The
        outcome's ``stdout_bytes`` and ``stderr_bytes`` are available with any encoding.
    pty : bool
        Whether to allocate a terminal, as ``ssh -tt`` does.  If so, stderr arrives within stdout,
        input is echoed, and the end of `stdin` is sent as Ctrl-D.  With `env`, `shell` or a script
        of many kilobytes, the server needs ``stty``.
    check : bool
        Whether to raise `SshExitError` for an exit status other than 0, as in `subprocess.run`.
    max_output : Optional[int]
        The most bytes that the command may write to stdout, and to stderr.  A command that writes
        more is ended, and `SshOutputLimitError` is raised.  None: no limit.
    max_connections : int
        The most connections to open to this destination.  An additional connection is opened only
        when the server's limit on sessions per connection is reached.
    cache : Optional[SshClientCache]
        The cache that provides the connection; None: `default_cache`.

    Returns
    -------
    CompletedProcess
        The outcome, with any exit status unless `check` is set.

    Raises
    ------
    SshConfigError
        A parameter, the script, the name of a variable or a key file is invalid (a `ValueError`).
    SshConnectError
        No authenticated connection could be made; the script was not sent.
    SshCwdError
        `cwd` cannot be entered, so that nothing was run (an `OSError`; if there is no such folder,
        a `FileNotFoundError`).
    SshSudoRefused
        sudo did not run the script (a `PermissionError`).
    SshExitError
        `check` is set, and the command did not end with exit status 0 (a
        `subprocess.CalledProcessError`).  The error's `process` is the outcome.
    SshStdioError
        A file that is `stdin`, `stdout` or `stderr` cannot be read or written (an `OSError`); the
        command was ended.
    SshCommandTimeout
        The script did not end within `timeout`.  The error's `process` has the output so far.
    SshConnectionLost
        The connection was lost.  The error's `process` has the output so far, and `sent` is False
        if the script certainly did not run.
    SshOutputLimitError
        The script wrote more than `max_output`.  The error's `process` has the output up to the
        limit.
    SshSessionRefused
        The server refused to open a session, or to run commands.

    Notes
    -----
    Thread safety.  This may be called from any thread.  Calls with the same destination share
    its connection.

    Examples
    --------
    >>> process = ssh_service.run({"host": "web01"}, "df -P /", timeout=30)
    >>> process.exit_status, process.stdout
    """
    destination, sudo_password = params.conceal(destination), conceal_password(sudo_password)
    check_encoding(encoding)
    if check not in (True, False):
        raise SshConfigError(f"check: expected True or False, got {check!r}")
    receivers = (stdout, stderr, on_stdout, on_stderr)
    if encoding is None and all(receiver in (None, subprocess.PIPE) for receiver in receivers):
        raise SshConfigError(
            "encoding=None needs on_stdout or on_stderr, which then get bytes; otherwise take the"
            " bytes from stdout_bytes and stderr_bytes of the outcome"
        )
    command, future = _submit(
        destination,
        cache,
        max_connections,
        one_script(script, args),
        env,
        shell,
        cwd=cwd,
        sudo=check_sudo(sudo, sudo_password, args is not None and shell is not None),
        is_command=args is not None,
        resembles_args=resembles_args(script),
        timeout=timeout,
        stdin=one_input(stdin, input),
        stdout=_output("stdout", stdout, on_stdout, encoding) or Output(max_output),
        stderr=_output("stderr", stderr, on_stderr, encoding) or Output(max_output),
        pty=pty,
        encoding=encoding,
    )
    try:
        process: CompletedProcess = future.result()
    except BaseException:
        if not future.done():  # interrupted, for example by Ctrl-C: do not leave it running
            command.abandon()
        raise
    if check:
        process.check_returncode()
    return process


def _output(
    name: str,
    file: Union[None, int, IO[Any]],
    function: Optional[OnOutput],
    encoding: Optional[str],
) -> Optional[Output]:
    """Return the receiver of a stream that goes to a file or a function; None if it is kept."""
    if file is None:
        return None if function is None else CallbackOutput(function, encoding)
    if function is not None:
        raise SshConfigError(f"{name}, on_{name}: give at most one of them")
    if file == subprocess.PIPE:
        return None
    return DiscardedOutput() if file == subprocess.DEVNULL else FileOutput(name, file, encoding)


def _submit(
    destination: Union[Destination, SshTransport],
    cache: Optional[SshClientCache],
    max_connections: int,
    script: Script,
    env: Optional[Mapping[str, Any]],
    shell: Optional[str],
    *,
    stdin: Union[bytes, IO[Any]],
    more_stdin: bool = False,
    **options: Any,
) -> Tuple[Command, CommandFuture]:
    """Submit a command; if an exception interrupts this, the dropped future cancels it."""
    if isinstance(destination, SshTransport):
        connection_id = destination.connection_id
    else:
        check_cache(cache)
        target = params.resolve_concealed(destination)
        connection_id = target.connection_id
    data, file = (stdin, None) if isinstance(stdin, bytes) else (b"", stdin)
    options["more_stdin"] = more_stdin or file is not None
    command = Command(script, env, shell, connection_id, stdin=data, **options)
    future = command.take_future()
    if isinstance(destination, SshTransport):
        unpooled.start_on_transport(destination, command)
    else:
        cache = default_cache() if cache is None else cache
        operations.submit_command(
            cache, target, command, max_connections, idle_timeout=IDLE_TIMEOUT
        )
    if file is not None:
        try:
            feed(command.stdin, file, command.fail)
        except BaseException:
            command.abandon()
            raise
    return command, future
