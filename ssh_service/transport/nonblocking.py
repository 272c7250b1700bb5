"""What a channel sends without having to wait, and how that finds its way to the gate."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Optional, Union

from paramiko.channel import Channel
from paramiko.common import MSG_CHANNEL_DATA, cMSG_CHANNEL_CLOSE, cMSG_CHANNEL_REQUEST
from paramiko.message import Message

from ssh_service.transport import reaper
from ssh_service.transport.outbound import SendState, TaggedTransport
from ssh_service.transport.packets import message
from ssh_service.transport.wire import Buffer

if TYPE_CHECKING:
    from ssh_service.transport.transport import SshTransport

# Packets that `send_some` writes at once, where it may wait: system calls and wake-ups saved.
_MAX_PACKETS_PER_WRITE = 4
_DATA_HEAD = struct.Struct(">BII")


class NonblockingChannel(Channel):  # type: ignore[misc]
    """
    The half of `SshChannel` that sends without waiting; `send_some` alone may be let wait.

    Notes
    -----
    Thread safety.  Every method may be called from any thread.

    Guarantees.  Nothing follows CLOSE.
    """

    _send_state: SendState
    _pipe: Any
    _process_requested = False  # whether the server was asked to start a process
    # Its place among those that the server has started for this connection; None: not yet.
    start_number: Optional[int] = None
    # That process itself, where it is known; kept by who finds it out.
    process: Any = None

    def _set_transport(self, transport: "SshTransport") -> None:
        # Ours, as paramiko's asks `logging` for its logger, by a lock of the whole process.
        self.logger = transport.logger
        self._send_state = SendState()
        self.transport = TaggedTransport(transport, self._send_state)

    def get_transport(self) -> "SshTransport":
        """Return the connection this channel belongs to."""
        return self.transport.transport

    @property
    def may_be_running(self) -> bool:
        """Whether the server was asked to start a process, and has not told its end."""
        return self._process_requested and not self.status_event.is_set()

    @property
    def has_sent(self) -> bool:
        """
        Whether a message of its own (not the one that asked for it) may have reached the peer.

        What is False when the connection has ended, stays so.
        """
        return self._send_state.may_have_sent

    def _transmit(self, m: Message, wait: bool) -> None:
        transport = self.get_transport()
        (transport._send_user_message if wait else transport.send_nowait)(m, self._send_state)

    def request_exec(self, command: bytes) -> None:
        """
        Ask the server to run `command` (RFC 4254 section 6.5); `ChannelSink.on_reply` follows.

        Parameters
        ----------
        command : bytes
            The command line, for the user's login shell.
        """
        self._process_requested = True
        self._request("exec", True, command)

    def request_pty(self, term: str = "xterm", width: int = 80, height: int = 24) -> None:
        """
        Ask for a terminal (RFC 4254 section 6.2); `ChannelSink.on_reply` follows.

        Parameters
        ----------
        term : str
            Its type.
        width, height : int
            Characters.
        """
        self._request("pty-req", True, term, width, height, 0, 0, b"\0")

    def request_subsystem(self, name: str) -> None:
        """
        Ask the server to start a subsystem; `ChannelSink.on_reply` follows.

        Parameters
        ----------
        name : str
            Such as ``sftp``.
        """
        self._process_requested = True
        self._request("subsystem", True, name)

    def send_signal(self, name: str) -> None:
        """
        Send a signal to the remote process group (RFC 4254 section 6.9).

        OpenSSH does so since 7.9, but not for root's logins and not for forced commands.

        Parameters
        ----------
        name : str
            Without ``SIG``: ``TERM``, ``KILL``, ``INT``, ...
        """
        self._request("signal", False, name)

    def _request(self, kind: str, want_reply: bool, *fields: Union[str, bytes, int]) -> None:
        m = message(cMSG_CHANNEL_REQUEST, self.remote_chanid, kind, want_reply, *fields)
        self._transmit(m, wait=False)

    def send_some(self, data: Buffer, *, wait: bool = True) -> int:
        """
        Send as much of `data` as the peer's window and packet size admit now.

        Parameters
        ----------
        data : bytes
            What to send.
        wait : bool
            Whether the call may wait until other threads have written theirs and the network has
            room; the reader thread never does.

        Returns
        -------
        int
            How many bytes were taken; 0 means: wait for `ChannelSink.on_writable`, or for the end.
        """
        with self.lock:
            if self.closed or self.eof_sent or not self.active:
                return 0
            most = int(self.out_max_packet_size - 64)
            size = int(
                min(
                    len(data), self.out_window_size, most * (_MAX_PACKETS_PER_WRITE if wait else 1)
                )
            )
            if size <= 0:
                return 0
            self.out_window_size -= size
        view = memoryview(data)[:size]
        messages = [self._data_message(view[at : at + most]) for at in range(0, size, most)]
        transport = self.get_transport()
        if wait:
            transport._send_user_messages(messages, self._send_state)
        else:
            transport.send_nowait(messages[0], self._send_state)
        return size

    def _data_message(self, piece: memoryview) -> Message:
        head = _DATA_HEAD.pack(MSG_CHANNEL_DATA, self.remote_chanid, len(piece))
        return Message(b"".join((head, piece)))  # which holds the bytes as they are

    def send_eof(self) -> None:
        """Tell the peer that no more data will come, without waiting."""
        with self.lock:
            m = None if self.closed or not self.active else self._send_eof()
        if m is not None:
            self._transmit(m, wait=False)

    def close(self) -> None:
        """Close the channel, without waiting; not an error where its connection is no more."""
        with self.lock:
            if self._pipe is not None:  # as paramiko does it
                self._pipe.close()
                self._pipe = None
            messages = self._close_internal()
        for m in messages:
            if m is not None:
                self._transmit(m, wait=False)

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
                self.get_transport().unconfirmed_ends.append(self.start_number)
            m = message(cMSG_CHANNEL_CLOSE, self.remote_chanid)
            reaper.submit(self.get_transport(), m, send_state)
