"""The parts of forwards, without a server: addresses, SOCKS, windows."""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from typing import Any, Iterator, List, Tuple
from unittest.mock import Mock

import pytest

from ssh_service.errors import SshConfigError
from ssh_service.forwarding.addresses import (
    TcpAddress,
    UnixAddress,
    parse_listen,
    parse_target,
)
from ssh_service.forwarding.selector_thread import SelectorThread
from ssh_service.forwarding.socks import Negotiation, SocksError
from ssh_service.forwarding.stream import Stream
from ssh_service.forwarding.windows import Window, WindowBudget

MIB = 1024 * 1024


@pytest.mark.parametrize(
    "given, expected, text",
    [
        (5432, TcpAddress("localhost", 5432), "localhost:5432"),
        ("5432", TcpAddress("localhost", 5432), "localhost:5432"),
        ("db.internal:5432", TcpAddress("db.internal", 5432), "db.internal:5432"),
        ("[::1]:80", TcpAddress("::1", 80), "[::1]:80"),
        ("/run/docker.sock", UnixAddress("/run/docker.sock"), "/run/docker.sock"),
        ("./here:1", UnixAddress("./here:1"), "./here:1"),
        (Path("here"), UnixAddress("./here"), "./here"),
    ],
)
def test_addresses_are_read_as_people_write_them(given: Any, expected: Any, text: str) -> None:
    address = parse_target(given, is_local=False)
    assert address == expected and str(address) == text


def test_only_a_listener_may_have_any_port_or_all_addresses() -> None:
    assert parse_listen(0, is_local=True) == ("127.0.0.1", 0)
    assert parse_listen("*:0", is_local=True) == ("*", 0)
    with pytest.raises(SshConfigError, match="one host"):
        parse_target("*:80", is_local=False)


def test_the_length_of_a_path_is_limited_on_this_side_only() -> None:
    """The server knows its own limit."""
    long = "/" + "x" * 150
    assert parse_listen(long, is_local=False) == (long,)
    with pytest.raises(SshConfigError, match="limit for Unix sockets, got one of 151"):
        parse_listen(long, is_local=True)


