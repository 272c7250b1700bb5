"""The module `ssh_service.paramiko`: paramiko's names and modules, and its own settings."""

from __future__ import annotations

import importlib
import pickle
from typing import Any, Iterator

import paramiko as real
import pytest

from ssh_service import paramiko as ours
from ssh_service.errors import SshConfigError

REPLACED = {"SSHClient", "Transport"}


@pytest.fixture(autouse=True)
def default_settings() -> Iterator[None]:
    yield
    ours.configure()


def public_names() -> Any:
    return getattr(real, "__all__", None) or [n for n in vars(real) if not n.startswith("_")]


@pytest.mark.parametrize("name", sorted({*public_names(), "__version__"}))
def test_public_names_are_paramikos(name: str) -> None:
    theirs, mine = getattr(real, name), getattr(ours, name)
    if name in REPLACED:
        assert mine is not theirs and issubclass(mine, theirs)
        assert mine.__name__ in (name, "DropInTransport")
    elif name not in ("client", "transport"):  # the modules of these two
        assert mine is theirs


def test_star_import_brings_paramikos_names() -> None:
    names: Any = {}
    exec("from ssh_service.paramiko import *", names)
    assert set(public_names()) <= set(names)
    assert names["SSHClient"] is ours.SSHClient
    assert "install" not in names


@pytest.mark.parametrize("name", ["ssh_exception", "rsakey", "agent", "sftp_client", "util"])
def test_submodules_are_paramikos(name: str) -> None:
    assert importlib.import_module(f"ssh_service.paramiko.{name}") is getattr(real, name)
    assert getattr(ours, name) is getattr(real, name)
    assert getattr(real, name).__name__ == f"paramiko.{name}"
    assert getattr(real, name).__spec__.name == f"paramiko.{name}"


def test_submodules_of_the_replaced_classes_are_paramikos_but_for_these(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = importlib.import_module("ssh_service.paramiko.client")
    transport = importlib.import_module("ssh_service.paramiko.transport")
    assert (client.SSHClient, transport.Transport) == (ours.SSHClient, ours.Transport)
    assert client.AutoAddPolicy is real.AutoAddPolicy
    assert transport.SecurityOptions is real.SecurityOptions
    monkeypatch.setattr(ours.client, "SOME_STATE", 1, raising=False)
    assert real.client.SOME_STATE == 1


def test_modules_that_are_not_there_are_import_errors() -> None:
    with pytest.raises(ImportError):
        importlib.import_module("ssh_service.paramiko.nonesuch")
    with pytest.raises(AttributeError):
        ours.nonesuch


def test_exceptions_are_pickled_as_paramikos() -> None:
    error = ours.BadAuthenticationType("refused", ["publickey"])
    assert type(pickle.loads(pickle.dumps(error))) is real.BadAuthenticationType


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("linger", -1),
        ("linger", float("nan")),
        ("linger", float("inf")),
        ("linger", "60"),
        ("linger", True),
        ("share", "always"),
        ("cache", {}),
    ],
)
def test_settings_that_are_wrong_are_named(setting: str, value: Any) -> None:
    for function in (ours.configure, ours.install):
        with pytest.raises(SshConfigError, match=setting):
            function(**{setting: value})
    assert real.SSHClient.connect is not ours.SSHClient.connect  # nothing was installed


def test_fresh_takes_a_name() -> None:
    with pytest.raises(SshConfigError, match="host"):
        ours.fresh(22)  # type: ignore[arg-type]


def test_install_and_uninstall_leave_paramiko_as_it_was() -> None:
    before = vars(real.SSHClient)["connect"], vars(real.Transport)["__init__"]
    ours.install()
    ours.install()
    assert vars(real.SSHClient)["connect"] is not before[0]
    ours.uninstall()
    ours.uninstall()
    assert (vars(real.SSHClient)["connect"], vars(real.Transport)["__init__"]) == before
