"""The non-blocking calls of a channel."""

from __future__ import annotations

import struct
import threading
from typing import TYPE_CHECKING, Any, Dict, Optional, Tuple, Union

from paramiko.channel import Channel
from paramiko.common import (
    MSG_CHANNEL_CLOSE,
    MSG_CHANNEL_DATA,
    MSG_CHANNEL_EOF,
    cMSG_CHANNEL_REQUEST,
)
from paramiko.message import Message

from ssh_service.locks import Lock
from ssh_service.transport import reaper
from ssh_service.transport.outbound import SendState, TaggedTransport
from ssh_service.transport.packets import message
from ssh_service.transport.wire import Buffer

if TYPE_CHECKING:
    from ssh_service.transport.transport import SshTransport

# Packets that `send_some` writes together, to save system calls and wake-ups.
_MAX_PACKETS_PER_WRITE = 4
_BARE_MESSAGE = struct.Struct(">BI")
_DATA_HEAD = struct.Struct(">BII")
# What paramiko gives the fields of a new channel that hold plain values.
_PLAIN_FIELDS: Dict[str, Any] = {
    name: value
    for name, value in vars(Channel(0)).items()
    if value is None or isinstance(value, (int, str))
}


class NonblockingChannel(Channel):  # type: ignore[misc]
    """
    The half of `SshChannel` that sends without blocking; only `send_some` may be asked to wait.

    Notes
    -----
    Thread safety.  Every method may be called from any thread.

    Guarantees.  Nothing follows CLOSE.
    """

    _send_state: SendState
    _pipe: Any
    eof_sent: Any
    _process_requested = False  # exec, shell or a subsystem
    # The number of its process, in the order in which the server started them; None: not yet.
    start_number: Optional[int] = None
    # The process itself, once `commands.census` has found it.
    process: Any = None

    def __init__(self, chanid: int) -> None:
        # Not paramiko's, which is slow, for objects that we replace: a channel is made for each
        # command.  `paramiko_check` verifies that no field is missing.
        self.__dict__.update(_PLAIN_FIELDS)
        self.chanid, self._name = chanid, str(chanid)
        self.lock = Lock()
        self.out_buffer_cv = threading.Condition(self.lock)

    def _set_transport(self, transport: "SshTransport") -> None:
        # Not paramiko's, which asks `logging` for its logger under a lock of the whole process.
        self.logger = transport.logger
        self._send_state = SendState()
        self.transport = TaggedTransport(transport, self._send_state)

    @property
    def connection(self) -> "SshTransport":
        """The connection this channel belongs to."""
        return self.transport.connection

    def get_transport(self) -> Any:
        """Return the connection this channel belongs to, or the view that it was lent to."""
        return self.transport.transport

    @property
    def may_be_running(self) -> bool:
        """Whether a process was requested whose end was not reported."""
        return self._process_requested and not self.status_event.is_set()

    @property
    def has_sent(self) -> bool:
        """
        Whether a message on this channel (other than the open) may have reached the peer.

        Once the connection has ended, False is final.
        """
        return self._send_state.may_have_sent

    def _transmit(self, m: Message, wait: bool) -> None:
        transport = self.connection
        (transport._send_user_message if wait else transport.send_nowait)(m, self._send_state)

    def request_exec(self, command: bytes) -> None:
        """Request `command` (RFC 4254 section 6.5); the sink's `on_reply` follows."""
        self._process_requested = True
        self._request("exec", True, command)

    def request_pty(self, term: str = "xterm", width: int = 80, height: int = 24) -> None:
        """Request a terminal (RFC 4254 section 6.2); the sink's `on_reply` follows."""
        self._request("pty-req", True, term, width, height, 0, 0, b"\0")

    def request_subsystem(self, name: str) -> None:
        """Request a subsystem, such as ``sftp``; the sink's `on_reply` follows."""
        self._process_requested = True
        self._request("subsystem", True, name)

    def send_signal(self, name: str) -> None:
        """
        Send a signal to the remote process group (RFC 4254 section 6.9).

        `name` is without ``SIG``.  OpenSSH 7.9 and later support it, but not for root's logins and
        not for forced commands.
        """
        self._request("signal", False, name)

    def _request(self, kind: str, want_reply: bool, *fields: Union[str, bytes, int]) -> None:
        m = message(cMSG_CHANNEL_REQUEST, self.remote_chanid, kind, want_reply, *fields)
        self._transmit(m, wait=False)

    @property
    def send_capacity(self) -> int:
        """How many bytes `send_some` would send now; 0 also after the end."""
        if self.closed or self.eof_sent or not self.active:  # a look, without the lock
            return 0
        most = (self.out_max_packet_size - 64) * _MAX_PACKETS_PER_WRITE
        return max(0, int(min(self.out_window_size, most)))

    def send_some(self, data: Buffer, *, wait: bool = True) -> int:
        """
        Send as much of `data` as the peer's window and packet size allow now.

        Parameters
        ----------
        data : bytes
            What to send.
        wait : bool
            Whether the call may wait for other writers and for the network; the reader thread
            never does.

        Returns
        -------
        int
            The number of bytes sent; after 0, wait for `ChannelSink.on_writable` or `on_close`.
        """
        with self.lock:
            if self.closed or self.eof_sent or not self.active:
                return 0
            most = int(self.out_max_packet_size - 64)
            size = int(min(len(data), self.out_window_size, most * _MAX_PACKETS_PER_WRITE))
            if size <= 0:
                return 0
            self.out_window_size -= size
        view = memoryview(data)[:size]
        messages = [self._data_message(view[at : at + most]) for at in range(0, size, most)]
        transport = self.connection
        if wait:
            transport._send_user_messages(messages, self._send_state)
        else:
            transport.send_all_nowait(messages, self._send_state)
        return size

    def _data_message(self, piece: memoryview) -> Message:
        head = _DATA_HEAD.pack(MSG_CHANNEL_DATA, self.remote_chanid, len(piece))
        return Message(b"".join((head, piece)))  # without another copy

    def send_eof(self) -> None:
        """Send EOF, without blocking."""
        with self.lock:
            m = None if self.closed or not self.active else self._send_eof()
        if m is not None:
            self._transmit(m, wait=False)

    def close(self) -> None:
        """Close the channel, without blocking; not an error if the connection has ended."""
        with self.lock:
            if self._pipe is not None:  # as paramiko does it
                self._pipe.close()
                self._pipe = None
        self._close_now()

    # The next two are paramiko's, without its calls for each field and its log.

    def _send_eof(self) -> Optional[Message]:
        if self.eof_sent:
            return None
        self.eof_sent = True
        return self._bare_message(MSG_CHANNEL_EOF)

    def _close_internal(self) -> Tuple[Optional[Message], Optional[Message]]:
        if not self.active or self.closed:
            return None, None
        eof, close = self._send_eof(), self._bare_message(MSG_CHANNEL_CLOSE)
        self._set_closed()
        return eof, close

    def _bare_message(self, kind: int) -> Message:
        return Message(_BARE_MESSAGE.pack(kind, self.remote_chanid))

    def _close_now(self) -> None:
        with self.lock:
            messages = self._close_internal()
        for m in messages:
            if m is not None:
                self._transmit(m, wait=False)

    def reset(self) -> None:
        """Close the channel without EOF: the peer must not take what it has for the whole."""
        with self.lock:
            self.eof_sent = True  # so that `close` sends none
        self.close()

    def __del__(self) -> None:
        # May run under any lock, so it takes none: see docs/paramiko_repairs.md#finalizer-deadlock
        # SimpleQueue.put is documented as safe in a destructor.
        send_state = getattr(self, "_send_state", None)
        if (
            send_state is not None
            and self.active
            and not self.closed
            and not send_state.close_sent
        ):
            if self.start_number is not None and not self.status_event.is_set():
                self.connection.unconfirmed_ends.append(self.start_number)
            reaper.submit(self.connection, self._bare_message(MSG_CHANNEL_CLOSE), send_state)
