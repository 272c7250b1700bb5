"""`forward_remote` over a real server: it listens, and listens again."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict

import pytest

from ssh_service import SshClientCache, events, forward_remote
from ssh_service.errors import SshConnectionLost, SshSessionRefused
from ssh_service.testing.fault_proxy import FaultProxy
from ssh_service.testing.local_sshd import Sshd
from tests.common import PATIENCE, eventually, in_threads, within
from tests.faults.clients import params_for
from tests.sshd.forward_targets import (
    Seen,
    answer_after_eof,
    ask,
    channels,
    connect,
    read_all,
    target,
)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def binds(listener: socket.socket, port: int) -> bool:
    """Bind a socket, unless another one is still there."""
    try:
        listener.bind(("127.0.0.1", port))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        return False
    return True


def test_the_server_listens_and_each_connection_reaches_this_side(
    sshd: Sshd, cache: SshClientCache
) -> None:
    seen = Seen(cache)
    with target() as server:
        with forward_remote(sshd.connect_params, server.port, cache=cache) as forward:
            assert forward.address == f"127.0.0.1:{forward.port}"
            assert [ask(forward.port, text) for text in (b"one", b"three")] == [b"one", b"three"]
            in_threads(8, lambda _: _exchange(forward.port or 0))
        with pytest.raises(ConnectionRefusedError):
            connect(forward.port)
    ended = seen.wait_for(events.ForwardEnded)
    assert (ended.kind, ended.streams) == ("remote", 10)
    assert {event.outcome for event in seen.of(events.StreamEnded)} == {"completed"}
    eventually(lambda: cache.stats()["leases"] == 0, "the lease is released")


def _exchange(port: int) -> None:
    sent = os.urandom(300_000)
    with connect(port) as client:
        sender = threading.Thread(target=client.sendall, args=(sent,))
        sender.start()
        received = b""
        while len(received) < len(sent):
            received += client.recv(65536)
        sender.join()
    assert received == sent


@pytest.mark.parametrize("to", ["host:port", "name", "path"])
def test_targets_are_connected_to_from_here(
    sshd: Sshd, cache: SshClientCache, tmp_path: Path, to: str
) -> None:
    path = str(tmp_path / "socket") if to == "path" else None
    with target(answer_after_eof, path) as server:
        where = path or f"{'127.0.0.1' if to == 'host:port' else 'LOCALHOST'}:{server.port}"
        with forward_remote(sshd.connect_params, where, cache=cache) as forward:
            assert ask(forward.port) == b"5 bytes"


def test_the_server_listens_on_a_unix_socket(
    sshd: Sshd, cache: SshClientCache, tmp_path: Path
) -> None:
    path = tmp_path / "there"
    with target() as server:
        with forward_remote(sshd.connect_params, server.port, listen=path, cache=cache) as f:
            assert (f.address, f.port) == (str(path), None)
            assert ask(str(path)) == b"hello"


@pytest.mark.parametrize("to", ["127.0.0.1:1", "nonesuch.invalid:80", "/nonesuch/socket"])
def test_a_target_that_is_not_reached_ends_the_connection_there(
    sshd: Sshd, cache: SshClientCache, to: str
) -> None:
    seen = Seen(cache)
    with forward_remote(sshd.connect_params, to, cache=cache) as forward:
        with connect(forward.port) as client:
            try:
                assert client.recv(1) == b""
            except ConnectionResetError:
                pass
        ended = seen.wait_for(events.StreamEnded)
        assert (ended.outcome, ended.opened, ended.to) == ("refused", False, to)
        assert f"cannot connect to {to} here" in str(forward.last_error)
        assert forward.streams == 0
    eventually(lambda: channels(cache, sshd) == 0, "no channel is left")


def test_a_port_that_is_taken_there_is_an_error(sshd: Sshd, cache: SshClientCache) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SshSessionRefused, match=f"does not listen on 127.0.0.1:{port}"):
            forward_remote(sshd.connect_params, 1, listen=port, cache=cache)
    eventually(lambda: cache.stats()["leases"] == 0, "the lease is released")


@pytest.mark.parametrize("options", [{"AllowTcpForwarding": "local"}, {"PermitListen": "1"}])
def test_a_server_that_permits_no_listening_is_named_as_the_reason(
    sshd_factory: Callable[..., Sshd], cache: SshClientCache, options: Dict[str, Any]
) -> None:
    with pytest.raises(SshSessionRefused, match="AllowTcpForwarding.*PermitListen"):
        forward_remote(sshd_factory(options).connect_params, 1, cache=cache)
    eventually(lambda: cache.stats()["leases"] == 0, "the lease is released")


def test_after_a_loss_the_server_listens_on_the_same_port_again(
    sshd: Sshd, cache: SshClientCache
) -> None:
    """Without a stream that asks for it, and also if any port was asked for."""
    seen = Seen(cache)
    with target() as server:
        with forward_remote(sshd.connect_params, server.port, cache=cache) as forward:
            port = forward.port
            with connect(port) as client:
                client.sendall(b"hello")
                assert client.recv(10) == b"hello"
                sshd.cut()
            again = seen.wait_for(events.ForwardListening, 2)
            assert (forward.port, again.address) == (port, f"127.0.0.1:{port}")
            assert isinstance(forward.last_error, (SshConnectionLost, SshSessionRefused))
            assert ask(forward.port) == b"hello"
            assert seen.of(events.StreamEnded)[0].outcome == "lost"


def test_a_port_that_a_half_dead_session_holds_is_asked_for_again(
    sshd: Sshd, cache: SshClientCache, fault_proxy: Callable[..., FaultProxy]
) -> None:
    """The network has lost the connection, and the server does not know it yet."""
    seen, proxy = Seen(cache), fault_proxy(sshd)
    with target() as server:
        with forward_remote(params_for(sshd, proxy), server.port, cache=cache) as forward:
            port = forward.port
            old = sshd.session_pids()
            sshd.freeze()
            proxy.reset()
            failed = seen.wait_for(events.ForwardFailed, 2)
            assert failed.error == "SshSessionRefused" and failed.retry_in > 0
            assert isinstance(forward.last_error, SshSessionRefused)
            assert f"does not listen on 127.0.0.1:{port}" in str(forward.last_error)
            assert old
            sshd.thaw()
            seen.wait_for(events.ForwardListening, 2)
            assert forward.port == port
            assert ask(port) == b"hello"


def test_another_port_is_taken_only_if_any_was_asked_for_and_with_an_event(
    sshd: Sshd, cache: SshClientCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssh_service.forwarding.remote_forwarder._SAME_PORT_TIME", 0.5)
    seen = Seen(cache)
    with target() as server:
        with forward_remote(sshd.connect_params, server.port, cache=cache) as forward:
            port = forward.port or 0
            sshd.stop()
            with socket.socket() as other:
                other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                eventually(lambda: binds(other, port), "the killed session is gone")
                other.listen()
                sshd.restart()
                listening = seen.wait_for(events.ForwardListening, 2)
                assert forward.port != port
                assert listening.address == f"127.0.0.1:{forward.port}"
                assert ask(forward.port) == b"hello"


def test_a_unix_socket_is_listened_on_again_after_a_loss(
    sshd_factory: Callable[..., Sshd], cache: SshClientCache, tmp_path: Path
) -> None:
    """With StreamLocalBindUnlink, as sshd leaves the file of a session that was killed."""
    sshd, seen = sshd_factory({"StreamLocalBindUnlink": True}), Seen(cache)
    path = tmp_path / "there"
    with target() as server:
        with forward_remote(sshd.connect_params, server.port, listen=path, cache=cache):
            sshd.cut()
            seen.wait_for(events.ForwardListening, 2)
            assert ask(str(path)) == b"hello"


def test_a_socket_file_that_is_in_the_way_is_named_as_the_reason(
    sshd: Sshd, cache: SshClientCache, tmp_path: Path
) -> None:
    """Sshd leaves the file after a plain `close`, too: the error says the way out."""
    path = tmp_path / "there"
    forward_remote(sshd.connect_params, 1, listen=path, cache=cache).close()
    with pytest.raises(SshSessionRefused, match="remove it: .* 'StreamLocalBindUnlink yes'"):
        forward_remote(sshd.connect_params, 1, listen=path, cache=cache)
    path.unlink()
    forward_remote(sshd.connect_params, 1, listen=path, cache=cache).close()


def test_connections_beyond_max_streams_are_refused_there(
    sshd: Sshd, cache: SshClientCache, caplog: pytest.LogCaptureFixture
) -> None:
    seen = Seen(cache)
    with target() as server:
        with forward_remote(sshd.connect_params, server.port, max_streams=1, cache=cache) as f:
            with connect(f.port) as client:
                client.sendall(b"hello")
                assert client.recv(10) == b"hello"
                for _ in range(2):
                    with connect(f.port) as other, contextlib.suppress(ConnectionResetError):
                        assert other.recv(1) == b""
                assert "max_streams (1) is reached" in str(f.last_error)
            eventually(lambda: f.streams == 0, "the stream ends")
            assert ask(f.port) == b"hello"
    seen.wait_for(events.StreamEnded, 4)
    outcomes = [event.outcome for event in seen.of(events.StreamEnded)]
    assert outcomes.count("refused") == 2
    assert [record.levelname for record in caplog.records if "max_streams" in record.message] == [
        "WARNING"
    ]


def test_close_drains_streams_of_the_server(sshd: Sshd, cache: SshClientCache) -> None:
    with target(answer_after_eof) as server:
        forward = forward_remote(sshd.connect_params, server.port, cache=cache)
        client = connect(forward.port)
        client.sendall(b"hello")
        eventually(lambda: len(server.clients) == 1, "it is open")
        closing = threading.Thread(target=forward.close)
        closing.start()
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == b"5 bytes"
        client.close()
        closing.join(PATIENCE)
        assert forward.closed
    eventually(lambda: channels(cache, sshd) == 0, "no channel is left")


def test_close_gives_streams_of_the_server_no_more_time_than_it_was_told(
    sshd: Sshd, cache: SshClientCache
) -> None:
    with target() as server:
        forward = forward_remote(sshd.connect_params, server.port, cache=cache)
        with connect(forward.port) as client:
            client.sendall(b"hello")
            assert client.recv(10) == b"hello"
            began = time.monotonic()
            forward.close(drain=0.05)
            within(0.2, began)
            assert forward.closed and read_all(client) == b""  # sshd makes an end of a reset
