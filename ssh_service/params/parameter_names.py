"""The names of connect parameters: those that are ignored, and suggestions for unknown ones."""

from __future__ import annotations

import difflib
from typing import Any, List, Mapping

from ssh_service.errors import SshConfigError

__all__ = ["check_names"]

# asyncssh's names for sessions and sockets, accepted so that one mapping serves both libraries.
_IGNORED = frozenset(
    """client_factory client_version encoding errors line_editor max_pktsize rcvbuf request_pty
    sndbuf tcp_keepalive term_modes term_size term_type utf8_decode_errors window""".split()
)
# Names of paramiko, Fabric, OpenSSH, subprocess and our services, and the names used here.
_SUGGESTIONS = {
    "user": "username",
    "login": "username",
    "ssh_username": "username",
    "hostname": "host",
    "address": "host",
    "ip": "host",
    "ssh_hostname": "host",
    "ssh_port": "port",
    "passwd": "password",
    "pw": "password",
    "pkey": "client_keys",
    "key": "client_keys",
    "keys": "client_keys",
    "key_file": "client_keys",
    "key_filename": "client_keys",
    "identity_file": "client_keys",
    "identityfile": "client_keys",
    "private_key": "client_keys",
    "ssh_priv_key_path": "client_keys",
    "look_for_keys": "client_keys (None: no login by key, the agent included)",
    "allow_agent": "agent_path (None: no agent)",
    "timeout": "connect_timeout",
    "ssh_connect_timeout": "connect_timeout",
    "auth_timeout": "login_timeout",
    "banner_timeout": "login_timeout",
    "keepalive": "keepalive_interval",
    "ssh_keepalive_interval": "keepalive_interval",
    "compress": "compression_algs",
    "compression": "compression_algs",
    "ciphers": "encryption_algs",
    "kex": "kex_algs",
    "macs": "mac_algs",
    "disabled_algorithms": "encryption_algs, kex_algs, mac_algs or server_host_key_algs ('-name')",
    "gateway": "tunnel",
    "jump": "tunnel",
    "jump_host": "tunnel",
    "bastion": "tunnel",
    "proxy": "tunnel or proxy_command",
    "proxyjump": "tunnel",
    "proxy_jump": "tunnel",
    "proxycommand": "proxy_command",
    "sock": "tunnel or proxy_command",
    "bind_address": "local_addr",
    "known_hosts_file": "known_hosts",
    "ssh_known_hosts_path": "known_hosts",
    "ssh_known_hosts_file": "known_hosts",
    "host_key": "host_key_fingerprints",
    "hostkey": "host_key_fingerprints",
    "policy": "host_key_policy",
    "missing_host_key_policy": "host_key_policy",
    "stricthostkeychecking": "host_key_policy",
    "strict_host_key_checking": "host_key_policy",
    "ssh_host_key_policy": "host_key_policy",
    "ssh_config": "config",
    "config_file": "config",
}
# Arguments of `run` and other functions.
_ARGUMENTS = frozenset(
    "args check cwd env input pty shell stderr stdin stdout sudo sudo_password".split()
)
# Fabric's name for a mapping whose entries are connect parameters themselves.
_CONTAINERS = frozenset(["connect_kwargs"])


def check_names(given: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """
    Refuse names that are not connect parameters.

    Raises
    ------
    SshConfigError
        A name is unknown; the message suggests a similar one.
    """
    unknown = [name for name in given if name not in known and name not in _IGNORED]
    if unknown:
        names = list(known)
        raise SshConfigError(
            "; ".join(
                f"unknown setting {name!r}{_hint(name, names)}"
                for name in sorted(map(str, unknown))
            )
        )


def _hint(name: str, known: List[str]) -> str:
    normalized = name.lower().replace("-", "_")
    if normalized in _CONTAINERS:
        return ": give its entries themselves, by the names known here"
    if normalized in _ARGUMENTS:
        return ": it is an argument of run, not a setting of the connection"
    meant = _SUGGESTIONS.get(normalized)
    if meant is None:
        close = difflib.get_close_matches(normalized, known, n=1, cutoff=0.7)
        meant = close[0] if close else None
    if meant is None:
        return ": see ssh_service.params.SETTINGS for a list"
    return f": did you mean {meant!r}?" if " " not in meant else f": did you mean {meant}?"
