"""The module `ssh_service.paramiko`: paramiko's names and modules, and its own settings."""

from __future__ import annotations

import importlib
import pickle
import sys
from pathlib import Path
from typing import Any, Iterator, List

import paramiko as real
import pytest

from ssh_service import paramiko as ours
from ssh_service.drop_in.sharing import sharing
from ssh_service.errors import SshConfigError
from ssh_service.paramiko.__main__ import main
from tests.common import DROP_IN_DEFAULTS

REPLACED = {"SSHClient", "Transport"}


@pytest.fixture(autouse=True)
def default_settings() -> Iterator[None]:
    yield
    ours.configure(**DROP_IN_DEFAULTS)


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


@pytest.mark.parametrize("name", sorted(REPLACED))
def test_classes_are_pickled_by_name(name: str) -> None:
    """As in paramiko: a program may send one to another process."""
    cls = getattr(ours, name)
    assert pickle.loads(pickle.dumps(cls)) is cls


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("linger", -1),
        ("linger", float("nan")),
        ("linger", float("inf")),
        ("linger", "60"),
        ("linger", True),
        ("share", "always"),
        ("share", lambda host: True),
        ("share", lambda host, port, username, key: True),
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


def test_settings_that_are_not_named_stay() -> None:
    """A conftest and a program may each set what they care about."""

    def share(host: str, port: int, username: str) -> bool:
        return True

    ours.configure(linger=0, share=share)
    ours.configure(cache=None)
    ours.install()
    ours.uninstall()
    assert (sharing.linger, sharing._settings.share) == (0, share)
    with pytest.raises(SshConfigError):
        ours.configure(linger=5, share="always")  # type: ignore[arg-type]
    assert sharing.linger == 0
    ours.configure(share=None)
    assert (sharing.linger, sharing._settings.share) == (0, None)


def test_share_may_be_any_callable_but_async() -> None:
    async def later(host: str, port: int, username: str) -> bool:
        return False

    with pytest.raises(SshConfigError, match="async"):
        ours.configure(share=later)  # it would be true, whatever it returns
    for function in (lambda *_: True, lambda host, port=22, username="": True, max):
        ours.configure(share=function)


def test_a_share_function_that_fails_is_named() -> None:
    """A bare error of the function's own would look like a bug of `connect`."""

    def broken(host: str, port: int, username: str) -> bool:
        raise KeyError(host)

    ours.configure(share=broken)
    client: Any = ours.SSHClient()
    with pytest.raises(SshConfigError, match="broken failed for me@web1:22: KeyError: 'web1'"):
        client.connect("web1", username="me")


def test_fresh_without_a_connection_says_so() -> None:
    assert ours.fresh("nosuch") == 0
    assert ours.fresh() == 0


# The program that runs programs.


def files(folder: Path) -> None:
    (folder / "empty").mkdir()
    (folder / "shell").write_text("#!/bin/sh\n[ 1 ] && echo\n")
    (folder / "binary").write_bytes(b"\x7fELF\0\0")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nosuch"], "no such program: nosuch"),
        (["-c", "pass"], "options of Python are not taken: -c; give a file, or -m MODULE"),
        (["-m", "nosuch"], "no module named nosuch"),
        (["-m", "json.nosuch"], "no module named json.nosuch"),
        (["-m", "json.decoder.nosuch"], "no module named json.decoder.nosuch"),
        (["empty"], "the folder has no __main__.py: .*empty"),
        (["shell"], "not a Python program: .*shell"),
        (["binary"], "not a Python program: .*binary"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_run_is_named(
    arguments: List[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    files(tmp_path)
    with pytest.raises(SystemExit, match=f"^ssh_service.paramiko: {message}"):
        main(arguments)
    assert real.SSHClient.connect is not ours.SSHClient.connect


def test_help_says_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("-h", "--help"):
        main([option])
        assert "share connections" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([])
