"""Channels that a server opens: they reach the caller that asked for them, and delay no other."""

from __future__ import annotations

import threading
from typing import Any, Callable, List, Optional, Tuple

import paramiko
import pytest

from ssh_service.errors import SshSessionRefused
from ssh_service.transport import SshTransport, accepting, global_requests
from ssh_service.transport.port_forwards import PortForward, PortForwards
from tests.common import PATIENCE, Outcome, eventually
from tests.faults.clients import connected, execute
from tests.faults.evil_ssh import EvilSsh, EvilTransport

Address = Tuple[str, int]


def handle(*args: Any) -> None:
    """Do nothing with a connection."""


@pytest.mark.parametrize(
    "asked, connected_to, found",
    [
        ([("127.0.0.1", 80), ("127.0.0.1", 81)], ("127.0.0.1", 81), 1),
        ([("localhost", 80), ("10.0.0.1", 80)], ("localhost", 80), 0),
        ([("localhost", 80), ("10.0.0.1", 80)], ("127.0.0.1", 80), None),
        ([("localhost", 80)], ("127.0.0.1", 80), 0),
        ([("localhost", 80)], ("localhost", 81), None),
        ([("", 80), ("10.0.0.1", 80)], ("10.0.0.2", 80), 0),
        ([("", 80), ("10.0.0.1", 80)], ("10.0.0.1", 80), 1),
        ([("0.0.0.0", 80), ("::", 80)], ("10.0.0.2", 80), None),
        ([], ("", 80), None),
    ],
)
def test_forwards_are_found_by_address_and_port(
    asked: List[Address], connected_to: Address, found: Optional[int]
) -> None:
    """RFC 4254 section 7.2: the request to open names what was connected to."""
    forwards = PortForwards()
    entries = [PortForward(*address, handle) for address in asked]
    assert all(forwards.add(entry) for entry in entries)
    got = forwards.find(*connected_to)
    assert got is (None if found is None else entries[found])


def test_forwards_remove_one_only() -> None:
    forwards = PortForwards()
    for address in (("a", 80), ("a", 81), ("b", 80)):
        forwards.add(PortForward(*address, handle))
    forwards.remove("a", 80)
    assert forwards.find("a", 81) and forwards.find("b", 80)
    assert forwards.find("b", 81) and not forwards.find("a", 82)


class Forwarding(EvilTransport):
    """Grants every forward, and opens channels on request."""

    answers = True

    def __init__(self, sock: Any) -> None:
        super().__init__(sock)
        self.asked: List[Tuple[str, str, int]] = []
        self.refused: List[int] = []
        self.number = 900

    def _parse_global_request(self, m: Any) -> None:
        kind = m.get_text()
        if "tcpip-forward" not in kind:
            m.rewind()
            super()._parse_global_request(m)
            return
        m.get_boolean()
        self.asked.append((kind, m.get_text(), m.get_int()))
        if self.answers:
            self.grant()

    def grant(self) -> None:
        """Answer, and have a connection right behind the answer."""
        kind, address, port = self.asked[-1]
        fields = [] if port else [4000 + len(self.asked)]
        self.say(b"\x51", *fields)
        if kind == "tcpip-forward":
            self.connect(address, port or fields[0])

    def connect(self, address: str, port: int) -> None:
        """Open a channel for a connection to a port."""
        self.number += 1
        self.channels_seen[self.number] = True  # paramiko passes over what comes for it
        sizes = (1 << 20, 1 << 15)
        self.say(b"\x5a", "forwarded-tcpip", self.number, *sizes, address, port, "10.1.1.1", 1234)

    def _parse_channel_open_failure(self, m: Any) -> None:
        m.get_int()
        self.refused.append(m.get_int())

    def _parse_channel_open_success(self, m: Any) -> None:
        """Take note of nothing."""


def forwarding() -> Tuple[EvilSsh, Callable[[], Forwarding]]:
    server = EvilSsh(transport_class=Forwarding)

    def transport() -> Forwarding:
        found = server.transports[0]
        assert isinstance(found, Forwarding)
        return found

    return server, transport


def test_two_users_forwards_reach_their_own_handlers() -> None:
    """The connections to one user's port reached the handler of another."""
    seen: List[Any] = []
    lock = threading.Lock()

    def handler(name: str) -> Callable[..., None]:
        def note(channel: Any, origin: Any, here: Any) -> None:
            with lock:
                seen.append((name, here))

        return note

    server, false = forwarding()
    with server, connected(server.port) as transport:
        assert transport.request_port_forward("127.0.0.1", 0, handler("a")) == 4001
        assert transport.request_port_forward("127.0.0.1", 9000, handler("b")) == 9000
        eventually(lambda: len(seen) == 2, "the connections right behind the answers")
        assert sorted(seen) == [("a", ("127.0.0.1", 4001)), ("b", ("127.0.0.1", 9000))]
        transport.cancel_port_forward("127.0.0.1", 9000)
        for port in (9000, 4001):
            false().connect("127.0.0.1", port)
        eventually(lambda: len(seen) == 3 and false().refused)
        assert seen[2] == ("a", ("127.0.0.1", 4001))
        assert false().refused == [1]  # administratively prohibited
        assert false().asked[-1] == ("cancel-tcpip-forward", "127.0.0.1", 9000)


