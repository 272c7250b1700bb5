"""Forwards over a real server: what passes, what ends, and what is left."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import resource
import socket
import stat
import struct
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import pytest

import ssh_service
from ssh_service import Forward, SshClientCache, events, forward_local
from ssh_service.errors import (
    SshAuthError,
    SshCacheClosed,
    SshConfigError,
    SshConnectError,
    SshConnectionLost,
    SshForwardError,
    SshSessionRefused,
)
from ssh_service.forwarding.forwarder import Forwarder
from ssh_service.testing.fault_proxy import FaultProxy
from ssh_service.testing.local_sshd import Sshd
from tests.common import PATIENCE, eventually, in_threads, resident
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

MIB = 1024 * 1024


def reset(client: socket.socket) -> None:
    """Close a socket with a reset."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def is_reset(client: socket.socket) -> bool:
    """Read to the end, and return whether it is a reset."""
    try:
        read_all(client)
    except ConnectionResetError:
        return True
    return False


def is_turned_away(forward: Forward) -> bool:
    """Connect, and return whether the connection is reset, which may be seen early or late."""
    try:
        with connect(forward.port) as client:
            return is_reset(client)
    except ConnectionResetError:
        return True


# What passes.


def test_forward_local_carries_each_connection_and_counts(
    sshd: Sshd, cache: SshClientCache
) -> None:
    """A forward of a port of the server: address, counters, events, repr."""
    seen = Seen(cache)
    with target() as server:
        with forward_local(sshd.connect_params, server.port, cache=cache) as forward:
            assert forward.address == f"127.0.0.1:{forward.port}"
            assert [ask(forward.port, text) for text in (b"one", b"three")] == [b"one", b"three"]
            with connect(forward.port) as client:
                client.sendall(b"hello")
                assert client.recv(10) == b"hello"
                assert forward.streams == 1
                eventually(lambda: forward.bytes == (13, 13), "all bytes are counted")
                assert "1 stream)" in repr(forward)
            eventually(lambda: forward.streams == 0, "the stream ends")
            assert forward.last_error is None
        assert forward.closed
        with pytest.raises(ConnectionRefusedError):
            connect(forward.port)
    listening, ended = seen.wait_for(events.ForwardListening), seen.wait_for(events.ForwardEnded)
    assert (listening.kind, listening.address) == ("local", forward.address)
    assert listening.to == f"localhost:{server.port}"
    assert (ended.streams, ended.bytes_to_server, ended.bytes_from_server) == (3, 13, 13)
    assert ended.error is None
    opened, streams = seen.of(events.StreamOpened), seen.of(events.StreamEnded)
    assert [each.stream for each in opened] == [each.stream for each in streams]
    assert {(each.opened, each.outcome, each.error) for each in streams} == {
        (True, "completed", None)
    }
    eventually(lambda: cache.stats()["leases"] == 0, "the lease is released")
    assert sshd.logins() == 1


@pytest.mark.parametrize("listens_on", ["port", "path"])
@pytest.mark.parametrize("leads_to", ["host:port", "path"])
def test_forward_local_joins_ports_and_unix_sockets(
    sshd: Sshd, cache: SshClientCache, tmp_path: Path, listens_on: str, leads_to: str
) -> None:
    here, there = tmp_path / "here", str(tmp_path / "there")
    with target(path=there if leads_to == "path" else None) as server:
        to = there if leads_to == "path" else f"127.0.0.1:{server.port}"
        listen: Any = here if listens_on == "path" else 0
        with forward_local(sshd.connect_params, to, listen=listen, cache=cache) as forward:
            assert ask(forward.port or forward.address) == b"hello"
            if listens_on == "path":
                assert (forward.address, forward.port) == (str(here), None)
                assert stat.S_IMODE(here.stat().st_mode) == 0o600
    assert not here.exists()


