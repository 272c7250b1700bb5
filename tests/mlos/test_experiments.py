"""Whole experiments, by the real command of mlos_bench, against a real sshd."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Callable, Iterator, List

import pytest

from ssh_service.mlos_bench import EXAMPLES
from ssh_service.testing.pytest_plugin import Sshd
from tests.keys import public_line

from .experiment import (
    HAS_GRID,
    OURS,
    UPSTREAM,
    VERSION,
    Experiment,
    Trial,
    make_checkout,
    run_command,
)

Make = Callable[..., Experiment]
# What the command of an experiment that went well returns to the shell.
GOOD = 1 if (0, 6) <= VERSION < (0, 6, 2) else 0
NAMES = {
    "upstream's names": (f"{UPSTREAM}.SshHostService", f"{UPSTREAM}.SshFileShareService"),
    "our names": (f"{OURS}.SshHostService", f"{OURS}.SshFileShareService"),
    "modules of both": (
        f"{UPSTREAM}.ssh_host_service.SshHostService",
        f"{OURS}.ssh_fileshare.SshFileShareService",
    ),
}


@pytest.fixture
def make(tmp_path: Path, sshd: Sshd) -> Iterator[Make]:
    """Return a function that makes the test's experiment."""
    made: List[Experiment] = []

    def make_one(**options: Any) -> Experiment:
        made.append(Experiment(tmp_path, sshd, **options))
        return made[0]

    yield make_one
    for experiment in made:
        experiment.kill()


def succeeded(trial: Trial, number: int) -> bool:
    """Tell whether a trial ended well, with the results that its script wrote, as stored."""
    results = trial.results
    return (
        trial.status == "SUCCEEDED"
        and trial.ended
        and float(results["score"]) == 10 * trial.level
        and results["greeting"] == "it's $HOME"
        and float(results["trial"]) == number
    )


def failed(trial: Trial, reason: str = "") -> bool:
    """Tell whether a trial ended, as failed, with nothing stored but a reason, if any."""
    stored = trial.results
    if not reason or VERSION < (0, 6):  # which takes no output of a failed trial
        return trial[:2] == ("FAILED", True) and not stored
    has_reason = set(stored) == {"error"} and reason in stored["error"]
    return trial[:2] == ("FAILED", True) and has_reason


@pytest.mark.parametrize("names", ["upstream's names", "our names"])
def test_a_one_shot_experiment_stores_its_results(make: Make, sshd: Sshd, names: str) -> None:
    experiment = make(services=NAMES[names])
    status, output = experiment.run()
    (trial,) = experiment.trials()
    assert succeeded(trial, 1), output
    assert trial.level == 2  # the default
    assert (experiment.remote / "torn-down").exists()
    assert sshd.logins() == 1  # one connection for both services, from begin to end
    assert "paramiko" in sshd.log() and "AsyncSSH" not in sshd.log()
    assert status == GOOD, output


def test_a_grid_is_walked_to_its_end_over_one_connection(make: Make, sshd: Sshd) -> None:
    experiment = make(services=NAMES["modules of both"], optimizer="several")
    status, output = experiment.run()
    trials = experiment.trials()
    assert [succeeded(trial, n) for n, trial in enumerate(trials, 1)] == [True] * 4, output
    assert status == GOOD, output
    if HAS_GRID:
        assert sorted(trial.level for trial in trials) == [1, 2, 3, 4]
    assert sshd.logins() == 1


def test_host_down_before_or_during_a_script_fails_only_trials(make: Make, sshd: Sshd) -> None:
    experiment = make(optimizer="several")
    for gate in (("setup", 2), ("setup", 3), ("run", 3), ("setup", 4)):
        experiment.close(*gate)
    experiment.start()
    experiment.wait_at("setup", 2)
    sshd.stop()
    experiment.open("setup", 2)
    experiment.wait_at("setup", 3)  # so the program lives on
    sshd.restart()
    experiment.open("setup", 3)
    experiment.wait_at("run", 3)
    sshd.stop()
    experiment.wait_at("setup", 4)
    sshd.restart()
    experiment.open("setup", 4)
    _, output = experiment.wait()
    one, two, three, four = experiment.trials()
    assert succeeded(one, 1) and succeeded(four, 4), output
    assert failed(two), output  # while it was set up: mlos_bench stores nothing of that
    assert failed(three, "connection"), output
    assert (experiment.remote / "torn-down").exists()


def test_unreachable_host_fails_trials_and_experiment_ends(make: Make, sshd: Sshd) -> None:
    experiment = make(optimizer="several")
    sshd.stop()
    status, output = experiment.run()
    assert [failed(trial) for trial in experiment.trials()] == [True] * 4, output
    assert status != 0 or not HAS_GRID  # mlos_bench's own verdict: too many have failed
    assert "Connection refused" in output


