"""The reply to one request, and the inbox that receives it."""

from __future__ import annotations

from queue import SimpleQueue
from typing import Any, Generator, List, Optional

from ssh_service.copying.sftp.protocol import Pieces

__all__ = ["Inbox", "Reply"]


class Inbox:
    """
    Receives the replies for one copy.

    Attributes
    ----------
    activity : int
        Changes whenever part of a reply arrives, which shows progress between two replies.

    Notes
    -----
    Thread safety.  `deliver` may be called from any thread; one thread reads.
    """

    def __init__(self) -> None:
        self._inbox: SimpleQueue[Optional[List[Reply]]] = SimpleQueue()
        self.activity = 0

    def deliver(self, replies: Optional[List[Reply]]) -> None:
        """Add replies; None makes the reader check the session's state."""
        self._inbox.put(replies)


class Reply:
    """
    The reply to one request, which may still be outstanding.

    Tasks of the copy's pipeline may ``await`` it.

    Attributes
    ----------
    kind : int
        The packet type; 0 while the reply is outstanding.
    pieces : Pieces
        The undecoded content, in pieces as it arrived.
    arrival : int
        The reply's position among all replies of the session; 0 while it is outstanding.
    waiting_task : Any
        The task that awaits the reply; used only by the pipeline.
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
        """The complete content, in one piece."""
        return b"".join(self.pieces)

    def __await__(self) -> Generator[Reply, None, Reply]:
        if not self.kind:
            yield self
        return self
