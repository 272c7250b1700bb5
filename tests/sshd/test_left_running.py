"""A script that outlives its connection: reported, and ended before the next one."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any, Callable, Dict, List

import pytest

from ssh_service import SshClientCache, SshHostService, Status, operations, run
from ssh_service.commands import left_running
from ssh_service.commands.left_running import LeftProcess, LeftRunning
from ssh_service.commands.processes import Process
from ssh_service.errors import SshConnectionLost
from ssh_service.testing.pytest_plugin import FaultProxy, Sshd
from tests.common import PATIENCE, eventually, is_running
from tests.faults.clients import params_for

needs_proc = pytest.mark.skipif(not os.path.exists("/proc/1/stat"), reason="needs Linux's /proc")

# Writes its number, and another one while it runs.
ENDLESS = ["trap '' HUP TERM", 'echo "$$" > "$FILE"', "while :; do sleep 0.1; done"]


class Trials:
    """A service whose connection can be cut, as mlos_bench uses it."""

    def __init__(self, service: SshHostService, target: Dict[str, Any], proxy: FaultProxy) -> None:
        self.service, self.target, self.proxy = service, target, proxy

    def begin(self, script: List[str], env: Dict[str, Any]) -> Dict[str, Any]:
        status, info = self.service.remote_exec(script, self.target, env)
        assert status == Status.PENDING
        return info

    def lose(self, script: List[str], file: Path, env: Dict[str, Any]) -> int:
        """Begin a script, cut its connection, and return the number of what runs on."""
        info = self.begin(script, env)
        eventually(lambda: file.exists() and file.read_text().endswith("\n"), "it runs")
        # What it told of itself left the server before this answer does.
        self.service.get_remote_exec_results(self.begin(["sleep 0.2"], {}))
        self.proxy.cut()
        status, result = self.service.get_remote_exec_results(info)
        assert status == Status.FAILED and isinstance(result["error"], SshConnectionLost)
        assert "may still run" in str(result["error"])
        return int(file.read_text())


@pytest.fixture
def trials(
    sshd: Sshd,
    fault_proxy: Callable[..., FaultProxy],
    ssh_host_service: Callable[..., SshHostService],
) -> Trials:
    proxy = fault_proxy(sshd.host, sshd.port)
    known = Path(sshd.known_hosts)
    known_here = known.parent / "known_hosts_of_proxy"
    known_here.write_text(f"[{proxy.host}]:{proxy.port} {known.read_text().split(' ', 1)[1]}")
    service = ssh_host_service(sshd, ssh_port=proxy.port, ssh_known_hosts_path=str(known_here))
    return Trials(service, {"ssh_hostname": proxy.host}, proxy)


@needs_proc
def test_next_script_first_ends_what_a_lost_one_left(trials: Trials, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    env = {"FILE": str(file)}
    pid = trials.lose(ENDLESS, file, env)
    assert is_running(pid)
    look = f"grep -s ^State: /proc/{pid}/status | grep -v Z"  # nobody may have reaped it yet
    script = [look, 'echo "next $#"', "cat"]
    status, result = trials.service.get_remote_exec_results(trials.begin(script, env))
    assert (status, result["stdout"], result["stderr"]) == (Status.SUCCEEDED, "next 0\n", "")
    eventually(lambda: not is_running(pid), "it ends")


@needs_proc
def test_next_script_without_variables_ends_it_too(trials: Trials, tmp_path: Path) -> None:
    """It is run by the same login shell, which is known to be a POSIX shell."""
    file = tmp_path / "pid"
    pid = trials.lose(ENDLESS, file, {"FILE": str(file)})
    status, result = trials.service.get_remote_exec_results(trials.begin(["echo next"], {}))
    assert (status, result["stdout"]) == (Status.SUCCEEDED, "next\n")
    eventually(lambda: not is_running(pid), "it ends")


@needs_proc
def test_daemons_of_a_lost_script_are_left_alone(trials: Trials, tmp_path: Path) -> None:
    """A script may have started a database; only its own process group is ended."""
    file = tmp_path / "pid"
    script = ["setsid sleep 60 & echo $! > $FILE.daemon", *ENDLESS]
    pid = trials.lose(script, file, {"FILE": str(file)})
    daemon = int((tmp_path / "pid.daemon").read_text())
    try:
        trials.service.get_remote_exec_results(trials.begin(["true"], {"A": "b"}))
        eventually(lambda: not is_running(pid), "it ends")
        assert is_running(daemon)
    finally:
        os.kill(daemon, signal.SIGKILL)


def test_run_does_not_end_what_another_call_left(
    sshd: Sshd, fault_proxy: Callable[..., FaultProxy], cache: SshClientCache, tmp_path: Path
) -> None:
    """A program's own calls are no trials: only the host service ends what was lost."""
    proxy = fault_proxy(sshd.host, sshd.port)
    web, file = params_for(sshd, proxy), tmp_path / "pid"
    future = operations.submit(cache, web, ENDLESS, env={"FILE": str(file)})
    eventually(lambda: file.exists() and file.read_text().endswith("\n"), "it runs")
    proxy.cut()
    error = future.exception(PATIENCE)
    assert isinstance(error, SshConnectionLost) and "may still run" in str(error)
    pid = int(file.read_text())
    try:
        assert run(web, "echo on", env={"A": "b"}, cache=cache, timeout=PATIENCE).stdout == "on\n"
        assert is_running(pid)
    finally:
        os.kill(pid, signal.SIGKILL)


def test_left_processes_can_be_put_back_except_bare_pids() -> None:
    left = LeftRunning()
    login = LeftProcess(Process(7, True, 1, "boot"), None)
    other = LeftProcess(Process(8, True, 1, "boot"), "/bin/sh")
    left.add(
        login, other, LeftProcess(Process(9, True), None), LeftProcess(Process(9, True, 1), None)
    )
    assert left.take(needs_posix=True) == [login]
    assert left.take(needs_posix=True) == []
    left.add(login)
    assert left.take(needs_posix=False) == [other, login]
    assert left_running.cleanup_script([]) == ""
    assert left_running.for_destination("a@b:22") is left_running.for_destination("a@b:22")
