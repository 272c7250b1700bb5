"""Ours as mlos_bench's: its protocols, parents, mix-ins, and hosts that fail its environments."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Iterator

import pytest
from mlos_bench.environments.local.local_fileshare_env import LocalFileShareEnv
from mlos_bench.environments.status import Status
from mlos_bench.services.base_fileshare import FileShareService
from mlos_bench.services.base_service import Service
from mlos_bench.services.config_persistence import ConfigPersistenceService
from mlos_bench.services.local.local_exec import LocalExecService
from mlos_bench.services.types.fileshare_type import SupportsFileShareOps
from mlos_bench.services.types.os_ops_type import SupportsOSOps
from mlos_bench.services.types.remote_exec_type import SupportsRemoteExec
from mlos_bench.tunables.tunable_groups import TunableGroups

import ssh_service
from ssh_service import SshConnectError, SshFileShareService, SshHostService
from ssh_service.testing.pytest_plugin import Sshd

from .experiment import VERSION


def test_they_are_mlos_benchs_services_with_its_status() -> None:
    assert issubclass(SshHostService, Service)
    assert issubclass(SshFileShareService, FileShareService)
    assert ssh_service.Status is Status


def test_services_support_types_that_environments_need() -> None:
    host, share = SshHostService(), SshFileShareService()
    assert isinstance(host, SupportsRemoteExec) and isinstance(host, SupportsOSOps)
    assert isinstance(share, SupportsFileShareOps)
    assert not isinstance(host, SupportsFileShareOps)
    assert not isinstance(share, (SupportsRemoteExec, SupportsOSOps))


@pytest.fixture(params=["mix-in", "parents"])
def service(request: pytest.FixtureRequest, settings: Dict[str, Any]) -> Iterator[Service]:
    """Return a service that offers what ours and one of mlos_bench's own do, in its context."""
    local = LocalExecService(parent=ConfigPersistenceService())
    if request.param == "mix-in":
        together = Service()
        for one in (local, SshHostService(settings), SshFileShareService(settings)):
            together.register(one.export())
    else:
        host = SshHostService(settings, {}, local)
        together = SshFileShareService(settings, {}, host)
    with together:
        yield together


def test_parents_and_mixins_export_methods_and_enter_together(
    service: Any, call: Dict[str, Any], sshd: Sshd, tmp_path: Path
) -> None:
    for protocol in (SupportsRemoteExec, SupportsOSOps, SupportsFileShareOps):
        assert isinstance(service, protocol)
    service.upload(call, __file__, str(tmp_path / "copy"))
    _, info = service.remote_exec([f"wc -c <{tmp_path}/copy"], call, {})
    status, results = service.get_remote_exec_results(info)
    assert status == Status.SUCCEEDED
    assert int(results["stdout"]) == len(Path(__file__).read_bytes())
    assert service.local_exec(["exit 3"])[0] == 3
    assert sshd.logins() == 1


def test_outside_its_context_a_mixin_refuses(settings: Dict[str, Any], call: Any) -> None:
    together = Service()
    together.register(SshHostService(settings).export())
    with together:
        pass
    with pytest.raises(RuntimeError, match="outside its context"):
        together.remote_exec(["true"], call, {})


class TestCopies:
    """mlos_bench's environment for copies, when the host does not answer."""

    @pytest.fixture
    def environment(self, settings: Dict[str, Any], sshd: Sshd, tmp_path: Path) -> Any:
        loader = ConfigPersistenceService()
        service = Service(parent=LocalExecService(parent=loader))
        service.register(SshFileShareService(settings).export())
        return LocalFileShareEnv(
            name="copies",
            config={
                "required_args": ["ssh_hostname", "there"],
                "upload": [{"from": __file__, "to": "$there/copy"}],
                "download": [{"from": "$there/copy", "to": "$PWD/back"}],
            },
            global_config={"ssh_hostname": sshd.host, "there": str(tmp_path)},
            tunables=TunableGroups(),
            service=service,
        )

    def test_with_a_host_that_answers_nothing_is_different(
        self, installed: None, environment: Any, tmp_path: Path
    ) -> None:
        with environment:
            assert environment.setup(environment.tunable_params)
            assert (tmp_path / "copy").exists()
            status, *_ = environment.run()
            assert status == Status.SUCCEEDED

    def test_set_up_without_a_host_fails(
        self, installed: None, environment: Any, sshd: Sshd
    ) -> None:
        sshd.stop()
        with environment:
            assert environment.setup(environment.tunable_params) is False

    def test_run_that_loses_its_host_fails_with_its_status(
        self, installed: None, environment: Any, sshd: Sshd
    ) -> None:
        with environment:
            assert environment.setup(environment.tunable_params)
            good = environment.status()
            sshd.stop()
            status, *rest, results = environment.run()
            assert status == Status.FAILED
            if VERSION >= (0, 6):  # older ones take no output of a failed trial
                assert "Connection refused" in results["error"]
            assert len(rest) == len(good) - 2  # a timestamp, where there are timestamps
            status, *rest, telemetry = environment.status()
            assert (status, telemetry) == (Status.FAILED, [])
            assert len(rest) == len(good) - 2

    def test_a_missing_file_is_an_error_as_ever(
        self, installed: None, environment: Any, tmp_path: Path
    ) -> None:
        with environment:
            assert environment.setup(environment.tunable_params)
            (tmp_path / "copy").unlink()
            with pytest.raises(FileNotFoundError):
                environment.run()

    def test_uninstalled_the_error_passes(self, environment: Any, sshd: Sshd) -> None:
        sshd.stop()
        with environment, pytest.raises(SshConnectError):
            environment.setup(environment.tunable_params)
