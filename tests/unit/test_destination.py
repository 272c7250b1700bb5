"""The host, user and alias a caller gives: what may stand in them, with `ssh` as the referee."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import Any

import pytest

from ssh_service import params
from ssh_service.errors import SshConfigError
from ssh_service.fleet import hosts
from ssh_service.params import ConnectParams

COMMANDS = ["$(id)", "`id`", "a;id", "a&&id", "a|id", "a>b", "$IFS", "a'b", 'a"b', "a(b", "{a,b}"]


@pytest.fixture(autouse=True)
def home(user_home: Path) -> Path:
    return user_home


def resolve(**given: Any) -> ConnectParams:
    return params.resolve({"host": "web", **given})


GIVEN = {"%h": "host", "%n": "host", "%k": "host", "%r": "username"}


@pytest.mark.parametrize("token", GIVEN)
@pytest.mark.parametrize("line", ["ProxyCommand touch", 'Match exec "touch'])
@pytest.mark.parametrize("name", COMMANDS)
def test_name_never_becomes_a_command_of_ssh_config(
    home: Path, tmp_path: Path, token: str, line: str, name: str
) -> None:
    end = '"' if '"' in line else ""
    (home / ".ssh" / "config").write_text(f"{line} {tmp_path}/{token}{end}\n")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(SshConfigError):
        resolve(config_exec=True, **{GIVEN[token]: name})
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "where, name",
    [
        (where, name)
        for where in ("host", "username", "host_key_alias")
        for name in COMMANDS
        if (where, name) != ("username", "$IFS")  # ssh lets users be called so: see below
    ],
)
def test_name_is_refused_whatever_is_configured(where: str, name: str) -> None:
    """A jump host or a token nobody thought of must not make the difference."""
    with pytest.raises(SshConfigError, match=f"^{where}: "):
        resolve(config=None, **{where: name})
    with pytest.raises(SshConfigError, match=f"^{where}: "):
        resolve(config=None, tunnel={"host": "jump", where: name})


def test_user_with_a_dollar_gets_into_no_command(home: Path) -> None:
    (home / ".ssh" / "config").write_text("ProxyCommand nc -r %r %h\n")
    with pytest.raises(SshConfigError, match="config:1: 'a\\$IFS' cannot stand for %r"):
        resolve(username="a$IFS")
    assert resolve(username="a$IFS", config=None).username == "a$IFS"


def test_host_key_alias_of_the_file_is_checked_in_commands(home: Path) -> None:
    (home / ".ssh" / "config").write_text("HostKeyAlias $(id)\nProxyCommand nc %k\n")
    with pytest.raises(SshConfigError, match="cannot stand for %k"):
        resolve()


STRANGE = {"C1": "we\x9bb", "bidi": "we\u202eb", "line": "we\u2028b", "mark": "we\u200fb"}


@pytest.mark.parametrize("kind", STRANGE)
@pytest.mark.parametrize("where", ["host", "username", "host_key_alias"])
def test_invisible_characters_are_refused_and_not_shown(where: str, kind: str) -> None:
    with pytest.raises(SshConfigError) as caught:
        resolve(config=None, **{where: STRANGE[kind]})
    assert str(caught.value).isprintable()
    with pytest.raises(SshConfigError) as caught:
        hosts.parse(STRANGE[kind])
    assert str(caught.value).isprintable()


# --- the home directory ----------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, ""])
def test_home_without_a_value_is_the_systems(
    value: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An empty HOME is no reason to write to /.ssh."""
    if value is None:
        monkeypatch.delenv("HOME")
    else:
        monkeypatch.setenv("HOME", value)
    folder = os.path.join(pwd.getpwuid(os.getuid()).pw_dir, ".ssh")
    found = resolve(client_keys="~/.ssh/mine", config=None)
    assert found.known_hosts.files[0] == os.path.join(folder, "known_hosts")
    assert found.client_keys == (os.path.join(folder, "mine"),)
    assert os.path.dirname(found.identity_files[0]) == folder
