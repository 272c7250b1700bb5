"""Opening channels, and the set of channels of a connection."""

from __future__ import annotations

import contextlib
import itertools
import os
import struct
import time
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence, Set, Tuple, Union

from paramiko.common import (
    MSG_CHANNEL_CLOSE,
    MSG_CHANNEL_DATA,
    MSG_CHANNEL_EOF,
    MSG_CHANNEL_EXTENDED_DATA,
    MSG_CHANNEL_FAILURE,
    MSG_CHANNEL_REQUEST,
    MSG_CHANNEL_SUCCESS,
    MSG_CHANNEL_WINDOW_ADJUST,
    cMSG_CHANNEL_OPEN,
)
from paramiko.message import Message
from paramiko.ssh_exception import SSHException

from ssh_service import known_servers
from ssh_service.errors import (
    OPEN_UNKNOWN_CHANNEL_TYPE,
    SshConnectionLost,
    SshConnectTimeout,
    SshSessionRefused,
    copy_for_raise,
)
from ssh_service.locks import Lock
from ssh_service.transport.channel import SshChannel
from ssh_service.transport.channel_map import ChannelMap, SeenChannels, resolve_weakref
from ssh_service.transport.global_requests import GlobalRequestTransport
from ssh_service.transport.packets import message
from ssh_service.transport.sink import ChannelSink, OpenWaiter
from ssh_service.transport.text import printable
from ssh_service.transport.wire import Wire

# Seconds to wait for a channel, or for the reply to a channel's request; paramiko waits an hour:
# see docs/paramiko_repairs.md#late-channel
_CHANNEL_TIMEOUT = 30.0
# A confirmed channel: its number here, that on the server, its window, its largest packet.
_CONFIRMATION = struct.Struct(">IIII")

# Host and port, or the path of a UNIX domain socket.
ChannelAddress = Union[Tuple[str, int], str, bytes, "os.PathLike[str]"]


class _NobodyAccepts:
    """Stands in for the condition that paramiko notifies at the end of a connection."""

    def notify(self) -> None:
        """Do nothing: our `accept` waits for something else."""


_NOBODY_ACCEPTS = _NobodyAccepts()


