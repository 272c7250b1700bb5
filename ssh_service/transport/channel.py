"""
A channel of a shared connection: paramiko's, with its races and its endless waits repaired.

It works in two ways.  The plain one is paramiko's: blocking calls, for code that expects a
`paramiko.Channel`.  The other one needs no thread: a `ChannelSink` is told by the connection's
reader thread what came, and nothing ever waits.
"""

from __future__ import annotations

import errno
import logging
import queue
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING, Any, Optional, Set, Tuple, Union

from paramiko.channel import Channel
from paramiko.common import (
    MSG_CHANNEL_DATA,
    cMSG_CHANNEL_CLOSE,
    cMSG_CHANNEL_FAILURE,
    cMSG_CHANNEL_REQUEST,
    cMSG_CHANNEL_WINDOW_ADJUST,
)
from paramiko.message import Message
from paramiko.ssh_exception import SSHException

from ssh_service.errors import SshConnectionLost, SshServiceError, SshSessionRefused, again
from ssh_service.transport.latch import Latch
from ssh_service.transport.packets import message
from ssh_service.transport.pipe import ChunkPipe
from ssh_service.transport.wire import Buffer

if TYPE_CHECKING:
    from ssh_service.transport.transport import SshTransport

_log = logging.getLogger("ssh_service.transport")

# How far a server may overrun the window before we call it a fault; OpenSSH never does.
_WINDOW_SLACK = 64 * 1024
# Seconds a blocking channel request waits for its reply where no time-out was set.
_REPLY_TIMEOUT = 30.0
# One piece of a blocking sendall; more does not fit a packet of OpenSSH's servers.
_PIECE = 32 * 1024
# Packets that `send_some` writes at once, where it may wait: system calls and wake-ups saved.
_AT_ONCE = 4
_DATA_HEAD = struct.Struct(">BII")


class ChannelSink:
    """
    Who is told what comes over a channel.

    Notes
    -----
    Every method is called on the connection's reader thread, in the order in which the messages
    came.  It must return at once: no waiting, no file access, none of the user's code.

    Attributes
    ----------
    gives_back : bool
        Whether the window that a chunk took is given back as soon as `data` or `stderr` returns.
        Otherwise the sink calls `SshChannel.give_back` when it is done with the chunk.
    """

    gives_back = True

    def opened(self, channel: "SshChannel") -> None:
        """Take note that the server confirmed the channel."""

    def replied(self, ok: bool) -> None:
        """Take the server's answer to `request_exec` or `request_subsystem`."""

    def data(self, chunk: bytes) -> None:
        """Take bytes of stdout."""

    def stderr(self, chunk: bytes) -> None:
        """Take bytes of stderr."""

    def eof(self) -> None:
        """Take note that no more bytes will come."""

    def exit_status(self, status: int) -> None:
        """Take the exit status of the remote process."""

    def exit_signal(self, name: str, core_dumped: bool, text: str) -> None:
        """Take the signal that ended the remote process, such as ``TERM``."""

    def writable(self) -> None:
        """Take note that the peer widened its window."""

    def closed(self, error: Optional[SshServiceError]) -> None:
        """
        Take note of the end; called exactly once, and last.

        Parameters
        ----------
        error : Optional[SshServiceError]
            None when the peer closed the channel (whoever began); `SshSessionRefused` when it was
            never opened; `SshConnectionLost` when the connection ended first.
        """


class Outbound:
    """What orders the messages of one channel: the object, never its number, which is re-used."""

    __slots__ = ("begun", "close_sent")

    def __init__(self) -> None:
        self.close_sent = False  # guarded by the transport's gate
        # Guarded by the gate, except for a look when the connection has ended: whether a message
        # may have left.  Set before one is written, taken back where that failed altogether.
        self.begun = False


class _Tagged:
    """
    What a channel sees as its transport: tags each message with the channel it belongs to.

    Repairs F2 and F2c: paramiko sets "EOF sent" under a lock and sends after it, so that a CLOSE
    may overtake, and the server then takes the late message for the next channel's.
    """

    __slots__ = ("_outbound", "transport")

    def __init__(self, transport: "SshTransport", outbound: Outbound) -> None:
        self.transport = transport
        self._outbound = outbound

    def _send_user_message(self, m: Message) -> None:
        self.transport._send_user_message(m, self._outbound)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)


