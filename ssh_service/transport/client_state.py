"""The state of a `paramiko.SSHClient` that a shared connection needs."""

from __future__ import annotations

from typing import Any, Optional, Tuple

from paramiko import HostKeys, SSHClient

_LOGIN_METHODS = {
    "_auth": SSHClient._auth,
    "_families_and_addresses": SSHClient._families_and_addresses,
    "_key_from_filepath": SSHClient._key_from_filepath,
}


def overrides_login(client: Any) -> bool:
    """Return whether a client logs in by other methods than paramiko's."""
    return any(
        name in vars(client) or getattr(type(client), name, None) is not method
        for name, method in _LOGIN_METHODS.items()
    )


def known_host_keys(client: Any) -> Tuple[HostKeys, HostKeys]:
    """Return the host keys that a client knows: the system's, and its own."""
    return client._system_host_keys, client._host_keys


def policy(client: Any) -> Any:
    """Return what judges unknown host keys for a client."""
    return client._policy


def log_channel(client: Any) -> Optional[str]:
    """Return the name of the logger that a client was given."""
    name: Optional[str] = client._log_channel
    return name


def set_transport(client: Any, transport: Any) -> None:
    """Give a client its transport, or None."""
    client._transport = transport
