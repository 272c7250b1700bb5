"""The throw-away sshd of the pytest plugin, by OpenSSH's own client."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable, Dict, Iterator

import pytest

from ssh_service.testing.pytest_plugin import FaultProxy, Sshd, find_sshd
from tests.common import PATIENCE, eventually, is_running, run_python


def ssh(server: Sshd, *command: str) -> str:
    output = subprocess.check_output(
        server.ssh_command(*command), stdin=subprocess.DEVNULL, timeout=20
    )
    return output.decode()


@contextlib.contextmanager
def start_sleeper(server: Sshd) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a command that says its pid and then sleeps."""
    with subprocess.Popen(
        server.ssh_command("echo $$; exec sleep 60"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as client:
        try:
            yield client
        finally:
            client.kill()


def test_login_by_the_key_and_the_known_hosts_it_made(sshd: Sshd) -> None:
    assert ssh(sshd, "echo hello").strip() == "hello"
    assert sshd.logins() == 1
    assert "Accepted publickey" in sshd.log()


def test_each_test_sees_its_own_logins(sshd: Sshd) -> None:
    assert sshd.logins() == 0
    ssh(sshd, "true")
    ssh(sshd, "true")
    assert sshd.logins() == 2


def test_another_hosts_known_hosts_do_not_match(
    sshd: Sshd, sshd_factory: Callable[..., Sshd]
) -> None:
    other = sshd_factory()
    with open(other.known_hosts) as file:
        line = file.read().replace(str(other.port), str(sshd.port))
    with open(other.known_hosts, "w") as file:
        file.write(line)
    other.port = sshd.port
    result = subprocess.run(
        other.ssh_command("true"), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=20
    )
    assert result.returncode == 255
    assert b"REMOTE HOST IDENTIFICATION HAS CHANGED" in result.stderr


def test_cut_ends_every_connection_at_once(sshd: Sshd) -> None:
    with start_sleeper(sshd) as client:
        assert client.stdout is not None
        client.stdout.readline()
        assert sshd.session_pids()
        begin = time.monotonic()
        sshd.cut()
        assert client.wait(10) == 255
        assert time.monotonic() - begin < 2
    assert sshd.session_pids() == []
    assert ssh(sshd, "echo again").strip() == "again"


def test_restart_keeps_port_and_keys(sshd_factory: Callable[..., Sshd]) -> None:
    server = sshd_factory()
    port = server.port
    ssh(server, "true")
    server.stop()
    assert not server.running
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((server.host, server.port), timeout=5)
    server.restart()
    assert server.port == port
    ssh(server, "true")
    assert server.logins() == 2


def test_stop_ends_what_sessions_left_running(sshd_factory: Callable[..., Sshd]) -> None:
    server = sshd_factory()
    pid = int(ssh(server, "setsid sleep 60 >/dev/null 2>&1 & echo $!"))
    assert is_running(pid)
    server.stop()
    eventually(lambda: not is_running(pid))


def test_freeze_makes_it_mute_and_thaw_lets_it_go_on(sshd: Sshd) -> None:
    sshd.freeze(listener=True)
    with socket.create_connection((sshd.host, sshd.port), timeout=5) as sock:
        sock.settimeout(0.2)
        with pytest.raises(socket.timeout):
            sock.recv(1)
        sshd.thaw()
        sock.settimeout(10)
        assert sock.recv(4) == b"SSH-"


def state(pid: int) -> str:
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


def test_freeze_of_a_new_login_stops_its_newest_process(sshd_factory: Callable[..., Sshd]) -> None:
    """For an ordinary user sshd forks once more, after the client is logged in."""
    server = sshd_factory()
    for _ in range(10):
        with start_sleeper(server) as client:
            assert client.stdout is not None
            eventually(server.logins)  # right after which sshd forks
            server.freeze()
            assert {state(pid) for pid in server.session_pids()} <= {"T"}
            assert state(server.pid or 0) != "T"
            server.thaw()
            client.stdout.readline()
            server.cut()
            client.wait(PATIENCE)
        server.mark()


def test_thaw_lets_a_command_go_on_that_was_stopped_as_sshd(
    sshd: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at it and the signal, sshd's child may have become the command."""
    with start_sleeper(sshd) as client:
        assert client.stdout is not None
        command = int(client.stdout.readline())
        pids = [*sshd.session_pids(), command]
        with monkeypatch.context() as patch:
            patch.setattr(sshd, "session_pids", lambda: pids)
            sshd.freeze()
        assert state(command) == "T"
        sshd.thaw()
        eventually(lambda: state(command) == "S", "the command goes on")
        sshd.cut()
        client.wait(PATIENCE)


def test_cut_leaves_a_frozen_listener_frozen(sshd: Sshd) -> None:
    """It ends connections; who comes next is met as `freeze` said."""
    sshd.freeze(listener=True)
    sshd.cut()
    assert state(sshd.pid or 0) == "T"
    sshd.thaw()
    eventually(lambda: state(sshd.pid or 0) == "S", "the listener goes on")


def test_sshd_after_many_failed_logins_still_lets_in(sshd: Sshd, tmp_path: Path) -> None:
    """Servers from OpenSSH 9.8 on penalize an address, and here all have the same one."""
    wrong = tmp_path / "wrong"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(wrong)], check=True)
    refused = [
        str(wrong) if word == sshd.client_key else word for word in sshd.ssh_command("true")
    ]
    for _ in range(8):
        quiet = subprocess.DEVNULL
        assert subprocess.call(refused, stdin=quiet, stderr=quiet, timeout=PATIENCE) == 255
    assert ssh(sshd, "echo hello").strip() == "hello"


@pytest.mark.parametrize("options, line", [({}, "no"), ({"PerSourcePenalties": "yes"}, "yes")])
def test_sshd_with_penalties_has_them_disabled(
    sshd: Sshd, tmp_path: Path, options: Dict[str, str], line: str
) -> None:
    """The server itself is asked whether it knows the option; a caller's own line goes first."""
    program = find_sshd()
    newer = tmp_path / "newer-sshd"
    newer.write_text(f"""#!/bin/sh
case $1 in -T) exit 0;; esac
[ "$1 $2" = "-D -f" ] || exit 9
cp "$3" "$3.told"
grep -v '^PerSourcePenalties' "$3.told" >"$3"
exec {program} "$@"
""")
    newer.chmod(0o700)
    folder = tmp_path / "server"
    folder.mkdir()
    with Sshd(folder, options, sshd=str(newer)) as server:
        told = Path(server.config_file + ".told").read_text().splitlines()
    assert [each for each in told if "Penalties" in each] == [f"PerSourcePenalties {line}"]


def test_find_sshd_takes_the_one_that_the_environment_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SSH_SERVICE_SSHD chooses one of several."""
    monkeypatch.setenv("SSH_SERVICE_SSHD", sys.executable)
    assert find_sshd() == sys.executable


@pytest.mark.parametrize("path", ["/nope/sshd", "sshd", "/"])
def test_find_sshd_of_a_wrong_path_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setenv("SSH_SERVICE_SSHD", path)
    with pytest.raises(FileNotFoundError, match=f"SSH_SERVICE_SSHD: .* got '{path}'"):
        find_sshd()


def test_options_replace_and_extend_the_configuration(
    sshd_factory: Callable[..., Sshd],
) -> None:
    server = sshd_factory({"maxsessions": 7, "SetEnv": ["A=1"], "Banner": None, "UseDNS": True})
    with open(server.config_file) as file:
        lines = file.read().splitlines()
    assert "MaxSessions 7" in lines
    assert "UseDNS yes" in lines
    assert not [line for line in lines if line.startswith("Banner")]
    assert ssh(server, "echo $A").strip() == "1"


def test_a_server_that_does_not_start_shows_its_log(sshd_factory: Callable[..., Sshd]) -> None:
    with pytest.raises(RuntimeError, match="(?s)ended with status.*NoSuchOption"):
        sshd_factory({"NoSuchOption": 1})


def test_a_dead_listener_is_not_running(sshd_factory: Callable[..., Sshd]) -> None:
    server = sshd_factory()
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    eventually(lambda: not server.running)
    server.restart()
    ssh(server, "true")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_listener_ends_with_its_owner_however_that_ends(tmp_path: Path, number: int) -> None:
    owner = (
        "import os, sys; from ssh_service.testing.local_sshd import Sshd;"
        "server = Sshd(sys.argv[1]);"
        "print(server.pid, server.port, flush=True); os.kill(os.getpid(), int(sys.argv[2]))"
    )
    result = run_python(owner, str(tmp_path), int(number))
    assert result.returncode == -number, result.stderr
    pid, port = map(int, result.stdout.split())
    eventually(lambda: not is_running(pid), "the listener has ended")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)


def test_ssh_works_through_a_proxy_and_is_cut_there(
    sshd: Sshd, fault_proxy: Callable[..., FaultProxy]
) -> None:
    proxy = fault_proxy(sshd)
    argv = sshd.ssh_command()
    argv[argv.index("-p") + 1] = str(proxy.port)
    argv += ["echo hello; sleep 60"]
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"hello\n"
        assert proxy.connections == 1
        proxy.reset()
        assert client.wait(10) == 255
