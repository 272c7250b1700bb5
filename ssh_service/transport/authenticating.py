"""Authentication requests that do not wait for the server to accept the service for them."""

from __future__ import annotations

import collections
from typing import Any, Deque, List, Optional, Tuple

import paramiko
from paramiko.auth_handler import AuthHandler
from paramiko.common import MSG_SERVICE_ACCEPT, MSG_SERVICE_REQUEST, MSG_USERAUTH_REQUEST
from paramiko.message import Message

from ssh_service import known_servers
from ssh_service.transport.accepting import ChannelAcceptingTransport
from ssh_service.transport.packets import message
from ssh_service.transport.wire import Wire

_SERVICE = "ssh-userauth"
# Keys that sign at once.  Others may ask an agent or the user, so the reader thread signs, and
# the caller can give up.
_SIGN_AT_ONCE = (paramiko.RSAKey, paramiko.ECDSAKey, paramiko.Ed25519Key)


class AuthenticatingTransport(ChannelAcceptingTransport):
    """
    The layer of `SshTransport` that saves a round trip for each attempt to log in.

    See docs/paramiko_repairs.md#round-trips-of-a-login.

    Notes
    -----
    Thread safety.  One thread at a time may log in, as in paramiko.
    """

    def __init__(self, wire: Wire, connection_id: str) -> None:
        # What follows the next service request, if anything; and whether something followed those
        # that the server has not accepted yet.
        self._early_request: Optional[Tuple[Optional[Message]]] = None
        self._followed: Deque[bool] = collections.deque()
        super().__init__(wire, connection_id)
        self._handler_table[MSG_SERVICE_ACCEPT] = self._on_service_accept

    def auth_none(self, username: str) -> Any:
        """Do as `paramiko.Transport.auth_none`."""
        self._prepare("none", username)
        try:
            return super().auth_none(username)
        finally:
            self._early_request = None

    def auth_password(
        self, username: str, password: Any, event: Any = None, fallback: bool = True
    ) -> Any:
        """Do as `paramiko.Transport.auth_password`."""
        self._prepare("password", username, password=password)
        try:
            return super().auth_password(username, password, event, fallback)
        finally:
            self._early_request = None

    def auth_publickey(self, username: str, key: Any, event: Any = None) -> Any:
        """Do as `paramiko.Transport.auth_publickey`."""
        # Which signature an RSA key may make depends on what the server may not have said yet.
        rsa = isinstance(key, paramiko.RSAKey)
        signs = type(key) in _SIGN_AT_ONCE and (bool(self.server_extensions) or not rsa)
        self._prepare("publickey", username, possible=signs, private_key=key)
        try:
            return super().auth_publickey(username, key, event)
        finally:
            self._early_request = None

    def auth_interactive(self, username: str, handler: Any, submethods: str = "") -> Any:
        """Do as `paramiko.Transport.auth_interactive`."""
        self._prepare("keyboard-interactive", username, submethods=submethods)
        try:
            return super().auth_interactive(username, handler, submethods)
        finally:
            self._early_request = None

    def _prepare(
        self, method: str, username: str, possible: bool = True, **credentials: Any
    ) -> None:
        """Have the request sent together with the service request, if the server takes that."""
        ready = possible and self.active and self.initial_kex_done
        early = ready and known_servers.is_openssh(self.remote_version)
        self._early_request = (_request(self, method, username, credentials) if early else None,)

    def _send_message(self, data: Message) -> None:
        early = self._early_request
        if early is None or data.asbytes()[0] != MSG_SERVICE_REQUEST:
            super()._send_message(data)
            return
        self._early_request = None
        self._followed.append(early[0] is not None)
        super()._send_message(data)
        if early[0] is not None:
            super()._send_message(early[0])

    def _on_service_accept(self, m: Message) -> None:
        followed = self._followed.popleft() if self._followed else False
        if not followed and self.auth_handler is not None:
            self.auth_handler._parse_service_accept(m)


class _Capture:
    """Stands in for a transport; keeps what is sent."""

    def __init__(self, transport: paramiko.Transport) -> None:
        self._transport = transport
        self.sent: List[Message] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def _send_message(self, m: Message) -> None:
        self.sent.append(m)


def _request(
    transport: paramiko.Transport, method: str, username: str, credentials: Any
) -> Optional[Message]:
    """Return the request that paramiko makes; None where it fails, which it then does again."""
    recorder = _Capture(transport)
    handler = AuthHandler(recorder)
    handler.auth_method, handler.username = method, username
    vars(handler).update(credentials)
    accept = message(b"", _SERVICE)
    accept.rewind()
    try:
        handler._parse_service_accept(accept)
    except Exception:  # noqa: B902  (a key without its private half, say)
        return None
    if [each.asbytes()[0] for each in recorder.sent] != [MSG_USERAUTH_REQUEST]:
        return None
    return recorder.sent[0]
