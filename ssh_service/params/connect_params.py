"""One destination and everything needed to dial it, and the key under which it is shared."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any, Callable, ClassVar, NamedTuple, Optional, Tuple, Union

import paramiko

from ssh_service import algorithms
from ssh_service.known_hosts import HostKeyTrust, host_name
from ssh_service.params.identity import client_keys_identity, object_identity, secret_identity
from ssh_service.params.key_sources import KeySource
from ssh_service.secret import Secret

__all__ = ["ConnectKey", "ConnectParams", "connection_id"]

SecretSource = Union[None, Secret, Callable[[], Any]]

_ALGORITHMS: Callable[[Any], Tuple[Any, ...]] = operator.attrgetter(*algorithms.KINDS)


def connection_id(username: Optional[str], host: str, port: int) -> str:
    """
    Name a connection for people.

    Parameters
    ----------
    username : Optional[str]
        The login name.
    host : str
        A name or an address.
    port : int
        The TCP port.

    Returns
    -------
    str
        ``user@host:port``; an IPv6 address is in brackets, as in a URL.
    """
    return f"{username}@[{host}]:{port}" if ":" in host else f"{username}@{host}:{port}"


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
        return f"<ConnectKey {connection_id(username, host, port)}>"


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
    password : SecretSource
        A `Secret`, or a callable asked at each dial.
    passphrase : SecretSource
        Of encrypted key files; as `password`.
    kbdint_handler : Optional[Callable[..., Any]]
        ``handler(name, instructions, [(prompt, echo), ...]) -> [answer, ...]``.
    preferred_auth : Tuple[str, ...]
        Methods to try, in order.
    auth_notes : Tuple[str, ...]
        Why other methods are not tried, for people.
    pubkey_algs : Optional[Tuple[str, ...]]
        Signature algorithms that may be used to log in by a key; None for all there are.
    required_rsa_size : int
        Bits that an RSA key of the user's must have.
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
    password: SecretSource
    passphrase: SecretSource
    kbdint_handler: Optional[Callable[..., Any]]
    preferred_auth: Tuple[str, ...]
    auth_notes: Tuple[str, ...]
    pubkey_algs: Optional[Tuple[str, ...]]
    required_rsa_size: int
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

    dialer: ClassVar[None] = None  # it is the cache's

    @property
    def connection_id(self) -> str:
        """The connection's name for people: ``user@host:port``, ``user@[address]:port``."""
        return connection_id(self.username, self.host, self.port)

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

    @property
    def key(self) -> ConnectKey:
        """The key that the cache compares; its first use reads the state of the key files."""
        # Not `functools.cached_property`: before Python 3.12 that has one lock for the process, so
        # a slow file system would delay every host, and a forked child could wait without end.
        found: Optional[ConnectKey] = self.__dict__.get("_key")
        if found is None:  # two threads at worst do it twice, with one result
            found = self.__dict__.setdefault("_key", self._make_key())
        return found

    def _make_key(self) -> ConnectKey:
        tunnel = self.tunnel.key if isinstance(self.tunnel, ConnectParams) else self.tunnel
        return ConnectKey(
            destination=(self.host, self.hostname, self.port, self.username),
            credentials=(
                client_keys_identity(self.client_keys, self.identity_files),
                self.certificate_files,
                self.identities_only,
                self.agent_path,
                secret_identity(self.password),
                secret_identity(self.passphrase),
                object_identity(self.kbdint_handler),
                self.preferred_auth,
                self.pubkey_algs,
                self.required_rsa_size,
            ),
            host_keys=(self.known_hosts, self.host_key_alias),
            route=(tunnel, self.proxy_command, self.family, self.local_addr),
            algorithms=_ALGORITHMS(self),
            keepalive=(self.keepalive_interval, self.keepalive_count_max),
        )
