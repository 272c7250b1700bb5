"""The commands ``job ...``: jobs on one host or many, after the command line was parsed."""

from __future__ import annotations

import concurrent.futures
import json
import sys
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

from ssh_service import settings
from ssh_service.cli.report import escape_control_characters
from ssh_service.cli.targets import check_parallel, collect, connect_parameters
from ssh_service.commands.process_group import check_signal
from ssh_service.connections.cache import SshClientCache
from ssh_service.errors import SshServiceError
from ssh_service.fleet.hosts import connect_params
from ssh_service.fleet.result import one_line
from ssh_service.jobs import JobState, find_job, start_job
from ssh_service.jobs.record import Seen, check_id
from ssh_service.jobs.starting import clean_jobs, look_at_all

__all__ = ["clean", "kill", "list_", "logs", "remove", "start", "wait"]

# What is done on one host: yields the jobs that it concerns, with their states.
Work = Callable[[str, Dict[str, Any], SshClientCache], Iterable[Tuple[str, JobState]]]


def start(
    command: str,
    *,
    job_id: Optional[str],
    cwd: Optional[str],
    shell: Optional[str],
    run_timeout: Optional[float],
    **options: Any,
) -> int:
    """Start a job on every host."""
    if job_id is not None:
        check_id(job_id, "--id")
    timeout = options["timeout"]

    def work(host: str, connect: Dict[str, Any], cache: SshClientCache) -> Any:
        job = start_job(
            connect, command, id=job_id, cwd=cwd, shell=shell, run_timeout=run_timeout,
            timeout=timeout, cache=cache,
        )  # fmt: skip
        return [(job.id, job.state)]

    return _run(work, lambda state: True, options)


def list_(**options: Any) -> int:
    """List the jobs of every host, those of hosts that share a home included."""
    timeout = options["timeout"]

    def work(host: str, connect: Dict[str, Any], cache: SshClientCache) -> Any:
        found: List[Seen] = look_at_all(connect, timeout, cache)
        return [(seen.job_id, seen.state) for seen in found]

    return _run(work, lambda state: True, options)


def logs(job_id: str, follow: bool, stderr: bool, **options: Any) -> int:
    """Print the output of a job of every host; with `follow`, until it is over."""
    check_id(job_id)
    stream, timeout = "stderr" if stderr else "stdout", options["timeout"]

    def work(host: str, connect: Dict[str, Any], cache: SshClientCache) -> Any:
        job = find_job(connect, job_id, timeout=timeout, cache=cache)
        prefix = f"{host}: ".encode() if options["several"] else b""
        for line in job.lines(stream=stream, encoding=None, timeout=timeout, follow=follow):
            if options["as_json"]:
                text = line.decode("utf-8", "backslashreplace")
                _print({"host": host, "id": job.id, "stream": stream, "line": text})
            else:
                _write(prefix, line)
        return []

    return _run(work, lambda state: True, options)


def wait(job_ids: Sequence[str], **options: Any) -> int:
    """Wait for jobs of every host; fail unless all end with status 0."""
    return _each(job_ids, lambda job: job.wait(options["timeout"]), _succeeded, options)


def kill(job_ids: Sequence[str], signal: Optional[str], **options: Any) -> int:
    """End jobs of every host, or signal them."""
    if signal is not None:
        check_signal(signal)
    return _each(job_ids, lambda job: job.kill(signal), lambda state: True, options)


def remove(job_ids: Sequence[str], **options: Any) -> int:
    """Remove jobs of every host."""

    def act(job: Any) -> JobState:
        job.remove()
        return JobState("missing")

    return _each(job_ids, act, lambda state: True, options)


def clean(older: str, **options: Any) -> int:
    """Remove the jobs of every host that ended some time ago."""
    seconds, timeout = settings.time_span("--older", older), options["timeout"]

    def work(host: str, connect: Dict[str, Any], cache: SshClientCache) -> Any:
        removed = clean_jobs(connect, seconds, timeout=timeout, cache=cache)
        return [(job_id, JobState("missing")) for job_id in removed]

    return _run(work, lambda state: True, options)


def _succeeded(state: JobState) -> bool:
    return state.name == "ended" and state.exit_status == 0


def _each(
    job_ids: Sequence[str],
    act: Callable[[Any], JobState],
    is_good: Callable[[JobState], bool],
    options: Dict[str, Any],
) -> int:
    for job_id in job_ids:
        check_id(job_id)

    def work(
        host: str, connect: Dict[str, Any], cache: SshClientCache
    ) -> Iterator[Tuple[str, JobState]]:
        for job_id in job_ids:
            job = find_job(connect, job_id, timeout=options["timeout"], cache=cache)
            yield job_id, act(job)

    return _run(work, is_good, options)


def _run(work: Work, is_good: Callable[[JobState], bool], options: Dict[str, Any]) -> int:
    """Do the work on every host, report it, and return the exit status."""
    hosts = collect(options["hosts"], options["files"])
    check_parallel(options["parallel"], len(hosts), "hosts")
    options["several"] = len(hosts) > 1
    names = ("host_key", "keys", "config", "user", "port")
    common = connect_parameters(**{name: options[name] for name in names})
    cache, failed = SshClientCache(), []

    def on_host(host: str) -> None:
        try:
            for job_id, state in work(host, connect_params(host, common), cache):
                _report(host, job_id, state, options["as_json"])
                if not is_good(state):
                    failed.append(host)
        except (SshServiceError, TimeoutError) as error:
            failed.append(host)
            text = one_line(error)
            if options["as_json"]:
                _print({"host": host, "error": text})
            else:
                print(f"ssh-service: {host}: {text}", file=sys.stderr)

    pool = concurrent.futures.ThreadPoolExecutor(min(options["parallel"], len(hosts)))
    try:
        for _ in pool.map(on_host, hosts):
            pass
    except KeyboardInterrupt:
        return 130
    finally:
        cache.cleanup()  # which ends what is still waited for
        pool.shutdown(wait=False)
    return 1 if failed else 0


def _report(host: str, job_id: str, state: JobState, as_json: bool) -> None:
    if as_json:
        _print({"host": host, "id": job_id, "state": state.name, **_details(state)})
        return
    where = f" ({state.host})" if state.name == "elsewhere" else ""
    print(f"{host}: {job_id} {'removed' if state.name == 'missing' else state}{where}", flush=True)


def _details(state: JobState) -> Dict[str, Any]:
    names = ("exit_status", "signal", "began", "ended", "timed_out", "disk_full")
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
