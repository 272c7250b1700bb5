"""What a test needs to know of a server on loopback to log in there, whichever kind it is."""

from __future__ import annotations

from typing import Any, Dict

__all__ = ["LocalServer"]


class LocalServer:
    """
    A server on 127.0.0.1 with one user.

    Attributes
    ----------
    host, port, username
        Where to connect, as whom.
    client_key, known_hosts
        Paths of the user's private key and of the file that knows the server's, as str.
    """

    host = "127.0.0.1"
    port: int
    username: str
    client_key: str
    known_hosts: str

    @property
    def connect_params(self) -> Dict[str, Any]:
        """Everything a client needs to connect, under asyncssh's names; a new dict each time."""
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
        """A service's config for this server, by the names of the settings; a new dict."""
        return {
            "ssh_port": self.port,
            "ssh_username": self.username,
            "ssh_priv_key_path": self.client_key,
            "ssh_known_hosts_path": self.known_hosts,
            "ssh_config": None,
        }

    @property
    def target(self) -> Dict[str, Any]:
        """What a call of such a service is given to come here; a new dict each time."""
        return {"ssh_hostname": self.host}
