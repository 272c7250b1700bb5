"""Services and whole environments in threads and in worker processes of any kind."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import threading
import warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import pytest
from mlos_bench.environments.base_environment import Environment
from mlos_bench.environments.status import Status
from mlos_bench.services.base_service import Service
from mlos_bench.services.config_persistence import ConfigPersistenceService
from mlos_bench.services.local.local_exec import LocalExecService
from mlos_bench.tunables.tunable_groups import TunableGroups

from ssh_service import SshConnectError, SshFileShareService, SshHostService
from ssh_service.testing.pytest_plugin import Sshd

PATIENCE = 60.0
START_METHODS = ["fork", "spawn"]

pytestmark = pytest.mark.filterwarnings(
    # Python 3.12 and later tell of every fork beside threads; these tests are about that.
    "ignore:.*use of fork\\(\\) may lead to deadlocks in the child:DeprecationWarning"
)


def say(service: SshHostService, call: Dict[str, Any], word: str) -> Tuple[str, str]:
    """Have a host say a word; return the status and what it said.  The service is in context."""
    _, info = service.remote_exec(["echo $WORD"], call, {"WORD": word})
    status, results = service.get_remote_exec_results(info)
    return status.name, results.get("stdout", "")


def enter_and_say(service: SshHostService, call: Dict[str, Any], word: str) -> Tuple[str, str]:
    with service:
        return say(service, call, word)


def upload_and_read(share: SshFileShareService, call: Dict[str, Any], target: str) -> str:
    with share:
        share.upload(call, __file__, target)
    return Path(target).read_text()


def run_trial(environment: Environment, level: int) -> Tuple[str, Any]:
    """Run one trial in an environment; return the status and the results."""
    tunables = environment.tunable_params
    tunables["level"] = level
    with environment:
        if not environment.setup(tunables):
            return "not set up", None
        status, *_, results = environment.run()
        environment.teardown()
    return status.name, results


@pytest.fixture(params=START_METHODS, scope="module")
def pool(request: pytest.FixtureRequest) -> Iterator[ProcessPoolExecutor]:
    """Return a worker process, started in each of the ways that there are."""
    context = multiprocessing.get_context(request.param)
    with ProcessPoolExecutor(
        1, context, initializer=warnings.simplefilter, initargs=("default",)
    ) as executor:
        executor.submit(abs, -1).result(PATIENCE)  # it is there now, before any test
        yield executor


def environment(folder: Path, sshd: Sshd, name: str, **more: Any) -> Environment:
    """Build an environment from configs as the command does, with upstream's class names."""
    settings = {
        "ssh_port": sshd.port,
        "ssh_username": sshd.username,
        "ssh_priv_key_path": sshd.client_key,
        "ssh_known_hosts_path": sshd.known_hosts,
    }
    upstream = "mlos_bench.services.remote.ssh"
    services = {
        "services": [
            {"class": f"{upstream}.SshHostService", "config": settings},
            {"class": f"{upstream}.SshFileShareService", "config": settings},
        ]
    }
    remote = folder / name
    remote.mkdir()
    required = ["ssh_hostname", *more]
    config = {
        "class": "mlos_bench.environments.composite_env.CompositeEnv",
        "name": name,
        "config": {
            "children": [
                {
                    "class": "mlos_bench.environments.remote.remote_env.RemoteEnv",
                    "name": f"{name} remote",
                    "config": {
                        "tunable_params": ["tunables"],
                        "required_args": required,
                        "shell_env_params": ["level"],
                        "run": [
                            f"cd {remote}",
                            'printf "metric,value\\nscore,$level\\nname,%s\\n" "$(cat word)" >out',
                        ],
                    },
                },
                {
                    "class": "mlos_bench.environments.local.local_fileshare_env.LocalFileShareEnv",
                    "name": f"{name} files",
                    "config": {
                        "required_args": required,
                        "upload": [{"from": str(folder / "word"), "to": f"{remote}/word"}],
                        "download": [{"from": f"{remote}/out", "to": "$PWD/out.csv"}],
                        "read_results_file": "out.csv",
                    },
                },
            ]
        },
    }
    tunables = TunableGroups(
        {
            "tunables": {
                "cost": 1,
                "params": {"level": {"type": "int", "range": [0, 99], "default": 7}},
            }
        }
    )
    (folder / "word").write_text("word\n")
    global_config = {"ssh_hostname": sshd.host, "experiment_id": "Test", "trial_id": 1, **more}
    loader = ConfigPersistenceService({"config_path": [str(folder)]})
    files = {"services": folder / f"{name}-services.json", "environment": folder / f"{name}.json"}
    files["services"].write_text(json.dumps(services))
    files["environment"].write_text(json.dumps(config))
    service = loader.load_services(
        [str(files["services"])], global_config, LocalExecService(parent=loader)
    )
    return loader.load_environment(
        str(files["environment"]), tunables, global_config, service=service
    )


def test_unpickled_service_is_outside_its_context(
    settings: Dict[str, Any], call: Dict[str, Any], sshd: Sshd
) -> None:
    with SshHostService(settings, parent=Service()) as service:
        say(service, call, "here")
        twin = pickle.loads(pickle.dumps(service))
        assert isinstance(twin, Service) and twin.config == service.config
        with pytest.raises(RuntimeError, match="outside its context"):
            twin.remote_exec("true", call, {})
        with twin:
            assert say(twin, call, "there") == ("SUCCEEDED", "there\n")
    assert sshd.logins() == 1


