"""Scripts of the host service that run as jobs: their outcome is as ever, and is not lost."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import pytest

from ssh_service import SshConfigError, SshHostService, SshJobError, Status
from ssh_service.errors import SshCommandCancelled, SshCommandTimeout
from ssh_service.testing.fault_proxy import FaultProxy
from tests.common import eventually, within
from tests.sshd.jobs import JobHost

FUTURE = "asyncRemoteExecResultsFuture"


class Trials:
    """A service with detached scripts, behind a proxy."""

    def __init__(self, host: JobHost, proxy: FaultProxy, **settings: Any) -> None:
        self.host, self.proxy = host, proxy
        known = Path(host.sshd.known_hosts).read_text().split(" ", 1)[1]
        file = Path(host.sshd.known_hosts).parent / f"known_hosts_{proxy.port}"
        file.write_text(f"[{proxy.host}]:{proxy.port} {known}")
        config = {**host.sshd.service_config, "ssh_port": proxy.port, "ssh_detached": True}
        self.config = {**config, "ssh_known_hosts_path": str(file), **settings}
        self.service = SshHostService(self.config)

    def begin(self, *script: str, **env: Any) -> Dict[str, Any]:
        status, info = self.service.remote_exec(
            list(script), {"ssh_hostname": self.proxy.host}, env
        )
        assert status == Status.PENDING
        return info

    def results(self, info: Dict[str, Any]) -> Any:
        return self.service.get_remote_exec_results(info)


@pytest.fixture
def make_trials(
    job_host: JobHost, fault_proxy: Callable[..., FaultProxy]
) -> Iterator[Callable[..., Trials]]:
    entered: List[SshHostService] = []

    def make(**settings: Any) -> Trials:
        proxy = fault_proxy(job_host.sshd.host, job_host.sshd.port)
        trials = Trials(job_host, proxy, **settings)
        entered.append(trials.service.__enter__())
        return trials

    yield make
    for service in entered:
        service.__exit__(None, None, None)


def test_detached_script_has_its_results_as_ever(make_trials: Callable[..., Trials]) -> None:
    trials = make_trials()
    before = trials.host.folders()
    info = trials.begin('echo "out $A"', "echo err >&2", A=None)
    status, output = trials.results(info)
    assert (status, output["stdout"], output["stderr"]) == (
        Status.SUCCEEDED,
        "out None\n",
        "err\n",
    )
    process = output["ssh_completed_process_result"]
    assert (process.exit_status, process.env) == (0, {"A": "None"})
    assert process.command == 'echo "out $A"\necho err >&2'
    assert trials.results(info) == (status, output)
    status, output = trials.results(trials.begin("echo no", "exit 3"))
    assert (status, output["stdout"]) == (Status.FAILED, "no\n")
    assert trials.host.folders() == before


def test_network_that_is_gone_for_a_while_loses_no_script(
    make_trials: Callable[..., Trials], tmp_path: Path
) -> None:
    """The connection is cut, and nobody can connect, while the script runs to its end."""
    trials = make_trials(ssh_connect_timeout=1)
    go = tmp_path / "go"
    info = trials.begin(
        f"while [ ! -e {go} ]; do sleep 0.05; done; echo 1 >> {tmp_path}/runs; echo end"
    )
    eventually(
        lambda: any(
            (trials.host.folder / name / "record").exists() for name in trials.host.folders()
        )
    )
    trials.proxy.refuse()
    trials.proxy.cut()
    go.touch()
    eventually(lambda: (tmp_path / "runs").exists())
    trials.proxy.admit()
    status, output = trials.results(info)
    assert (status, output["stdout"]) == (Status.SUCCEEDED, "end\n")
    assert (tmp_path / "runs").read_text() == "1\n"


def test_job_id_takes_up_what_nobody_fetched_and_nothing_else(
    make_trials: Callable[..., Trials], tmp_path: Path
) -> None:
    """A service that ended in the middle is as good as a killed one: another takes its job up."""
    count = f"echo $$ >> {tmp_path}/runs; sleep 0.5; cat {tmp_path}/runs | wc -l"
    first = make_trials(ssh_job_id="trial-1")
    info = first.begin(count)
    eventually((tmp_path / "runs").exists)
    first.service.__exit__(None, None, None)
    status, output = first.results(info)
    assert status == Status.FAILED and "error" in output
    second = make_trials(ssh_job_id="trial-1")
    assert second.results(second.begin(count))[1]["stdout"].strip() == "1"
    assert second.results(second.begin(count))[1]["stdout"].strip() == "2"  # it was fetched
    other = second.results(second.begin(count, A=1))
    assert other[1]["stdout"].strip() == "3"
    first.service.__enter__()


def test_result_that_would_be_served_again_is_a_failure(
    make_trials: Callable[..., Trials], job_host: JobHost
) -> None:
    """The job of a key cannot be removed; without a key, nobody else can ask for it."""
    trials = make_trials(ssh_job_id="kept")
    script = [f"set -- {job_host.folder}/kept-*", 'mkdir -p "$1/src"', "echo on"]
    for _ in range(2):
        status, output = trials.results(trials.begin(*script))
        assert (status, output["stdout"]) == (Status.FAILED, "on\n")
        assert isinstance(output["error"], SshJobError)
        assert "src is not of a job; its result does not count" in str(output["error"])
    (folder,) = job_host.folder.glob("kept-*")
    shutil.rmtree(folder)
    script[0] = f"set -- {job_host.folder}/*"
    trials = make_trials()
    status, output = trials.results(trials.begin(*script))
    assert (status, output["stdout"]) == (Status.SUCCEEDED, "on\n")


def test_time_limit_ends_the_job_with_its_output(make_trials: Callable[..., Trials]) -> None:
    trials = make_trials(ssh_request_timeout=1.5)
    began = time.monotonic()
    status, output = trials.results(trials.begin("echo on", "sleep 60"))
    within(3.5, began)
    assert (status, output["stdout"]) == (Status.TIMED_OUT, "on\n")
    assert isinstance(output["error"], SshCommandTimeout)


def test_cancelled_script_is_ended(make_trials: Callable[..., Trials]) -> None:
    trials = make_trials()
    info = trials.begin("echo on", "sleep 60")
    assert info[FUTURE].cancel()
    status, output = trials.results(info)
    assert status == Status.CANCELED and isinstance(output["error"], SshCommandCancelled)
    assert not info[FUTURE].cancel()


def test_reboot_under_a_script_is_a_failure_with_its_output(
    make_trials: Callable[..., Trials], job_host: JobHost
) -> None:
    trials = make_trials()
    before = set(job_host.folders())
    info = trials.begin("echo on", "while :; do sleep 0.05; done")
    eventually(
        lambda: set(job_host.folders()) - before
        and all((job_host.folder / name / "record").exists() for name in job_host.folders())
    )
    (name,) = set(job_host.folders()) - before
    record = job_host.folder / name / "record"
    words = record.read_text().split()
    eventually(lambda: (job_host.folder / name / words[1] / "stdout").read_text() == "on\n")
    words[5] = "the-boot-before"
    record.write_text(" ".join(words) + "\n")
    status, output = trials.results(info)
    assert (status, output["stdout"]) == (Status.FAILED, "on\n")
    assert isinstance(output["error"], SshJobError) and "rebooted" in str(output["error"])
    assert name not in job_host.folders()


def test_host_that_is_not_there_fails_as_ever(make_trials: Callable[..., Trials]) -> None:
    trials = make_trials(ssh_connect_timeout=1)
    trials.proxy.refuse()
    status, output = trials.results(trials.begin("true"))
    assert (status, output["result"]) == (Status.FAILED, None)


@pytest.mark.parametrize("value", ["", "a/b", "x" * 101, 7])
def test_job_id_that_is_not_a_name_is_refused(value: Any) -> None:
    with pytest.raises((SshConfigError, ValueError), match="ssh_job_id: expected a name for jobs"):
        SshHostService({"ssh_detached": True, "ssh_job_id": value})


def test_job_id_without_detached_scripts_is_an_error_of_the_call() -> None:
    with SshHostService({"ssh_job_id": "x", "ssh_known_hosts_path": None}) as service:
        with pytest.raises(SshConfigError, match="ssh_job_id: expected only with ssh_detached"):
            service.remote_exec(["true"], {"ssh_hostname": "192.0.2.1"}, {})
