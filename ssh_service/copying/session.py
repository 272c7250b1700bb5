"""
One SFTP session, and the lanes on which copies use it at the same time.

Requests leave in batches: what a copy asks for is collected and written as one piece, for a
channel is a stream and many small requests fit one packet.  Replies arrive on the connection's
reader thread, which only cuts them out of the stream and puts each into the inbox of the lane
that asked; everything else happens on the thread that copies.
"""

from __future__ import annotations

import itertools
import re
import threading
from collections import deque
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Callable, Deque, Dict, Generator, List, Optional, Set, Tuple, Type

from ssh_service.copying import protocol
from ssh_service.copying.protocol import Limits, Packet, PacketReader, ProtocolError

__all__ = ["Lane", "Reply", "SessionEnded", "SftpSession", "Stalled", "Stream"]

# What fits one packet of a channel of OpenSSH's: a batch is written before it exceeds this, or
# when its lane has nothing better to do.
_BATCH = 32 * 1024 - 64
# The server's hello: its size, its kind, a version.
_HELLO = re.compile(rb"\0[\0-\x04]..\x02\0\0\0[\0-\x0f]", re.DOTALL)
# Bytes that a profile may print before it.
_MOST_NOISE = 64 * 1024
# Handles that one session may hold where the server does not say how many it allows.
_HANDLES = 100


class SessionEnded(Exception):
    """
    The session is gone.

    Attributes
    ----------
    reason : Optional[BaseException]
        Why, where that is known: most often the connection's own error.
    answered : bool
        Whether the server had answered anything on the lane concerned.
    """

    def __init__(self, reason: Optional[BaseException]) -> None:
        super().__init__(str(reason) if reason else "the server ended the SFTP session")
        self.reason = reason
        self.answered = True


class Stalled(Exception):
    """Nothing moved for as long as the caller allowed."""


class Stream:
    """What a session needs of the channel under it."""

    def send_some(self, data: memoryview) -> int:
        """Send what there is room for, without waiting for room; tell how many bytes."""
        raise NotImplementedError

    def close(self) -> None:
        """Close it; may be called more than once."""
        raise NotImplementedError

    def in_use(self, used: bool) -> None:
        """Take note whether any copy works on it."""


class Reply:
    """
    The reply to one request, which may still be on its way.

    A coroutine that the copy's pipeline runs may ``await`` it.

    Attributes
    ----------
    kind : int
        The kind of packet the server sent; 0 while there is none.
    pieces : protocol.Pieces
        What it holds, to be decoded, in the pieces in which it came.
    waiter : Any
        Whoever waits for it; set and used by the pipeline alone.
    """

    __slots__ = ("lane", "request_id", "kind", "pieces", "waiter")

    def __init__(self, lane: Lane, request_id: int) -> None:
        self.lane = lane
        self.request_id = request_id
        self.kind = 0
        self.pieces: protocol.Pieces = []
        self.waiter: Any = None

    @property
    def body(self) -> bytes:
        """All of it, in one piece."""
        return b"".join(self.pieces)

    def __await__(self) -> Generator[Reply, None, Reply]:
        if not self.kind:
            yield self
        return self


