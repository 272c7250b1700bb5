"""How many round trips a login takes, and the first command of a connection."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import paramiko
import pytest
from paramiko.common import (
    MSG_CHANNEL_OPEN,
    MSG_CHANNEL_OPEN_SUCCESS,
    MSG_CHANNEL_REQUEST,
    MSG_CHANNEL_SUCCESS,
    MSG_KEXINIT,
    MSG_SERVICE_ACCEPT,
    MSG_SERVICE_REQUEST,
    MSG_USERAUTH_FAILURE,
    MSG_USERAUTH_REQUEST,
    MSG_USERAUTH_SUCCESS,
)

from ssh_service import SshClientCache
from ssh_service import paramiko as ours
from ssh_service import run
from ssh_service.testing.fault_proxy import FaultProxy
from ssh_service.testing.local_server import LocalServer
from ssh_service.testing.pytest_plugin import Sshd
from ssh_service.transport.packets import SshPacketizer
from tests.common import PATIENCE
from tests.keys import certify, generated
from tests.servers import Dropbear

from .auth_server import AuthServer

MSG_KEX_REPLY = 31  # of elliptic curves (RFC 5656)
EARLY, LATE = [MSG_SERVICE_REQUEST, MSG_USERAUTH_REQUEST], [MSG_SERVICE_REQUEST]
SHOWN = {*EARLY, MSG_SERVICE_ACCEPT, MSG_USERAUTH_FAILURE, MSG_USERAUTH_SUCCESS}


@contextlib.contextmanager
def transport_to(host: str, port: int) -> Iterator[Any]:
    """Start a transport whose `seen` has the messages of the login, in both directions."""
    with FaultProxy(host, port) as proxy:
        with recorded(ours.Transport((proxy.host, proxy.port))) as transport:
            transport.proxy = proxy
            yield transport


def sent_before_an_answer(transport: Any, log_in: Callable[[threading.Event], object]) -> Any:
    """Return what a login sends before the server has answered; then let the login end."""
    answered = threading.Event()
    transport.proxy.freeze("to_client")
    log_in(answered)
    before = list(transport.seen)
    transport.proxy.thaw("to_client")
    assert answered.wait(PATIENCE)
    return before


@contextlib.contextmanager
def recorded(transport: Any) -> Iterator[Any]:
    seen: List[int] = []
    packetizer = transport.packetizer
    send, read = packetizer.send_message, packetizer.read_message

    def sending(message: Any) -> None:
        kind = message.asbytes()[0]
        seen.extend({kind} & SHOWN)
        send(message)

    def reading() -> Any:
        kind, message = read()
        seen.extend({kind} & SHOWN)
        return kind, message

    packetizer.send_message, packetizer.read_message = sending, reading
    transport.seen = seen
    try:
        transport.start_client(timeout=PATIENCE)
        yield transport
    finally:
        transport.close()
        transport.join(PATIENCE)


class RoundTrips:
    """
    Counts the round trips that a connection has taken, from its messages alone.

    An answer took one more than all that had arrived when its request was sent.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self._sent: Dict[int, int] = {}  # by the kind of a request: what had arrived before it
        send, read = SshPacketizer.send_message, SshPacketizer.read_packet

        def sending(packetizer: SshPacketizer, message: Any) -> None:
            self._sent.setdefault(message.asbytes()[0], self.count)
            send(packetizer, message)

        def reading(packetizer: SshPacketizer) -> Any:
            packet = read(packetizer)
            kind = packet[0]
            before = self._sent.get(REQUESTS[kind], 0) if kind in REQUESTS else -1
            self.count = max(self.count, before + 1)
            return packet

        monkeypatch.setattr(SshPacketizer, "send_message", sending)
        monkeypatch.setattr(SshPacketizer, "read_packet", reading)


# What answers what; the server's algorithms answer the identification.
REQUESTS = {
    MSG_KEXINIT: 0,
    MSG_KEX_REPLY: MSG_KEX_REPLY - 1,
    MSG_SERVICE_ACCEPT: MSG_SERVICE_REQUEST,
    MSG_USERAUTH_SUCCESS: MSG_USERAUTH_REQUEST,
    MSG_CHANNEL_OPEN_SUCCESS: MSG_CHANNEL_OPEN,
    MSG_CHANNEL_SUCCESS: MSG_CHANNEL_REQUEST,
}


def count_round_trips(server: LocalServer) -> int:
    """
    Count the round trips from nothing to a command's result, with that of TCP.

    The server is so far away that no answer overtakes what is sent meanwhile; where one does, on
    a busy machine, the count is too high, so the lowest of some is right.
    """
    counts: List[int] = []
    while len(counts) < 3 and FIRST_COMMAND not in counts:
        cache = SshClientCache()
        with pytest.MonkeyPatch.context() as monkeypatch, FaultProxy(server) as proxy:
            proxy.delay = 0.05
            counted = RoundTrips(monkeypatch)
            try:
                run(proxy.connect_params, "true", cache=cache, check=True)
            finally:
                cache.cleanup()
            counts.append(1 + counted.count)
    return min(counts)


