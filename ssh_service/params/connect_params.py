"""A resolved destination, with everything needed to dial it, and the key for sharing it."""

from __future__ import annotations

import operator
from dataclasses import dataclass, fields
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
    Return the name of a connection for messages.

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
    Everything that distinguishes two connections; connections with equal keys may be shared.

    Secrets are included only as digests, keyed with a random value of this process.
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
    A resolved destination, with everything needed to dial it; `resolve` returns it.

    Attributes
    ----------
    host : str
        The host as the caller wrote it, which may be an alias of ssh_config.
    hostname : str
        The name or address to dial.
    port : int
        TCP port.
    username : str
        The login name.
    client_keys : Union[None, Tuple[KeySource, ...], Callable[[], Any]]
        The caller's keys; None for those that ssh would use (`identity_files`).
    identity_files : Tuple[str, ...]
        The identity files of ssh_config, or ssh's default names; they need not exist.
    identities_configured : bool
        Whether `identity_files` come from ssh_config.
    certificate_files : Tuple[str, ...]
        The files of ``CertificateFile`` in ssh_config.
    identities_only : bool
        Whether the agent offers only keys that are also named as files.
    agent_path : Optional[str]
        The path of the agent's socket; None for no agent.
    password : SecretSource
        A `Secret`, or a callable that is called at each dial.
    passphrase : SecretSource
        The passphrase of encrypted key files, in the same forms as `password`.
    kbdint_handler : Optional[Callable[..., Any]]
        ``handler(name, instructions, [(prompt, echo), ...]) -> [answer, ...]``.
    preferred_auth : Tuple[str, ...]
        Authentication methods to try, in order.
    auth_notes : Tuple[str, ...]
        Why other methods are not tried, for error messages.
    pubkey_algs : Optional[Tuple[str, ...]]
        Signature algorithms that are allowed for public-key authentication; None for all.
    required_rsa_size : int
        The minimum size of the user's RSA keys, in bits.
    known_hosts : HostKeyTrust
        The rules for verifying the host key.
    host_key_alias : Optional[str]
        The name under which the host key is stored; None for the host name.
    tunnel : Union[None, ConnectParams, paramiko.Transport]
        The jump host, or an open connection to tunnel through; None for neither.
    proxy_command : Optional[str]
        A command whose stdin and stdout are the connection; None for a TCP connection.
    family : int
        A `socket` address family; 0 for any.
    local_addr : Optional[Tuple[str, int]]
        The local address and port to dial from; None for any.
    encryption_algs, kex_algs, mac_algs, server_host_key_algs, compression_algs : Tuple[str, ...]
        Algorithms to offer, in order.
    connect_timeout : float
        Seconds from resolving the name to the end of authentication, including jump hosts.
    login_timeout : Optional[float]
        Seconds from the TCP connection to the end of authentication, within `connect_timeout`;
        None for no separate limit.
    keepalive_interval : Optional[float]
        Seconds of silence before a keepalive request is sent; None for never.
    keepalive_count_max : int
        The number of unanswered keepalive requests after which the connection counts as lost.

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

    # Each connection has its own, and a dict for so many attributes takes 1.5 KiB.
    __slots__ = (*__annotations__, "_key")

    dialer: ClassVar[None] = None  # only the cache has a dialer

    @property
    def connection_id(self) -> str:
        """The connection's name in messages: ``user@host:port`` or ``user@[address]:port``."""
        return connection_id(self.username, self.host, self.port)

    @property
    def host_key_policy(self) -> str:
        """The host key policy: ``strict``, ``accept-new`` or ``off``."""
        return self.known_hosts.policy

    @property
    def host_key_names(self) -> Tuple[str, ...]:
        """The names under which the key may be stored; a new key is stored under the first."""
        if self.host_key_alias is not None:
            return (self.host_key_alias.lower(),)
        # Like ssh, accept a key that is known for the host at port 22, whatever the port.
        names = (host_name(self.hostname, self.port), self.hostname.lower())
        return names[:1] if names[0] == names[1] else names

    @property
    def key(self) -> ConnectKey:
        """The key that the cache compares; the first use reads the state of the key files."""
        # Not `functools.cached_property`: before Python 3.12 it has one lock per property, shared
        # by all instances, so a slow file system would delay every host, and a forked child could
        # block forever.
        found: Optional[ConnectKey] = getattr(self, "_key", None)
        if found is None:  # at worst, two threads compute the same result
            found = self._make_key()
            object.__setattr__(self, "_key", found)
        return found

    def __reduce__(self) -> Tuple[Any, ...]:
        # Python before 3.11 cannot copy or pickle an immutable object with slots.
        return type(self), tuple(getattr(self, field.name) for field in fields(self))

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
