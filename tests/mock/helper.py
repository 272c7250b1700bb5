"""What the tests against the mock server share."""

from __future__ import annotations

import contextlib
from typing import Iterator

import paramiko

from ssh_service.mock_sshd import MockSshd

__all__ = ["MockSshd", "connect"]


@contextlib.contextmanager
def connect(server: MockSshd) -> Iterator[paramiko.SSHClient]:
    """Connect bare paramiko to the mock server, its host key verified."""
    with paramiko.SSHClient() as client:
        client.load_host_keys(server.known_hosts)
        client.set_missing_host_key_policy(paramiko.RejectPolicy())
        client.connect(
            server.host,
            server.port,
            server.username,
            pkey=paramiko.ECDSAKey(filename=server.client_key),
            allow_agent=False,
            look_for_keys=False,
            timeout=10,
        )
        yield client
