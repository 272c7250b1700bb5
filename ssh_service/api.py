"""
The verbs for programs: run, start, upload, download.

They take a destination and need no cache: one of their own, shared by the whole process, keeps
the connections.
"""

from __future__ import annotations

from typing import Any, Callable, Mapping, Optional, Tuple, Union

from ssh_service import copying, operations, params
from ssh_service.commands import unpooled
from ssh_service.commands.command import Command
from ssh_service.commands.output import (
    CallbackOutput,
    OnOutput,
    Output,
    QueueOutput,
    check_encoding,
)
from ssh_service.commands.remote_process import RemoteProcess
from ssh_service.commands.result import CommandFuture, CompletedProcess
from ssh_service.commands.script import Script
from ssh_service.commands.stdin import as_input
from ssh_service.connections.cache import SshClientCache, check_cache
from ssh_service.copying import ProgressCallback
from ssh_service.errors import SshConfigError
from ssh_service.operations import Path
from ssh_service.transport import SshTransport

Destination = Union[Mapping[str, Any], SshTransport]

# Seconds after which the process's own cache closes a connection that nobody uses.
_IDLE_TIMEOUT = 600.0

# How to copy over a connection in hand.
_OVER = {"upload": copying.upload, "download": copying.download}

_cache = SshClientCache()


def default_cache() -> SshClientCache:
    """
    Return the cache these functions use where none is given.

    Returns
    -------
    SshClientCache
        One for the whole process, which is there as long as the process; it closes what was not
        used for ten minutes.  ``str(default_cache())`` lists its open connections.
    """
    return _cache


def close_all() -> None:
    """
    Close the connections of `run`, `start`, `upload` and `download`.

    These are all the connections of `default_cache`; commands and copies under way on them end
    with an error at once, and the next call connects anew.  The connections of other caches are
    left alone: those of services, of `fleet`, and of calls that were given a ``cache``.
    """
    _cache.cleanup()


def start(
    destination: Destination,
    script: Script,
    *,
    env: Optional[Mapping[str, Any]] = None,
    shell: Optional[str] = None,
    stdin: Union[str, bytes] = b"",
    timeout: Optional[float] = None,
    on_stdout: Optional[OnOutput] = None,
    on_stderr: Optional[OnOutput] = None,
    encoding: Optional[str] = "utf-8",
    pty: bool = False,
    max_connections: int = operations.MAX_CONNECTIONS,
    cache: Optional[SshClientCache] = None,
) -> RemoteProcess:
    """
    Start a script, and go on with it while it runs.

    Parameters
    ----------
    destination : Union[Mapping[str, Any], SshTransport]
        Connect parameters, see `SshClientCache.get_client_connection`; or a connection.
    script : Union[str, Iterable[str]]
        The script, or its lines.
    env : Optional[Mapping[str, Any]]
        Environment variables; values go through `str`.  None and bytes are refused.
    shell : Optional[str]
        The shell to run it in, a path on the server; None takes the login shell.
    stdin : Union[str, bytes]
        What it can read at first; `RemoteProcess.write` may follow, until `close_stdin`.
    timeout : Optional[float]
        Seconds from now for everything: connecting, waiting for a session, running.
    on_stdout, on_stderr : Optional[Callable[[Union[str, bytes]], None]]
        Called with each piece of output as it comes, on a callback thread; the server sends no
        more than the connection's window ahead of it.  What it raises is logged.
    encoding : Optional[str]
        The encoding of the output: of the lines, of the pieces and of the outcome's ``stdout`` and
        ``stderr``.  Bytes that it cannot decode become backslash escapes.  None gives lines and
        pieces as bytes; the outcome's text is then UTF-8.  UTF-16 and UTF-32 are refused, as their
        lines cannot be separated.
    pty : bool
        Whether it gets a terminal, as with ``ssh -tt``: stderr comes with stdout, what it reads is
        echoed, and the end of `stdin` is the terminal's Ctrl-D.  With `env`, `shell` or a script
        of many kilobytes the server needs ``stty``.
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
    destination = params.conceal(destination)
    stdout, stderr = (
        QueueOutput(encoding) if function is None else CallbackOutput(function, encoding)
        for function in (on_stdout, on_stderr)
    )
    command, future = _begin(
        destination,
        cache,
        max_connections,
        lambda connection_id: Command(
            script,
            env,
            shell,
            connection_id,
            timeout=timeout,
            stdin=as_input(stdin),
            more_stdin=True,
            stdout=stdout,
            stderr=stderr,
            pty=pty,
            encoding=encoding,
        ),
    )
    return RemoteProcess(command, future)


def run(
    destination: Destination,
    script: Script,
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
    max_connections: int = operations.MAX_CONNECTIONS,
    cache: Optional[SshClientCache] = None,
) -> CompletedProcess:
    """
    Run a script and wait for its outcome.

    Parameters
    ----------
    destination, script, env, shell, timeout, pty, max_connections, cache
        As for `start`.
    stdin : Union[str, bytes]
        What the script can read; it finds the end of the file after it.
    on_stdout, on_stderr
        As for `start`; the outcome does not contain what a function was given.
    encoding : Optional[str]
        The encoding of the outcome's ``stdout`` and ``stderr``, which are always text, and of what
        `on_stdout` and `on_stderr` are given; bytes that it cannot decode become backslash
        escapes.  None gives these functions bytes, and needs one of them: the outcome has its
        bytes as ``stdout_bytes`` and ``stderr_bytes``, whatever the encoding.
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
    destination = params.conceal(destination)
    check_encoding(encoding)
    if encoding is None and on_stdout is None and on_stderr is None:
        raise SshConfigError(
            "encoding=None needs on_stdout or on_stderr, which then get bytes; otherwise take the"
            " bytes from stdout_bytes and stderr_bytes of the outcome"
        )
    stdout, stderr = (
        Output(max_output) if function is None else CallbackOutput(function, encoding)
        for function in (on_stdout, on_stderr)
    )
    command, future = _begin(
        destination,
        cache,
        max_connections,
        lambda connection_id: Command(
            script,
            env,
            shell,
            connection_id,
            timeout=timeout,
            stdin=as_input(stdin),
            stdout=stdout,
            stderr=stderr,
            pty=pty,
            encoding=encoding,
        ),
    )
    try:
        process: CompletedProcess = future.result()
    except BaseException:
        if not future.done():  # the caller was torn from here: it is not to go on over there
            command.abandon()
        raise
    return process


