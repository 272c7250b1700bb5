"""Whether a client trusts a server's host key, by its own known keys and its own policy."""

from __future__ import annotations

import weakref
from typing import Any, Optional, Tuple

import paramiko
from paramiko.config import SSH_PORT
from paramiko.ssh_exception import BadHostKeyException, SSHException

from ssh_service.transport import client_state


class OtherKeyType(Exception):
    """The client knows keys of the server, but none of the type that this connection uses."""


class Trust:
    """
    A client's known host keys and policy, at the time of its `connect`.

    Parameters
    ----------
    client : paramiko.SSHClient
        The client; only a weak reference is kept.
    hostname, port : str, int
        The server, as the client names it.
    """

    def __init__(self, client: Any, hostname: str, port: int) -> None:
        self._client = weakref.ref(client)
        self._hostname = hostname
        self.name = hostname if port == SSH_PORT else f"[{hostname}]:{port}"
        self.system_host_keys, self.host_keys = client_state.known_host_keys(client)
        self._policy = client_state.policy(client)

    def _known(self) -> Any:
        known = self.system_host_keys.get(self.name)
        return self.host_keys.get(self.name) if known is None else known

    def known_types(self) -> Tuple[str, ...]:
        """Return the types of the server's keys that the client knows."""
        known = self._known()
        return () if known is None else tuple(known.keys())

    def judge(self, transport: Any, any_type: bool) -> None:
        """
        Check the host key of a connection that another client made, as `connect` would.

        Raises
        ------
        OtherKeyType
            `any_type` is true, and the client knows only keys of other types: a connection that
            prefers these types may be trusted.
        BadHostKeyException, SSHException
            The key is not trusted.  The client's policy may raise other exceptions.
        """
        key, known = transport.get_remote_server_key(), self._known()
        if known is None:
            self.ask(transport, key)
            return
        expected = known.get(key.get_name())
        if expected == key:
            return
        if expected is None:
            if any_type:
                raise OtherKeyType
            expected = list(known.values())[0]
        raise BadHostKeyException(self._hostname, key, expected)

    def ask(self, transport: Optional[paramiko.Transport], key: Any) -> None:
        """Call the client's policy for an unknown key; it may use the client's transport."""
        client = self._client()
        if client is None:
            raise SSHException(f"Server {self.name!r} not found in known_hosts")
        before = client.get_transport()
        if before is None:
            client_state.set_transport(client, transport)
        try:
            self._policy.missing_host_key(client, self.name, key)
        finally:
            if before is None and client.get_transport() is transport:
                client_state.set_transport(client, None)
