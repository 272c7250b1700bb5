"""
Which algorithms are offered to a server: strong ones only, fast ones first.

The algorithms of the installed paramiko are read from its public `SecurityOptions`, never
assumed from its version.
"""

from __future__ import annotations

import functools
import socket
from typing import Dict, Iterable, List, Optional, Sequence, Tuple, Union

import paramiko
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.poly1305 import Poly1305

from ssh_service.errors import SshConfigError
from ssh_service.patterns import is_match

__all__ = [
    "CA_SIGNATURES",
    "CERTIFICATE",
    "CHACHA20_POLY1305",
    "KINDS",
    "choose",
    "default",
    "has_chacha20_poly1305",
    "rsa_bits",
    "select",
    "select_signatures",
    "supported",
]

CERTIFICATE = "-cert-v01@openssh.com"  # ends the name of a key type that is a certificate's

CHACHA20_POLY1305 = "chacha20-poly1305@openssh.com"

# Strong and fast first: AES-GCM needs no MAC of its own and is several times faster here.
_STRONG: Dict[str, Tuple[str, ...]] = {
    "encryption_algs": (
        "aes128-gcm@openssh.com",
        "aes256-gcm@openssh.com",
        "aes128-ctr",
        "aes192-ctr",
        "aes256-ctr",
        CHACHA20_POLY1305,
    ),
    "kex_algs": (
        "mlkem768x25519-sha256",
        "curve25519-sha256",
        "curve25519-sha256@libssh.org",
        "ecdh-sha2-nistp256",
        "ecdh-sha2-nistp384",
        "ecdh-sha2-nistp521",
        "diffie-hellman-group16-sha512",
        "diffie-hellman-group-exchange-sha256",
        "diffie-hellman-group14-sha256",
    ),
    "mac_algs": (
        "hmac-sha2-256-etm@openssh.com",
        "hmac-sha2-512-etm@openssh.com",
        "hmac-sha2-256",
        "hmac-sha2-512",
    ),
    "server_host_key_algs": (
        "ssh-ed25519",
        "ecdsa-sha2-nistp256",
        "ecdsa-sha2-nistp384",
        "ecdsa-sha2-nistp521",
        "rsa-sha2-512",
        "rsa-sha2-256",
    ),
    "compression_algs": ("none",),
}

# By which a certificate may be signed; as ssh's CASignatureAlgorithms: no SHA-1.
CA_SIGNATURES = _STRONG["server_host_key_algs"]

# By which a user's key may sign: ssh's default, and what more it knows.
_SIGNATURES = tuple(name + end for name in CA_SIGNATURES for end in ("", CERTIFICATE)) + (
    "sk-ssh-ed25519@openssh.com",
    "sk-ssh-ed25519-cert-v01@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "sk-ecdsa-sha2-nistp256-cert-v01@openssh.com",
)
_OLD_SIGNATURES = ("ssh-rsa", "ssh-rsa" + CERTIFICATE, "ssh-dss", "ssh-dss" + CERTIFICATE)

# On offer only to those who ask for them by name.
_OTHER: Dict[str, Tuple[str, ...]] = {
    "encryption_algs": ("aes128-cbc", "aes192-cbc", "aes256-cbc", "3des-cbc"),
    "kex_algs": (
        "diffie-hellman-group-exchange-sha1",
        "diffie-hellman-group14-sha1",
        "diffie-hellman-group1-sha1",
    ),
    "mac_algs": ("hmac-sha1", "hmac-sha1-96", "hmac-md5", "hmac-md5-96"),
    "server_host_key_algs": tuple(name + CERTIFICATE for name in _STRONG["server_host_key_algs"])
    + ("ssh-rsa", "ssh-dss"),
    "compression_algs": ("zlib@openssh.com", "zlib"),
}

# Added by `ssh_service.transport`, as paramiko knows it by another name only.
_CURVE25519 = "curve25519-sha256"

_OPTIONS = {
    "encryption_algs": "ciphers",
    "kex_algs": "kex",
    "mac_algs": "digests",
    "server_host_key_algs": "key_types",
    "compression_algs": "compression",
}

KINDS = tuple(_OPTIONS)


