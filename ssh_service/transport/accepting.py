"""Channels that the server opens (forwarded connections, X11, agents), and their handlers."""

from __future__ import annotations

import functools
import queue
from typing import Any, Callable, List, Optional, Tuple

from paramiko.common import (
    OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED,
    OPEN_FAILED_RESOURCE_SHORTAGE,
    cMSG_CHANNEL_OPEN_FAILURE,
    cMSG_GLOBAL_REQUEST,
)
from paramiko.message import Message

from ssh_service import threads
from ssh_service.errors import SshConnectionLost, SshSessionRefused
from ssh_service.threads import NoMoreThreads
from ssh_service.transport.channel import SshChannel
from ssh_service.transport.channel_opening import ChannelOpeningTransport
from ssh_service.transport.global_requests import PendingReply
from ssh_service.transport.packets import message
from ssh_service.transport.port_forwards import (
    NO_PORT,
    ChannelHandler,
    IncomingChannel,
    ListenAddress,
    PortForward,
    PortForwards,
    confirmation,
)
from ssh_service.transport.sink import ChannelSink
from ssh_service.transport.wire import Wire

# Channels that may wait for `accept`, and handlers that may run at once, for each connection.
_MAX_ACCEPT_QUEUE = 1024
_MAX_HANDLERS = 1024


