"""
Run a script on many hosts, or copy to and from them; iterate over the results as they arrive.

For example::

    for result in fleet.run(["web01", "admin@db:2222"], "uptime", parallel=50):
        print(result.host, result.status, result.stdout)

Without an executor, the work is done in this process, where a command needs no thread of its own:
`parallel` limits a run, not the number of threads.  With an executor (`concurrent.futures`), its
workers do the work: threads, the processes of a pool, or other machines through
``dask.distributed``'s ``Client.get_executor()``.

The modules: `task` describes the work at every host, and does it at one host.  `results` is the
iterator that the caller receives; a `Runner` does its work.  `local_runner` works in this process.
`executor_runners` submits the hosts to an executor, `executor_base` keeps track of them, and
`worker` runs in the executor's workers.  A process pool also needs a pipe to each process:
`process_pool` holds the caller's ends, `pool_worker` the workers' ends.  On dask, `on_dask`
requests a permit from the scheduler before anything is sent.
"""

from __future__ import annotations

import os
from concurrent.futures import Executor
from typing import Any, Dict, Iterable, Mapping, Optional, Sequence, Union

from ssh_service import _moved, params
from ssh_service.commands import script as scripts
from ssh_service.commands.script import Script, StrPath
from ssh_service.commands.stdin import one_input
from ssh_service.commands.sudo import SudoPassword, check_sudo, conceal_password, refuse_sudo
from ssh_service.commands.working_directory import check_cwd
from ssh_service.connections.cache import SshClientCache, check_cache
from ssh_service.copying import Options, Patterns, check_path
from ssh_service.errors import SshConfigError
from ssh_service.fleet.executor_runners import runner_for
from ssh_service.fleet.folding import fold
from ssh_service.fleet.hosts import Destination, expand, parse
from ssh_service.fleet.local_runner import LocalRunner, OnHostOutput, OnHostProgress
from ssh_service.fleet.result import HostResult, SshWorkerLost
from ssh_service.fleet.results import Results
from ssh_service.fleet.task import FleetTask

__all__ = [
    "Destination",
    "HostResult",
    "Results",
    "SshWorkerLost",
    "download",
    "expand",
    "fold",
    "parse",
    "run",
    "upload",
]

PARALLEL = 32
Hosts = Iterable[Destination]


def __getattr__(name: str) -> Any:
    return _moved.renamed(__name__, name, {"Host": "Destination"})


