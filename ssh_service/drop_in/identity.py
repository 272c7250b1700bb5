"""The values that must be equal for two clients to share a connection."""

from __future__ import annotations

import os
from typing import Any, Callable, Dict, Tuple

from ssh_service import local_paths
from ssh_service.params.identity import client_keys_identity
from ssh_service.secret import Secret, keyed_digest
from ssh_service.user_files import default_agent

# The default paths where paramiko looks for keys.
_DEFAULT_KEYS = [
    f"~/{folder}/id_{kind}"
    for kind in ("rsa", "dsa", "ecdsa", "ed25519")
    for folder in (".ssh", "ssh")
]
_CERTIFICATE_SUFFIX = "-cert.pub"


def credentials_identity(arguments: Dict[str, Any]) -> Tuple[Any, ...]:
    """
    Return an identity of a client's credentials: equal only for clients with the same secrets.

    Credentials that cannot be compared (a key in a token, an unreadable file, a password that is
    not text) get an identity that equals no other; if they are invalid, the login reports it.
    """
    return (
        _secret(arguments["password"]),
        _secret(arguments["passphrase"]),
        _or_unique(lambda: _key(arguments["pkey"])),
        _or_unique(lambda: _files(arguments["key_filename"])),
        default_agent() if arguments["allow_agent"] else None,
        _or_unique(_default_files) if arguments["look_for_keys"] else None,
    )


def algorithms_identity(arguments: Dict[str, Any], preferred: Tuple[Any, ...]) -> Tuple[Any, ...]:
    """Return an identity of the algorithms that a connection may use."""
    disabled = arguments["disabled_algorithms"]
    return (
        bool(arguments["compress"]),
        _or_unique(
            lambda: tuple(sorted((kind, tuple(names)) for kind, names in (disabled or {}).items()))
        ),
        preferred,
    )


def _or_unique(identity: Callable[[], Any]) -> Any:
    try:
        found = identity()
        hash(found)
        return found
    except Exception:  # noqa: B902  (whatever is wrong, the login reports it)
        return object()


def _secret(value: Any) -> Any:
    if value is None:
        return None
    if isinstance(value, (str, bytes)):
        return (type(value).__name__, Secret(value).digest)
    return object()


def _key(key: Any) -> Any:
    return None if key is None else client_keys_identity((key,), ())


def _files(names: Any) -> Any:
    if names is None:
        return None
    paths = [names] if isinstance(names, str) else list(names)
    return tuple(_file(path) for path in paths)


def _file(path: str) -> Any:
    """Return an identity of a private key and its certificate; paramiko accepts either's name."""
    if path.endswith(_CERTIFICATE_SUFFIX):
        return ("certificate", _file(path[: -len(_CERTIFICATE_SUFFIX)]))
    identity = client_keys_identity((path,), ())
    if identity[0][1] is None:
        raise OSError(f"cannot be read: {path}")
    return identity


def _default_files() -> Any:
    paths = [os.path.expanduser(path) for path in _DEFAULT_KEYS]
    return client_keys_identity(tuple(path for path in paths if local_paths.is_file(path)), ())


def name_digest(*names: str) -> str:
    """Return a digest of names that may contain secrets, such as arguments of a proxy command."""
    return keyed_digest("\0".join(names).encode("utf-8", "surrogateescape"))
