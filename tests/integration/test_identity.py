"""Which callers share a connection: the identity of key objects in the connect key."""

from __future__ import annotations

import gc
from typing import Any, Callable, Dict, Type

import paramiko
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from ssh_service import params
from ssh_service.connect.agent import AgentKey
from ssh_service.errors import SshConfigError
from ssh_service.params import key_sources
from ssh_service.params.identity import client_keys_identity
from tests.keys import certify, generated, needs_ssh_keygen

pytestmark = needs_ssh_keygen

KINDS: Dict[str, Type[paramiko.PKey]] = {
    "ed25519": paramiko.Ed25519Key,
    "ecdsa": paramiko.ECDSAKey,
    "rsa": paramiko.RSAKey,
}


def private(kind: str, name: str = "identity-a") -> paramiko.PKey:
    """Load a private key anew: equal ones are different objects."""
    return KINDS[kind].from_private_key_file(str(generated(f"{name}-{kind}", kind)))


def public(kind: str, name: str = "identity-a") -> paramiko.PKey:
    """Make a key object of what everybody may know."""
    return KINDS[kind](data=private(kind, name).asbytes())


def key_of(*keys: Any) -> Any:
    return params.resolve({"host": "web", "config": None, "client_keys": list(keys)}).key


@pytest.mark.parametrize("kind", KINDS)
def test_public_key_object_is_refused(kind: str) -> None:
    """A public key alone borrowed its owner's connection."""
    for given in (public(kind), [public(kind)], [(public(kind), "/some/key-cert.pub")]):
        with pytest.raises(SshConfigError, match="a public key .SHA256:.* give the private key"):
            params.resolve({"host": "web", "config": None, "client_keys": given})


@pytest.mark.parametrize("kind", KINDS)
def test_public_key_of_a_callable_is_refused(kind: str) -> None:
    with pytest.raises(SshConfigError, match="give the private key"):
        key_sources("client_keys", public(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_public_key_never_gets_the_owners_connection(kind: str) -> None:
    """Even past the check of the settings: nothing public stands for a connection."""
    assert client_keys_identity((public(kind),), ()) != client_keys_identity((private(kind),), ())
    assert client_keys_identity((public(kind),), ()) != client_keys_identity((public(kind),), ())


@pytest.mark.parametrize("kind", KINDS)
def test_private_key_loaded_twice_is_one_identity(kind: str) -> None:
    assert private(kind) is not private(kind)
    assert key_of(private(kind)) == key_of(private(kind))
    assert hash(key_of(private(kind))) == hash(key_of(private(kind)))
    assert key_of(private(kind)) != key_of(private(kind, "identity-b"))


def test_ecdsa_key_with_a_foreign_public_half_differs() -> None:
    owner, stranger = private("ecdsa"), private("ecdsa", "identity-b")
    forged = paramiko.ECDSAKey(vals=(stranger.signing_key, owner.verifying_key))
    assert forged.asbytes() == owner.asbytes()
    assert key_of(forged) != key_of(owner)
    assert key_of(forged) != key_of(stranger)


@pytest.mark.parametrize("kind", KINDS)
def test_certificate_makes_another_identity(kind: str) -> None:
    certified = private(kind)
    path = certify(
        generated(f"identity-a-{kind}", kind), generated("ca"), host=False, principals="me"
    )
    certified.load_certificate(str(path))
    assert key_of(certified) != key_of(private(kind))


def agent_key(kind: str) -> paramiko.PKey:
    return AgentKey("/no/agent", private(kind).asbytes(), "comment", 0.0)


def paramikos_agent_key(kind: str) -> paramiko.PKey:
    return paramiko.AgentKey(None, private(kind).asbytes())


def foreign_key(kind: str) -> paramiko.PKey:
    class Signer(KINDS[kind]):  # type: ignore[misc,valid-type]
        """A key whose signatures another object makes."""

    return Signer(data=private(kind).asbytes())


@pytest.mark.parametrize("make", [agent_key, paramikos_agent_key, foreign_key])
@pytest.mark.parametrize("kind", KINDS)
def test_key_that_others_sign_for_counts_by_the_object(
    make: Callable[[str], paramiko.PKey], kind: str
) -> None:
    one, two = make(kind), make(kind)
    assert one == two  # to paramiko, which compares public halves
    assert key_of(one) == key_of(one) and hash(key_of(one)) == hash(key_of(one))
    assert key_of(one) != key_of(two)
    assert key_of(one) != key_of(private(kind))


def test_key_of_a_key_service_counts_by_the_object() -> None:
    class Remote(rsa.RSAPrivateKey):
        """Signs elsewhere, and gives its numbers to nobody."""

        key_size = 2048
        decrypt = private_bytes = sign = lambda *_: b""  # type: ignore[assignment]

        def private_numbers(self) -> Any:
            raise NotImplementedError

        def public_key(self) -> Any:
            return private("rsa").key.public_key()

        def __copy__(self) -> "Remote":
            return self

        def __deepcopy__(self, memo: Any) -> "Remote":
            return self

    one, two = paramiko.RSAKey(key=Remote()), paramiko.RSAKey(key=Remote())
    assert client_keys_identity((one,), ()) == client_keys_identity((one,), ())
    assert client_keys_identity((one,), ()) != client_keys_identity((two,), ())


def test_identity_keeps_its_object_alive() -> None:
    """The number of an object that is gone is soon another's."""
    identities = [client_keys_identity((agent_key("ed25519"),), ()) for _ in range(50)]
    gc.collect()
    assert len(set(identities)) == len(identities)


@pytest.mark.parametrize("kind", KINDS)
def test_identity_shows_nothing_of_the_private_half(kind: str) -> None:
    key: Any = private(kind)
    number_of: Dict[str, Callable[[], str]] = {
        "ed25519": lambda: key.sign_ssh_data(b"x").asbytes().hex(),
        "ecdsa": lambda: str(key.signing_key.private_numbers().private_value),
        "rsa": lambda: str(key.key.private_numbers().d),
    }
    number = number_of[kind]()
    assert number not in repr(tuple(key_of(key)))
