"""A command's bytes: what it reads, and what becomes of what it writes."""

from __future__ import annotations

import codecs
import collections
import io
import threading
import time
from typing import Any, Callable, Deque, Iterator, List, Optional, Union

from ssh_service import background
from ssh_service.transport import SshChannel

# Bytes of stdin that may wait here for the server; `Stdin.write` waits while there are more.
_STDIN_BUFFER = 256 * 1024

OnOutput = Callable[[Any], None]


class Stdin:
    """
    What a command reads.

    Parameters
    ----------
    data : bytes
        What is there from the start.
    more : bool
        Whether `write` may follow; otherwise the end of the file comes after `data`.

    Notes
    -----
    Thread safety.  Every method may be called from any thread; only `write` waits.
    """

    def __init__(self, data: bytes, more: bool = False) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._data = memoryview(data)  # guarded by _changed
        self._more = more  # guarded by _changed
        self._ended = False  # guarded by _changed: nobody will read it any more
        self._pumping = False  # guarded by _changed
        self._pump_again = False  # guarded by _changed
        self._channel: Optional[SshChannel] = None  # guarded by _changed

    def start(self, channel: SshChannel) -> None:
        """
        Begin to send.

        Parameters
        ----------
        channel : SshChannel
            Where to; open.
        """
        with self._changed:
            self._channel = channel
        self.pump()

    def pump(self) -> None:
        """Send what the peer's window takes."""
        with self._changed:
            channel = self._channel
            if channel is None or self._ended:
                return
            self._pump_again = True  # whoever is at it goes round once more
            if self._pumping:
                return
            self._pumping = True
        while True:
            with self._changed:
                if not self._pump_again or self._ended:
                    self._pumping = False
                    return
                self._pump_again = False
                data = self._data
                finished = not data and not self._more
            if finished:
                channel.send_eof()
                self.end()
                continue
            taken = channel.send_some(data, wait=False) if data else 0
            if taken:
                with self._changed:
                    # What was appended meanwhile stands behind what was there.
                    self._data = self._data[taken:]
                    self._pump_again = True
                    self._changed.notify_all()

    def write(self, data: bytes, timeout: Optional[float] = None) -> None:
        """
        Append bytes, waiting while too many are on their way.

        Parameters
        ----------
        data : bytes
            What the command is to read.
        timeout : Optional[float]
            Seconds to wait at most; None waits until the command ends.

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
            with self._changed:
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                has_room = self._changed.wait_for(
                    lambda: self._ended or len(self._data) < _STDIN_BUFFER, left
                )
                if self._ended or not self._more:
                    raise BrokenPipeError("the command reads no more")
                if not has_room:
                    raise TimeoutError(f"the command took no input for {timeout:g} s")
                piece, rest = rest[:_STDIN_BUFFER], rest[_STDIN_BUFFER:]
                self._data = memoryview(bytes(self._data) + bytes(piece))
            self.pump()

    def close(self) -> None:
        """Let the command find the end of the file after what was written."""
        with self._changed:
            self._more = False
        self.pump()

    def end(self) -> None:
        """Drop what was not sent: nobody will read it."""
        with self._changed:
            self._ended = True
            self._data = memoryview(b"")
            self._changed.notify_all()


class Output:
    """
    What becomes of a stream that a command writes; this one keeps it.

    Parameters
    ----------
    limit : Optional[int]
        Bytes to keep at most; None: all.

    Attributes
    ----------
    gives_back : bool
        Whether a chunk is done with as soon as it was `put`, so that the server may send more.
    received : int
        How many bytes were taken.
    """

    gives_back = True

    def __init__(self, limit: Optional[int] = None) -> None:
        self.limit = limit
        self.received = 0
        # Grows where it is, while more is on its way.  Chunks that are joined in the end would be
        # held twice, and copied when there is nothing else left to wait for.
        self._kept = io.BytesIO()

    def put(self, chunk: bytes, channel: Optional[SshChannel]) -> bool:
        """
        Take a chunk; on the reader thread.

        Parameters
        ----------
        chunk : bytes
            What came.
        channel : Optional[SshChannel]
            Whom to give the window back once the chunk is done with.

        Returns
        -------
        bool
            False when the limit is exceeded; what fits is kept.
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
    Hands a stream to a function of the user's, on the callback thread.

    Parameters
    ----------
    function : Callable[[Union[str, bytes]], None]
        Called with each chunk.
    encoding : Optional[str]
        The text's encoding, undecodable bytes become backslash escapes; None hands out bytes.
    """

    gives_back = False

    def __init__(self, function: OnOutput, encoding: Optional[str]) -> None:
        super().__init__()
        self._function = function
        self._decode = decoder(encoding)

    def put(self, chunk: bytes, channel: Optional[SshChannel]) -> bool:
        """Have the function called; the server may send more when it has returned."""
        self.received += len(chunk)
        background.run_callback(self._deliver, chunk, channel)
        return True

    def end(self) -> None:
        """Have the function called with what was left of a character."""
        background.run_callback(self._deliver, b"", None, True)

    def _deliver(self, chunk: bytes, channel: Optional[SshChannel], final: bool = False) -> None:
        try:
            piece = self._decode(chunk, final)
            if piece:
                self._function(piece)
        finally:
            if channel is not None:
                channel.give_back(len(chunk))


class QueueOutput(Output):
    """
    Keeps a stream until a thread takes it, line by line or as it came.

    Parameters
    ----------
    encoding : Optional[str]
        As for `CallbackOutput`.
    """

    gives_back = False

    def __init__(self, encoding: Optional[str]) -> None:
        super().__init__()
        self._changed = threading.Condition(threading.Lock())
        self._queue: Deque[Any] = collections.deque()  # guarded by _changed
        self._complete = False  # guarded by _changed
        self._collecting = False  # guarded by _changed
        self._decode = decoder(encoding)
        self._newline: Any = b"\n" if encoding is None else "\n"

    def put(self, chunk: bytes, channel: Optional[SshChannel]) -> bool:
        """Keep a chunk; the server may send more when it was taken."""
        with self._changed:
            self.received += len(chunk)
            collecting = self._collecting
            if collecting:
                self._kept.write(chunk)
            else:
                self._queue.append((chunk, channel))
                self._changed.notify()
        if collecting and channel is not None:
            channel.give_back(len(chunk))
        return True

    def collect(self) -> None:
        """Keep what was not taken, and what still comes, so that the command can go on."""
        with self._changed:
            queue, self._queue = self._queue, collections.deque()
            self._collecting = True
            for chunk, _ in queue:
                self._kept.write(chunk)
        for chunk, channel in queue:
            if channel is not None:
                channel.give_back(len(chunk))

    def end(self) -> None:
        """Let `chunks` and `lines` come to an end."""
        with self._changed:
            self._complete = True
            self._changed.notify_all()

    def chunks(self) -> Iterator[Union[str, bytes]]:
        """
        Take the stream as it comes.

        Yields
        ------
        Union[str, bytes]
            What came, until the command closes the stream.
        """
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._complete)
                if not self._queue:
                    break
                chunk, channel = self._queue.popleft()
            if channel is not None:
                channel.give_back(len(chunk))
            piece = self._decode(chunk, False)
            if piece:
                yield piece
        rest = self._decode(b"", True)
        if rest:
            yield rest

    def lines(self) -> Iterator[Union[str, bytes]]:
        """
        Take the stream line by line, as the lines come.

        Yields
        ------
        Union[str, bytes]
            A line with its newline; the last one may have none.
        """
        parts: List[Any] = []
        for piece in self.chunks():
            *complete, rest = piece.split(self._newline)
            for line in complete:
                yield self._newline[:0].join([*parts, line, self._newline])
                parts = []
            if rest:
                parts.append(rest)
        if parts:
            yield self._newline[:0].join(parts)


def decoder(encoding: Optional[str]) -> Callable[[bytes, bool], Any]:
    """
    Make a function that decodes a stream chunk by chunk.

    Parameters
    ----------
    encoding : Optional[str]
        None: the function returns the bytes.

    Returns
    -------
    Callable[[bytes, bool], Union[str, bytes]]
        Its second argument tells that nothing more comes.
    """
    if encoding is None:
        return lambda chunk, final: chunk
    decode = codecs.getincrementaldecoder(encoding)("backslashreplace").decode
    return lambda chunk, final: decode(chunk, final)
