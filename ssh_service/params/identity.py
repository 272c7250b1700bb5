"""
The identity of a credential in a connect key: equal for equal credentials, and never a secret.

A caller with an equal identity gets the connection that was opened with the credential.  An
identity must therefore depend on something that only the credential's owner has; a public key is
not enough.
"""

from __future__ import annotations

import functools
import hashlib
import os
import stat
from typing import Any, Callable, Optional, Tuple, Union

import paramiko

from ssh_service.interruptions import raise_interruption
from ssh_service.params.key_sources import KeySource, is_software_key
from ssh_service.secret import Secret, keyed_digest
from ssh_service.user_files import file_version

__all__ = ["client_keys_identity", "secret_identity", "object_identity"]

_CHALLENGE = os.urandom(32)


class _ById:
    """Compares an object by identity, and keeps it alive, so that its id is not reused."""

    def __init__(self, thing: Any) -> None:
        self.thing = thing

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ById) and other.thing is self.thing

    def __hash__(self) -> int:
        return id(self.thing)


def object_identity(thing: Any) -> Any:
    """Return a hashable identity of an object, such as a callable that returns a credential."""
    try:
        hash(thing)
    except TypeError:
        return _ById(thing)
    return thing  # not `_ById`: `vault.password` is a new bound method on each access


def secret_identity(value: Any) -> Any:
    """Return a hashable identity of a secret, or of the callable that returns it."""
    return value.digest if isinstance(value, Secret) else object_identity(value)


def client_keys_identity(
    client_keys: Union[None, Tuple[KeySource, ...], Callable[[], Any]],
    identity_files: Tuple[str, ...],
) -> Any:
    """Return a hashable identity of the keys that a connection may log in with."""
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
    """Return a digest of the private half; if it cannot be read, an identity of the object."""
    if not is_software_key(key) or not key.can_sign():
        return _ById(key)  # not the key's own `==`, which compares public halves
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
        # An ECDSAKey is given its two halves separately, and they need not belong together.
        return keyed_digest(f"{key.get_name()} {number} ".encode() + key.asbytes())
    # Ed25519 signatures are deterministic: the signature of a secret text is a digest of the
    # private half, to which paramiko gives no access.
    return keyed_digest(key.sign_ssh_data(_CHALLENGE).asbytes())


def _file_identity(path: str) -> Optional[str]:
    try:
        facts = os.stat(path)
        # Reading a FIFO would block the caller's thread until a writer opens it.
        return _content_digest(path, file_version(facts)) if stat.S_ISREG(facts.st_mode) else None
    except OSError as error:
        raise_interruption(error)
        return None  # the dial reports why the file cannot be used


@functools.lru_cache(maxsize=256)
def _content_digest(path: str, version: Tuple[int, ...]) -> str:
    with open(path, "rb") as file:
        return keyed_digest(file.read(1 << 20))
