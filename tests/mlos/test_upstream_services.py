"""
mlos_bench's tests of its own SSH services, applied to ours.

The scenarios are those of mlos_bench's own tests of its SSH services and of its remote environment
over SSH, written anew.  Adapted: instead of containers there are throw-away servers on loopback,
told apart by a file each; where those tests look into the original's cache and event loop, the
server's log tells which connections there were; and a host "reboots" with harmless commands in
place of the real ones, by having its server restarted.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

import pytest
from jsonschema.exceptions import ValidationError
from mlos_bench.config.schemas.config_schemas import ConfigSchema
from mlos_bench.environments.status import Status
from mlos_bench.services.base_service import Service
from mlos_bench.services.config_persistence import ConfigPersistenceService
from mlos_bench.tunables.tunable_groups import TunableGroups

from ssh_service import ssh_host_service
from ssh_service.testing.pytest_plugin import Sshd
from tests.common import eventually

from .conftest import settings_for
from .test_worker_processes import PATIENCE

FUTURE = "asyncRemoteExecResultsFuture"
HARMLESS = ("true", "false", "sleep ", "touch ")

pytestmark = pytest.mark.usefixtures("installed")


@pytest.fixture
def classes(installed: None) -> Tuple[Any, Any, Any]:
    """Return SshService, SshHostService and SshFileShareService, imported by upstream's names."""
    from mlos_bench.services.remote.ssh.ssh_fileshare import SshFileShareService
    from mlos_bench.services.remote.ssh.ssh_host_service import SshHostService
    from mlos_bench.services.remote.ssh.ssh_service import SshService

    return SshService, SshHostService, SshFileShareService


@pytest.fixture
def host(classes: Any, settings: Dict[str, Any]) -> Any:
    """Return a host service, not entered, that knows the user and the key."""
    names = ("ssh_username", "ssh_priv_key_path")
    return classes[1](config={name: settings[name] for name in names})


@pytest.fixture
def share(classes: Any) -> Any:
    """Return a file share service, not entered, that knows nothing: each call says it all."""
    return classes[2](config={})


def call_for(sshd: Sshd) -> Dict[str, Any]:
    """Return all that a call needs, and a setting that the services do not have."""
    return {"ssh_hostname": sshd.host, **settings_for(sshd)}


@pytest.fixture
def call(sshd: Sshd) -> Dict[str, Any]:
    return call_for(sshd)


def fetch(service: Any, info: Dict[str, Any]) -> Tuple[Status, Dict[str, Any]]:
    """Fetch results, but fail rather than hang where none come."""
    info[FUTURE].exception(timeout=PATIENCE)
    status, results = service.get_remote_exec_results(info)
    return status, results


