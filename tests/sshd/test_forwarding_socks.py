"""`forward_socks` over a real server: real clients, and those that do not know the protocol."""

from __future__ import annotations

import shutil
import socket
import struct
import subprocess
import threading
import time
from typing import Any, Tuple

import pytest

from ssh_service import Forward, SshClientCache, events, forward_socks
from ssh_service.forwarding.local_stream import SocksStream
from ssh_service.testing.local_sshd import Sshd
from tests.common import PATIENCE, eventually, require_part
from tests.sshd.forward_targets import Seen, connect, read_all, target

HELLO_5 = b"\x05\x01\x00"


def request_5(host: str, port: int) -> bytes:
    """Return a request of SOCKS 5 by name."""
    name = host.encode()
    return b"\x05\x01\x00\x03" + bytes((len(name),)) + name + struct.pack(">H", port)


def request_4(host: str, port: int) -> bytes:
    """Return a request of SOCKS 4a."""
    return struct.pack(">BBH4s", 4, 1, port, b"\0\0\0\1") + b"me\0" + host.encode() + b"\0"


def read(client: socket.socket, size: int) -> bytes:
    """Read exactly so many bytes."""
    data = b""
    while len(data) < size:
        chunk = client.recv(size - len(data))
        assert chunk, f"only {data!r}"
        data += chunk
    return data


def negotiate_5(client: socket.socket, host: str, port: int) -> int:
    """Ask for a target by SOCKS 5; return the code of the reply."""
    client.sendall(HELLO_5)
    assert read(client, 2) == b"\x05\x00"
    client.sendall(request_5(host, port))
    reply = read(client, 10)
    assert reply[0] == 5
    return reply[1]


def test_socks_5_and_4a_carry_bytes_both_ways(sshd: Sshd, cache: SshClientCache) -> None:
    """Names are resolved by the server, and bytes sent with the request are not lost."""
    seen = Seen(cache)
    with target() as server, forward_socks(sshd.connect_params, cache=cache) as proxy:
        assert proxy.kind == "socks"
        with connect(proxy.port) as client:
            assert negotiate_5(client, "localhost", server.port) == 0
            client.sendall(b"hello")
            client.shutdown(socket.SHUT_WR)
            assert read_all(client) == b"hello"
        for request, size in ((HELLO_5 + request_5("localhost", server.port), 12),
                              (request_4("localhost", server.port), 8)):  # fmt: skip
            with connect(proxy.port) as client:
                client.sendall(request + b"early ")
                assert read(client, size)[1] in (0, 90)
                client.sendall(b"and late")
                client.shutdown(socket.SHUT_WR)
                assert read_all(client) == b"early and late"
        assert seen.wait_for(events.StreamEnded, 3).to == f"localhost:{server.port}"
        assert proxy.bytes == (33, 33)
        assert seen.of(events.ForwardListening)[0].to == "*"


def test_a_large_beginning_that_comes_with_the_request_is_sent_whole(
    sshd: Sshd, cache: SshClientCache
) -> None:
    sent = bytes(range(256)) * 4096
    with target() as server, forward_socks(sshd.connect_params, cache=cache) as proxy:
        with connect(proxy.port) as client:
            client.sendall(HELLO_5 + request_5("127.0.0.1", server.port) + sent[:3000])
            assert read(client, 12)[3] == 0
            client.sendall(sent[3000:])
            assert read(client, len(sent)) == sent


@pytest.mark.parametrize("address, code", [(("localhost", 1), 5), (("nonesuch.invalid", 80), 5)])
def test_a_target_that_refuses_is_answered_by_socks(
    sshd: Sshd, cache: SshClientCache, address: Tuple[str, int], code: int
) -> None:
    seen = Seen(cache)
    with forward_socks(sshd.connect_params, cache=cache) as proxy:
        with connect(proxy.port) as client:
            assert negotiate_5(client, *address) == code
            assert read_all(client) == b""
        ended = seen.wait_for(events.StreamEnded)
        assert (ended.outcome, ended.to) == ("refused", "%s:%d" % address)
        with connect(proxy.port) as client:
            client.sendall(request_4(*address))
            assert read(client, 8)[1] == 91


