"""
One SFTP session, which copies use at the same time: requests go out, replies come in.

Replies arrive on the connection's reader thread, which only cuts them out of the stream and puts
each into the inbox of whoever asked; everything else happens on the threads that copy.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from typing import Any, Deque, Dict, List, Optional, Set, Tuple

from ssh_service.copying.sftp import decode, protocol
from ssh_service.copying.sftp.handles import OpenHandles
from ssh_service.copying.sftp.packets import Packet, PacketReader
from ssh_service.copying.sftp.protocol import Buffer, ProtocolError, ServerLimits
from ssh_service.copying.sftp.reply import Inbox, Reply
from ssh_service.copying.sftp.server_facts import ServerFacts

__all__ = ["SessionEnded", "SftpChannel", "SftpSession"]


class SessionEnded(Exception):
    """
    The session is gone.

    Attributes
    ----------
    reason : Optional[BaseException]
        Why, where that is known: most often the connection's own error.
    answered : bool
        Whether the server had answered anything that the copy concerned asked for.
    """

    def __init__(self, reason: Optional[BaseException]) -> None:
        super().__init__(str(reason) if reason else "the server ended the SFTP session")
        self.reason = reason
        self.answered = True


class SftpChannel:
    """What a session needs of the channel under it."""

    def send_some(self, data: memoryview) -> int:
        """Send what there is room for, without waiting for room; tell how many bytes."""
        raise NotImplementedError

    def close(self) -> None:
        """Close it; may be called more than once."""
        raise NotImplementedError

    def set_in_use(self, used: bool) -> None:
        """Take note whether any copy works on it."""


class SftpSession:
    """
    An SFTP session over one channel.

    Attributes
    ----------
    extensions : Dict[bytes, bytes]
        What the server announced.
    limits : ServerLimits
        What it told of its limits; zeros until it has.
    facts : Dict[str, Any]
        What copies found out about this server and want to know next time.
    copy_lock : Optional[RecoverableLock]
        Had by the one copy that may use it, where a server mixes up files that are open at the
        same time; None: any number may.
    handle_usage : UsageTotal
        The budgets of all copies on it, for files that are open.
    ids : Iterator[int]
        Gives each request its number.
    sent : int
        Bytes that have left, for signs of life.

    Notes
    -----
    Thread safety.  `feed`, `on_writable` and `ended` are for the connection's reader thread; all
    else may be called from any thread.  Each copy has an inbox of its own.

    Guarantees.  A reply reaches the copy that asked, whatever other copies do.  When the session
    ends, every copy learns it, once its replies are read.  The reader thread is never held up: it
    decodes no file, waits for nothing, and sends nothing.
    """

    def __init__(self, channel: SftpChannel) -> None:
        self._channel = channel
        self._packets = PacketReader(after_noise=True)  # the reader thread's own
        self._lock = threading.Lock()
        self._pending: Dict[int, Reply] = {}  # guarded by _lock
        self._inboxes: Set[Inbox] = set()  # guarded by _lock
        self._outbox: Deque[memoryview] = deque()  # guarded by _lock
        self._sending = False  # guarded by _lock: a thread is at it, others leave it to that one
        self._room_made = 0  # guarded by _lock: how often the peer said it has room
        self._arrived = 0  # the reader thread's own
        self._is_negotiated = False  # guarded by _lock: the server's hello has come
        self._ending = False  # guarded by _lock: no more replies will come
        self._has_ended = False  # guarded by _lock
        self._reason: Optional[BaseException] = None  # guarded by _lock
        self._retired = False  # guarded by _lock
        self.ids = itertools.count(1)
        self.sent = 0  # written by whichever thread sends
        self._queued = 0  # guarded by _lock: bytes that were given to be sent, ever
        self.extensions: Dict[bytes, bytes] = {}
        self.limits = ServerLimits()
        self.facts = ServerFacts()
        self.copy_lock: Any = None  # an `RecoverableLock`; copies' own matter
        self.handles = OpenHandles()

    # The reader thread's side. ------------------------------------------------------------------

    def feed(self, chunk: bytes) -> None:
        """Take in what the server sent."""
        try:
            packets = self._packets.feed(chunk)
            batches: Dict[Inbox, List[Reply]] = {}
            with self._lock:
                for packet in packets:
                    if not self._is_negotiated:
                        self._take_hello_locked(packet)
                        continue
                    reply = self._pending.pop(packet.request_id, None)
                    if reply is None:
                        raise ProtocolError(f"a reply to request {packet.request_id}, never made")
                    self._arrived += 1
                    reply.arrival = self._arrived
                    reply.kind, reply.pieces = packet.kind, packet.pieces
                    batches.setdefault(reply.inbox, []).append(reply)
                unfinished = self._packets.unfinished
                started = None if unfinished is None else self._pending.get(unfinished)
        except ProtocolError as error:
            self.mark_ended(error)
            self._channel.close()
            return
        for inbox, batch in batches.items():
            inbox.deliver(batch)
        if started is not None:
            started.inbox.activity += 1

    def _take_hello_locked(self, packet: Packet) -> None:
        version = packet.request_id
        if packet.kind != protocol.VERSION_REPLY:
            raise ProtocolError("the server does not begin with its version: no SFTP server?")
        if version < protocol.VERSION:
            raise ProtocolError(f"SFTP version {version}, at least {protocol.VERSION} is needed")
        self.extensions = decode.extensions(packet.body)
        self._is_negotiated = True
        for inbox in self._inboxes:
            inbox.deliver(None)

    def on_writable(self) -> None:
        """Note that the peer has room again: whoever copies may send on."""
        with self._lock:
            self._room_made += 1
            woken = list(self._inboxes) if self._outbox and not self._sending else []
        for inbox in woken:
            inbox.deliver(None)

    def on_eof(self) -> None:
        """Note that nothing more will come but the reason of the end."""
        with self._lock:
            self._ending = True
            inboxes = list(self._inboxes)
        for inbox in inboxes:
            inbox.deliver(None)

    def mark_ended(self, reason: Optional[BaseException]) -> None:
        """Note that the session is over; the first reason counts."""
        with self._lock:
            if self._has_ended:
                return
            self._has_ended, self._reason = True, reason
            self._pending.clear()
            self._outbox.clear()
            inboxes = list(self._inboxes)
        for inbox in inboxes:
            inbox.deliver(None)

    # The copies' side. --------------------------------------------------------------------------

    @property
    def is_negotiated(self) -> bool:
        """Whether the server's hello has come."""
        with self._lock:
            return self._is_negotiated

    @property
    def is_ending(self) -> bool:
        """Whether the session is about to end, for a reason that is still to come."""
        with self._lock:
            return self._ending

    def raise_if_ended(self) -> None:
        """Raise `SessionEnded` if the session is over."""
        with self._lock:
            over, reason = self._has_ended, self._reason
        if over:
            raise SessionEnded(reason)

    @property
    def is_usable(self) -> bool:
        """Whether a new copy may use it."""
        with self._lock:
            return not self._has_ended and not self._retired

    def attach(self, inbox: Inbox) -> None:
        """Note that a copy works on this session from now on."""
        with self._lock:
            self._inboxes.add(inbox)
        self._channel.set_in_use(True)

    def detach(self, inbox: Inbox, clean: bool) -> None:
        """
        Note that a copy works on this session no more.

        Parameters
        ----------
        inbox : Inbox
            The one it joined with.
        clean : bool
            Whether it has no reply outstanding and no file open.  Otherwise no new copy uses this
            session, and it ends with its last copy: so the server closes what was left open.
        """
        with self._lock:
            self._inboxes.discard(inbox)
            if not clean:
                self._retired = True
            idle = not self._inboxes
            over = self._retired and idle
        if idle:
            self._channel.set_in_use(False)
        if over:
            self.close()

    def close_if_idle(self) -> bool:
        """End the session unless a copy works on it; return whether it was ended."""
        with self._lock:
            idle = not self._inboxes and not self._has_ended
            self._retired = self._retired or idle
        if idle:
            self.close()
        return idle

    def close(self, reason: Optional[BaseException] = None) -> None:
        """End the session."""
        self.mark_ended(reason)
        self._channel.close()

    def has_room_for_handle(self) -> bool:
        """Return whether copies may hold one more file open."""
        return self.handles.has_room(self.limits.handles)

    def send(self, batch: Buffer, replies: List[Reply]) -> int:
        """
        Send a batch of requests as soon as there is room, and expect these replies.

        Parameters
        ----------
        batch : Union[bytes, memoryview]
            The requests.
        replies : List[Reply]
            What they wait for.

        Returns
        -------
        int
            What `sent` has to reach before all of the batch has left.
        """
        with self._lock:
            if self._has_ended:
                raise SessionEnded(self._reason)
            for reply in replies:
                self._pending[reply.request_id] = reply
            self._outbox.append(memoryview(batch))
            self._queued += len(batch)
            last_byte = self._queued
        self.pump()
        return last_byte

    def pump(self) -> None:
        """Send what waits to be sent, as far as the peer has room for it."""
        try:
            self._pump()
        except BaseException as error:
            # Part of a piece may be out, so the stream is of no use to anyone any more; and who
            # was interrupted may have left word that it is still sending.
            self.mark_ended(error)
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
            count = self._channel.send_some(head)
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
            # No room and none made since: `on_writable` will wake the copies.  `_sending` is
            # reset under the same lock, so that neither of the two relies on the other.
            if not self._outbox or (not count and room_made == self._room_made):
                self._sending = False
                return None, 0
            return self._outbox[0], self._room_made
