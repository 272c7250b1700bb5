"""
Private keys, public keys and certificates in files.

Every problem is reported as an error that names the file and the reason, the same with every
paramiko release: see docs/paramiko_repairs.md#key-file-errors.
"""

from __future__ import annotations

import base64
import binascii
import errno
import functools
import hashlib
import inspect
import io
import logging
import os
import stat
import struct
from typing import Any, Callable, Dict, NamedTuple, Optional, Set, Tuple, Union

import paramiko
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from ssh_service.algorithms import CERTIFICATE
from ssh_service.errors import SshConfigError, SshConnectError
from ssh_service.secret import Secret

__all__ = [
    "KeyFacts",
    "KeyFile",
    "certifies",
    "check_mode",
    "inspect_key",
    "load_key",
    "token_required_error",
    "read_certificate",
    "read_file",
]

_log = logging.getLogger(__name__)

_MAX_SIZE = 1 << 20
_OPENSSH_MAGIC = b"openssh-key-v1\0"
_PUBLIC = ("ssh-", "ecdsa-", "sk-")
_SUPPORTED = (
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
)
_ED25519 = b"\0\0\0\x0bssh-ed25519"  # the beginning of such a public key

# Digests of files whose RSA keys were found valid.  Checking one takes 40 to 300 ms, so it is done
# once, not for each connection.  A set's `add` and `in` are atomic.
_valid_rsa_keys: Set[bytes] = set()
_MAX_VALID_RSA_KEYS = 10_000
# From cryptography 39 and 45 on.
_SKIP_RSA_CHECK = "unsafe_skip_rsa_key_validation"


class KeyFile(NamedTuple):
    """The content and mode of a key file."""

    content: Secret  # even if the file holds a public key: the kind is known only later
    mode: int


class KeyFacts(NamedTuple):
    """The facts about a key file that can be read without its passphrase."""

    is_encrypted: bool
    is_public: bool
    public_blob: Optional[bytes]  # None: the format does not show the public key
    token_type: Optional[str] = None  # the key's type, if a hardware token has the private key
    key_type: Optional[str] = None  # None: the format does not show it
    cipher: Optional[str] = None  # None: likewise, or the key is not encrypted


def read_file(path: str) -> KeyFile:
    """
    Read a key file, up to 1 MiB.

    Raises
    ------
    SshConfigError
        The file is missing or cannot be read.
    SshConnectError
        The system has no file descriptor or memory left.
    """
    try:
        with open(path, "rb", opener=_open_nonblocking) as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                raise OSError(errno.EINVAL, "it is not a regular file")
            return KeyFile(Secret(file.read(_MAX_SIZE)), mode)
    except OSError as error:
        text = f"key file {path!r} cannot be read: {error.strerror or error}"
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):  # temporary
            raise SshConnectError(text, phase="auth") from error
        raise SshConfigError(text) from error


