"""
A stream: one local socket and one channel, and what passes between them.

It has no thread.  What the server sends is written to the socket by the connection's reader
thread, as far as that is possible without waiting, and the rest by the selector thread, which also
reads the socket.  What one side ends is ended on the other; what one side breaks off is reset.
"""

from __future__ import annotations

import collections
import enum
import functools
import itertools
import socket
import struct
import threading
import time
from typing import Callable, Deque, Optional, Protocol, Union

from ssh_service.errors import SshConnectError, SshConnectionLost, SshServiceError
from ssh_service.forwarding.selector_thread import READ, WRITE, SelectorThread
from ssh_service.forwarding.windows import Window, budget
from ssh_service.transport import ChannelSink, SshChannel

# Outcomes whose reason the forward keeps.
_FAILURES = ("refused", "failed", "lost")
# SO_LINGER: closing sends a reset.
_RESET = struct.pack("ii", 1, 0)

_numbers = itertools.count(1)


def next_stream_number() -> int:
    """Return a number for a stream, unique in this process."""
    return next(_numbers)


class Mark(enum.Enum):
    """What follows the last byte from the server."""

    EOF = "the server sends no more"
    END = "the channel has ended"


class Owner(Protocol):
    """What a stream needs of its forward; all for the selector thread."""

    thread: SelectorThread

    def wait_for_network(self, stream: "Stream") -> bool:
        """Return whether the connection is congested; `resume` is called once it is not."""

    def on_stream_opened(self, stream: "Stream") -> None:
        """Handle that bytes can pass."""

    def on_stream_failed(self, error: Exception) -> None:
        """Handle a failure before the local program learns of it; the end follows."""

    def on_stream_ended(
        self, stream: "Stream", outcome: str, error: Optional[BaseException]
    ) -> None:
        """Handle the end, which comes once."""


class Stream(ChannelSink):
    """
    What passes between a local socket and a channel, once both are there.

    Parameters
    ----------
    owner : Owner
        The forward.
    sock : socket.socket
        The local socket, non-blocking; the stream's own from now on.

    Attributes
    ----------
    bytes_to_server, bytes_from_server : int
        What it has carried.
    to : str
        Its target, for people.

    Notes
    -----
    Thread safety.  The sink's methods are called by the reader thread, everything else by the
    selector thread.  The write turn is held by the one thread that writes to the local socket;
    nobody waits for it, as who finds it taken has left its bytes where the holder looks again.
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
        self._early = b""  # selector thread only: was read before the channel was open
        self._local_eof = False  # selector thread only
        self._server_eof = False  # selector thread only
        self._is_out_of_window = False  # set by the selector thread, cleared by the reader thread
        # What the server has sent; only the holder of the write turn takes it away.
        self._received: Deque[Union[bytes, memoryview, Mark]] = collections.deque()
        self._write_turn = threading.Lock()
        self._is_blocked = False  # set by the holder of the write turn: the socket takes no more
        self._is_closing = False  # set once, by the selector thread
        self._uncounted = 0  # bytes at the front of `_received` that are ours, not the server's

    # From the server to the local socket.

    def on_data(self, chunk: bytes) -> None:
        """Write what the server sent; on the reader thread."""
        if not self._is_closing:
            self._received.append(chunk)
            self._write()

    def on_eof(self) -> None:
        """End the local socket's input, after what was sent before; on the reader thread."""
        self._received.append(Mark.EOF)
        self._write()

    def on_writable(self) -> None:
        """Read the local socket again, as the server takes more; on the reader thread."""
        if self._is_out_of_window:
            self._is_out_of_window = False
            self._thread.call_soon(self.resume)

    def on_close(self, error: Optional[SshServiceError]) -> None:
        """End the stream; on the reader thread."""
        if error is not None:
            self._thread.call_soon(self.fail, error)
            return
        # Also without EOF, as in ssh: asyncssh's server omits it if the window was used up then.
        self._received.append(Mark.END)
        self._write()

    def _write(self) -> None:
        """Write what was received, as far as the local socket takes it; on any thread."""
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
            if self._is_closing:  # the selector thread found the turn taken
                self._thread.call_soon(self._close_socket, False)
            if credit and self._channel is not None:
                self._channel.adjust_window(credit)
            if then is not None:
                self._thread.call_soon(then)

    def _write_in_turn(self) -> "tuple[int, Optional[Callable[[], None]]]":
        """Return the window to give back, and what is left to the selector thread."""
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
        """Let bytes pass: the channel is open, and the local socket connected."""
        self.has_opened = True
        self._owner.on_stream_opened(self)
        self.resume()

    def resume(self) -> None:
        """Read the local socket, unless it was read to its end."""
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
        """Return up to `room` bytes, b"" at the end, or None if it would have to wait."""
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
        """End the stream with a reset: its connection, or its target, failed."""
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
        """Tell the local program why, if its protocol can; return whether it could."""
        return False

    def _close_socket(self, reset: bool) -> None:
        if reset:
            try:
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            except OSError:
                pass  # a Unix socket, or closed
        # Else its descriptor's number might be used again while another thread writes to it; the
        # holder of the turn calls this once more.
        if self._write_turn.acquire(False):
            self._received.clear()
            self._window.release()
            self._thread.close(self._sock)
            self._write_turn.release()
