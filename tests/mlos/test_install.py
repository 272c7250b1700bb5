"""`install` and `uninstall`: what they change in mlos_bench, and that nothing stays."""

from __future__ import annotations

import ast
import contextlib
import copy
import importlib
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any, Dict, List, Tuple

import mlos_bench.services.remote
import pytest
from jsonschema.exceptions import ValidationError
from mlos_bench.config.schemas.config_schemas import ConfigSchema
from mlos_bench.environments.composite_env import CompositeEnv
from mlos_bench.environments.local.local_fileshare_env import LocalFileShareEnv
from mlos_bench.environments.remote.remote_env import RemoteEnv
from mlos_bench.services.base_service import Service

import ssh_service
from ssh_service import SshFileShareService, SshHostService
from ssh_service.mlos_bench import install, module_names, schemas, uninstall
from ssh_service.services import settings

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(ssh_service.__file__)))
UPSTREAM = "mlos_bench.services.remote.ssh"
THEIRS = {
    f"{UPSTREAM}.SshHostService": SshHostService,
    f"{UPSTREAM}.ssh_host_service.SshHostService": SshHostService,
    f"{UPSTREAM}.SshFileShareService": SshFileShareService,
    f"{UPSTREAM}.ssh_fileshare.SshFileShareService": SshFileShareService,
}
OURS = {
    "ssh_service.SshHostService": SshHostService,
    "ssh_service.ssh_host_service.SshHostService": SshHostService,
    "ssh_service.SshFileShareService": SshFileShareService,
    "ssh_service.ssh_fileshare.SshFileShareService": SshFileShareService,
}
# What is changed in versions that have a TrialRunner.
RUNNERS: List[Tuple[Any, str]] = []
with contextlib.suppress(ModuleNotFoundError):
    from mlos_bench.schedulers.base_scheduler import Scheduler
    from mlos_bench.schedulers.trial_runner import TrialRunner

    RUNNERS += [(TrialRunner, "run_trial"), (Scheduler, "__enter__"), (Scheduler, "__exit__")]


def state() -> List[Any]:
    """Return copies of all that `install` changes."""
    modules = {name: module for name, module in sys.modules.items() if name.startswith(UPSTREAM)}
    methods = {name: vars(LocalFileShareEnv)[name] for name in ("setup", "run", "status")}
    changed = [(RemoteEnv, "run"), (RemoteEnv, "_remote_exec"), (CompositeEnv, "run")]
    changed += [(ConfigSchema, "validate"), *RUNNERS]
    others = [vars(cls)[name] for cls, name in changed]
    filters = list(logging.getLogger(LocalFileShareEnv.__module__).filters)
    parent = dict(vars(mlos_bench.services.remote))
    schema = copy.deepcopy(ConfigSchema.SERVICE.schema)
    return [schema, modules, methods, *others, filters, parent]


def valid(config: Dict[str, Any]) -> bool:
    """Tell whether mlos_bench takes a service's config, as it is loaded from a file."""
    try:
        ConfigSchema.SERVICE.validate(config)
    except ValidationError:
        return False
    return True


def constructible(name: str, config: Dict[str, Any]) -> bool:
    """Tell whether a service can be made from that."""
    try:
        OURS[name](config)
    except ValidationError:
        return False
    return True


def in_a_fresh_process(code: str) -> None:
    """Run code in a new interpreter; it must end well."""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