def test_half_closes_pass_in_both_directions(sshd: Sshd, cache: SshClientCache) -> None:
    """The answer that comes after the client's end of sending arrives, and so the other way."""
    received: List[bytes] = []

    def end_first(client: socket.socket) -> None:
        client.shutdown(socket.SHUT_WR)
        received.append(read_all(client))

    with target(answer_after_eof) as server:
        with forward_local(sshd.connect_params, server.port, cache=cache) as forward:
            assert ask(forward.port, bytes(300_000)) == b"300000 bytes"
    with target(end_first) as server:
        with forward_local(sshd.connect_params, server.port, cache=cache) as forward:
            with connect(forward.port) as client:
                assert client.recv(10) == b""
                client.sendall(b"still here")
                client.shutdown(socket.SHUT_WR)
                eventually(lambda: received == [b"still here"], "the rest arrives")


def test_megabytes_arrive_unchanged_through_rekeys(sshd_factory: Callable[..., Sshd]) -> None:
    """What many streams carry at once, while the server renews its keys again and again."""
    sshd, cache = sshd_factory({"RekeyLimit": "1M"}), SshClientCache()
    sent = os.urandom(3 * MIB)

    def exchange(port: int) -> None:
        with connect(port) as client:
            sender = threading.Thread(target=client.sendall, args=(sent,))
            sender.start()
            received = hashlib.sha256()
            size = 0
            while size < len(sent):
                data = client.recv(65536)
                size += len(data)
                received.update(data)
            sender.join()
        assert received.digest() == hashlib.sha256(sent).digest()

    with target() as server:
        with forward_local(sshd.connect_params, server.port, cache=cache) as forward:
            port = forward.port or 0
            in_threads(4, lambda _: exchange(port))
    assert sshd.log().count("rekeying in progress") > 0 or "SSH2_MSG_KEXINIT" in sshd.log()
    cache.cleanup()


