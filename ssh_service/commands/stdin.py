"""The standard input of a command."""

from __future__ import annotations

import subprocess
import time
from typing import IO, Any, Callable, Optional, Protocol, Union

from ssh_service.errors import SshConfigError
from ssh_service.locks import Lock
from ssh_service.transport import SshChannel
from ssh_service.transport.lock_free import LockFreeCondition

# `Stdin.write` waits while at least this many bytes are buffered for the server.
_STDIN_BUFFER = 256 * 1024
# The character (VEOF, Ctrl-D) that a terminal turns into the end of file if it comes at the
# beginning of a line; elsewhere it passes the line so far to the reader.
_VEOF = b"\x04"
_LINE_ENDS = b"\n\r" + _VEOF


def as_input(data: object, name: str = "stdin") -> bytes:
    """
    Return input for a command as bytes; text is encoded as UTF-8.

    `name` is the name of the parameter, for the message of an error.

    Raises
    ------
    SshConfigError
        `data` is neither text nor bytes, or contains a lone surrogate.
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


def one_input(
    stdin: Union[None, str, bytes, int, IO[Any]], given: Union[None, str, bytes]
) -> Union[bytes, IO[Any]]:
    """
    Return a command's input as bytes or a file, from the parameter `stdin` or its alias `input`.

    None, and ``DEVNULL`` and ``PIPE`` of `subprocess`, mean an empty input.

    Raises
    ------
    SshConfigError
        Both parameters are used, or the input is neither text, bytes nor a file.
    """
    if stdin is None:
        stdin = b""
    if given is None:
        if callable(getattr(stdin, "read", None)):
            return stdin  # type: ignore[return-value]
        if not isinstance(stdin, (str, bytes, bytearray, memoryview)):
            if not isinstance(stdin, bool) and stdin in (subprocess.DEVNULL, subprocess.PIPE):
                return b""
            got = repr(stdin) if isinstance(stdin, int) else type(stdin).__name__
            raise SshConfigError(
                f"stdin: expected a text, bytes or a file that is open for reading, got {got}"
            )
        return as_input(stdin)
    if stdin != b"" and stdin != subprocess.PIPE:
        raise SshConfigError("stdin, input: give at most one of them")
    return as_input(given, "input")


class InputSource(Protocol):
    """Sends a command's input over its channel: `Stdin`, or what sends something before it."""

    def start(self, channel: SshChannel, preamble: bytes = b"") -> None:
        """Begin to send, the preamble first."""

    def pump(self) -> None:
        """Send as much as the peer's window allows."""

    def end(self) -> None:
        """Drop unsent data: the command has ended and will not read it."""


class Stdin:
    """
    The standard input of a command.

    Parameters
    ----------
    data : bytes
        The first bytes to send.
    more : bool
        Whether `write` may add more, until `close` is called.
    connection_id : str
        ``user@host:port``, for messages.
    terminal : bool
        Whether the command has a terminal; the end of file is then sent as Ctrl-D.

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
        self._veof_added = False  # guarded by _lock: VEOF is at the end of _data, or was sent
        self._lock = Lock()
        # Wakes a user's thread that waits in `write`.  It has no lock, because a signal handler's
        # exception can interrupt that thread at any line.
        self._changed = LockFreeCondition()
        # Has another thread call `pump`: a user's thread must not write to the connection itself.
        self.request_pump: Optional[Callable[[], None]] = None  # None: call `pump` directly
        self._data = memoryview(data)  # guarded by _lock: includes the preamble after `start`
        self._preamble = 0  # guarded by _lock: the length of the preamble
        self._more = more  # guarded by _lock
        self._ended = False  # guarded by _lock: the command does not read any more
        self._eof_sent = False  # guarded by _lock
        self._touched = False  # guarded by _lock: some of _data was sent
        self._pumping = False  # guarded by _lock
        self._pump_again = False  # guarded by _lock
        self._channel: Optional[SshChannel] = None  # guarded by _lock

    def is_empty(self) -> bool:
        """Return whether there is nothing to send but the end of file."""
        with self._lock:
            return not self._data and not self._more

    def start(self, channel: SshChannel, preamble: bytes = b"") -> None:
        """Begin to send, the preamble first."""
        with self._lock:
            self._channel, self._preamble = channel, len(preamble)
            if preamble:
                self._data = memoryview(preamble + bytes(self._data))
        self.pump()

    def unsend(self) -> bool:
        """
        Detach from a channel that ended before it was used, so that `start` can be called again.

        Return False if some of the data was sent: the next channel would miss it.
        """
        with self._lock:
            if self._touched or self._pumping:
                return False
            self._channel, self._eof_sent = None, False
            self._data, self._preamble = self._data[self._preamble :], 0
            return True

    def pump(self) -> None:
        """Send as much as the peer's window allows."""
        if self._eof_sent:  # read without the lock: only `unsend` undoes it, before `start`
            return
        with self._lock:
            self._pump_again = True  # a thread that is already pumping repeats its loop
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
                    # Data that was appended meanwhile follows the part that was sent.
                    self._last = bytes(self._data[taken - 1 : taken])
                    self._data = self._data[taken:]
                    self._touched = self._pump_again = True
                self._changed.notify_all()

    def _veof_locked(self) -> bytes:
        return _VEOF if self._last in _LINE_ENDS else 2 * _VEOF

    def write(self, data: bytes, timeout: Optional[float] = None) -> None:
        """
        Append bytes; wait while too many are buffered.

        `timeout` is in seconds; None: wait until the command ends.

        Raises
        ------
        BrokenPipeError
            `close` was called, or the command has ended.
        TimeoutError
            `timeout` was reached; part of `data` may have been appended.
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
        """Send the end of file after the data that was written."""
        with self._lock:
            self._more = False
        (self.request_pump or self.pump)()

    def end(self) -> None:
        """Drop unsent data: the command has ended and will not read it."""
        with self._lock:
            self._ended = True
            self._data = memoryview(b"")
            self.request_pump = None  # it holds a reference to the command
        self._changed.notify_all()
