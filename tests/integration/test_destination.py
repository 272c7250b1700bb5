"""The host and user a caller gives, with `ssh` as the referee."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ssh_service.errors import SshConfigError
from tests.keys import needs_ssh
from tests.unit.test_destination import COMMANDS, resolve


@pytest.fixture(autouse=True)
def home(user_home: Path) -> Path:
    return user_home


NAMES = [
    *COMMANDS,
    *["web", "web1.example.com", "10.0.0.7", "fe80::1%eth0", "web_1", "-web", "w-", "we b", "a\\"],
    *["a\\b", "a!b", "a*b", "a?b", "[a", "a]", "a/b", "~a", "a#b", "=a", "a=b", "%h", "a:b", "ä"],
    *["a\tb", "a\nb", "a\x7fb", "a\x01b"],
]
USERS = [*NAMES, "a -b", "a - b", "DOMAIN\\user", "user@realm", "a.b", "a+b", "a$", "\x1b[31m"]


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
    """
    Control characters are refused by the newer versions of ssh, and here.

    OpenSSH 10.6 refuses a dollar and a backslash, too, but only on its command line.  Here, they
    are refused where the user would become a part of a command.
    """
    if "$" in user or "\\" in user:
        assert is_taken(username=user) or not ssh_takes("-l", user, "web")
    elif user.isprintable():
        assert is_taken(username=user) == ssh_takes("-l", user, "web")
    else:
        assert not is_taken(username=user)


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
