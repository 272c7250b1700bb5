"""Logging in takes one round trip less than in paramiko, at servers that are known to allow it."""

from __future__ import annotations

import contextlib
from typing import Any, Iterator, List

import paramiko
import pytest
from paramiko.common import (
    MSG_SERVICE_ACCEPT,
    MSG_SERVICE_REQUEST,
    MSG_USERAUTH_FAILURE,
    MSG_USERAUTH_REQUEST,
    MSG_USERAUTH_SUCCESS,
)

from ssh_service import paramiko as ours
from ssh_service.testing.fault_proxy import FaultProxy
from ssh_service.testing.pytest_plugin import Sshd
from tests.common import PATIENCE
from tests.keys import generated

from .auth_server import AuthServer

EARLY = [MSG_SERVICE_REQUEST, MSG_USERAUTH_REQUEST, MSG_SERVICE_ACCEPT]
LATE = [MSG_SERVICE_REQUEST, MSG_SERVICE_ACCEPT, MSG_USERAUTH_REQUEST]


@contextlib.contextmanager
def transport_to(host: str, port: int) -> Iterator[Any]:
    """
    Start a transport whose `seen` has the messages of the login, in both directions.

    The server is so far away that its answer cannot overtake what is sent next.
    """
    with FaultProxy(host, port) as proxy:
        proxy.delay = 0.05
        with recorded(ours.Transport((proxy.host, proxy.port))) as transport:
            yield transport


@contextlib.contextmanager
def recorded(transport: Any) -> Iterator[Any]:
    seen: List[int] = []
    packetizer, shown = transport.packetizer, {*EARLY, MSG_USERAUTH_FAILURE, MSG_USERAUTH_SUCCESS}
    send, read = packetizer.send_message, packetizer.read_message

    def sending(message: Any) -> None:
        kind = message.asbytes()[0]
        seen.extend({kind} & shown)
        send(message)

    def reading() -> Any:
        kind, message = read()
        seen.extend({kind} & shown)
        return kind, message

    packetizer.send_message, packetizer.read_message = sending, reading
    transport.seen = seen
    try:
        transport.start_client(timeout=PATIENCE)
        yield transport
    finally:
        transport.close()
        transport.join(PATIENCE)


def stranger(kind: str = "ed25519") -> Any:
    """Return a key that opens nothing."""
    return paramiko.PKey.from_path(str(generated(f"stranger-{kind}", kind)))


def test_a_key_is_sent_with_the_service_request(sshd: Sshd) -> None:
    with transport_to(sshd.host, sshd.port) as transport:
        assert (
            transport.auth_publickey(sshd.username, paramiko.PKey.from_path(sshd.client_key)) == []
        )
        assert transport.seen == [*EARLY, MSG_USERAUTH_SUCCESS]
        assert transport.open_session().active == 1


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


def test_an_rsa_key_waits_for_what_the_server_has_to_say_of_it(sshd: Sshd) -> None:
    """Before the server has listed the signatures it takes, none is chosen."""
    with transport_to(sshd.host, sshd.port) as transport:
        transport.server_extensions = {}
        with pytest.raises(paramiko.AuthenticationException):
            transport.auth_publickey(sshd.username, stranger("rsa"))
        assert transport.seen == [*LATE, MSG_USERAUTH_FAILURE]


def test_a_key_that_others_sign_with_waits(sshd: Sshd) -> None:
    """An agent may ask its user: the reader thread signs, and the caller can give up."""

    class AgentKey(paramiko.Ed25519Key):
        pass

    with transport_to(sshd.host, sshd.port) as transport:
        transport.auth_publickey(sshd.username, AgentKey.from_private_key_file(sshd.client_key))
        assert transport.seen == [*LATE, MSG_USERAUTH_SUCCESS]


def test_a_server_of_another_kind_is_asked_first() -> None:
    with AuthServer(password="secret") as server:
        with transport_to("127.0.0.1", server.port) as transport:
            transport.auth_password("me", "secret")
            assert transport.seen == [*LATE, MSG_USERAUTH_SUCCESS]


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


def test_no_early_request_is_kept(sshd: Sshd) -> None:
    """One that is never sent is forgotten, with the password in it."""
    with transport_to(sshd.host, sshd.port) as transport:
        with pytest.raises(TypeError):
            transport.auth_password(sshd.username, object())
        assert transport._early_request is None