# TCP, identification with algorithms, keys, login, session, command.
FIRST_COMMAND = 6


def test_the_first_command_takes_six_round_trips(sshd: Sshd) -> None:
    assert count_round_trips(sshd) == FIRST_COMMAND


def test_the_first_command_takes_six_round_trips_with_dropbear(tmp_path: Path) -> None:
    with Dropbear(tmp_path) as dropbear:
        assert count_round_trips(dropbear) == FIRST_COMMAND


def stranger(kind: str = "ed25519") -> Any:
    """Return a key that opens nothing."""
    return paramiko.PKey.from_path(str(generated(f"stranger-{kind}", kind)))


def test_a_key_is_sent_with_the_service_request(sshd: Sshd) -> None:
    key = paramiko.PKey.from_path(sshd.client_key)
    with transport_to(sshd.host, sshd.port) as transport:
        sent = sent_before_an_answer(
            transport, lambda event: transport.auth_publickey(sshd.username, key, event)
        )
        assert sent == EARLY
        assert transport.seen == [*EARLY, MSG_SERVICE_ACCEPT, MSG_USERAUTH_SUCCESS]
        assert transport.open_session().active == 1


def test_a_password_is_sent_with_the_service_request(sshd: Sshd) -> None:
    with transport_to(sshd.host, sshd.port) as transport:
        sent = sent_before_an_answer(
            transport, lambda event: transport.auth_password(sshd.username, "wrong", event)
        )
        assert sent == EARLY


def test_a_refused_attempt_is_followed_by_the_next(sshd: Sshd) -> None:
    """Each attempt is answered once: an early answer is never taken for another attempt's."""
    with transport_to(sshd.host, sshd.port) as transport:
        with pytest.raises(paramiko.BadAuthenticationType):
            transport.auth_none(sshd.username)
        for kind in ("ed25519", "rsa"):
            with pytest.raises(paramiko.AuthenticationException):
                transport.auth_publickey(sshd.username, stranger(kind))
        with pytest.raises(paramiko.AuthenticationException):
            transport.auth_password(sshd.username, "wrong")
        transport.auth_publickey(sshd.username, paramiko.PKey.from_path(sshd.client_key))
        attempts = transport.seen.count(MSG_SERVICE_ACCEPT)
        assert transport.seen.count(MSG_USERAUTH_REQUEST) == attempts >= 5
        assert transport.seen.count(MSG_USERAUTH_FAILURE) == attempts - 1


def sent_with_key(sshd: Sshd, key: Any) -> Any:
    with transport_to(sshd.host, sshd.port) as transport:
        return sent_before_an_answer(
            transport, lambda event: transport.auth_publickey(sshd.username, key, event)
        )


def test_an_rsa_key_waits_for_the_signatures_that_the_server_accepts(
    sshd: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ours.Transport, "_parse_ext_info", lambda transport, m: None)
    assert sent_with_key(sshd, stranger("rsa")) == LATE


def test_an_agents_key_waits(sshd: Sshd) -> None:
    """An agent may ask its user: the reader thread signs, and the caller can give up."""

    class AgentKey(paramiko.Ed25519Key):
        pass

    assert sent_with_key(sshd, AgentKey.from_private_key_file(sshd.client_key)) == LATE


def test_a_certificate_waits(sshd: Sshd) -> None:
    path = certify(
        generated("certified"), generated("nobody"), host=False, principals=sshd.username
    )
    key = paramiko.PKey.from_path(str(generated("certified")))
    key.load_certificate(str(path))
    assert sent_with_key(sshd, key) == LATE


def test_a_server_of_another_kind_is_asked_first() -> None:
    with AuthServer(password="secret") as server:
        with transport_to("127.0.0.1", server.port) as transport:
            sent = sent_before_an_answer(
                transport, lambda event: transport.auth_password("me", "secret", event)
            )
            assert sent == LATE and transport.is_authenticated()


def test_what_cannot_be_signed_fails_as_in_paramiko(sshd: Sshd) -> None:
    private = paramiko.PKey.from_path(sshd.client_key)
    public = type(private)(data=private.asbytes())
    errors = []
    for transport in (ours.Transport, paramiko.Transport):
        connection = transport((sshd.host, sshd.port))
        try:
            connection.start_client(timeout=PATIENCE)
            with pytest.raises(Exception) as caught:
                connection.auth_publickey(sshd.username, public)
            errors.append(caught.type)
        finally:
            connection.close()
            connection.join(PATIENCE)
    assert errors[0] is errors[1]