def run(
    hosts: Hosts,
    script: Optional[Script] = None,
    *,
    args: Optional[Sequence[StrPath]] = None,
    connect: Optional[Mapping[str, Any]] = None,
    parallel: int = PARALLEL,
    timeout: Optional[float] = None,
    env: Optional[Mapping[str, Any]] = None,
    shell: Optional[str] = None,
    cwd: Optional[StrPath] = None,
    sudo: Union[bool, str] = False,
    sudo_password: Optional[SudoPassword] = None,
    stdin: Union[None, str, bytes, int] = b"",
    input: Union[None, str, bytes] = None,
    pty: bool = False,
    max_output: Optional[int] = None,
    on_output: Optional[OnHostOutput] = None,
    executor: Optional[Executor] = None,
    cache: Optional[SshClientCache] = None,
) -> Results:
    """
    Run a script on many hosts concurrently.

    Parameters
    ----------
    hosts : Iterable[Union[str, Mapping[str, Any], Host]]
        The hosts, each as ``[user@]host[:port]``, as a mapping of settings (see
        `ssh_service.params.resolve`), or as a `Host`.  The next host is taken from the iterable
        only when it can start, so the iterable may be infinite.  `expand` expands ranges such as
        ``web[01-40]``.
    script : Union[None, str, Iterable[str]]
        The script, or its lines, with or without line ends (Unix or Windows).
    args : Optional[Sequence[Union[str, os.PathLike]]]
        Instead of `script`: one command with its arguments, such as ``["echo", "a  b"]``.  They
        are quoted for any login shell; with `env`, a line end or many kilobytes, ``/bin/sh`` runs
        the command.
    connect : Optional[Mapping[str, Any]]
        Connect parameters for every host, such as ``{"username": "root"}``; a host's own
        parameters take precedence.
    parallel : int
        The maximum number of hosts that are in progress, or finished with their results not taken
        yet.
    timeout : Optional[float]
        Seconds for each host, from connecting to the end of the script; None: no limit except that
        of connecting.
    env : Optional[Mapping[str, Any]]
        Environment variables; values are converted by `str`.  None and bytes are refused.
    shell : Optional[str]
        The path of the shell on the host that runs the script; None: the user's login shell.
    cwd : Union[None, str, os.PathLike]
        The folder on the host that the script runs in: an absolute path, or one that begins with
        ``~`` or ``~user``.  None: the user's home directory.  On a host without this folder,
        nothing is run, and the result has an `SshCwdError`.
    sudo : Union[bool, str]
        Whether sudo runs the script, as root; or the name of the user whose rights it gets.  sudo
        itself runs the command of `args`.
    sudo_password : Union[None, str, bytes, Secret, Callable[[], str]]
        The password for sudo, or a function that returns it, called once for each host whose sudo
        asks.  None: sudo must need no password.
    stdin : Union[None, str, bytes, int]
        The script's standard input, the same for every host; text is encoded as UTF-8.
        None and `subprocess.DEVNULL` are the same as ``b""``.
    input : Union[None, str, bytes]
        Another name for `stdin`, as in `subprocess.run`; only one of the two may be given.
    pty : bool
        Whether to allocate a terminal on each host, as ``ssh -tt`` does.  If so, stderr arrives
        within stdout, lines end with CR LF, input is echoed, and the end of `stdin` is sent as
        Ctrl-D.
    max_output : Optional[int]
        The maximum size of stdout and of stderr per host, in bytes each; a command that exceeds it
        is ended, and its result has an `SshOutputLimitError`.  None: no limit.
    on_output : Optional[Callable[[str, str, bytes], None]]
        Called with the host, ``stdout`` or ``stderr``, and a piece of output, as the output
        arrives; never concurrently.  The results then contain no output.  If it raises, the
        command on that host is ended, and the exception becomes the error of its result.  Not
        allowed with `executor`.
    executor : Optional[Executor]
        The executor that does the work; None: this process, without a thread per command.
    cache : Optional[SshClientCache]
        The cache that connections are taken from and kept in.  None: a temporary one, which closes
        each connection as soon as its host is finished.  Not allowed with `executor`, whose
        workers have their own.

    Returns
    -------
    Results
        An iterator of `HostResult`, in the order in which the hosts finish.  The work has already
        started.

    Raises
    ------
    SshConfigError
        The script, the name of a variable, an option or a number is invalid.  An invalid host
        yields a failed `HostResult` instead.

    Notes
    -----
    Thread safety.  This may be called from any thread.

    Examples
    --------
    >>> with fleet.run(fleet.expand("web[01-40]"), "uptime", timeout=30) as results:
    ...     down = [result.host for result in results if not result.ok]
    """
    sudo_password = conceal_password(sudo_password)
    connect = params.conceal(_checked_connect(connect))
    check_sudo(sudo, sudo_password, args is not None and shell is not None)
    if pty not in (True, False):
        raise SshConfigError(f"pty: expected True or False, got {pty!r}")
    arguments: Dict[str, Any] = {
        "text": scripts.join(scripts.one_script(script, args), args is not None),
        "env": dict(scripts.check_environment(env)),
        "shell": shell,
        "cwd": None if cwd is None else check_cwd(cwd),
        "sudo": sudo,
        "sudo_password": sudo_password,
        "is_command": args is not None,
        "resembles_args": scripts.resembles_args(script),
        "stdin": _checked_input(stdin, input),
        "pty": pty,
        "max_output": max_output,
    }
    task = FleetTask("run", arguments, dict(connect), _checked_seconds("timeout", timeout))
    return _results(hosts, task, parallel, executor, cache, on_output, None)


