"""Resolve the caller's settings and ssh_config to `ConnectParams`."""

from __future__ import annotations

import collections.abc
import functools
import os
from typing import Any, Callable, Mapping, Optional, Tuple, Union

import paramiko

from ssh_service import algorithms, settings
from ssh_service.params.address import parse_address
from ssh_service.params.auth_methods import (
    auth_methods,
    kbdint_handler,
    pubkey_algs,
    required_rsa_size,
)
from ssh_service.params.concealing import conceal
from ssh_service.params.connect_params import ConnectParams
from ssh_service.params.destination import destination, family, local_addr
from ssh_service.params.key_sources import KeySource, key_sources
from ssh_service.params.keywords import check_refused, log_unused
from ssh_service.params.parameter_names import check_names
from ssh_service.params.route import Hop, route
from ssh_service.params.sources import Sources, config_number, error_name, first_argument
from ssh_service.params.trust import host_key_trust
from ssh_service.user_files import default_agent, expand_home

__all__ = ["SETTINGS", "Destination", "Resolvable", "resolve", "resolve_concealed", "settings_of"]

# The meaning of each parameter; the tables of the documentation are generated from this.
SETTINGS = {
    "host": "the name or address to connect to, or an alias of ssh_config; required",
    "port": "TCP port; else ssh_config's, else 22",
    "username": "login name; else ssh_config's, else the current user",
    "password": "a string, or a callable that is called at each dial",
    "client_keys": "private keys: files, `PKey` objects or a callable; else as with ssh; "
    "None: no login by key, not even with the agent",
    "passphrase": "passphrase of encrypted key files; a string or a callable",
    "identities_only": "True: the agent offers only keys that are also named as files",
    "agent_path": "the agent's socket; else `SSH_AUTH_SOCK`; None: no agent",
    "kbdint_handler": "`handler(name, instructions, [(prompt, echo), ...])` returns the answers; "
    "a jump host needs its own",
    "preferred_auth": "methods to try, in order: `publickey`, `password`, `keyboard-interactive`",
    "known_hosts": "files; else the user's and the system's; None: host keys are not checked",
    "host_key_policy": "`strict`, `accept-new` or `off`; else ssh_config's, else `strict`",
    "host_key_alias": "the name under which the host key is stored",
    "host_key_fingerprints": "`SHA256:...`, one or several; if given, only these keys are trusted",
    "config": "ssh_config files to read; else the user's and the system's; None: none",
    "config_exec": "True: `Match exec` lines of ssh_config may run their commands",
    "tunnel": "the jump host: `[user@]host[:port]`, a mapping, or a connection; None: none",
    "proxy_command": "a command whose stdin and stdout are the connection",
    "family": "`any`, `inet` or `inet6`, or a `socket` constant",
    "local_addr": "the address to dial from, or (address, port)",
    "encryption_algs": "ciphers to offer, in order",
    "kex_algs": "key exchanges to offer, in order",
    "mac_algs": "MACs to offer, in order",
    "server_host_key_algs": "host key algorithms, in order; else those of known keys first",
    "compression_algs": "compressions to offer, in order; else none",
    "connect_timeout": "seconds from resolving the name to the login, including jump hosts; 30",
    "login_timeout": "seconds from the TCP connection to the login, within `connect_timeout`",
    "keepalive_interval": "seconds of silence before a keepalive is sent; 15; None: never",
    "keepalive_count_max": "unanswered keepalives after which the connection is lost; 3",
}

_CONNECT_TIMEOUT = 30.0
_KEEPALIVE_INTERVAL = 15.0
_KEEPALIVE_COUNT_MAX = 3
_DEFAULT_IDENTITIES = ("id_rsa", "id_ecdsa", "id_ecdsa_sk", "id_ed25519", "id_ed25519_sk")
_ALGORITHM_KEYWORDS = {
    "encryption_algs": "ciphers",
    "kex_algs": "kexalgorithms",
    "mac_algs": "macs",
    "server_host_key_algs": "hostkeyalgorithms",
}


