"""What `paramiko.Transport` does for its users, ours and a client's view do, too."""

from __future__ import annotations

import contextlib
from typing import Callable, ContextManager, Dict, Iterator, Type

import paramiko
import pytest

from ssh_service import SshClientCache
from ssh_service import paramiko as ours
from ssh_service.testing.pytest_plugin import Sshd
from tests.common import DROP_IN_DEFAULTS, PATIENCE
from tests.sshd.test_paramiko_alike import CASES, outcome, paramikos_own

Made = Callable[[Sshd, SshClientCache], ContextManager[paramiko.Transport]]


@contextlib.contextmanager
def standalone(sshd: Sshd, _: SshClientCache) -> Iterator[paramiko.Transport]:
    transport = ours.Transport((sshd.host, sshd.port))
    try:
        key = paramiko.Ed25519Key.from_private_key_file(sshd.client_key)
        transport.connect(username=sshd.username, pkey=key)
        yield transport
    finally:
        transport.close()
        transport.join(PATIENCE)


@contextlib.contextmanager
def view(sshd: Sshd, cache: SshClientCache) -> Iterator[paramiko.Transport]:
    ours.configure(cache=cache)
    clients = []
    try:
        for _ in range(2):
            client = ours.SSHClient()
            clients.append(client)
            client.load_host_keys(sshd.known_hosts)
            client.connect(
                sshd.host,
                sshd.port,
                sshd.username,
                key_filename=sshd.client_key,
                allow_agent=False,
                look_for_keys=False,
            )
        yield clients[0].get_transport()
        # Whatever was done to it, the other client is as it was.
        assert clients[1].exec_command("echo hello")[1].read() == b"hello\n"
    finally:
        for client in clients:
            client.close()
        ours.configure(**DROP_IN_DEFAULTS)


KINDS: Dict[str, Made] = {"standalone": standalone, "view": view}
# What ours raises where paramiko returns something that could be misunderstood.
DIFFERENT: Dict[str, Type[BaseException]] = {
    "a_global_request_after_close": paramiko.SSHException,
    "ignore_after_close": paramiko.SSHException,
}
# A shell that reads a long profile takes a minute; the other file has it.
NAMES = [name for name in CASES if "a_shell" not in name]


@pytest.mark.parametrize("kind", [pytest.param("standalone", marks=pytest.mark.long), "view"])
@pytest.mark.parametrize("name", NAMES)
def test_dropin_transports_have_the_same_outcome(
    sshd: Sshd, cache: SshClientCache, kind: str, name: str
) -> None:
    with paramikos_own(sshd) as theirs:
        expected_kind, expected = outcome(CASES[name], theirs)
    with KINDS[kind](sshd, cache) as transport:
        got_kind, got = outcome(CASES[name], transport)
    if name in DIFFERENT:
        assert expected_kind == "returned"
        assert isinstance(got, DIFFERENT[name])
        return
    assert got_kind == expected_kind, got
    if got_kind == "returned":
        assert got == expected
    elif not isinstance(expected, EOFError):  # which paramiko's files take for the end
        assert isinstance(got, type(expected)), f"{got!r} is no {expected!r}"