@functools.lru_cache(maxsize=None)
def supported(kind: str) -> Tuple[str, ...]:
    """List the algorithms of a kind that the installed paramiko has, and those that we add."""
    added = (_CURVE25519, CHACHA20_POLY1305) if has_chacha20_poly1305() else (_CURVE25519,)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        options = paramiko.Transport(ours).get_security_options()
        names = []
        for name in _STRONG[kind] + _OTHER[kind]:
            try:
                setattr(options, _OPTIONS[kind], (name,))
            except ValueError:
                if name not in added:
                    continue
            names.append(name)
    return tuple(names)


@functools.lru_cache(maxsize=None)
def has_chacha20_poly1305() -> bool:
    """Return whether the installed OpenSSL has this cipher, which is not so in FIPS mode."""
    try:
        Cipher(ChaCha20(bytes(32), bytes(16)), None).encryptor()
        Poly1305(bytes(32))
    except UnsupportedAlgorithm:
        return False
    return True


@functools.lru_cache(maxsize=None)
def default(kind: str) -> Tuple[str, ...]:
    """List the algorithms that are offered by default."""
    return tuple(name for name in _STRONG[kind] if name in supported(kind))


def choose(
    kind: str,
    wanted: Union[str, Iterable[str]],
    *,
    origin: Optional[str] = None,
) -> Tuple[str, ...]:
    """
    Turn what a caller or a file asks for into a list of algorithms.

    Raises
    ------
    SshConfigError
        A name that does not exist here, or nothing left; the message lists what there is.

    """
    prefix = ""
    if isinstance(wanted, str):
        if wanted[:1] in ("+", "-", "^"):
            prefix, wanted = wanted[0], wanted[1:]
        wanted = [name.strip() for name in wanted.split(",")]
    names = [name for name in wanted if name]
    if prefix == "-":
        left = [n for n in default(kind) if not any(is_match(n, pattern) for pattern in names)]
        return _checked(kind, left, names, origin)
    known = _known(kind, names, lenient=origin is not None)
    if prefix == "+":
        known = list(default(kind)) + known
    elif prefix == "^":
        known = known + list(default(kind))
    return _checked(kind, known, names, origin)


def _known(kind: str, names: Sequence[str], *, lenient: bool) -> List[str]:
    found: List[str] = []
    for name in names:
        # Two names for one algorithm: servers know both, or either.
        aliases = [n for n in supported(kind) if n in (name, name + "@libssh.org")]
        if not aliases and not lenient:
            raise SshConfigError(
                f"{kind}: {name!r} is not an algorithm of the installed paramiko; "
                f"those are: {', '.join(supported(kind))}"
            )
        found.extend(aliases)
    return found


def _checked(
    kind: str, names: Sequence[str], wanted: Sequence[str], origin: Optional[str]
) -> Tuple[str, ...]:
    unique = tuple(dict.fromkeys(names))
    if not unique:
        where = f"{origin}: " if origin else ""
        raise SshConfigError(
            f"{where}{kind}: nothing is left of {','.join(wanted)!r}; "
            f"the installed paramiko has: {', '.join(supported(kind))}"
        )
    return unique


def select(wanted: str, usual: Sequence[str], known: Sequence[str]) -> Tuple[str, ...]:
    """Read a list of patterns as ssh_config writes it."""
    prefix = wanted[:1] if wanted[:1] in ("+", "-", "^") else ""
    patterns = [word.strip() for word in wanted[len(prefix) :].split(",")]
    named = [name for pattern in patterns for name in known if is_match(name, pattern)]
    if prefix == "-":
        found = [name for name in usual if name not in named]
    elif prefix == "+":
        found = [*usual, *named]
    elif prefix == "^":
        found = [*named, *usual]
    else:
        found = named
    return tuple(dict.fromkeys(found))


def select_signatures(wanted: str) -> Tuple[str, ...]:
    """Read ssh_config's ``PubkeyAcceptedAlgorithms``."""
    return select(wanted, _SIGNATURES, _SIGNATURES + _OLD_SIGNATURES)


def rsa_bits(blob: bytes) -> Optional[int]:
    """Measure an RSA key."""
    message = paramiko.Message(blob)
    name = message.get_text()
    if name not in ("ssh-rsa", "ssh-rsa" + CERTIFICATE):
        return None
    if name.endswith(CERTIFICATE):
        message.get_string()  # the nonce
    message.get_mpint()  # the exponent
    return int(message.get_mpint()).bit_length()
