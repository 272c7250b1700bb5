"""
Many hosts at once: run a script on them, or copy to and from them, and take results as they come.

    for result in fleet.run(["web01", "admin@db:2222"], "uptime", parallel=50):
        print(result.host, result.status, result.stdout)

In this process a command holds no thread: what bounds a run is `parallel`, not threads.  Given an
executor (`concurrent.futures`), the work goes there: to threads, to the processes of a pool, or,
by ``dask.distributed``'s ``Client.get_executor()``, to other machines.

What runs where: `results` hands out what comes, to the caller's thread.  Without an executor
`here` does the work.  With one, `elsewhere` gives the hosts to it and `executing` remembers them,
here, and `worker` does the work, over there.  To a process pool there is a line besides:
`process_pool` is its end here, `station` its end in each of the pool's processes.  On dask,
`on_dask` asks the scheduler in its stead.  What is done at one host, wherever, is in `job`.
"""

from __future__ import annotations

import os
from concurrent.futures import Executor
from typing import Any, Dict, Iterable, Mapping, Optional, Union

from ssh_service import params
from ssh_service.commands import script as scripts
from ssh_service.commands.script import Script
from ssh_service.connections.cache import SshClientCache, check_cache
from ssh_service.copying import Options
from ssh_service.errors import SshConfigError
from ssh_service.fleet.executor_runners import runner_for
from ssh_service.fleet.hosts import Host, expand, parse
from ssh_service.fleet.local_runner import Here, OnOutput, OnProgress
from ssh_service.fleet.result import HostResult, SshWorkerLost
from ssh_service.fleet.results import Results
from ssh_service.fleet.task import Job

__all__ = [
    "Host",
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
Path = Union[str, "os.PathLike[str]"]
Hosts = Iterable[Host]


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
    on_output: Optional[OnOutput] = None,
    executor: Optional[Executor] = None,
    cache: Optional[SshClientCache] = None,
) -> Results:
    """
    Run a script on many hosts.

    Parameters
    ----------
    hosts : Iterable[Union[str, Mapping[str, Any]]]
        ``[user@]host[:port]``, or connect parameters (see `ssh_service.params.resolve`).  Taken as
        room comes up, so it may be endless.  See `expand` for ranges such as ``web[01-40]``.
    script : Union[str, Iterable[str]]
        The script, or its lines.
    connect : Optional[Mapping[str, Any]]
        Connect parameters for every host; those of the host itself win.
    parallel : int
        How many hosts may be under way, or done with their results not taken yet.
    timeout : Optional[float]
        Seconds for each host: connecting, waiting, running.
    env : Optional[Mapping[str, Any]]
        Environment variables; values go through `str`.  None and bytes are refused.
    shell : Optional[str]
        The shell to run it in, a path on the server; None takes the login shell.
    max_output : Optional[int]
        Bytes that stdout and stderr of one host may each have; more ends the command.
    on_output : Optional[Callable[[str, str, bytes], None]]
        Called with host, ``stdout`` or ``stderr``, and a piece of output as it comes, on the
        callback thread; the results then hold no output.  What it raises ends that host's
        command, and is told as its error.  In this process only.
    executor : Optional[Executor]
        Where the work is done; None: in this process, without a thread for each command.
    cache : Optional[SshClientCache]
        Where connections come from, and stay; None: one of this call's own, where a connection is
        closed as soon as its host is done.  In this process only: workers have their own.

    Returns
    -------
    Results
        An iterator of `HostResult`, in the order in which hosts are done.  The work has begun.

    Raises
    ------
    SshConfigError
        The script, a variable's name or a number is wrong.  A host that is wrong is told of by
        its result.
    """
    connect = params.conceal(_connect(connect))
    arguments: Dict[str, Any] = {
        "text": scripts.join(script),
        "env": dict(scripts.check_environment(env)),
        "shell": shell,
        "max_output": max_output,
    }
    job = Job("run", arguments, dict(connect), _seconds("timeout", timeout))
    return _results(hosts, job, parallel, executor, cache, on_output, None)


