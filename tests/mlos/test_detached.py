"""mlos_bench itself, with scripts that run as jobs: no trial is lost, and none runs twice."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator

import pytest

from ssh_service.testing.pytest_plugin import Sshd
from tests.common import eventually
from tests.sshd.jobs import JobHost, job_host

from .experiment import VERSION, Experiment

LIMITS = {"ssh_keepalive_interval": 0.5, "ssh_keepalive_count_max": 2, "ssh_connect_timeout": 2}


@pytest.fixture
def host(sshd: Sshd, tmp_path: Path) -> Iterator[JobHost]:
    (tmp_path / "jobs").mkdir()
    with job_host(tmp_path / "jobs") as host:
        yield host


@pytest.fixture
def make(host: JobHost, tmp_path: Path) -> Iterator[Callable[..., Experiment]]:
    """Return a function that makes an experiment which counts the runs of its scripts."""
    made = []

    def make(**settings: Any) -> Experiment:
        experiment = Experiment(tmp_path, host.sshd, **{**LIMITS, **settings})
        made.append(experiment)
        services = experiment.read("services.json")
        services["services"][0]["config"].update(ssh_detached=True, ssh_job_id="Test")
        experiment.write("services.json", services)
        environment = experiment.read("environment.json")
        work: Dict[str, Any] = environment["config"]["children"][0]["config"]
        for phase in ("setup", "run", "teardown"):
            count = f'echo "{phase} $trial_id" >> "$remote/count"'
            work[phase] = [count, *work.get(phase, [])]
        experiment.write("environment.json", environment)
        return experiment

    yield make
    for experiment in made:
        experiment.kill()


def runs(experiment: Experiment) -> "list[str]":
    return (experiment.remote / "count").read_text().splitlines()


@pytest.mark.long
def test_every_trial_succeeds_whatever_happens_to_its_sshd(
    make: Callable[..., Experiment], host: JobHost
) -> None:
    """The server is killed, frozen, and restarted during trials; each script runs once."""
    experiment = make(optimizer="several")
    numbers = range(1, 5)
    for trial in numbers:
        experiment.close("run", trial)
    experiment.start()
    for trial in numbers:
        experiment.wait_at("run", trial)
        if trial == 1:
            host.sshd.cut()
        elif trial == 2:
            host.sshd.freeze(listener=True)
            time.sleep(2)  # longer than a silent connection is kept
            host.sshd.thaw()
        elif trial == 3:
            host.sshd.restart()
        else:
            host.sshd.stop()
        experiment.open("run", trial)
        if trial == 4:
            eventually(lambda: "4" in (experiment.remote / "results.csv").read_text())
            host.sshd.restart()
    status, output = experiment.wait()
    assert status == 0, output
    trials = experiment.trials()
    assert [trial.status for trial in trials] == ["SUCCEEDED"] * 4, output
    counted = runs(experiment)
    assert len(counted) == len(set(counted)), "a script ran twice"
    assert {f"{phase} {trial}" for trial in numbers for phase in ("setup", "run")} < set(counted)
    assert counted[-1].startswith("teardown ")
    assert host.folders() == []


def test_killed_mlos_bench_takes_its_trial_up_again(
    make: Callable[..., Experiment], host: JobHost
) -> None:
    """With -9 in the middle of a run, and started again: the run is not repeated, nor lost."""
    # Old releases take a pending trial up only if their optimizer learns from trials.
    experiment = make(optimizer="one-shot" if VERSION >= (0, 6) else "several")
    experiment.close("run", 1)
    experiment.start()
    experiment.wait_at("run", 1)
    experiment.kill()
    assert len(host.folders()) == 1
    experiment.start()
    experiment.open("run", 1)
    status, output = experiment.wait()
    assert status == 0, output
    found = experiment.trials()
    assert found[0].status == "SUCCEEDED", output
    assert [line for line in runs(experiment) if line == "run 1"] == ["run 1"]
    assert host.folders() == []