class ChannelOpeningTransport(GlobalRequestTransport):
    """
    The layer of `SshTransport` that opens channels and keeps track of them.

    Attributes
    ----------
    session_limit : Optional[int]
        How many sessions the server allows, or None if it has never refused one.  Maintained by
        the session pool.
    session_peak : int
        The most sessions that were open at once.  Maintained by the session pool.
    reclaimers : Dict[str, Callable[[], bool]]
        By owner, a function that closes its idle session and returns whether there was one.
    channel_timeout : float
        Seconds to wait for a channel by default, and for the server's reply to a blocking request
        on a channel.

    Notes
    -----
    Thread safety.  Every method may be called from any thread.
    """

    _channels: ChannelMap
    _channel_handlers: Dict[int, Callable[[SshChannel, bytes], None]] = {
        MSG_CHANNEL_SUCCESS: SshChannel._on_success,
        MSG_CHANNEL_FAILURE: SshChannel._on_failure,
        MSG_CHANNEL_DATA: SshChannel._on_data,
        MSG_CHANNEL_EXTENDED_DATA: SshChannel._on_extended_data,
        MSG_CHANNEL_WINDOW_ADJUST: SshChannel._on_window_adjust,
        MSG_CHANNEL_REQUEST: SshChannel._on_request,
        MSG_CHANNEL_EOF: SshChannel._on_eof,
        MSG_CHANNEL_CLOSE: SshChannel._on_close,
    }
    _channel_handler_table = {
        kind: resolve_weakref(handler) for kind, handler in _channel_handlers.items()
    }

    def __init__(self, wire: Wire, connection_id: str) -> None:
        self.session_limit: Optional[int] = None
        self.session_peak = 0
        self.reclaimers: Dict[str, Callable[[], bool]] = {}
        # The map of channels is weak.  This set keeps unconfirmed channels and those with a sink.
        self._strong_references: Set[SshChannel] = (
            set()
        )  # guarded by lock (paramiko's, for its channels)
        super().__init__(wire, connection_id)
        self.lock = Lock()
        self.server_accept_cv = _NOBODY_ACCEPTS
        self.channel_timeout = _CHANNEL_TIMEOUT
        self._channels, self.channels_seen = ChannelMap(), SeenChannels()
        self.packetizer.on_channel_message = self._handle_message
        self._start_numbers = itertools.count()
        # Start numbers of processes whose end was not reported: they may still run.
        self.unconfirmed_ends: List[int] = []  # `append` is atomic; a destructor uses it

    def _after_fork_in_child(self) -> None:
        super()._after_fork_in_child()
        self.lock, self._strong_references = Lock(), set()
        known, self._channels = self._channels.values(), ChannelMap()
        for chan in known:
            chan._after_fork_in_child(self.loss)

    def _release_waiters(self, reason: SshConnectionLost) -> None:
        super()._release_waiters(reason)
        with self.lock:
            known = self._strong_references.union(self._channels.values())
            self._strong_references.clear()
        for chan in known:
            chan._end(copy_for_raise(reason))

    def next_start_number(self) -> int:
        """Return the number of a process, in the order in which the server starts them."""
        # On the reader thread: in the order of the replies.
        if self._wire.acknowledges_at_once and known_servers.is_openssh(self.remote_version):
            # See docs/paramiko_repairs.md#nagles-delay
            self._wire.acknowledges_at_once = False
        return next(self._start_numbers)

    def started_sessions(self) -> Dict[Union[SshChannel, int], Optional[int]]:
        """
        Return the sessions whose processes may be running on the server.

        The keys are channels, each with its start number if the process was certainly started, and
        start numbers, without a value, of processes whose channel is gone.
        """
        sessions: Dict[Union[SshChannel, int], Optional[int]]
        sessions = dict.fromkeys(list(self.unconfirmed_ends), None)
        for chan in self._channels.values():
            if chan.may_be_running:
                sessions[chan] = None if chan.closed else chan.start_number
        return sessions

    def mark_ended(self, starts: Iterable[int]) -> None:
        """Forget processes (by start number) that have ended without a report from the server."""
        for number in starts:
            with contextlib.suppress(ValueError):  # its channel still exists, or it was removed
                self.unconfirmed_ends.remove(number)

    @property
    def open_channel_count(self) -> int:
        """How many channels are open or being opened, without idle spares."""
        return sum(not chan.is_idle_spare for chan in self._channels.values())

    def reclaim_idle_sessions(self, keep: Optional[str] = None) -> bool:
        """
        Close idle sessions, after the server refused one.

        Parameters
        ----------
        keep : Optional[str]
            The owner in `reclaimers` whose session is kept.

        Returns
        -------
        bool
            Whether there was any.
        """
        return any([reclaim() for name, reclaim in list(self.reclaimers.items()) if name != keep])

    def start_session(
        self,
        sink: ChannelSink,
        *,
        window_size: Optional[int] = None,
        max_packet_size: Optional[int] = None,
    ) -> SshChannel:
        """
        Request a session channel, without blocking.

        Parameters
        ----------
        sink : ChannelSink
            Notified of the result: first `ChannelSink.on_open` or `ChannelSink.on_close`.
        window_size, max_packet_size : Optional[int]
            Bytes; None takes the transport's defaults.

        Returns
        -------
        SshChannel
            Not open yet.

        Raises
        ------
        SshConnectionLost
            The connection has ended; `sent` is False.
        """
        return self._start_channel("session", (), sink, window_size, max_packet_size)

    def start_channel(
        self,
        kind: str,
        sink: ChannelSink,
        dest_addr: Optional[ChannelAddress] = None,
        src_addr: Optional[Tuple[str, int]] = None,
        *,
        window_size: Optional[int] = None,
        max_packet_size: Optional[int] = None,
    ) -> SshChannel:
        """
        Request a channel of any kind, without blocking; as `start_session` otherwise.

        Parameters
        ----------
        kind, dest_addr, src_addr
            As for `open_channel`.
        sink, window_size, max_packet_size
            As for `start_session`.

        Returns
        -------
        SshChannel
            Not open yet.

        Raises
        ------
        SshConnectionLost
            The connection has ended; `sent` is False.
        SshSessionRefused, TypeError, ValueError
            As for `open_channel`.
        """
        address = self._fields(kind, dest_addr, src_addr)
        return self._start_channel(kind, address, sink, window_size, max_packet_size)

    def _start_channel(
        self,
        kind: str,
        address: Sequence[Any],
        sink: ChannelSink,
        window_size: Optional[int],
        max_packet_size: Optional[int],
    ) -> SshChannel:
        with self.lock:
            number = self._next_channel()
            chan = SshChannel(number, sink)
            chan._set_transport(self)
            chan._set_window(
                self._sanitize_window_size(window_size),
                self._sanitize_packet_size(max_packet_size),
            )
            # Checked under the lock that `_on_ended` takes to end all channels.
            alive = self.is_active()
            if alive:
                self._channels.put(number, chan)
                self.channels_seen[number] = True
                self._strong_references.add(chan)
        if not alive:
            error = self._ended_error()
            error.sent = False
            raise error
        self.send_nowait(
            message(
                cMSG_CHANNEL_OPEN,
                kind,
                number,
                chan.in_window_size,
                chan.in_max_packet_size,
                *address,
            )
        )
        return chan

    def open_channel(
        self,
        kind: str,
        dest_addr: Optional[ChannelAddress] = None,
        src_addr: Optional[Tuple[str, int]] = None,
        window_size: Optional[int] = None,
        max_packet_size: Optional[int] = None,
        timeout: Optional[float] = None,
    ) -> SshChannel:
        """
        Open a channel and wait for it, as `paramiko.Transport.open_channel`.

        Parameters
        ----------
        kind : str
            ``session``, ``direct-tcpip``, ``direct-streamlocal@openssh.com``, or one of those that
            servers open: ``forwarded-tcpip``, ``x11``, ``auth-agent@openssh.com``.
        dest_addr : Optional[ChannelAddress]
            Host and port, for ``direct-tcpip`` and ``forwarded-tcpip``; the path on the server of
            a UNIX domain socket, for ``direct-streamlocal@openssh.com``.
        src_addr : Optional[Tuple[str, int]]
            Host and port of the connection's origin, for ``direct-tcpip``,
            ``forwarded-tcpip`` and ``x11``; None if unknown.
        window_size, max_packet_size : Optional[int]
            Bytes; None takes the transport's defaults.
        timeout : Optional[float]
            Seconds; None takes `channel_timeout`.

        Returns
        -------
        SshChannel
            Open.

        Raises
        ------
        SshSessionRefused
            The server refused it, or the kind is unknown to this library: a request without the
            fields of its kind would make the server end the connection for all users.
        TypeError, ValueError
            `dest_addr` is missing or not an address.
        SshConnectTimeout
            No reply in time; a channel that the server opens later is closed at once.
        SshConnectionLost
            The connection ended.
        """
        address = self._fields(kind, dest_addr, src_addr)
        timeout = self.channel_timeout if timeout is None else timeout
        deadline = time.monotonic() + timeout
        try:
            return self._open(kind, address, window_size, max_packet_size, deadline, timeout)
        except SshSessionRefused:
            if not self.reclaim_idle_sessions():
                raise
        return self._open(kind, address, window_size, max_packet_size, deadline, timeout)

    def _fields(self, kind: str, dest_addr: Any, src_addr: Any) -> Tuple[Any, ...]:
        """Return the fields of a channel type (RFC 4254, and OpenSSH's PROTOCOL 2.4)."""
        if kind in ("session", "auth-agent@openssh.com"):
            return ()
        if kind == "x11":
            return _parse_address("src_addr", src_addr or ("", 0))
        if kind in ("direct-tcpip", "forwarded-tcpip"):
            return (
                *_parse_address("dest_addr", dest_addr),
                *_parse_address("src_addr", src_addr or ("", 0)),
            )
        if kind == "direct-streamlocal@openssh.com":
            path = dest_addr[0] if isinstance(dest_addr, (tuple, list)) else dest_addr
            if path is None:
                raise TypeError("dest_addr must be the path of a socket, got None")
            return (os.fsencode(path), "", 0)
        raise SshSessionRefused(
            f"{self.connection_id}: cannot open a channel of the unknown type {kind!r}",
            code=OPEN_UNKNOWN_CHANNEL_TYPE,
            text="unknown channel type",
            connection_id=self.connection_id,
        )

    def _open(
        self,
        kind: str,
        address: Sequence[Any],
        window_size: Optional[int],
        max_packet_size: Optional[int],
        deadline: float,
        timeout: float,
    ) -> SshChannel:
        waiter = OpenWaiter()
        chan = self._start_channel(kind, address, waiter, window_size, max_packet_size)
        try:
            in_time = waiter.wait(deadline)
        except BaseException:
            chan.close_when_open()
            raise
        if not in_time:
            chan.close_when_open()
            raise SshConnectTimeout(
                f"{self.connection_id}: no channel within {timeout:g} s",
                connection_id=self.connection_id,
                phase="open",
            )
        if chan.error is not None:
            raise copy_for_raise(chan.error)
        with self.lock:
            self._strong_references.discard(chan)  # now only the caller keeps it
        return chan

    # The server's messages, on the reader thread.

    def _handle_message(self, kind: int, rest: bytes) -> bool:
        """
        Handle a message of a channel, without paramiko's loop around it.

        Return False for other messages, and where paramiko's reader has to act: during a key
        exchange, at the end of the connection, and for an unknown channel.
        """
        handler = self._channel_handlers.get(kind)
        if handler is None or self._expected_packet or not self.active:
            return False
        channel = self._channels.find(int.from_bytes(rest[:4], "big"))
        if channel is None:
            return False
        handler(channel, rest)
        return True

    def _parse_channel_open_success(self, m: Message) -> None:
        number, remote, window, packet = _CONFIRMATION.unpack(m.get_bytes(_CONFIRMATION.size))
        chan = self._channels.find(number)
        if chan is None or chan.active:
            raise SSHException("the server confirmed a channel that was not requested")
        chan._on_open_confirmed(remote, window, packet)

    def _parse_channel_open_failure(self, m: Message) -> None:
        number, code, text = m.get_int(), m.get_int(), m.get_string()
        chan = self._channels.find(number)
        if chan is None or chan.active:
            raise SSHException("the server refused a channel that was not requested")
        self._channels.delete(number)
        self._forget_channel(chan)
        said = printable(text.decode("utf-8", "backslashreplace"))
        chan._end(
            SshSessionRefused(
                f"{self.connection_id}: the server refused a channel: {said} (code {code})",
                code=code,
                text=said,
                connection_id=self.connection_id,
            )
        )

    def _forget_channel(self, chan: SshChannel) -> None:
        with self.lock:
            self._strong_references.discard(chan)


def _parse_address(name: str, address: Any) -> Tuple[str, int]:
    try:
        host, port = address
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a host and a port, got {address!r}") from None
    number = int(port)
    if not isinstance(host, (str, bytes)) or not 0 <= number < 2**32:
        raise ValueError(f"{name} must be a host and a port, got {address!r}")
    return host, number  # type: ignore[return-value]  # the wire takes bytes as well
