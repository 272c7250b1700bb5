"""The ports on which a server listens for the users of a connection, and what arrives there."""

from __future__ import annotations

from typing import Any, Callable, List, Optional, Protocol, Tuple, Union

from paramiko.common import cMSG_CHANNEL_OPEN_FAILURE, cMSG_CHANNEL_OPEN_SUCCESS
from paramiko.message import Message

from ssh_service.locks import Lock
from ssh_service.transport.channel import SshChannel
from ssh_service.transport.packets import message
from ssh_service.transport.sink import ChannelSink

# The port of a UNIX domain socket.
NO_PORT = -1
# Names for all addresses of the server (RFC 4254 section 7.1).
_ANY_ADDRESS = ("", "*", "0.0.0.0", "::")

ChannelHandler = Callable[..., None]
# Where a server listens: a host and a port, or the path of a UNIX domain socket.
ListenAddress = Union[Tuple[str, int], str]


class _Accepting(Protocol):
    """What an `IncomingChannel` needs of its transport."""

    def send_nowait(self, m: Message) -> None:
        """Send a message without blocking."""

    def _add_channel(
        self,
        number: int,
        window: int,
        packet: int,
        origin: Optional[Tuple[str, int]],
        sink: Optional[ChannelSink],
        window_size: Optional[int],
    ) -> SshChannel:
        """Add a channel that is not confirmed yet."""


class IncomingChannel:
    """
    A forwarded connection that the server offers, to be accepted or refused, once.

    Attributes
    ----------
    origin : Optional[Tuple[str, int]]
        Where it comes from, as the server says; None for a UNIX domain socket.

    Notes
    -----
    Thread safety.  Every method may be called from any thread; none blocks.
    """

    def __init__(
        self,
        transport: _Accepting,
        number: int,
        window: int,
        packet: int,
        origin: Optional[Tuple[str, int]],
    ) -> None:
        self.origin = origin
        self._transport = transport
        self._number, self._window, self._packet = number, window, packet
        self._channel: Optional[SshChannel] = None

    def accept(self, sink: ChannelSink, window_size: Optional[int] = None) -> SshChannel:
        """
        Return a channel for it; the server learns of it by `confirm`.

        Raises
        ------
        SshConnectionLost
            The connection has ended.
        """
        self._channel = self._transport._add_channel(
            self._number, self._window, self._packet, self.origin, sink, window_size
        )
        return self._channel

    def confirm(self) -> None:
        """Confirm the channel to the server, which then may send data."""
        if self._channel is None:
            raise RuntimeError("a channel is confirmed after it was accepted")
        self._transport.send_nowait(confirmation(self._number, self._channel))

    def refuse(self, code: int, text: str = "") -> None:
        """Refuse it, with a reason code of RFC 4254 section 5.1."""
        self._transport.send_nowait(
            message(cMSG_CHANNEL_OPEN_FAILURE, self._number, code, text, "")
        )


class PortForward:
    """
    A port, or a UNIX domain socket, on which the server listens for one user of the connection.

    Attributes
    ----------
    address, port : str, int
        As requested; if the port was 0, the one that the server chose.  For a UNIX domain socket,
        its path, and -1.
    handler : Optional[ChannelHandler]
        Called with each forwarded connection; None queues them for `accept`.
    on_channel : Optional[Callable[[IncomingChannel], None]]
        Called on the reader thread instead, with each forwarded connection; it must not block.
    """

    def __init__(
        self,
        address: str,
        port: int,
        handler: Optional[ChannelHandler],
        on_channel: Optional[Callable[[IncomingChannel], None]] = None,
    ) -> None:
        self.address = address
        self.port = port
        self.handler = handler
        self.on_channel = on_channel
        self.is_wanted = True  # guarded by the lock of `PortForwards`

    @property
    def is_unix(self) -> bool:
        """Whether the server listens on a UNIX domain socket."""
        return self.port == NO_PORT

    def is_at(self, address: str, port: int) -> bool:
        """Return whether the server listens for it at exactly this address and port."""
        return (self.address, self.port) == (address, port)

    @property
    def fields(self) -> Tuple[Any, ...]:
        """What follows the name of a request for it."""
        return (self.address,) if self.is_unix else (self.address, self.port)


class PortForwards:
    """
    The ports on which a server listens for the users of one connection.

    paramiko keeps one handler for all of them: see docs/paramiko_repairs.md#forward-handlers.

    Notes
    -----
    Thread safety.  Every method may be called from any thread.
    """

    __slots__ = ("_lock", "_all")

    def __init__(self) -> None:
        self._lock = Lock()
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

    def newest(self) -> Optional[PortForward]:
        """Return the forward that was added last."""
        with self._lock:
            return self._all[-1] if self._all else None

    def remove(self, address: str, port: int) -> None:
        """Remove the forward with exactly this address and port, if there is one."""
        with self._lock:
            self._all = list(filter(lambda one: not one.is_at(address, port), self._all))

    def find(self, address: str, port: int) -> Optional[PortForward]:
        """
        Return the forward of a connection to `address` and `port`; None if unknown or ambiguous.

        OpenSSH sends the address as it was requested; other servers send the address for which a
        name or a wildcard stands (RFC 4254 section 7.2).
        """
        with self._lock:
            known = list(self._all)
        same_port = [one for one in known if one.port == port]
        exact = [one for one in same_port if one.address == address]
        if port == NO_PORT:  # a path is what it is
            same_port = exact
        anywhere = [one for one in same_port if one.address in _ANY_ADDRESS]
        for found in (exact, anywhere, same_port):
            if len(found) == 1:
                return found[0]
        return None


def confirmation(number: int, chan: SshChannel) -> Message:
    """Build the confirmation of a channel that the server opened."""
    return message(
        cMSG_CHANNEL_OPEN_SUCCESS,
        number,
        chan.chanid,
        chan.in_window_size,
        chan.in_max_packet_size,
    )