def test_services_go_to_worker_processes_and_dial_there(
    pool: ProcessPoolExecutor,
    settings: Dict[str, Any],
    call: Dict[str, Any],
    sshd: Sshd,
    tmp_path: Path,
) -> None:
    host, share = SshHostService(settings), SshFileShareService(settings)
    with host, share:  # alive here too
        assert say(host, call, "before") == ("SUCCEEDED", "before\n")
        words = ["one", "it's two", "three"]
        answers = [pool.submit(enter_and_say, host, call, word) for word in words]
        copies = pool.submit(upload_and_read, share, call, str(tmp_path / "copy"))
        assert [answer.result(PATIENCE) for answer in answers] == [
            ("SUCCEEDED", f"{word}\n") for word in words
        ]
        assert copies.result(PATIENCE) == Path(__file__).read_text()
        assert say(host, call, "after") == ("SUCCEEDED", "after\n")
        assert sshd.logins() >= 2  # one here, at least one there


def test_results_go_from_worker_processes_to_the_parent(
    pool: ProcessPoolExecutor, settings: Dict[str, Any], call: Dict[str, Any], sshd: Sshd
) -> None:
    result = pool.submit(_fetch, SshHostService(settings), call).result(PATIENCE)
    assert (result["status"], result["stdout"]) == (Status.FAILED, "so far\n")
    assert result["ssh_completed_process_result"].exit_status == 3
    sshd.stop()
    result = pool.submit(_fetch, SshHostService(settings), call).result(PATIENCE)
    assert isinstance(result["error"], SshConnectError)
    assert (result["status"], result["result"]) == (Status.FAILED, None)


def _fetch(service: SshHostService, call: Dict[str, Any]) -> Dict[str, Any]:
    with service:
        _, info = service.remote_exec(["echo so far", "exit 3"], call, {})
        status, results = service.get_remote_exec_results(info)
    return {"status": status, **results}


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
def test_fork_in_context_keeps_the_parents_connection(
    settings: Dict[str, Any], call: Dict[str, Any], sshd: Sshd
) -> None:
    context = multiprocessing.get_context("fork")
    with SshHostService(settings) as service:
        assert say(service, call, "parent") == ("SUCCEEDED", "parent\n")
        _, running = service.remote_exec(["sleep 1; echo still there"], call, {})
        answers = context.Queue()
        child = context.Process(target=lambda: answers.put(say(service, call, "child")))
        child.start()
        try:
            assert answers.get(timeout=PATIENCE) == ("SUCCEEDED", "child\n")
            child.join(PATIENCE)
            assert child.exitcode == 0
        finally:
            if child.is_alive():
                child.kill()
                child.join()
        answers.close()
        answers.join_thread()
        status, results = service.get_remote_exec_results(running)
        assert (status, results["stdout"]) == (Status.SUCCEEDED, "still there\n")
        assert say(service, call, "parent") == ("SUCCEEDED", "parent\n")
        assert sshd.logins() == 2


@pytest.mark.usefixtures("installed")
def test_environments_run_trials_side_by_side_in_threads(tmp_path: Path, sshd: Sshd) -> None:
    environments = [environment(tmp_path, sshd, f"env{n}") for n in range(6)]
    together = threading.Barrier(6)

    def trial(number: int) -> Any:
        together.wait(PATIENCE)
        return run_trial(environments[number], number)

    with ThreadPoolExecutor(6) as threads:
        outcomes: List[Any] = list(threads.map(trial, range(6), timeout=PATIENCE))
    for number, (status, results) in enumerate(outcomes):
        assert status == "SUCCEEDED"
        assert (float(results["score"]), results["name"]) == (number, "word")
    assert sshd.logins() <= 6


@pytest.mark.usefixtures("installed")
def test_environments_run_trials_in_worker_processes(
    pool: ProcessPoolExecutor, tmp_path: Path, sshd: Sshd
) -> None:
    one, two = (environment(tmp_path, sshd, name) for name in ("one", "two"))
    runs = [pool.submit(run_trial, env, level) for level, env in ((1, one), (2, two))]
    for level, run in enumerate(runs, 1):
        status, results = run.result(PATIENCE)
        assert status == "SUCCEEDED"
        assert (float(results["score"]), results["name"]) == (level, "word")


@pytest.mark.usefixtures("installed")
def test_trial_runners_work_in_parallel(tmp_path: Path, sshd: Sshd) -> None:
    runner_class = pytest.importorskip(
        "mlos_bench.schedulers.trial_runner", reason="this mlos_bench has no trial runners"
    ).TrialRunner
    runners = [
        runner_class(n, environment(tmp_path, sshd, f"env{n}", trial_runner_id=n))
        for n in range(1, 5)
    ]

    def trial(runner: Any) -> str:
        with runner:
            assert runner.environment.setup(runner.environment.tunable_params)
            status, *_ = runner.environment.run()
            runner.teardown()
        return str(status.name)

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(trial, runners, timeout=PATIENCE)) == ["SUCCEEDED"] * 4
