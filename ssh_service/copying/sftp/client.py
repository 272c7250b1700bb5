"""
One copy's use of an SFTP session.

Requests are collected and written in batches: a channel is a stream, and many small requests fit
into one of its packets.
"""

from __future__ import annotations

import time
from queue import Empty
from types import TracebackType
from typing import Any, Callable, List, Optional, Tuple, Type

from ssh_service.copying.sftp import decode, encode, protocol
from ssh_service.copying.sftp.reply import Inbox, Reply
from ssh_service.copying.sftp.session import SessionEnded, SftpSession
from ssh_service.copying.sftp.time_limits import Stalled, TimeUp
from ssh_service.transport.wire import Buffer

__all__ = ["SftpClient", "negotiate"]

# The maximum size of a channel's packet in OpenSSH.  A batch is written before it exceeds this
# size, or when its client has no other work.
_BATCH_SIZE = 32 * 1024 - 64
# Seconds for a server whose program has ended to report the exit status.
_EXIT_TIMEOUT = 1.0


class SftpClient(Inbox):
    """
    One copy's requests and replies on a session; a context manager.

    Attributes
    ----------
    deadline : Optional[float]
        The monotonic time at which the whole copy must be complete; None during the cleanup.
    outstanding : int
        The number of requests without a reply so far.

    Notes
    -----
    Thread safety.  `deliver` may be called from any thread; everything else belongs to the thread
    of the copy.
    """

    def __init__(self, session: SftpSession, deadline: Optional[float] = None) -> None:
        super().__init__()
        self.session = session
        self.deadline = deadline
        self._last_byte = 0  # the position of the end of its own requests in the session's stream
        self._ids = session.ids
        self._batch: List[Buffer] = []
        self._batch_size = 0
        self._batch_replies: List[Reply] = []
        self.outstanding = 0
        self._external = 0  # outstanding replies that do not belong to requests
        self._answered = False

    def __enter__(self) -> SftpClient:
        self.session.attach(self)
        return self

    def __exit__(
        self,
        exc_type: Optional[Type[BaseException]],
        exc: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        if isinstance(exc, SessionEnded):
            exc.answered = self._answered
        self.session.detach(self, clean=not self.outstanding)

    def ask(self, request: Callable[..., Buffer], *args: Any) -> Reply:
        """Make a request with a function of `encode`; it is sent with the next batch."""
        reply = self.new_reply()
        self.submit(reply, request(reply.request_id, *args))
        return reply

    def new_reply(self) -> Reply:
        """Return the reply to a request that is then passed to `submit`."""
        return Reply(self, next(self._ids) & 0xFFFFFFFF)

    def submit(self, reply: Reply, packet: Buffer) -> None:
        """Queue the request `packet`, which has the id of `reply`."""
        if self._batch_size + len(packet) > _BATCH_SIZE:
            self.flush()
        self._batch.append(packet)
        self._batch_size += len(packet)
        self._batch_replies.append(reply)
        self.outstanding += 1
        if self._batch_size >= _BATCH_SIZE:
            self.flush()

    def expect_external(self) -> Reply:
        """Return a reply for an event that is not an SFTP reply; another object delivers it."""
        self.outstanding += 1
        self._external += 1
        return Reply(self, 0)

    def flush(self) -> None:
        """Send the queued requests."""
        if self._batch:
            batch = self._batch[0] if len(self._batch) == 1 else b"".join(self._batch)
            asked = self._batch_replies
            self._batch, self._batch_size, self._batch_replies = [], 0, []
            self._last_byte = self.session.send(batch, asked)

    def _flush_if_due(self) -> None:
        # While the server has more requests to answer than are queued here, its replies will add
        # more: larger batches are less work for both sides, and cost no time.
        if len(self._batch_replies) >= self.outstanding - self._external - len(
            self._batch_replies
        ):
            self.flush()

    def collect(self, timeout: Optional[float]) -> List[Reply]:
        """
        Wait for at least one reply; return the replies in the order of their arrival.

        Raises
        ------
        Stalled
            There was no progress, in either direction, for `timeout` seconds.
        TimeUp
            The deadline has passed.
        SessionEnded
            The session has ended, and all replies that arrived were collected.
        """
        self._flush_if_due()
        while True:
            replies = self.wait_for_change(timeout)
            if replies is not None:
                self.outstanding -= len(replies)
                if self._external:
                    self._external -= sum(not reply.request_id for reply in replies)
                self._answered = True
                return replies

    def wait_for_change(self, timeout: Optional[float]) -> Optional[List[Reply]]:
        """Wait for replies, or a change of the session's state (None); raise like `collect`."""
        while True:
            before = self._progress_marks()
            if self._inbox.empty():
                self.session.raise_if_ended()  # the inbox is notified of the end only once
            wait = self._next_wait(timeout)
            try:
                replies = self._inbox.get(timeout=wait)
            except Empty:
                if wait == timeout and before == self._progress_marks():
                    raise Stalled() from None
                continue
            if replies is None:
                self.session.raise_if_ended()
                self.session.pump()
            return replies

    def _progress_marks(self) -> Tuple[int, int]:
        # Bytes that other copies send on the same session do not count as progress.
        return self.activity, min(self.session.sent, self._last_byte)

    def raise_if_late(self) -> None:
        """Raise `TimeUp` if the deadline has passed."""
        self._next_wait(None)

    def _next_wait(self, timeout: Optional[float]) -> Optional[float]:
        if self.deadline is None:
            return timeout
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeUp()
        return left if timeout is None else min(left, timeout)


def negotiate(
    session: SftpSession, timeout: Optional[float], deadline: Optional[float] = None
) -> None:
    """
    Exchange protocol versions with the server, and request its limits; once, before any copy.

    Raises
    ------
    Stalled
        There was no answer for `timeout` seconds.
    TimeUp
        The deadline has passed.
    SessionEnded
        The server does not support SFTP, or has ended the session.
    """
    with SftpClient(session, deadline) as client:
        session.send(encode.init(), [])
        _await_version(session, client, timeout)
        if protocol.LIMITS in session.extensions:
            _ask_limits(session, client, timeout)


def _await_version(session: SftpSession, client: SftpClient, timeout: Optional[float]) -> None:
    while not session.is_negotiated:
        ending = session.is_ending
        try:
            client.wait_for_change(_EXIT_TIMEOUT if ending else timeout)
        except Stalled:
            if not ending:
                raise
            session.close()  # the server does not report the reason of the end


def _ask_limits(session: SftpSession, client: SftpClient, timeout: Optional[float]) -> None:
    reply = client.ask(encode.limits)
    while not reply.kind:
        client.collect(timeout)
    if reply.kind == protocol.EXTENDED_REPLY:
        session.limits = decode.limits(reply.body)
