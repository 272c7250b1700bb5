"""
A stream: one local socket and one channel, with the bytes carried between them.

A stream has no thread.  The connection's reader thread writes the server's data to the local
socket as far as possible without blocking; the selector thread writes the rest, and reads the
socket.  An end-of-file on one side is passed on to the other; a broken side resets the other.
"""

from __future__ import annotations

import collections
import enum
import functools
import itertools
import socket
import struct
import time
from typing import Callable, Deque, Optional, Protocol, Union

from ssh_service.errors import SshConnectError, SshConnectionLost, SshServiceError
from ssh_service.forwarding.selector_thread import READ, WRITE, SelectorThread
from ssh_service.forwarding.windows import Window, budget
from ssh_service.locks import Lock
from ssh_service.transport import ChannelSink, SshChannel

# The outcomes whose error the forward keeps.
_FAILURES = ("refused", "failed", "lost")
# The value of SO_LINGER with which closing sends a reset.
_RESET = struct.pack("ii", 1, 0)

_numbers = itertools.count(1)


def next_stream_number() -> int:
    """Return a stream number that is unique in this process."""
    return next(_numbers)


class Mark(enum.Enum):
    """The marks that follow the last byte from the server."""

    EOF = "the server sends no more"
    END = "the channel has ended"


class Owner(Protocol):
    """The methods of a forward that its streams call; all on the selector thread."""

    thread: SelectorThread

    def wait_for_network(self, stream: "Stream") -> bool:
        """Return whether the connection is congested; if so, `resume` is called later."""

    def on_stream_opened(self, stream: "Stream") -> None:
        """Handle a stream that is open in both directions."""

    def on_stream_failed(self, error: Exception) -> None:
        """Handle a failure, before the local program notices it; `on_stream_ended` follows."""

    def on_stream_ended(
        self, stream: "Stream", outcome: str, error: Optional[BaseException]
    ) -> None:
        """Handle the end of a stream; called once."""