def upload(
    hosts: Hosts,
    local_path: Union[StrPath, bytes, bytearray, memoryview],
    remote_path: StrPath,
    *,
    connect: Optional[Mapping[str, Any]] = None,
    parallel: int = PARALLEL,
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
    exclude: Patterns = (),
    delete: Union[bool, str] = False,
    dry_run: bool = False,
    max_rate: Optional[float] = None,
    on_progress: Optional[OnHostProgress] = None,
    sudo: Union[bool, str] = False,
    executor: Optional[Executor] = None,
    cache: Optional[SshClientCache] = None,
) -> Results:
    """
    Copy a file or a tree to many hosts concurrently.

    Parameters
    ----------
    hosts : Iterable[Union[str, Mapping[str, Any], Host]]
        The hosts, each as ``[user@]host[:port]``, as a mapping of settings (see
        `ssh_service.params.resolve`), or as a `Host`.  The next host is taken from the iterable
        only when it can start.
    local_path : Union[str, os.PathLike, bytes]
        The local file or folder; patterns are not expanded.  Bytes (also a bytearray or a
        memoryview) are the content of the file `remote_path`.
    remote_path : Union[str, os.PathLike]
        The target on each host: the path of the copy or, if it is an existing folder, the folder
        for the copy.  Relative to the home directory; ``~`` or ``~user`` at the start is expanded.
    connect : Optional[Mapping[str, Any]]
        Connect parameters for every host; a host's own parameters take precedence.
    parallel : int
        The maximum number of hosts that are in progress, or finished with their results not taken
        yet.  Each copy needs a thread.
    recursive : bool
        Whether a folder may be copied; if False, a folder is an error.
    timeout : Optional[float]
        Seconds for each host's whole copy, including connecting; None: no limit.
    stall_timeout : Optional[float]
        Seconds without progress after which a host's copy fails; None: no limit.
    verify : bool
        Whether to compare the checksums of each file after it was copied.
    resume : bool
        Whether to continue an earlier, interrupted copy of a file where it stopped.
    fsync : bool
        Whether to flush each file to the server's disk before it is renamed to its final name.  An
        error if the server does not support this.
    preserve : Optional[bool]
        Whether to preserve permissions and times.  None: if the server allows it, with one warning
        in the log if it does not.  True: a refusal is an error.  False: neither is preserved, and
        new files get the server's default permissions.
    links : str
        ``"follow"``: copy what a symbolic link points to; a dangling link is an error.
        ``"keep"``: copy links inside a tree as links, including dangling ones.
    on_error : str
        ``"stop"``: the copy ends at the first entry of a tree that cannot be copied.
        ``"continue"``: copy the other entries, then fail with one `SshTreeError` that lists the
        failures.
    update : bool
        Whether to skip files that exist on the target with the same size and time, as rsync does.
    contents : bool
        Whether to copy the contents of a folder into the target, which may exist.  Otherwise, if
        the target exists, the folder is copied as a new folder into it.  With `contents`, a second
        copy updates the first.
    exclude : Union[str, Sequence[str]]
        Patterns of rsync's for the entries of a folder to leave out, with all that they contain:
        ``"*.pyc"`` matches names anywhere, ``"/build"`` only at the top of the folder,
        ``"cache/"`` only folders; the page "Copies" has the rules.
    delete : Union[bool, str]
        Whether to delete, after the copy, what the target has and the source does not; needs
        `contents`.  Nothing is deleted if an entry could not be copied; excluded entries, those of
        other users, and what links lead to stay.  True: an empty source is an error;
        ``"even-if-empty"``: it is not.
    dry_run : bool
        Whether to copy nothing, and to put what would be done into `HostResult.plan`.  Nothing is
        created or changed on either side.
    max_rate : Optional[float]
        The maximum number of bytes per second for each host, on average; None: no limit.  Small
        files are then not copied in one stream.
    on_progress : Optional[Callable[[str, Progress], None]]
        Called with the host and its progress, a few times per second, on the thread of that copy.
        If it raises, the copy fails with this exception.  Not allowed with `executor`.
    sudo : Union[bool, str]
        Refused: a copy has the rights of the user who logs in.  The message names other ways.
    executor : Optional[Executor]
        The executor that does the work; None: this process.
    cache : Optional[SshClientCache]
        The cache that connections are taken from and kept in.  None: a temporary one, which closes
        each connection as soon as its host is finished.  Not allowed with `executor`, whose
        workers have their own.

    Returns
    -------
    Results
        An iterator of `HostResult`, in the order in which the hosts finish.  The work has already
        started.

    Raises
    ------
    SshConfigError
        An option or a number is invalid.  An invalid host yields a failed `HostResult` instead.

    Notes
    -----
    Thread safety.  This may be called from any thread.

    Examples
    --------
    >>> for result in fleet.upload(["web01", "web02"], "site.conf", "/etc/nginx/conf.d/"):
    ...     print(result.host, result.status)
    """
    connect = params.conceal(_checked_connect(connect))
    refuse_sudo(sudo, "upload")
    options = Options(
        recursive=recursive,
        verify=verify,
        resume=resume,
        fsync=fsync,
        preserve=preserve,
        links=links,
        on_error=on_error,
        update=update,
        contents=contents,
        exclude=exclude,
        delete=delete,
        dry_run=dry_run,
        max_rate=max_rate,
    ).check()
    local = _checked_local_path(local_path, options, is_upload=True)
    arguments = _copy_arguments(local, remote_path, stall_timeout, options)
    task = FleetTask("upload", arguments, dict(connect), _checked_seconds("timeout", timeout))
    return _results(hosts, task, parallel, executor, cache, None, on_progress)