@pytest.mark.long
def test_a_gibibyte_each_way_arrives_by_checksum_through_rekeys(
    sshd_factory: Callable[..., Sshd], cache: SshClientCache
) -> None:
    sshd, size = sshd_factory({"RekeyLimit": "64M"}), 1024 * MIB
    block = os.urandom(MIB)
    received = {"there": hashlib.sha256(), "here": hashlib.sha256()}
    counts = {"there": 0, "here": 0}
    complete = threading.Event()

    def send(sock: socket.socket) -> None:
        for number in range(size // MIB):
            sock.sendall(number.to_bytes(8, "big") + block[8:])
        sock.shutdown(socket.SHUT_WR)

    def receive(sock: socket.socket, side: str) -> None:
        while True:
            data = sock.recv(MIB)
            if not data:
                return
            received[side].update(data)
            counts[side] += len(data)

    def both(sock: socket.socket, side: str) -> None:
        sender = threading.Thread(target=send, args=(sock,))
        sender.start()
        receive(sock, side)
        sender.join()

    def serve(client: socket.socket) -> None:
        both(client, "there")
        complete.set()

    expected = hashlib.sha256()
    for number in range(size // MIB):
        expected.update(number.to_bytes(8, "big") + block[8:])
    with target(serve) as server:
        with forward_local(sshd.connect_params, server.port, cache=cache) as forward:
            with connect(forward.port) as client:
                client.settimeout(None)
                both(client, "here")
            assert complete.wait(PATIENCE)
    assert counts == {"there": size, "here": size}
    assert received["there"].digest() == received["here"].digest() == expected.digest()


@pytest.fixture(name="many_descriptors")
def _many_descriptors() -> Iterator[None]:
    """Let this process have the descriptors of 500 streams, and of both their ends."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2048:
        pytest.skip("needs 2,048 descriptors (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_descriptors")
def test_500_streams_at_once_take_no_thread_each(sshd: Sshd, cache: SshClientCache) -> None:
    """Each is answered; the process has at most three threads more than with a connection."""

    def count_ours() -> int:
        return sum(thread.name.startswith("ssh-service") for thread in threading.enumerate())

    cache.get_client_connection(sshd.connect_params)
    before = count_ours()
    with target() as server:
        with forward_local(sshd.connect_params, server.port, max_streams=600, cache=cache) as f:
            clients = [connect(f.port) for _ in range(500)]
            for number, client in enumerate(clients):
                client.sendall(b"%05d" % number)
            for number, client in enumerate(clients):
                assert client.recv(10) == b"%05d" % number
            assert f.streams == 500
            assert count_ours() <= before + 3
            for client in clients:
                client.close()
            eventually(lambda: f.streams == 0, "all streams end")


# Refusals.


@pytest.mark.parametrize("to", ["localhost:1", "nonesuch.invalid:80", "/nonesuch/socket"])
def test_a_target_that_refuses_ends_the_local_connection(
    sshd: Sshd, cache: SshClientCache, to: str
) -> None:
    """The event and `last_error` have the server's words, and the forward stays."""
    seen = Seen(cache)
    with forward_local(sshd.connect_params, to, cache=cache) as forward:
        assert is_turned_away(forward)
        ended = seen.wait_for(events.StreamEnded)
        assert (ended.opened, ended.outcome, ended.to) == (False, "refused", to)
        assert ended.error == "SshSessionRefused"
        assert isinstance(forward.last_error, SshSessionRefused)
        assert str(forward.last_error) == ended.reason
        assert f"cannot connect to {to}: " in ended.reason
        assert not forward.closed and forward.streams == 0
    eventually(lambda: channels(cache, sshd) == 0, "no channel is left")


@pytest.mark.parametrize(
    "options", [{"AllowTcpForwarding": False}, {"PermitOpen": "example.org:80"}]
)
def test_a_server_that_permits_no_forwarding_is_named_as_the_reason(
    sshd_factory: Callable[..., Sshd], cache: SshClientCache, options: Dict[str, Any]
) -> None:
    sshd = sshd_factory(options)
    with forward_local(sshd.connect_params, 1, cache=cache) as forward:
        assert is_turned_away(forward)
        eventually(lambda: forward.last_error, "the refusal is reported")
        assert "does not permit connections to localhost:1" in str(forward.last_error)
        assert "AllowTcpForwarding" in str(forward.last_error)


def test_a_port_that_is_taken_is_an_error_before_connecting(
    sshd: Sshd, cache: SshClientCache
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SshForwardError, match="cannot listen on .*in use") as caught:
            forward_local(sshd.connect_params, 1, listen=port, cache=cache)
    assert caught.value.errno == errno.EADDRINUSE and caught.value.retryable
    assert isinstance(caught.value, OSError)
    assert sshd.logins() == 0


def test_an_address_of_another_machine_is_an_error(sshd: Sshd, cache: SshClientCache) -> None:
    with pytest.raises(SshForwardError, match="not an address of this machine"):
        forward_local(sshd.connect_params, 1, listen="192.0.2.1:0", cache=cache)
    with pytest.raises(SshForwardError, match="cannot listen on nonesuch.invalid:0"):
        forward_local(sshd.connect_params, 1, listen="nonesuch.invalid:0", cache=cache)


def test_a_connection_that_cannot_be_made_leaves_no_listener(
    sshd: Sshd, cache: SshClientCache, tmp_path: Path
) -> None:
    """The error is that of connecting, and the socket is gone."""
    path = tmp_path / "socket"
    wrong = {**sshd.connect_params, "username": "nonesuch"}
    with pytest.raises(SshAuthError):
        forward_local(wrong, 1, listen=path, cache=cache)
    eventually(lambda: not path.exists(), "the socket is removed")
    eventually(lambda: cache.stats()["leases"] == 0, "the lease is released")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nowhere = {**sshd.connect_params, "port": free.getsockname()[1]}
        with pytest.raises(SshConnectError):
            forward_local(nowhere, 1, cache=cache)


def test_only_a_stale_socket_of_ours_is_replaced(
    sshd: Sshd, cache: SshClientCache, tmp_path: Path
) -> None:
    stale, file, used = tmp_path / "stale", tmp_path / "file", tmp_path / "used"
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(stale))
    file.write_text("mine")
    with target(path=str(used)) as server:
        for path, why in ((file, "not a socket"), (used, "another program listens there")):
            with pytest.raises(SshForwardError, match=why):
                forward_local(sshd.connect_params, 1, listen=path, cache=cache)
        assert ask(str(used)) == b"hello"
        with forward_local(sshd.connect_params, str(used), listen=stale, cache=cache) as forward:
            assert ask(forward.address) == b"hello"
        assert server.clients
    assert file.read_text() == "mine" and not stale.exists()


def test_of_two_forwards_of_one_unix_socket_only_one_listens(
    sshd: Sshd, cache: SshClientCache, tmp_path: Path
) -> None:
    """Also while the first one still connects: the second must not take its socket for stale."""
    path = tmp_path / "socket"
    with FaultProxy("127.0.0.1", sshd.port) as proxy:
        proxy.freeze()
        params = params_for(sshd, proxy)
        results: List[Any] = []

        def first() -> None:
            results.append(forward_local(params, 1, listen=path, cache=cache))

        thread = threading.Thread(target=first, daemon=True)
        thread.start()
        eventually(path.exists, "the first one has its socket")
        with pytest.raises(SshForwardError, match="another program listens there"):
            forward_local(sshd.connect_params, 1, listen=path, cache=cache)
        proxy.thaw()
        thread.join(PATIENCE)
        with results[0]:
            assert path.exists()
    assert not path.exists()


def test_a_socket_that_took_our_place_is_not_removed(
    sshd: Sshd, cache: SshClientCache, tmp_path: Path
) -> None:
    path = tmp_path / "socket"
    with forward_local(sshd.connect_params, 1, listen=path, cache=cache):
        path.unlink()
        path.write_text("another's")
    assert path.read_text() == "another's"


@pytest.mark.parametrize("listen", ["*:0", "0.0.0.0:0"])
def test_a_listener_for_everyone_is_warned_of_once(
    sshd: Sshd, cache: SshClientCache, caplog: pytest.LogCaptureFixture, listen: str
) -> None:
    with target() as server:
        with forward_local(sshd.connect_params, server.port, listen=listen, cache=cache) as f:
            assert ask(f.port) == b"hello"
    warnings = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert len(warnings) == 1 and "everyone who reaches" in warnings[0].getMessage()


@pytest.mark.parametrize(
    "given, message",
    [
        ({"to": 0}, "to: expected a port from 1"),
        ({"to": True}, "to: expected a port"),
        ({"to": "db"}, "a path must contain a slash, and a host needs a port"),
        ({"to": "[::1]"}, "the port is missing"),
        ({"to": "::1:80"}, "must be in brackets"),
        ({"to": ":80"}, "a host before the colon"),
        ({"to": "*:80"}, "must name one host"),
        ({"to": "db:80000"}, "to: expected a port"),
        ({"to": b"db:80"}, "to: expected a port"),
        ({"to": ("db", 5432)}, r"got \('db', 5432\) \(write 'db:5432'\)"),
        ({"listen": -1}, "listen: expected a port from 1 to 65535 .0 for any"),
        ({"listen": "a b:0"}, "listen: expected"),
        ({"listen": "/" + "x" * 200}, "at most 10[37] bytes"),
        ({"listen": "/a\0b"}, "NUL"),
        ({"max_streams": 0}, "max_streams: expected an integer >= 1, got 0"),
        ({"keep": "yes"}, "keep: expected True or False"),
        ({"cache": 1}, "cache: expected"),
    ],
)
def test_bad_arguments_are_refused_by_name(given: Dict[str, Any], message: str) -> None:
    """Each names the argument, the value, and what would be valid; nothing is begun."""
    arguments = {"to": 5432, **given}
    with pytest.raises(SshConfigError, match=message):
        forward_local({"host": "127.0.0.1", "port": 1}, **arguments)


def test_close_wants_a_number_of_seconds(sshd: Sshd, cache: SshClientCache) -> None:
    with forward_local(sshd.connect_params, 1, cache=cache) as forward:
        with pytest.raises(SshConfigError, match="drain: expected a number of seconds, got -1"):
            forward.close(drain=-1)
        assert not forward.closed


# Losses.


def test_a_lost_connection_resets_its_streams_and_the_next_one_reconnects(
    sshd: Sshd, cache: SshClientCache
) -> None:
    """A truncated answer never looks complete."""
    seen = Seen(cache)
    with target() as server:
        with forward_local(sshd.connect_params, server.port, cache=cache) as forward:
            with connect(forward.port) as client:
                client.sendall(b"hello")
                assert client.recv(10) == b"hello"
                sshd.cut()
                with pytest.raises(ConnectionResetError):
                    client.recv(10)
            assert seen.wait_for(events.StreamEnded).outcome == "lost"
            assert ask(forward.port) == b"hello"
            assert forward.last_error is not None
            port = forward.port
        assert forward.port == port
    assert cache.stats()["dials"] == 2
    eventually(lambda: cache.stats()["leases"] == 0, "the lease is released")


def test_last_error_has_the_reason_before_the_local_program_learns_of_the_end(
    sshd: Sshd, cache: SshClientCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = threading.Event()
    on_stream_ended = Forwarder.on_stream_ended

    def late(*given: Any) -> None:  # as if this thread had no turn for a while
        looked.wait(PATIENCE)
        on_stream_ended(*given)

    monkeypatch.setattr(Forwarder, "on_stream_ended", late)
    with target() as server:
        with forward_local(sshd.connect_params, server.port, cache=cache) as forward:
            with connect(forward.port) as client:
                client.sendall(b"hello")
                assert client.recv(10) == b"hello"
                sshd.cut()
                assert is_reset(client)
            assert isinstance(forward.last_error, SshConnectionLost)
            looked.set()


def test_lost_unix_socket_stream_publishes_its_event(
    sshd: Sshd, cache: SshClientCache, tmp_path: Path
) -> None:
    """The socket itself has no reset."""
    seen = Seen(cache)
    with target() as server:
        here = tmp_path / "here"
        with forward_local(sshd.connect_params, server.port, listen=here, cache=cache) as f:
            with connect(f.address) as client:
                client.sendall(b"hello")
                assert client.recv(10) == b"hello"
                sshd.cut()
                assert is_reset(client) is False
            assert seen.wait_for(events.StreamEnded).outcome == "lost"


def test_keep_connects_again_without_a_stream(sshd: Sshd, cache: SshClientCache) -> None:
    with forward_local(sshd.connect_params, 1, keep=True, cache=cache):
        sshd.cut()
        eventually(lambda: cache.stats()["dials"] == 2 and len(cache) == 1, "it reconnects")
    with forward_local(sshd.connect_params, 1, cache=cache):
        sshd.cut()
        eventually(lambda: len(cache) == 0, "the connection is gone")
    assert cache.stats()["dials"] == 2


def test_keep_goes_on_until_the_server_is_back(sshd: Sshd, cache: SshClientCache) -> None:
    """At growing intervals, each reported with the seconds until the next."""
    seen = Seen(cache)
    with target() as server:
        with forward_local(sshd.connect_params, server.port, keep=True, cache=cache) as forward:
            sshd.stop()
            seen.wait_for(events.ForwardFailed, 2)
            assert isinstance(forward.last_error, SshConnectError)
            pauses = [each.retry_in for each in seen.of(events.ForwardFailed)]
            assert 0.25 <= pauses[0] <= 0.5 < pauses[1] <= 1.0
            assert is_turned_away(forward)  # at once, not after the pause
            sshd.restart()
            eventually(lambda: len(cache) == 1, "it reconnects")
            assert ask(forward.port) == b"hello"


def test_losses_under_load_leave_nothing(sshd: Sshd, cache: SshClientCache) -> None:
    _lose_under_load(sshd, cache, 10)


@pytest.mark.long
def test_200_lost_connections_under_load_leak_nothing(sshd: Sshd, cache: SshClientCache) -> None:
    _lose_under_load(sshd, cache, 200)


def _lose_under_load(sshd: Sshd, cache: SshClientCache, losses: int) -> None:
    """Cut the connection again and again while streams come and go; compare what is left."""
    stop = threading.Event()
    good = [0]

    def work(port: int) -> None:
        while not stop.is_set():
            try:
                good[0] += ask(port, bytes(50_000)) == bytes(50_000)
            except OSError:
                pass

    def files() -> int:
        return len(os.listdir("/proc/self/fd"))

    with target() as server:
        with forward_local(sshd.connect_params, server.port, cache=cache) as forward:
            ask(forward.port)
            port, before = forward.port or 0, files()
            threads = [threading.Thread(target=work, args=(port,)) for _ in range(6)]
            for thread in threads:
                thread.start()
            for _ in range(losses):
                done = good[0]
                eventually(lambda: good[0] > done + 3, "streams pass again")
                sshd.cut()
            stop.set()
            for thread in threads:
                thread.join(PATIENCE)
            eventually(lambda: forward.streams == 0, "all streams end")
            assert ask(forward.port) == b"hello"
            eventually(lambda: files() <= before, "no descriptor is left")
            assert cache.stats()["leases"] == 1
            eventually(lambda: channels(cache, sshd) == 0, "no channel is left")


def test_a_connection_that_dies_while_a_stream_opens_is_replaced(
    sshd: Sshd, cache: SshClientCache, fault_proxy: Callable[..., FaultProxy]
) -> None:
    """Nothing of the stream was sent, so it may be opened on the next connection."""
    proxy = fault_proxy(sshd)
    with target() as server:
        with forward_local(params_for(sshd, proxy), server.port, cache=cache) as forward:
            proxy.freeze()
            with connect(forward.port) as client:
                client.sendall(b"hello")
                eventually(lambda: forward.streams == 1, "it is accepted")
                proxy.reset()  # first: what is thawed might still open the stream
                proxy.heal()
                assert client.recv(10) == b"hello"


@pytest.mark.skipif(sys.platform != "linux", reason="needs epoll")
@pytest.mark.parametrize("how", ["blocked", "half-closed"])
def test_a_reset_is_noticed_while_the_target_is_stuck(
    sshd: Sshd, cache: SshClientCache, how: str
) -> None:
    """Its place among `max_streams`, and the server's connection, are free again."""
    stop = threading.Event()

    def stuck(client: socket.socket) -> None:
        stop.wait(2 * PATIENCE)

    with target(stuck) as server:
        with forward_local(sshd.connect_params, server.port, cache=cache) as forward:
            client = connect(forward.port)
            if how == "blocked":
                client.settimeout(0.5)
                with pytest.raises(socket.timeout):
                    while True:
                        client.send(bytes(MIB))
            else:
                client.sendall(b"hello")
                client.shutdown(socket.SHUT_WR)
                eventually(lambda: forward.bytes == (5, 0), "it is read")
                eventually(lambda: forward.streams == 1 and server.clients, "it is open")
            reset(client)
            try:
                eventually(lambda: forward.streams == 0, "the stream ends")
            finally:
                stop.set()


def test_a_local_program_that_breaks_off_leaves_no_channel(
    sshd: Sshd, cache: SshClientCache, fault_proxy: Callable[..., FaultProxy]
) -> None:
    """Whether its stream was open or still being opened."""
    seen, proxy = Seen(cache), fault_proxy(sshd)
    params = params_for(sshd, proxy)
    with target() as server:
        with forward_local(params, server.port, cache=cache) as forward:
            client = connect(forward.port)
            client.sendall(b"hello")
            assert client.recv(10) == b"hello"
            reset(client)
            assert seen.wait_for(events.StreamEnded).outcome == "reset"
            eventually(lambda: len(server.ended) == 1, "the target's connection ends")
            proxy.freeze()
            client = connect(forward.port)
            eventually(lambda: forward.streams == 1, "it is accepted")
            reset(client)
            seen.wait_for(events.StreamEnded, 2)
            proxy.heal()
            eventually(lambda: forward.streams == 0, "the stream ends")
            with cache.lease(params) as (transport, _):
                eventually(lambda: len(transport._channels) == 0, "no channel is left")


# Who waits for whom.


def test_a_stuck_reader_delays_nobody_and_takes_little_memory(
    sshd: Sshd, cache: SshClientCache, tmp_path: Path
) -> None:
    """100 local programs that do not read what they asked for: at most 64 MiB of it is here."""
    here, there = tmp_path / "here", str(tmp_path / "there")  # the system buffers little of these

    def pour(client: socket.socket) -> None:
        if client.recv(1) == b"x":
            chunk = bytes(65536)
            for _ in range(256):
                client.sendall(chunk)
        client.sendall(b"there")

    with target(pour, there) as server:
        with forward_local(sshd.connect_params, there, listen=here, cache=cache) as forward:
            assert ask(str(here), b"y") == b"there"
            before = resident()
            stuck = [connect(str(here)) for _ in range(100)]
            for client in stuck:
                client.sendall(b"x")
            last = (0, 0)

            def is_quiet() -> bool:
                nonlocal last
                now = forward.bytes.from_server, (resident() - before) // MIB
                is_same, last = now == last, now
                time.sleep(0.3)
                return is_same and now[0] > 5 * MIB

            eventually(is_quiet, "all of them are stuck")
            assert resident() - before < 64 * MIB
            assert server.clients
            began = time.monotonic()
            assert ask(str(here), b"y") == b"there"
            assert time.monotonic() - began < 10
            for client in stuck:
                client.close()
            forward.close(drain=0)


def test_a_stalled_connection_delays_no_other(
    sshd: Sshd, cache: SshClientCache, fault_proxy: Callable[..., FaultProxy]
) -> None:
    """What cannot be sent waits in the local socket, not here."""
    proxy = fault_proxy(sshd)
    with target() as server:
        stalled = forward_local(params_for(sshd, proxy), server.port, cache=cache)
        with forward_local(sshd.connect_params, server.port, cache=cache) as other:
            clients = [connect(stalled.port) for _ in range(20)]
            for client in clients:
                client.sendall(b"hello")
                assert client.recv(10) == b"hello"
            proxy.freeze()
            for client in clients:
                client.setblocking(False)
            before = resident()

            def is_full() -> bool:
                sent = 0
                for client in clients:
                    try:
                        sent += client.send(bytes(MIB))
                    except BlockingIOError:
                        pass
                time.sleep(0.05)
                return not sent

            eventually(is_full, "nothing more can be sent")
            began = time.monotonic()
            assert ask(other.port, bytes(500_000)) == bytes(500_000)
            assert time.monotonic() - began < 10
            assert resident() - before < 16 * MIB  # their windows are 40 MiB
            proxy.heal()
            for client in clients:
                client.settimeout(PATIENCE)
                client.shutdown(socket.SHUT_WR)
            total = sum(len(read_all(client)) for client in clients)
            assert total > MIB
            for client in clients:
                client.close()
        stalled.close()


def test_connections_beyond_max_streams_wait(
    sshd: Sshd, cache: SshClientCache, caplog: pytest.LogCaptureFixture
) -> None:
    with target() as server:
        with forward_local(sshd.connect_params, server.port, max_streams=2, cache=cache) as f:
            first, second, third = [connect(f.port) for _ in range(3)]
            third.sendall(b"hello")
            second.sendall(b"hello")
            assert second.recv(10) == b"hello"
            third.settimeout(0.2)
            with pytest.raises(socket.timeout):
                third.recv(10)
            assert f.streams == 2
            first.close()
            third.settimeout(PATIENCE)
            assert third.recv(10) == b"hello"
            second.close()
            third.close()
    assert "max_streams" in caplog.text


# The end.


def test_close_lets_streams_end_and_resets_those_that_do_not(
    sshd: Sshd, cache: SshClientCache
) -> None:
    seen = Seen(cache)
    with target(answer_after_eof) as server:
        forward = forward_local(sshd.connect_params, server.port, cache=cache)
        good, bad = connect(forward.port), connect(forward.port)
        eventually(lambda: len(server.clients) == 2, "both are open")
        closing = threading.Thread(target=forward.close, args=(1.0,))
        closing.start()

        def is_refused() -> bool:
            try:
                connect(forward.port).close()
            except ConnectionRefusedError:
                return True
            except ConnectionResetError:
                pass  # it was closed before it had accepted this one
            return False

        eventually(is_refused, "it stops listening at once")
        good.sendall(b"hello")
        good.shutdown(socket.SHUT_WR)
        assert read_all(good) == b"5 bytes"
        assert is_reset(bad)
        closing.join(PATIENCE)
        good.close()
        bad.close()
        assert forward.closed
        forward.close()  # does nothing
    seen.wait_for(events.ForwardEnded)
    outcomes = [event.outcome for event in seen.of(events.StreamEnded)]
    assert outcomes[-1] == "closed" and outcomes.count("closed") == 1
    eventually(lambda: cache.stats()["leases"] == 0, "the lease is released")


def test_no_close_returns_before_the_last_stream_is_reset(
    sshd: Sshd, cache: SshClientCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two at once, the second one may find the end under way."""
    entered, go_on = threading.Event(), threading.Event()
    reset_streams = Forwarder._reset_streams

    def slow(forwarder: Forwarder) -> None:
        entered.set()
        go_on.wait(PATIENCE)
        reset_streams(forwarder)

    monkeypatch.setattr(Forwarder, "_reset_streams", slow)
    with target() as server:
        forward = forward_local(sshd.connect_params, server.port, cache=cache)
        with connect(forward.port) as client:
            client.sendall(b"hello")
            assert client.recv(10) == b"hello"
            first = threading.Thread(target=forward.close, args=(0.01,))
            first.start()
            assert entered.wait(PATIENCE)
            assert not forward.closed
            go_on.set()
            forward.close()
            assert forward.closed and "closed, 0 streams" in repr(forward)
            first.join(PATIENCE)


def test_closing_the_cache_ends_its_forwards(sshd: Sshd, cache: SshClientCache) -> None:
    with target() as server:
        forward = forward_local(sshd.connect_params, server.port, keep=True, cache=cache)
        idle = forward_local(sshd.connect_params, server.port, cache=cache)
        with connect(forward.port) as client:
            client.sendall(b"hello")
            assert client.recv(10) == b"hello"
            cache.cleanup()
            assert is_reset(client)
        eventually(lambda: forward.closed and idle.closed, "both end")
        assert isinstance(forward.last_error, SshCacheClosed)
        assert len(cache) == 0


def test_a_forward_over_a_jump_host_shares_its_connection(
    sshd_factory: Callable[..., Sshd], cache: SshClientCache
) -> None:
    jump, last = sshd_factory(), sshd_factory()
    params = {**last.connect_params, "tunnel": jump.connect_params}
    sent = os.urandom(2 * MIB)
    with target() as server:
        with forward_local(params, server.port, cache=cache) as forward:
            assert ssh_service.run(params, "echo hi", cache=cache).stdout == "hi\n"
            with connect(forward.port) as client:
                sender = threading.Thread(target=client.sendall, args=(sent,))
                sender.start()
                received = b""
                while len(received) < len(sent):
                    received += client.recv(65536)
                sender.join()
            assert received == sent
    assert (jump.logins(), last.logins()) == (1, 1)
