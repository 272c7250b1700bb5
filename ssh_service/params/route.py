"""The route to a destination: jump hosts and proxy commands, from the caller and ssh_config."""

from __future__ import annotations

import shlex
from typing import Any, Callable, Dict, Mapping, Optional, Tuple, Union

import paramiko

from ssh_service import settings, ssh_config
from ssh_service.errors import SshConfigError
from ssh_service.params.address import conceal_password, split_address
from ssh_service.params.connect_params import ConnectParams
from ssh_service.params.sources import (
    MISSING,
    Sources,
    config_port,
    error_name,
    first_argument,
)

__all__ = ["Hop", "Tunnel", "route"]

_MAX_HOPS = 16
# A jump host is used by the same user from the same machine, but has its own key, its own trust
# and its own authentication prompts: a handler cannot see which host sends a prompt, and would
# give one host the answers (a password, a one-time code) that are meant for another.
_INHERITED = (
    "config",
    "config_exec",
    "passphrase",
    "agent_path",
    "keepalive_interval",
    "keepalive_count_max",
)

Tunnel = Union[None, ConnectParams, paramiko.Transport]
# The host as it was given (an alias, perhaps), its name or address, port and user.  Hosts behind
# reverse tunnels have all but the alias in common.
Hop = Tuple[str, str, int, str]
# resolve(settings of a hop, the hops before it)
Resolve = Callable[[Mapping[str, Any], Tuple[Hop, ...]], ConnectParams]


def route(
    sources: Sources, here: Hop, hops: Tuple[Hop, ...], resolve: Resolve
) -> Tuple[Tunnel, Optional[str]]:
    """
    Return the jump host and the proxy command to a destination; at most one is not None.

    Raises
    ------
    SshConfigError
        Both are given, one is malformed, or the jump hosts form a loop.
    """
    tunnel, command = sources.get("tunnel", MISSING), sources.get("proxy_command")
    if isinstance(tunnel, (list, tuple)) and not tunnel:  # asyncssh's "not given"
        tunnel = MISSING
    chain = _Chain(sources, here, hops, resolve)
    if command is not None:
        if tunnel not in (MISSING, None, "none"):
            raise SshConfigError("tunnel, proxy_command: give at most one of them")
        return None, _command(command)
    if tunnel is None or tunnel == "none":
        return None, None
    if tunnel is not MISSING:
        return chain.through("tunnel", tunnel), None
    return _configured(sources, chain)


def _command(given: Any) -> str:
    if isinstance(given, (list, tuple)) and given:  # asyncssh takes an argument list too
        words = [settings.command("proxy_command", word) for word in given]
        return " ".join(shlex.quote(word) for word in words)
    return settings.command("proxy_command", given)


def _configured(sources: Sources, chain: "_Chain") -> Tuple[Tunnel, Optional[str]]:
    # As in ssh, the first keyword of the two in the files counts, including the value "none".
    for keyword in sources.config.keywords():
        if keyword not in ("proxyjump", "proxycommand"):
            continue
        value = sources.config.all(keyword)[0]
        text = first_argument(value)
        if text.lower() == "none":
            if keyword == "proxyjump":  # as in ssh, a later ProxyCommand still counts
                continue
            return None, None
        if keyword == "proxycommand":
            return None, ssh_config.expand_command(text, sources.tokens, value.origin)
        text = sources.expand(value, text)
        return chain.through(error_name(value, "ProxyJump"), text, from_file=True), None
    return None, None


class _Chain:
    """The chain of jump hosts to one destination."""

    def __init__(
        self, sources: Sources, here: Hop, hops: Tuple[Hop, ...], resolve: Resolve
    ) -> None:
        self._sources = sources
        self._here = here
        self._hops = hops
        self._resolve = resolve

    def through(self, name: str, given: Any, *, from_file: bool = False) -> Tunnel:
        if isinstance(given, paramiko.Transport):
            return given
        # A chain that is spelled out in code is finite; references between files may form a loop.
        if (from_file and self._here in self._hops) or len(self._hops) >= _MAX_HOPS:
            raise SshConfigError(
                f"{name}: the jump hosts form a loop at {self._here[0]}, or there are too many; "
                f"set 'ProxyJump none' for the jump host in ssh_config"
            )
        hops = (*self._hops, self._here)
        if isinstance(given, Mapping):
            return self._resolve(given, hops)
        if not isinstance(given, str):
            right = "user@host:port, a mapping of settings, or a Transport"
            raise settings.invalid_type(name, given, right)
        *before, last = [part.strip() for part in given.split(",")]
        hop = _hop(name, last, from_file)
        for inherited in _INHERITED:
            if inherited in self._sources:
                hop[inherited] = self._sources.get(inherited)
        if before:
            hop["tunnel"] = ",".join(before)
        files = self._sources.get("known_hosts")
        if files is not None and files not in ((), []):
            # known_hosts files that the caller names are also trusted for the jump hosts.
            hop["known_hosts"] = files
            hop["host_key_policy"] = self._sources.get("host_key_policy")
        return self._resolve(hop, hops)


def _hop(name: str, text: str, from_file: bool) -> Dict[str, Any]:
    try:
        user, host, port = split_address(text)
        if len(host.split()) != 1:
            raise ValueError
    except ValueError:
        right = "user@host:port; user and port may be left out, a password cannot be part of it"
        raise settings.invalid_setting(name, conceal_password(text), right) from None
    found: Dict[str, Any] = {"host": host}
    if user:
        found["username"] = user
    if port:
        found["port"] = config_port(name, port) if from_file else settings.port(name, port)
    return found