def test_a_handler_that_waits_holds_up_nobody() -> None:
    """Users' code never runs on the reader thread, though paramiko calls it there."""
    entered, may_end = threading.Event(), threading.Event()

    def wait(channel: Any, *args: Any) -> None:
        entered.set()
        assert may_end.wait(PATIENCE)

    server, _ = forwarding()
    with server, connected(server.port) as transport:
        transport.request_port_forward("127.0.0.1", 9000, wait)
        assert entered.wait(PATIENCE)
        assert execute(transport, "hello") == (0, b"hello")
        may_end.set()


def test_a_handler_that_raises_ends_its_connection_only(caplog: pytest.LogCaptureFixture) -> None:
    taken: List[Any] = []

    def fail(channel: Any, *args: Any) -> None:
        taken.append(channel)
        raise RuntimeError("not today")

    server, _ = forwarding()
    with server, connected(server.port) as transport:
        transport.request_port_forward("127.0.0.1", 9000, fail)
        eventually(lambda: taken and taken[0].closed)
        assert execute(transport, "hello") == (0, b"hello")
    assert "not today" in caplog.text


def test_forwarded_connections_beyond_the_bounds_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(accepting, "_MAX_ACCEPT_QUEUE", 2)
    monkeypatch.setattr(accepting, "_MAX_HANDLERS", 1)
    may_end = threading.Event()

    def handler(*_: object) -> None:
        may_end.wait(PATIENCE)

    server, false = forwarding()
    with server, connected(server.port) as transport:
        transport.request_port_forward("127.0.0.1", 9000, handler)
        transport.request_port_forward("127.0.0.1", 9001)
        false().connect("127.0.0.1", 9000)
        for _ in range(2):
            false().connect("127.0.0.1", 9001)
        eventually(lambda: len(false().refused) == 2)
        assert false().refused == [4, 4]  # resource shortage
        assert [bool(transport.accept(PATIENCE)) for _ in range(2)] == [True, True]
        assert transport.accept(0) is None
        may_end.set()


def test_a_forward_that_is_granted_too_late_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(global_requests, "_REPLY_TIMEOUT", 0.1)
    server, false = forwarding()
    with server, connected(server.port) as transport:
        false().answers = False
        with pytest.raises(OSError, match="no reply"):
            transport.request_port_forward("127.0.0.1", 9000, handle)
        false().grant()
        eventually(lambda: len(false().asked) == 2)
        assert false().asked[1] == ("cancel-tcpip-forward", "127.0.0.1", 9000)
        eventually(lambda: false().refused == [1])


@pytest.mark.parametrize("ends", ["closed", "lost"])
def test_accept_ends_with_its_connection(ends: str) -> None:
    server, false = forwarding()
    with server, connected(server.port) as transport:
        waiting = [Outcome(transport.accept) for _ in range(2)]
        (transport if ends == "closed" else false()).close()
        for outcome in waiting:
            assert outcome.wait().value is None
        assert transport.accept() is None


def test_forwards_are_not_asked_for_where_the_server_refuses() -> None:
    with EvilSsh() as server, connected(server.port) as transport:
        with pytest.raises(SshSessionRefused, match=r"refused to listen on \*:8080") as caught:
            transport.request_port_forward("", 8080, handle)
        assert isinstance(caught.value, paramiko.SSHException)
        assert transport._forwards.find("", 8080) is None


@pytest.mark.parametrize("kind", ["x11", "auth-agent@openssh.com"])
def test_x11_and_agents_reach_their_handlers(kind: str) -> None:
    seen: List[Any] = []
    fields = {"x11": ("10.1.1.1", 6010), "auth-agent@openssh.com": ()}[kind]

    class Opening(EvilTransport):
        def open_one(self) -> None:
            self.channels_seen[7] = True
            self.say(b"\x5a", kind, 7, 1 << 20, 1 << 15, *fields)

    def set_handler(transport: SshTransport, handler: Any) -> None:
        if kind == "x11":
            transport._set_x11_handler(handler)
        else:
            transport.open_session().request_forward_agent(handler)

    with EvilSsh(transport_class=Opening) as server, connected(server.port) as transport:
        (false,) = server.transports
        assert isinstance(false, Opening)
        set_handler(transport, lambda channel, *origin: seen.append(origin))
        false.open_one()
        eventually(lambda: seen)
        assert seen == [(("10.1.1.1", 6010),) if fields else ()]
        set_handler(transport, None)  # from now on they wait for `accept`
        false.open_one()
        assert transport.accept(PATIENCE) is not None


@pytest.mark.parametrize(
    "destination", [None, 7, ("h",), ("h", -1), ("h", "x"), ("h", 2**32), (5, 22), "host"], ids=str
)
def test_invalid_address_is_refused_before_sending(destination: Any) -> None:
    """A message that the server cannot read would end the connection for all."""
    with EvilSsh() as server, connected(server.port) as transport:
        with pytest.raises((TypeError, ValueError), match="host and a port|literal"):
            transport.open_channel("direct-tcpip", destination)
        assert execute(transport, "hello") == (0, b"hello")
