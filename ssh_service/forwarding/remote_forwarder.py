"""Forwards for which the server listens; this machine connects to the target."""

from __future__ import annotations

import functools
import logging
import socket
import time
from typing import Dict, Optional

from ssh_service import events
from ssh_service.errors import (
    OPEN_CONNECT_FAILED,
    OPEN_RESOURCE_SHORTAGE,
    SshConnectionLost,
    SshConnectTimeout,
    SshServiceError,
    SshSessionRefused,
    reason_of,
)
from ssh_service.forwarding.addresses import TcpAddress, UnixAddress
from ssh_service.forwarding.connector import Connector
from ssh_service.forwarding.forwarder import Forwarder
from ssh_service.forwarding.selector_thread import SelectorTimer
from ssh_service.forwarding.stream import Stream, next_stream_number
from ssh_service.transport import IncomingChannel, PortForward, SshTransport

_log = logging.getLogger(__name__)

# The time limit for the server's answer to a request to listen, in seconds.
_ANSWER_TIMEOUT = 30.0
# Seconds for which the port that the server chose first is requested again.
_SAME_PORT_TIME = 60.0
# The protocol gives no reason for a refusal.
_WHY_NO_FREE_PORT = (
    "the server does not permit it: AllowTcpForwarding, PermitListen or DisableForwarding in its"
    " sshd_config, or permitlisten or restrict in authorized_keys"
)
_WHY_NO_PORT = f"it is taken there, or {_WHY_NO_FREE_PORT}"
_WHY_NO_SOCKET = (
    "if the file exists there, remove it: sshd leaves the sockets of earlier forwards behind, and"
    " replaces them only with 'StreamLocalBindUnlink yes' in its sshd_config; otherwise the folder"
    " does not exist, is not this user's to write to, or the server does not permit it:"
    " AllowStreamLocalForwarding or DisableForwarding in its sshd_config, or restrict in"
    " authorized_keys"
)


class RemoteStream(Stream):
    """A stream whose local socket is connected before the server's channel is confirmed."""

    def accept(self, incoming: IncomingChannel) -> None:
        """Confirm the channel, and start to carry bytes."""
        try:
            self._channel = incoming.accept(self, self._window.size)
        except SshConnectionLost as error:
            self.fail(error)
            return
        incoming.confirm()
        self._start()


