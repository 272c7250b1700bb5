"""The standard input of a command."""

from __future__ import annotations

import threading
import time
from typing import Callable, Optional, Union

from ssh_service.errors import SshConfigError
from ssh_service.transport import SshChannel
from ssh_service.transport.lock_free import LockFreeCondition

# Bytes of stdin that may wait here for the server; `Stdin.write` waits while there are more.
_STDIN_BUFFER = 256 * 1024
# The character that a terminal turns into the end of the file (VEOF, Ctrl-D) where it comes at the
# beginning of a line; elsewhere it lets the reader have the line so far.
_VEOF = b"\x04"
_LINE_ENDS = b"\n\r" + _VEOF


def as_input(data: Union[str, bytes], name: str = "stdin") -> bytes:
    """
    Give what a command is to read as bytes.

    Raises
    ------
    SshConfigError
        It is of another type.

    """
    if not isinstance(data, (str, bytes, bytearray, memoryview)):
        raise SshConfigError(f"{name}: expected a text or bytes, got {type(data).__name__}")
    if not isinstance(data, str):
        return bytes(data)
    try:
        return data.encode()
    except UnicodeEncodeError as exc:
        raise SshConfigError(
            f"{name}: a text with a lone surrogate, at {exc.start}, has no UTF-8; give bytes"
        ) from None


def one_input(stdin: Union[str, bytes], given: Union[None, str, bytes]) -> bytes:
    """
    Return what a command reads, from the two parameters that may say so.

    Raises
    ------
    SshConfigError
        Both do, or it is of another type.
    """
    if given is None:
        return as_input(stdin)
    if stdin != b"":
        raise SshConfigError("stdin, input: give at most one of them")
    return as_input(given, "input")


class Stdin:
    """
    The standard input of a command.

    Notes
    -----
    Thread safety.  Every method may be called from any thread; only `write` waits.

    """

    def __init__(
        self, data: bytes, more: bool, connection_id: str, *, terminal: bool = False
    ) -> None:
        self._connection_id = connection_id
        self._terminal = terminal
        self._last = b"\n"  # guarded by _lock: the last byte that was sent
        self._veof_added = False  # guarded by _lock: it is at the end of _data, or was sent
        # Wakes a user's thread that writes; a signal's handler can tear it away from any line.
        self._lock = threading.Lock()
        self._changed = LockFreeCondition()
        # Has `pump` called for a user's thread, which is not to write to the connection itself.
        self.request_pump: Optional[Callable[[], None]] = None  # None: this thread may
        self._data = memoryview(data)  # guarded by _lock: the preamble, too, once begun
        self._preamble = 0  # guarded by _lock: the length of it
        self._more = more  # guarded by _lock
        self._ended = False  # guarded by _lock: nothing reads it any more
        self._eof_sent = False  # guarded by _lock
        self._touched = False  # guarded by _lock: some of it was taken already
        self._pumping = False  # guarded by _lock
        self._pump_again = False  # guarded by _lock
        self._channel: Optional[SshChannel] = None  # guarded by _lock

    def start(self, channel: SshChannel, preamble: bytes = b"") -> None:
        """Begin to send."""
        with self._lock:
            self._channel, self._preamble = channel, len(preamble)
            if preamble:
                self._data = memoryview(preamble + bytes(self._data))
        self.pump()

    def unsend(self) -> bool:
        """
        Start over at the next `start`: the channel ended before it was used.

        Return False if some of it was taken, and would be missing.
        """
        with self._lock:
            if self._touched or self._pumping:
                return False
            self._channel, self._eof_sent = None, False
            self._data, self._preamble = self._data[self._preamble :], 0
            return True

    def pump(self) -> None:
        """Send what the peer's window takes."""
        with self._lock:
            self._pump_again = True  # the thread that is pumping goes round once more
            if self._pumping:
                return
            self._pumping = True
        while True:
            with self._lock:
                channel, data = self._channel, self._data
                done = self._ended or self._eof_sent or not self._pump_again
                if channel is None or done:
                    self._pumping = False
                    return
                self._pump_again = False
                finished = not data and not self._more
                if finished and self._terminal and not self._veof_added:
                    data = self._data = memoryview(self._veof_locked())
                    finished, self._veof_added = False, True
                self._eof_sent = finished
            if finished:
                if not self._terminal:
                    channel.send_eof()
                continue
            taken = channel.send_some(data, wait=False) if data else 0
            if taken:
                with self._lock:
                    # Data that was appended meanwhile follows the taken part.
                    self._last = bytes(self._data[taken - 1 : taken])
                    self._data = self._data[taken:]
                    self._touched = self._pump_again = True
                self._changed.notify_all()

    def _veof_locked(self) -> bytes:
        return _VEOF if self._last in _LINE_ENDS else 2 * _VEOF

    def write(self, data: bytes, timeout: Optional[float] = None) -> None:
        """
        Append bytes, waiting while too many are on their way.

        Raises
        ------
        BrokenPipeError
            Its end was sent, or the command has ended.
        TimeoutError
            The time was up; part of `data` may have been taken.

        """
        deadline = None if timeout is None else time.monotonic() + timeout
        rest = memoryview(data).cast("B")
        while rest:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            has_room = self._changed.wait_for(
                lambda: self._ended or len(self._data) < _STDIN_BUFFER, left
            )
            with self._lock:
                if self._ended or not self._more:
                    why = "has ended" if self._ended else "has had its stdin closed"
                    raise BrokenPipeError(f"{self._connection_id}: the command {why}")
                if not has_room:
                    raise TimeoutError(
                        f"{self._connection_id}: the command took no input for {timeout:g} s"
                    )
                piece, rest = rest[:_STDIN_BUFFER], rest[_STDIN_BUFFER:]
                self._data = memoryview(bytes(self._data) + bytes(piece))
            (self.request_pump or self.pump)()

    def close(self) -> None:
        """Let the command find the end of the file after what was written."""
        with self._lock:
            self._more = False
        (self.request_pump or self.pump)()

    def end(self) -> None:
        """Drop the unsent rest: nothing will read it."""
        with self._lock:
            self._ended = True
            self._data = memoryview(b"")
            self.request_pump = None  # which keeps the command
        self._changed.notify_all()
