"""Channels that the server opens (forwarded connections, X11, agents), and their handlers."""

from __future__ import annotations

import functools
import queue
import threading
from typing import Any, Callable, List, Optional, Tuple

from paramiko.common import (
    OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED,
    OPEN_FAILED_RESOURCE_SHORTAGE,
    cMSG_CHANNEL_OPEN_FAILURE,
    cMSG_CHANNEL_OPEN_SUCCESS,
    cMSG_GLOBAL_REQUEST,
)
from paramiko.message import Message

from ssh_service.errors import SshConnectionLost, SshSessionRefused
from ssh_service.transport.channel import SshChannel
from ssh_service.transport.channel_opening import ChannelOpeningTransport
from ssh_service.transport.packets import message
from ssh_service.transport.wire import Wire

# Channels that may wait for `accept`, and handlers that may run at once, for each connection.
_MAX_ACCEPT_QUEUE = 1024
_MAX_HANDLERS = 1024
# Names for all addresses of the server (RFC 4254 section 7.1).
_ANY_ADDRESS = ("", "*", "0.0.0.0", "::")

Handler = Callable[..., None]


class PortForward:
    """
    A port on which the server listens for one user of the connection.

    Attributes
    ----------
    address, port : str, int
        As requested; if the port was 0, the one that the server chose.
    handler : Optional[Handler]
        Called with each forwarded connection; None queues them for `accept`.
    """

    def __init__(self, address: str, port: int, handler: Optional[Handler]) -> None:
        self.address = address
        self.port = port
        self.handler = handler
        self.is_wanted = True  # guarded by the lock of `PortForwards`