def _begin(
    destination: Destination,
    cache: Optional[SshClientCache],
    max_connections: int,
    make: Callable[[str], Command],
) -> Tuple[Command, CommandFuture]:
    """
    Make a command for a destination, given its connection id, and have it run there.

    Where the caller is torn from here, the future goes, and with it the command.
    """
    if isinstance(destination, SshTransport):
        command = make(destination.connection_id)
        future = command.take_future()
        unpooled.begin(destination, command)
        return command, future
    check_cache(cache)
    target = params.resolve_concealed(destination)
    command = make(target.connection_id)
    future = command.take_future()
    cache = default_cache() if cache is None else cache
    operations.begin(cache, target, command, max_connections, idle_timeout=_IDLE_TIMEOUT)
    return command, future


def upload(
    destination: Destination,
    local_path: Path,
    remote_path: Path,
    *,
    recursive: bool = True,
    timeout: Optional[float] = None,
    stall_timeout: Optional[float] = None,
    verify: bool = False,
    resume: bool = False,
    fsync: bool = False,
    preserve: Optional[bool] = None,
    links: str = "follow",
    on_error: str = "stop",
    update: bool = False,
    contents: bool = False,
    progress: Optional[ProgressCallback] = None,
    cache: Optional[SshClientCache] = None,
) -> None:
    """
    Copy a local file or tree to a destination.

    A file goes to `remote_path`, or into it if that is a folder.  A folder becomes `remote_path`,
    or goes into it if that exists: so the same call a second time makes a folder in the folder,
    unless `contents` is given.

    Parameters
    ----------
    destination : Union[Mapping[str, Any], SshTransport]
        Connect parameters, see `SshClientCache.get_client_connection`; or a connection.
    local_path : Union[str, os.PathLike]
        The file or folder, taken literally.
    remote_path : Union[str, os.PathLike]
        Where it goes, taken literally, but for ``~`` or ``~user`` at its start; relative to the
        home directory.
    recursive : bool
        Whether a folder may be copied.
    timeout : Optional[float]
        Seconds from the call for the whole copy, connecting included; None: no limit.
    stall_timeout : Optional[float]
        Seconds without any progress after which to give up; None: no limit.
    verify : bool
        Whether to compare what arrived with what was sent.
    resume : bool
        Whether to go on where an earlier, interrupted copy of a file stopped.
    fsync : bool
        Whether to have each file written to the server's disk before it gets its name.  An error
        where the server cannot.
    preserve : Optional[bool]
        Modes and times.  None keeps them as far as the server allows, and logs once that
        it does not; True makes its refusal an error; False keeps neither, so that a new file has
        the mode that new files have there.
    links : str
        ``follow``: what a symbolic link leads to is copied, and a dangling link is an error.
        ``keep``: links inside a tree are copied as links, dangling ones too.
    on_error : str
        ``stop``: the first entry of a tree that cannot be copied ends the copy.  ``continue``:
        the rest is copied, and one `SshTreeError` lists what was not.
    update : bool
        Whether to pass over files that are there with the same size and time, as rsync does.
    contents : bool
        Whether to copy what is in a folder into the target, whether or not that exists, instead
        of making a folder of the same name in a target that exists.  So a second copy brings the
        target up to date.
    progress : Optional[Callable[[Progress], None]]
        Told, on this thread and a few times a second, how far it is.  What it raises ends the
        copy.
    cache : Optional[SshClientCache]
        Where the connection comes from; None takes the process's own, `default_cache`.

    Raises
    ------
    SshConfigError
        A parameter or an option is wrong (a `ValueError`).
    SshConnectError
        No authenticated connection could be had; nothing was sent.
    SshTransferError
        Something cannot be copied: an `OSError` with `errno` and `filename`, which is also the
        leaf that matches the errno; of a tree, what came before stays.
    SshTreeError
        With ``on_error="continue"``: `failures` lists all that could not be copied.
    SshTransferTimeout
        One of the two time limits was reached.
    SshConnectionLost
        The connection ended; each file is the old or the new one.
    """
    destination = params.conceal(destination)
    _copy(
        "upload",
        destination,
        cache,
        local_path,
        remote_path,
        recursive=recursive,
        timeout=timeout,
        stall_timeout=stall_timeout,
        verify=verify,
        resume=resume,
        fsync=fsync,
        preserve=preserve,
        links=links,
        on_error=on_error,
        update=update,
        contents=contents,
        progress=progress,
    )


