"""
Run a script on many hosts, or copy to and from them, and take the results as they come.

For example::

    for result in fleet.run(["web01", "admin@db:2222"], "uptime", parallel=50):
        print(result.host, result.status, result.stdout)

Without an executor the work is done in this process, where a command needs no thread of its own:
`parallel` limits a run, not threads.  With an executor (`concurrent.futures`) its workers do the
work: threads, the processes of a pool, or other machines by way of ``dask.distributed``'s
``Client.get_executor()``.

The modules: `task` is what to do at every host, and how it is done at one.  `results` is the
iterator that the caller gets; a `Runner` does its work.  `local_runner` does it in this process.
`executor_runners` submits the hosts to an executor, `executor_base` keeps track of them, and
`worker` does the work in the executor's workers.  A process pool also needs a pipe to each
process: `process_pool` holds the caller's ends, `pool_worker` the workers' ends.  On dask,
`on_dask` asks the scheduler for a permit before anything is sent.
"""

from __future__ import annotations

from concurrent.futures import Executor
from typing import Any, Dict, Iterable, Mapping, Optional

from ssh_service import _moved, params
from ssh_service.commands import script as scripts
from ssh_service.commands.script import Script
from ssh_service.connections.cache import SshClientCache, check_cache
from ssh_service.copying import Options, check_path
from ssh_service.errors import SshConfigError
from ssh_service.fleet.executor_runners import runner_for
from ssh_service.fleet.hosts import Destination, expand, parse
from ssh_service.fleet.local_runner import LocalRunner, OnHostOutput, OnHostProgress
from ssh_service.fleet.result import HostResult, SshWorkerLost
from ssh_service.fleet.results import Results
from ssh_service.fleet.task import FleetTask
from ssh_service.operations import StrPath

