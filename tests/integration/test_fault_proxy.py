"""The fault proxy, between plain sockets."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Iterator, Tuple

import pytest

from ssh_service.testing.fault_proxy import FaultProxy

Ends = Tuple[FaultProxy, socket.socket, socket.socket]


@contextlib.contextmanager
def connected(proxy: FaultProxy, listener: socket.socket) -> Iterator[Ends]:
    with socket.create_connection((proxy.host, proxy.port), timeout=5) as client:
        server, _ = listener.accept()
        with server:
            server.settimeout(5)
            yield proxy, client, server


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.settimeout(5)
        yield sock


@pytest.fixture
def proxy(listener: socket.socket) -> Iterator[FaultProxy]:
    with FaultProxy(*listener.getsockname()) as proxy:
        yield proxy


@pytest.fixture
def ends(proxy: FaultProxy, listener: socket.socket) -> Iterator[Ends]:
    with connected(proxy, listener) as ends:
        yield ends


def receive(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        chunk = sock.recv(count - len(data))
        if not chunk:
            break
        data += chunk
    return data


def assert_mute(sock: socket.socket) -> None:
    sock.settimeout(0.1)
    with pytest.raises(socket.timeout):
        sock.recv(1)
    sock.settimeout(5)


def test_forwards_both_ways_and_the_end_of_each(ends: Ends) -> None:
    proxy, client, server = ends
    client.sendall(b"question")
    assert receive(server, 8) == b"question"
    client.shutdown(socket.SHUT_WR)
    assert server.recv(1) == b""
    server.sendall(b"answer")
    assert receive(client, 6) == b"answer"
    assert (proxy.connections, proxy.accepted) == (1, 1)
    server.shutdown(socket.SHUT_WR)
    assert client.recv(1) == b""


def test_forwards_more_than_it_holds(ends: Ends) -> None:
    _, client, server = ends
    data = bytes(range(256)) * 64 * 1024
    sender = threading.Thread(target=client.sendall, args=(data,), name="sender")
    client.settimeout(20)
    sender.start()
    try:
        assert receive(server, len(data)) == data
    finally:
        sender.join(20)


def test_cut_ends_both_ends_in_the_ordinary_way(ends: Ends) -> None:
    proxy, client, server = ends
    proxy.cut()
    assert client.recv(1) == b""
    assert server.recv(1) == b""
    assert proxy.connections == 0


def test_reset_resets_both_ends(ends: Ends) -> None:
    proxy, client, server = ends
    proxy.reset()
    for sock in (client, server):
        with pytest.raises(ConnectionResetError):
            sock.recv(1)


def test_a_reset_by_one_end_reaches_the_other(ends: Ends) -> None:
    _, client, server = ends
    client.sendall(b"x")
    assert server.recv(1) == b"x"
    server.sendall(b"unread")
    assert client.recv(1, socket.MSG_PEEK) == b"u"
    client.close()  # with unread input: a reset
    with pytest.raises(ConnectionResetError):
        server.recv(1)


def test_freeze_holds_everything_up_and_thaw_lets_it_go(ends: Ends) -> None:
    proxy, client, server = ends
    proxy.freeze()
    client.sendall(b"question")
    server.sendall(b"answer")
    assert_mute(server)
    assert_mute(client)
    proxy.thaw()
    assert receive(server, 8) == b"question"
    assert receive(client, 6) == b"answer"


def test_freeze_of_one_direction_leaves_the_other(ends: Ends) -> None:
    proxy, client, server = ends
    proxy.freeze("to_client")
    client.sendall(b"question")
    assert receive(server, 8) == b"question"
    server.sendall(b"answer")
    assert_mute(client)


def test_a_frozen_connection_can_be_cut(ends: Ends) -> None:
    proxy, client, server = ends
    proxy.freeze()
    client.sendall(b"question")
    proxy.cut()
    assert client.recv(1) == b""
    assert server.recv(1) == b""


def test_delay_delays_and_does_not_narrow(ends: Ends) -> None:
    proxy, client, server = ends
    proxy.delay = 0.2
    begin = time.monotonic()
    for _ in range(20):
        client.sendall(b"x" * 1000)
    receive(server, 20_000)
    assert 0.2 <= time.monotonic() - begin < 2


def test_sliced_data_arrives_complete(ends: Ends) -> None:
    proxy, client, server = ends
    proxy.slice_size = 3
    client.sendall(b"0123456789")
    assert receive(server, 10) == b"0123456789"


@pytest.mark.parametrize("then", ["cut", "reset"])
def test_a_limit_lets_just_so_many_bytes_pass(ends: Ends, then: str) -> None:
    proxy, client, server = ends
    client.sendall(b"before")
    assert receive(server, 6) == b"before"
    proxy.limit_after(5, "to_server", then=then)
    client.sendall(b"0123456789")
    if then == "cut":
        assert receive(server, 10) == b"01234"
        assert server.recv(1) == b""
    else:
        with pytest.raises(ConnectionResetError):
            receive(server, 10)


def test_a_limit_holds_for_further_connections(proxy: FaultProxy, listener: socket.socket) -> None:
    proxy.limit_after(2, "to_client")
    with connected(proxy, listener) as (_, client, server):
        server.sendall(b"0123")
        assert receive(client, 4) == b"01"


def test_it_corrupts_one_byte_and_no_other(ends: Ends) -> None:
    proxy, client, server = ends
    proxy.corrupt_at(2)
    client.sendall(b"\x00" * 5)
    client.sendall(b"\x00" * 5)
    assert receive(server, 10) == b"\x00\x00\xff" + b"\x00" * 7


def test_it_refuses_new_connections_until_it_admits_them_again(
    ends: Ends, listener: socket.socket
) -> None:
    proxy, client, server = ends
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((proxy.host, proxy.port), timeout=5)
    client.sendall(b"x")
    assert server.recv(1) == b"x"
    proxy.admit()
    with connected(proxy, listener) as (_, other, end):
        other.sendall(b"y")
        assert end.recv(1) == b"y"


def test_heal_takes_everything_back(ends: Ends) -> None:
    proxy, client, server = ends
    proxy.delay = 60
    proxy.slice_size = 1
    proxy.freeze()
    proxy.limit_after(3)
    proxy.corrupt_at(0)
    proxy.heal()
    client.sendall(b"question")
    assert receive(server, 8) == b"question"


def test_a_dead_target_resets_the_client() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with FaultProxy("127.0.0.1", port) as proxy:
        with pytest.raises(ConnectionResetError):  # on connecting already, where it is quick
            with socket.create_connection((proxy.host, proxy.port), timeout=5) as client:
                client.recv(1)


def test_close_leaves_nothing_and_can_be_repeated(ends: Ends) -> None:
    proxy, client, server = ends
    proxy.freeze()
    proxy.close()
    proxy.close()
    assert client.recv(1) == b""
    assert proxy.connections == 0
    assert not [t for t in threading.enumerate() if t.name == f"fault-proxy-{proxy.port}"]
    with pytest.raises(RuntimeError, match="is closed"):
        proxy.cut()


def test_it_takes_no_time_of_the_processor_when_unused(ends: Ends) -> None:
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.1


def test_refuses_unknown_directions(proxy: FaultProxy) -> None:
    with pytest.raises(ValueError, match="to_server, to_client, not 'up'"):
        proxy.freeze("up")
