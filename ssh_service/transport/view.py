"""
`TransportView`: a `paramiko.Transport` of one user's own, on a connection that others share.

Closing it, setting its defaults or its handlers does not touch the others.  Where the connection
is lost while nothing of the view's is open, the next call gets another one.
"""

from __future__ import annotations

import functools
import itertools
import os
import queue
import threading
import weakref
from typing import Any, Callable, Dict, List, Optional, Protocol, Tuple

import paramiko
from paramiko.ssh_exception import AuthenticationException, SSHException

from ssh_service.transport.channel import SshChannel
from ssh_service.transport.channel_map import ChannelMap
from ssh_service.transport.port_forwards import ChannelHandler
from ssh_service.transport.transport import SshTransport

# Seconds to wait for a channel, as in paramiko.
_CHANNEL_TIMEOUT = 3600.0


class ViewOwner(Protocol):
    """Supplies a view with connections and sessions, and keeps its lease."""

    def reconnect(self, view: "TransportView") -> SshTransport:
        """Return a connection in place of one that was lost."""

    def open_session(
        self,
        view: "TransportView",
        window_size: Optional[int],
        max_packet_size: Optional[int],
        timeout: float,
    ) -> SshChannel:
        """Open a session channel of the view's, on any connection of the same destination."""

    def release(self) -> None:
        """Give the lease back; called at least once, when the view is closed."""