class Resolvable:
    """A destination that resolves itself and caches the result."""

    __slots__ = ()

    @property
    def settings(self) -> Mapping[str, Any]:
        """The connect parameters of this destination, concealed."""
        raise NotImplementedError

    def resolve(self) -> ConnectParams:
        """Return the complete, checked parameters; see `ssh_service.params.resolve`."""
        raise NotImplementedError


Destination = Union[str, Mapping[str, Any], Resolvable]


def settings_of(destination: Any) -> Mapping[str, Any]:
    """
    Return the connect parameters of a destination.

    Raises
    ------
    SshConfigError
        The value is not a destination.
    """
    if isinstance(destination, Resolvable):
        return destination.settings
    if isinstance(destination, str):
        return parse_address(destination)
    if not isinstance(destination, (dict, collections.abc.Mapping)):
        expected = "a text like 'deploy@web1:22' or a mapping like {'host': 'web1'}"
        error = settings.invalid_type("destination", destination, expected)
        if isinstance(destination, (list, tuple, set)):
            error.args = (f"{error}; for several hosts, see ssh_service.fleet",)
        raise error
    return destination


def resolve(connect_params: Destination) -> ConnectParams:
    """
    Combine connect parameters and ssh_config into a complete description of a connection.

    Parameters
    ----------
    connect_params : Union[str, Mapping[str, Any], Host]
        A text is ``[user@]host[:port]`` or ``ssh://[user@]host[:port]``, where the host may be an
        alias of ssh_config; it cannot contain a password.  A mapping has asyncssh's names (see
        `SETTINGS`).  ``host`` is required; any other parameter that is missing is taken from
        ssh_config, or has a default.  None means "not given", with these exceptions:
        ``known_hosts=None``: host keys are not checked, unless ssh_config asks for it;
        ``config=None``: no ssh_config is read; ``client_keys=None``: no public-key authentication;
        ``agent_path=None``: no agent; ``tunnel=None``: no jump host; ``keepalive_interval=None``:
        no keepalives.

    Returns
    -------
    ConnectParams
        The complete, checked parameters.

    Raises
    ------
    SshConfigError
        A name is unknown, a value is of the wrong type or out of range, two settings contradict
        each other, or a file named here or in ssh_config cannot be used.
    """
    connect_params = conceal(connect_params)
    return resolve_concealed(connect_params)


def resolve_concealed(connect_params: Destination) -> ConnectParams:
    """
    Resolve a destination whose plain secrets are already concealed; otherwise as `resolve`.

    Parameters
    ----------
    connect_params : Union[str, Mapping[str, Any], Host]
        The destination, as returned by `conceal`.

    Returns
    -------
    ConnectParams
        The complete, checked parameters; for errors, see `resolve`.
    """
    if isinstance(connect_params, Resolvable):
        return connect_params.resolve()
    return _resolve(settings_of(connect_params), ())


def _resolve(given: Mapping[str, Any], hops: Tuple[Hop, ...]) -> ConnectParams:
    check_names(given, SETTINGS)
    sources = Sources(given)
    host, port, username = destination(sources)
    check_refused(sources.config)
    log_unused(sources.config)
    auth = auth_methods(sources)
    hostname = sources.tokens["h"]
    here = (host.lower(), hostname.lower(), port, username)
    tunnel, proxy_command = route(sources, here, hops, _resolve)
    return ConnectParams(
        host=host,
        hostname=hostname,
        port=port,
        username=username,
        client_keys=_client_keys(sources),
        identity_files=_identity_files(sources),
        identities_configured=sources.config.get("identityfile") is not None,
        certificate_files=sources.config_paths("certificatefile"),
        identities_only=sources.flag("identities_only", "IdentitiesOnly"),
        agent_path=_agent_path(sources),
        password=sources.secret("password"),
        passphrase=sources.secret("passphrase"),
        kbdint_handler=kbdint_handler(sources),
        preferred_auth=auth.methods,
        auth_notes=auth.notes,
        pubkey_algs=pubkey_algs(sources),
        required_rsa_size=required_rsa_size(sources),
        known_hosts=host_key_trust(sources),
        host_key_alias=sources.text("host_key_alias", "HostKeyAlias"),
        tunnel=tunnel,
        proxy_command=proxy_command,
        family=family(sources),
        local_addr=local_addr(sources),
        encryption_algs=_algorithms(sources, "encryption_algs"),
        kex_algs=_algorithms(sources, "kex_algs"),
        mac_algs=_algorithms(sources, "mac_algs"),
        server_host_key_algs=_algorithms(sources, "server_host_key_algs"),
        compression_algs=_compression(sources),
        connect_timeout=sources.seconds("connect_timeout", "ConnectTimeout") or _CONNECT_TIMEOUT,
        login_timeout=sources.seconds("login_timeout", None),
        keepalive_interval=_keepalive_interval(sources),
        keepalive_count_max=_keepalive_count_max(sources),
    )


