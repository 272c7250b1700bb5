"""
One SFTP session, which several copies use concurrently.

Replies arrive on the connection's reader thread, which only splits the stream into packets and
puts each reply into the inbox of the copy that sent the request; everything else is done on the
threads of the copies.
"""

from __future__ import annotations

import itertools
from collections import deque
from typing import Any, Deque, Dict, List, Optional, Set, Tuple

from ssh_service.copying.sftp import decode, protocol
from ssh_service.copying.sftp.handles import OpenHandles
from ssh_service.copying.sftp.packets import Packet, PacketReader
from ssh_service.copying.sftp.protocol import ProtocolError, ServerLimits
from ssh_service.copying.sftp.reply import Inbox, Reply
from ssh_service.copying.sftp.server_facts import ServerFacts
from ssh_service.interruptions import is_interruption
from ssh_service.locks import Lock
from ssh_service.transport.wire import Buffer

__all__ = ["SessionEnded", "SftpChannel", "SftpSession"]


class SessionEnded(Exception):
    """
    The session has ended.

    Attributes
    ----------
    reason : Optional[BaseException]
        The reason, if known: usually the error of the connection.
    answered : bool
        Whether the server had answered a request of the copy.
    """

    def __init__(self, reason: Optional[BaseException]) -> None:
        super().__init__(str(reason) if reason else "the server ended the SFTP session")
        self.reason = reason
        self.answered = True


class SftpChannel:
    """The channel that a session uses."""

    def send_some(self, data: memoryview) -> int:
        """Send as much as possible without blocking; return the number of bytes."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the channel; may be called more than once."""
        raise NotImplementedError

    def set_in_use(self, used: bool) -> None:
        """Record whether any copy uses the session."""