class TransportView(paramiko.Transport):  # type: ignore[misc]
    """
    A user's own `paramiko.Transport` on a shared connection.

    Parameters
    ----------
    connection : SshTransport
        The connection, authenticated.
    owner : ViewOwner
        See there.

    Attributes
    ----------
    owner : ViewOwner
        As given.
    connection : SshTransport
        The connection now.

    Notes
    -----
    Thread safety.  Every method may be called from any thread.

    Guarantees.  Nothing that is done to it touches the other users of the connection.  `close`
    closes the view's channels, and no others.
    """

    _cipher_info = SshTransport._cipher_info  # for paramiko's __repr__

    def __init__(self, connection: SshTransport, owner: ViewOwner) -> None:
        # Not paramiko's, which makes a connection.
        threading.Thread.__init__(self, daemon=True)
        self.connection = connection
        self.owner = owner
        self.channel_timeout = _CHANNEL_TIMEOUT
        self.saved_exception: Optional[BaseException] = None
        self.is_closed = False  # only ever set
        self._pid = os.getpid()
        self._lent = ChannelMap()
        self._lent_numbers = itertools.count()
        self._keepalive = 0.0
        self._log_channel: Optional[str] = None
        self._hexdump = False
        self._forwards: Dict[Tuple[str, int], SshTransport] = {}  # single operations are atomic
        # Channels for `accept`; None marks the end, and every reader puts it back.
        self._accepted: "queue.SimpleQueue[Optional[SshChannel]]" = queue.SimpleQueue()

    def __getattr__(self, name: str) -> Any:
        if name in ("connection", "owner") or name.startswith("__"):  # not made yet
            raise AttributeError(name)
        return getattr(self.connection, name)

    # State.

    @property
    def active(self) -> bool:
        """Whether it can be used."""
        return self.is_active()

    def is_active(self) -> bool:
        """Return whether it is open, and its connection has not ended."""
        return not self.is_closed and self.connection.is_active()

    def is_alive(self) -> bool:
        """Return the same as `is_active`: the thread of the connection is others', too."""
        return self.is_active()

    def is_authenticated(self) -> bool:
        """Return whether it is active: its connection was authenticated before."""
        return self.is_active()

    def join(self, timeout: Optional[float] = None) -> None:
        """Wait until the connection ends, unless this is closed."""
        if not self.is_closed and self.connection.is_alive():
            self.connection.join(timeout)

    def run(self) -> None:
        """Refuse to run: the connection has a thread."""
        raise RuntimeError("threads can only be started once")

    def start(self) -> None:
        """Refuse to start: the connection has been started."""
        raise RuntimeError("threads can only be started once")

    def start_client(self, event: Any = None, timeout: Optional[float] = None) -> None:
        """Refuse to start: the connection has been started."""
        raise RuntimeError("threads can only be started once")

    def start_server(self, event: Any = None, server: Any = None) -> None:
        """Refuse to start: the connection has been started."""
        raise RuntimeError("threads can only be started once")

    def connect(self, *args: Any, **kwargs: Any) -> None:
        """Refuse to connect: the connection has been started."""
        raise RuntimeError("threads can only be started once")

    def stop_thread(self) -> None:
        """Do nothing: the thread is others', too."""

    def get_username(self) -> Optional[str]:
        """Return the login name; None once it is not active, as in paramiko."""
        name: Optional[str] = self.connection.get_username() if self.is_active() else None
        return name

    def get_remote_server_key(self) -> Any:
        """
        Return the host key.

        Raises
        ------
        SSHException
            It is not active.
        """
        if not self.is_active():
            raise SSHException("No existing session")
        return self.connection.get_remote_server_key()

    def get_exception(self) -> Optional[BaseException]:
        """Return None: errors are raised where they belong."""
        error, self.saved_exception = self.saved_exception, None
        return error

    # Its end.

    def close(self) -> None:
        """Close its channels, give up its ports, and let go of the connection."""
        self.is_closed = True  # what is opened from here on is closed at once
        if self._pid == os.getpid():
            for channel in self._lent.values():
                channel.close()
            for address, port in list(self._forwards):
                self._stop_forward(address, port)
        self._accepted.put(None)
        self.owner.release()

    def atfork(self) -> None:
        """Let go of the connection in a forked child; the other process keeps it."""
        self.is_closed = True

    def _in_use(self) -> SshTransport:
        """Return the connection, another one if it was lost."""
        if self.is_closed:
            raise SSHException("SSH session not active")
        if not self.connection.is_active():
            self.connection = self.owner.reconnect(self)
            if self._keepalive:
                self._shorten_keepalive(self.connection)
        return self.connection

    # Channels.

    def lend(self, channel: SshChannel, on_end: Any = None) -> bool:
        """Make a channel the view's, before its first request; False: it has been closed."""
        if not channel.lend(self, on_end):
            return False
        self._lent.put(next(self._lent_numbers), channel)
        if self.is_closed:
            channel.close()
        return True

    def give_away(self, channel: SshChannel) -> None:
        """Let go of a channel: it stays open when the view is closed."""
        self._lent.delete_channel(channel)
        channel.transport.show(channel.connection)

    def open_channel(
        self,
        kind: str,
        dest_addr: Any = None,
        src_addr: Any = None,
        window_size: Optional[int] = None,
        max_packet_size: Optional[int] = None,
        timeout: Optional[float] = None,
    ) -> SshChannel:
        """Open a channel, as `paramiko.Transport.open_channel`."""
        timeout = self.channel_timeout if timeout is None else timeout
        # Its own defaults, if it was given some.
        window_size = window_size or vars(self).get("default_window_size")
        max_packet_size = max_packet_size or vars(self).get("default_max_packet_size")
        if kind == "session":
            if self.is_closed:
                raise SSHException("SSH session not active")
            channel = self.owner.open_session(self, window_size, max_packet_size, timeout)
        else:
            channel = self._in_use().open_channel(
                kind, dest_addr, src_addr, window_size, max_packet_size, timeout
            )
            channel.destination = dest_addr
            if not self.lend(channel):
                raise SSHException("the channel was closed at once")
        if self.is_closed:
            raise SSHException("SSH session not active")
        return channel

    # Channels that the server opens.

    def accept(self, timeout: Optional[float] = None) -> Optional[SshChannel]:
        """Wait for a channel that the server opens for this view, as in paramiko."""
        try:
            channel = self._accepted.get(timeout=timeout)
        except queue.Empty:
            return None
        if channel is None:
            self._accepted.put(None)
        return channel

    def own_handler(self, handler: Optional[ChannelHandler], before: Any = None) -> ChannelHandler:
        """
        Return a handler that makes the channel the view's first.

        Once the view is closed, it calls the handler from before: the server has one agent for all
        users of a connection.
        """
        while isinstance(before, _OwnHandler) and before.is_over():
            before = before.before
        return _OwnHandler(
            weakref.ref(self), handler, before if isinstance(before, _OwnHandler) else None
        )

    def _queue_incoming_channel(self, channel: SshChannel) -> None:
        # Called by handlers of users, as paramiko's documentation has it.
        self._accepted.put(channel)

    def queue_accepted(self, channel: SshChannel, *origin: Any) -> None:
        """Keep a channel for `accept`."""
        self._accepted.put(channel)

    def request_port_forward(
        self, address: str, port: int, handler: Optional[ChannelHandler] = None
    ) -> int:
        """Ask the server to listen on a port, as `paramiko.Transport.request_port_forward`."""
        connection = self._in_use()
        # As in paramiko, a forward goes on where only the handler is left of its client.
        own = _OwnHandler(lambda: self, handler)
        number = connection.request_port_forward(address, port, own)
        self._forwards[address, number] = connection
        if self.is_closed:
            self._stop_forward(address, number)
            raise SSHException("SSH session not active")
        return number

    def cancel_port_forward(self, address: str, port: int) -> None:
        """Ask the server to stop listening on a port of this view's; others' stay."""
        connection = self._forwards.pop((address, int(port)), None)
        if connection is not None:
            connection.cancel_port_forward(address, port)

    def _stop_forward(self, address: str, port: int) -> None:
        connection = self._forwards.pop((address, port), None)
        if connection is not None and connection.is_active():
            connection.stop_port_forward(address, port)

    # What belongs to the connection.

    def set_keepalive(self, interval: float) -> None:
        """Have the server asked for a sign of life at least that often; 0 changes nothing."""
        self._keepalive = float(interval)
        if self._keepalive > 0 and not self.is_closed:
            self._shorten_keepalive(self._in_use())

    def _shorten_keepalive(self, connection: SshTransport) -> None:
        now = connection.keepalive_interval
        if not now or self._keepalive < now:
            connection.set_keepalive(self._keepalive)

    def global_request(self, kind: str, data: Any = None, wait: bool = True) -> Any:
        """Make a global request, as in paramiko."""
        return self._in_use().global_request(kind, data, wait)

    def send_ignore(self, byte_count: Optional[int] = None) -> None:
        """Send a message that the server ignores, as in paramiko."""
        self._in_use().send_ignore(byte_count)

    def renegotiate_keys(self) -> None:
        """Exchange keys again, as in paramiko."""
        self._in_use().renegotiate_keys()

    # Its settings.

    def set_log_channel(self, name: str) -> None:
        """Log to another logger what is logged by the view."""
        self._log_channel = name
        self.logger = paramiko.util.get_logger(name)

    def get_log_channel(self) -> str:
        """Return the name of the logger."""
        return self._log_channel or str(self.connection.get_log_channel())

    def set_hexdump(self, hexdump: bool) -> None:
        """Note it: the bytes of a connection that others share are not logged."""
        self._hexdump = hexdump

    def get_hexdump(self) -> bool:
        """Return what was set."""
        return self._hexdump

    # Logging in: it has been done.

    def auth_none(self, username: str) -> List[str]:
        """See `auth_password`."""
        return self._auth_again(username)

    def auth_password(
        self, username: str, password: str, event: Any = None, fallback: bool = True
    ) -> List[str]:
        """
        Return that nothing more is needed: the connection has been logged in.

        Raises
        ------
        AuthenticationException
            It was logged in as another user.
        """
        return self._auth_again(username, event)

    def auth_publickey(self, username: str, key: Any, event: Any = None) -> List[str]:
        """See `auth_password`."""
        return self._auth_again(username, event)

    def auth_interactive(self, username: str, handler: Any, submethods: str = "") -> List[str]:
        """See `auth_password`."""
        return self._auth_again(username)

    def auth_interactive_dumb(
        self, username: str, handler: Any = None, submethods: str = ""
    ) -> List[str]:
        """See `auth_password`."""
        return self._auth_again(username)

    def _auth_again(self, username: str, event: Any = None) -> List[str]:
        connection = self._in_use()
        if username != connection.get_username():
            raise AuthenticationException(
                f"{connection.connection_id}: the connection is logged in as another user"
            )
        if event is not None:
            event.set()
        return []