def download(
    destination: Destination,
    remote_path: Path,
    local_path: Path,
    *,
    recursive: bool = True,
    timeout: Optional[float] = None,
    stall_timeout: Optional[float] = None,
    verify: bool = False,
    resume: bool = False,
    fsync: bool = False,
    preserve: Optional[bool] = None,
    links: str = "follow",
    on_error: str = "stop",
    update: bool = False,
    contents: bool = False,
    progress: Optional[ProgressCallback] = None,
    cache: Optional[SshClientCache] = None,
) -> None:
    """
    Copy a file or tree from a destination; the rules are those of `upload`.

    Parameters
    ----------
    destination : Union[Mapping[str, Any], SshTransport]
        Connect parameters, see `SshClientCache.get_client_connection`; or a connection.
    remote_path : Union[str, os.PathLike]
        The file or folder, taken literally, but for ``~`` or ``~user`` at its start; relative to
        the home directory.
    local_path : Union[str, os.PathLike]
        Where it goes, taken literally; nothing that the server says can make this write outside.
    recursive : bool
        Whether a folder may be copied.
    timeout : Optional[float]
        Seconds from the call for the whole copy, connecting included; None: no limit.
    stall_timeout : Optional[float]
        Seconds without any progress after which to give up; None: no limit.
    verify : bool
        Whether to compare what arrived with what was sent.
    resume : bool
        Whether to go on where an earlier, interrupted copy of a file stopped.  The beginning is
        only kept where the server has a shell with ``sha256sum``, which proves it right; else
        the file is copied anew.
    fsync : bool
        Whether to have each file written to the local disk before it gets its name.
    preserve : Optional[bool]
        Modes and times.  None keeps them as far as the local system allows, but never
        lets group or others write where the umask does not; True keeps those bits, too, and makes
        a refusal an error; False keeps neither.  setuid, setgid and sticky never come down.
    links : str
        ``follow``: what a symbolic link leads to is copied, and a dangling link is an error.
        ``keep``: links inside a tree are copied as links, dangling ones too.
    on_error : str
        ``stop``: the first entry of a tree that cannot be copied ends the copy.  ``continue``:
        the rest is copied, and one `SshTreeError` lists what was not.
    update : bool
        Whether to pass over files that are there with the same size and time, as rsync does.
    contents : bool
        Whether to copy what is in a folder into the target, whether or not that exists, instead
        of making a folder of the same name in a target that exists.  So a second copy brings the
        target up to date.
    progress : Optional[Callable[[Progress], None]]
        Told, on this thread and a few times a second, how far it is.  What it raises ends the
        copy.
    cache : Optional[SshClientCache]
        Where the connection comes from; None takes the process's own, `default_cache`.

    Raises
    ------
    SshConfigError
        A parameter or an option is wrong (a `ValueError`).
    SshConnectError
        No authenticated connection could be had; nothing was sent.
    SshTransferError
        Something cannot be copied: an `OSError` with `errno` and `filename`, which is also the
        leaf that matches the errno; of a tree, what came before stays.
    SshTreeError
        With ``on_error="continue"``: `failures` lists all that could not be copied.
    SshTransferTimeout
        One of the two time limits was reached.
    SshConnectionLost
        The connection ended; each file is the old or the new one.
    """
    destination = params.conceal(destination)
    _copy(
        "download",
        destination,
        cache,
        remote_path,
        local_path,
        recursive=recursive,
        timeout=timeout,
        stall_timeout=stall_timeout,
        verify=verify,
        resume=resume,
        fsync=fsync,
        preserve=preserve,
        links=links,
        on_error=on_error,
        update=update,
        contents=contents,
        progress=progress,
    )


def _copy(
    way: str,
    destination: Destination,
    cache: Optional[SshClientCache],
    source: Path,
    goal: Path,
    **options: Any,
) -> None:
    if isinstance(destination, SshTransport):
        _OVER[way](destination, source, goal, **options)
    else:
        target = params.resolve(destination)
        check_cache(cache)
        cache = default_cache() if cache is None else cache
        operations.copy(way, cache, target, source, goal, idle_timeout=_IDLE_TIMEOUT, **options)
