"""A server's reason for a refusal is shown, and cannot forge anything."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator

import paramiko
import pytest

from ssh_service import download, run, upload
from ssh_service.connections.cache import SshClientCache
from ssh_service.errors import SshConnectError, SshSessionRefused, SshTransferError
from ssh_service.testing.pytest_plugin import Sshd
from tests.common import PATIENCE, find_program, require_part, within
from tests.faults.clients import params_for
from tests.faults.evil_ssh import EvilSsh, Server

Factory = Callable[..., Sshd]


@pytest.mark.parametrize(
    "options, told",
    [
        ({"Subsystem": "sftp /nonexistent/sftp-server"}, "exit status 127"),
        (
            {"ForceCommand": "echo This account is not available.; exit 1"},
            "exit status 1, the server said: This account is not available.",
        ),
        ({"Subsystem": "sftp kill -9 $$"}, "signal KILL"),
        ({"Subsystem": "sftp true"}, "exit status 0"),
    ],
    ids=["missing", "forced", "signal", "silent"],
)
def test_missing_sftp_session_has_a_reason(
    sshd_factory: Factory,
    cache: SshClientCache,
    tmp_path: Path,
    options: Dict[str, str],
    told: str,
) -> None:
    """The message "the server ended the SFTP session" hid the reason."""
    server = sshd_factory(options)
    began = time.monotonic()
    with pytest.raises(SshTransferError) as caught:
        download(params_for(server), "/etc/hostname", str(tmp_path / "x"), cache=cache)
    within(5.0, began)
    assert f"the server ended the SFTP session ({told})" in str(caught.value)


def test_sftp_server_stderr_is_reported_escaped(
    cache: SshClientCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passed on by dropbear; OpenSSH throws away what a subsystem writes there."""

    def start(self: Any, channel: paramiko.Channel, name: str) -> bool:
        def fail() -> None:
            self._transport.wait_for_reply(channel)
            channel.sendall_stderr("\nsh: no sftp-server\x1b[2J\u202e here\nforged: ok\n")
            channel.shutdown_write()
            channel.send_exit_status(127)
            channel.close()

        self._evil.spawn(fail)
        return True

    monkeypatch.setattr(Server, "check_channel_subsystem_request", start, raising=False)
    with EvilSsh() as server:
        web = {"host": server.host, "port": server.port, "username": "me", "config": None}
        web.update(known_hosts=None, client_keys=[], agent_path=None)
        with pytest.raises(SshTransferError) as caught:
            download(web, "/etc/hostname", str(tmp_path / "x"), cache=cache)
        cache.cleanup()
    assert r"(exit status 127, the server said: sh: no sftp-server\x1b[2J\u202e here)" in str(
        caught.value
    )
    assert str(caught.value).isprintable()


def test_a_server_program_that_closes_stdout_and_stays_is_given_up(
    sshd_factory: Factory, cache: SshClientCache, tmp_path: Path
) -> None:
    server = sshd_factory({"Subsystem": "sftp exec >&- 2>&-; exec sleep 60"})
    (tmp_path / "x").write_text("x")
    began = time.monotonic()
    with pytest.raises(SshTransferError, match="the server ended the SFTP session"):
        upload(params_for(server), str(tmp_path / "x"), "/nonexistent/x", cache=cache)
    within(3.0, began)


def test_a_server_without_the_subsystem_refuses(
    sshd_factory: Factory, cache: SshClientCache, tmp_path: Path
) -> None:
    server = sshd_factory({"Subsystem": "other /bin/true"})
    with pytest.raises(SshSessionRefused, match="offers no SFTP, or cannot start it now"):
        download(params_for(server), "/etc/hostname", str(tmp_path / "x"), cache=cache)


@pytest.fixture
def tinysshd(tmp_path: Path) -> Iterator[int]:
    """Run tinysshd behind one port; it knows one algorithm of each kind."""
    program, maker = find_program("tinysshd"), find_program("tinysshd-makekey")
    require_part(bool(program and maker), "needs tinysshd (Debian: apt install tinysshd)")
    keys = tmp_path / "keys"
    subprocess.run([str(maker), str(keys)], check=True, timeout=PATIENCE)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        code = (
            "import socket, subprocess, sys\n"
            "listener = socket.socket(fileno=int(sys.argv[1]))\n"
            "sock, _ = listener.accept()\n"
            "subprocess.run(sys.argv[2:], stdin=sock, stdout=sock)\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(listener.fileno()), str(program), str(keys)],
            pass_fds=[listener.fileno()],
            stderr=subprocess.DEVNULL,
        )
    try:
        yield port
    finally:
        process.kill()
        process.wait(PATIENCE)


def test_a_server_of_few_algorithms_shows_its_offer(tinysshd: int, cache: SshClientCache) -> None:
    """As ssh shows it."""
    web = {
        "host": "127.0.0.1",
        "port": tinysshd,
        "known_hosts": None,
        "config": None,
        "encryption_algs": ["aes128-ctr"],
    }
    with pytest.raises(SshConnectError, match="no acceptable") as caught:
        run(web, "true", cache=cache, timeout=PATIENCE)
    caught.match("their offer: [a-z0-9@.,-]*chacha20-poly1305@openssh.com")
    assert caught.value.phase == "kex"
    assert not caught.value.retryable
