"""The forms in which users may pass private keys."""

from __future__ import annotations

import os
from typing import Any, Tuple, Union

import paramiko

from ssh_service import settings
from ssh_service.errors import SshConfigError
from ssh_service.known_hosts import fingerprint
from ssh_service.params.concealing import conceal_keys
from ssh_service.secret import Secret

__all__ = ["KeySource", "is_software_key", "key_sources"]

# A path, a key object, the text of a key file, or a pair of one of those and a certificate's path.
KeySource = Union[str, paramiko.PKey, Secret, Tuple[Any, str]]

_SOFTWARE_KEYS = {paramiko.RSAKey, paramiko.ECDSAKey, paramiko.Ed25519Key}


def key_sources(name: str, given: Any) -> Tuple[KeySource, ...]:
    """
    Normalize the private keys that a user passed.

    Parameters
    ----------
    name : str
        The setting's name, for errors.
    given : Any
        A path, a `paramiko.PKey`, the bytes (or a `Secret`) of a key file, a pair of one of those
        and the path of its certificate, or a list of any of these.

    Returns
    -------
    Tuple[KeySource, ...]
        The keys: paths are absolute, texts of key files are `Secret` objects.

    Raises
    ------
    SshConfigError
        The value has another form, or is a `PKey` without its private half.
    """
    given = conceal_keys(given)  # so that this frame does not show them either
    return _concealed_sources(name, given)


def _concealed_sources(name: str, given: Any) -> Tuple[KeySource, ...]:
    if isinstance(given, list) or (isinstance(given, tuple) and not _is_pair(given)):
        return tuple(source for one in given for source in _concealed_sources(name, one))
    if _is_pair(given):
        (source,) = _concealed_sources(name, given[0])
        return ((source, settings.path(name, given[1])),)
    if isinstance(given, paramiko.PKey):
        if is_software_key(given) and not given.can_sign():
            raise SshConfigError(
                f"{name}: a public key ({fingerprint(given.asbytes())}) is not enough; give the"
                " private key, or a key from an agent"
            )
        return (given,)
    if isinstance(given, Secret):
        return (settings.sendable(name, given),)
    if isinstance(given, (str, os.PathLike)):
        return (settings.path(name, given),)
    right = "a path, a paramiko.PKey, a callable that returns one, or a list of those"
    raise settings.invalid_type(name, given, right)


def is_software_key(key: paramiko.PKey) -> bool:
    """Return whether a key is of one of paramiko's own classes, which hold the private half."""
    return type(key) in _SOFTWARE_KEYS


def _is_pair(given: Any) -> bool:
    """Return whether this is a key with its certificate's path, and not a pair of two keys."""
    return (
        isinstance(given, tuple)
        and len(given) == 2
        and isinstance(given[1], (str, os.PathLike))
        and str(given[1]).endswith("-cert.pub")
    )
