"""The repaired mock server, by bare paramiko."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from pathlib import Path
from typing import Callable, Iterator, List, Tuple

import paramiko
import pytest

import ssh_service
from ssh_service import SshClientCache, SshHostService, forward_local, start_job
from ssh_service.testing.fault_proxy import FaultProxy
from ssh_service.testing.mock_sshd import MockSshd
from tests.common import eventually, is_running


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


def run(client: paramiko.SSHClient, command: str, stdin: bytes = b"") -> Tuple[int, bytes, bytes]:
    channel = client.get_transport().open_session(timeout=10)
    with channel:
        channel.settimeout(20)
        channel.exec_command(command)
        sender = threading.Thread(target=_send, args=(channel, stdin), name="sender")
        sender.start()
        stdout = channel.makefile("rb").read()
        stderr = channel.makefile_stderr("rb").read()
        sender.join(20)
        return channel.recv_exit_status(), stdout, stderr


def _send(channel: paramiko.Channel, data: bytes) -> None:
    channel.sendall(data)
    channel.shutdown_write()


def test_both_outputs_and_the_exit_status_come_back(mock_sshd: MockSshd) -> None:
    with connect(mock_sshd) as client:
        assert run(client, "echo out; echo err >&2; exit 3") == (3, b"out\n", b"err\n")
        assert (mock_sshd.connections, mock_sshd.accepted) == (1, 1)


def test_stdin_and_its_end_are_passed_on(mock_sshd: MockSshd) -> None:
    data = bytes(range(256)) * 1024
    with connect(mock_sshd) as client:
        assert run(client, "cat", data) == (0, data, b"")


def test_a_signalled_command_has_the_shells_status(mock_sshd: MockSshd) -> None:
    with connect(mock_sshd) as client:
        assert run(client, "kill -TERM $$")[0] == 128 + 15


def test_a_command_is_a_process_group_of_its_own(mock_sshd: MockSshd) -> None:
    with connect(mock_sshd) as client:
        assert run(client, "echo out; kill -KILL 0; sleep 60") == (128 + 9, b"out\n", b"")


def test_many_commands_from_many_threads(mock_sshd: MockSshd) -> None:
    wrong: List[object] = []

    def work(number: int) -> None:
        for count in range(10):
            result = run(client, f"echo {number} {count}; exit {count}")
            if result != (count, f"{number} {count}\n".encode(), b""):
                wrong.append(result)

    with connect(mock_sshd) as client:
        threads = [threading.Thread(target=work, args=(n,), name=f"work-{n}") for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert wrong == []


def test_file_copied_both_ways_is_unchanged(mock_sshd: MockSshd, tmp_path: Path) -> None:
    (tmp_path / "from").write_bytes(b"x" * 100_000)
    with connect(mock_sshd) as client, client.open_sftp() as sftp:
        sftp.put(str(tmp_path / "from"), str(tmp_path / "up"))
        sftp.get(str(tmp_path / "up"), str(tmp_path / "down"))
    assert (tmp_path / "down").read_bytes() == b"x" * 100_000


def test_an_unused_session_leaves_nothing(mock_sshd: MockSshd) -> None:
    with connect(mock_sshd) as client:
        client.get_transport().open_session(timeout=10)
        assert run(client, "echo fine")[1] == b"fine\n"


def test_waiting_for_a_command_costs_nothing(mock_sshd: MockSshd) -> None:
    with connect(mock_sshd) as client:
        run(client, "true")
        before = time.process_time()
        run(client, "sleep 0.5")
        assert time.process_time() - before < 0.3


def test_cut_ends_connections_and_commands(mock_sshd: MockSshd, tmp_path: Path) -> None:
    with connect(mock_sshd) as client:
        channel = client.get_transport().open_session(timeout=10)
        channel.settimeout(10)
        channel.exec_command(f"echo $$; sleep 60; touch {tmp_path}/late")
        channel.shutdown_write()
        pid = int(channel.makefile("rb").readline())
        mock_sshd.cut()
        assert channel.recv(1) == b""
        assert not is_running(pid)
        client.get_transport().join(10)
        assert not client.get_transport().is_active()
        assert mock_sshd.connections == 0
    with connect(mock_sshd) as client:
        assert run(client, "echo again")[1] == b"again\n"


def test_client_that_disconnects_ends_its_commands(mock_sshd: MockSshd) -> None:
    with connect(mock_sshd) as client:
        channel = client.get_transport().open_session(timeout=10)
        channel.settimeout(10)
        channel.exec_command("echo $$; sleep 60")
        channel.shutdown_write()
        pid = int(channel.makefile("rb").readline())
    eventually(lambda: not is_running(pid))


def test_garbage_does_no_harm(mock_sshd: MockSshd) -> None:
    with socket.create_connection((mock_sshd.host, mock_sshd.port), timeout=5) as sock:
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
    with connect(mock_sshd) as client:
        assert run(client, "true")[0] == 0


def test_another_key_is_refused(mock_sshd: MockSshd, tmp_path: Path) -> None:
    paramiko.ECDSAKey.generate(bits=256).write_private_key_file(str(tmp_path / "key"))
    mock_sshd.client_key = str(tmp_path / "key")
    with pytest.raises(paramiko.AuthenticationException):
        with connect(mock_sshd):
            pass


def test_close_can_be_repeated_and_cleans_up() -> None:
    server = MockSshd()
    with connect(server) as client:
        run(client, "true")
        server.close()
        server.close()
    assert not os.path.exists(server.client_key)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((server.host, server.port), timeout=5)


def test_frozen_server_is_silent_until_thawed(mock_sshd: MockSshd) -> None:
    with connect(mock_sshd) as client:
        channel = client.get_transport().open_session(timeout=10)
        channel.settimeout(20)
        channel.exec_command("read line; echo $line")
        mock_sshd.freeze()
        channel.sendall(b"hello\n")
        assert not channel.status_event.wait(0.3)
        mock_sshd.thaw()
        assert channel.recv(100) == b"hello\n"


def test_frozen_listener_accepts_but_does_not_answer(mock_sshd: MockSshd) -> None:
    mock_sshd.freeze(listener=True)
    with socket.create_connection((mock_sshd.host, mock_sshd.port), timeout=10) as sock:
        sock.settimeout(0.3)
        with pytest.raises(socket.timeout):
            sock.recv(4)
        mock_sshd.thaw()
        sock.settimeout(10)
        assert sock.recv(4) == b"SSH-"


def test_a_frozen_one_can_be_cut_and_closed(mock_sshd: MockSshd) -> None:
    with connect(mock_sshd) as client:
        mock_sshd.freeze(listener=True)
        began = time.monotonic()
        mock_sshd.close()
        client.get_transport().join(10)
        assert not client.get_transport().is_active()
        assert time.monotonic() - began < 5


def test_it_restarts_on_the_same_port_with_the_same_keys(mock_sshd: MockSshd) -> None:
    with connect(mock_sshd) as client:
        mock_sshd.stop()
        assert not mock_sshd.running
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((mock_sshd.host, mock_sshd.port), timeout=5)
        client.get_transport().join(10)
    mock_sshd.restart()
    with connect(mock_sshd) as client:
        assert run(client, "echo again")[1] == b"again\n"


def test_fault_proxy_has_connect_params(
    mock_sshd: MockSshd,
    fault_proxy: Callable[..., FaultProxy],
    ssh_cache: SshClientCache,
    ssh_host_service: Callable[..., SshHostService],
) -> None:
    """The server's key is known at the proxy's port, to a client and to a service."""
    proxy = fault_proxy(mock_sshd)
    proxy.delay = 0.01
    done = ssh_service.run(proxy.connect_params, "echo hi", cache=ssh_cache)
    assert done.stdout == "hi\n"
    service = ssh_host_service(proxy)
    status, _ = service.get_remote_exec_results(service.remote_exec(["true"], proxy.target, {})[1])
    assert status.is_succeeded()
    assert proxy.accepted == mock_sshd.accepted == 2


def test_a_proxy_of_a_host_and_port_knows_no_user(
    mock_sshd: MockSshd, fault_proxy: Callable[..., FaultProxy]
) -> None:
    proxy = fault_proxy(mock_sshd.host, mock_sshd.port)
    with pytest.raises(RuntimeError, match=r"use FaultProxy\(server\)"):
        proxy.connect_params
    with pytest.raises(TypeError, match="port: expected with a host"):
        fault_proxy(mock_sshd.host)
    with pytest.raises(TypeError, match="port: expected none with a server, got 22"):
        fault_proxy(mock_sshd, 22)


# --- forwards and variables ---------------------------------------------------------------------


def test_forward_carries_bytes_and_ends_in_both_directions(
    mock_sshd: MockSshd, ssh_cache: SshClientCache
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        port = listener.getsockname()[1]
        with forward_local(mock_sshd.connect_params, port, cache=ssh_cache) as forward:
            with socket.create_connection(("127.0.0.1", forward.port or 0), 10) as client:
                client.sendall(b"question" * 10_000)
                client.shutdown(socket.SHUT_WR)
                with listener.accept()[0] as target, target.makefile("rb") as received:
                    target.settimeout(10)
                    assert received.read() == b"question" * 10_000
                    target.sendall(b"answer")
                with client.makefile("rb") as received:
                    assert received.read() == b"answer"


def test_forward_to_a_closed_port_is_refused(mock_sshd: MockSshd) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with connect(mock_sshd) as client, pytest.raises(paramiko.ChannelException) as refused:
        client.get_transport().open_channel("direct-tcpip", ("127.0.0.1", port), ("::1", 1))
    assert refused.value.code == paramiko.OPEN_FAILED_CONNECT_FAILED


def test_silent_stream_ends_with_its_channel_or_connection(mock_sshd: MockSshd) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, connect(mock_sshd) as client:
        listener.settimeout(10)
        for end in ("channel", "connection"):
            channel = client.get_transport().open_channel(
                "direct-tcpip", listener.getsockname(), ("127.0.0.1", 1)
            )
            with listener.accept()[0] as target:
                target.settimeout(10)
                if end == "channel":
                    channel.close()
                else:
                    mock_sshd.cut()
                assert target.recv(1) == b""


def test_commands_get_the_variables_of_the_server(tmp_path: Path) -> None:
    with MockSshd(env={"XDG_STATE_HOME": str(tmp_path)}) as server, connect(server) as client:
        _, stdout, _ = run(client, 'echo "$XDG_STATE_HOME"; echo "$SSH_CONNECTION"')
    state, connection = stdout.decode().splitlines()
    assert state == str(tmp_path)
    assert connection.split()[2:] == [server.host, str(server.port)]


def test_jobs_are_kept_in_the_temporary_folder(
    mock_sshd: MockSshd, ssh_cache: SshClientCache
) -> None:
    folder = Path(mock_sshd.client_key).parent / "state"
    job = start_job(mock_sshd.connect_params, "echo hi", cache=ssh_cache, timeout=20)
    assert job.result(20).stdout == "hi\n"
    assert [path.name for path in folder.rglob(job.id)] == [job.id]
    job.remove()