def test_stored_reason_fits_into_a_database_column(make: Make, sshd: Sshd, tmp_path: Path) -> None:
    """A longer text is refused by MySQL and PostgreSQL, and the experiment would end with it."""
    others = tmp_path / ("long" * 50) / "known_hosts"
    others.parent.mkdir()
    others.write_text(f"[{sshd.host}]:{sshd.port} {public_line('another-host')}\n")
    experiment = make(ssh_known_hosts_path=str(others))
    composite = experiment.read("environment.json")
    script = {**composite["config"]["children"][0], "include_tunables": ["tunables.json"]}
    experiment.write("environment.json", script)  # nothing but the script, no copies
    _, output = experiment.run()
    (trial,) = experiment.trials()
    assert trial[:2] == ("FAILED", True), output
    reason = trial.results["error"]
    assert "it has CHANGED" in reason and reason.endswith(" ...") and len(reason) == 255
    assert str(others) in output  # the log has it whole


def test_restarted_sshd_fails_only_a_trial_that_runs(make: Make, sshd: Sshd) -> None:
    experiment = make(optimizer="several")
    for gate in (("setup", 2), ("run", 3)):
        experiment.close(*gate)
    experiment.start()
    experiment.wait_at("setup", 2)
    sshd.restart()
    experiment.open("setup", 2)
    experiment.wait_at("run", 3)
    assert sshd.logins() == 2
    sshd.restart()
    _, output = experiment.wait()
    one, two, three, four = experiment.trials()
    assert succeeded(one, 1) and succeeded(two, 2), output
    assert failed(three, "connection") and succeeded(four, 4), output


@pytest.mark.skipif(not HAS_GRID, reason="this mlos_bench stores no output of failed trials")
def test_experiment_failed_script_reason_is_stored(make: Make) -> None:
    """A composite, the usual root, stores the exit status and the last line of stderr."""
    experiment = make()
    composite = experiment.read("environment.json")
    composite["config"]["children"][0]["config"]["run"] = ["echo 'no disk' >&2", "exit 3"]
    experiment.write("environment.json", composite)
    _, output = experiment.run()
    (trial,) = experiment.trials()
    assert failed(trial, "exit status 3: no disk"), output


def test_experiment_long_output_is_logged_in_part(make: Make) -> None:
    """A script's output of a megabyte leaves its end in the log, not all of it."""
    experiment = make()
    script = experiment.read("environment.json")["config"]["children"][0]
    script["config"]["run"] = ["head -c 1000000 /dev/zero | tr '\\0' x; echo the end", "exit 3"]
    experiment.write("environment.json", {**script, "include_tunables": ["tunables.json"]})
    _, output = experiment.run()
    assert "the end" in output and "characters not shown" in output
    assert max(map(len, output.splitlines())) < 20_000


def test_our_settings_take_effect(make: Make) -> None:
    experiment = make(ssh_request_timeout=1, ssh_connect_timeout=5, ssh_max_connections=1)
    experiment.close("run", 1)  # and never opened
    experiment.run()
    (trial,) = experiment.trials()
    assert trial[:2] == ("TIMED_OUT", True)


def test_a_typo_ends_the_command_before_anything_runs(make: Make, sshd: Sshd) -> None:
    status, output = make(ssh_usernam="root").run()
    assert status != 0
    last = output.splitlines()[-1]
    assert "services.json" in last and "did you mean ssh_username?" in last
    assert "Traceback" not in output and len(output.splitlines()) < 50
    assert sshd.logins() == 0


@pytest.mark.skipif(not HAS_GRID, reason="this mlos_bench has no grid search")
def test_the_examples_work_as_they_are(sshd: Sshd, tmp_path: Path, nobody_at_home: Path) -> None:
    folder = tmp_path / "examples"
    shutil.copytree(EXAMPLES, str(folder))
    make_checkout(folder)
    (nobody_at_home / ".ssh").mkdir(mode=0o700)
    ssh_config = nobody_at_home / ".ssh" / "config"
    ssh_config.write_text(
        f"Host my-host\n HostName {sshd.host}\n User {sshd.username}\n"
        f" IdentityFile {sshd.client_key}\n"
    )
    status, output = run_command(
        folder,
        *("--config", "experiment.jsonc"),
        *("--ssh_port", str(sshd.port)),  # has an effect only where a service's config has one
        *("--remote_dir", str(tmp_path)),
        *("--ssh_config", str(ssh_config)),
        *("--ssh_known_hosts_path", str(nobody_at_home / "known_hosts")),
    )
    with closing(sqlite3.connect(str(folder / "experiment.sqlite"))) as storage:
        states = storage.execute("SELECT status FROM trial").fetchall()
        sizes = storage.execute("SELECT metric_value FROM trial_result WHERE metric_id = 'bytes'")
        assert sorted(float(size) for (size,) in sizes) == [1024, 2048, 3072, 4096]
    assert states == [("SUCCEEDED",)] * 4, output
    assert sshd.logins() == 1
    assert (nobody_at_home / "known_hosts").read_text().count("\n") == 1


def test_help_is_mlos_benchs_own(tmp_path: Path) -> None:
    status, output = run_command(tmp_path, "--help")
    assert status == 0
    assert "usage: python -m ssh_service.mlos_bench" in output
    assert "--environment" in output


def test_without_mlos_bench_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSH_SERVICE_STANDALONE", "1")
    status, output = run_command(tmp_path, "--help")
    assert status == 1
    assert "pip install mlos_bench pytz" in output and "Traceback" not in output
