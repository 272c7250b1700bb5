"""What stands for credentials in a connect key: equal for equal ones, and never a secret."""

from __future__ import annotations

import functools
import hashlib
import os
from typing import Any, Callable, Optional, Tuple, Union

from ssh_service.params.key_sources import KeySource
from ssh_service.secret import Secret, keyed_digest

__all__ = ["client_keys_identity", "hidden_identity", "object_identity"]


class _Same:
    """Stands for an object that cannot be hashed: equal to itself only."""

    def __init__(self, thing: Any) -> None:
        self.thing = thing

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.thing is self.thing

    def __hash__(self) -> int:
        return id(self.thing)


def object_identity(thing: Any) -> Any:
    """
    Stand for an object, such as a callable that delivers a credential.

    Parameters
    ----------
    thing : Any
        The object.

    Returns
    -------
    Any
        Hashable: the object itself where it can be.
    """
    try:
        hash(thing)
    except TypeError:
        return _Same(thing)
    return thing  # equality, not identity: `vault.password` is a new bound method each time


def hidden_identity(value: Any) -> Any:
    """
    Stand for a secret.

    Parameters
    ----------
    value : Any
        None, a `Secret`, or a callable that delivers one.

    Returns
    -------
    Any
        Hashable; a keyed digest in place of the secret.
    """
    return value.digest if isinstance(value, Secret) else object_identity(value)


def client_keys_identity(
    client_keys: Union[None, Tuple[KeySource, ...], Callable[[], Any]],
    identity_files: Tuple[str, ...],
) -> Any:
    """
    Stand for the keys of a connection.

    Parameters
    ----------
    client_keys : Union[None, Tuple[KeySource, ...], Callable[[], Any]]
        The caller's.
    identity_files : Tuple[str, ...]
        What is used where the caller gave none.

    Returns
    -------
    Any
        Hashable; another key in the same file makes it another.
    """
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
    blob = certificate.key_blob if certificate else b""
    return (source.get_name(), hashlib.sha256(source.asbytes() + blob).hexdigest())


def _file_identity(path: str) -> Optional[str]:
    try:
        facts = os.stat(path)
        return _content_digest(
            path, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_size, facts.st_ino
        )
    except OSError:
        return None  # what is wrong with it is told by the dial


@functools.lru_cache(maxsize=256)
def _content_digest(path: str, mtime_ns: int, ctime_ns: int, size: int, inode: int) -> str:
    with open(path, "rb") as file:
        return keyed_digest(file.read(1 << 20))
