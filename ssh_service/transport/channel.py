"""
A channel of a shared connection: paramiko's, without its races and endless waits.

A channel has two interfaces.  The blocking one is paramiko's, for code that expects a
`paramiko.Channel` (`ssh_service.transport.blocking`).  The other one needs no thread: the
connection's reader thread calls a `ChannelSink`, and sending never blocks
(`ssh_service.transport.nonblocking`).  This module has the reader thread's side of both.
"""

from __future__ import annotations

import logging
import re
import threading
from typing import Any, Callable, Optional, Tuple

from paramiko.common import cMSG_CHANNEL_FAILURE, cMSG_CHANNEL_WINDOW_ADJUST
from paramiko.ssh_exception import SSHException

from ssh_service import known_servers
from ssh_service.errors import SshConnectionLost, SshServiceError, SshSessionRefused
from ssh_service.locks import Lock
from ssh_service.transport.blocking import BlockingChannel
from ssh_service.transport.lock_free import LockFreeEvent
from ssh_service.transport.packets import Fields, message
from ssh_service.transport.pipe import CLOSED_PIPE, ChunkPipe
from ssh_service.transport.sink import ChannelSink, OpenWaiter
from ssh_service.transport.text import printable

# Called with the reason of an end; None after a normal one.
OnEnd = Callable[[Optional[SshServiceError]], None]

# Bytes by which a server may exceed the window before it is an error; OpenSSH never does.
_WINDOW_SLACK = 64 * 1024
# Where a message's fields begin, after the channel's number.
_AFTER_NUMBER = 4
# Signal names (RFC 4254 section 6.10), including private ones such as SIG@example.org.
_SIGNAL_NAME = re.compile(rb"[A-Za-z0-9@._-]{1,64}")
# Replaces a malformed name, which would reach terminals and logs.
_INVALID_SIGNAL_NAME = "INVALID"


