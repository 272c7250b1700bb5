"""
Identity files, certificates and agent keys, in the order they are shown to a server.

Whatever is wrong with a key file is one error that names the file and the reason, the same on
every paramiko.
"""

from __future__ import annotations

import base64
import binascii
import copy
import io
import logging
import os
import struct
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple, TypeVar, Union

import paramiko
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from ssh_service.connect.agent import AgentError, AgentKey, list_keys
from ssh_service.errors import SshConfigError, SshConnectError
from ssh_service.known_hosts import fingerprint
from ssh_service.params import ConnectParams, key_sources
from ssh_service.secret import Secret

__all__ = ["Credentials", "Identity", "load_key"]

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_MAX_KEY_FILE = 1 << 20
_OPENSSH_MAGIC = b"openssh-key-v1\0"
_PLAIN_TYPES = ("ssh-", "ecdsa-", "sk-")


class Identity(NamedTuple):
    """A key to show, and its name for people."""

    label: str
    key: paramiko.PKey


class _KeyText(NamedTuple):
    """What a key file says without its passphrase."""

    is_encrypted: bool
    public_blob: Optional[bytes]
    is_public: bool


def deliver(name: str, value: Union[_T, Callable[[], Any]], connection_id: str) -> Any:
    """
    Ask a callable for a credential; anything else is the credential itself.

    Parameters
    ----------
    name : str
        The setting's name.
    value : Union[_T, Callable[[], Any]]
        What was given.
    connection_id : str
        For the error.

    Returns
    -------
    Any
        The credential.

    Raises
    ------
    SshConnectError
        The callable raised.  Its own error is the cause; its text may hold a secret, so the
        message names the class only.
    """
    if isinstance(value, (Secret, paramiko.PKey)) or not callable(value):
        return value
    try:
        return value()
    except Exception as error:
        raise SshConnectError(
            f"{connection_id}: the callable given as {name} raised {type(error).__name__}",
            connection_id=connection_id,
            phase="auth",
        ) from error


def secret_text(name: str, value: Any) -> Optional[str]:
    """
    Take the text out of a secret, however it was delivered.

    Parameters
    ----------
    name : str
        The setting's name.
    value : Any
        None, text, bytes or a `Secret`.

    Returns
    -------
    Optional[str]
        The text.

    Raises
    ------
    SshConfigError
        It is something else.
    """
    if value is None:
        return None
    if isinstance(value, (str, bytes)):
        value = Secret(value)
    if not isinstance(value, Secret):
        raise SshConfigError(f"{name}: the callable returned a {type(value).__name__}, not a text")
    return value.reveal()