def test_a_path_of_this_side_stays_where_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the program changes its folder while the forward lives."""
    monkeypatch.chdir(tmp_path)
    for given in ("./socket", Path("socket")):
        assert parse_listen(given, is_local=True) == (str(tmp_path / "socket"),)
        assert parse_target(given, is_local=True) == (str(tmp_path / "socket"),)
    assert parse_listen("./socket", is_local=False) == ("./socket",)


@pytest.mark.parametrize(
    "given, message",
    [
        ("db:\u0663", "expected a port, 'host:port'"),
        ("user@db:80", "without a user"),
        ("http://db:80", "not a URL"),
        ("/tmp/\ud800", "can be encoded"),
    ],
)
@pytest.mark.parametrize("is_local", [True, False])
def test_impossible_setting_is_refused_at_once(given: str, message: str, is_local: bool) -> None:
    for parse in (parse_target, parse_listen):
        with pytest.raises(SshConfigError, match=message):
            parse(given, is_local=is_local)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.9.9.9"])
def test_loopback_is_known(host: str) -> None:
    assert TcpAddress(host, 1).is_loopback
    assert not TcpAddress("10.0.0.1", 1).is_loopback
    assert not TcpAddress("*", 1).is_loopback


# SOCKS.

HELLO_5 = b"\x05\x01\x00"
REQUESTS = [
    (HELLO_5 + b"\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x50", ("127.0.0.1", 80), b"\x05\x00"),
    (
        HELLO_5 + b"\x05\x01\x00\x03\x0bexample.org\x01\xbb",
        ("example.org", 443),
        b"\x05\x00",
    ),
    (HELLO_5 + b"\x05\x01\x00\x04" + bytes(15) + b"\x01\x00\x50", ("::1", 80), b"\x05\x00"),
    (b"\x05\x02\x02\x00\x05\x01\x00\x01\x01\x02\x03\x04\x00\x01", ("1.2.3.4", 1), b"\x05\x00"),
    (b"\x04\x01\x00\x50\x7f\x00\x00\x01me\x00", ("127.0.0.1", 80), b""),
    (b"\x04\x01\x00\x50\x00\x00\x00\x01\x00example.org\x00", ("example.org", 80), b""),
]


@pytest.mark.parametrize("request_, target, replies", REQUESTS)
@pytest.mark.parametrize("size", [1, 2, 1000])
def test_requests_of_all_versions_are_read_in_any_pieces(
    request_: bytes, target: Any, replies: bytes, size: int
) -> None:
    negotiation, sent = Negotiation(), b""
    text = request_ + (b"rest" if size == 1000 else b"")
    for at in range(0, len(text), size):
        assert negotiation.target is None
        sent += negotiation.feed(text[at : at + size])
    assert negotiation.target == target
    assert sent == replies
    assert negotiation.rest == text[len(request_) :]
    success = negotiation.success()
    assert success[1] == (90 if request_[0] == 4 else 0)
    assert len(success) == (8 if request_[0] == 4 else 10)


@pytest.mark.parametrize(
    "request_, message, reply",
    [
        (b"GET / HTTP/1.1\r\n", "speaks HTTP", b""),
        (b"\x16\x03\x01", "version 22 of SOCKS", b""),
        (b"\x05\x01\x02", "insists on a user and password", b"\x05\xff"),
        (HELLO_5 + b"\x05\x03\x00\x01" + bytes(6), "UDP ASSOCIATE", b"\x05\x07"),
        (HELLO_5 + b"\x05\x02\x00\x01" + bytes(6), "BIND", b"\x05\x07"),
        (HELLO_5 + b"\x05\x01\x00\x09" + bytes(6), "address type 9", b"\x05\x08"),
        (HELLO_5 + b"\x05\x01\x00\x03\x00\x00\x50", "names the host", b"\x05\x01"),
        (HELLO_5 + b"\x05\x01\x00\x03\x03a\nb\x00\x50", "names the host", b"\x05\x01"),
        (HELLO_5 + b"\x05\x01\x00\x01" + bytes(6), "port 0", b"\x05\x01"),
        (HELLO_5 + b"\x04\x01\x00\x01" + bytes(6), "version 4 in a request", b"\x05\x01"),
        (b"\x04\x02\x00\x50" + bytes(4) + b"\x00", "BIND", b"\x00\x5b"),
        (b"\x04\x01\x00\x50\x01\x02\x03\x04" + b"x" * 300, "longer than 255", b"\x00\x5b"),
    ],
)
def test_what_cannot_be_granted_is_named_and_answered(
    request_: bytes, message: str, reply: bytes
) -> None:
    with pytest.raises(SocksError, match=message) as caught:
        Negotiation().feed(request_)
    assert caught.value.reply[:2] == reply


@pytest.mark.parametrize("version", [4, 5])
def test_a_refusal_is_answered_by_its_reason(version: int) -> None:
    negotiation = Negotiation()
    negotiation.feed(REQUESTS[0][0] if version == 5 else REQUESTS[4][0])
    codes = [
        negotiation.failure(*given)[1] for given in ((True, False), (False, True), (False,) * 2)
    ]
    assert codes == ([5, 2, 1] if version == 5 else [91, 91, 91])


def test_an_ipv6_target_is_written_for_the_server() -> None:
    negotiation = Negotiation()
    packed = socket.inet_pton(socket.AF_INET6, "2001:db8::1")
    negotiation.feed(HELLO_5 + b"\x05\x01\x00\x04" + packed + struct.pack(">H", 80))
    assert str(negotiation.target) == "[2001:db8::1]:80"


# Windows.


def test_a_window_grows_with_what_is_read_soon_and_gives_back_the_rest() -> None:
    budget = WindowBudget(16 * MIB)
    window = Window(budget)
    first = window.size
    granted = read = 0
    while read < 20 * MIB:
        granted += window.written(32768)
        read += 32768
        # The server may never send more than the window on top of what was read.
        assert granted - read <= window.size - first
    assert window.size == 4 * MIB
    assert budget.left == 12 * MIB
    window.release()
    window.release()
    assert budget.left == 16 * MIB


def test_a_window_that_is_read_slowly_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("ssh_service.forwarding.windows.time.monotonic", lambda: now[0])
    window = Window(WindowBudget(16 * MIB))
    first = window.size
    for _ in range(1000):
        now[0] += 0.2
        window.written(32768)
    assert window.size == first


def test_the_budget_bounds_all_windows_together() -> None:
    """Who comes when it is used up gets a small window; nobody gets nothing."""
    budget = WindowBudget(1 * MIB)
    windows = [Window(budget) for _ in range(100)]
    for window in windows:
        for _ in range(100):
            window.written(32768)
    assert min(window.size for window in windows) == 64 * 1024
    assert sum(window.size for window in windows) <= 1 * MIB + 100 * 64 * 1024
    for window in windows:
        window.release()
    assert budget.left == 1 * MIB


class PlayedChannel:
    """The channel of a stream, as far as it is used."""

    def __init__(self) -> None:
        self.active = True
        self.granted: List[int] = []

    def adjust_window(self, size: int) -> None:
        self.granted.append(size)

    def close(self) -> None:
        self.active = False


@pytest.fixture
def stream() -> Iterator[Tuple[Stream, PlayedChannel, socket.socket]]:
    """A stream, its channel, and the local program's socket."""
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        far.settimeout(5)
        owner = Mock(thread=SelectorThread())  # which is not started
        one = Stream(owner, near, "db:5432")
        channel: Any = PlayedChannel()
        one._channel = channel
        yield one, channel, far
        owner.thread.abandon()


def test_what_a_local_program_does_not_take_is_kept_in_order(
    stream: Tuple[Stream, PlayedChannel, socket.socket],
) -> None:
    one, channel, far = stream
    sent = [bytes([number]) * 30_000 for number in range(100)]
    received = bytearray()
    for chunk in sent:
        one.on_data(chunk)
    one.on_eof()
    while len(received) < 3_000_000:
        received += far.recv(100_000)
        one._is_blocked = False  # as the selector thread finds
        one._write()
    assert received == b"".join(sent)
    assert one.bytes_from_server == len(received)
    assert 2_500_000 <= sum(channel.granted) <= 3_000_000 + MIB * 4


def test_what_came_before_an_end_without_eof_arrives_whole(
    stream: Tuple[Stream, PlayedChannel, socket.socket],
) -> None:
    """The server of asyncssh omits the EOF if the window was used up when the target ended."""
    one, channel, far = stream
    for _ in range(5):
        one.on_data(bytes(20_000))
    one.on_close(None)
    one._thread._step()
    owner: Any = one._owner
    assert owner.on_stream_ended.call_args.args[1] == "completed"
    received = 0
    while True:
        data = far.recv(1000)
        if not data:
            break
        received += len(data)
    assert received == 100_000 and not channel.active