class _OwnHandler:
    """Handles channels that the server opens for one view, and after its end for another one."""

    def __init__(
        self,
        view: Callable[[], Optional[TransportView]],
        handler: Optional[ChannelHandler],
        before: "Optional[_OwnHandler]" = None,
    ) -> None:
        self.before = before
        self._view, self._handler = view, handler

    def is_over(self) -> bool:
        """Return whether the view is closed, or was collected."""
        view = self._view()
        return view is None or view.is_closed

    def __call__(self, channel: SshChannel, *origin: Any) -> None:
        view = self._view()
        if self.is_over() and self.before is not None:
            self.before(channel, *origin)
        elif view is None:
            channel.close()
        elif view.lend(channel):
            (self._handler or view.queue_accepted)(channel, *origin)


# The methods of paramiko that work on the view as they are: by its own methods and state.
_INHERITED = frozenset(
    [
        "open_session",
        "open_x11_channel",
        "open_forward_agent_channel",
        "open_forwarded_tcpip_channel",
        "open_sftp_client",
        "get_security_options",
        "use_compression",
        "__repr__",
    ]
)


def _delegate(name: str) -> Callable[..., Any]:
    original = getattr(paramiko.Transport, name)

    @functools.wraps(original)
    def call(self: TransportView, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.connection, name)(*args, **kwargs)

    return call


def _delegate_the_rest() -> None:
    """Have the connection answer all other methods of the installed paramiko."""
    for name, value in vars(paramiko.Transport).items():
        known = name in vars(TransportView) or name in _INHERITED or name.startswith("__")
        if not callable(value) or isinstance(value, type) or known:
            continue
        again = name.startswith("auth_")  # by Kerberos, before paramiko 5
        setattr(TransportView, name, TransportView.auth_none if again else _delegate(name))


_delegate_the_rest()
