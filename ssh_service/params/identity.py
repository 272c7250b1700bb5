"""
The identity of a credential in a connect key: equal for equal credentials, and never a secret.

A caller with an equal identity gets the connection that the credential opened, so an identity
must follow from something that only the credential's owner has: never only from a public key.
"""

from __future__ import annotations

import functools
import hashlib
import os
import stat
from typing import Any, Callable, Optional, Tuple, Union

import paramiko

from ssh_service.params.key_sources import KeySource, is_software_key
from ssh_service.secret import Secret, keyed_digest
from ssh_service.user_files import file_version

__all__ = ["client_keys_identity", "secret_identity", "object_identity"]

_CHALLENGE = os.urandom(32)


class _ById:
    """Stands for an object: equal to itself only, and keeps it alive, so that no id is reused."""

    def __init__(self, thing: Any) -> None:
        self.thing = thing

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ById) and other.thing is self.thing

    def __hash__(self) -> int:
        return id(self.thing)


def object_identity(thing: Any) -> Any:
    """Stand for an object, such as a callable that delivers a credential."""
    try:
        hash(thing)
    except TypeError:
        return _ById(thing)
    return thing  # equality, not identity: `vault.password` is a new bound method each time


def secret_identity(value: Any) -> Any:
    """Stand for a secret."""
    return value.digest if isinstance(value, Secret) else object_identity(value)


def client_keys_identity(
    client_keys: Union[None, Tuple[KeySource, ...], Callable[[], Any]],
    identity_files: Tuple[str, ...],
) -> Any:
    """Stand for the keys of a connection."""
    if client_keys is None:
        return tuple(_source_identity(path) for path in identity_files)
    if callable(client_keys):
        return object_identity(client_keys)
    return tuple(_source_identity(source) for source in client_keys)


def _source_identity(source: KeySource) -> Any:
    if isinstance(source, str):
        return (source, _file_identity(source), _file_identity(source + "-cert.pub"))
    if isinstance(source, Secret):
        return source.digest
    if isinstance(source, tuple):
        return (_source_identity(source[0]), source[1], _file_identity(source[1]))
    certificate = getattr(source, "public_blob", None)
    certified = hashlib.sha256(certificate.key_blob).hexdigest() if certificate else None
    return (_key_identity(source), certified)


def _key_identity(key: paramiko.PKey) -> Any:
    """Return a digest of the private half; where that is out of reach, the object itself."""
    if not is_software_key(key) or not key.can_sign():
        return _ById(key)  # not by its own `==`, which compares public halves
    if isinstance(key, paramiko.RSAKey):
        try:
            private = key.key.private_numbers()
        except Exception:  # noqa: B902  (the key is in a token or a key service; any type)
            return _ById(key)
        return keyed_digest(f"{key.get_name()} {private.d} {private.p} {private.q}".encode())
    if isinstance(key, paramiko.ECDSAKey):
        try:
            number = key.signing_key.private_numbers().private_value
        except Exception:  # noqa: B902  (as above)
            return _ById(key)
        # Both halves are given to an ECDSAKey apart, and need not belong together.
        return keyed_digest(f"{key.get_name()} {number} ".encode() + key.asbytes())
    # Ed25519 signatures are deterministic: one of a text that nobody else knows digests the
    # private half, which paramiko gives no access to.
    return keyed_digest(key.sign_ssh_data(_CHALLENGE).asbytes())


def _file_identity(path: str) -> Optional[str]:
    try:
        facts = os.stat(path)
        # Reading a fifo would wait for a writer, in the caller's thread.
        return _content_digest(path, file_version(facts)) if stat.S_ISREG(facts.st_mode) else None
    except OSError:
        return None  # the dial reports what is wrong with it


@functools.lru_cache(maxsize=256)
def _content_digest(path: str, version: Tuple[int, ...]) -> str:
    with open(path, "rb") as file:
        return keyed_digest(file.read(1 << 20))
