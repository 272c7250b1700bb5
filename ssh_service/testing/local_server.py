"""The base class of servers on loopback, with the data that a test needs to log in."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Dict

__all__ = ["LocalServer", "require_posix"]


def require_posix() -> None:
    """Raise an error on a system that cannot run the servers."""
    if os.name != "posix":
        raise RuntimeError("the test servers run on POSIX systems only, not on Windows")


class LocalServer:
    """
    A server on 127.0.0.1 with one user.

    Attributes
    ----------
    host, port, username
        The address and the login name.
    client_key, known_hosts
        Paths (str) of the user's private key and of a known_hosts file with the server's key.
    """

    host = "127.0.0.1"
    port: int
    username: str
    client_key: str
    known_hosts: str

    @property
    def connect_params(self) -> Dict[str, Any]:
        """Connect parameters for this server; a new dict each time."""
        return {
            "host": self.host,
            "port": self.port,
            "username": self.username,
            "client_keys": [self.client_key],
            "known_hosts": self.known_hosts,
            "config": None,
        }

    @property
    def service_config(self) -> Dict[str, Any]:
        """Config of a service for this server; a new dict each time."""
        return {
            "ssh_port": self.port,
            "ssh_username": self.username,
            "ssh_priv_key_path": self.client_key,
            "ssh_known_hosts_path": self.known_hosts,
            "ssh_config": None,
        }

    @property
    def target(self) -> Dict[str, Any]:
        """Parameters for a call of such a service; a new dict each time."""
        return {"ssh_hostname": self.host}

    def trust_port(self, port: int) -> None:
        """Add the server's key to `known_hosts` for another port, that of a proxy."""
        key = Path(self.known_hosts).read_text().split()[1:3]
        with open(self.known_hosts, "a", encoding="ascii") as file:
            file.write(f"[{self.host}]:{port} {' '.join(key)}\n")
