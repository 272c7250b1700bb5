"""The contract: connections, and the contexts that keep them."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any, Dict

import pytest

from ssh_service import (
    Service,
    SshFileShareService,
    SshHostService,
    SshService,
    SshServiceError,
    Status,
)
from ssh_service.testing.pytest_plugin import Sshd
from tests.common import descriptors, eventually, in_threads
from tests.keys import generated

from .conftest import FUTURE, Run, catch_up, results


def test_services_share_a_connection_until_the_last_exits(
    config: Dict[str, Any], call: Dict[str, Any], sshd: Sshd, tmp_path: Path
) -> None:
    def use(host: SshHostService) -> None:
        _, info = host.remote_exec("true", call, {})
        assert results(host, info)[0] == Status.SUCCEEDED

    with SshHostService(config) as first:
        use(first)
        with SshHostService(config) as second, SshFileShareService(config) as share:
            use(second)
            share.upload(call, __file__, str(tmp_path / "copy"))
        use(first)
        assert sshd.logins() == 1
    eventually(lambda: not sshd.session_pids())
    with SshHostService(config) as third:
        use(third)
    assert sshd.logins() == 2


def test_different_keys_never_share_a_connection(run: Run, tmp_path: Path) -> None:
    assert run("true")[0] == Status.SUCCEEDED
    assert run("true", ssh_priv_key_path=str(generated("stranger")))[0] == Status.FAILED


def test_commands_run_side_by_side_on_one_connection(
    host: SshHostService, call: Dict[str, Any], run: Run, sshd: Sshd
) -> None:
    run("true")
    begin = time.monotonic()
    infos = [host.remote_exec(f"sleep 1; echo {n}", call, {})[1] for n in range(8)]
    assert [results(host, info)[1]["stdout"] for info in infos] == [f"{n}\n" for n in range(8)]
    assert time.monotonic() - begin < 3
    assert sshd.logins() == 1


def test_many_threads_may_call(host: SshHostService, call: Dict[str, Any], sshd: Sshd) -> None:
    def work(thread: int) -> None:
        for turn in range(3):
            _, info = host.remote_exec("echo $X", call, {"X": f"{thread}.{turn}"})
            assert results(host, info)[1]["stdout"] == f"{thread}.{turn}\n"

    in_threads(8, work)
    assert sshd.logins() == 1


def test_the_servers_limit_of_sessions_is_never_an_error(sshd_factory: Any) -> None:
    from .conftest import config_for

    sshd = sshd_factory({"MaxSessions": 10})
    call = {"ssh_hostname": sshd.host}
    with SshHostService(config_for(sshd)) as host:
        infos = [host.remote_exec(f"sleep 0.5; echo {n}", call, {})[1] for n in range(25)]
        for number, info in enumerate(infos):
            status, result = results(host, info)
            assert (status, result.get("stdout")) == (Status.SUCCEEDED, f"{number}\n")
    assert sshd.logins() <= 4


def test_a_connection_lost_while_idle_is_replaced_silently(run: Run, sshd: Sshd) -> None:
    assert run("true")[0] == Status.SUCCEEDED
    sshd.cut()
    eventually(lambda: not SshService._CLIENT_CACHE)  # the news has arrived
    assert run("true")[0] == Status.SUCCEEDED
    assert sshd.logins() == 2


def test_command_after_clear_client_cache_connects_again(run: Run, sshd: Sshd) -> None:
    assert run("true")[0] == Status.SUCCEEDED
    assert SshService.clear_client_cache() is None
    assert run("true")[0] == Status.SUCCEEDED
    assert sshd.logins() == 2


def test_clear_client_cache_ends_commands_with_their_output(
    host: SshHostService, call: Dict[str, Any], run: Run, tmp_path: Path
) -> None:
    _, info = host.remote_exec(f"echo so far; touch {tmp_path}/x; sleep 60", call, {})
    eventually((tmp_path / "x").exists)
    catch_up(host, call)
    begin = time.monotonic()
    host.clear_client_cache()
    status, result = results(host, info, within=5)
    assert time.monotonic() - begin < 2
    assert status == Status.FAILED
    assert result["stdout"] == "so far\n"
    assert result["ssh_completed_process_result"].exit_status is None
    assert run("true")[0] == Status.SUCCEEDED


@pytest.mark.parametrize("when", ["before", "after", "while another is in its own"])
def test_outside_its_context_a_service_refuses_at_once(
    config: Dict[str, Any], call: Dict[str, Any], when: str, sshd: Sshd
) -> None:
    host, share = SshHostService(config), SshFileShareService(config)
    if when == "after":
        with host, share:
            pass
    with SshHostService(config):
        for attempt in (
            lambda: host.remote_exec("true", call, {}),
            lambda: share.upload(call, "a", "b"),
            lambda: share.download(call, "a", "b"),
        ):
            with pytest.raises(RuntimeError, match="outside its context"):
                attempt()
    assert sshd.logins() == 0


def test_a_result_can_be_fetched_after_the_context(
    config: Dict[str, Any], call: Dict[str, Any]
) -> None:
    with SshHostService(config) as host:
        _, info = host.remote_exec("echo done", call, {})
        first = results(host, info)
    assert host.get_remote_exec_results(info) == first


def test_the_inner_of_two_exits_leaves(config: Dict[str, Any], call: Dict[str, Any]) -> None:
    host = SshHostService(config)
    with host:
        with host:
            _, info = host.remote_exec("true", call, {})
            assert results(host, info)[0] == Status.SUCCEEDED
        with pytest.raises(RuntimeError):
            host.remote_exec("true", call, {})
    with host:
        _, info = host.remote_exec("true", call, {})
        assert results(host, info)[0] == Status.SUCCEEDED


def test_a_mixin_brings_its_services_into_context(
    config: Dict[str, Any], call: Dict[str, Any], tmp_path: Path
) -> None:
    host, share = SshHostService(config), SshFileShareService(config)
    mixin: Any = Service()
    mixin.register(host.export())
    mixin.register(share.export())
    with mixin:
        _, info = mixin.remote_exec("true", call, {})
        assert mixin.get_remote_exec_results(info)[0] == Status.SUCCEEDED
        mixin.upload(call, __file__, str(tmp_path / "copy"))
    with pytest.raises(RuntimeError):
        mixin.remote_exec("true", call, {})


@pytest.mark.parametrize("stage", ["running", "connecting"])
def test_exit_resolves_futures_of_running_commands(
    config: Dict[str, Any], call: Dict[str, Any], sshd: Sshd, stage: str, tmp_path: Path
) -> None:
    if stage == "connecting":
        sshd.freeze(listener=True)
    with SshHostService(config) as host:
        infos = [
            host.remote_exec(f"echo so far; touch {tmp_path}/{n}; sleep 60", call, {})[1]
            for n in range(10)
        ]
        if stage == "running":
            eventually(lambda: len(list(tmp_path.iterdir())) == 10)
        begin = time.monotonic()
    for info in infos:
        status, result = results(host, info, within=5)
        assert status == Status.FAILED
        assert isinstance(result["error"], SshServiceError)
        assert info[FUTURE].done()
    assert time.monotonic() - begin < 2


def test_exceptions_pass_through_the_context(config: Dict[str, Any]) -> None:
    with pytest.raises(KeyError):
        with SshHostService(config):
            raise KeyError("mine")


def test_cycles_leave_no_descriptors_and_no_threads(
    config: Dict[str, Any], call: Dict[str, Any]
) -> None:
    def cycle() -> None:
        with SshHostService(config) as host:
            _, info = host.remote_exec("true", call, {})
            assert results(host, info)[0] == Status.SUCCEEDED

    cycle()
    before, threads = descriptors(), threading.active_count()
    for _ in range(20):
        cycle()
    eventually(lambda: threading.active_count() <= threads and descriptors() <= before)