class SshChannel(BlockingChannel):
    """
    A channel, see `paramiko.Channel`; use `SshTransport.open_session` to get one.

    Parameters
    ----------
    chanid : int
        The channel number on this side.
    sink : Optional[ChannelSink]
        Handles what arrives; None for the blocking interface.

    Notes
    -----
    Thread safety.  Every method may be called from any thread.

    Guarantees.  Nothing follows CLOSE.  No call outlives its connection.  `recv` returns b"" only
    at a real end of the output; a connection that was lost raises `SshConnectionLost`.
    """

    def __init__(self, chanid: int, sink: Optional[ChannelSink] = None) -> None:
        super().__init__(chanid)
        if sink is None or isinstance(sink, OpenWaiter):
            self.in_buffer, self.in_stderr_buffer = ChunkPipe(), ChunkPipe()
        else:
            self.in_buffer = self.in_stderr_buffer = CLOSED_PIPE
        self.event, self.status_event = LockFreeEvent(), LockFreeEvent()
        self.exit_signal: Optional[Tuple[str, bool, str]] = None
        self.error = None
        self.is_idle_spare = False  # unused: does not keep its connection open
        self._sink = sink
        self._close_on_open = False  # guarded by lock
        self._on_end: Optional[OnEnd] = None  # guarded by lock: of a channel that was lent
        # The address of a direct-tcpip channel, for who uses it as a socket.
        self.destination: Any = None
        self.in_window_sofar = 0  # paramiko's, guarded by lock: bytes not yet granted again
        self._receive_window = 0  # guarded by lock: bytes the peer may still send
        self._has_ended = False  # reader thread only
        # Reader thread only.  `eof_received` is also set by `shutdown`, after which paramiko still
        # delivers data.
        self._peer_sent_eof = False

    def __repr__(self) -> str:
        state = "closed" if self.closed else "open" if self.active else "opening"
        return f"<{type(self).__name__} {self.chanid} ({state})>"

    def _log(self, level: int, msg: str, *args: Any) -> None:
        # paramiko logs at ERROR where we raise: see docs/paramiko_repairs.md#log-noise
        if self.logger.isEnabledFor(logging.DEBUG):
            self.transport._log(level, msg, *args)

    # Open and close.

    def _on_open_confirmed(self, remote_id: int, window_size: int, max_packet_size: int) -> None:
        with self.lock:
            self._set_remote_channel(remote_id, window_size, max_packet_size)
            abandoned = self._close_on_open
        if abandoned:  # see docs/paramiko_repairs.md#late-channel
            self.close()
        elif self._sink is not None:
            self._sink.on_open(self)

    def close_when_open(self) -> None:
        """Close the channel now, or as soon as the server confirms it."""
        with self.lock:
            self._close_on_open = True
        self.close()  # does nothing while it is not open

    def _end(self, error: Optional[SshServiceError]) -> None:
        """Mark the channel as ended and notify its users; on the reader thread."""
        if self._has_ended:
            return
        self._has_ended = True
        with self.lock:
            was_closed, on_end = self.closed, self._on_end
            self._on_end = None
            # Who closed it has no interest in the end of the connection.
            if (
                self._sink is not None
                or not was_closed
                or not isinstance(error, SshConnectionLost)
            ):
                self.error = self.error or error
            if self._sink is None or not was_closed:  # a user's `close` may have been interrupted
                self._set_closed()
        if self.start_number is not None and not self.status_event.is_set():
            self.connection.unconfirmed_ends.append(self.start_number)
        # A sink refers to its channel: the cycle would leave both to the garbage collector.
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.on_close(self.error)
        if on_end is not None:
            on_end(error)

    def _unlink(self) -> None:
        # paramiko's run() calls this for every channel before the reason of the loss is known;
        # SshTransport notifies the channels itself: see docs/paramiko_repairs.md#lost-connection
        pass

    def detach_sink(self) -> None:
        """Continue with the blocking interface; called by the sink, on the reader thread."""
        self._sink = None

    def lend(self, view: Any, on_end: Optional[OnEnd] = None) -> bool:
        """
        Continue with the blocking interface, as a channel of a view, before the first request.

        Return False if the channel has been closed; its sink is notified.

        Parameters
        ----------
        view : paramiko.Transport
            What `get_transport` returns from now on; kept alive by the channel.
        on_end : Optional[Callable[[Optional[SshServiceError]], None]]
            Called once, on the reader thread, when the channel has ended; dropped with the
            channel if that is collected before.
        """
        with self.lock:
            if self.closed:
                return False
            if isinstance(self._sink, ChannelSink):
                self.in_buffer, self.in_stderr_buffer = ChunkPipe(), ChunkPipe()
            self._sink, self._on_end, self.is_idle_spare = None, on_end, False
        self.transport.show(view)
        # Now only the view's user keeps it.
        self.connection._forget_channel(self)
        return True

    def _after_fork_in_child(self, error: SshConnectionLost) -> None:
        """Invalidate in a forked child: threads that no longer exist may hold its locks."""
        self.lock = Lock()
        self.out_buffer_cv = threading.Condition(self.lock)
        self.event, self.status_event = LockFreeEvent(), LockFreeEvent()
        self.in_buffer, self.in_stderr_buffer = ChunkPipe(), ChunkPipe()
        self._sink = None  # it belongs to the parent
        self._end(error)

    # The receive window.

    # The next two do without paramiko's, which formats a line for the log even if nobody reads it.

    def _set_window(self, window_size: int, max_packet_size: int) -> None:
        self.in_window_size, self.in_max_packet_size = window_size, max_packet_size
        self.in_window_threshold = window_size // 10
        self._receive_window = window_size

    def _set_remote_channel(self, chanid: int, window_size: int, max_packet_size: int) -> None:
        self.remote_chanid = chanid
        self.out_window_size = window_size
        self.out_max_packet_size = self.connection._sanitize_packet_size(max_packet_size)
        self.active = True

    def _consume_window(self, size: int) -> bool:
        """Count received bytes; return whether to drop them, as they came after EOF."""
        # paramiko never checks the window (RFC 4254 5.2): see docs/paramiko_repairs.md#window
        with self.lock:
            self._receive_window -= size
            exceeded = self._receive_window < -_WINDOW_SLACK
        if exceeded:
            raise SSHException("the server exceeded the channel's window")
        return self._peer_sent_eof

    def adjust_window(self, size: int) -> None:
        """Grant the peer `size` bytes of window (WINDOW_ADJUST), without blocking."""
        credit = self._check_add_window(size)
        if credit:
            m = message(cMSG_CHANNEL_WINDOW_ADJUST, self.remote_chanid, credit)
            self._transmit(m, wait=False)

    def _check_add_window(self, n: int) -> int:
        with self.lock:  # see `BlockingChannel._send`
            if self.closed or self.eof_received or not self.active:
                return 0
            self.in_window_sofar += n
            if self.in_window_sofar <= self.in_window_threshold:
                return 0
            credit, self.in_window_sofar = int(self.in_window_sofar), 0
            self._receive_window += credit
            return credit

    # Called by the reader thread with what follows a message's type: see
    # `ChannelOpeningTransport._handle_message`.

    def _on_success(self, rest: bytes) -> None:
        if self._process_requested and self.start_number is None:
            self.start_number = self.connection.next_start_number()
        self.event_ready = True
        self.event.set()
        if self._sink is not None:
            self._sink.on_reply(True)

    def _on_failure(self, rest: bytes) -> None:
        if self._sink is not None:
            self._sink.on_reply(False)
            return
        self.error = SshSessionRefused(
            "the server refused the request", connection_id=self.connection.connection_id
        )
        self._close_now()

    def _feed(self, data: bytes) -> None:
        self.in_buffer.feed(data)  # from `set_combine_stderr`, counted before

    def _on_data(self, rest: bytes) -> None:
        data = Fields(rest, _AFTER_NUMBER).string()
        if self._consume_window(len(data)):
            return
        if self._sink is None:
            self.in_buffer.feed(data)
        else:
            self._sink.on_data(data)
            if self._sink.auto_window:
                self.adjust_window(len(data))

    def _on_extended_data(self, rest: bytes) -> None:
        fields = Fields(rest, _AFTER_NUMBER)
        kind, data = fields.uint32(), fields.string()
        if self._consume_window(len(data)):
            return
        if kind == 1 and self._sink is None:
            (self.in_buffer if self.combine_stderr else self.in_stderr_buffer).feed(data)
            return
        if kind == 1 and self._sink is not None:
            self._sink.on_stderr(data)
            if not self._sink.auto_window:
                return
        self.adjust_window(len(data))  # data of an unknown type also used window

    def _on_window_adjust(self, rest: bytes) -> None:
        size = Fields(rest, _AFTER_NUMBER).uint32()
        with self.lock:
            self.out_window_size += size
            self.out_buffer_cv.notify_all()
        if self._sink is not None:
            self._sink.on_writable()

    def _on_request(self, rest: bytes) -> None:
        # paramiko drops exit-signal: see docs/paramiko_repairs.md#exit-signal
        fields = Fields(rest, _AFTER_NUMBER)
        kind, want_reply = fields.string(), fields.boolean()
        if kind == b"exit-status":
            self._handle_exit(fields.uint32(), None)
        elif kind == b"exit-signal":
            name, core_dumped = _signal_name(fields.string()), fields.boolean()
            text = printable(fields.string().decode("utf-8", "backslashreplace"))
            self._handle_exit(-1, (name, core_dumped, text))
        elif want_reply:
            m = message(cMSG_CHANNEL_FAILURE, self.remote_chanid)
            self.connection._reply(m, self._send_state)

    def _handle_exit(self, status: int, signal: Optional[Tuple[str, bool, str]]) -> None:
        if self.status_event.is_set():
            return
        self.exit_status, self.exit_signal = status, signal
        self.status_event.set()
        if self._sink is None:
            return
        if signal is None:
            self._sink.on_exit_status(status)
        else:
            self._sink.on_exit_signal(*signal)

    def _on_eof(self, rest: bytes) -> None:
        before, self._peer_sent_eof = self._peer_sent_eof, True
        with self.lock:
            if not self.eof_received:
                self.eof_received = True
                self.in_buffer.close()
                self.in_stderr_buffer.close()
                if self._pipe is not None:
                    self._pipe.set_forever()
        if self._sink is not None and not before:
            self._sink.on_eof()

    def _on_close(self, rest: bytes) -> None:
        transport = self.connection
        # Our CLOSE may wait: it leaves before the messages that the end causes, or with the next
        # command (the server frees the session only then).  Writing it at once would keep the
        # waiting thread from the interpreter, and then from the send lock.
        with transport.batch(defer=True):
            self._close_now()
            transport._channels.delete(self.chanid)
            transport._forget_channel(self)
            if known_servers.ends_with_session(transport.remote_version):
                transport.expect_end()  # before anybody opens a session in vain
            self._end(None)


def _signal_name(sent: bytes) -> str:
    return sent.decode("ascii") if _SIGNAL_NAME.fullmatch(sent) else _INVALID_SIGNAL_NAME