class Credentials:
    """
    What one dial may show to a server.

    Explicit keys are loaded by the constructor, before anything is connected: a wrong file costs
    the server nothing.  The default identity files are read only when it comes to them.

    Parameters
    ----------
    params : ConnectParams
        The destination.
    deadline : float
        Monotonic instant until which an agent may take its time.

    Raises
    ------
    SshConfigError
        A key the caller named cannot be used.
    SshConnectError
        A callable that should deliver a credential raised.

    Notes
    -----
    *Thread safety*: belongs to one dial.
    """

    def __init__(self, params: ConnectParams, deadline: float) -> None:
        self._params = params
        self._deadline = deadline
        self._agent_keys: Optional[List[AgentKey]] = None
        self._passphrase: Any = params.passphrase
        self._certificates: Optional[Dict[bytes, List[Tuple[str, bytes]]]] = None
        self.skipped: List[str] = []
        given = deliver("client_keys", params.client_keys, params.connection_id)
        if given is not None and callable(params.client_keys):
            given = key_sources("client_keys", given)
        self._explicit: Optional[List[Identity]] = None
        if given is not None and "publickey" in params.preferred_auth:
            self._explicit = [one for source in given for one in self._load_explicit(source)]

    def password(self) -> Optional[str]:
        """
        Return the password, asked of the callable where it is one.

        Returns
        -------
        Optional[str]
            None where there is none.
        """
        params = self._params
        value = deliver("password", params.password, params.connection_id)
        return secret_text("password", value)

    def identities(self) -> Iterator[Identity]:
        """
        Yield the keys to show, best first, none twice.

        Yields
        ------
        Identity
            Explicit keys (or ssh_config's), then the agent's, then the default files.
        """
        seen = set()
        for identity in self._ordered():
            certificate = getattr(identity.key, "public_blob", None)
            blob = certificate.key_blob if certificate else identity.key.asbytes()
            if blob not in seen:
                seen.add(blob)
                yield identity

    def _ordered(self) -> Iterator[Identity]:
        params = self._params
        if self._explicit is not None:
            yield from self._explicit
            if not params.identities_only:
                yield from self._from_agent(None)
            return
        if params.identities_configured:
            yield from self._from_files()
            if not params.identities_only:
                yield from self._from_agent(None)
            return
        yield from self._from_agent(None if not params.identities_only else self._public_blobs())
        yield from self._from_files()

    # --- the agent

    def _agent(self) -> List[AgentKey]:
        if self._agent_keys is None:
            self._agent_keys = []
            if self._params.agent_path is not None:
                try:
                    self._agent_keys = list_keys(self._params.agent_path, self._deadline)
                except AgentError as error:
                    _log.debug("%s: %s", self._params.connection_id, error)
                    self.skipped.append(str(error))
        return self._agent_keys

    def _from_agent(self, only: Optional[List[bytes]]) -> Iterator[Identity]:
        keys = [key for key in self._agent() if only is None or key.blob in only]
        # As ssh: a certificate before the plain keys.
        for key in sorted(keys, key=lambda key: "-cert-" not in key.name):
            yield Identity(f"agent key {fingerprint(key.blob)} ({key.comment})", key)

    def _held_by_agent(self, blob: Optional[bytes], label: str) -> Iterator[Identity]:
        for key in self._agent():
            if blob is not None and key.blob == blob:
                yield from self._certified(Identity(f"{label} (in the agent)", key), None)

    # --- files

    def _public_blobs(self) -> List[bytes]:
        found = []
        for path in self._params.identity_files:
            try:
                blob = _inspect(_read(path), path).public_blob
            except SshConfigError:
                continue
            if blob is not None:
                found.append(blob)
        return found

    def _from_files(self) -> Iterator[Identity]:
        """Files nobody named in code: what is missing or locked is passed over, as in ssh."""
        for path in self._params.identity_files:
            if not os.path.exists(path):
                if os.path.exists(path + ".pub"):
                    yield from self._from_public_file(path + ".pub", path)
                continue
            try:
                yield from self._load_file(path)
            except SshConfigError as error:
                _log.debug("%s: %s", self._params.connection_id, error)
                self.skipped.append(str(error))

    def _from_public_file(self, public: str, path: str) -> Iterator[Identity]:
        try:
            yield from self._held_by_agent(_inspect(_read(public), public).public_blob, path)
        except SshConfigError as error:
            self.skipped.append(str(error))

    def _load_explicit(self, source: Any) -> Iterator[Identity]:
        certificate: Optional[str] = None
        if isinstance(source, tuple):
            source, certificate = source
        if isinstance(source, str):
            yield from self._load_file(source, certificate)
            return
        if isinstance(source, Secret):
            key = load_key(source.reveal_bytes(), "client_keys (in memory)", self._unlock)
        else:
            key = source
        label = f"key {fingerprint(key.asbytes())}"
        yield from self._certified(Identity(label, key), certificate)

    def _load_file(self, path: str, certificate: Optional[str] = None) -> Iterator[Identity]:
        data = _read(path)
        facts = _inspect(data, path)
        if facts.is_public or (facts.is_encrypted and self._unlock() is None):
            held = list(self._held_by_agent(facts.public_blob, path))
            if held:
                yield from held
                return
        if facts.is_public:
            raise SshConfigError(
                f"key file {path!r} is a public key, and no agent holds its private key"
            )
        _warn_if_open(path)
        key = load_key(data, path, self._unlock)
        beside = certificate
        if beside is None and os.path.exists(path + "-cert.pub"):
            beside = path + "-cert.pub"
        yield from self._certified(Identity(path, key), beside)

    def _unlock(self) -> Optional[str]:
        """Ask for the passphrase once per dial, and only if a key needs it."""
        if callable(self._passphrase) and not isinstance(self._passphrase, Secret):
            value = deliver("passphrase", self._passphrase, self._params.connection_id)
            text = secret_text("passphrase", value)
            self._passphrase = None if text is None else Secret(text)
        return secret_text("passphrase", self._passphrase)

    # --- certificates

    def _certified(self, plain: Identity, path: Optional[str]) -> Iterator[Identity]:
        """Yield the key with its certificates first, then alone."""
        if getattr(plain.key, "public_blob", None):
            yield plain
            return
        paths = list(self._params.certificate_files)
        if path is not None:
            paths.insert(0, path)
        for one in dict.fromkeys(paths):
            try:
                key_type, blob = _read_certificate(one)
                if not _certifies(blob, plain.key.asbytes()):
                    if one == path:
                        raise SshConfigError(
                            f"certificate {one!r} is not of the key {plain.label}"
                        )
                    continue
            except SshConfigError:
                if one == path and path + "" != plain.label + "-cert.pub":
                    raise
                _log.warning("certificate %r passed over", one, exc_info=True)
                continue
            if isinstance(plain.key, AgentKey):
                key: paramiko.PKey = _CertifiedAgentKey(plain.key, key_type, blob)
            else:
                key = copy.copy(plain.key)
                key.load_certificate(paramiko.Message(blob))
            yield Identity(f"{plain.label} with certificate {one}", key)
        yield plain


