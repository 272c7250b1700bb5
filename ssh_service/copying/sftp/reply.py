"""The reply to one request, and the inbox of the copy that asked."""

from __future__ import annotations

from queue import SimpleQueue
from typing import Any, Generator, List, Optional

from ssh_service.copying.sftp.protocol import Pieces

__all__ = ["Inbox", "Reply"]


class Inbox:
    """
    Where a session puts what comes for one copy.

    Attributes
    ----------
    activity : int
        Changes whenever a part of a reply comes in: the sign of life between two replies.

    Notes
    -----
    Thread safety.  `deliver` may be called from any thread; what is in there is for one.
    """

    def __init__(self) -> None:
        self._inbox: SimpleQueue[Optional[List[Reply]]] = SimpleQueue()
        self.activity = 0

    def deliver(self, replies: Optional[List[Reply]]) -> None:
        """Put replies in; None: look at the session, something changed there."""
        self._inbox.put(replies)


class Reply:
    """
    The reply to one request, which may still be on its way.

    A coroutine that the copy's pipeline runs may ``await`` it.

    Attributes
    ----------
    kind : int
        The kind of packet the server sent; 0 while there is none.
    pieces : Pieces
        What it holds, to be decoded, in the pieces in which it came.
    arrival : int
        Its place among all replies of the session, counted as they came; 0 while there is none.
    waiting_task : Any
        Whoever waits for it; set and used by the pipeline alone.
    """

    __slots__ = ("inbox", "request_id", "kind", "pieces", "waiting_task", "arrival")

    def __init__(self, inbox: Inbox, request_id: int) -> None:
        self.inbox = inbox
        self.request_id = request_id
        self.kind = 0
        self.arrival = 0
        self.pieces: Pieces = []
        self.waiting_task: Any = None

    @property
    def body(self) -> bytes:
        """All of it, in one piece."""
        return b"".join(self.pieces)

    def __await__(self) -> Generator[Reply, None, Reply]:
        if not self.kind:
            yield self
        return self