__all__ = [
    "Destination",
    "HostResult",
    "Results",
    "SshWorkerLost",
    "download",
    "expand",
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
    script: Script,
    *,
    connect: Optional[Mapping[str, Any]] = None,
    parallel: int = PARALLEL,
    timeout: Optional[float] = None,
    env: Optional[Mapping[str, Any]] = None,
    shell: Optional[str] = None,
    max_output: Optional[int] = None,
    on_output: Optional[OnHostOutput] = None,
    executor: Optional[Executor] = None,
    cache: Optional[SshClientCache] = None,
) -> Results:
    """
    Run a script on many hosts at once.

    Parameters
    ----------
    hosts : Iterable[Union[str, Mapping[str, Any]]]
        Each is ``[user@]host[:port]``, or a mapping of connect parameters (see
        `ssh_service.params.resolve`).  The next host is taken from the iterable only when it can
        start, so the iterable may be endless.  `expand` writes out ranges such as ``web[01-40]``.
    script : Union[str, Iterable[str]]
        The script, or its lines, which may have their line ends, of Unix or of Windows.
    connect : Optional[Mapping[str, Any]]
        Connect parameters for every host, such as ``{"username": "root"}``; those of a host itself
        take precedence.
    parallel : int
        The most hosts that may be under way, or done with their results not taken yet.
    timeout : Optional[float]
        Seconds for each host, from connecting to the end of the script; None: no limit, except
        that of connecting.
    env : Optional[Mapping[str, Any]]
        Environment variables; values are converted by `str`.  None and bytes are refused.
    shell : Optional[str]
        Path of the shell on the host that runs the script; None: the user's login shell.
    max_output : Optional[int]
        The most bytes that stdout and stderr of one host may each have; a command that writes
        more is ended and its result has an `SshOutputLimitError`.  None: no limit.
    on_output : Optional[Callable[[str, str, bytes], None]]
        Called with the host, ``stdout`` or ``stderr``, and a piece of output, as the output
        arrives; never by two threads at once.  The results then hold no output.  If it raises,
        that host's command is ended and the exception is the error of its result.  Not with
        `executor`.
    executor : Optional[Executor]
        Does the work; None: this process does it, without a thread for each command.
    cache : Optional[SshClientCache]
        The cache to take connections from and keep them in.  None: a temporary one, which closes
        each connection as soon as its host is done.  Not with `executor`: workers have their own.

    Returns
    -------
    Results
        An iterator of `HostResult`, in the order in which the hosts are done.  The work has
        already started.

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
    connect = params.conceal(_checked_connect(connect))
    arguments: Dict[str, Any] = {
        "text": scripts.join(script),
        "env": dict(scripts.check_environment(env)),
        "shell": shell,
        "max_output": max_output,
    }
    task = FleetTask("run", arguments, dict(connect), _checked_seconds("timeout", timeout))
    return _results(hosts, task, parallel, executor, cache, on_output, None)


def upload(
    hosts: Hosts,
    local_path: StrPath,
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
    on_progress: Optional[OnHostProgress] = None,
    executor: Optional[Executor] = None,
    cache: Optional[SshClientCache] = None,
) -> Results:
    """
    Copy a file or a tree to many hosts at once.

    Parameters
    ----------
    hosts : Iterable[Union[str, Mapping[str, Any]]]
        Each is ``[user@]host[:port]``, or a mapping of connect parameters (see
        `ssh_service.params.resolve`).  The next host is taken from the iterable only when it can
        start.
    local_path : Union[str, os.PathLike]
        The local file or folder, taken literally.
    remote_path : Union[str, os.PathLike]
        The target on each host: a file is copied to this name, or into it if it is a folder.
        Relative to the home directory; ``~`` or ``~user`` at the start is expanded.
    connect : Optional[Mapping[str, Any]]
        Connect parameters for every host; those of a host itself take precedence.
    parallel : int
        The most hosts that may be under way, or done with their results not taken yet.  Each copy
        needs a thread.
    recursive : bool
        Whether a folder may be copied; False makes a folder an error.
    timeout : Optional[float]
        Seconds for each host's whole copy, including connecting; None: no limit.
    stall_timeout : Optional[float]
        Seconds without any progress after which a host's copy fails; None: no limit.
    verify : bool
        Whether to compare checksums of each file after it was copied.
    resume : bool
        Whether to continue an earlier, interrupted copy of a file where it stopped.
    fsync : bool
        Whether to flush each file to the server's disk before it gets its final name.  An error
        if the server cannot do that.
    preserve : Optional[bool]
        Whether to keep modes and times.  None: as far as the server allows, with one warning in
        the log if it does not.  True: its refusal is an error.  False: neither, so that a new
        file has the server's default mode.
    links : str
        ``"follow"``: copy what a symbolic link points to; a dangling link is an error.
        ``"keep"``: copy links inside a tree as links, including dangling ones.
    on_error : str
        ``"stop"``: the first entry of a tree that cannot be copied ends the copy.
        ``"continue"``: copy the rest, then fail with one `SshTreeError` that lists the failures.
    update : bool
        Whether to skip files that the target has with the same size and time, as rsync does.
    contents : bool
        Whether to copy the contents of a folder into the target, whether or not that exists.
        Otherwise a folder is copied as a new folder into a target that exists.  With `contents`
        a second copy updates the first.
    on_progress : Optional[Callable[[str, Progress], None]]
        Called with the host and its progress, a few times a second, on that copy's thread.  If it
        raises, that host's copy fails with the exception.  Not with `executor`.
    executor : Optional[Executor]
        Does the work; None: this process does it.
    cache : Optional[SshClientCache]
        The cache to take connections from and keep them in.  None: a temporary one, which closes
        each connection as soon as its host is done.  Not with `executor`: workers have their own.

    Returns
    -------
    Results
        An iterator of `HostResult`, in the order in which the hosts are done.  The work has
        already started.

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
    )
    arguments = _copy_arguments(local_path, remote_path, stall_timeout, options)
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
    on_progress: Optional[OnHostProgress] = None,
    executor: Optional[Executor] = None,
    cache: Optional[SshClientCache] = None,
    folder_per_host: bool = True,
) -> Results:
    """
    Copy a file or a tree from many hosts at once, into one folder for each host.

    Parameters
    ----------
    hosts : Iterable[Union[str, Mapping[str, Any]]]
        Each is ``[user@]host[:port]``, or a mapping of connect parameters (see
        `ssh_service.params.resolve`).  The next host is taken from the iterable only when it can
        start.
    remote_path : Union[str, os.PathLike]
        The file or folder on each host.  Relative to the home directory; ``~`` or ``~user`` at
        the start is expanded.
    local_path : Union[str, os.PathLike]
        The folder for the hosts' folders, each of which has the name of its host.  Missing
        folders are created, and removed again if nothing arrived.  With an executor on other
        machines it is a path there.
    connect : Optional[Mapping[str, Any]]
        Connect parameters for every host; those of a host itself take precedence.
    parallel : int
        The most hosts that may be under way, or done with their results not taken yet.  Each copy
        needs a thread.
    recursive : bool
        Whether a folder may be copied; False makes a folder an error.
    timeout : Optional[float]
        Seconds for each host's whole copy, including connecting; None: no limit.
    stall_timeout : Optional[float]
        Seconds without any progress after which a host's copy fails; None: no limit.
    verify : bool
        Whether to compare checksums of each file after it was copied.
    resume : bool
        Whether to continue an earlier, interrupted copy of a file where it stopped.  That needs a
        server with a shell and ``sha256sum``, to prove that the first part is right; otherwise
        the file is copied from the start.
    fsync : bool
        Whether to flush each file to the local disk before it gets its final name.
    preserve : Optional[bool]
        Whether to keep modes and times.  None: as far as the local system allows, but group and
        others get write permission only if the umask allows it.  True: those bits, too, and a
        refusal is an error.  False: neither.  setuid, setgid and sticky bits are never copied.
    links : str
        ``"follow"``: copy what a symbolic link points to; a dangling link is an error.
        ``"keep"``: copy links inside a tree as links, including dangling ones.
    on_error : str
        ``"stop"``: the first entry of a tree that cannot be copied ends the copy.
        ``"continue"``: copy the rest, then fail with one `SshTreeError` that lists the failures.
    update : bool
        Whether to skip files that the target has with the same size and time, as rsync does.
    contents : bool
        Whether to copy the contents of a folder into the target, whether or not that exists.
        Otherwise a folder is copied as a new folder into a target that exists.  With `contents`
        a second copy updates the first.
    on_progress : Optional[Callable[[str, Progress], None]]
        Called with the host and its progress, a few times a second, on that copy's thread.  If it
        raises, that host's copy fails with the exception.  Not with `executor`.
    executor : Optional[Executor]
        Does the work; None: this process does it.
    cache : Optional[SshClientCache]
        The cache to take connections from and keep them in.  None: a temporary one, which closes
        each connection as soon as its host is done.  Not with `executor`: workers have their own.
    folder_per_host : bool
        False, for a single host: copy to `local_path` itself.

    Returns
    -------
    Results
        An iterator of `HostResult`, in the order in which the hosts are done.  The work has
        already started.

    Raises
    ------
    SshConfigError
        An option or a number is invalid.  An invalid host yields a failed `HostResult` instead.

    Notes
    -----
    Thread safety.  This may be called from any thread.

    Examples
    --------
    >>> for result in fleet.download(["web01", "web02"], "/var/log/nginx/error.log", "logs"):
    ...     print(result.host, result.status)
    """
    connect = params.conceal(_checked_connect(connect))
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
    )
    arguments = _copy_arguments(local_path, remote_path, stall_timeout, options)
    arguments["folder_per_host"] = folder_per_host
    task = FleetTask("download", arguments, dict(connect), _checked_seconds("timeout", timeout))
    return _results(hosts, task, parallel, executor, cache, None, on_progress)


def _copy_arguments(
    local_path: StrPath, remote_path: StrPath, stall_timeout: Optional[float], options: Options
) -> Dict[str, Any]:
    return {
        "local_path": check_path("local_path", local_path),
        "remote_path": check_path("remote_path", remote_path),
        "stall_timeout": _checked_seconds("stall_timeout", stall_timeout),
        "options": options.check()._asdict(),
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
            f"hosts must be an iterable of hosts, such as a list, got a {type(hosts).__name__}"
        )
    if isinstance(parallel, bool) or not isinstance(parallel, int) or parallel < 1:
        raise SshConfigError(f"parallel must be an integer >= 1, got {parallel!r}")
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
            f"connect must be a mapping of connect parameters, got a {type(connect).__name__}"
        )
    if "host" in connect:
        raise SshConfigError("connect: expected parameters that all hosts share, got 'host'")
    return connect


def _checked_seconds(name: str, value: Optional[float]) -> Optional[float]:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise SshConfigError(f"{name} must be a number of seconds > 0, got {value!r}")
    return float(value)
