"""Login requests that do not wait until the server has accepted the service for them."""

from __future__ import annotations

from typing import Any, Optional

import paramiko
from paramiko.auth_handler import AuthHandler
from paramiko.message import Message

from ssh_service import known_servers
from ssh_service.transport.accepting import ChannelAcceptingTransport
from ssh_service.transport.packets import message
from ssh_service.transport.wire import Wire

# Keys that sign at once.  Another may ask an agent or the user: the reader thread signs with it,
# so that the caller can give up.
_SOFTWARE_KEYS = (paramiko.RSAKey, paramiko.ECDSAKey, paramiko.Ed25519Key)


class PipeliningAuthHandler(AuthHandler):  # type: ignore[misc]
    """
    One attempt to log in, with both requests sent at once.

    See docs/paramiko_repairs.md#round-trips-of-a-login.
    """

    _is_sent = False

    def _request_auth(self) -> None:
        self._is_sent = self._may_pipeline()  # before the server can answer the first request
        super()._request_auth()
        if self._is_sent:
            accepted = Message(message(b"", "ssh-userauth").asbytes())
            super()._parse_service_accept(accepted)

    def _parse_service_accept(self, m: Message) -> None:
        if not self._is_sent:
            super()._parse_service_accept(m)

    def _may_pipeline(self) -> bool:
        transport = self.transport
        if not known_servers.accepts_pipelined_login(transport.remote_version):
            return False
        if self.auth_method != "publickey":
            return True
        key = self.private_key
        # The server has to say first which signatures of an RSA key it accepts.
        is_ready = bool(transport.server_extensions) or not isinstance(key, paramiko.RSAKey)
        is_plain = type(key) in _SOFTWARE_KEYS and not getattr(key, "public_blob", None)
        return is_ready and is_plain and key.can_sign()


class AuthenticatingTransport(ChannelAcceptingTransport):
    """
    The layer of `SshTransport` that logs in.

    Notes
    -----
    Thread safety.  One thread at a time may log in, as in paramiko.
    """

    def __init__(self, wire: Wire, connection_id: str) -> None:
        self._auth_handler: Optional[AuthHandler] = None
        super().__init__(wire, connection_id)

    @property
    def auth_handler(self) -> Any:
        """The attempt to log in, which paramiko makes anew for each."""
        return self._auth_handler

    @auth_handler.setter
    def auth_handler(self, handler: Optional[AuthHandler]) -> None:
        if type(handler) is AuthHandler:
            handler.__class__ = PipeliningAuthHandler
        self._auth_handler = handler
