"""What becomes of what a command writes: kept, handed to a function, or taken line by line."""

from __future__ import annotations

import codecs
import collections
import io
import threading
from typing import Any, Callable, Deque, Iterator, List, Optional, Tuple, Union

from ssh_service import background
from ssh_service.errors import SshConfigError
from ssh_service.transport import SshChannel
from ssh_service.transport.lock_free import LockFreeCondition

OnOutput = Callable[[Any], None]


class Output:
    """
    What becomes of a stream that a command writes; this one keeps it.

    Attributes
    ----------
    auto_window : bool
        Whether a chunk is done with as soon as it was `put`, so that the server may send more.
    received : int
        How many bytes were taken.

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
        # Grows where it is, while more is on its way.  Chunks that are joined in the end would be
        # held twice, and copied when there is nothing else left to wait for.
        self._kept = io.BytesIO()

    def put(self, chunk: bytes, channel: Optional[SshChannel]) -> bool:
        """
        Take a chunk; on the reader thread.

        Return False when the limit is exceeded; what fits is kept.
        """
        room = len(chunk) if self.limit is None else self.limit - self.received
        self.received += self._kept.write(chunk if len(chunk) <= room else chunk[: max(0, room)])
        return len(chunk) <= room

    def end(self) -> None:
        """Take note that nothing more comes."""

    def joined(self) -> bytes:
        """Return all that was kept."""
        return self._kept.getvalue()  # not copied


class CallbackOutput(Output):
    """
    Hands a stream to a function of the user's, on a callback thread.

    Attributes
    ----------
    run_callback : Callable[..., None]
        Makes the calls, see `ssh_service.background.callback_runner`; its command's.

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
        """Have the function called; the server may send more when it has returned."""
        self.received += len(chunk)
        self.run_callback(self._deliver, chunk, channel)
        return True

    def end(self) -> None:
        """Have the function called with what was left of a character."""
        self.run_callback(self._deliver, b"", None, True)

    def _deliver(self, chunk: bytes, channel: Optional[SshChannel], final: bool = False) -> None:
        try:
            piece = self._decode(chunk, final)
            if piece:
                self._function(piece)
        finally:
            if channel is not None:
                channel.adjust_window(len(chunk))


class QueueOutput(Output):
    """
    Keeps a stream until a thread takes it, line by line.

    Raises
    ------
    SshConfigError
        It is not, as in UTF-16; or there is no such encoding.

    """

    auto_window = False

    def __init__(self, encoding: Optional[str]) -> None:
        super().__init__()
        self._decode = _decoder(encoding)
        if encoding is not None and "\n".encode(encoding) != b"\n":
            raise SshConfigError(
                f"encoding: lines cannot be separated in {encoding}; use encoding=None"
            )
        # A user's thread waits here, and can be torn away: what the reader needs is not to be a
        # lock that such a thread may have left taken, as `Condition` may.
        self._lock = threading.Lock()
        self._changed = LockFreeCondition()
        # Output that was not taken yet, in order; all guarded by _lock: whole lines, the pieces of
        # an unfinished line, and unparsed pieces with the channel that gets their window back.
        self._lines: Deque[bytes] = collections.deque()
        self._begun: List[bytes] = []
        self._queue: Deque[Tuple[bytes, Optional[SshChannel]]] = collections.deque()
        self._complete = False  # guarded by _lock
        self._collecting = False  # guarded by _lock

    def put(self, chunk: bytes, channel: Optional[SshChannel]) -> bool:
        """Keep a chunk; the server may send more when it was taken."""
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
        """Keep what was not taken, and what still comes, so that the command can go on."""
        with self._lock:
            super().put(self._untaken_locked(), None)
            queue, self._queue = self._queue, collections.deque()
            self._lines, self._begun = collections.deque(), []
            self._collecting = True
        for chunk, channel in queue:
            if channel is not None:
                channel.adjust_window(len(chunk))

    def joined(self) -> bytes:
        """Return all that was not taken."""
        with self._lock:
            return super().joined() + self._untaken_locked()

    def _untaken_locked(self) -> bytes:
        return b"".join([*self._lines, *self._begun, *(chunk for chunk, _ in self._queue)])

    def end(self) -> None:
        """Let `lines` come to an end."""
        with self._lock:
            self._complete = True
        self._changed.notify_all()

    def lines(self) -> Iterator[Union[str, bytes]]:
        """Take the stream line by line, as the lines come."""
        final = False
        while not final:
            line, final = self._next_line()
            text = self._decode(line, final)
            if text:
                yield text

    def _next_line(self) -> Tuple[bytes, bool]:
        """Take a line; the second value tells that it is the last."""
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
                # The rest stays here, for `collect`.
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
    Refuse an encoding that text cannot have.

    Raises
    ------
    SshConfigError
        Python does not know it.

    """
    if encoding not in (None, "utf-8"):  # the one that nearly all calls have needs no look
        _decoder(encoding)


def _decoder(encoding: Optional[str]) -> Callable[[bytes, bool], Any]:
    """Return a function that decodes chunk by chunk; its second argument marks the last one."""
    if encoding is None:
        return lambda chunk, final: chunk
    try:
        "a".encode(encoding)  # fails for codecs that are not text encodings, such as rot13
        b"a".decode(encoding, "backslashreplace")  # and this for idna, which takes no escapes
        decode = codecs.getincrementaldecoder(encoding)("backslashreplace").decode
    except (LookupError, TypeError, ValueError):
        raise SshConfigError(
            f"encoding: expected one that Python knows, such as utf-8, or None, got {encoding!r}"
        ) from None
    return lambda chunk, final: decode(chunk, final)
