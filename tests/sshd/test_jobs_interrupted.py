"""An exception of a signal handler (Ctrl-C) at any moment of a call about jobs."""

from __future__ import annotations

import functools
import gc
import itertools
import logging
from pathlib import Path
from typing import Any, Callable, Dict

import pytest

from ssh_service import Job, SshClientCache, find_job, start_job
from ssh_service.jobs import watcher as watcher_module
from ssh_service.jobs.starting import Start
from tests.common import PATIENCE, eventually
from tests.injection import HOWS, tear
from tests.sshd.jobs import JobHost

# For the moments of one call.
HURRY: Dict[str, Any] = {"seconds": 1.5, "stride": 97, "at_least": 6}

# A command of ours that was torn says that it is dropped.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

_names = itertools.count()


# Each way of looking for signals; all but the last take too long for every run.
EACH_WAY = pytest.mark.parametrize(
    "how", [*(pytest.param(how, marks=pytest.mark.long) for how in HOWS[:-1]), HOWS[-1]]
)


@EACH_WAY
def test_start_that_is_interrupted_is_made_once_when_it_is_repeated(
    job_host: JobHost, cache: SshClientCache, tmp_path: Path, how: str
) -> None:
    """Whatever became of the first call, the job runs once, and is found by its id."""
    runs, names = tmp_path / "runs", [""]

    def start() -> Job:
        script = f"echo {names[-1]} >> {runs}"
        return start_job(job_host.web, script, id=names[-1], stdin="x", cache=cache)

    def make() -> Callable[[], Any]:
        names.append(f"torn-{how}-{next(_names)}")
        return start

    def check() -> None:
        job = start()
        assert str(job.wait(PATIENCE)) == "ended(0)"
        assert find_job(job_host.web, names[-1], cache=cache) == job
        assert len(runs.read_text().split()) == len(set(runs.read_text().split()))
        assert names[-1] in runs.read_text()

    assert tear(make, how, check, **HURRY) >= 6


@EACH_WAY
@pytest.mark.parametrize(
    "call",
    [
        *("wait", "lines", "kill", "remove"),
        *(pytest.param(call, marks=pytest.mark.long) for call in ("poll", "result", "find")),
    ],
)
def test_call_about_a_job_that_is_interrupted_leaves_the_rest_as_it_was(
    job_host: JobHost, cache: SshClientCache, call: str, how: str
) -> None:
    """The next question is answered, nobody is waited for, and the job is as it was."""
    name = f"{call}-{how}"
    job = start_job(job_host.web, "read line; exit 3", id=name, stdin="\n", cache=cache)
    assert str(job.wait(PATIENCE)) == "ended(3)"
    calls: Dict[str, Callable[[Job], Any]] = {
        "wait": lambda job: job.wait(PATIENCE),
        "poll": lambda job: job.poll(PATIENCE),
        "lines": lambda job: list(job.lines(timeout=PATIENCE)),
        "result": lambda job: job.result(PATIENCE),
        "kill": lambda job: job.kill("TERM"),
        "remove": lambda job: job.remove(),
        "find": lambda job: find_job(job_host.web, name, cache=cache),
    }

    def make() -> Callable[[], Any]:
        nonlocal job
        if call == "remove":
            job = start_job(job_host.web, "read line; exit 3", id=name, stdin="\n", cache=cache)
            job.wait(PATIENCE)
        fresh = Job(job.host, job._seen._replace(state=job.state._replace(name="running")))
        return functools.partial(calls[call], fresh)

    def check() -> None:
        state = job.poll(PATIENCE)
        if call == "remove":
            assert str(state) in ("ended(3)", "missing")
        else:
            assert str(find_job(job_host.web, name, cache=cache).state) == str(state)
        watcher = watcher_module.watcher_of(cache, job.host.target)
        gc.collect()
        eventually(lambda: not watcher._waiters(), "nobody is waited for")

    assert tear(make, how, check, **HURRY) >= 6


def test_interrupted_start_names_the_job_that_may_run(
    job_host: JobHost,
    cache: SshClientCache,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without an id of the caller's, the log alone can name it."""
    look = Start._attempt

    def attempt(self: Start, deadline: Any) -> Any:
        look(self, deadline)
        raise KeyboardInterrupt

    monkeypatch.setattr(Start, "_attempt", attempt)
    with caplog.at_level(logging.WARNING), pytest.raises(KeyboardInterrupt):
        start_job(job_host.web, "exit 4", cache=cache)
    (record,) = caplog.records
    words = record.getMessage().split()
    assert "it may have been started" in record.getMessage()
    job = find_job(job_host.web, words[words.index("job") + 1], cache=cache)
    assert str(job.wait(PATIENCE)) == "ended(4)"
