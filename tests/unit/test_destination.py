"""The host, user and alias a caller gives: what may stand in them, with `ssh` as the referee."""

from __future__ import annotations

import functools
import os
import pwd
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ssh_service import params
from ssh_service.errors import SshConfigError
from ssh_service.fleet import hosts
from ssh_service.params import ConnectParams
from tests.keys import needs_ssh

COMMANDS = ["$(id)", "`id`", "a;id", "a&&id", "a|id", "a>b", "$IFS", "a'b", 'a"b', "a(b", "{a,b}"]
NAMES = [
    *COMMANDS,
    *["web", "web1.example.com", "10.0.0.7", "fe80::1%eth0", "web_1", "-web", "w-", "we b", "a\\"],
    *["a\\b", "a!b", "a*b", "a?b", "[a", "a]", "a/b", "~a", "a#b", "=a", "a=b", "%h", "a:b", "ä"],
    *["a\tb", "a\nb", "a\x7fb", "a\x01b"],
]
USERS = [*NAMES, "a -b", "a - b", "DOMAIN\\user", "user@realm", "a.b", "a+b", "a$", "\x1b[31m"]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    (folder / ".ssh").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return folder


def resolve(**given: Any) -> ConnectParams:
    return params.resolve({"host": "web", **given})


def is_taken(**given: Any) -> bool:
    try:
        resolve(config=None, **given)
    except SshConfigError:
        return False
    return True


def ssh_takes(*arguments: str) -> bool:
    if not _ssh_checks_names():
        pytest.skip("this ssh checks no names; versions from 9.6 on do")
    return _is_taken_by_ssh(*arguments)


@functools.lru_cache(maxsize=None)
def _ssh_checks_names() -> bool:
    return not _is_taken_by_ssh("--", "$(id)")


def _is_taken_by_ssh(*arguments: str) -> bool:
    said = subprocess.run(
        ["ssh", "-G", "-F", "none", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert said.returncode == 0 or "invalid characters" in said.stderr, said.stderr
    return said.returncode == 0


@needs_ssh
@pytest.mark.parametrize("name", NAMES)
def test_host_is_refused_where_ssh_refuses_it(name: str) -> None:
    """Newer versions of ssh refuse a comma, too; nothing that ssh refuses is taken here."""
    if "," not in name:
        assert is_taken(host=name) == ssh_takes("--", name)
    assert not is_taken(host=name) or ssh_takes("--", name)


@needs_ssh
@pytest.mark.parametrize("user", USERS)
def test_user_is_refused_where_ssh_refuses_it(user: str) -> None:
    """Control characters are refused by the newer versions of ssh, and here."""
    if user.isprintable():
        assert is_taken(username=user) == ssh_takes("-l", user, "web")
    else:
        assert not is_taken(username=user)


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
    """C10d: an empty HOME is no reason to write to /.ssh."""
    if value is None:
        monkeypatch.delenv("HOME")
    else:
        monkeypatch.setenv("HOME", value)
    folder = os.path.join(pwd.getpwuid(os.getuid()).pw_dir, ".ssh")
    found = resolve(client_keys="~/.ssh/mine", config=None)
    assert found.known_hosts.files[0] == os.path.join(folder, "known_hosts")
    assert found.client_keys == (os.path.join(folder, "mine"),)
    assert os.path.dirname(found.identity_files[0]) == folder


@needs_ssh
def test_home_that_is_empty_means_to_ssh_what_it_means_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", "")
    said = subprocess.run(
        ["ssh", "-G", "-F", "none", "web"],
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ).stdout
    (theirs,) = [line for line in said.splitlines() if line.startswith("userknownhostsfile ")]
    assert theirs.split()[1] == resolve(config=None).known_hosts.files[0]