class RemoteForwarder(Forwarder):
    """A forward for which the server listens."""

    kind = "remote"

    _was_full = False
    _listening: Optional[PortForward] = None
    _answer_timer: Optional[SelectorTimer] = None
    _retry_timer: Optional[SelectorTimer] = None

    def _prepare(self) -> None:
        self._connecting: Dict[Connector, IncomingChannel] = {}  # selector thread only

    # Listening.

    def on_connected(self, transport: SshTransport) -> None:
        """Ask the server to listen."""
        self._ask(transport)

    def _ask(self, transport: SshTransport) -> None:
        if self.is_closing or transport is not self._link.transport:
            return
        wanted = self._address
        if isinstance(wanted, UnixAddress):
            address = wanted.path
        else:
            host = "" if wanted.host == "*" else wanted.host
            address = (host, self._wanted_port(wanted))  # type: ignore[assignment]
        try:
            self._listening = transport.start_listening(
                address,
                lambda incoming: self.thread.call_soon(self._on_channel, incoming),
                lambda granted: self.thread.call_soon(self._on_answer, transport, granted),
            )
        except SshConnectionLost:
            return  # `on_disconnected` will be called
        self._answer_timer = self.thread.call_later(
            _ANSWER_TIMEOUT, functools.partial(self._on_no_answer, transport)
        )

    def _wanted_port(self, wanted: TcpAddress) -> int:
        """Return the port to request; 0 (any) if the server's first choice stays in use."""
        lost_at = self._was_lost_at
        any_port = isinstance(self._listen, TcpAddress) and self._listen.port == 0
        if any_port and lost_at is not None and time.monotonic() - lost_at > _SAME_PORT_TIME:
            return 0
        return wanted.port

    def _cancel_timers(self) -> None:
        for timer in (self._answer_timer, self._retry_timer):
            if timer is not None:
                timer.cancel()
        self._answer_timer = self._retry_timer = None

    def _on_answer(self, transport: SshTransport, granted: Optional[PortForward]) -> None:
        if self.is_closing or transport is not self._link.transport:
            return
        self._cancel_timers()
        if granted is None:
            self._listening = None
            if transport.is_active():  # otherwise `on_disconnected` will be called
                self._on_refused(transport)
            return
        if isinstance(self._address, TcpAddress):
            self._address = TcpAddress(self._address.host, granted.port)
        self._link.on_success()
        self._publish_listening()
        self._settle_ready()

    def _on_refused(self, transport: SshTransport) -> None:
        why = _WHY_NO_PORT if self.port else _WHY_NO_FREE_PORT
        if isinstance(self._address, UnixAddress):
            why = _WHY_NO_SOCKET
        error = SshSessionRefused(
            f"{self.connection_id}: the server does not listen on {self.address} ({why})",
            code=OPEN_CONNECT_FAILED,
            connection_id=self.connection_id,
            phase="listen",
        )
        if not self._ready.done():
            self._end(error)
            return
        pause = self._link.pause(error)
        self._report(error, pause)
        self._retry_timer = self.thread.call_later(pause, functools.partial(self._ask, transport))

    def _on_no_answer(self, transport: SshTransport) -> None:
        error = SshConnectTimeout(
            f"{self.connection_id}: no answer to the request to listen on {self.address} within"
            f" {_ANSWER_TIMEOUT:g} s",
            connection_id=self.connection_id,
            phase="listen",
        )
        if not self._ready.done():
            self._end(error)
        else:
            self._report(error, None)  # a late answer is still accepted

    def on_disconnected(self, error: Optional[SshConnectionLost], cache_closed: bool) -> None:
        """Reconnect, and ask the server again to listen."""
        self._listening = None
        self._cancel_timers()
        self._cancel_connectors()
        super().on_disconnected(error, cache_closed)

    def _stop_listening(self) -> None:
        self._cancel_timers()
        transport, listening = self._link.transport, self._listening
        if transport is not None and listening is not None:
            self._is_stopping = transport.stop_listening(
                listening, lambda: self.thread.call_soon(self._on_stopped)
            )
        self._listening = None

    def _reset_streams(self) -> None:
        self._cancel_connectors()
        super()._reset_streams()

    # Streams.

    @property
    def streams(self) -> int:
        """The number of streams, including those that have not reached their target yet."""
        return len(self._streams) + len(getattr(self, "_connecting", ()))

    def _on_channel(self, incoming: IncomingChannel) -> None:
        if self.is_closing or self._to is None:
            incoming.refuse(OPEN_CONNECT_FAILED, "the forward was closed")
            return
        began = time.monotonic()
        if self.streams >= self._max_streams:
            self._report_full(began)
            incoming.refuse(OPEN_RESOURCE_SHORTAGE, f"more than {self._max_streams} streams")
            return

        def done(sock: Optional[socket.socket], error: Optional[OSError]) -> None:
            self._connecting.pop(connector, None)
            self._on_target(incoming, began, sock, error)

        connector = Connector(self.thread, self._to, done)
        self._connecting[connector] = incoming
        connector.start()

    def _on_target(
        self,
        incoming: IncomingChannel,
        began: float,
        sock: Optional[socket.socket],
        error: Optional[OSError],
    ) -> None:
        if sock is not None:
            stream = RemoteStream(self, sock, str(self._to))
            self._add_stream(stream)
            stream.accept(incoming)
            return
        why = "unknown" if error is None else error.strerror or reason_of(error)
        self._report_refused(
            f"{self.connection_id}: cannot connect to {self._to} here: {why}", began
        )
        incoming.refuse(OPEN_CONNECT_FAILED, f"cannot connect to {self._to}: {why}")

    def _report_full(self, began: float) -> None:
        text = f"max_streams ({self._max_streams}) is reached: further connections are refused"
        if not self._was_full:
            self._was_full = True
            _log.warning("%s: %s", self._describe(), text)
        self._report_refused(f"{self.connection_id}: {text}", began)

    def _report_refused(self, text: str, began: float) -> None:
        """Count and publish a stream whose target was not reached."""
        error = SshServiceError(text, connection_id=self.connection_id)
        self._stream_count += 1
        self.last_error = error
        now = time.monotonic()
        self._publish(
            events.StreamEnded(
                self.connection_id,
                now,
                self._number,
                next_stream_number(),
                str(self._to),
                False,
                "refused",
                now - began,
                0,
                0,
                type(error).__name__,
                text,
            )
        )
        self._end_if_drained()

    def _cancel_connectors(self) -> None:
        connecting = dict(getattr(self, "_connecting", {}))
        for connector, incoming in connecting.items():
            self._connecting.pop(connector, None)
            connector.cancel()
            incoming.refuse(OPEN_CONNECT_FAILED, "the forward was closed")
