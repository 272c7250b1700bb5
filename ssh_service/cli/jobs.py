"""The commands ``job ...``: jobs on one host or many, after the command line was parsed."""

from __future__ import annotations

import concurrent.futures
import json
import re
import sys
import threading
import time
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple, Union

import click

from ssh_service import settings
from ssh_service.cli.inputs import CommandToRun
from ssh_service.cli.report import escape_control_characters, in_options
from ssh_service.cli.targets import (
    check_parallel,
    collect,
    connect_parameters,
    sudo_parameters,
)
from ssh_service.connections.cache import SshClientCache
from ssh_service.errors import SshJobTimeout, SshServiceError
from ssh_service.fleet.hosts import connect_params
from ssh_service.fleet.result import one_line
from ssh_service.jobs import Job, JobState, find_job, start_job
from ssh_service.jobs.finding import clean_jobs, find_or_finish_removal, look_at_all
from ssh_service.jobs.job import signal_name
from ssh_service.jobs.record import Seen, check_id
from ssh_service.jobs.starting import new_id

__all__ = ["clean", "kill", "list_", "logs", "remove", "start", "status", "wait"]

# A job's id with its state, or with the error of the job.
Outcome = Tuple[str, Union[JobState, Exception]]
# The work on one host: yields the affected jobs with their outcomes.
Work = Callable[[str, Dict[str, Any], SshClientCache], Iterable[Outcome]]

# Seconds for a signal if no time limit is given.
_KILL_TIMEOUT = 60.0
# How often connections are closed while work goes on at the end, and the seconds in between.
_MAX_CLEANUPS, _CLEANUP_INTERVAL = 100, 0.1
_AGE = re.compile(r"(\d+[smhdw])+\Z", re.IGNORECASE)


def start(
    command: CommandToRun,
    *,
    job_id: Optional[str],
    cwd: Optional[str],
    run_timeout: Optional[float],
    **options: Any,
) -> int:
    """Start a job on every host."""
    if job_id is not None:
        check_id(job_id, "--id")
    timeout = options["timeout"]
    starting: Dict[str, str] = {}

    def work(host: str, connect: Dict[str, Any], cache: SshClientCache) -> Any:
        starting[host] = job_id or new_id()
        job = start_job(
            connect, command.text if command.args is None else None, args=command.args,
            **command.arguments(), id=starting[host], cwd=cwd, run_timeout=run_timeout,
            timeout=timeout, cache=cache, **options["sudo_arguments"],
        )  # fmt: skip
        del starting[host]
        return [(job.id, job.state)]

    def describe() -> str:
        jobs = ", ".join(f"{host}: {name}" for host, name in sorted(starting.items()))
        return f"these jobs may have been started: {jobs}" if jobs else "no start was under way"

    return _run(work, _is_any, options, describe)


def list_(**options: Any) -> int:
    """List the jobs of every host, including those of hosts that share a home directory."""
    timeout = options["timeout"]

    def work(host: str, connect: Dict[str, Any], cache: SshClientCache) -> Any:
        found: List[Seen] = look_at_all(connect, timeout, cache, **options["sudo_arguments"])
        return [(seen.job_id, seen.state) for seen in found]

    return _run(work, _is_any, options, lambda: "the list is incomplete")


def logs(job_ids: Sequence[str], follow: bool, stderr: bool, **options: Any) -> int:
    """Print the output of a job of every host; with `follow`, until the job is over."""
    if len(job_ids) > 1:
        words = " and ".join(map(repr, job_ids[:2]))
        hint = "; -f is --follow here, and hosts are read with --hosts-file" if follow else ""
        raise click.UsageError(f"expected one ID, got {words}{hint}")
    (job_id,) = job_ids
    check_id(job_id)
    stream, timeout = "stderr" if stderr else "stdout", options["timeout"]

    def work(host: str, connect: Dict[str, Any], cache: SshClientCache) -> Any:
        deadline = _Deadline(timeout)
        job = find_job(connect, job_id, timeout=timeout, cache=cache, **options["sudo_arguments"])
        prefix = f"{host}: ".encode() if options["several"] else b""
        for line in job.lines(stream=stream, encoding=None, timeout=deadline.left, follow=follow):
            if options["as_json"]:
                text = line.decode("utf-8", "backslashreplace")
                _print({"host": host, "id": job.id, "stream": stream, "line": text})
            else:
                _write(prefix, line)
        return []

    return _run(work, _is_any, options, lambda: f"the job keeps running: {job_id}")


def status(job_ids: Sequence[str], **options: Any) -> int:
    """Print the state of jobs of every host."""

    def act(job: Job, _: Optional[float]) -> JobState:
        return job.state

    return _each(job_ids, act, _is_any, options, "not all were asked for")


def wait(job_ids: Sequence[str], **options: Any) -> int:
    """Wait for jobs of every host; the exit status is 0 only if all end with status 0."""

    def act(job: Job, left: Optional[float]) -> JobState:
        return job.wait(left)

    jobs = "the job keeps" if len(job_ids) == 1 else "the jobs keep"
    return _each(job_ids, act, _succeeded, options, f"{jobs} running")


def kill(job_ids: Sequence[str], signal: Optional[str], **options: Any) -> int:
    """End jobs of every host, or signal them."""
    if signal is not None:
        signal_name(signal)

    def act(job: Job, left: Optional[float]) -> JobState:
        return job.kill(signal, timeout=_KILL_TIMEOUT if left is None else left)

    return _each(job_ids, act, _is_any, options, "some of the jobs may have got the signal")


def remove(job_ids: Sequence[str], **options: Any) -> int:
    """Remove jobs of every host."""

    def act(job: Job, left: Optional[float]) -> JobState:
        job.remove(timeout=left)
        return JobState("missing")

    interrupted = "some of the jobs may have been removed"
    return _each(job_ids, act, _is_any, options, interrupted, find_or_finish_removal)


