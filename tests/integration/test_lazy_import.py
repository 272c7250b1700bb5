"""Importing the package loads only what is used."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import List, Set

import pytest

import ssh_service

ROOT = Path(__file__).resolve().parents[2]


def modules_after(statement: str) -> Set[str]:
    """Run a statement in a fresh interpreter; return the modules that were loaded."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{statement}\nprint(*sys.modules, sep='\\n')"],
        cwd=str(ROOT),
        stdout=subprocess.PIPE,
        universal_newlines=True,
        check=True,
        timeout=60,
    )
    return set(done.stdout.split())


def roots(modules: Set[str]) -> Set[str]:
    return {name.partition(".")[0] for name in modules}


def test_importing_the_package_loads_nothing_else() -> None:
    loaded = modules_after("import ssh_service")
    ours = {name for name in loaded if name.partition(".")[0] == "ssh_service"}
    assert ours == {"ssh_service", "ssh_service._moved"}
    assert "paramiko" not in loaded


@pytest.mark.parametrize("name", ["SshClient", "SshClientCache", "CompletedProcess"])
def test_the_engine_needs_neither_mlos_bench_nor_an_extra(name: str) -> None:
    loaded = modules_after(f"from ssh_service import {name}")
    assert ("paramiko" in loaded) == (name != "CompletedProcess")  # which may come by pickle
    assert not roots(loaded) & {"mlos_bench", "mlos_core", "jsonschema", "pytest", "mockssh"}
    assert "ssh_service.services.host_api" not in loaded
    assert "ssh_service.services.base_service" not in loaded


@pytest.mark.parametrize("name", ["ssh_service", "ssh_host_service", "ssh_fileshare", "errors"])
def test_upstreams_modules_are_attributes_without_an_import(name: str) -> None:
    """As `mlos_bench.services.remote.ssh.ssh_service` is, once its package is imported."""
    loaded = modules_after(
        f"import ssh_service; assert ssh_service.{name}.__name__ == 'ssh_service.{name}'"
    )
    assert f"ssh_service.{name}" in loaded


@pytest.mark.parametrize("name", ["copying", "events", "fleet", "mlos_bench", "params", "testing"])
def test_modules_of_the_manual_are_attributes(name: str) -> None:
    """The README calls ``ssh_service.mlos_bench.install()`` after ``import ssh_service``."""
    loaded = modules_after(f"import ssh_service; ssh_service.{name}")
    assert f"ssh_service.{name}" in loaded
    if name != "mlos_bench":
        assert not roots(loaded) & {"mlos_bench", "mlos_core", "opentelemetry"}


def test_otel_is_an_attribute_where_opentelemetry_is() -> None:
    pytest.importorskip("opentelemetry")
    assert "ssh_service.otel" in modules_after("import ssh_service; ssh_service.otel")


def test_nothing_starts_a_thread_by_being_imported() -> None:
    code = (
        "from ssh_service import *; import threading; "
        "assert threading.active_count() == 1, threading.enumerate()"
    )
    modules_after(code)


@pytest.mark.parametrize("name", ssh_service.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(ssh_service, name) is not None
    assert name in dir(ssh_service)


def test_a_name_is_looked_up_once_and_stays_the_same() -> None:
    assert ssh_service.SshHostService is ssh_service.SshHostService
    assert "SshHostService" in vars(ssh_service)


def test_the_errors_are_an_attribute_without_being_imported() -> None:
    modules_after("import ssh_service; ssh_service.errors.SshServiceError")


def test_an_unknown_name_is_an_attribute_error_that_names_it() -> None:
    with pytest.raises(AttributeError, match="'ssh_service' has no attribute 'SshHots'"):
        ssh_service.SshHots
    with pytest.raises(ImportError):
        exec("from ssh_service import SshHots")


def test_the_documented_modules_have_the_documented_names() -> None:
    from ssh_service import ssh_fileshare, ssh_host_service
    from ssh_service import ssh_service as common

    assert common.SshClient is ssh_service.SshClient
    assert common.SshClientCache is ssh_service.SshClientCache
    assert common.SshService is ssh_service.SshService
    assert ssh_host_service.SshHostService is ssh_service.SshHostService
    assert ssh_fileshare.SshFileShareService is ssh_service.SshFileShareService


def test_the_version_is_a_version() -> None:
    assert re.match(r"\d+(\.\d+)*|0\+unknown", ssh_service.__version__)


def test_type_checkers_and_the_interpreter_see_the_same_names() -> None:
    text = (ROOT / "ssh_service" / "__init__.py").read_text()
    block = text[text.index("if TYPE_CHECKING:") : text.index("__all__")]
    imported: List[str] = []
    for names in re.findall(r"^    from \S+ import (\([^)]+\)|.+)$", block, re.MULTILINE):
        imported += re.findall(r"\w+", names)
    assert sorted(imported) == sorted(ssh_service._MODULES)
    assert set(ssh_service._MODULES) <= set(ssh_service.__all__)


def test_old_import_path_warning_names_the_importing_file() -> None:
    """The warning points at the line to change."""
    program = "import ssh_service.cache\nassert ssh_service.cache.SshClientCache"
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    assert "<string>:1: DeprecationWarning: ssh_service.cache has moved to" in done.stderr
