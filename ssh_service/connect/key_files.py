"""
Private keys, public keys and certificates in files.

Whatever is wrong with one is a single error that names the file and the reason, the same on every
paramiko: see docs/paramiko_repairs.md#key-file-errors.
"""

from __future__ import annotations

import base64
import binascii
import errno
import io
import logging
import os
import stat
import struct
from typing import Any, Callable, NamedTuple, Optional, Tuple, Union

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


class KeyFile(NamedTuple):
    """A file as it was read."""

    content: Secret  # a public key's and a certificate's too: what it is shows later
    mode: int


class KeyFacts(NamedTuple):
    """What a key file tells without its passphrase."""

    is_encrypted: bool
    is_public: bool
    public_blob: Optional[bytes]  # None: the format hides it
    token_type: Optional[str] = None  # of a key whose private half is in a token


def read_file(path: str) -> KeyFile:
    """
    Read a key file.

    Parameters
    ----------
    path : str
        The file.

    Returns
    -------
    KeyFile
        Its content, up to 1 MiB.

    Raises
    ------
    SshConfigError
        It is missing or cannot be read.
    SshConnectError
        This process has no descriptor left to read it with.
    """
    try:
        with open(path, "rb", opener=_open_nonblocking) as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                raise OSError(errno.EINVAL, "it is not a regular file")
            return KeyFile(Secret(file.read(_MAX_SIZE)), mode)
    except OSError as error:
        text = f"key file {path!r} cannot be read: {error.strerror or error}"
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):  # it will pass
            raise SshConnectError(text, phase="auth") from error
        raise SshConfigError(text) from error


def _open_nonblocking(path: str, flags: int) -> int:
    """Open a file; without `O_NONBLOCK`, a fifo would wait for a writer, beyond any time limit."""
    return os.open(path, flags | os.O_NONBLOCK)


def check_mode(path: str, mode: int) -> None:
    """
    Refuse a private key that others may write; warn where they may read it.

    Parameters
    ----------
    path : str
        The file.
    mode : int
        Its mode.

    Raises
    ------
    SshConfigError
        Others than its owner could have put another key in its place.
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
    Tell what a key file holds.

    Parameters
    ----------
    content : Secret
        Its content.
    label : str
        Its name, for the error.

    Returns
    -------
    KeyFacts
        What can be seen without a passphrase.

    Raises
    ------
    SshConfigError
        It is no key, or of a kind that cannot be used.
    """
    found = _inspect(content.reveal_bytes(), label)
    if isinstance(found, SshConfigError):
        raise found  # here, not below: the frames down there hold the key's text
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
        message.get_string()  # the key derivation function
        message.get_string()  # its options
        message.get_int()  # the number of keys, always 1
        blob = message.get_string()
        key_type = paramiko.Message(blob).get_string().decode("ascii", "replace")
    except (ValueError, struct.error):
        return SshConfigError(f"key file {label!r} is damaged")
    if key_type == "ssh-dss":
        return _unsupported(label, key_type)
    token_type = key_type if key_type.startswith("sk-") else None
    return KeyFacts(cipher != b"none", False, blob, token_type)


def token_required_error(label: str, token_type: Optional[str]) -> SshConfigError:
    """
    Say that a key is of no use without its token.

    Parameters
    ----------
    label : str
        The key file's name.
    token_type : Optional[str]
        The key's type.

    Returns
    -------
    SshConfigError
        To be raised.
    """
    return SshConfigError(
        f"key file {label!r} is of a type that needs its token ({token_type}): add it to an agent"
    )


def _unsupported(label: str, what: str) -> SshConfigError:
    return SshConfigError(
        f"key file {label!r} is of an unsupported type: {what}; RSA, ECDSA and Ed25519 are known"
    )


def load_key(
    content: Secret, label: str, passphrase: Callable[[], Optional[Secret]]
) -> paramiko.PKey:
    """
    Load a private key: OpenSSH's format, PEM or PKCS #8.

    Parameters
    ----------
    content : Secret
        The file's content.
    label : str
        The file's name, for the error.
    passphrase : Callable[[], Optional[Secret]]
        Asked only if the key is encrypted.

    Returns
    -------
    paramiko.PKey
        An RSA, ECDSA or Ed25519 key.

    Raises
    ------
    SshConfigError
        It is encrypted and there is no passphrase or the wrong one, is of an unsupported type,
        or is no private key; the message says which.
    """
    facts = inspect_key(content, label)
    if facts.is_public:
        raise SshConfigError(f"key file {label!r} is a public key; give the private one")
    if facts.token_type:
        raise token_required_error(label, facts.token_type)
    secret = passphrase() if facts.is_encrypted else None
    if facts.is_encrypted and not secret:
        raise SshConfigError(f"key file {label!r} is encrypted and no passphrase was given")
    loaded = _decode(content.reveal_bytes(), secret)
    if isinstance(loaded, paramiko.PKey):
        return loaded
    # Raised here, not below: the frames down there know the passphrase.
    if loaded is UnsupportedAlgorithm:
        raise _unsupported(label, "not one of ours")
    if facts.is_encrypted:
        raise SshConfigError(
            f"key file {label!r} cannot be decrypted: wrong passphrase, or it is damaged"
        )
    raise SshConfigError(f"key file {label!r} is damaged")


def _decode(data: bytes, secret: Optional[Secret]) -> Union[paramiko.PKey, type]:
    """Return the key, or the type of the error in its place."""
    read: Callable[..., Any] = serialization.load_pem_private_key
    if b"-----BEGIN OPENSSH PRIVATE KEY" in data:
        read = serialization.load_ssh_private_key
    try:
        loaded = read(data, secret.reveal_bytes() if secret else None)
        if isinstance(loaded, rsa.RSAPrivateKey):
            return paramiko.RSAKey(key=loaded)
        if not isinstance(loaded, (ec.EllipticCurvePrivateKey, ed25519.Ed25519PrivateKey)):
            return UnsupportedAlgorithm
        plain = loaded.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        )
        # The one format in which every paramiko reads these two.
        file = io.StringIO(plain.decode("ascii"))
        if isinstance(loaded, ed25519.Ed25519PrivateKey):
            return paramiko.Ed25519Key.from_private_key(file)
        return paramiko.ECDSAKey.from_private_key(file)
    except Exception as error:  # noqa: B902  (three libraries, each with its own)
        return type(error)


def read_certificate(path: str) -> Tuple[str, bytes]:
    """
    Read a certificate.

    Parameters
    ----------
    path : str
        A ``-cert.pub`` file.

    Returns
    -------
    Tuple[str, bytes]
        Its type, and itself in wire format.

    Raises
    ------
    SshConfigError
        It cannot be read, or is none.
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
    """
    Tell whether a certificate is of a key.

    Parameters
    ----------
    certificate : bytes
        In wire format: type, nonce, the fields of the key, and more.
    public_blob : bytes
        The plain public key in wire format: type, the fields of the key.

    Returns
    -------
    bool
        Whether it holds that key.
    """
    message, key = paramiko.Message(certificate), paramiko.Message(public_blob)
    # Of a token's key the certificate's type has the vendor's suffix once, at its end.
    same_type = message.get_text() == key.get_text().replace("@openssh.com", "") + CERTIFICATE
    message.get_string()  # the nonce
    return same_type and bool(message.get_remainder().startswith(key.get_remainder()))
