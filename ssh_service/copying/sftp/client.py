"""
One copy's use of an SFTP session.

Requests leave in batches: what a copy asks for is collected and written as one piece, for a
channel is a stream and many small requests fit one packet.
"""

from __future__ import annotations

import time
from queue import Empty
from types import TracebackType
from typing import Any, Callable, List, Optional, Tuple, Type

from ssh_service.copying.sftp import decode, encode, protocol
from ssh_service.copying.sftp.protocol import Buffer
from ssh_service.copying.sftp.reply import Inbox, Reply
from ssh_service.copying.sftp.session import SessionEnded, SftpSession
from ssh_service.copying.sftp.time_limits import Stalled, TimeUp

__all__ = ["SftpClient", "negotiate"]

# What fits one packet of a channel of OpenSSH's: a batch is written before it exceeds this, or
# when its lane has nothing better to do.
_BATCH_SIZE = 32 * 1024 - 64
# Seconds for which a server whose program has ended may take to say how.
_EXIT_TIMEOUT = 1.0


class SftpClient(Inbox):
    """
    One copy's use of a session: its requests, its replies; a context manager.

    Parameters
    ----------
    session : SftpSession
        The session.
    deadline : Optional[float]
        The monotonic instant at which the whole copy must be over.

    Attributes
    ----------
    deadline : Optional[float]
        As given; None once only the tidying up is left.
    outstanding : int
        Requests without a reply so far.

    Notes
    -----
    Thread safety.  `deliver` may be called from any thread; all else belongs to the copy's own
    thread.
    """

    def __init__(self, session: SftpSession, deadline: Optional[float] = None) -> None:
        super().__init__()
        self.session = session
        self.deadline = deadline
        self._last_byte = 0  # where its own requests end, in all that the session has to send
        self._ids = session.ids
        self._batch: List[Buffer] = []
        self._batch_size = 0
        self._batch_replies: List[Reply] = []
        self.outstanding = 0
        self._external = 0  # of those: what is no request
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
        """
        Make a request; it leaves with the next batch.

        Parameters
        ----------
        request : Callable[..., Buffer]
            One of the functions of `encode`.
        args : Any
            What it takes after the request id.

        Returns
        -------
        Reply
            The reply to come.
        """
        reply = Reply(self, next(self._ids) & 0xFFFFFFFF)
        packet = request(reply.request_id, *args)
        if self._batch_size + len(packet) > _BATCH_SIZE:
            self.flush()
        self._batch.append(packet)
        self._batch_size += len(packet)
        self._batch_replies.append(reply)
        self.outstanding += 1
        if self._batch_size >= _BATCH_SIZE:
            self.flush()
        return reply

    def expect_external(self) -> Reply:
        """Give a reply that somebody else will deliver: the way for what is no SFTP request."""
        self.outstanding += 1
        self._external += 1
        return Reply(self, 0)

    def flush(self) -> None:
        """Write what was asked for so far."""
        if self._batch:
            batch = self._batch[0] if len(self._batch) == 1 else b"".join(self._batch)
            asked = self._batch_replies
            self._batch, self._batch_size, self._batch_replies = [], 0, []
            self._last_byte = self.session.send(batch, asked)

    def _flush_if_due(self) -> None:
        # While the server has more to do than waits here, its replies are on their way and bring
        # more to send: larger batches are less work for both sides, and cost no time.
        if len(self._batch_replies) >= self.outstanding - self._external - len(
            self._batch_replies
        ):
            self.flush()

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
        TimeUp
            The deadline has passed.
        SessionEnded
            The session is over, and all replies that came have been read.
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
            before = self._progress_marks()
            if self._inbox.empty():
                self.session.raise_if_ended()  # the inbox learns of the end only once
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
        # What other copies send on the same session is no sign of this one's life.
        return self.activity, min(self.session.sent, self._last_byte)

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
    Exchange hellos with the server, and ask for its limits: once, before anything else.

    Parameters
    ----------
    session : SftpSession
        A new session.
    timeout : Optional[float]
        Seconds without any answer after which to give up; None: no limit.
    deadline : Optional[float]
        The monotonic instant at which to give up, whatever moves.

    Raises
    ------
    Stalled
        No answer came in time.
    TimeUp
        The deadline has passed.
    SessionEnded
        There is no SFTP session to be had.
    """
    with SftpClient(session, deadline) as client:
        session.send(encode.init(), [])
        while not session.is_negotiated:
            ending = session.is_ending
            try:
                client.wait_for_change(_EXIT_TIMEOUT if ending else timeout)
            except Stalled:
                if not ending:
                    raise
                session.close()  # it does not say why it ended
        if protocol.LIMITS in session.extensions:
            reply = client.ask(encode.limits)
            while not reply.kind:
                client.collect(timeout)
            if reply.kind == protocol.EXTENDED_REPLY:
                session.limits = decode.limits(reply.body)