class PortForwards:
    """
    The ports on which a server listens for the users of one connection.

    paramiko keeps one handler for all of them: see docs/paramiko_repairs.md#forward-handlers.

    Notes
    -----
    Thread safety.  Every method may be called from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._all: List[PortForward] = []  # guarded by _lock

    def add(self, forward: PortForward) -> bool:
        """Add a forward that the server granted; return False if it was withdrawn meanwhile."""
        with self._lock:
            if forward.is_wanted:
                self._all.append(forward)
            return forward.is_wanted

    def withdraw(self, forward: PortForward) -> bool:
        """Withdraw a forward whose user has given up; return whether it had been granted."""
        with self._lock:
            forward.is_wanted = False
            granted = forward in self._all
            if granted:
                self._all.remove(forward)
            return granted

    def remove(self, address: str, port: int) -> None:
        """Remove the forward with exactly this address and port, if there is one."""
        with self._lock:
            self._all = [one for one in self._all if (one.address, one.port) != (address, port)]

    def find(self, address: str, port: int) -> Optional[PortForward]:
        """
        Return the forward of a connection to `address` and `port`; None if unknown or ambiguous.

        OpenSSH sends the address as it was requested; other servers send the address for which a
        name or a wildcard stands (RFC 4254 section 7.2).
        """
        with self._lock:
            same_port = [one for one in self._all if one.port == port]
        exact = [one for one in same_port if one.address == address]
        anywhere = [one for one in same_port if one.address in _ANY_ADDRESS]
        for found in (exact, anywhere, same_port):
            if len(found) == 1:
                return found[0]
        return None


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
        self._handlers = threading.BoundedSemaphore(_MAX_HANDLERS)
        # Channels for `accept`; None marks the end, and every reader puts it back.
        self._accepted: "queue.SimpleQueue[Optional[SshChannel]]" = queue.SimpleQueue()
        super().__init__(wire, connection_id)

    def _after_fork_in_child(self) -> None:
        super()._after_fork_in_child()
        self._forwards, self._accepted = PortForwards(), queue.SimpleQueue()
        self._handlers = threading.BoundedSemaphore(_MAX_HANDLERS)
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
        self, address: str, port: int, handler: Optional[Handler] = None
    ) -> int:
        """
        Ask the server to listen on a port and to forward connections.

        Parameters
        ----------
        address : str
            Address on which the server listens; ``""`` for all.
        port : int
            Port on which the server listens; 0 lets the server choose.
        handler : Optional[Handler]
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
                f"{self.connection_id}: the server refused to listen on {address or '*'}:{port}",
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

    def _stop_listening(self, forward: PortForward) -> None:
        m = message(cMSG_GLOBAL_REQUEST, "cancel-tcpip-forward", True)
        m.add(forward.address, forward.port)
        m.on_sent = lambda: self._pending_replies.ask(None)
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

    def _set_x11_handler(self, handler: Optional[Handler]) -> None:
        self._x11_handler = handler or self._queue

    def _set_forward_agent_handler(self, handler: Optional[Handler]) -> None:
        self._forward_agent_handler = handler or self._queue

    def _queue(self, channel: SshChannel, *origin: Any) -> None:
        self._accepted.put(channel)

    # The server's side, on the reader thread.  paramiko also calls the handlers there, and replies
    # during a key exchange: see docs/paramiko_repairs.md#reply-during-a-rekey

    def _parse_channel_open(self, m: Message) -> None:
        kind, number, window, packet = m.get_text(), m.get_int(), m.get_int(), m.get_int()
        handler, arguments, origin = self._find_handler(kind, m)
        if handler is None:
            self._refuse(number, OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED)
        elif handler == self._queue:
            if self._accepted.qsize() >= _MAX_ACCEPT_QUEUE:
                self._refuse(number, OPEN_FAILED_RESOURCE_SHORTAGE)
                return
            self._queue(self._confirm(number, window, packet, origin))
        elif not self._handlers.acquire(blocking=False):
            self._refuse(number, OPEN_FAILED_RESOURCE_SHORTAGE)
        else:
            self._start_handler(self._confirm(number, window, packet, origin), handler, arguments)

    def _find_handler(
        self, kind: str, m: Message
    ) -> Tuple[Optional[Handler], Tuple[Any, ...], Optional[Tuple[str, int]]]:
        """Return the handler of a channel, its arguments, and the origin of the channel."""
        if kind == "forwarded-tcpip":
            here = m.get_text(), m.get_int()
            origin = m.get_text(), m.get_int()
            forward = self._forwards.find(*here)
            if forward is not None:
                return forward.handler or self._queue, (origin, here), origin
        elif kind == "x11" and self._x11_handler is not None:
            origin = m.get_text(), m.get_int()
            return self._x11_handler, (origin,), None
        elif kind == "auth-agent@openssh.com" and self._forward_agent_handler is not None:
            return self._forward_agent_handler, (), None
        return None, (), None

    def _refuse(self, number: int, code: int) -> None:
        self._reply(message(cMSG_CHANNEL_OPEN_FAILURE, number, code, "", ""))

    def _confirm(
        self, number: int, window: int, packet: int, origin: Optional[Tuple[str, int]]
    ) -> SshChannel:
        with self.lock:
            own = self._next_channel()
            chan = SshChannel(own)
            chan._set_transport(self)
            chan._set_window(self._sanitize_window_size(None), self._sanitize_packet_size(None))
            chan._set_remote_channel(number, window, packet)
            chan.origin_addr = origin
            self._channels.put(own, chan)
            self.channels_seen[own] = True
        self._reply(
            message(
                cMSG_CHANNEL_OPEN_SUCCESS,
                number,
                own,
                chan.in_window_size,
                chan.in_max_packet_size,
            )
        )
        return chan

    def _start_handler(
        self, chan: SshChannel, handler: Handler, arguments: Tuple[Any, ...]
    ) -> None:
        def run() -> None:
            try:
                handler(chan, *arguments)
            except Exception:  # of the user's code: close only its channel
                self.logger.exception("%s: a channel handler failed", self.connection_id)
                chan.close()
            finally:
                self._handlers.release()

        name = f"ssh-service-forward-{self.connection_id}"
        try:
            threading.Thread(target=run, name=name, daemon=True).start()
        except RuntimeError as error:  # no thread can be started
            self._handlers.release()
            self.logger.error(
                "%s: cannot start a thread for a channel handler: %s", self.connection_id, error
            )
            chan.close()
