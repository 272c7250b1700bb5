"""The signature of a host key: by the algorithm that was agreed on, and by no other."""

from __future__ import annotations

from typing import Any, Optional, Type

import paramiko
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from paramiko.message import Message

from ssh_service.errors import SshConnectError, SshConnectionLost
from ssh_service.transport.agreement import check_host_key
from tests.faults.clients import Collector, connected, execute
from tests.faults.evil_ssh import EvilSsh, EvilTransport

RSA = paramiko.RSAKey.generate(2048)
HASHES: Any = {
    "ssh-rsa": hashes.SHA1,
    "rsa-sha2-256": hashes.SHA256,
    "rsa-sha2-512": hashes.SHA512,
}


class Liar(paramiko.RSAKey):
    """An RSA key that signs by an algorithm of its own choice, whatever was agreed on."""

    algorithm: Optional[str] = None

    def sign_ssh_data(self, data: bytes, algorithm: Optional[str] = None) -> Message:
        chosen = self.algorithm or algorithm or "rsa-sha2-512"
        m = Message()
        m.add_string(chosen)
        m.add_string(self.key.sign(data, padding.PKCS1v15(), HASHES[chosen]()))
        return m


def server_that_signs_by(algorithm: Optional[str]) -> Type[EvilTransport]:
    class Signing(EvilTransport):
        def start_server(self, *args: Any, **kwargs: Any) -> None:
            key = Liar(key=RSA.key)
            key.algorithm = algorithm
            self.show_key(key)
            super().start_server(*args, **kwargs)

    return Signing


@pytest.mark.parametrize("agreed", ["rsa-sha2-512", "rsa-sha2-256"])
def test_an_rsa_signature_as_agreed_is_accepted(agreed: str) -> None:
    with EvilSsh(transport_class=server_that_signs_by(None)) as server:
        with connected(server.port, key_types=[agreed]) as transport:
            assert transport.host_key_type == agreed
            transport.renegotiate_keys()
            assert execute(transport, "hello") == (0, b"hello")


@pytest.mark.parametrize(
    "agreed, signed",
    [
        ("rsa-sha2-512", "ssh-rsa"),
        ("rsa-sha2-256", "ssh-rsa"),
        ("rsa-sha2-512", "rsa-sha2-256"),
        ("rsa-sha2-256", "rsa-sha2-512"),
    ],
)
def test_a_signature_not_agreed_on_is_refused(agreed: str, signed: str) -> None:
    """CVE-2026-44405: paramiko takes what was never offered."""
    with EvilSsh(transport_class=server_that_signs_by(signed)) as server:
        with pytest.raises(
            SshConnectError, match=f"signature of {agreed}, got a .* and a {signed}"
        ):
            with connected(server.port, key_types=[agreed]):
                pass


@pytest.mark.parametrize("signed", ["ssh-rsa", "rsa-sha2-256"])
def test_a_signature_not_agreed_on_ends_a_rekey(signed: str) -> None:
    with EvilSsh(transport_class=server_that_signs_by(None)) as server:
        with connected(server.port, key_types=["rsa-sha2-512"]) as transport:
            key = Liar(key=RSA.key)
            key.algorithm = signed
            server.transports[0].show_key(key)
            sink = Collector(b"hello")
            with pytest.raises(SshConnectionLost) as caught:
                transport.renegotiate_keys()
            assert caught.value.reason == "protocol"
            assert f"got a ssh-rsa key and a {signed} signature" in str(caught.value)
            with pytest.raises(SshConnectionLost):
                transport.start_session(sink)


def parts(key_type: str, algorithm: str) -> Any:
    host_key, signature = Message(), Message()
    host_key.add_string(key_type)
    signature.add_string(algorithm)
    return host_key.asbytes(), signature.asbytes()


@pytest.mark.parametrize(
    "agreed, key_type, algorithm",
    [
        ("ssh-ed25519", "ssh-ed25519", "ssh-ed25519"),
        ("ssh-rsa", "ssh-rsa", "ssh-rsa"),
        ("rsa-sha2-512", "ssh-rsa", "rsa-sha2-512"),
        ("ecdsa-sha2-nistp256", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp256"),
        (
            "rsa-sha2-256-cert-v01@openssh.com",
            "ssh-rsa-cert-v01@openssh.com",
            "rsa-sha2-256",
        ),
        (
            "ssh-ed25519-cert-v01@openssh.com",
            "ssh-ed25519-cert-v01@openssh.com",
            "ssh-ed25519",
        ),
    ],
)
def test_check_host_key_takes_what_was_agreed(agreed: str, key_type: str, algorithm: str) -> None:
    check_host_key(agreed, *parts(key_type, algorithm))


@pytest.mark.parametrize(
    "agreed, key_type, algorithm",
    [
        ("ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp384"),
        ("ecdsa-sha2-nistp256", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384"),
        ("ssh-ed25519", "ssh-rsa", "rsa-sha2-512"),
        ("ssh-ed25519", "ssh-ed25519-cert-v01@openssh.com", "ssh-ed25519"),
        ("ssh-ed25519-cert-v01@openssh.com", "ssh-ed25519", "ssh-ed25519"),
        ("rsa-sha2-512", "ssh-rsa", "\x1b[31mssh-rsa"),
        ("rsa-sha2-512", "", ""),
    ],
)
def test_check_host_key_refuses_anything_else(agreed: str, key_type: str, algorithm: str) -> None:
    with pytest.raises(
        paramiko.SSHException, match="expected a host key and signature of"
    ) as caught:
        check_host_key(agreed, *parts(key_type, algorithm))
    assert str(caught.value).isprintable()
