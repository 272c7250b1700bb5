"""
The contract: shutdown and reboot.

The real scripts go nowhere from here (tests/unit/test_services.py reads them): each test puts
harmless commands in their place first.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import pytest

from ssh_service import SshConnectionLost, SshHostService, SshService, Status, ssh_host_service
from ssh_service.testing.pytest_plugin import FaultProxy, Sshd
from tests.common import SUDO_AS_IT_IS, eventually

from .conftest import FUTURE, catch_up, results

HARMLESS = ("true", "false", "echo ", "sleep ", "touch ", "exit ")


@pytest.fixture(autouse=True)
def commands(monkeypatch: pytest.MonkeyPatch) -> Iterator[List[str]]:
    """
    Return the list of commands that stand for all the real ones; let nothing else pass.

    Nor is sudo called, which an ordinary user's script asks for where there is one.
    """
    chosen: List[str] = []
    build = ssh_host_service._os_operation_script

    def build_harmless(commands: Any) -> str:
        assert chosen and all(command.startswith(HARMLESS) for command in chosen)
        return SUDO_AS_IT_IS + build(chosen)

    monkeypatch.setattr(ssh_host_service, "_os_operation_script", build_harmless)
    yield chosen


@pytest.fixture(params=["reboot", "shutdown"])
def start(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Return a function that starts the operation."""
    return lambda host, call, **more: getattr(host, request.param)(call, **more)


def test_pending_at_once_then_the_first_command_that_works(
    host: SshHostService, call: Dict[str, Any], commands: List[str], start: Any
) -> None:
    commands += ["false", "echo going; true", "echo too late"]
    status, info = start(host, call, force=True)
    assert status == Status.PENDING
    info[FUTURE].exception(30)
    status, result = host.wait_os_operation(info)
    assert (status, result["stdout"]) == (Status.SUCCEEDED, "going\n")
    assert [line for line in result["stderr"].splitlines() if line.startswith("+ ")]
    assert result["ssh_completed_process_result"].exit_status == 0


def test_when_all_fail_it_failed_and_says_so(
    host: SshHostService, call: Dict[str, Any], commands: List[str], start: Any
) -> None:
    commands += ["false", "exit 7"]
    _, info = start(host, call)
    status, result = results(host, info)
    assert status == Status.FAILED
    assert result["stdout"] == "ERROR: Failed to shutdown/reboot the system.\n"
    assert result["ssh_completed_process_result"].exit_status == 1


def test_shutdown_that_loses_the_connection_succeeds(
    host: SshHostService,
    call: Dict[str, Any],
    commands: List[str],
    start: Any,
    sshd: Sshd,
    tmp_path: Path,
) -> None:
    commands.append(f"touch {tmp_path}/begun; sleep 30")
    _, other = host.remote_exec("echo so far; sleep 30", call, {})
    _, info = start(host, call)
    eventually((tmp_path / "begun").exists)
    catch_up(host, call)
    sshd.cut()
    status, result = results(host, info, within=5)
    assert status == Status.SUCCEEDED
    assert isinstance(result["error"], SshConnectionLost)
    assert result["ssh_completed_process_result"].exit_status is None
    status, result = results(host, other, within=5)
    assert (status, result["stdout"]) == (Status.FAILED, "so far\n")


def test_our_own_close_is_no_reboot(
    host: SshHostService, call: Dict[str, Any], commands: List[str], start: Any, tmp_path: Path
) -> None:
    commands.append(f"touch {tmp_path}/begun; sleep 30")
    _, info = start(host, call)
    eventually((tmp_path / "begun").exists)
    host.clear_client_cache()
    assert results(host, info, within=5)[0] == Status.FAILED


def test_silence_is_no_reboot(
    config: Dict[str, Any],
    call: Dict[str, Any],
    commands: List[str],
    start: Any,
    sshd: Sshd,
    tmp_path: Path,
) -> None:
    commands.append(f"touch {tmp_path}/begun; sleep 30")
    config.update(ssh_keepalive_interval=0.3, ssh_keepalive_count_max=2)
    with SshHostService(config) as host:
        _, info = start(host, call)
        eventually((tmp_path / "begun").exists)
        sshd.freeze()
        assert results(host, info, within=10)[0] == Status.FAILED


def test_loss_before_the_command_was_accepted_fails(
    config: Dict[str, Any],
    call: Dict[str, Any],
    commands: List[str],
    start: Any,
    sshd: Sshd,
    fault_proxy: Callable[[str, int], FaultProxy],
    tmp_path: Path,
) -> None:
    commands.append(f"touch {tmp_path}/begun; sleep 30")
    proxy = fault_proxy(sshd.host, sshd.port)
    config.update(ssh_port=proxy.port, ssh_known_hosts_path=None)
    with SshHostService(config) as host:
        _, info = host.remote_exec("true", call, {})
        assert results(host, info)[0] == Status.SUCCEEDED
        # The next command goes over the session that is opened in advance.
        (slot,) = SshService._CLIENT_CACHE._slots.all_slots()
        transport = slot.transport
        assert transport is not None
        channels = transport._channels
        eventually(lambda: any(chan.is_idle_spare and chan.active for chan in channels.values()))
        (channel,) = channels.values()
        proxy.freeze("to_server")  # what we send goes nowhere
        _, info = start(host, call)
        eventually(lambda: channel.has_sent)  # or it would be sent once more
        proxy.reset()
        status, _ = results(host, info, within=10)
    assert not (tmp_path / "begun").exists()
    assert status == Status.FAILED


def test_a_host_that_cannot_be_reached_failed(
    host: SshHostService, call: Dict[str, Any], commands: List[str], start: Any
) -> None:
    commands.append("true")
    _, info = start(host, {**call, "ssh_port": 1})
    status, result = results(host, info)
    assert (status, result["result"]) == (Status.FAILED, None)
