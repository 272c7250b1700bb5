"""Forwards that listen on this machine: to a fixed target, or to targets named by SOCKS."""

from __future__ import annotations

import logging
import socket
from typing import List, Optional, Tuple

from ssh_service.errors import SshForwardError, SshServiceError
from ssh_service.forwarding.forwarder import Forwarder
from ssh_service.forwarding.listener import Listener
from ssh_service.forwarding.local_stream import LocalStream, SocksStream
from ssh_service.forwarding.stream import Stream
from ssh_service.transport import SshTransport

_log = logging.getLogger(__name__)


class LocalForwarder(Forwarder):
    """A forward that listens on this machine; the server connects to the target."""

    kind = "local"

    _listener: Optional[Listener] = None
    _was_full = False

    def _prepare(self) -> None:
        self._waiting: List[LocalStream] = []  # streams without a connection; selector thread only
        self._listener = Listener(self.thread, self._listen, self._on_accept)
        self._address = self._listener.address

    def on_connected(self, transport: SshTransport) -> None:
        """Start to listen, or open the waiting streams."""
        self._link.on_success()
        if not self._ready.done():
            self._start_listening()
        self._was_lost_at = None
        waiting, self._waiting = self._waiting, []
        for stream in waiting:
            stream.open(transport)

    def _start_listening(self) -> None:
        if self._listener is None:
            raise RuntimeError("a forward has no listener")
        try:
            self._listener.start()
        except SshForwardError as error:
            self._end(error)
            return
        if not self._address.is_loopback:
            _log.warning(
                "everyone who reaches %s can use the forward to %s over %s",
                self.address,
                self.to,
                self.connection_id,
            )
        self._publish_listening()
        self._settle_ready()

    def on_connect_failed(self, error: SshServiceError) -> None:
        """Reset the streams that wait for a connection."""
        waiting, self._waiting = self._waiting, []
        super().on_connect_failed(error)
        for stream in waiting:
            stream.fail(error)

    def _needs_connection(self) -> bool:
        return bool(self._waiting)

    def _on_accept(self, sock: socket.socket, origin: Tuple[str, int]) -> None:
        stream = self._make_stream(sock, origin)
        self._add_stream(stream)
        if len(self._streams) >= self._max_streams and self._listener is not None:
            if not self._was_full:
                self._was_full = True
                _log.warning(
                    "%s: max_streams (%d) is reached: further connections wait until one ends",
                    self._describe(),
                    self._max_streams,
                )
            self._listener.pause()
        stream.begin()
        if len(self._streams) >= self._max_streams:
            self._make_room()

    def _make_room(self) -> None:
        """Free a place soon, as the limit of streams is reached."""

    def _make_stream(self, sock: socket.socket, origin: Tuple[str, int]) -> LocalStream:
        return LocalStream(self, sock, self._to, origin)

    def connect_stream(self, stream: LocalStream) -> None:
        """Open a stream on the connection, once it is established."""
        transport = self._link.transport
        if transport is not None and transport.probe():
            stream.open(transport)
            return
        # If the connection has ended, `on_disconnected` is about to be called.
        self._waiting.append(stream)
        if transport is None:
            self._link.connect()

    def on_stream_ended(
        self, stream: Stream, outcome: str, error: Optional[BaseException]
    ) -> None:
        """Accept connections again if the limit was reached."""
        if isinstance(stream, LocalStream) and stream in self._waiting:
            self._waiting.remove(stream)
        super().on_stream_ended(stream, outcome, error)
        if (
            len(self._streams) < self._max_streams
            and not self.is_closing
            and self._listener is not None
        ):
            self._listener.resume()

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.close()


class SocksForwarder(LocalForwarder):
    """A forward that listens on this machine; its clients name their targets by SOCKS."""

    kind = "socks"

    def _make_stream(self, sock: socket.socket, origin: Tuple[str, int]) -> LocalStream:
        return SocksStream(self, sock, origin)

    def _make_room(self) -> None:
        """Shorten the time limit of clients that have not sent a request."""
        for stream in self._streams:
            if isinstance(stream, SocksStream):
                stream.hurry()
