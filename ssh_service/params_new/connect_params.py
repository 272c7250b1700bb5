"""
What makes two connections different: connect parameters, resolved once, and their key.

`resolve` joins what the caller gave with what ssh_config says, the caller's word first, and
refuses everything it does not understand.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shlex
import socket
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Tuple, Union

import paramiko

from ssh_service import algorithms, settings, ssh_config
from ssh_service.errors import SshConfigError
from ssh_service.known_hosts import POLICIES, HostKeyTrust, host_name
from ssh_service.secret import Secret, keyed_digest
from ssh_service.ssh_config import HostConfig, Value

__all__ = ["SETTINGS", "ConnectKey", "ConnectParams", "resolve"]

SETTINGS = (
    "host",
    "port",
    "username",
    "password",
    "client_keys",
    "passphrase",
    "identities_only",
    "agent_path",
    "kbdint_handler",
    "preferred_auth",
    "known_hosts",
    "host_key_policy",
    "host_key_alias",
    "host_key_fingerprints",
    "config",
    "config_exec",
    "tunnel",
    "proxy_command",
    "family",
    "local_addr",
    "encryption_algs",
    "kex_algs",
    "mac_algs",
    "server_host_key_algs",
    "compression_algs",
    "connect_timeout",
    "login_timeout",
    "keepalive_interval",
    "keepalive_count_max",
)

_AUTH_METHODS = ("publickey", "password", "keyboard-interactive")
_DEFAULT_IDENTITIES = ("id_rsa", "id_ecdsa", "id_ecdsa_sk", "id_ed25519", "id_ed25519_sk")
_MAX_HOPS = 16
_FAMILIES = {"any": 0, "inet": int(socket.AF_INET), "inet6": int(socket.AF_INET6)}
_ALGORITHM_KEYWORDS = {
    "encryption_algs": "ciphers",
    "kex_algs": "kexalgorithms",
    "mac_algs": "macs",
    "server_host_key_algs": "hostkeyalgorithms",
}
_MISSING = object()

Hidden = Union[None, Secret, Callable[[], Any]]
# A path, a key in hand, the text of a key file, or one of those with its certificate's path.
KeySource = Union[str, paramiko.PKey, Secret, Tuple[Any, str]]


class ConnectKey(NamedTuple):
    """
    Everything that makes two connections different; equal keys may share one.

    Secrets are in it as keyed digests of this process only.
    """

    destination: Tuple[str, str, int, str]
    credentials: Tuple[Any, ...]
    host_keys: Tuple[Any, ...]
    route: Tuple[Any, ...]
    algorithms: Tuple[Any, ...]
    keepalive: Tuple[Optional[float], int]

    def __repr__(self) -> str:
        host, _, port, username = self.destination
        return f"<ConnectKey {username}@{host}:{port}>"


@dataclass(frozen=True)
class ConnectParams:
    """
    One destination and everything needed to dial it; made by `resolve`.

    Attributes
    ----------
    host : str
        As the caller typed it (an alias of ssh_config, perhaps).
    hostname : str
        The name or address to dial.
    port : int
        TCP port.
    username : str
        The login name.
    client_keys : Union[None, Tuple[KeySource, ...], Callable[[], Any]]
        The caller's keys; None for ssh's own order (`identity_files`).
    identity_files : Tuple[str, ...]
        Identity files of ssh_config, or ssh's default names; need not exist.
    identities_configured : bool
        Whether `identity_files` are ssh_config's.
    certificate_files : Tuple[str, ...]
        ``CertificateFile`` of ssh_config.
    identities_only : bool
        Whether an agent offers only keys that are named by file too.
    agent_path : Optional[str]
        The agent's socket; None for no agent.
    password : Hidden
        A `Secret`, or a callable asked at each dial.
    passphrase : Hidden
        Of encrypted key files; as `password`.
    kbdint_handler : Optional[Callable[..., Any]]
        ``handler(name, instructions, [(prompt, echo), ...]) -> [answer, ...]``.
    preferred_auth : Tuple[str, ...]
        Methods to try, in order.
    known_hosts : HostKeyTrust
        How the host key is judged.
    host_key_alias : Optional[str]
        The name the host key is filed under.
    tunnel : Union[None, ConnectParams, paramiko.Transport]
        The jump host, or a connection in hand to go through.
    proxy_command : Optional[str]
        A command whose stdin and stdout are the connection.
    family : int
        A `socket` address family; 0 for any.
    local_addr : Optional[Tuple[str, int]]
        The address to dial from.
    encryption_algs, kex_algs, mac_algs, server_host_key_algs, compression_algs : Tuple[str, ...]
        Algorithms to offer, in order.
    connect_timeout : float
        Seconds from the name to authenticated, jump hosts included.
    login_timeout : Optional[float]
        Seconds from TCP connected to authenticated, within `connect_timeout`.
    keepalive_interval : Optional[float]
        Seconds of silence before the server is asked for a sign of life; None for never.
    keepalive_count_max : int
        Unanswered questions after which the connection is lost.

    Notes
    -----
    *Thread safety*: immutable.
    """

    host: str
    hostname: str
    port: int
    username: str
    client_keys: Union[None, Tuple[KeySource, ...], Callable[[], Any]]
    identity_files: Tuple[str, ...]
    identities_configured: bool
    certificate_files: Tuple[str, ...]
    identities_only: bool
    agent_path: Optional[str]
    password: Hidden
    passphrase: Hidden
    kbdint_handler: Optional[Callable[..., Any]]
    preferred_auth: Tuple[str, ...]
    known_hosts: HostKeyTrust
    host_key_alias: Optional[str]
    tunnel: Union[None, ConnectParams, paramiko.Transport]
    proxy_command: Optional[str]
    family: int
    local_addr: Optional[Tuple[str, int]]
    encryption_algs: Tuple[str, ...]
    kex_algs: Tuple[str, ...]
    mac_algs: Tuple[str, ...]
    server_host_key_algs: Tuple[str, ...]
    compression_algs: Tuple[str, ...]
    connect_timeout: float
    login_timeout: Optional[float]
    keepalive_interval: Optional[float]
    keepalive_count_max: int

    @property
    def connection_id(self) -> str:
        """The connection's name for people: ``user@host:port``."""
        return f"{self.username}@{self.host}:{self.port}"

    @property
    def host_key_policy(self) -> str:
        """``strict``, ``accept-new`` or ``off``."""
        return self.known_hosts.policy

    @property
    def host_key_names(self) -> Tuple[str, ...]:
        """The names the host key may be filed under; a new one goes under the first."""
        if self.host_key_alias is not None:
            return (self.host_key_alias.lower(),)
        # ssh too takes a key it knows for the host at port 22, whatever the port.
        names = (host_name(self.hostname, self.port), self.hostname.lower())
        return names[:1] if names[0] == names[1] else names

    @functools.cached_property
    def key(self) -> ConnectKey:
        """What the cache compares; reads the key files' state the first time it is asked."""
        tunnel = self.tunnel.key if isinstance(self.tunnel, ConnectParams) else self.tunnel
        return ConnectKey(
            destination=(self.host, self.hostname, self.port, self.username),
            credentials=(
                _client_keys_identity(self),
                self.certificate_files,
                self.identities_only,
                self.agent_path,
                _hidden_identity(self.password),
                _hidden_identity(self.passphrase),
                _object_identity(self.kbdint_handler),
                self.preferred_auth,
            ),
            host_keys=(self.known_hosts, self.host_key_alias),
            route=(tunnel, self.proxy_command, self.family, self.local_addr),
            algorithms=tuple(getattr(self, kind) for kind in algorithms.KINDS),
            keepalive=(self.keepalive_interval, self.keepalive_count_max),
        )


# --- identities -----------------------------------------------------------------------------


class _Same:
    """Stands for an object that cannot be hashed: equal to itself only."""

    def __init__(self, thing: Any) -> None:
        self.thing = thing

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.thing is self.thing

    def __hash__(self) -> int:
        return id(self.thing)


def _object_identity(thing: Any) -> Any:
    try:
        hash(thing)
    except TypeError:
        return _Same(thing)
    return thing  # equality, not identity: `vault.password` is a new bound method each time


def _hidden_identity(value: Hidden) -> Any:
    return value.digest if isinstance(value, Secret) else _object_identity(value)


def _client_keys_identity(params: ConnectParams) -> Any:
    if params.client_keys is None:
        return tuple(_source_identity(path) for path in params.identity_files)
    if callable(params.client_keys):
        return _object_identity(params.client_keys)
    return tuple(_source_identity(source) for source in params.client_keys)


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