def _open_nonblocking(path: str, flags: int) -> int:
    """Open a file with `O_NONBLOCK`: otherwise, a FIFO would block until there is a writer."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def check_mode(path: str, mode: int) -> None:
    """
    Check the mode of a private key's file; log a warning if other users can read it.

    Raises
    ------
    SshConfigError
        Other users can write the file, and so could have replaced the key.
    """
    if os.name != "posix":
        return
    if mode & 0o022:
        raise SshConfigError(
            f"key file {path!r} can be written by others (mode {mode & 0o7777:04o}); chmod 600 it"
        )
    if mode & 0o077:
        _log.warning(
            "key file %s can be read by others (mode %04o); chmod 600 it", path, mode & 0o7777
        )


def inspect_key(content: Secret, label: str) -> KeyFacts:
    """
    Return the facts about a key file that need no passphrase.

    Raises
    ------
    SshConfigError
        The file does not hold a key, or a key of an unsupported kind.
    """
    found = _inspect(content.reveal_bytes(), label)
    if isinstance(found, SshConfigError):
        raise found  # not raised in `_inspect`, whose frame holds the key's text
    return found


def _inspect(data: bytes, label: str) -> Union[KeyFacts, SshConfigError]:
    text = data.lstrip()
    if text.startswith(b"PuTTY-User-Key-File"):
        return SshConfigError(
            f"key file {label!r} is in PuTTY's format, which is not supported; "
            f"puttygen -O private-openssh-new converts it"
        )
    if b"-----BEGIN OPENSSH PRIVATE KEY" in data:
        return _inspect_openssh(data, label)
    if b"-----BEGIN DSA PRIVATE KEY" in data:
        return _unsupported(label, "ssh-dss")
    if b"PRIVATE KEY-----" in data:
        locked = b"-----BEGIN ENCRYPTED PRIVATE KEY" in data or b"4,ENCRYPTED" in data
        return KeyFacts(locked, False, None)
    words = text.split(None, 2)
    if len(words) >= 2 and words[0].decode("ascii", "replace").startswith(_PUBLIC):
        try:
            return KeyFacts(False, True, base64.b64decode(words[1], validate=True))
        except binascii.Error:
            pass
    return SshConfigError(f"key file {label!r} is not a private key")


def _inspect_openssh(data: bytes, label: str) -> Union[KeyFacts, SshConfigError]:
    try:
        begin = data.index(b"KEY-----") + len(b"KEY-----")
        raw = base64.b64decode(data[begin : data.index(b"-----END", begin)])
        if not raw.startswith(_OPENSSH_MAGIC):
            raise ValueError("no magic")
        message = paramiko.Message(raw[len(_OPENSSH_MAGIC) :])
        cipher = message.get_string()
        derivation = message.get_string()  # the function that makes a key of the passphrase
        message.get_string()  # its options
        count = message.get_int()
        if derivation != (b"none" if cipher == b"none" else b"bcrypt") or count != 1:
            raise ValueError("no such file is written")
        blob = message.get_string()
        key_type = paramiko.Message(blob).get_string().decode("ascii", "replace")
    except (ValueError, struct.error):
        return SshConfigError(f"key file {label!r} is damaged")
    if key_type == "ssh-dss":
        return _unsupported(label, key_type)
    token_type = key_type if key_type.startswith("sk-") else None
    is_encrypted = cipher != b"none"
    cipher_name = cipher.decode("ascii", "replace") if is_encrypted else None
    return KeyFacts(is_encrypted, False, blob, token_type, key_type, cipher_name)


def token_required_error(label: str, token_type: Optional[str]) -> SshConfigError:
    """Return the error for a key that needs its hardware token."""
    return SshConfigError(
        f"key file {label!r} has the type {token_type}, a FIDO key: ssh-add it to an agent"
    )


def _unsupported(label: str, what: str) -> SshConfigError:
    return SshConfigError(
        f"key file {label!r} has an unsupported type: expected RSA, ECDSA or Ed25519, got {what}"
    )


def _why_unsupported(label: str, facts: KeyFacts) -> SshConfigError:
    if facts.cipher and facts.key_type in _SUPPORTED:
        return SshConfigError(
            f"key file {label!r} is encrypted with {facts.cipher!r}, which is not supported; "
            f"ssh-keygen -p -Z aes256-ctr -f FILE encrypts it anew"
        )
    if facts.is_encrypted and not facts.key_type:
        return SshConfigError(f"key file {label!r} has an unsupported type or encryption")
    if facts.key_type and facts.key_type.isprintable():
        return _unsupported(label, facts.key_type)
    return _unsupported(label, "another type")


def load_key(
    content: Secret,
    label: str,
    passphrase: Callable[[], Optional[Secret]],
    facts: Optional[KeyFacts] = None,
) -> paramiko.PKey:
    """
    Load an RSA, ECDSA or Ed25519 private key in OpenSSH's format, PEM or PKCS #8.

    `passphrase` is called only if the key is encrypted.  `facts` are those of `inspect_key`, if
    they are known already.

    Raises
    ------
    SshConfigError
        The passphrase is missing or wrong, the type of the key is unsupported, or `content` is
        not a private key; the message names the reason.
    """
    facts = facts or inspect_key(content, label)
    if facts.is_public:
        raise SshConfigError(f"key file {label!r} is a public key, expected a private key")
    if facts.token_type:
        raise token_required_error(label, facts.token_type)
    secret = passphrase() if facts.is_encrypted else None
    if facts.is_encrypted and not secret:
        raise SshConfigError(f"key file {label!r} is encrypted and no passphrase was given")
    loaded = None if facts.is_encrypted else _decode_ed25519(content.reveal_bytes(), facts)
    loaded = loaded or _decode(content.reveal_bytes(), secret)
    if isinstance(loaded, paramiko.PKey):
        return loaded
    # Not raised in `_decode`, whose frame holds the passphrase.
    if loaded is UnsupportedAlgorithm:
        raise _why_unsupported(label, facts)
    if facts.is_encrypted:
        raise SshConfigError(
            f"key file {label!r} cannot be decrypted: wrong passphrase, or it is damaged"
        )
    raise SshConfigError(f"key file {label!r} is damaged")


def _decode_ed25519(data: bytes, facts: KeyFacts) -> Optional[paramiko.PKey]:
    """Return an Ed25519 key that is not encrypted; None for others, and where `_decode` is due."""
    if facts.public_blob is None or not facts.public_blob.startswith(_ED25519):
        return None
    try:  # paramiko reads this format itself, in a third of the time
        return paramiko.Ed25519Key.from_private_key(io.StringIO(data.decode("ascii")))
    except Exception:  # noqa: B902  (`_decode` knows what is wrong, or accepts it)
        return None


def _decode(data: bytes, secret: Optional[Secret]) -> Union[paramiko.PKey, type]:
    """Return the key, or the class of the exception."""
    read: Callable[..., Any] = serialization.load_pem_private_key
    if b"-----BEGIN OPENSSH PRIVATE KEY" in data:
        read = serialization.load_ssh_private_key
    digest = hashlib.sha256(data).digest()
    try:
        loaded = read(data, secret.reveal_bytes() if secret else None, **_options_of(read, digest))
        if isinstance(loaded, rsa.RSAPrivateKey):
            _remember_valid(digest)
            return paramiko.RSAKey(key=loaded)
        if not isinstance(loaded, (ec.EllipticCurvePrivateKey, ed25519.Ed25519PrivateKey)):
            return UnsupportedAlgorithm
        plain = loaded.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        )
        # The only format in which every paramiko release reads these two types.
        file = io.StringIO(plain.decode("ascii"))
        if isinstance(loaded, ed25519.Ed25519PrivateKey):
            return paramiko.Ed25519Key.from_private_key(file)
        return paramiko.ECDSAKey.from_private_key(file)
    except Exception as error:  # noqa: B902  (three libraries, each with its own)
        return type(error)


def _options_of(read: Callable[..., Any], digest: bytes) -> Dict[str, bool]:
    """Return what tells cryptography not to check again a key that is known to be valid."""
    return {_SKIP_RSA_CHECK: True} if digest in _valid_rsa_keys and _can_skip(read) else {}


@functools.lru_cache(maxsize=None)
def _can_skip(read: Callable[..., Any]) -> bool:
    try:
        return _SKIP_RSA_CHECK in inspect.signature(read).parameters
    except ValueError:  # a compiled function that does not show them
        return False


def _remember_valid(digest: bytes) -> None:
    if len(_valid_rsa_keys) >= _MAX_VALID_RSA_KEYS:
        _valid_rsa_keys.clear()
    _valid_rsa_keys.add(digest)


def read_certificate(path: str) -> Tuple[str, bytes]:
    """
    Return the type of a certificate, and the certificate in wire format.

    Raises
    ------
    SshConfigError
        The file cannot be read, or does not hold a certificate.
    """
    words = read_file(path).content.reveal_bytes().split(None, 2)
    try:
        key_type = words[0].decode("ascii")
        blob = base64.b64decode(words[1], validate=True)
        is_certificate = key_type.endswith(CERTIFICATE)
        if not is_certificate or paramiko.Message(blob).get_string() != words[0]:
            raise ValueError
    except (IndexError, ValueError, struct.error):
        raise SshConfigError(f"certificate {path!r} is not an OpenSSH certificate") from None
    return key_type, blob


def certifies(certificate: bytes, public_blob: bytes) -> bool:
    """Return whether a certificate is for a public key; both are in wire format."""
    message, key = paramiko.Message(certificate), paramiko.Message(public_blob)
    # For a key on a token, the certificate's type has the vendor's suffix only at its end.
    same_type = message.get_text() == key.get_text().replace("@openssh.com", "") + CERTIFICATE
    message.get_string()  # the nonce
    return same_type and bool(message.get_remainder().startswith(key.get_remainder()))
