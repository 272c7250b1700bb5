"""Jobs on a real server: started once, and found again, whatever happens to connections."""

from __future__ import annotations

import os
import pickle
import signal
import threading
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import pytest

from ssh_service import (
    Job,
    SshClientCache,
    SshJobConflict,
    SshJobNotFound,
    find_job,
    list_jobs,
    run,
    start_job,
)
from ssh_service.testing import process_tree
from ssh_service.testing.pytest_plugin import FaultProxy, Sshd
from tests.common import PATIENCE, eventually, in_threads, is_running

Web = Dict[str, Any]


class JobHost:
    """A server whose jobs have a folder of the test's own."""

    def __init__(self, sshd: Sshd, folder: Path) -> None:
        self.sshd, self.folder = sshd, folder
        self.web = sshd.connect_params

    def folders(self) -> List[str]:
        return sorted(os.listdir(self.folder)) if self.folder.exists() else []


@pytest.fixture(scope="module")
def _job_sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobHost]:
    if not Sshd:
        pytest.skip("needs an sshd")
    state = tmp_path_factory.mktemp("state")
    mark = f"JOB_TEST={os.getpid()}"
    options = {"SetEnv": f"SHLVL=1 XDG_STATE_HOME={state} {mark}"}
    with Sshd(tmp_path_factory.mktemp("sshd"), options) as sshd:
        yield JobHost(sshd, state / "ssh_service" / "jobs")
        process_tree.send_signal(process_tree.started_with(mark), signal.SIGKILL)


@pytest.fixture
def host(_job_sshd: JobHost) -> Iterator[JobHost]:
    yield _job_sshd
    _job_sshd.sshd.thaw()
    _job_sshd.sshd.cut()


def test_job_runs_to_its_end_and_is_removed(host: JobHost, cache: SshClientCache) -> None:
    """Output, status and input are those of the script; a removed job leaves nothing."""
    job = start_job(
        host.web,
        'cat; echo "$A" >&2; pwd; exit 3',
        env={"A": "it's\n$b `c`"},
        stdin="in\0put",
        cwd="/usr",
        cache=cache,
    )
    assert str(job.wait(PATIENCE)) == "ended(3)"
    process = job.result(PATIENCE)
    assert process.stdout_bytes == b"in\0put/usr\n"
    assert process.stderr == "it's\n$b `c`\n"
    assert (process.exit_status, process.returncode, process.exit_signal) == (3, 3, None)
    job.remove()
    assert host.folders() == []
    assert job.poll().name == "missing"
    with pytest.raises(SshJobNotFound):
        find_job(host.web, job.id, cache=cache)


def test_job_outlives_its_connection_and_its_cache(host: JobHost, cache: SshClientCache) -> None:
    job = start_job(host.web, "read line; echo got $line; sleep 0.5; echo end", stdin="it\n", cache=cache)
    cache.cleanup()
    host.sshd.cut()
    other = SshClientCache()
    try:
        again = find_job(host.web, job.id, cache=other)
        assert again == job and again.result(PATIENCE).stdout == "got it\nend\n"
        again.remove()
    finally:
        other.cleanup()


def test_one_id_is_started_once_by_ten_threads(host: JobHost, cache: SshClientCache, tmp_path: Path) -> None:
    jobs: List[Job] = []
    script = f"echo run >> {tmp_path}/runs; sleep 0.3"
    in_threads(10, lambda _: jobs.append(start_job(host.web, script, id="ten", cache=cache)))
    assert len(set(jobs)) == 1
    assert jobs[0].wait(PATIENCE).exit_status == 0
    assert (tmp_path / "runs").read_text() == "run\n"
    assert start_job(host.web, script, id="ten", cache=cache) == jobs[0]
    with pytest.raises(SshJobConflict, match="another script"):
        start_job(host.web, script + " ", id="ten", cache=cache)
    jobs[0].remove()


def test_killed_job_is_ended_with_all_its_processes(host: JobHost, cache: SshClientCache) -> None:
    job = start_job(host.web, "trap '' TERM; sleep 60 & echo $! $$; wait", cache=cache)
    pids = next(job.lines(timeout=PATIENCE)).split()
    assert job.poll().name == "running" and all(map(is_running, pids))
    state = job.kill()
    assert str(state) == "signalled(KILL)"
    eventually(lambda: not any(map(is_running, pids)), "they end")
    process = job.result(PATIENCE)
    assert (process.exit_status, process.returncode) == (-1, -9)
    assert process.exit_signal is not None and process.exit_signal[0] == "KILL"


@pytest.mark.parametrize("name", ["INT", "TERM", "USR1"])
def test_signal_reaches_the_job_as_it_would_a_command(
    host: JobHost, cache: SshClientCache, name: str
) -> None:
    """No signal is ignored on its way, not even INT, which shells ignore for the background."""
    job = start_job(host.web, f"trap 'echo got; exit 7' {name}; echo on; while :; do sleep 0.05; done", cache=cache)
    lines = job.lines(timeout=PATIENCE)
    assert next(lines) == "on\n"
    job.kill(name)
    assert str(job.wait(PATIENCE)) == "ended(7)"
    assert list(lines) == ["got\n"] and lines.offset == 7


def test_status_of_a_signal_is_told_from_a_signal(host: JobHost, cache: SshClientCache) -> None:
    jobs = [start_job(host.web, script, cache=cache) for script in ("exit 143", "kill -TERM $$")]
    assert [str(job.wait(PATIENCE)) for job in jobs] == ["ended(143)", "signalled(TERM)"]


def test_pickled_job_is_the_same_job(host: JobHost, cache: SshClientCache) -> None:
    job = start_job(host.web, "exit 4", cache=cache)
    again = pickle.loads(pickle.dumps(job))
    assert again == job and again.id in repr(again)


def test_jobs_are_listed_with_their_states(host: JobHost, cache: SshClientCache) -> None:
    for job in list_jobs(host.web, cache=cache):
        job.kill()
        job.remove()
    start_job(host.web, "exit 5", id="b", cache=cache).wait(PATIENCE)
    running = start_job(host.web, "sleep 60", id="a", cache=cache)
    assert [(job.id, str(job.state)) for job in list_jobs(host.web, cache=cache)] == [
        ("a", "running"),
        ("b", "ended(5)"),
    ]
    assert str(running.kill()) == "signalled(TERM)"
