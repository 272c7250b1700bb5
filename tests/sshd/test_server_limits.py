"""A server that has too many connections, and says so."""

from __future__ import annotations

import socket
import threading
from typing import Callable

import pytest

from ssh_service import SshClientCache, run
from ssh_service.errors import SshConnectError
from ssh_service.local_sshd import Sshd


def holder(sshd: Sshd) -> socket.socket:
    """Take the one place that the server has for those who are not logged in."""
    sock = socket.create_connection((sshd.host, sshd.port), 10)
    sock.settimeout(10)
    assert sock.recv(64).startswith(b"SSH-")
    return sock


def test_who_was_dropped_for_max_startups_gets_in_when_there_is_room(
    sshd_factory: Callable[..., Sshd],
) -> None:
    """T15: a success soon after the holder leaves, by few attempts."""
    sshd = sshd_factory({"MaxStartups": "1:100:1"})
    held = holder(sshd)
    cache = SshClientCache()
    release = threading.Timer(1.0, held.close)
    release.start()
    try:
        assert run(sshd.connect_params, "echo in", timeout=20, cache=cache).stdout == "in\n"
        assert sshd.log().count("past MaxStartups") + sshd.log().count("drop connection") <= 8
    finally:
        release.join(10)
        held.close()
        cache.cleanup()


def test_the_error_tells_what_the_server_said_when_there_never_is_room(
    sshd_factory: Callable[..., Sshd],
) -> None:
    sshd = sshd_factory({"MaxStartups": "1:100:1"})
    held = holder(sshd)
    cache = SshClientCache()
    try:
        with pytest.raises(SshConnectError, match="Exceeded MaxStartups"):
            cache.get_client_connection({**sshd.connect_params, "connect_timeout": 1.5})
        assert cache.stats()["connections"] == 0
    finally:
        held.close()
        cache.cleanup()