def clean(older: str, **options: Any) -> int:
    """Remove the jobs of every host that ended some time ago."""
    if not _AGE.match(older):
        raise click.UsageError(
            "--older: expected a time with its unit, such as 7d, 12h, 90m or 0s (all that have"
            f" ended), got {older!r}"
        )
    seconds, timeout = settings.time_span("--older", older), options["timeout"]

    def work(host: str, connect: Dict[str, Any], cache: SshClientCache) -> Any:
        removed = clean_jobs(
            connect, seconds, timeout=timeout, cache=cache, **options["sudo_arguments"]
        )
        return [(job_id, JobState("missing")) for job_id in removed]

    return _run(work, _is_any, options, lambda: "some of the jobs may have been removed")


def _is_any(_: JobState) -> bool:
    return True


def _succeeded(state: JobState) -> bool:
    return state.name == "ended" and state.exit_status == 0


class _Deadline:
    def __init__(self, timeout: Optional[float]) -> None:
        self._at = None if timeout is None else time.monotonic() + timeout

    @property
    def left(self) -> Optional[float]:
        """Seconds left, never 0, so that the host is queried and its error has the details."""
        return None if self._at is None else max(0.001, self._at - time.monotonic())


def _each(
    job_ids: Sequence[str],
    act: Callable[[Job, Optional[float]], JobState],
    is_good: Callable[[JobState], bool],
    options: Dict[str, Any],
    interrupted: str,
    find: Callable[..., Job] = find_job,
) -> int:
    """Do the same with each job of each host, independently of the others."""
    for job_id in job_ids:
        check_id(job_id)

    def work(host: str, connect: Dict[str, Any], cache: SshClientCache) -> Iterator[Outcome]:
        deadline = _Deadline(options["timeout"])
        for job_id in dict.fromkeys(job_ids):
            try:
                job = find(
                    connect,
                    job_id,
                    timeout=deadline.left,
                    cache=cache,
                    **options["sudo_arguments"],
                )
                yield job_id, act(job, deadline.left)
            except SshServiceError as error:
                yield job_id, error

    return _run(work, is_good, options, lambda: f"{interrupted}: {', '.join(job_ids)}")


def _run(
    work: Work,
    is_good: Callable[[JobState], bool],
    options: Dict[str, Any],
    describe_interruption: Callable[[], str],
) -> int:
    """Do the work on every host, report the outcomes, and return the exit status."""
    hosts = collect(options["hosts"], options["files"])
    check_parallel(options["parallel"], len(hosts), "hosts")
    options["several"] = len(hosts) > 1
    common = connect_parameters(options, hosts)
    options["sudo_arguments"] = sudo_parameters(options, hosts)
    cache, failed = SshClientCache(), []
    interrupted = threading.Event()  # errors caused by the interruption are not reported

    def fail(host: str, error: Exception, job_id: Optional[str] = None) -> None:
        failed.append(host)
        if interrupted.is_set():
            return
        text = in_options(one_line(error))
        if options["as_json"]:
            _print({"host": host, **({"id": job_id} if job_id else {}), "error": text})
        else:
            print(f"{host}: {_verdict(error)}: {text}", file=sys.stderr, flush=True)

    def on_host(host: str) -> None:
        if interrupted.is_set():
            return
        try:
            for job_id, found in work(host, connect_params(host, common), cache):
                if isinstance(found, Exception):
                    fail(host, found, job_id)
                    continue
                _report(host, job_id, found, options["as_json"])
                if not is_good(found):
                    failed.append(host)
        except SshServiceError as error:
            fail(host, error)

    pool = concurrent.futures.ThreadPoolExecutor(min(options["parallel"], len(hosts)))
    futures = [pool.submit(on_host, host) for host in hosts]
    try:
        for future in futures:
            future.result()
    except KeyboardInterrupt:
        interrupted.set()
        print(f"ssh-service: interrupted: {describe_interruption()}", file=sys.stderr, flush=True)
        return 130
    finally:
        interrupted.set()
        _close(cache, futures)
        pool.shutdown(wait=False)
    return 1 if failed else 0


def _verdict(error: Exception) -> str:
    return "TIMED OUT" if isinstance(error, SshJobTimeout) and error.answered else "FAILED"


def _close(cache: SshClientCache, futures: "List[concurrent.futures.Future[None]]") -> None:
    """Close the connections until the work has ended."""
    # More than once, as a thread that was between two questions connects again for the next one.
    for _ in range(_MAX_CLEANUPS):
        cache.cleanup()
        if not concurrent.futures.wait(futures, timeout=_CLEANUP_INTERVAL).not_done:
            return


def _report(host: str, job_id: str, state: JobState, as_json: bool) -> None:
    if as_json:
        _print({"host": host, "id": job_id, "state": state.name, **_details(state)})
        return
    where = f" ({state.host})" if state.name == "elsewhere" else ""
    print(f"{host}: {job_id} {'removed' if state.name == 'missing' else state}{where}", flush=True)


def _details(state: JobState) -> Dict[str, Any]:
    names = ("exit_status", "signal", "began", "ended", "timed_out", "disk_full", "certain")
    return {name: getattr(state, name) for name in names}


def _print(found: Dict[str, Any]) -> None:
    print(json.dumps(found), flush=True)


def _write(prefix: bytes, line: bytes) -> None:
    if sys.stdout.isatty():
        line = escape_control_characters(line.rstrip(b"\n")) + b"\n"
    elif prefix and not line.endswith(b"\n"):
        line += b"\n"
    sys.stdout.buffer.write(prefix + line)
    sys.stdout.buffer.flush()