def test_last_error_has_the_reason_before_the_client_has_its_answer(
    sshd: Sshd, cache: SshClientCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = threading.Event()
    answer = SocksStream._answer

    def late(*given: Any) -> bool:  # as if this thread had no turn for a while
        was_told = answer(*given)
        looked.wait(PATIENCE)
        return was_told

    monkeypatch.setattr(SocksStream, "_answer", late)
    with forward_socks(sshd.connect_params, cache=cache) as proxy:
        with connect(proxy.port) as client:
            assert negotiate_5(client, "localhost", 1) == 5
            assert "the server cannot connect to localhost:1" in str(proxy.last_error)
            looked.set()


def test_what_is_not_socks_is_ended_and_reported(sshd: Sshd, cache: SshClientCache) -> None:
    def last_error(proxy: Forward) -> str:
        return str(proxy.last_error)

    with forward_socks(sshd.connect_params, cache=cache) as proxy:
        with connect(proxy.port) as client:
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert client.recv(100) == b""
        assert "this is a SOCKS proxy" in last_error(proxy)
        with connect(proxy.port) as client:
            client.sendall(b"\x05\x01\x02")
            assert read(client, 2) == b"\x05\xff"
        assert "insists on a user and password" in last_error(proxy)
        with connect(proxy.port) as client:
            client.sendall(HELLO_5)
            assert read(client, 2) == b"\x05\x00"  # which, unread, would make its end a reset
        eventually(lambda: "before its SOCKS request" in last_error(proxy), "it is reported")
        eventually(lambda: proxy.streams == 0, "they are gone")
    assert len(cache) == 1


def test_curl_reaches_a_web_server_by_each_version(sshd: Sshd, cache: SshClientCache) -> None:
    curl = shutil.which("curl")
    require_part(curl, "needs curl (Debian: apt install curl)")

    def serve(client: socket.socket) -> None:
        while b"\r\n\r\n" not in client.recv(65536):
            pass
        client.sendall(b"HTTP/1.0 200 OK\r\n\r\nhello from there")

    with target(serve) as server, forward_socks(sshd.connect_params, cache=cache) as proxy:
        for scheme in ("socks4", "socks4a", "socks5", "socks5h"):
            done = subprocess.run(
                [str(curl), "-sS", "--proxy", f"{scheme}://127.0.0.1:{proxy.port}",
                 "--noproxy", "", f"http://127.0.0.1:{server.port}/"],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                timeout=PATIENCE,
            )  # fmt: skip
            assert (done.stdout, done.stderr) == (b"hello from there", b""), scheme


def test_silent_clients_do_not_keep_others_waiting(sshd: Sshd, cache: SshClientCache) -> None:
    """Any user of the machine can connect to the port; the full time is 30 s."""
    with target() as server, forward_socks(sshd.connect_params, max_streams=3, cache=cache) as f:
        silent = [connect(f.port) for _ in range(3)]
        eventually(lambda: f.streams == 3, "they hold all places")
        began = time.monotonic()
        with connect(f.port) as client:
            assert negotiate_5(client, "localhost", server.port) == 0
        assert time.monotonic() - began < 15
        assert "while others waited" in str(f.last_error)
        for each in silent:
            each.close()


def test_a_stream_may_last_longer_than_a_request(
    sshd: Sshd, cache: SshClientCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time is for the request only."""
    monkeypatch.setattr("ssh_service.forwarding.local_stream._NEGOTIATION_TIMEOUT", 0.5)
    with target() as server, forward_socks(sshd.connect_params, cache=cache) as proxy:
        with connect(proxy.port) as client, connect(proxy.port) as silent:
            assert negotiate_5(client, "localhost", server.port) == 0
            with pytest.raises(ConnectionResetError):
                silent.recv(1)  # it began later, so that the time of both has passed
            client.sendall(b"hello")
            assert read(client, 5) == b"hello"


def test_a_silent_client_is_ended_in_time(
    sshd: Sshd, cache: SshClientCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would hold one of `max_streams` without end."""
    monkeypatch.setattr("ssh_service.forwarding.local_stream._NEGOTIATION_TIMEOUT", 0.1)
    with forward_socks(sshd.connect_params, cache=cache) as proxy:
        with connect(proxy.port) as client:
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        assert "no SOCKS request within 0.1 s" in str(proxy.last_error)