class SftpSession:
    """
    An SFTP session over one channel.

    Attributes
    ----------
    extensions : Dict[bytes, bytes]
        The extensions that the server announced.
    limits : ServerLimits
        The server's limits; zeros until they are known.
    facts : ServerFacts
        The facts that copies have learned about the server.
    copy_lock : Optional[RecoverableLock]
        Held by the only copy that uses the session, if the server confuses files that are open at
        the same time; None: any number of copies may use it.
    ids : Iterator[int]
        The request ids.
    sent : int
        The number of bytes sent, as a sign of progress.

    Notes
    -----
    Thread safety.  `feed`, `on_writable`, `on_eof` and `mark_ended` are called by the connection's
    reader thread; everything else may be called from any thread.  Each copy has its own inbox.

    Guarantees.  A reply reaches the copy that sent the request, regardless of other copies.  When
    the session ends, every copy is notified, after its replies.  The reader thread never blocks:
    it only dispatches replies, and neither decodes file data, waits nor sends.
    """

    def __init__(self, channel: SftpChannel) -> None:
        self._channel = channel
        self._packets = PacketReader(after_noise=True)  # reader thread only
        self._lock = Lock()
        self._pending: Dict[int, Reply] = {}  # guarded by _lock
        self._inboxes: Set[Inbox] = set()  # guarded by _lock
        self._outbox: Deque[memoryview] = deque()  # guarded by _lock
        self._sending = False  # guarded by _lock: a thread is sending; others leave it to it
        self._room_made = 0  # guarded by _lock: counts calls of `on_writable`
        self._arrived = 0  # reader thread only
        self._is_negotiated = False  # guarded by _lock: the version has arrived
        self._ending = False  # guarded by _lock: no more replies will arrive
        self._has_ended = False  # guarded by _lock
        self._reason: Optional[BaseException] = None  # guarded by _lock
        self._retired = False  # guarded by _lock
        self.ids = itertools.count(1)
        self.sent = 0  # written by the thread that sends
        self._queued = 0  # guarded by _lock: bytes queued so far, in total
        self.extensions: Dict[bytes, bytes] = {}
        self.limits = ServerLimits()
        self.facts = ServerFacts()
        self.copy_lock: Any = None  # a `RecoverableLock`, of a layer above
        self.handles = OpenHandles()

    # Called by the reader thread.

    def feed(self, chunk: bytes) -> None:
        """Receive data from the server."""
        try:
            packets = self._packets.feed(chunk)
            batches: Dict[Inbox, List[Reply]] = {}
            granted = 0
            with self._lock:
                for packet in packets:
                    if not self._is_negotiated:
                        self._take_hello_locked(packet)
                        continue
                    reply = self._pending.pop(packet.request_id, None)
                    if reply is None:
                        raise ProtocolError(f"reply to unknown request {packet.request_id}")
                    self._arrived += 1
                    reply.arrival = self._arrived
                    reply.kind, reply.pieces = packet.kind, packet.pieces
                    granted += packet.kind == protocol.HANDLE
                    batches.setdefault(reply.inbox, []).append(reply)
                unfinished = self._packets.unfinished
                started = None if unfinished is None else self._pending.get(unfinished)
        except ProtocolError as error:
            self.mark_ended(error)
            self._channel.close()
            return
        if granted:
            self.handles.on_granted(granted)
        for inbox, batch in batches.items():
            inbox.deliver(batch)
        if started is not None:
            started.inbox.activity += 1

    def _take_hello_locked(self, packet: Packet) -> None:
        version = packet.request_id
        if packet.kind != protocol.VERSION_REPLY:
            raise ProtocolError("expected an SFTP version as the first packet: no SFTP server?")
        if version < protocol.VERSION:
            raise ProtocolError(
                f"SFTP version must be {protocol.VERSION} or later, got version {version}"
            )
        self.extensions = decode.extensions(packet.body)
        self._is_negotiated = True
        for inbox in self._inboxes:
            inbox.deliver(None)

    def on_writable(self) -> None:
        """Handle a window adjustment: wake the copies to send more data."""
        with self._lock:
            self._room_made += 1
            woken = list(self._inboxes) if self._outbox and not self._sending else []
        for inbox in woken:
            inbox.deliver(None)

    def on_eof(self) -> None:
        """Handle end-of-file: only the reason of the end can follow."""
        with self._lock:
            self._ending = True
            inboxes = list(self._inboxes)
        for inbox in inboxes:
            inbox.deliver(None)

    def mark_ended(self, reason: Optional[BaseException]) -> None:
        """End the session for all copies; only the first reason is kept."""
        with self._lock:
            if self._has_ended:
                return
            self._has_ended, self._reason = True, reason
            self._pending.clear()
            self._outbox.clear()
            inboxes = list(self._inboxes)
        for inbox in inboxes:
            inbox.deliver(None)

    # Called by copies.

    @property
    def is_negotiated(self) -> bool:
        """Whether the server's version has arrived."""
        with self._lock:
            return self._is_negotiated

    @property
    def is_ending(self) -> bool:
        """Whether the session is about to end, and its reason has not arrived yet."""
        with self._lock:
            return self._ending

    def raise_if_ended(self) -> None:
        """Raise `SessionEnded` if the session has ended."""
        with self._lock:
            over, reason = self._has_ended, self._reason
        if over:
            raise SessionEnded(reason)

    @property
    def is_usable(self) -> bool:
        """Whether a new copy may use the session."""
        with self._lock:
            return not self._has_ended and not self._retired

    def attach(self, inbox: Inbox) -> None:
        """Register a copy that uses the session."""
        with self._lock:
            self._inboxes.add(inbox)
        self._channel.set_in_use(True)

    def detach(self, inbox: Inbox, clean: bool) -> None:
        """
        Unregister a copy.

        Unless the copy is `clean` (no reply outstanding, no file open), no new copy may use the
        session, and it ends with its last copy, so that the server closes the files that are still
        open.
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
        """End the session unless a copy uses it; return whether it was ended."""
        with self._lock:
            idle = not self._inboxes and not self._has_ended
            self._retired = self._retired or idle
        if idle:
            self.close()
        return idle

    def close(self, reason: Optional[BaseException] = None) -> None:
        """End the session, and close the channel."""
        self.mark_ended(reason)
        self._channel.close()

    def has_room_for_handle(self) -> bool:
        """Return whether copies may open one more file."""
        return self.handles.has_room(self.limits.handles)

    def send(self, batch: Buffer, replies: List[Reply]) -> int:
        """Queue a batch of requests; return the value of `sent` once it has left."""
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
        """Send queued data, as far as the window allows."""
        try:
            self._pump()
        except BaseException as error:
            # Part of a batch may have been sent, so the stream is unusable; and the interrupted
            # thread may have left `_sending` set.
            self.mark_ended(error)
            if is_interruption(error):
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
        """Remove sent data from the outbox; return the data to send next, or None."""
        with self._lock:
            self.sent += count
            if self._outbox:  # empty if the session has ended in the meantime
                if count < len(head):
                    self._outbox[0] = head[count:]
                else:
                    self._outbox.popleft()
            # The window is exhausted; `on_writable` will wake the copies.  `_sending` is reset
            # under the same lock, so that neither of the two relies on the other.
            if not self._outbox or (not count and room_made == self._room_made):
                self._sending = False
                return None, 0
            return self._outbox[0], self._room_made