def download(
    hosts: Hosts,
    remote_path: StrPath,
    local_path: StrPath,
    *,
    connect: Optional[Mapping[str, Any]] = None,
    parallel: int = PARALLEL,
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
    exclude: Patterns = (),
    delete: Union[bool, str] = False,
    dry_run: bool = False,
    max_rate: Optional[float] = None,
    on_progress: Optional[OnHostProgress] = None,
    sudo: Union[bool, str] = False,
    executor: Optional[Executor] = None,
    cache: Optional[SshClientCache] = None,
    folder_per_host: bool = True,
) -> Results:
    """
    Copy a file or a tree from many hosts concurrently, into one folder per host.

    Parameters
    ----------
    hosts : Iterable[Union[str, Mapping[str, Any], Host]]
        The hosts, each as ``[user@]host[:port]``, as a mapping of settings (see
        `ssh_service.params.resolve`), or as a `Host`.  The next host is taken from the iterable
        only when it can start.
    remote_path : Union[str, os.PathLike]
        The file or folder on each host.  Relative to the home directory; ``~`` or ``~user`` at
        the start is expanded.
    local_path : Union[str, os.PathLike]
        The folder in which a folder is created for each host, named after the host.  Missing
        folders are created, and removed again if nothing was copied.  With an executor on other
        machines, this is a path on those machines.
    connect : Optional[Mapping[str, Any]]
        Connect parameters for every host; a host's own parameters take precedence.
    parallel : int
        The maximum number of hosts that are in progress, or finished with their results not taken
        yet.  Each copy needs a thread.
    recursive : bool
        Whether a folder may be copied; if False, a folder is an error.
    timeout : Optional[float]
        Seconds for each host's whole copy, including connecting; None: no limit.
    stall_timeout : Optional[float]
        Seconds without progress after which a host's copy fails; None: no limit.
    verify : bool
        Whether to compare the checksums of each file after it was copied.
    resume : bool
        Whether to continue an earlier, interrupted copy of a file where it stopped.  This needs a
        server with a shell and ``sha256sum``, to verify the existing part; otherwise, the file is
        copied from the start.
    fsync : bool
        Whether to flush each file to the local disk before it is renamed to its final name.
    preserve : Optional[bool]
        Whether to preserve permissions and times.  None: if the local system allows it, but group
        and others get write permission only if the umask allows it.  True: including those bits,
        and a refusal is an error.  False: neither is preserved.  setuid, setgid and sticky bits
        are never copied.
    links : str
        ``"follow"``: copy what a symbolic link points to; a dangling link is an error.
        ``"keep"``: copy links inside a tree as links, including dangling ones.
    on_error : str
        ``"stop"``: the copy ends at the first entry of a tree that cannot be copied.
        ``"continue"``: copy the other entries, then fail with one `SshTreeError` that lists the
        failures.
    update : bool
        Whether to skip files that exist on the target with the same size and time, as rsync does.
    contents : bool
        Whether to copy the contents of a folder into the target, which may exist.  Otherwise, if
        the target exists, the folder is copied as a new folder into it.  With `contents`, a second
        copy updates the first.
    exclude : Union[str, Sequence[str]]
        Patterns of rsync's for the entries of a folder to leave out, with all that they contain:
        ``"*.pyc"`` matches names anywhere, ``"/build"`` only at the top of the folder,
        ``"cache/"`` only folders; the page "Copies" has the rules.
    delete : Union[bool, str]
        Whether to delete, after the copy, what the target has and the source does not; needs
        `contents`.  Nothing is deleted if an entry could not be copied; excluded entries, those of
        other users, and what links lead to stay.  True: an empty source is an error;
        ``"even-if-empty"``: it is not.
    dry_run : bool
        Whether to copy nothing, and to put what would be done into `HostResult.plan`.  Nothing is
        created or changed on either side.
    max_rate : Optional[float]
        The maximum number of bytes per second for each host, on average; None: no limit.  Small
        files are then not copied in one stream.
    on_progress : Optional[Callable[[str, Progress], None]]
        Called with the host and its progress, a few times per second, on the thread of that copy.
        If it raises, the copy fails with this exception.  Not allowed with `executor`.
    sudo : Union[bool, str]
        Refused: a copy has the rights of the user who logs in.  The message names other ways.
    executor : Optional[Executor]
        The executor that does the work; None: this process.
    cache : Optional[SshClientCache]
        The cache that connections are taken from and kept in.  None: a temporary one, which closes
        each connection as soon as its host is finished.  Not allowed with `executor`, whose
        workers have their own.
    folder_per_host : bool
        Whether to create a folder for each host.  False is allowed only for a single host, and
        copies to `local_path` itself.

    Returns
    -------
    Results
        An iterator of `HostResult`, in the order in which the hosts finish.  The work has already
        started.

    Raises
    ------
    SshConfigError
        An option or a number is invalid.  An invalid host yields a failed `HostResult` instead.

    Notes
    -----
    Thread safety.  This may be called from any thread.

    Examples
    --------
    >>> for result in fleet.download(["web01", "web02"], "/var/log/syslog", "logs"):
    ...     print(result.host, result.status)
    """
    connect = params.conceal(_checked_connect(connect))
    refuse_sudo(sudo, "download")
    options = Options(
        recursive=recursive,
        verify=verify,
        resume=resume,
        fsync=fsync,
        preserve=preserve,
        links=links,
        on_error=on_error,
        update=update,
        contents=contents,
        exclude=exclude,
        delete=delete,
        dry_run=dry_run,
        max_rate=max_rate,
    ).check()
    local = _checked_local_path(local_path, options, is_upload=False)
    arguments = _copy_arguments(local, remote_path, stall_timeout, options)
    arguments["folder_per_host"] = folder_per_host
    task = FleetTask("download", arguments, dict(connect), _checked_seconds("timeout", timeout))
    return _results(hosts, task, parallel, executor, cache, None, on_progress)


