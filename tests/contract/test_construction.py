"""The contract: constructors, settings, and which of them a call overrides."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, Dict

import pytest

from ssh_service import (
    FileShareService,
    Service,
    SshConfigError,
    SshFileShareService,
    SshHostKeyError,
    SshHostService,
    Status,
)
from ssh_service.services import host_api
from ssh_service.testing.pytest_plugin import Sshd

from .conftest import FUTURE, Run, results


def test_the_services_are_what_others_ask_for() -> None:
    assert issubclass(SshHostService, Service)
    assert issubclass(SshFileShareService, FileShareService)
    assert not issubclass(SshHostService, FileShareService)
    assert not issubclass(SshFileShareService, SshHostService)


def test_services_are_the_types_that_environments_need() -> None:
    types = "mlos_bench.services.types"
    os_ops = pytest.importorskip(f"{types}.os_ops_type").SupportsOSOps
    remote_exec = pytest.importorskip(f"{types}.remote_exec_type").SupportsRemoteExec
    copying = pytest.importorskip(f"{types}.fileshare_type").SupportsFileShareOps
    host, share = SshHostService(), SshFileShareService()
    assert isinstance(host, os_ops) and isinstance(host, remote_exec)
    assert isinstance(share, copying)
    assert not isinstance(host, copying) and not isinstance(share, remote_exec)


def test_exports_are_exactly_these() -> None:
    assert set(SshHostService().export()) == {
        "shutdown",
        "reboot",
        "wait_os_operation",
        "remote_exec",
        "get_remote_exec_results",
    }
    assert set(SshFileShareService().export()) == {"upload", "download"}


@pytest.mark.parametrize(
    "config",
    [
        None,
        {},
        {"ssh_username": None},
        {"ssh_port": None},  # which the original refuses; as ours reads it, ssh_config's
        {"ssh_request_timeout": None},
        {"ssh_request_timeout": 1.5},
        {"ssh_keepalive_interval": None},
        {"ssh_shell": "/bin/bash"},
    ],
)
def test_configs_the_original_accepts_are_accepted(config: Any) -> None:
    SshHostService(config)


@pytest.mark.parametrize(
    "config",
    [
        {"no_such_setting": 1},
        {"ssh_port": 0},
        {"ssh_username": 5},
        {"ssh_priv_key_path": 5},
        {"ssh_request_timeout": 0},
        {"ssh_request_timeout": "x"},
        {"ssh_hostname": "host"},
        {"ssh_known_hosts_path": "/no/such/file"},
    ],
)
def test_config_that_upstream_refuses_is_an_error(config: Any) -> None:
    with pytest.raises(host_api.InvalidConfig) as caught:
        SshHostService(config)
    assert isinstance(caught.value, ValueError)
    (name,) = config
    assert name in str(caught.value)


def test_under_mlos_bench_that_is_its_validation_error() -> None:
    if not Service.__module__.startswith("mlos_bench."):
        pytest.skip("needs mlos_bench")
    from jsonschema.exceptions import ValidationError

    with pytest.raises(ValidationError, match="no_such_setting"):
        SshHostService({"no_such_setting": 1})
    with pytest.raises(ValidationError, match="ssh_shell"):
        SshFileShareService({"ssh_shell": "/bin/sh"})


def test_call_overrides_settings_for_that_call_only(
    host: SshHostService, call: Dict[str, Any], run: Run
) -> None:
    before = dict(host.config)
    status, _ = run("true", ssh_port=1)
    assert status == Status.FAILED  # nobody listens there
    assert host.config == before
    assert run("true")[0] == Status.SUCCEEDED
    assert run("true", ssh_port=None)[0] == Status.SUCCEEDED
    assert run("true", ssh_port=str(before["ssh_port"]))[0] == Status.SUCCEEDED


def test_settings_the_service_lacks_are_dropped(
    host: SshHostService, call: Dict[str, Any]
) -> None:
    _, info = host.remote_exec("true", {**call, "ssh_shell": "/no/shell", "other": 1}, {})
    assert results(host, info)[0] == Status.SUCCEEDED
    assert set(info) == {*host.config, "ssh_hostname", FUTURE}


def test_no_call_changes_the_request_timeout(host: SshHostService, call: Dict[str, Any]) -> None:
    _, info = host.remote_exec("sleep 0.3", {**call, "ssh_request_timeout": 0.01}, {})
    assert "ssh_request_timeout" not in info
    assert results(host, info)[0] == Status.SUCCEEDED


@pytest.mark.parametrize("name", ["ssh_known_hosts_path", "ssh_known_hosts_file"])
class TestKnownHosts:
    """A file of known hosts, by either name."""

    def service(self, config: Dict[str, Any], name: str, path: Any) -> SshHostService:
        del config["ssh_known_hosts_path"]
        return SshHostService({**config, name: path})

    def test_the_right_key_is_accepted(
        self, config: Dict[str, Any], call: Dict[str, Any], sshd: Sshd, name: str
    ) -> None:
        with self.service(config, name, sshd.known_hosts) as host:
            _, info = host.remote_exec("true", call, {})
            assert results(host, info)[0] == Status.SUCCEEDED

    @pytest.mark.parametrize("content", ["wrong", "unknown"])
    def test_any_other_is_refused_before_anything_is_sent(
        self,
        config: Dict[str, Any],
        call: Dict[str, Any],
        sshd: Sshd,
        name: str,
        content: str,
        tmp_path: Path,
    ) -> None:
        file = tmp_path / "known_hosts"
        if content == "wrong":
            key = Path(sshd.client_key + ".pub").read_text()
            file.write_text(f"[{sshd.host}]:{sshd.port} {key}")
        else:
            file.touch()
        with self.service(config, name, str(file)) as host:
            _, info = host.remote_exec("true", call, {})
            status, result = results(host, info)
        assert (status, result["result"]) == (Status.FAILED, None)
        assert isinstance(result["error"], SshHostKeyError)
        assert sshd.logins() == 0
        config[name] = str(file)
        with SshFileShareService({**config, name: str(file)}) as share:
            with pytest.raises(SshHostKeyError):
                share.upload(call, str(file), str(tmp_path / "copy"))

    def test_null_checks_nothing(
        self, config: Dict[str, Any], call: Dict[str, Any], name: str
    ) -> None:
        with self.service(config, name, None) as host:
            _, info = host.remote_exec("true", call, {})
            assert results(host, info)[0] == Status.SUCCEEDED


def test_accept_new_makes_the_file_and_holds_the_host_to_it(
    config: Dict[str, Any], call: Dict[str, Any], sshd: Sshd, tmp_path: Path
) -> None:
    file = tmp_path / "known_hosts"
    config.update(ssh_known_hosts_path=str(file), ssh_host_key_policy="accept-new")
    with SshHostService(config) as host:
        _, info = host.remote_exec("true", call, {})
        assert results(host, info)[0] == Status.SUCCEEDED
    assert Path(sshd.host_key + ".pub").read_text().split()[1] in file.read_text()
    key = Path(sshd.client_key + ".pub").read_text()
    file.write_text(f"[{sshd.host}]:{sshd.port} {key}")
    with SshHostService(config) as host:
        _, info = host.remote_exec("true", call, {})
        assert isinstance(results(host, info)[1]["error"], SshHostKeyError)


def test_default_checks_no_host_keys_and_writes_nothing(
    config: Dict[str, Any],
    call: Dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    del config["ssh_known_hosts_path"]
    with SshHostService(config) as host:
        _, info = host.remote_exec("true", call, {})
        assert results(host, info)[0] == Status.SUCCEEDED
    assert os.listdir(tmp_path) == []


def test_a_tilde_in_the_key_path_is_the_home_directory(
    config: Dict[str, Any],
    call: Dict[str, Any],
    sshd: Sshd,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copy(sshd.client_key, tmp_path / "my_key")
    with SshHostService({**config, "ssh_priv_key_path": "~/my_key"}) as host:
        _, info = host.remote_exec("true", call, {})
        assert results(host, info)[0] == Status.SUCCEEDED


def test_without_a_key_path_the_default_keys_are_tried(
    config: Dict[str, Any],
    call: Dict[str, Any],
    sshd: Sshd,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    (tmp_path / ".ssh").mkdir()
    kind = Path(sshd.client_key + ".pub").read_text().split()[0]
    name = {"ssh-ed25519": "id_ed25519", "ssh-rsa": "id_rsa"}.get(kind, "id_ecdsa")
    shutil.copy(sshd.client_key, tmp_path / ".ssh" / name)
    del config["ssh_priv_key_path"]
    with SshHostService(config) as host:
        _, info = host.remote_exec("true", call, {})
        assert results(host, info)[0] == Status.SUCCEEDED


@pytest.mark.parametrize("interval", [None, 0, 1, 0.5])
def test_keepalives_may_be_a_number_or_null(
    config: Dict[str, Any], call: Dict[str, Any], interval: Any
) -> None:
    with SshHostService({**config, "ssh_keepalive_interval": interval}) as host:
        _, info = host.remote_exec("true", call, {})
        assert results(host, info)[0] == Status.SUCCEEDED


def test_without_a_user_name_it_is_ssh_configs(
    config: Dict[str, Any], sshd: Sshd, tmp_path: Path
) -> None:
    file = tmp_path / "ssh_config"
    file.write_text(
        f"Host somewhere\n HostName {sshd.host}\n Port {sshd.port}\n User {sshd.username}\n"
        f" IdentityFile {sshd.client_key}\n HostKeyAlias [{sshd.host}]:{sshd.port}\n"
    )
    config = {"ssh_known_hosts_path": sshd.known_hosts, "ssh_config": str(file)}
    with SshHostService(config) as host:
        for user in ({}, {"ssh_username": None}):
            _, info = host.remote_exec("true", {"ssh_hostname": "somewhere", **user}, {})
            assert results(host, info)[0] == Status.SUCCEEDED


def test_ssh_shell_runs_the_script(config: Dict[str, Any], call: Dict[str, Any]) -> None:
    with SshHostService({**config, "ssh_shell": "/bin/sh"}) as host:
        _, info = host.remote_exec("readlink /proc/$$/exe", call, {})
        status, result = results(host, info)
    assert status == Status.SUCCEEDED
    assert os.path.realpath(result["stdout"].strip()) == os.path.realpath("/bin/sh")


def test_known_hosts_that_differ_are_an_error(config: Dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(SshConfigError, match="differ"):
        SshHostService({**config, "ssh_known_hosts_file": str(tmp_path)})
