"""The host, port, user and local address of a destination, from the caller and ssh_config."""

from __future__ import annotations

import hashlib
import os
import re
import socket
from typing import Any, Callable, Dict, Iterator, Mapping, Optional, Tuple

from ssh_service import settings, ssh_config
from ssh_service.errors import SshConfigError
from ssh_service.params.address import conceal_password
from ssh_service.params.sources import Sources, config_port, error_name, first_argument
from ssh_service.user_files import home

__all__ = ["destination", "family", "local_addr"]

# What ssh itself refuses in the host and the user of its command line (`ssh_valid_hostname` and
# `ssh_valid_ruser` in OpenSSH's readconf.c), whatever is configured: both replace %h, %n, %k and
# %r in commands of ssh_config.  `settings.text` has already refused control characters.
_NOT_IN_HOSTS = re.compile(r"""^-|['`"$\\;&<>|(){},\s]""")
_HOST_WORDS = "blanks, quotes, a leading - or any of ` $ \\ ; & < > | ( ) { } ,"
_NOT_IN_USERS = re.compile(r"""^-|['`";&<>|(){}]|\s-|\\\Z""")
_USER_WORDS = (
    "quotes, a leading -, a \\ at its end, a - after a blank or any of ` ; & < > | ( ) { }"
)

_FAMILIES = {"any": 0, "inet": int(socket.AF_INET), "inet6": int(socket.AF_INET6)}


def destination(sources: Sources) -> Tuple[str, int, str]:
    """
    Return the host, port and user; this reads ssh_config and sets `Sources.config` and `tokens`.

    Raises
    ------
    SshConfigError
        A setting is invalid, or an ssh_config file cannot be used.
    """
    host = _host(sources.get("host"))
    given_port = sources.get("port")
    port = None if given_port is None else settings.port("port", given_port)
    username = _username(sources.get("username"))
    _check_alias(sources.get("host_key_alias"))
    allow_exec = settings.flag("config_exec", sources.get("config_exec", False))
    files = sources.get("config", ())
    if files is not None:
        sources.config = ssh_config.lookup(
            host,
            settings.paths("config", files) or None,
            user=username,
            port=port,
            allow_exec=allow_exec,
        )
    value = sources.config.get("port")
    if port is None:
        port = (
            22 if value is None else config_port(error_name(value, "Port"), first_argument(value))
        )
    value = sources.config.get("user")
    if username is None:
        username = ssh_config.local_user() if value is None else first_argument(value)
    value = sources.config.get("hostname")
    hostname = host
    if value is not None:
        hostname = ssh_config.expand_tokens(
            first_argument(value), {"h": host, "%": "%"}, value.origin
        )
    sources.tokens = _Tokens(host, hostname, port, username)
    sources.tokens["k"] = sources.text("host_key_alias", "HostKeyAlias") or hostname
    return host, port, username


def _host(given: Any) -> str:
    if given is None:
        raise SshConfigError("host: missing; expected the name or address to connect to")
    host = settings.text("host", given).strip()
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if not host or _NOT_IN_HOSTS.search(host) or conceal_password(host) != host:
        raise settings.invalid_setting(
            "host", conceal_password(host), f"a host name or address, without {_HOST_WORDS}"
        )
    return host


def _username(given: Any) -> Optional[str]:
    if given is None:
        return None
    username = settings.text("username", given)
    if _NOT_IN_USERS.search(username):
        raise settings.invalid_setting("username", given, f"a login name, without {_USER_WORDS}")
    return username


def _check_alias(given: Any) -> None:
    if given is not None and _NOT_IN_HOSTS.search(settings.text("host_key_alias", given)):
        raise settings.invalid_setting(
            "host_key_alias", given, f"a host name, without {_HOST_WORDS}"
        )


class _Tokens(Dict[str, str]):
    """The values of ``%h`` and other tokens; those from the system are computed on first use."""

    def __init__(self, host: str, hostname: str, port: int, username: str) -> None:
        super().__init__({"%": "%", "h": hostname, "n": host, "p": str(port), "r": username})

    def __contains__(self, token: object) -> bool:
        return super().__contains__(token) or token in _LAZY_TOKENS

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({*self.keys(), *_LAZY_TOKENS}))

    def __missing__(self, token: str) -> str:
        value = self[token] = _LAZY_TOKENS[token](self)
        return value


def _digest(tokens: Mapping[str, str]) -> str:
    joined = f"{tokens['l']}{tokens['h']}{tokens['p']}{tokens['r']}"
    return hashlib.sha1(joined.encode("utf-8", "surrogateescape")).hexdigest()


_LAZY_TOKENS: Dict[str, Callable[[Mapping[str, str]], str]] = {
    "C": _digest,
    "L": lambda tokens: tokens["l"].partition(".")[0],
    "d": lambda _: home(),
    "i": lambda _: str(os.getuid()) if hasattr(os, "getuid") else "0",
    "l": lambda _: socket.gethostname(),
    "u": lambda _: ssh_config.local_user(),
}


def family(sources: Sources) -> int:
    """
    Return the address family that may be used, as a `socket` constant; 0 for any.

    Raises
    ------
    SshConfigError
        The setting is not an address family.
    """
    given = sources.get("family")
    if given is None:
        value = sources.config.get("addressfamily")
        if value is None:
            return 0
        name = error_name(value, "AddressFamily")
        return _FAMILIES[settings.choice(name, first_argument(value).lower(), tuple(_FAMILIES))]
    if isinstance(given, int) and not isinstance(given, bool) and given in _FAMILIES.values():
        return int(given)
    return _FAMILIES[settings.choice("family", given, tuple(_FAMILIES))]


def local_addr(sources: Sources) -> Optional[Tuple[str, int]]:
    """
    Return the local address and port to dial from; None for any.

    Raises
    ------
    SshConfigError
        The setting is not an address, or a pair of an address and a port.
    """
    given = sources.get("local_addr")
    if given is None or given == ():
        value = sources.config.get("bindaddress")
        return None if value is None else (first_argument(value), 0)
    if isinstance(given, (tuple, list)) and len(given) == 2:
        host, port = given
        port = settings.port("local_addr", port) if port else 0
        return (settings.text("local_addr", host) if host else "", port)
    if not isinstance(given, str):
        raise settings.invalid_setting(
            "local_addr", given, "an address, or a pair of an address and a port"
        )
    return (settings.text("local_addr", given), 0)
