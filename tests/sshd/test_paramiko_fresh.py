"""`ssh_service.paramiko`: a login is as old as its connection, and each way to get a new one."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Callable, Iterator, List

import pytest

from ssh_service import SshClientCache
from ssh_service import paramiko as ours
from ssh_service.testing.local_sshd import find_sshd
from ssh_service.testing.pytest_plugin import Sshd
from tests.common import DROP_IN_DEFAULTS, require_part
from tests.servers import make_program

USER, GROUP = "old-timer", "late-comers"
# Bind a folder's passwd and group over the machine's, in a mount namespace of the server's own.
_INSIDE = """
mount --bind "$1/passwd" /etc/passwd && mount --bind "$1/group" /etc/group && shift && exec "$@"
"""
Groups = Callable[[], List[str]]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that the user may enter, who is not root: root's groups are looked up each time."""
    with tempfile.TemporaryDirectory(prefix="ssh-service-groups-") as name:
        os.chmod(name, 0o755)
        for file in ("passwd", "group"):
            Path(name, file).write_text(Path("/etc", file).read_text())
        with open(Path(name, "passwd"), "a", encoding="ascii") as passwd:
            passwd.write(f"{USER}:x:64998:64998::/:/bin/sh\n")
        yield Path(name)


@pytest.fixture
def server(folder: Path) -> Iterator[Sshd]:
    """A server with a user whose groups a test can change."""
    command = ["unshare", "--mount", "sh", "-c", _INSIDE, "sh", str(folder)]
    if (
        os.geteuid() != 0
        or subprocess.run([*command, "true"], stderr=subprocess.DEVNULL).returncode
    ):
        pytest.skip("needs root and mount namespaces, for an /etc/group of the server's own")
    program = find_sshd()
    require_part(program, "needs OpenSSH's sshd (Debian: apt install openssh-server)")
    quoted = " ".join(map(shlex.quote, [*command, str(program)]))
    wrapper = make_program(folder / "wrapper", f'#!/bin/sh\nexec {quoted} "$@"\n')
    with Sshd(folder, sshd=str(wrapper)) as sshd:
        sshd.username = USER
        yield sshd


@pytest.fixture
def groups(server: Sshd, cache: SshClientCache) -> Iterator[Groups]:
    """A function of old code's: it connects, asks for the user's groups, and closes."""
    ours.configure(cache=cache)

    def ask() -> List[str]:
        client: Any = ours.SSHClient()
        client.load_host_keys(server.known_hosts)
        client.connect(
            server.host, server.port, server.username, key_filename=server.client_key, timeout=30
        )
        with client:
            return str(client.exec_command("id -Gn")[1].read(), "ascii").split()

    yield ask
    ours.configure(**DROP_IN_DEFAULTS)


def add_to_group(server: Sshd, folder: Path) -> None:
    with open(folder / "group", "a", encoding="ascii") as file:
        file.write(f"{GROUP}:x:64999:{server.username}\n")


def test_a_shared_connection_has_the_groups_of_its_login(
    server: Sshd, groups: Groups, folder: Path
) -> None:
    """The page says so in its first paragraph: it is what sharing costs."""
    before = groups()
    add_to_group(server, folder)
    assert groups() == before
    assert server.logins() == 1


def test_fresh_sees_a_group_that_was_added(server: Sshd, groups: Groups, folder: Path) -> None:
    before = groups()
    add_to_group(server, folder)
    assert ours.fresh(server.host) == 1
    assert ours.fresh(server.host) == 0
    assert groups() == [*before, GROUP]
    assert server.logins() == 2


def test_a_client_that_may_not_share_sees_a_group_that_was_added(
    server: Sshd, groups: Groups, folder: Path, cache: SshClientCache
) -> None:
    before = groups()
    add_to_group(server, folder)
    ours.configure(cache=cache, share=lambda host, port, username: port != server.port)
    assert groups() == [*before, GROUP]


def test_without_linger_each_client_sees_a_group_that_was_added(
    server: Sshd, groups: Groups, folder: Path, cache: SshClientCache
) -> None:
    ours.configure(cache=cache, linger=0)
    before = groups()
    add_to_group(server, folder)
    assert groups() == [*before, GROUP]
