"""Receivers of a command's output: it is kept, passed to a function, or read line by line."""

from __future__ import annotations

import codecs
import collections
import io
from typing import Any, Callable, Deque, Iterator, List, Optional, Tuple, Union

from ssh_service import background
from ssh_service.errors import SshConfigError
from ssh_service.locks import Lock
from ssh_service.transport import SshChannel
from ssh_service.transport.lock_free import LockFreeCondition

OnOutput = Callable[[Any], None]


class Output:
    """
    Receives one output stream of a command, and keeps it; the base class of other receivers.

    Parameters
    ----------
    limit : Optional[int]
        The most bytes to keep; None: no limit.

    Attributes
    ----------
    auto_window : bool
        Whether a chunk is consumed as soon as `put` returns, so that its window can be given back
        to the server at once.
    received : int
        How many bytes were received.

    Raises
    ------
    SshConfigError
        `limit` is not a number of bytes.
    """

    auto_window = True

    def __init__(self, limit: Optional[int] = None) -> None:
        if limit is not None and not (isinstance(limit, int) and limit >= 0):
            raise SshConfigError(f"max_output: expected a number of bytes, got {limit!r}")
        self.limit = limit
        self.received = 0
        # Grows in place while more data is on its way.  A list of chunks, joined at the end, would
        # hold the data twice, and would copy it while the caller is waiting.
        self._kept = io.BytesIO()

    def put(self, chunk: bytes, channel: Optional[SshChannel]) -> bool:
        """
        Receive a chunk; called on the reader thread.

        Return False if the limit is exceeded; the part that fits is kept.
        """
        room = len(chunk) if self.limit is None else self.limit - self.received
        self.received += self._kept.write(chunk if len(chunk) <= room else chunk[: max(0, room)])
        return len(chunk) <= room

    def end(self) -> None:
        """Record that the stream has ended."""

    def joined(self) -> bytes:
        """Return the bytes that were kept."""
        return self._kept.getvalue()  # without a copy


class CallbackOutput(Output):
    """
    Passes a stream to a user's function, on a callback thread.

    Parameters
    ----------
    function : Callable[[Union[str, bytes]], None]
        Called with each piece of the stream.
    encoding : Optional[str]
        The encoding of the stream; None: the function is called with bytes.

    Attributes
    ----------
    run_callback : Callable[..., None]
        Makes the calls; the command sets its own `ssh_service.background.callback_runner`.

    Raises
    ------
    SshConfigError
        `function` is not callable, or `encoding` is unknown.
    """

    auto_window = False

    def __init__(self, function: OnOutput, encoding: Optional[str]) -> None:
        super().__init__()
        if not callable(function):
            raise SshConfigError(f"on_stdout, on_stderr: expected a function, got {function!r}")
        self.run_callback: Callable[..., None] = background.run_callback
        self._function = function
        self._decode = _decoder(encoding)

    def put(self, chunk: bytes, channel: Optional[SshChannel]) -> bool:
        """Call the function; when it returns, the chunk's window is given back to the server."""
        self.received += len(chunk)
        self.run_callback(self._deliver, chunk, channel)
        return True

    def end(self) -> None:
        """Call the function with the rest of an incomplete character, if there is one."""
        self.run_callback(self._deliver, b"", None, True)

    def _deliver(self, chunk: bytes, channel: Optional[SshChannel], final: bool = False) -> None:
        try:
            piece = self._decode(chunk, final)
            if piece:
                self._function(piece)
        finally:
            if channel is not None:
                channel.adjust_window(len(chunk))


class DiscardedOutput(Output):
    """Drops a stream, as ``/dev/null`` does."""

    def put(self, chunk: bytes, channel: Optional[SshChannel]) -> bool:
        """Count the bytes."""
        self.received += len(chunk)
        return True


