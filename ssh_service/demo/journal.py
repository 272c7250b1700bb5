"""What the demonstration's clients were told: a journal that their hooks write."""

from __future__ import annotations

import itertools
import threading
import time
from typing import Any, List, NamedTuple, Optional

from ssh_service.connections.client import SshClient

__all__ = ["Event", "Journal", "Watcher"]


class Event(NamedTuple):
    """One call of a hook."""

    seconds: float  # since the journal was begun
    client: int
    hook: str  # made or lost
    connection_id: str
    error: Optional[BaseException]
    thread: str


class Watcher(SshClient):
    """A client that records its hook calls; the cache makes one for each connection."""

    def __init__(self, journal: "Journal", number: int) -> None:
        super().__init__()
        self.number = number
        self.begun = time.monotonic()
        self.ready: Optional[float] = None
        self._journal = journal
        self.name = "a connection that was never made"

    def connection_made(self, conn: Any) -> None:
        """Write it down."""
        self.ready = time.monotonic()
        self.name = self.id_from_connection(conn)
        self._journal.note(self.number, "made", self.name, None)

    def connection_lost(self, exc: Optional[BaseException]) -> None:
        """Write it down."""
        self._journal.note(self.number, "lost", self.name, exc)


class Journal:
    """
    What happened to connections, in order.

    Notes
    -----
    Thread safety.  Every method may be called from any thread.
    """

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._numbers = itertools.count(1)
        self._changed = threading.Condition(threading.Lock())
        self._events: List[Event] = []  # guarded by _changed
        self._clients: List[Watcher] = []  # guarded by _changed

    def client(self) -> Watcher:
        """Make a client; the cache's ``client_factory``."""
        made = Watcher(self, next(self._numbers))
        with self._changed:
            self._clients.append(made)
        return made

    def clients(self) -> List[Watcher]:
        """Return all clients that were made."""
        with self._changed:
            return list(self._clients)

    def note(
        self, client: int, hook: str, connection_id: str, error: Optional[BaseException]
    ) -> None:
        """Write down a call of a hook."""
        seconds, thread = time.monotonic() - self._began, threading.current_thread().name
        event = Event(seconds, client, hook, connection_id, error, thread)
        with self._changed:
            self._events.append(event)
            self._changed.notify_all()

    def wait_for(self, count: int, timeout: float) -> List[Event]:
        """Wait until as many hooks were called, and return what they were told."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._events) >= count, timeout)
            return list(self._events)