class _CertifiedAgentKey(AgentKey):
    """A plain key in an agent, shown with a certificate from a file."""

    def __init__(self, plain: AgentKey, key_type: str, certificate: bytes) -> None:
        super().__init__(plain.path, plain.blob, plain.comment, plain.deadline)
        self.public_blob = paramiko.pkey.PublicBlob(key_type, certificate)


def load_key(data: bytes, label: str, passphrase: Callable[[], Optional[str]]) -> paramiko.PKey:
    """
    Load a private key in any format paramiko or OpenSSH writes.

    Parameters
    ----------
    data : bytes
        The file's content.
    label : str
        The file's name, for the error.
    passphrase : Callable[[], Optional[str]]
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
    facts = _inspect(data, label)
    if facts.is_public:
        raise SshConfigError(f"key file {label!r} is a public key, needs the private one")
    password: Optional[bytes] = None
    if facts.is_encrypted:
        text = passphrase()
        if not text:
            raise SshConfigError(f"key file {label!r} is encrypted and no passphrase was given")
        password = text.encode("utf-8", "surrogateescape")
    try:
        if b"BEGIN OPENSSH PRIVATE KEY" in data:
            loaded: Any = serialization.load_ssh_private_key(data, password)
        else:
            loaded = serialization.load_pem_private_key(data, password)
        return _to_paramiko(loaded)
    except UnsupportedAlgorithm as error:
        raise SshConfigError(f"key file {label!r} is of an unsupported type: {error}") from None
    except (ValueError, TypeError, struct.error, paramiko.SSHException) as error:
        if facts.is_encrypted:
            reason = "cannot be decrypted: wrong passphrase, or the file is damaged"
        else:
            reason = f"is damaged or no private key ({_short(error)})"
        # Not chained: the frames below hold the passphrase.
        raise SshConfigError(f"key file {label!r} {reason}") from None


def _to_paramiko(loaded: Any) -> paramiko.PKey:
    if isinstance(loaded, rsa.RSAPrivateKey):
        return paramiko.RSAKey(key=loaded)
    if not isinstance(loaded, (ec.EllipticCurvePrivateKey, ed25519.Ed25519PrivateKey)):
        name = type(loaded).__name__.strip("_").replace("PrivateKey", "")
        raise UnsupportedAlgorithm(f"{name}; RSA, ECDSA and Ed25519 are supported")
    plain = loaded.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    file = io.StringIO(plain.decode("ascii"))
    if isinstance(loaded, ed25519.Ed25519PrivateKey):
        return paramiko.Ed25519Key.from_private_key(file)
    return paramiko.ECDSAKey.from_private_key(file)


def _short(error: BaseException) -> str:
    return str(error).split("\n")[0][:100] or type(error).__name__


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_MAX_KEY_FILE)
    except OSError as error:
        reason = error.strerror or str(error)
        raise SshConfigError(f"key file {path!r} cannot be read: {reason}") from error


def _inspect(data: bytes, label: str) -> _KeyText:
    text = data.lstrip()
    if text.startswith(b"PuTTY-User-Key-File"):
        raise SshConfigError(
            f"key file {label!r} is in PuTTY's format, which is not supported: "
            f"export it with puttygen -O private-openssh-new"
        )
    if b"BEGIN OPENSSH PRIVATE KEY" in data:
        return _inspect_openssh(data, label)
    if b"PRIVATE KEY-----" in data:
        locked = b"BEGIN ENCRYPTED PRIVATE KEY" in data or b"Proc-Type: 4,ENCRYPTED" in data
        return _KeyText(locked, None, False)
    words = text.split(None, 2)
    if len(words) >= 2 and words[0].decode("ascii", "replace").startswith(_PLAIN_TYPES):
        try:
            return _KeyText(False, base64.b64decode(words[1], validate=True), True)
        except binascii.Error:
            pass
    raise SshConfigError(f"key file {label!r} is no private key")


def _inspect_openssh(data: bytes, label: str) -> _KeyText:
    try:
        begin = data.index(b"KEY-----") + len(b"KEY-----")
        end = data.index(b"-----END", begin)
        raw = base64.b64decode(data[begin:end])
        if not raw.startswith(_OPENSSH_MAGIC):
            raise ValueError("no magic")
        message = paramiko.Message(raw[len(_OPENSSH_MAGIC) :])
        cipher = message.get_string()
        message.get_string()
        message.get_string()
        message.get_int()
        blob = message.get_string()
        key_type = paramiko.Message(blob).get_string().decode("ascii", "replace")
    except (ValueError, struct.error) as error:
        raise SshConfigError(f"key file {label!r} is damaged ({_short(error)})") from None
    if key_type.startswith("sk-"):
        raise SshConfigError(
            f"key file {label!r} is of an unsupported type: {key_type} needs its token; "
            f"add it to an agent"
        )
    if key_type == "ssh-dss":
        raise SshConfigError(f"key file {label!r} is of an unsupported type: {key_type}")
    return _KeyText(cipher != b"none", blob, False)


def _warn_if_open(path: str) -> None:
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return
    if os.name == "posix" and mode & 0o077:
        _log.warning("key file %s can be read by others (mode %04o)", path, mode & 0o7777)


def _read_certificate(path: str) -> Tuple[str, bytes]:
    words = _read(path).split(None, 2)
    try:
        key_type = words[0].decode("ascii")
        blob = base64.b64decode(words[1], validate=True)
        if "-cert-" not in key_type or paramiko.Message(blob).get_text() != key_type:
            raise ValueError
    except (IndexError, ValueError, struct.error):
        raise SshConfigError(f"certificate {path!r} is no OpenSSH certificate") from None
    return key_type, blob


def _certifies(certificate: bytes, plain: bytes) -> bool:
    """Tell whether a certificate holds a plain public key: type, nonce, then the key's fields."""
    message, key = paramiko.Message(certificate), paramiko.Message(plain)
    key_type = message.get_text()
    if key_type.replace("-cert-v01@openssh.com", "") != key.get_text():
        return False
    message.get_string()
    return bool(message.get_remainder().startswith(key.get_remainder()))
