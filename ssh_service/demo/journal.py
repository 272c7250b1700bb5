"""A journal of the calls of the clients' hooks."""

from __future__ import annotations

import itertools
import threading
import time
from typing import Any, List, NamedTuple, Optional

from ssh_service.connections.client import SshClient

__all__ = ["HookCall", "Journal", "RecordingClient"]


class HookCall(NamedTuple):
    """One call of a hook."""

    seconds: float  # since the journal was created
    client: int
    hook: str  # made or lost
    connection_id: str
    error: Optional[BaseException]
    thread: str


class RecordingClient(SshClient):
    """A client that records its hook calls; the cache makes one for each connection."""

    def __init__(self, journal: "Journal", number: int) -> None:
        super().__init__()
        self.number = number
        self.begun = time.monotonic()
        self.ready: Optional[float] = None
        self._journal = journal
        self.name = "a connection that was never made"

    def connection_made(self, conn: Any) -> None:
        """Record the call."""
        self.ready = time.monotonic()
        self.name = self.id_from_connection(conn)
        self._journal.note(self.number, "made", self.name, None)

    def connection_lost(self, exc: Optional[BaseException]) -> None:
        """Record the call."""
        self._journal.note(self.number, "lost", self.name, exc)


class Journal:
    """
    The calls of all clients' hooks, in order.

    Notes
    -----
    Thread safety.  Every method may be called from any thread.
    """

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._numbers = itertools.count(1)
        self._changed = threading.Condition(threading.Lock())
        self._events: List[HookCall] = []  # guarded by _changed
        self._clients: List[RecordingClient] = []  # guarded by _changed

    def client(self) -> RecordingClient:
        """Create a client; this is the cache's ``client_factory``."""
        made = RecordingClient(self, next(self._numbers))
        with self._changed:
            self._clients.append(made)
        return made

    def clients(self) -> List[RecordingClient]:
        """Return all clients that were made."""
        with self._changed:
            return list(self._clients)

    def note(
        self, client: int, hook: str, connection_id: str, error: Optional[BaseException]
    ) -> None:
        """Record a call of a hook."""
        seconds, thread = time.monotonic() - self._began, threading.current_thread().name
        event = HookCall(seconds, client, hook, connection_id, error, thread)
        with self._changed:
            self._events.append(event)
            self._changed.notify_all()

    def wait_for(self, count: int, timeout: float) -> List[HookCall]:
        """Wait for this many calls, and return all calls so far."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._events) >= count, timeout)
            return list(self._events)
