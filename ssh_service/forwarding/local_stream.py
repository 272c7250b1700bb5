"""A stream for a local program that connected to a forward: accepted first, then opened."""

from __future__ import annotations

import os
import socket
from typing import Any, Optional, Protocol, Tuple

from ssh_service.errors import OPEN_CONNECT_FAILED, SshConnectionLost, SshSessionRefused
from ssh_service.forwarding.addresses import Address, TcpAddress
from ssh_service.forwarding.selector_thread import READ, SelectorTimer
from ssh_service.forwarding.socks import Negotiation, SocksError
from ssh_service.forwarding.stream import Owner, Stream
from ssh_service.transport import SshChannel, SshTransport

# The size of one read from a SOCKS client, in bytes; a request has at most about 300.
_NEGOTIATION_SIZE = 4096
# Seconds for a SOCKS client to send its request.
_NEGOTIATION_TIMEOUT = 30.0
# Seconds for it once the limit of streams is reached.
_SHORT_NEGOTIATION_TIMEOUT = 1.0
# RFC 4254 section 5.1.
_PROHIBITED = 1


class LocalOwner(Owner, Protocol):
    """The additional methods that a local stream calls; on the selector thread."""

    def connect_stream(self, stream: "LocalStream") -> None:
        """Call `LocalStream.open` once there is a connection, or `fail`."""


class LocalStream(Stream):
    """
    A stream whose local socket was accepted before its channel to the target is opened.

    Parameters
    ----------
    owner, sock
        As for `Stream`.
    target : Optional[Address]
        The address that the server connects to; None if it is set later.
    origin : Tuple[str, int]
        The address of the local program, for the server's log.
    """

    _owner: LocalOwner

    def __init__(
        self,
        owner: LocalOwner,
        sock: socket.socket,
        target: Optional[Address],
        origin: Tuple[str, int],
    ) -> None:
        super().__init__(owner, sock, "?" if target is None else str(target))
        self._target = target
        self._origin = origin
        self._was_lost = False

    def begin(self) -> None:
        """Request a connection from the forward."""
        self._thread.watch(self._sock, READ, self._on_ready_early)
        self._owner.connect_stream(self)

    def _on_ready_early(self, _: int) -> None:
        """Check whether the local program has disconnected; its data is read later."""
        try:
            self._sock.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._on_local_error(error)
            return
        self._thread.watch(self._sock, 0, self._on_ready_early)
        self._thread.watch_error(self._sock, self._on_local_error)

    def open(self, transport: SshTransport) -> None:
        """Ask the server to connect to the target."""
        if self.has_ended or self._target is None:
            return
        address: Any
        if isinstance(self._target, TcpAddress):
            kind, address = "direct-tcpip", tuple(self._target)
        else:
            kind, address = "direct-streamlocal@openssh.com", os.fsencode(self._target.path)
        try:
            self._channel = transport.start_channel(
                kind, self, address, self._origin, window_size=self._window.size
            )
        except SshConnectionLost as error:
            self.fail(error)

    def on_open(self, channel: SshChannel) -> None:
        """Start to carry bytes; on the reader thread."""
        self._channel = channel
        self._thread.call_soon(self._on_opened)

    def _on_opened(self) -> None:
        if not self.has_ended:
            self._start()

    def fail(self, error: BaseException) -> None:
        """Retry once if the connection was lost before the target was reached; otherwise end."""
        if isinstance(error, SshConnectionLost) and not (
            self.has_opened or self.has_ended or self._was_lost
        ):
            self._was_lost, self._channel = True, None
            self._owner.connect_stream(self)
            return
        if isinstance(error, SshSessionRefused):
            error = _explain(error, self.to)
        super().fail(error)


class SocksStream(LocalStream):
    """A local stream whose client names the target by SOCKS 4, 4a or 5."""

    def __init__(self, owner: LocalOwner, sock: socket.socket, origin: Tuple[str, int]) -> None:
        super().__init__(owner, sock, None, origin)
        self._negotiation = Negotiation()
        self._is_hurried = False
        self._timer: Optional[SelectorTimer] = None

    def begin(self) -> None:
        """Start to read the request."""
        self._timer = self._thread.call_later(_NEGOTIATION_TIMEOUT, self._on_timeout)
        self._thread.watch(self._sock, READ, self._on_request)

    def hurry(self) -> None:
        """Shorten the client's time limit, as other connections wait."""
        if self._timer is None or self._target is not None or self._is_hurried:
            return
        self._is_hurried = True
        self._timer.cancel()
        self._timer = self._thread.call_later(_SHORT_NEGOTIATION_TIMEOUT, self._on_timeout)

    def _on_timeout(self) -> None:
        why = f"no SOCKS request within {_NEGOTIATION_TIMEOUT:g} s"
        if self._is_hurried:
            why = "no SOCKS request while others waited (max_streams)"
        self.abort("failed", SocksError(why))

    def _on_request(self, _: int) -> None:
        try:
            data = self._sock.recv(_NEGOTIATION_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._on_local_error(error)
            return
        try:
            if not data:
                raise SocksError("the client ended the connection before its SOCKS request")
            self._reply(self._negotiation.feed(data))
        except SocksError as error:
            self._end("failed", error)
            return
        if self._negotiation.target is not None and not self.has_ended:
            self._target, self._early = self._negotiation.target, self._negotiation.rest
            self.to = str(self._target)
            if self._timer is not None:
                self._timer.cancel()
            super().begin()

    def _reply(self, data: bytes) -> None:
        """Send a short reply, for which a new socket's buffer has space."""
        if not data:
            return
        try:
            self._sock.send(data)
        except OSError as error:
            self._on_local_error(error)

    def on_open(self, channel: SshChannel) -> None:
        """Confirm the request before any data of the target; on the reader thread."""
        reply = self._negotiation.success()
        self._uncounted = len(reply)
        self._received.append(reply)
        super().on_open(channel)
        self._write()

    def _end(
        self, outcome: str, error: Optional[BaseException] = None, reset: bool = False
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super()._end(outcome, error, reset)

    def _answer(self, outcome: str, error: Optional[BaseException]) -> bool:
        reply = error.reply if isinstance(error, SocksError) else b""
        if self._target is not None and not self.has_opened and outcome in _ANSWERED:
            code = error.code if isinstance(error, SshSessionRefused) else 0
            reply = self._negotiation.failure(code == OPEN_CONNECT_FAILED, code == _PROHIBITED)
        self._reply(reply)
        return bool(reply)


# The outcomes for which a SOCKS client gets a reply.
_ANSWERED = ("refused", "not connected", "lost", "closed")


def _explain(error: SshSessionRefused, to: str) -> SshSessionRefused:
    """Return an error with what was refused, and the settings that could permit it."""
    text = f"{error.connection_id}: the server cannot connect to {to}: {error.text}"
    if error.code == _PROHIBITED:
        text = (
            f"{error.connection_id}: the server does not permit connections to {to}: {error.text}"
            " (see AllowTcpForwarding, AllowStreamLocalForwarding, PermitOpen and"
            " DisableForwarding in its sshd_config, permitopen and restrict in authorized_keys)"
        )
    explained = SshSessionRefused(
        text, code=error.code, text=error.text, connection_id=error.connection_id
    )
    explained.__cause__ = error
    return explained