class Stream(ChannelSink):
    """
    Carries bytes between a local socket and a channel, once both exist.

    Parameters
    ----------
    owner : Owner
        The forward.
    sock : socket.socket
        The local socket, non-blocking; the stream takes ownership.

    Attributes
    ----------
    bytes_to_server, bytes_from_server : int
        The number of bytes carried in each direction.
    to : str
        The target, for messages.

    Notes
    -----
    Thread safety.  The methods of `ChannelSink` are called on the reader thread, everything else
    on the selector thread.  The write turn is held by the thread that writes to the local socket;
    no thread waits for the turn: a thread that finds it taken has already queued its bytes, and
    the holder checks the queue again.
    """

    auto_window = False

    def __init__(self, owner: Owner, sock: socket.socket, to: str) -> None:
        self.number = next_stream_number()
        self.to = to
        self.began = time.monotonic()
        self.bytes_to_server = 0
        self.bytes_from_server = 0
        self.has_opened = False
        self.has_ended = False
        self._owner = owner
        self._thread = owner.thread
        self._sock = sock
        self._channel: Optional[SshChannel] = None
        self._window = Window(budget())
        self._reads = False  # selector thread only: whether the local socket is read
        self._early = b""  # selector thread only: data read before the channel was open
        self._local_eof = False  # selector thread only
        self._server_eof = False  # selector thread only
        self._is_out_of_window = False  # set by the selector thread, cleared by the reader thread
        # Data from the server; only the holder of the write turn removes it.
        self._received: Deque[Union[bytes, memoryview, Mark]] = collections.deque()
        self._write_turn = Lock()
        self._is_blocked = False  # set by the holder of the write turn: the buffer is full
        self._is_closing = False  # set once, by the selector thread
        self._uncounted = 0  # bytes at the front of `_received` that we have added

    # From the server to the local socket.

    def on_data(self, chunk: bytes) -> None:
        """Write data from the server to the local socket; on the reader thread."""
        if not self._is_closing:
            self._received.append(chunk)
            self._write()

    def on_eof(self) -> None:
        """Shut down the local socket for writing, after the data so far; on the reader thread."""
        self._received.append(Mark.EOF)
        self._write()

    def on_writable(self) -> None:
        """Read the local socket again, as the window was adjusted; on the reader thread."""
        if self._is_out_of_window:
            self._is_out_of_window = False
            self._thread.call_soon(self.resume)

    def on_close(self, error: Optional[SshServiceError]) -> None:
        """End the stream; on the reader thread."""
        if error is not None:
            self._thread.call_soon(self.fail, error)
            return
        # Also without EOF, as in ssh: asyncssh's server omits EOF if the window is used up.
        self._received.append(Mark.END)
        self._write()

    def _write(self) -> None:
        """Write received data as far as the local socket accepts it; on any thread."""
        while (
            self._received
            and not self._is_blocked
            and not self._is_closing
            and self._write_turn.acquire(False)
        ):
            try:
                credit, then = self._write_in_turn()
            finally:
                self._write_turn.release()
            if self._is_closing:  # the selector thread has found the turn taken
                self._thread.call_soon(self._close_socket, False)
            if credit and self._channel is not None:
                self._channel.adjust_window(credit)
            if then is not None:
                self._thread.call_soon(then)

    def _write_in_turn(self) -> "tuple[int, Optional[Callable[[], None]]]":
        """Return the size of the window adjustment, and a call for the selector thread."""
        written = 0
        then: Optional[Callable[[], None]] = None
        while self._received and not self._is_closing:
            head = self._received[0]
            if isinstance(head, Mark):
                self._received.popleft()
                then = functools.partial(self._on_mark, head)
                if head is Mark.EOF:
                    continue
                break
            try:
                sent = self._sock.send(head)
            except (BlockingIOError, InterruptedError):
                self._is_blocked = True
                then = self._update_watch
                break
            except OSError as error:
                self._received.clear()
                then = functools.partial(self._on_local_error, error)
                break
            written += sent
            if sent == len(head):
                self._received.popleft()
            else:
                self._received[0] = memoryview(head)[sent:]
        ours = min(self._uncounted, written)
        self._uncounted -= ours
        self.bytes_from_server += written - ours
        return (self._window.written(written - ours) if written > ours else 0), then

    def _on_mark(self, mark: Mark) -> None:
        if self.has_ended:
            return
        if mark is Mark.EOF:
            try:
                self._sock.shutdown(socket.SHUT_WR)
            except OSError as error:
                self._on_local_error(error)
                return
            self._server_eof = True
            self._end_if_both_ended()
        else:
            self._end("completed")

    # From the local socket to the server.

    def _start(self) -> None:
        """Start to carry bytes: the channel is open and the local socket connected."""
        self.has_opened = True
        self._owner.on_stream_opened(self)
        self.resume()

    def resume(self) -> None:
        """Read the local socket, unless its end-of-file was read."""
        if self.has_ended or self._local_eof:
            return
        self._reads = True
        self._update_watch()
        while self._early and self._reads:
            self._read()

    def _pause(self) -> None:
        self._reads = False
        self._update_watch()

    def _update_watch(self) -> None:
        if not self.has_ended:
            events = (READ if self._reads else 0) | (WRITE if self._is_blocked else 0)
            self._thread.watch(self._sock, events, self._on_ready)
            self._thread.watch_error(self._sock, None if events else self._on_local_error)

    def _on_ready(self, events: int) -> None:
        if events & WRITE:
            self._is_blocked = False
            self._write()
            self._update_watch()
        if events & READ and not self.has_ended:
            self._read()

    def _read(self) -> None:
        channel = self._channel
        if channel is None:
            raise RuntimeError("a stream is read before its channel is open")
        if self._owner.wait_for_network(self):
            self._pause()
            return
        room = channel.send_capacity
        if not room:
            self._pause()
            self._is_out_of_window = True
            if channel.send_capacity:  # the window was adjusted just now
                self.on_writable()
            return
        data = self._read_some(room)
        if data is None:
            return
        if not data:
            self._local_eof = True
            self._pause()
            channel.send_eof()
            self._end_if_both_ended()
            return
        self.bytes_to_server += channel.send_some(data, wait=False)

    def _read_some(self, room: int) -> Optional[bytes]:
        """Return up to `room` bytes, b"" at end-of-file, or None if reading would block."""
        if self._early:
            data, self._early = self._early[:room], self._early[room:]
            return data
        try:
            return self._sock.recv(room)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as error:
            self._on_local_error(error)
            return None

    # The end.

    def _end_if_both_ended(self) -> None:
        if self._local_eof and self._server_eof:
            self._end("completed")

    def _on_local_error(self, error: OSError) -> None:
        if not self.has_ended:
            self._end("reset", error, reset=True)

    def fail(self, error: BaseException) -> None:
        """End the stream with a reset, as its connection or its target failed."""
        if self.has_ended:
            return
        outcome = "refused"
        if isinstance(error, SshConnectionLost):
            outcome = "lost"
        elif isinstance(error, SshConnectError):
            outcome = "not connected"
        self._end(outcome, error, reset=True)

    def abort(self, outcome: str, error: Optional[BaseException] = None) -> None:
        """End the stream with a reset."""
        if not self.has_ended:
            self._end(outcome, error, reset=True)

    def _end(
        self, outcome: str, error: Optional[BaseException] = None, reset: bool = False
    ) -> None:
        self._thread.watch(self._sock, 0, self._on_ready)
        self._thread.watch_error(self._sock, None)
        self.has_ended = True
        self._is_closing = True
        if outcome in _FAILURES and isinstance(error, Exception):
            self._owner.on_stream_failed(error)
        if self._answer(outcome, error):
            reset = False
        channel = self._channel
        if channel is not None:
            if not channel.active:
                channel.close_when_open()
            elif reset:
                channel.reset()
            else:
                channel.close()
        self._close_socket(reset)
        self._owner.on_stream_ended(self, outcome, error)

    def _answer(self, outcome: str, error: Optional[BaseException]) -> bool:
        """Report the outcome to the local program; return whether its protocol allows that."""
        return False

    def _close_socket(self, reset: bool) -> None:
        if reset:
            try:
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            except OSError:
                pass  # a Unix socket, or already closed
        # Otherwise the number of its descriptor could be reused while another thread writes to it;
        # the holder of the turn calls this again.
        if self._write_turn.acquire(False):
            self._received.clear()
            self._window.release()
            self._thread.close(self._sock)
            self._write_turn.release()
