"""A server that has too many connections, and says so."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path
from typing import Any, Callable

import pytest

from ssh_service import SshClientCache, fleet, operations, run, start, upload
from ssh_service.errors import SshConnectError, SshSessionRefused
from ssh_service.testing.local_sshd import Sshd
from tests.sshd.auth_server import AuthServer


def holder(sshd: Sshd) -> socket.socket:
    """Take the one place that the server has for those who are not logged in."""
    sock = socket.create_connection((sshd.host, sshd.port), 10)
    sock.settimeout(10)
    assert sock.recv(64).startswith(b"SSH-")
    return sock


def test_dial_dropped_by_max_startups_is_repeated(
    sshd_factory: Callable[..., Sshd],
) -> None:
    """A success soon after the holder leaves, by few attempts."""
    sshd = sshd_factory({"MaxStartups": "1:100:1"})
    held = holder(sshd)
    cache = SshClientCache()
    release = threading.Timer(1.0, held.close)
    release.start()
    try:
        assert run(sshd.connect_params, "echo in", timeout=20, cache=cache).stdout == "in\n"
        assert sshd.log().count("past MaxStartups") + sshd.log().count("drop connection") <= 8
        assert 1 <= cache.stats()["drops"] <= 8 and cache.stats()["dials"] == 1
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
        # The second since OpenSSH 9.8.
        said = "the server said: (Exceeded MaxStartups|Not allowed at this time)"
        with pytest.raises(SshConnectError, match=said):
            cache.get_client_connection({**sshd.connect_params, "connect_timeout": 1.5})
        assert cache.stats()["connections"] == 0
    finally:
        held.close()
        cache.cleanup()


def test_an_idle_sftp_session_gives_way_to_a_command(
    sshd_factory: Callable[..., Sshd], tmp_path: Path
) -> None:
    """With one session in all, copies and commands take turns on one connection."""
    sshd = sshd_factory({"MaxSessions": 1})
    cache = SshClientCache()
    try:
        for turn in range(3):
            upload(sshd.connect_params, __file__, str(tmp_path / "copy"), cache=cache, timeout=20)
            process = run(
                sshd.connect_params, f"echo {turn}", cache=cache, timeout=20, max_connections=1
            )
            assert process.stdout == f"{turn}\n"
        assert sshd.logins() == 1
    finally:
        cache.cleanup()


def test_a_long_command_does_not_delay_short_ones(sshd_factory: Callable[..., Sshd]) -> None:
    """With one session a connection, which the server frees a moment after its end."""
    web = sshd_factory({"MaxSessions": 1}).connect_params
    cache = SshClientCache()
    try:
        with start(web, "echo begun; sleep 60", cache=cache) as process:
            assert next(process.lines()) == "begun\n"
            for turn in range(10):
                assert run(web, f"echo {turn}", cache=cache, timeout=20).stdout == f"{turn}\n"
    finally:
        cache.cleanup()


def test_an_idle_sftp_session_gives_way_while_a_long_command_runs(
    sshd_factory: Callable[..., Sshd], tmp_path: Path
) -> None:
    """With two sessions in all, one of them the copies', and the other taken for long."""
    web = sshd_factory({"MaxSessions": 2}).connect_params
    cache = SshClientCache()
    limits: Any = {"cache": cache, "max_connections": 1}
    try:
        upload(web, __file__, str(tmp_path / "copy"), cache=cache, timeout=20)
        with start(web, "echo begun; sleep 60", **limits) as process:
            assert next(process.lines()) == "begun\n"
            for turn in range(10):
                assert run(web, f"echo {turn}", timeout=20, **limits).stdout == f"{turn}\n"
            upload(web, __file__, str(tmp_path / "copy"), cache=cache, timeout=20)
            assert run(web, "echo on", timeout=20, **limits).stdout == "on\n"
    finally:
        cache.cleanup()


def test_an_idle_sftp_session_does_not_keep_its_connection(sshd: Sshd, tmp_path: Path) -> None:
    cache = SshClientCache()
    try:
        target = str(tmp_path / "copy")
        operations.upload(cache, sshd.connect_params, __file__, target, idle_timeout=0.2)
        deadline, pause = time.monotonic() + 20, threading.Event()
        while len(cache) and time.monotonic() < deadline:
            pause.wait(0.02)
        assert len(cache) == 0
    finally:
        cache.cleanup()


@pytest.mark.parametrize("limit, max_connections", [(1, 1), (1, 4), (10, 1)])
def test_many_commands_at_once_are_refused_few_sessions(
    sshd_factory: Callable[..., Sshd], limit: int, max_connections: int
) -> None:
    """At most two refused requests for each command; each of them is an error in sshd's log."""
    sshd = sshd_factory({"MaxSessions": limit})
    cache = SshClientCache()
    options: Any = {"cache": cache, "timeout": 60, "max_connections": max_connections}
    try:
        commands = [start(sshd.connect_params, f"echo {n}", **options) for n in range(100)]
        for number, command in enumerate(commands):
            assert command.result(60).stdout == f"{number}\n"
        assert cache.stats()["refusals"] <= 200
    finally:
        cache.cleanup()


def test_server_that_admits_no_session_sees_few_logins() -> None:
    """`fleet.run` keeps no connection, so that each further session takes another login."""
    with AuthServer(password="x") as server:
        (one,) = fleet.run([{**server.connect_params, "password": "x"}], "true", timeout=20)
        assert isinstance(one.error, SshSessionRefused)
        assert len(server.attempts) <= 4