class SftpSession:
    """
    An SFTP session over one channel.

    Attributes
    ----------
    extensions : Dict[bytes, bytes]
        What the server announced.
    limits : Limits
        What it told of its limits; zeros until it has.
    facts : Dict[str, Any]
        What copies found out about this server and want to know next time.

    Notes
    -----
    Thread safety.  `feed`, `made_room` and `ended` are for the connection's reader thread; all
    else may be called from any thread.  Each copy works on a `Lane` of its own.

    Guarantees.  A reply reaches the lane that asked, whatever other lanes do.  When the session
    ends, every lane learns it, once its replies are read.  The reader thread is never held up: it
    decodes no file, waits for nothing, and sends nothing.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._packets = PacketReader()  # the reader thread's own
        self._noise: Optional[bytes] = b""  # the same; None once the hello has begun
        self._lock = threading.Lock()
        self._ids = itertools.count(1)
        self._pending: Dict[int, Reply] = {}  # guarded by _lock
        self._lanes: Set[Lane] = set()  # guarded by _lock
        self._outbox: Deque[memoryview] = deque()  # guarded by _lock
        self._sending = False  # guarded by _lock: a thread is at it, others leave it to that one
        self._room_made = 0  # guarded by _lock: how often the peer said it has room
        self._greeted = False  # guarded by _lock: the server's hello has come
        self._over = False  # guarded by _lock
        self._reason: Optional[BaseException] = None  # guarded by _lock
        self._retired = False  # guarded by _lock
        self._handles = 0  # guarded by _lock
        self.sent = 0  # bytes; written by whichever thread sends
        self.extensions: Dict[bytes, bytes] = {}
        self.limits = Limits()
        self.facts: Dict[str, Any] = {}

    # The reader thread's side. ------------------------------------------------------------------

    def feed(self, chunk: bytes) -> None:
        """Take in what the server sent."""
        try:
            if self._noise is not None:
                chunk = self._without_noise(chunk)
            packets = self._packets.feed(chunk)
            batches: Dict[Lane, List[Reply]] = {}
            with self._lock:
                for packet in packets:
                    if not self._greeted:
                        self._take_hello_locked(packet)
                        continue
                    reply = self._pending.pop(packet.request_id, None)
                    if reply is None:
                        raise ProtocolError(f"a reply to request {packet.request_id}, never made")
                    reply.kind, reply.pieces = packet.kind, packet.pieces
                    batches.setdefault(reply.lane, []).append(reply)
                unfinished = self._packets.unfinished
                started = None if unfinished is None else self._pending.get(unfinished)
        except ProtocolError as error:
            self.ended(error)
            self._stream.close()
            return
        for lane, batch in batches.items():
            lane.deliver(batch)
        if started is not None:
            started.lane.moved += 1

    def _without_noise(self, chunk: bytes) -> bytes:
        """Give what comes from the hello on: what a profile prints comes before it."""
        assert self._noise is not None
        data, self._noise = self._noise + chunk, None
        if data.startswith(b"\0"):  # the size of a packet; no text begins like that
            return data
        match = _HELLO.search(data)
        if match is not None:
            return data[match.start() :]
        if len(data) > _MOST_NOISE:
            raise ProtocolError("the server says a lot, but no version: no SFTP server?")
        self._noise = data
        return b""

    def _take_hello_locked(self, packet: Packet) -> None:
        version = packet.request_id
        if packet.kind != protocol.VERSION_REPLY:
            raise ProtocolError("the server does not begin with its version: no SFTP server?")
        if version < protocol.VERSION:
            raise ProtocolError(f"SFTP version {version}, at least {protocol.VERSION} is needed")
        self.extensions = protocol.read_extensions(packet.body)
        self._greeted = True
        for lane in self._lanes:
            lane.deliver(None)

    def made_room(self) -> None:
        """Note that the peer has room again: whoever copies may send on."""
        with self._lock:
            self._room_made += 1
            lanes = list(self._lanes) if self._outbox and not self._sending else []
        for lane in lanes:
            lane.deliver(None)

    def ended(self, reason: Optional[BaseException]) -> None:
        """Note that the session is over; the first reason counts."""
        with self._lock:
            if self._over:
                return
            self._over, self._reason = True, reason
            self._pending.clear()
            self._outbox.clear()
            lanes = list(self._lanes)
        for lane in lanes:
            lane.deliver(None)

    # The copies' side. --------------------------------------------------------------------------

    def greet(self, timeout: Optional[float]) -> None:
        """
        Exchange hellos with the server, and ask for its limits: once, before anything else.

        Parameters
        ----------
        timeout : Optional[float]
            Seconds without any answer after which to give up; None: no limit.

        Raises
        ------
        Stalled
            No answer came in time.
        SessionEnded
            There is no SFTP session to be had.
        """
        with self.lane() as lane:
            self.put(protocol.init(), [])
            while not self._is_greeted():
                lane.wait_for_news(timeout)
            if protocol.LIMITS in self.extensions:
                reply = lane.ask(protocol.limits)
                while not reply.kind:
                    lane.collect(timeout)
                if reply.kind == protocol.EXTENDED_REPLY:
                    self.limits = protocol.read_limits(reply.body)

    def _is_greeted(self) -> bool:
        with self._lock:
            return self._greeted

    def check(self) -> None:
        """Raise `SessionEnded` if the session is over."""
        with self._lock:
            over, reason = self._over, self._reason
        if over:
            raise SessionEnded(reason)

    @property
    def is_usable(self) -> bool:
        """Whether a new copy may use it."""
        with self._lock:
            return not self._over and not self._retired

    def lane(self) -> Lane:
        """Give a new lane, for one copy; a context manager."""
        lane = Lane(self, self._ids)
        with self._lock:
            self._lanes.add(lane)
        self._stream.in_use(True)
        return lane

    def leave(self, lane: Lane, clean: bool) -> None:
        """
        Take a lane back.

        Parameters
        ----------
        lane : Lane
            It is used no more.
        clean : bool
            Whether it has no reply outstanding and no file open.  Otherwise no new copy uses this
            session, and it ends with its last lane: so the server closes what was left open.
        """
        with self._lock:
            self._lanes.discard(lane)
            if not clean:
                self._retired = True
            idle = not self._lanes
            over = self._retired and idle
        if idle:
            self._stream.in_use(False)
        if over:
            self.close()

    def close_if_idle(self) -> bool:
        """End the session unless a copy works on it; tell whether it was ended."""
        with self._lock:
            idle = not self._lanes and not self._over
            self._retired = self._retired or idle
        if idle:
            self.close()
        return idle

    def close(self) -> None:
        """End the session."""
        self.ended(None)
        self._stream.close()

    def reserve_handle(self, first: bool) -> bool:
        """
        Ask for the right to hold one more file open.

        Parameters
        ----------
        first : bool
            Whether the asker holds none: then it is always granted, so that every copy moves.
        """
        allowed = self.limits.handles // 2 or _HANDLES
        with self._lock:
            if self._handles >= allowed and not first:
                return False
            self._handles += 1
            return True

    def release_handle(self) -> None:
        """Give that right back."""
        with self._lock:
            self._handles -= 1

    def put(self, batch: protocol.Buffer, replies: List[Reply]) -> None:
        """Send a batch of requests as soon as there is room, and expect these replies."""
        with self._lock:
            if self._over:
                raise SessionEnded(self._reason)
            for reply in replies:
                self._pending[reply.request_id] = reply
            self._outbox.append(memoryview(batch))
        self.pump()

    def pump(self) -> None:
        """Send what waits to be sent, as far as the peer has room for it."""
        try:
            self._pump()
        except BaseException as error:
            # Part of a piece may be out, so the stream is of no use to anyone any more; and who
            # was interrupted may have left word that it is still sending.
            self.ended(error)
            if not isinstance(error, Exception):
                raise

    def _pump(self) -> None:
        with self._lock:
            if self._sending or not self._outbox:
                return
            self._sending = True
            head: Optional[memoryview] = self._outbox[0]
            room_made = self._room_made
        while head is not None:
            count = self._stream.send_some(head)
            head, room_made = self._advance(head, count, room_made)

    def _advance(
        self, head: memoryview, count: int, room_made: int
    ) -> Tuple[Optional[memoryview], int]:
        """Take what was sent out of the outbox; say what to send next, None: nothing for now."""
        with self._lock:
            self.sent += count
            if self._outbox:  # else the session ended meanwhile
                if count < len(head):
                    self._outbox[0] = head[count:]
                else:
                    self._outbox.popleft()
            # No room and none made since: `made_room` will wake the lanes.  It is told under this
            # same lock that nobody is sending, so that neither of the two relies on the other.
            if not self._outbox or (not count and room_made == self._room_made):
                self._sending = False
                return None, 0
            return self._outbox[0], self._room_made


class Lane:
    """
    One copy's use of a session: its requests, its replies.

    Attributes
    ----------
    outstanding : int
        Requests without a reply so far.
    moved : int
        Changes whenever a part of a reply comes in: the sign of life between two replies.

    Notes
    -----
    Thread safety.  `deliver` may be called from any thread; all else belongs to the copy's own
    thread.
    """

    def __init__(self, session: SftpSession, ids: itertools.count[int]) -> None:
        self.session = session
        self._ids = ids
        self._inbox: SimpleQueue[Optional[List[Reply]]] = SimpleQueue()
        self._batch: List[protocol.Buffer] = []
        self._batch_size = 0
        self._asked: List[Reply] = []
        self.outstanding = 0
        self._expected = 0  # of those: what is no request
        self.moved = 0
        self._answered = False

    def __enter__(self) -> Lane:
        return self

    def __exit__(
        self,
        exc_type: Optional[Type[BaseException]],
        exc: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        if isinstance(exc, SessionEnded):
            exc.answered = self._answered
        self.session.leave(self, clean=not self.outstanding)

    def ask(self, encode: Callable[..., protocol.Buffer], *args: Any) -> Reply:
        """
        Make a request; it leaves with the next batch.

        Parameters
        ----------
        encode : Callable[..., protocol.Buffer]
            One of the encoders of `protocol`.
        args : Any
            What it takes after the request id.

        Returns
        -------
        Reply
            The reply to come.
        """
        reply = Reply(self, next(self._ids) & 0xFFFFFFFF)
        packet = encode(reply.request_id, *args)
        if self._batch_size + len(packet) > _BATCH:
            self.flush()
        self._batch.append(packet)
        self._batch_size += len(packet)
        self._asked.append(reply)
        self.outstanding += 1
        if self._batch_size >= _BATCH:
            self.flush()
        return reply

    def expect(self) -> Reply:
        """Give a reply that somebody else will deliver: the way for what is no SFTP request."""
        self.outstanding += 1
        self._expected += 1
        return Reply(self, 0)

    def flush(self) -> None:
        """Write what was asked for so far."""
        if self._batch:
            batch = self._batch[0] if len(self._batch) == 1 else b"".join(self._batch)
            asked = self._asked
            self._batch, self._batch_size, self._asked = [], 0, []
            self.session.put(batch, asked)

    def _flush_if_due(self) -> None:
        # While the server has more to do than waits here, its replies are on their way and bring
        # more to send: larger batches are less work for both sides, and cost no time.
        if len(self._asked) >= self.outstanding - self._expected - len(self._asked):
            self.flush()

    def deliver(self, replies: Optional[List[Reply]]) -> None:
        """Put replies into the inbox; None: look at the session, something changed there."""
        self._inbox.put(replies)

    def collect(self, timeout: Optional[float]) -> List[Reply]:
        """
        Wait for replies.

        Parameters
        ----------
        timeout : Optional[float]
            Seconds in which something must move, in either direction; None: no limit.

        Returns
        -------
        List[Reply]
            One or more, in the order in which they came.

        Raises
        ------
        Stalled
            Nothing moved.
        SessionEnded
            The session is over, and all replies that came have been read.
        """
        self._flush_if_due()
        while True:
            replies = self.wait_for_news(timeout)
            if replies is not None:
                self.outstanding -= len(replies)
                if self._expected:
                    self._expected -= sum(not reply.request_id for reply in replies)
                self._answered = True
                return replies

    def wait_for_news(self, timeout: Optional[float]) -> Optional[List[Reply]]:
        """
        Wait until something comes in: replies, or None for a change of the session's state.

        Parameters
        ----------
        timeout : Optional[float]
            As in `collect`, which also says what is raised.

        Returns
        -------
        Optional[List[Reply]]
            See above; whatever could be sent since has been.
        """
        while True:
            before = (self.moved, self.session.sent)
            if self._inbox.empty():
                self.session.check()  # the end is delivered once, and asked about more often
            try:
                replies = self._inbox.get(timeout=timeout)
            except Empty:
                if before == (self.moved, self.session.sent):
                    raise Stalled() from None
                continue
            if replies is None:
                self.session.check()
                self.session.pump()
            return replies