def upload(
    hosts: Hosts,
    local_path: Path,
    remote_path: Path,
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
    on_progress: Optional[OnProgress] = None,
    executor: Optional[Executor] = None,
    cache: Optional[SshClientCache] = None,
) -> Results:
    """
    Copy a file or a tree to many hosts.

    Parameters
    ----------
    hosts, connect, parallel, executor, cache
        As for `run`; each copy holds a thread.
    local_path, remote_path : Union[str, os.PathLike]
        From where, to where: as for `ssh_service.upload`.
    recursive : bool
        Whether a folder may be copied.
    timeout : Optional[float]
        Seconds for each host's whole copy, connecting included; None: no limit.
    stall_timeout : Optional[float]
        Seconds without any progress after which to give a host up; None: no limit.
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
    on_progress : Optional[Callable[[str, Progress], None]]
        Called with host and progress, on threads of the copies'.  In this process only.

    Returns
    -------
    Results
        As for `run`.

    Raises
    ------
    SshConfigError
        A number or an option is wrong.  A host that is wrong is told of by its result.
    """
    connect = params.conceal(_connect(connect))
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
    job = Job("upload", arguments, dict(connect), _seconds("timeout", timeout))
    return _results(hosts, job, parallel, executor, cache, None, on_progress)


def download(
    hosts: Hosts,
    remote_path: Path,
    local_path: Path,
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
    on_progress: Optional[OnProgress] = None,
    executor: Optional[Executor] = None,
    cache: Optional[SshClientCache] = None,
    folder_per_host: bool = True,
) -> Results:
    """
    Copy a file or a tree from many hosts, into one folder for each.

    Parameters
    ----------
    hosts, connect, parallel, on_progress, executor, cache
        As for `upload`.
    remote_path : Union[str, os.PathLike]
        From where.
    local_path : Union[str, os.PathLike]
        Where the folders go, each by the name of its host; they are made, and stay where anything
        arrived.  With an executor on other machines, it is a path over there.
    recursive : bool
        Whether a folder may be copied.
    timeout : Optional[float]
        Seconds for each host's whole copy, connecting included; None: no limit.
    stall_timeout : Optional[float]
        Seconds without any progress after which to give a host up; None: no limit.
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
    folder_per_host : bool
        False, for a single host: the copy goes to `local_path` itself.

    Returns
    -------
    Results
        As for `run`.

    Raises
    ------
    SshConfigError
        A number or an option is wrong.  A host that is wrong is told of by its result.
    """
    connect = params.conceal(_connect(connect))
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
    job = Job("download", arguments, dict(connect), _seconds("timeout", timeout))
    return _results(hosts, job, parallel, executor, cache, None, on_progress)


def _copy_arguments(
    local_path: Path, remote_path: Path, stall_timeout: Optional[float], options: Options
) -> Dict[str, Any]:
    return {
        "local_path": os.fspath(local_path),
        "remote_path": os.fspath(remote_path),
        "stall_timeout": _seconds("stall_timeout", stall_timeout),
        "options": options.check()._asdict(),
    }


def _results(
    hosts: Hosts,
    job: Job,
    parallel: int,
    executor: Optional[Executor],
    cache: Optional[SshClientCache],
    on_output: Optional[OnOutput],
    on_progress: Optional[OnProgress],
) -> Results:
    if isinstance(hosts, (str, bytes, Mapping)) or not isinstance(hosts, Iterable):
        raise SshConfigError(
            f"hosts: expected several, such as a list, got a {type(hosts).__name__}"
        )
    if isinstance(parallel, bool) or not isinstance(parallel, int) or parallel < 1:
        raise SshConfigError(f"parallel: expected a whole number, at least 1, got {parallel!r}")
    if executor is None:
        check_cache(cache)
        return Results(hosts, Here(job, parallel, cache, on_output, on_progress), parallel)
    if cache is not None or on_output is not None or on_progress is not None:
        raise SshConfigError(
            "cache, on_output and on_progress: not with an executor, whose workers may be"
            " processes of their own"
        )
    if not callable(getattr(executor, "submit", None)):
        raise SshConfigError(
            f"executor: expected one of concurrent.futures, or like those, got {executor!r}"
        )
    return Results(hosts, runner_for(job, parallel, executor), parallel)


def _connect(given: Optional[Mapping[str, Any]]) -> Mapping[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise SshConfigError(
            f"connect: expected a mapping of connect parameters, got a {type(given).__name__}"
        )
    return given


def _seconds(name: str, value: Optional[float]) -> Optional[float]:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise SshConfigError(f"{name}: expected seconds above 0, got {value!r}")
    return float(value)