class TestHostService:
    """remote_exec, and what becomes of connections."""

    def test_remote_exec_on_two_hosts_with_reuse_and_reconnect(
        self, host: Any, sshd: Sshd, sshd_factory: Callable[..., Sshd]
    ) -> None:
        alternative = sshd_factory({"SetEnv": "NAME=alternative SHLVL=1"})
        with host:
            status, info = host.remote_exec(
                script=["echo $SSH_CONNECTION"], config=call_for(sshd), env_params={}
            )
            assert status.is_pending()
            status, results = fetch(host, info)
            assert status.is_succeeded()
            first = results["stdout"].split()

            status, info = host.remote_exec(
                script=["echo $NAME"],
                config=call_for(alternative),
                env_params={"UNUSED": "unused"},  # must not be there in a later call
            )
            assert status.is_pending()
            status, results = fetch(host, info)
            assert status.is_succeeded()
            assert results["stdout"].strip() == "alternative"

            _, info = host.remote_exec(
                script=["echo BAR=$BAR && echo UNUSED=$UNUSED && echo $SSH_CONNECTION && false"],
                config=call_for(sshd),
                env_params={"BAR": "bar"},
            )
            status, results = fetch(host, info)
            assert status.is_failed()  # the exit status of `false`
            lines = results["stdout"].splitlines()
            assert lines[:2] == ["BAR=bar", "UNUSED="]
            assert lines[2].split() == first  # the same connection, down to the port on this side

            sshd.cut()
            _, info = host.remote_exec(
                script=["echo FOO=$FOO\n", "echo BAR=$BAR\necho BAZ=$BAZ", "echo $SSH_CONNECTION"],
                config=call_for(sshd),
                env_params={"FOO": "foo"},
            )
            status, results = fetch(host, info)
            assert status.is_succeeded()
            lines = results["stdout"].splitlines()
            assert lines[:3] == ["FOO=foo", "BAR=", "BAZ="]
            assert lines[3].split()[1] != first[1]  # another port on this side: another connection
        assert sshd.logins() == 2
        assert len(host._CLIENT_CACHE) == 0  # closed with the context

    @pytest.mark.parametrize("force", [False, True], ids=["graceful", "forced"])
    def test_reboot_ends_commands_and_host_is_usable_again(
        self,
        host: Any,
        call: Dict[str, Any],
        sshd: Sshd,
        tmp_path: Path,
        force: bool,
        harmless: List[str],
    ) -> None:
        harmless.append(f"touch {tmp_path}/going; sleep 30")
        with host:
            status, running = host.remote_exec(
                script=[
                    'echo "sleeping..."',
                    f"touch {tmp_path}/begun",
                    "sleep 30",
                    'echo "should not reach this point"',
                ],
                config=call,
                env_params={},
            )
            assert status.is_pending()
            eventually((tmp_path / "begun").exists)
            status, reboot = host.reboot(params=call, force=force)
            assert status.is_pending()
            eventually((tmp_path / "going").exists)
            sshd.restart()
            # The original says FAILED to a reboot that works; ours says SUCCEEDED.
            status, _ = host.wait_os_operation(reboot)
            assert status.is_succeeded()

            status, results = fetch(host, running)
            assert status.is_failed()
            assert "sleeping" in results["stdout"]
            assert "should not reach this point" not in results["stdout"]

            _, info = host.remote_exec(script=["echo back"], config=call, env_params={})
            status, results = fetch(host, info)
            assert status.is_succeeded()
            assert results["stdout"].strip() == "back"

    @pytest.fixture
    def harmless(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[List[str]]:
        """Return the list of commands that stand for all that reboot; nothing else gets out."""
        chosen: List[str] = []
        build = ssh_host_service._os_operation_script

        def build_harmless(commands: Any) -> str:
            assert chosen and all(command.startswith(HARMLESS) for command in chosen)
            return build(chosen)

        monkeypatch.setattr(ssh_host_service, "_os_operation_script", build_harmless)
        yield chosen


class TestContexts:
    """Entering and leaving."""

    def test_services_in_context_share_one_connection(self, classes: Any) -> None:
        service, host_service, share_service = classes
        host = host_service(config={}, global_config={}, parent=None)
        assert not host._in_context
        with host:
            assert host._in_context
            share = share_service(config={}, global_config={}, parent=None)
            assert not share._in_context
            with share:
                assert share._in_context and host._in_context
                assert service._CLIENT_CACHE is host._CLIENT_CACHE is share._CLIENT_CACHE
            assert not share._in_context
            # The original raises AssertionError; ours raises RuntimeError.
            with pytest.raises(RuntimeError):
                share.upload({"ssh_hostname": "nowhere"}, __file__, "unused")
            assert host._in_context
        assert not host._in_context


class TestFileShare:
    """Copies."""

    def test_a_file_goes_there_and_back(
        self, share: Any, call: Dict[str, Any], tmp_path: Path
    ) -> None:
        lines = "foo\nbar\n"
        (tmp_path / "local").write_text(lines)
        (tmp_path / "back").touch()  # there already, and empty
        with share:
            share.upload(
                params=call,
                local_path=str(tmp_path / "local"),
                remote_path=str(tmp_path / "remote"),
            )
            share.download(
                params=call,
                remote_path=str(tmp_path / "remote"),
                local_path=str(tmp_path / "back"),
            )
        assert (tmp_path / "back").read_text() == lines

    def test_a_tree_goes_there_and_back(
        self, share: Any, call: Dict[str, Any], tmp_path: Path
    ) -> None:
        files = {"file-a.txt": "a\n1\n", "file-b.txt": "b\n2\n", "subdir/foo.txt": "foo\nbar\n"}
        source, remote, back = (tmp_path / name for name in ("source", "remote", "back"))
        for name, text in files.items():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_text(text)
        back.mkdir()
        with share:
            share.upload(
                params=call, local_path=str(source), remote_path=str(remote), recursive=True
            )
            share.download(
                params=call, remote_path=str(remote), local_path=str(back), recursive=True
            )
        copied = back / "remote"  # into the folder that is there, under its own name
        assert {
            str(path.relative_to(copied)): path.read_text()
            for path in copied.rglob("*")
            if path.is_file()
        } == files

    def test_download_of_missing_file_leaves_the_target_alone(
        self, share: Any, call: Dict[str, Any], tmp_path: Path
    ) -> None:
        (tmp_path / "target").write_text("canary")
        with share, pytest.raises(FileNotFoundError):
            share.download(
                params=call,
                remote_path=str(tmp_path / "no-such-file"),
                local_path=str(tmp_path / "target"),
            )
        assert (tmp_path / "target").read_text() == "canary"

    def test_upload_of_missing_file_creates_nothing(
        self, share: Any, host: Any, call: Dict[str, Any], tmp_path: Path
    ) -> None:
        path = tmp_path / "no-such-file"
        with host, share:
            with pytest.raises(OSError):
                share.upload(params=call, local_path=str(path), remote_path=str(path))
            status, info = host.remote_exec(
                script=[f"[ ! -e {path} ]; echo $?"], config=call, env_params={}
            )
            assert status.is_pending()
            status, results = fetch(host, info)
        assert status.is_succeeded()
        assert results["stdout"].strip() == "0"


class TestSchemas:
    """Configs that name upstream's classes, as they are loaded from files."""

    FULL = {
        "ssh_username": "someuser",
        "ssh_port": 2222,
        "ssh_priv_key_path": "~/.ssh/id_rsa",
        "ssh_known_hosts_path": None,
        "ssh_request_timeout": 90,
        "ssh_keepalive_interval": 10,
    }
    BAD = [
        {"ssh_username": "someuser", "ssh_port": None},
        {"ssh_username": "someuser", "ssh_known_hosts_path": ["array", "not", "supported"]},
        {"ssh_username": "someuser", "ssh_request_timeout": 0.0},
        {"ssh_username": "someuser", "extra": "invalid"},
    ]

    @pytest.mark.parametrize("name", ["SshHostService", "SshFileShareService"])
    def test_valid_configs_are_accepted_and_invalid_ones_refused(self, name: str) -> None:
        name = f"mlos_bench.services.remote.ssh.{name}"
        more = {"ssh_shell": "/bin/bash"} if name.endswith("HostService") else {}
        for good in ({"ssh_username": "someuser"}, {**self.FULL, **more}):
            ConfigSchema.SERVICE.validate({"class": name, "config": good})
            Service.new(name, dict(good))
        for bad in self.BAD:
            with pytest.raises(ValidationError):
                ConfigSchema.SERVICE.validate({"class": name, "config": bad})


class TestRemoteEnvironment:
    """An environment that runs scripts and downloads their results."""

    def test_with_the_configs_that_mlos_bench_ships(
        self, sshd: Sshd, tmp_path: Path, nobody_at_home: Path
    ) -> None:
        # These name upstream's classes and say nothing about port, user or key.
        (nobody_at_home / ".ssh").mkdir(mode=0o700)
        (nobody_at_home / ".ssh" / "config").write_text(
            f"Host the-host\n HostName {sshd.host}\n Port {sshd.port}\n User {sshd.username}\n"
            f" IdentityFile {sshd.client_key}\n"
        )
        required = ["ssh_hostname", "folder"]
        children = [
            {
                "class": "mlos_bench.environments.remote.remote_env.RemoteEnv",
                "name": "remote_ssh_env",
                "config": {
                    "tunable_params": ["group"],
                    "required_args": required,
                    "shell_env_params": ["folder", "ssh_hostname"],
                    "setup": [
                        "cd $folder",
                        "echo 'Preparing' >&2",
                        "echo metric,value | tee output.csv",
                    ],
                    "run": [
                        "cd $folder",
                        "exec >>output.csv",
                        'echo "host,$ssh_hostname"',
                        'echo "hidden,${hidden:-unset}"',
                        'echo "test_param,${test_param:-unset}"',
                        "echo score,0.9",
                    ],
                    "teardown": ["cd $folder", "rm output.csv", "touch torn-down"],
                },
            },
            {
                "class": "mlos_bench.environments.remote.remote_env.RemoteEnv",
                "name": "nothing is exported unasked",
                "config": {
                    "const_args": {"FOO": "bar"},
                    "required_args": required,
                    "run": [f'echo "FOO,${{FOO:-unset}}" >>{tmp_path}/output.csv'],
                },
            },
            {
                "class": "mlos_bench.environments.local.local_fileshare_env.LocalFileShareEnv",
                "name": "local_ssh_env",
                "config": {
                    "required_args": required,
                    "download": [
                        {"from": "$folder/output.csv", "to": "$PWD/output-downloaded.csv"}
                    ],
                    "read_results_file": "output-downloaded.csv",
                },
            },
        ]
        config = {
            "class": "mlos_bench.environments.composite_env.CompositeEnv",
            "name": "composite_remote_ssh_env",
            "include_services": [
                "services/local/local_exec_service.jsonc",
                "services/remote/ssh/ssh_host_service.jsonc",
                "services/remote/ssh/ssh_fileshare_service.jsonc",
            ],
            "config": {"children": children},
        }
        tunables = TunableGroups(
            {
                "group": {
                    "cost": 1,
                    "params": {"test_param": {"type": "int", "default": 0, "range": [0, 10]}},
                }
            }
        )
        (tmp_path / "environment.json").write_text(json.dumps(config))
        loader = ConfigPersistenceService()
        environment = loader.load_environment(
            str(tmp_path / "environment.json"),
            tunables,
            global_config={"ssh_hostname": "the-host", "folder": str(tmp_path)},
            service=loader,
        )
        with environment:
            assert environment.setup(environment.tunable_params)
            status, *_, results = environment.run()
            assert status == Status.SUCCEEDED
            assert results == {
                "host": "the-host",
                "hidden": "unset",
                "test_param": "unset",
                "score": 0.9,
                "FOO": "unset",
            }
            status, *_, telemetry = environment.status()
            assert status.is_good() and telemetry == []
            environment.teardown()
        assert (tmp_path / "torn-down").exists() and not (tmp_path / "output.csv").exists()
        assert not Path("output-downloaded.csv").exists()
        assert sshd.logins() == 1


def test_services_do_not_import_asyncssh() -> None:
    assert "asyncssh" not in sys.modules