def _checked_input(stdin: Union[None, str, bytes, int], given: Union[None, str, bytes]) -> bytes:
    data = one_input(stdin, given)
    if not isinstance(data, bytes):
        raise SshConfigError(
            "stdin: a file could be read only once, for one host; give its content"
        )
    return data


def _checked_local_path(value: Any, options: Options, is_upload: bool) -> Any:
    """Return a path, or the content of the file as bytes."""
    if is_upload and isinstance(value, (bytes, bytearray, memoryview)):
        options.for_content(is_upload)
        return bytes(value)
    is_path = isinstance(value, (str, bytes, os.PathLike))
    if not is_path and callable(getattr(value, "read" if is_upload else "write", None)):
        raise SshConfigError(
            "local_path: a file object cannot be used for many hosts; give a path, or the content"
            " as bytes"
        )
    path = check_path("local_path", value)
    return os.fsdecode(path)  # bytes would be content


def _copy_arguments(
    local_path: Any, remote_path: StrPath, stall_timeout: Optional[float], options: Options
) -> Dict[str, Any]:
    return {
        "local_path": local_path,
        "remote_path": check_path("remote_path", remote_path),
        "stall_timeout": _checked_seconds("stall_timeout", stall_timeout),
        "options": options._asdict(),
    }


def _results(
    hosts: Hosts,
    task: FleetTask,
    parallel: int,
    executor: Optional[Executor],
    cache: Optional[SshClientCache],
    on_output: Optional[OnHostOutput],
    on_progress: Optional[OnHostProgress],
) -> Results:
    if isinstance(hosts, (str, bytes, Mapping)) or not isinstance(hosts, Iterable):
        raise SshConfigError(
            f"hosts: expected an iterable of hosts, such as a list, got a {type(hosts).__name__};"
            " fleet.expand('web[01-40]') returns one"
        )
    if isinstance(parallel, bool) or not isinstance(parallel, int) or parallel < 1:
        raise SshConfigError(f"parallel: expected an integer >= 1, got {parallel!r}")
    if executor is None:
        check_cache(cache)
        return Results(hosts, LocalRunner(task, parallel, cache, on_output, on_progress), parallel)
    if cache is not None or on_output is not None or on_progress is not None:
        raise SshConfigError(
            "cache, on_output and on_progress cannot be combined with executor, whose workers may"
            " be other processes"
        )
    if not callable(getattr(executor, "submit", None)):
        raise SshConfigError(
            f"executor must have the submit() of a concurrent.futures.Executor, got {executor!r}"
        )
    return Results(hosts, runner_for(task, parallel, executor), parallel)


def _checked_connect(connect: Optional[Mapping[str, Any]]) -> Mapping[str, Any]:
    if connect is None:
        return {}
    if not isinstance(connect, Mapping):
        raise SshConfigError(
            f"connect: expected a mapping of settings, got a {type(connect).__name__}"
        )
    if "host" in connect:
        raise SshConfigError("connect: expected parameters that all hosts share, got 'host'")
    return connect


def _checked_seconds(name: str, value: Optional[float]) -> Optional[float]:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise SshConfigError(f"{name}: expected a number of seconds > 0, got {value!r}")
    return float(value)