class TestInstall:
    """The two functions."""

    def test_uninstall_undoes_everything(self) -> None:
        before = state()
        install()
        changed = state()
        uninstall()
        assert state() == before
        assert all(then != now for then, now in zip(changed, before))

    def test_every_public_name_of_upstreams_modules_is_there(self) -> None:
        """`CopyMode` can still be imported from upstream's module."""
        folder = Path(mlos_bench.services.remote.__file__).parent / "ssh"
        install()
        try:
            for path in folder.glob("ssh_*.py"):  # read, not run: it needs asyncssh
                body = ast.parse(path.read_text()).body
                theirs = {node.name for node in body if isinstance(node, ast.ClassDef)}
                ours = importlib.import_module(f"{UPSTREAM}.{path.stem}")
                assert theirs and theirs <= set(dir(ours)), path.stem
        finally:
            uninstall()

    def test_both_may_be_called_again(self) -> None:
        before = state()
        uninstall()
        install()
        once = state()
        install()
        assert state() == once
        uninstall()
        uninstall()
        assert state() == before

    def test_threads_that_install_at_once_install_once(self) -> None:
        before = state()
        start = threading.Barrier(8)

        def body() -> None:
            start.wait(10)
            install()

        threads = [threading.Thread(target=body) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        uninstall()
        assert state() == before

    def test_failed_install_changes_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        before = state()

        def broken() -> None:
            raise ImportError("not this one")

        monkeypatch.setattr(module_names, "replace", broken)
        with pytest.raises(ImportError, match="not this one"):
            install()
        assert state() == before
        monkeypatch.undo()
        install()
        uninstall()
        assert state() == before

    def test_modules_that_were_imported_before_come_back(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        original = {name: ModuleType(name) for name in (UPSTREAM, f"{UPSTREAM}.ssh_service")}
        for name, module in original.items():
            monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setattr(mlos_bench.services.remote, "ssh", original[UPSTREAM], raising=False)
        before = state()
        install()
        assert sys.modules[UPSTREAM] is ssh_service
        uninstall()
        assert state() == before

    def test_modules_that_were_imported_in_between_go(self) -> None:
        before = state()
        install()
        importlib.import_module(f"{UPSTREAM}.errors")  # there is none by that name upstream
        uninstall()
        assert state() == before

    def test_unknown_schema_of_mlos_bench_is_an_error(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = state()
        monkeypatch.setattr(schemas, "_HOST_SERVICE_SUBSCHEMA", "another.json")
        with pytest.raises(ImportError, match="another.json in 0 places"):
            install()
        assert state() == before

    def test_importing_the_package_changes_nothing(self) -> None:
        in_a_fresh_process(
            "import ssh_service.mlos_bench, sys; "
            f"assert not [name for name in sys.modules if name.startswith({UPSTREAM!r})]"
        )

    def test_a_process_that_the_command_spawns_has_it_too(self) -> None:
        in_a_fresh_process(
            "import runpy, sys, ssh_service; "
            "runpy.run_module('ssh_service.mlos_bench.__main__', run_name='__mp_main__'); "
            f"assert sys.modules[{UPSTREAM!r}] is ssh_service"
        )


@pytest.mark.usefixtures("installed")
class TestNames:
    """What mlos_bench's names refer to between `install` and `uninstall`."""

    def test_the_same_imports_work_as_with_the_original(self) -> None:
        for name in ("", ".ssh_service", ".ssh_host_service", ".ssh_fileshare"):
            importlib.import_module(UPSTREAM + name)
        from mlos_bench.services.remote.ssh import SshFileShareService as share
        from mlos_bench.services.remote.ssh import SshHostService as host
        from mlos_bench.services.remote.ssh.ssh_fileshare import SshFileShareService as share_2
        from mlos_bench.services.remote.ssh.ssh_host_service import SshHostService as host_2
        from mlos_bench.services.remote.ssh.ssh_service import (
            SshClient,
            SshClientCache,
            SshService,
        )

        assert host is host_2 is SshHostService
        assert share is share_2 is SshFileShareService
        assert (SshClient, SshClientCache) == (ssh_service.SshClient, ssh_service.SshClientCache)
        assert SshService is ssh_service.SshService
        assert mlos_bench.services.remote.ssh is ssh_service

    @pytest.mark.parametrize("name", [*THEIRS, *OURS])
    def test_services_are_made_from_either_name(self, name: str) -> None:
        service = Service.new(name, {"ssh_username": "somebody"})
        assert type(service) is {**THEIRS, **OURS}[name]
        assert service.config["ssh_username"] == "somebody"

    @pytest.mark.parametrize("name", [*THEIRS, *OURS])
    def test_configs_may_have_either_name(self, name: str) -> None:
        config = {"class": name, "config": {"ssh_username": "somebody"}}
        assert valid({"class": name})
        assert valid(config)
        assert valid({"services": [config]})


@pytest.mark.parametrize("name", OURS)
def test_before_install_configs_may_not_have_our_names(name: str) -> None:
    assert not valid({"class": name})


RIGHT: Dict[str, List[Any]] = {
    "ssh_port": [None, 1, 22, 65535, "22"],
    "ssh_username": [None, "somebody"],
    "ssh_priv_key_path": [None, "~/.ssh/id", ["~/.ssh/id", "/other"]],
    "ssh_request_timeout": [None, 0.5, 90],
    "ssh_connect_timeout": [0.5, 90],
    "ssh_keepalive_interval": [None, 0, 0.5, 90],
    "ssh_keepalive_count_max": [1, 5],
    "ssh_known_hosts_path": [None, "/dev/null", ["/dev/null"]],
    "ssh_known_hosts_file": [None, "/dev/null", ["/dev/null"]],
    "ssh_host_key_policy": ["off"],
    "ssh_max_connections": [1, 5],
    "ssh_idle_timeout": [None, 0.5, 90],
    "ssh_max_lifetime": [None, 0.5, 90],
    "ssh_max_output": [None, 1, 100000],
    "ssh_config": [None, "/dev/null", ["/dev/null"]],
    "ssh_shell": ["/bin/sh", "sh -e"],
    "ssh_detached": [True, False],
    "ssh_job_id": [None, "Experiment-7"],
    "ssh_copy_timeout": [None, 0.5, 90],
    "ssh_copy_preserve": [None, True, False],
    "ssh_copy_verify": [True, False],
    "ssh_copy_resume": [True, False],
    "ssh_copy_fsync": [True, False],
}
WRONG: Dict[str, List[Any]] = {
    "ssh_port": [0, 65536, 22.5, True, "", "ssh", "-1"],
    "ssh_username": [5, "", " ", "some\nbody", ["somebody"]],
    "ssh_priv_key_path": [5, "", [], [5], {}],
    "ssh_request_timeout": [0, -1, "90", True],
    "ssh_connect_timeout": [None, 0, -1, "90"],
    "ssh_keepalive_interval": [-1, "90", True],
    "ssh_keepalive_count_max": [None, 0, 1.5, "3"],
    "ssh_known_hosts_path": [5, "", [], True],
    "ssh_known_hosts_file": [5, "", [], True],
    "ssh_host_key_policy": [None, "of", "ask", True],
    "ssh_max_connections": [None, 0, 1.5, "3"],
    "ssh_idle_timeout": [0, -1, "90"],
    "ssh_max_lifetime": [0, -1, "90"],
    "ssh_max_output": [0, -1, 1.5, "90"],
    "ssh_config": [5, "", [], True],
    "ssh_shell": [None, "", 5, ["sh"]],
    "ssh_detached": [None, 1, "yes"],
    "ssh_job_id": ["", "a/b", "x" * 101, 7, "two\nlines", "end\n"],
    "ssh_copy_timeout": [0, -1, "90", True],
    "ssh_copy_preserve": [1, "yes"],
    "ssh_copy_verify": [None, 1, "yes"],
    "ssh_copy_resume": [None, 1, "yes"],
    "ssh_copy_fsync": [None, 1, "yes"],
    # typos, and what is no setting of a service
    "ssh_usernam": ["somebody"],
    "ssh_hostname": ["somewhere"],
}
HOST, SHARE = "ssh_service.SshHostService", "ssh_service.SshFileShareService"
KNOWN = {
    HOST: {**settings.COMMON, **settings.HOST},
    SHARE: {**settings.COMMON, **settings.FILE_SHARE},
}


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("name", [HOST, SHARE])
class TestValidation:
    """Our settings in configs: the schema and the constructor are of one opinion."""

    def test_schema_accepts_every_valid_setting(self, name: str) -> None:
        assert set(RIGHT) == {*KNOWN[HOST], *KNOWN[SHARE]}
        for setting, values in RIGHT.items():
            for value in values:
                right = setting in KNOWN[name]
                config = {setting: value}
                assert valid({"class": name, "config": config}) == right, config
                assert constructible(name, config) == right, config

    def test_wrong_types_and_typos_fail(self, name: str) -> None:
        assert set(WRONG) >= set(RIGHT)
        for setting, values in WRONG.items():
            config = {setting: values[0]}
            assert not valid({"services": [{"class": name, "config": config}]}), config
            for value in values:
                config = {setting: value}
                assert not valid({"class": name, "config": config}), config
                assert not constructible(name, config), config

    def test_empty_config_is_none_as_upstream(self, name: str) -> None:
        assert not valid({"class": name, "config": {}})
        assert not valid({"class": name, "settings": {"ssh_port": 22}})
        assert not valid({"class": name + "s"})

    def test_upstreams_names_keep_upstreams_settings(self, name: str) -> None:
        theirs = f"{UPSTREAM}.{name.partition('.')[2]}"
        assert valid({"class": theirs, "config": {"ssh_port": 22}})
        assert not valid({"class": theirs, "config": {"ssh_connect_timeout": 5}})
        assert not valid({"class": theirs, "config": {"ssh_usernam": "somebody"}})


def test_the_subschema_is_a_whole_schema_by_itself() -> None:
    from jsonschema import Draft202012Validator

    schema = schemas.subschema()
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    assert validator.is_valid({"class": HOST, "config": {"ssh_shell": "/bin/sh"}})
    assert not validator.is_valid({"class": SHARE, "config": {"ssh_shell": "/bin/sh"}})
    assert not validator.is_valid({"class": f"{UPSTREAM}.SshHostService"})