class SshChannel(Channel):  # type: ignore[misc]
    """
    A channel, see `paramiko.Channel`; use `SshTransport.open_session` to get one.

    Notes
    -----
    Thread safety.  Every method may be called from any thread.

    Guarantees.  Nothing follows CLOSE.  No call outlives its connection.  `recv` returns b"" only
    at a real end of the output; a connection that was lost raises `SshConnectionLost`.
    """

    _pipe: Any

    def __init__(self, chanid: int, sink: Optional[ChannelSink] = None) -> None:
        super().__init__(chanid)
        self._prepare(sink)

    @staticmethod
    def adopt(channel: Channel) -> None:
        """
        Repair a channel that paramiko made, as the server opened it.

        Parameters
        ----------
        channel : paramiko.Channel
            Just made; a `SshChannel` from now on.
        """
        if type(channel) is Channel:
            channel.__class__ = SshChannel
            channel._prepare(None)

    def _prepare(self, sink: Optional[ChannelSink]) -> None:
        if sink is None or isinstance(sink, OpenWaiter):
            self.in_buffer, self.in_stderr_buffer = ChunkPipe(), ChunkPipe()
        else:
            self.in_buffer = self.in_stderr_buffer = _NOTHING
        self.event, self.status_event = Latch(), Latch()
        self.exit_signal: Optional[Tuple[str, bool, str]] = None
        self.error: Optional[SshServiceError] = None  # why it ended, if not in good order
        self.in_reserve = False  # nobody uses it yet: it may be closed with its connection
        self._outbound = Outbound()
        self._sink = sink
        self._abandoned = False  # guarded by lock: nobody waits for the open any more
        self.in_window_sofar = 0  # paramiko's, guarded by lock: bytes to be given back
        self._in_left = 0  # guarded by lock: bytes the peer may still send
        self._finished = False  # reader thread only: `closed` was told

    def __del__(self) -> None:
        # May run anywhere, under any lock, so it takes none (fault G4, paramiko #247, #2685):
        # SimpleQueue.put is documented as safe in a destructor.
        outbound = getattr(self, "_outbound", None)
        if outbound is not None and self.active and not self.closed and not outbound.close_sent:
            m = message(cMSG_CHANNEL_CLOSE, self.remote_chanid)
            chores.put((self.get_transport(), m, outbound))

    def __repr__(self) -> str:
        state = "closed" if self.closed else "open" if self.active else "opening"
        return f"<{type(self).__name__} {self.chanid} ({state})>"

    # What the transport calls.  (It finds these functions in its `_channel_handler_table`.)

    def _log(self, level: int, msg: str, *args: Any) -> None:
        # paramiko logs several lines for each channel, at ERROR where we raise (fault G25).
        if _log.isEnabledFor(logging.DEBUG):
            self.transport._log(level, msg, *args)

    def _set_transport(self, transport: "SshTransport") -> None:
        # Ours, as paramiko's asks `logging` for its logger, by a lock of the whole process.
        self.logger = transport.logger
        self.transport = _Tagged(transport, self._outbound)

    def _set_window(self, window_size: int, max_packet_size: int) -> None:
        super()._set_window(window_size, max_packet_size)
        self._in_left = window_size

    def _confirmed(self, remote_id: int, window_size: int, max_packet_size: int) -> None:
        with self.lock:
            self._set_remote_channel(remote_id, window_size, max_packet_size)
            abandoned = self._abandoned
        if abandoned:  # fault G2: the server's session slot would be lost for ever
            self.close()
        elif self._sink is not None:
            self._sink.opened(self)

    def _end(self, error: Optional[SshServiceError]) -> None:
        """Tell everyone that the channel ended; on the reader thread."""
        if self._finished:
            return
        self._finished = True
        self.error = self.error or error
        with self.lock:
            self._set_closed()
        if self._sink is not None:
            self._sink.closed(self.error)

    def _unlink(self) -> None:
        # paramiko's run() calls this for every channel before the reason of the loss is known;
        # SshTransport tells all channels itself, with the reason (fault G5).
        pass

    def _request_success(self, m: Message) -> None:
        super()._request_success(m)
        if self._sink is not None:
            self._sink.replied(True)

    def _request_failed(self, m: Message) -> None:
        if self._sink is not None:
            self._sink.replied(False)
            return
        self.error = SshSessionRefused(
            "the server refused the request", connection_id=self.get_transport().connection_id
        )
        super()._request_failed(m)

    def _feed(self, m: Union[Message, bytes]) -> None:
        # Bytes where paramiko's _feed_extended passes on what `set_combine_stderr` merges.
        data = m if isinstance(m, bytes) else m.get_binary()
        if self._is_late(len(data)):
            return
        if self._sink is None:
            self.in_buffer.feed(data)
        else:
            self._sink.data(data)
            if self._sink.gives_back:
                self.give_back(len(data))

    def _feed_extended(self, m: Message) -> None:
        kind, data = m.get_int(), m.get_binary()
        if kind == 1 and self.combine_stderr and self._sink is None:
            self._feed(data)
            return
        if self._is_late(len(data)):
            return
        if kind == 1 and self._sink is None:
            self.in_stderr_buffer.feed(data)
            return
        if kind == 1 and self._sink is not None:
            self._sink.stderr(data)
            if not self._sink.gives_back:
                return
        self.give_back(len(data))  # data of a kind nobody knows took window all the same

    def _is_late(self, size: int) -> bool:
        """Count bytes that came; tell whether to drop them, as the server had said EOF before."""
        # paramiko never checks that the peer keeps to the window (fault G13, RFC 4254 5.2).
        with self.lock:
            self._in_left -= size
            exceeded = self._in_left < -_WINDOW_SLACK
        if exceeded:
            raise SSHException("the server sent more than the channel's window allows")
        return bool(self.eof_received)

    # paramiko takes the lock before its `try`: an exception of a signal's handler between the two
    # leaves it taken for ever, and the reader with it (fault G23).  `with` has no such gap.

    def _check_add_window(self, n: int) -> int:
        with self.lock:
            if self.closed or self.eof_received or not self.active:
                return 0
            self.in_window_sofar += n
            if self.in_window_sofar <= self.in_window_threshold:
                return 0
            credit, self.in_window_sofar = int(self.in_window_sofar), 0
            self._in_left += credit
            return credit

    def _send(self, s: bytes, m: Message) -> int:
        with self.lock:
            if self.closed:
                raise OSError(errno.EPIPE, "the channel is closed")
            size = int(self._wait_for_send_window(len(s)))
            if size == 0:
                return 0
            m.add_string(s[:size])
        self._transmit(m, wait=True)
        return size

    def shutdown(self, how: int) -> None:
        """
        End one direction or both, as `paramiko.Channel.shutdown`.

        Parameters
        ----------
        how : int
            0: read no more; 1: write no more; 2: both.
        """
        if how in (0, 2):
            self.eof_received = True
        if how in (1, 2):
            with self.lock:
                m = self._send_eof()
            if m is not None:
                self._transmit(m, wait=True)

    def _window_adjust(self, m: Message) -> None:
        super()._window_adjust(m)
        if self._sink is not None:
            self._sink.writable()

    def _handle_request(self, m: Message) -> None:
        # Ours, as paramiko's drops exit-signal (fault G6) and lets a second status win.
        kind, want_reply = m.get_text(), m.get_boolean()
        if kind == "exit-status":
            self._handle_exit(m.get_int(), None)
        elif kind == "exit-signal":
            self._handle_exit(-1, (m.get_text(), m.get_boolean(), m.get_text()))
        elif want_reply:
            m = message(cMSG_CHANNEL_FAILURE, self.remote_chanid)
            self.get_transport()._answer(m, self._outbound)

    def _handle_exit(self, status: int, signal: Optional[Tuple[str, bool, str]]) -> None:
        if self.status_event.is_set():
            return
        self.exit_status, self.exit_signal = status, signal
        self.status_event.set()
        if self._sink is None:
            return
        if signal is None:
            self._sink.exit_status(status)
        else:
            self._sink.exit_signal(*signal)

    def _handle_eof(self, m: Message) -> None:
        before = self.eof_received
        super()._handle_eof(m)
        if self._sink is not None and not before:
            self._sink.eof()

    def _handle_close(self, m: Message) -> None:
        transport = self.get_transport()
        # Our own CLOSE is in no hurry: it leaves before what comes of the end (the server frees
        # the session only then), or before the next command.  To write it at once would keep
        # whoever waits for the end from the interpreter, and then from the gate.
        with transport.together(in_no_hurry=True):
            super()._handle_close(m)
            transport._forget_channel(self)
            self._end(None)

    def _disown(self, error: SshConnectionLost) -> None:
        """Become useless, in a forked child: threads that it has not may hold all of these."""
        self.lock = threading.Lock()
        self.out_buffer_cv = threading.Condition(self.lock)
        self.event, self.status_event = Latch(), Latch()
        self.in_buffer, self.in_stderr_buffer = ChunkPipe(), ChunkPipe()
        self._sink = None  # what it works for is the parent's too
        self._end(error)

    # Repaired waits of the blocking form.

    def _wait_for_send_window(self, size: int) -> int:
        # Ours, as paramiko's goes by the wall clock, which may jump.  The caller holds `lock`.
        if not self.out_buffer_cv.wait_for(
            lambda: self.closed or self.eof_sent or self.out_window_size > 0, self.timeout
        ):
            raise socket.timeout("the peer's window stayed closed")
        if self.closed or self.eof_sent:
            return 0
        size = int(min(size, self.out_window_size, self.out_max_packet_size - 64))
        self.out_window_size -= size
        return size

    def _event_pending(self) -> None:
        super()._event_pending()
        if self.closed:  # the end came just before; paramiko waits for it for ever (fault G1)
            self.event.set()

    def _wait_for_event(self) -> None:
        timeout = _REPLY_TIMEOUT if self.timeout is None else self.timeout
        if not self.event.wait(timeout):
            raise socket.timeout(f"no reply to a channel request within {timeout:g} s")
        if not self.event_ready:
            raise again(self.error) if self.error else SSHException("the channel was closed")

    def recv(self, nbytes: int) -> bytes:
        """Receive as `paramiko.Channel.recv`; a lost connection raises `SshConnectionLost`."""
        return self._checked(super().recv(nbytes))

    def recv_stderr(self, nbytes: int) -> bytes:
        """Receive as `paramiko.Channel.recv_stderr`, with the same exception."""
        return self._checked(super().recv_stderr(nbytes))

    def _checked(self, data: bytes) -> bytes:
        # A lost connection must not look like the end of the output (fault G5).
        if not data and not self.eof_received and isinstance(self.error, SshConnectionLost):
            raise again(self.error)
        return data

    def recv_exit_status(self, timeout: Optional[float] = None) -> int:
        """
        Wait for the exit status.

        Parameters
        ----------
        timeout : Optional[float]
            Seconds; None waits until the channel ends.

        Returns
        -------
        int
            The status; -1 if a signal ended the process (see `exit_signal`) or none was sent.

        Raises
        ------
        socket.timeout
            The time was up.
        SshConnectionLost
            The connection ended before a status came.
        """
        if not self.status_event.wait(timeout):
            raise socket.timeout(f"no exit status within {timeout:g} s")
        if self.exit_status == -1 and isinstance(self.error, SshConnectionLost):
            raise again(self.error)
        return int(self.exit_status)

    def sendall(self, s: Buffer) -> None:
        """
        Send all of `s`, waiting for the peer's window.

        Parameters
        ----------
        s : bytes
            What to send.

        Raises
        ------
        socket.timeout
            The peer took nothing for the channel's time-out.
        OSError
            The channel was closed; `SshConnectionLost` if the connection was.
        """
        view = memoryview(s).cast("B")  # slices of a view copy nothing (fault F4)
        while view:
            sent = self.send(bytes(view[:_PIECE]))
            if not sent:
                raise again(self.error) if self.error else BrokenPipeError("channel closed")
            view = view[sent:]

    @property
    def has_sent(self) -> bool:
        """
        Whether a message of its own (not the one that asked for it) may have reached the peer.

        What is False when the connection has ended, stays so.
        """
        return self._outbound.begun

    def get_transport(self) -> "SshTransport":
        """Return the connection this channel belongs to."""
        return self.transport.transport

    # The form that never waits.

    def request_exec(self, command: bytes) -> None:
        """
        Ask the server to run `command` (RFC 4254 section 6.5); `ChannelSink.replied` follows.

        Parameters
        ----------
        command : bytes
            The command line, for the user's login shell.
        """
        self._request("exec", True, command)

    def request_pty(self, term: str = "xterm", width: int = 80, height: int = 24) -> None:
        """
        Ask for a terminal (RFC 4254 section 6.2), before `request_exec`.

        Parameters
        ----------
        term : str
            Its type.
        width, height : int
            Characters.
        """
        self._request("pty-req", False, term, width, height, 0, 0, b"\0")

    def request_subsystem(self, name: str) -> None:
        """
        Ask the server to start a subsystem; `ChannelSink.replied` follows.

        Parameters
        ----------
        name : str
            Such as ``sftp``.
        """
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
            How many bytes were taken; 0 means: wait for `ChannelSink.writable`, or for the end.
        """
        with self.lock:
            if self.closed or self.eof_sent or not self.active:
                return 0
            most = int(self.out_max_packet_size - 64)
            size = int(min(len(data), self.out_window_size, most * (_AT_ONCE if wait else 1)))
            if size <= 0:
                return 0
            self.out_window_size -= size
        view = memoryview(data)[:size]
        messages = [self._data_message(view[at : at + most]) for at in range(0, size, most)]
        transport = self.get_transport()
        if wait:
            transport._send_user_messages(messages, self._outbound)
        else:
            transport.post(messages[0], self._outbound)
        return size

    def _data_message(self, piece: memoryview) -> Message:
        head = _DATA_HEAD.pack(MSG_CHANNEL_DATA, self.remote_chanid, len(piece))
        return Message(b"".join((head, piece)))  # which holds the bytes as they are

    def give_back(self, size: int) -> None:
        """
        Let the peer send as much again, without waiting.

        Parameters
        ----------
        size : int
            Bytes that are done with.
        """
        credit = self._check_add_window(size)
        if credit:
            m = message(cMSG_CHANNEL_WINDOW_ADJUST, self.remote_chanid, credit)
            self._transmit(m, wait=False)

    def send_eof(self) -> None:
        """Tell the peer that no more data will come, without waiting."""
        with self.lock:
            m = None if self.closed or not self.active else self._send_eof()
        if m is not None:
            self._transmit(m, wait=False)

    def _transmit(self, m: Message, wait: bool) -> None:
        transport = self.get_transport()
        (transport._send_user_message if wait else transport.post)(m, self._outbound)

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

    def abandon(self) -> None:
        """Close the channel, or see to it that it is closed as soon as the server confirms it."""
        with self.lock:
            self._abandoned = True
        self.close()  # does nothing while it is not open


class OpenWaiter(ChannelSink):
    """Waits for a channel to be opened, for the blocking form."""

    def __init__(self) -> None:
        self._done = Latch()

    def opened(self, channel: SshChannel) -> None:
        """Release the waiting thread."""
        channel._sink = None  # before the first request, so before anything else can come
        self._done.set()

    def closed(self, error: Optional[SshServiceError]) -> None:
        """Release the waiting thread; the channel keeps the error."""
        self._done.set()

    def wait(self, deadline: float) -> bool:
        """
        Wait until the channel is open or refused.

        Parameters
        ----------
        deadline : float
            A monotonic instant.

        Returns
        -------
        bool
            False when the time was up.
        """
        return self._done.wait(max(0.0, deadline - time.monotonic()))


class _Nothing(ChunkPipe):
    """The buffers of a channel that works for a sink."""

    def close(self) -> None:
        """Do nothing: it is shared, and nobody reads from it."""


_NOTHING = _Nothing()


# What any thread may leave to the reaper thread, without taking a lock: a message to send, or
# None where a transport only has to be asked to send what it deferred.
Chore = Tuple["SshTransport", Optional[Message], Optional[Outbound]]
chores: "queue.SimpleQueue[Chore]" = queue.SimpleQueue()
# Seconds between two looks at whether a transport with deferred messages can write again.
_LOOK_AGAIN = 0.05


def do_chores() -> None:
    """Close forgotten channels and send what no other thread will send; the reaper's life."""
    full: Set["SshTransport"] = set()
    while True:
        try:
            transport, m, outbound = chores.get(timeout=_LOOK_AGAIN if full else None)
        except queue.Empty:
            full = {transport for transport in full if not transport._flush()}
            continue
        if m is None:
            full.add(transport)
        else:
            transport.post(m, outbound)
        del transport, m, outbound