class QueueOutput(Output):
    """
    Queues a stream until a thread reads it, line by line.

    Parameters
    ----------
    encoding : Optional[str]
        The encoding of the stream; None: the lines are bytes.

    Raises
    ------
    SshConfigError
        `encoding` is unknown, or does not encode a newline as one byte (UTF-16, for example).
    """

    auto_window = False

    def __init__(self, encoding: Optional[str]) -> None:
        super().__init__()
        self._decode = _decoder(encoding)
        if encoding is not None and "\n".encode(encoding) != b"\n":
            raise SshConfigError(
                f"encoding: lines cannot be separated in {encoding}; use encoding=None"
            )
        # A user's thread waits for `_changed`, and an exception may interrupt it at any line.
        # Unlike a `Condition`, it cannot then hold a lock that the reader thread needs.
        self._lock = Lock()
        self._changed = LockFreeCondition()
        # Unread output in order, guarded by _lock: whole lines, the pieces of an unfinished line,
        # and unparsed chunks, each with the channel whose window it takes up.
        self._lines: Deque[bytes] = collections.deque()
        self._begun: List[bytes] = []
        self._queue: Deque[Tuple[bytes, Optional[SshChannel]]] = collections.deque()
        self._complete = False  # guarded by _lock
        self._collecting = False  # guarded by _lock

    def put(self, chunk: bytes, channel: Optional[SshChannel]) -> bool:
        """Queue a chunk; when it is read, its window is given back to the server."""
        with self._lock:
            collecting = self._collecting
            if collecting:
                super().put(chunk, None)
            else:
                self._queue.append((chunk, channel))
        self._changed.notify_all()
        if collecting and channel is not None:
            channel.adjust_window(len(chunk))
        return True

    def collect(self) -> None:
        """Keep unread and future output without waiting for a reader, so the command goes on."""
        with self._lock:
            super().put(self._untaken_locked(), None)
            queue, self._queue = self._queue, collections.deque()
            self._lines, self._begun = collections.deque(), []
            self._collecting = True
        for chunk, channel in queue:
            if channel is not None:
                channel.adjust_window(len(chunk))

    def joined(self) -> bytes:
        """Return all unread output."""
        with self._lock:
            return super().joined() + self._untaken_locked()

    def _untaken_locked(self) -> bytes:
        return b"".join([*self._lines, *self._begun, *(chunk for chunk, _ in self._queue)])

    def end(self) -> None:
        """Record that the stream has ended, so that `lines` ends."""
        with self._lock:
            self._complete = True
        self._changed.notify_all()

    def lines(self) -> Iterator[Union[str, bytes]]:
        """Read the stream line by line, as the lines arrive."""
        final = False
        while not final:
            line, final = self._next_line()
            text = self._decode(line, final)
            if text:
                yield text

    def _next_line(self) -> Tuple[bytes, bool]:
        """Read a line; return it, and whether it is the last one."""
        while True:
            if not self._lines:  # read without the lock
                self._changed.wait_for(lambda: self._queue or self._complete)
            with self._lock:
                if self._lines:
                    return self._lines.popleft(), False
                if not self._queue and not self._complete:
                    continue
                if not self._queue:
                    rest, self._begun = b"".join(self._begun), []
                    return rest, True
                chunk, channel = self._queue.popleft()
                # The other lines stay in this object, for `collect`.
                *ends, rest = chunk.split(b"\n")
                if ends:
                    ends[0] = b"".join([*self._begun, ends[0]])
                    self._begun = []
                self._lines.extend(end + b"\n" for end in ends)
                if rest:
                    self._begun.append(rest)
            if channel is not None:
                channel.adjust_window(len(chunk))


def check_encoding(encoding: Optional[str]) -> None:
    """
    Check the name of a text encoding; None is valid.

    Raises
    ------
    SshConfigError
        Python has no such text encoding.
    """
    if encoding not in (None, "utf-8"):  # nearly all calls use UTF-8, which needs no check
        _decoder(encoding)


def _decoder(encoding: Optional[str]) -> Callable[[bytes, bool], Any]:
    """Return a function that decodes chunk by chunk; its second argument marks the last one."""
    if encoding is None:
        return lambda chunk, final: chunk
    try:
        "a".encode(encoding)  # fails for codecs that are not text encodings, such as rot13
        b"a".decode(encoding, "backslashreplace")  # fails for idna, which rejects this handler
        decode = codecs.getincrementaldecoder(encoding)("backslashreplace").decode
    except (LookupError, TypeError, ValueError):
        raise SshConfigError(
            f"encoding: expected one that Python knows, such as utf-8, or None, got {encoding!r}"
        ) from None
    return lambda chunk, final: decode(chunk, final)