# --- credentials ----------------------------------------------------------------------------


def _client_keys(
    sources: Sources,
) -> Union[None, Tuple[KeySource, ...], Callable[[], Any]]:
    given = sources.get("client_keys")
    if given is None or (isinstance(given, (list, tuple)) and not given):
        return None
    if callable(given) and not isinstance(given, paramiko.PKey):
        return given  # type: ignore[no-any-return]
    return key_sources("client_keys", given)


def _identity_files(sources: Sources) -> Tuple[str, ...]:
    if sources.config.get("identityfile") is not None:
        return sources.config_paths("identityfile")
    return _default_identities(expand_home("~/.ssh"))


@functools.lru_cache(maxsize=8)
def _default_identities(folder: str) -> Tuple[str, ...]:
    return tuple(os.path.join(folder, name) for name in _DEFAULT_IDENTITIES)


def _agent_path(sources: Sources) -> Optional[str]:
    if "agent_path" in sources:
        given = sources.get("agent_path")
        return None if given in (None, ()) else settings.path("agent_path", given)
    value = sources.config.get("identityagent")
    text = "SSH_AUTH_SOCK" if value is None else first_argument(value)
    if text == "SSH_AUTH_SOCK":
        return default_agent()
    if text.startswith("$") and not text.startswith("${"):
        return os.environ.get(text[1:]) or None
    return (*sources.config_paths("identityagent"), None)[0]


# --- how to talk ----------------------------------------------------------------------------


def _algorithms(sources: Sources, kind: str) -> Tuple[str, ...]:
    given = sources.get(kind)
    if given is not None and given != ():
        is_list = isinstance(given, (list, tuple)) and all(isinstance(n, str) for n in given)
        if not isinstance(given, str) and not is_list:
            raise settings.invalid_setting(kind, given, "a list of algorithm names")
        return algorithms.choose(kind, given)
    keyword = _ALGORITHM_KEYWORDS.get(kind)
    value = sources.config.get(keyword) if keyword else None
    if value is None:
        return algorithms.default(kind)
    return algorithms.choose(kind, first_argument(value), origin=value.origin)


def _compression(sources: Sources) -> Tuple[str, ...]:
    kind = "compression_algs"
    value = sources.config.get("compression")
    if sources.get(kind) in (None, ()) and value is not None:
        if settings.flag(error_name(value, "Compression"), first_argument(value)):
            return algorithms.choose(kind, "zlib@openssh.com,zlib,none")
    return _algorithms(sources, kind)


def _keepalive_interval(sources: Sources) -> Optional[float]:
    name = "keepalive_interval"
    if name in sources:
        given = sources.get(name)
        return None if given is None else settings.seconds(name, given, zero_is_off=True)
    value = sources.config.get("serveraliveinterval")
    if value is None:
        return _KEEPALIVE_INTERVAL
    if first_argument(value).lower() == "none":
        return None
    return (
        settings.time_span(error_name(value, "ServerAliveInterval"), first_argument(value)) or None
    )


def _keepalive_count_max(sources: Sources) -> int:
    given = sources.get("keepalive_count_max")
    if given is not None:
        return settings.positive_int("keepalive_count_max", given)
    value = sources.config.get("serveralivecountmax")
    if value is None:
        return _KEEPALIVE_COUNT_MAX
    count = config_number(first_argument(value))
    if count is None:
        raise settings.invalid_setting(
            error_name(value, "ServerAliveCountMax"),
            first_argument(value),
            "a whole number, 0 or more",
        )
    return max(1, count)  # with 0, ssh ends a silent connection without asking