class ChannelAcceptingTransport(ChannelOpeningTransport):
    """
    The layer of `SshTransport` that accepts channels from the server.

    Notes
    -----
    Thread safety.  Every method may be called from any thread.

    Guarantees.  A forwarded connection reaches the user who requested its address and port.  Each
    handler runs on its own thread and may block.
    """

    def __init__(self, wire: Wire, connection_id: str) -> None:
        self._forwards = PortForwards()
        self._in_handlers: List[SshChannel] = []  # single operations on it are atomic
        # Channels for `accept`; None marks the end, and every reader puts it back.
        self._accepted: "queue.SimpleQueue[Optional[SshChannel]]" = queue.SimpleQueue()
        super().__init__(wire, connection_id)

    def _after_fork_in_child(self) -> None:
        super()._after_fork_in_child()
        self._forwards, self._accepted = PortForwards(), queue.SimpleQueue()
        self._in_handlers = []
        self._accepted.put(None)

    def _release_waiters(self, reason: SshConnectionLost) -> None:
        super()._release_waiters(reason)
        self._accepted.put(None)

    # Our side.

    def accept(self, timeout: Optional[float] = None) -> Optional[SshChannel]:
        """
        Wait for a channel that the server opens and for which there is no handler.

        Parameters
        ----------
        timeout : Optional[float]
            Seconds; None waits until the connection ends.

        Returns
        -------
        Optional[SshChannel]
            None after the timeout, or if the connection has ended.
        """
        try:
            channel = self._accepted.get(timeout=timeout)
        except queue.Empty:
            return None
        if channel is None:
            self._accepted.put(None)
        return channel

    def request_port_forward(
        self, address: str, port: int, handler: Optional[ChannelHandler] = None
    ) -> int:
        """
        Ask the server to listen on a port and to forward connections.

        Parameters
        ----------
        address : str
            Address on which the server listens; ``""`` for all.
        port : int
            Port on which the server listens; 0 lets the server choose.
        handler : Optional[ChannelHandler]
            ``handler(channel, (origin_address, origin_port), (address, port))`` is called with
            each connection, on its own thread.  With None, connections wait for `accept`.

        Returns
        -------
        int
            The port.

        Raises
        ------
        SshSessionRefused
            The server refused.
        socket.timeout
            The server did not answer.
        SshConnectionLost
            The connection has ended.
        """
        forward = PortForward(address, int(port), handler)
        try:
            answer = self._request(
                "tcpip-forward",
                (address, forward.port),
                functools.partial(self._on_granted, forward),
            )
        except BaseException:
            if self._forwards.withdraw(forward) and self.is_active():
                self._stop_listening(forward)
            raise
        if answer is None or not forward.port:
            raise SshSessionRefused(
                f"{self.connection_id}: TCP forwarding request denied:"
                f" the server refused to listen on {address or '*'}:{port}",
                connection_id=self.connection_id,
            )
        return forward.port

    def _on_granted(self, forward: PortForward, answer: Optional[Message]) -> None:
        # On the reader thread: the first connection may follow the reply immediately.
        if answer is None:
            return
        forward.port = forward.port or answer.get_int()
        if not self._forwards.add(forward):
            self._stop_listening(forward)

    def start_listening(
        self,
        address: ListenAddress,
        on_channel: Callable[[IncomingChannel], None],
        on_answer: Callable[[Optional[PortForward]], None],
    ) -> PortForward:
        """
        Ask the server to listen, without blocking.

        Parameters
        ----------
        address : Union[Tuple[str, int], str]
            Host and port on the server (``""``: all addresses; port 0: the server chooses), or the
            path there of a UNIX domain socket.
        on_channel : Callable[[IncomingChannel], None]
            Called on the reader thread with each forwarded connection; it must not block.
        on_answer : Callable[[Optional[PortForward]], None]
            Called on the reader thread with the server's answer: the forward, with its port, or
            None if the server refused, or the connection has ended.

        Returns
        -------
        PortForward
            For `stop_listening`.

        Raises
        ------
        SshConnectionLost
            The connection has ended.
        """
        host, port = (address, NO_PORT) if isinstance(address, str) else address
        forward = PortForward(host, port, None, on_channel)

        def answered(answer: Optional[Message]) -> None:
            self._on_granted(forward, answer)
            on_answer(forward if answer is not None and forward.port else None)

        kind = "streamlocal-forward@openssh.com" if forward.is_unix else "tcpip-forward"
        m = message(cMSG_GLOBAL_REQUEST, kind, True, *forward.fields)
        m.on_sent = lambda: self._pending_replies.ask(PendingReply(answered))
        if not self.is_active():
            raise self._ended_error()
        self.send_nowait(m)
        return forward

    def stop_listening(
        self, forward: PortForward, on_answer: Optional[Callable[[], None]] = None
    ) -> bool:
        """
        Ask the server to stop listening, without blocking, now or once it has agreed to listen.

        Parameters
        ----------
        forward : PortForward
            From `start_listening`.
        on_answer : Optional[Callable[[], None]]
            Called on the reader thread when the server has answered, or the connection has ended.

        Returns
        -------
        bool
            Whether `on_answer` will be called: the server listened.
        """
        listened = self._forwards.withdraw(forward) and self.is_active()
        if listened:
            self._stop_listening(forward, on_answer)
        return listened

    def stop_port_forward(self, address: str, port: int) -> None:
        """Do as `cancel_port_forward`, without waiting for the server."""
        self._forwards.remove(address, port)
        self._stop_listening(PortForward(address, port, None))

    def _stop_listening(
        self, forward: PortForward, on_answer: Optional[Callable[[], None]] = None
    ) -> None:
        kind = "streamlocal-forward@openssh.com" if forward.is_unix else "tcpip-forward"
        m = message(cMSG_GLOBAL_REQUEST, f"cancel-{kind}", True, *forward.fields)
        pending = None if on_answer is None else PendingReply(lambda _: on_answer())
        m.on_sent = lambda: self._pending_replies.ask(pending)
        self.send_nowait(m)

    def cancel_port_forward(self, address: str, port: int) -> None:
        """
        Ask the server to stop listening; other forwards stay.

        Parameters
        ----------
        address : str
            As given to `request_port_forward`.
        port : int
            As returned by `request_port_forward`.
        """
        if not self.is_active():
            return
        self._forwards.remove(address, int(port))
        self.global_request("cancel-tcpip-forward", (address, int(port)))

    def _set_x11_handler(self, handler: Optional[ChannelHandler]) -> None:
        self._x11_handler = handler or self._queue

    def _set_forward_agent_handler(self, handler: Optional[ChannelHandler]) -> None:
        self._forward_agent_handler = handler or self._queue

    def _queue_incoming_channel(self, channel: SshChannel) -> None:
        # Called by handlers of users, as paramiko's documentation has it.
        self._accepted.put(channel)

    def _queue(self, channel: SshChannel, *origin: Any) -> None:
        self._accepted.put(channel)

    # The server's side, on the reader thread.  paramiko also calls the handlers there, and replies
    # during a key exchange: see docs/paramiko_repairs.md#reply-during-a-rekey

    def _parse_channel_open(self, m: Message) -> None:
        kind, number, window, packet = m.get_text(), m.get_int(), m.get_int(), m.get_int()
        forward, here, origin = self._find_forward(kind, m)
        if forward is not None and forward.on_channel is not None:
            forward.on_channel(IncomingChannel(self, number, window, packet, origin))
            return
        handler, arguments = self._find_handler(kind, m, forward, (origin, here))
        if handler is None:
            self._refuse(number, OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED)
        elif handler == self._queue:
            if self._accepted.qsize() >= _MAX_ACCEPT_QUEUE:
                self._refuse(number, OPEN_FAILED_RESOURCE_SHORTAGE)
                return
            self._queue(self._confirm(number, window, packet, origin))
        elif len(self._in_handlers) >= _MAX_HANDLERS:
            self._refuse(number, OPEN_FAILED_RESOURCE_SHORTAGE)
        else:
            self._start_handler(self._confirm(number, window, packet, origin), handler, arguments)

    def _find_forward(
        self, kind: str, m: Message
    ) -> Tuple[Optional[PortForward], Tuple[str, int], Optional[Tuple[str, int]]]:
        """Return the forward of a channel, where the server listens for it, and its origin."""
        if kind == "forwarded-tcpip":
            here = m.get_text(), m.get_int()
            return self._forwards.find(*here), here, (m.get_text(), m.get_int())
        if kind == "forwarded-streamlocal@openssh.com":
            here = m.get_text(), NO_PORT
            return self._forwards.find(*here), here, None
        return None, ("", 0), None

    def _find_handler(
        self, kind: str, m: Message, forward: Optional[PortForward], ends: Tuple[Any, ...]
    ) -> Tuple[Optional[ChannelHandler], Tuple[Any, ...]]:
        """Return the handler of a channel, and its arguments."""
        if forward is not None:
            return forward.handler or self._queue, ends
        if kind == "x11" and self._x11_handler is not None:
            return self._x11_handler, ((m.get_text(), m.get_int()),)
        if kind == "auth-agent@openssh.com" and self._forward_agent_handler is not None:
            return self._forward_agent_handler, ()
        return None, ()

    def _refuse(self, number: int, code: int) -> None:
        self._reply(message(cMSG_CHANNEL_OPEN_FAILURE, number, code, "", ""))

    def _confirm(
        self, number: int, window: int, packet: int, origin: Optional[Tuple[str, int]]
    ) -> SshChannel:
        chan = self._add_channel(number, window, packet, origin)
        self._reply(confirmation(number, chan))
        return chan

    def _add_channel(
        self,
        number: int,
        window: int,
        packet: int,
        origin: Optional[Tuple[str, int]],
        sink: Optional[ChannelSink] = None,
        window_size: Optional[int] = None,
    ) -> SshChannel:
        with self.lock:
            own = self._next_channel()
            chan = SshChannel(own, sink)
            chan._set_transport(self)
            chan._set_window(
                self._sanitize_window_size(window_size), self._sanitize_packet_size(None)
            )
            chan._set_remote_channel(number, window, packet)
            chan.origin_addr = origin
            # Checked under the lock that `_on_ended` takes to end all channels.
            alive = sink is None or self.is_active()
            if alive:
                self._channels.put(own, chan)
                self.channels_seen[own] = True
            if alive and sink is not None:
                self._strong_references.add(chan)
        if not alive:
            raise self._ended_error()
        return chan

    def _start_handler(
        self, chan: SshChannel, handler: ChannelHandler, arguments: Tuple[Any, ...]
    ) -> None:
        def run() -> None:
            try:
                handler(chan, *arguments)
            except Exception:  # of the user's code: close only its channel
                self.logger.exception("%s: a channel handler failed", self.connection_id)
                chan.close()
            finally:
                self._in_handlers.remove(chan)

        name = f"ssh-service-forward-{self.connection_id}"
        self._in_handlers.append(chan)
        try:
            threads.start_thread(run, name)
        except NoMoreThreads as error:
            self._in_handlers.remove(chan)
            self.logger.error(
                "%s: cannot start a thread for a channel handler: %s", self.connection_id, error
            )
            chan.close()
