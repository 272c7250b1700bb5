"""A connection of the pool, and a session on it."""

from __future__ import annotations

import weakref
from typing import List, Optional, Protocol

from ssh_service import background, known_servers
from ssh_service.commands.forwarding import ForwardingSink
from ssh_service.connections.entries import Lease, Slot
from ssh_service.errors import SshServiceError
from ssh_service.sessions.request import SessionRequest, SessionUser
from ssh_service.transport import ChannelSink, SshChannel, SshTransport

# Seconds after the end of a session within which the server should have freed it.
_FREEING_TIME = 0.5
# The most sessions to request before the first reply: OpenSSH's default MaxSessions.  If more
# sessions than this are open, as many as are open are requested at a time.
_MAX_FIRST_REQUESTS = 10
# The spare sessions of a connection on which this many sessions have been open at once.
_MAX_SPARES, _MANY_SESSIONS = 2, 6


class PooledConnection:
    """A connection of the pool; the pool's lock guards all fields."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.slot: Optional[Slot] = None
        self.transport: Optional[SshTransport] = None  # None: still dialling
        self.sessions = 0  # assigned to commands: opening or open
        self.opened = 0  # confirmed by the server, including the spare sessions
        self.peak = 0  # the most open at once; reset when others hold sessions for a while
        self.spares: List[Session] = []  # opening or open, for the next commands
        self.used_at = 0.0  # when the last command ended
        self.ended_at = float("-inf")  # when the last open session ended
        self.has_spare_timer = False  # a timer will check whether the spare sessions are needed
        self.limited_until = 0.0  # when the learnt limit is forgotten
        self.refusals = 0  # in a row
        self.retry_until = 0.0  # until then, the server may free a session that others closed

    def has_ended(self) -> bool:
        """Return whether the connection was made and has ended."""
        return self.transport is not None and not self.transport.is_active()

    def is_closed(self) -> bool:
        """Return whether `SshClientCache.cleanup` closed the connection."""
        return self.slot is not None and self.slot.is_retired

    def has_capacity(self, extra: int = 0) -> bool:
        """Return whether a command could start here, with `extra` more sessions than now."""
        transport = self.transport
        if transport is None or not transport.is_active():
            return False
        if self.spares and not extra:
            return True
        limit = transport.session_limit
        if known_servers.runs_one_command(transport.remote_version):
            limit = 1 if limit is None else min(limit, 1)
        return limit is None or self.sessions + extra < limit

    def expects_capacity(self, now: float) -> bool:
        """Return whether a session should become free soon even if none of our commands ends."""
        return not self.sessions or now < self.retry_until or self.frees_session(now)

    def frees_session(self, now: float) -> bool:
        """Return whether the server, which opened more sessions before, should soon free one."""
        peak = 0 if self.transport is None else self.transport.session_peak
        return self.sessions < peak and now < self.ended_at + _FREEING_TIME

    def awaits_replies(self) -> bool:
        """Return whether to wait for replies to earlier requests before another request."""
        if self.spares:
            return False
        return self.sessions - self.opened >= max(_MAX_FIRST_REQUESTS, self.opened)

    def reset_limit(self) -> None:
        """Forget the learnt session limit."""
        if self.transport is not None:
            self.transport.session_limit = None

    def try_one_more(self) -> None:
        """Allow one more session than there are; if the server opens it, `raise_limit` follows."""
        if self.transport is not None:
            self.transport.session_limit = self.sessions + 1

    def raise_limit(self) -> None:
        """Raise the limit after a session was opened, up to the number that was open before."""
        transport = self.transport
        if transport is None:
            return
        limit = transport.session_limit
        if limit is not None and self.opened >= limit:
            doubled, is_most = 2 * self.opened, self.opened > self.peak
            transport.session_limit = doubled if is_most else min(doubled, self.peak)
        self.peak = max(self.opened, self.peak)
        transport.session_peak = max(self.peak, transport.session_peak)

    def missing_spares(self, early: bool = False) -> int:
        """
        Return how many spare sessions should be opened.

        With `early`, a command takes one that is still being opened: it is replaced at once only
        where many commands run, and where the server should have room for it.
        """
        room = max(_MAX_FIRST_REQUESTS, self.peak) - self.sessions
        runs_many = self.peak >= _MANY_SESSIONS
        most = 1
        # Where many commands run at once, two often begin within the same round trip.
        if runs_many and room >= _MAX_SPARES:
            most = _MAX_SPARES
        if early and not (runs_many and room > 0):
            most = 0
        return sum(map(self.has_capacity, range(len(self.spares) + 1, most + 1)))

    def take_spare(self) -> Optional["Session"]:
        """Remove and return the spare session that was requested first, if there is one."""
        return self.spares.pop(0) if self.spares else None


class SessionOwner(Protocol):
    """The part of the pool that sessions call."""

    def session_opened(self, session: "Session", channel: SshChannel) -> None:
        """Handle the confirmation of a session by the server."""

    def session_closed(self, session: "Session", error: Optional[SshServiceError]) -> None:
        """Handle the end of a session; queue its command again if that was never sent."""


class Session(ForwardingSink):
    """A session channel on a connection: with a command, or as a spare session."""

    def __init__(self, owner: SessionOwner, connection: PooledConnection) -> None:
        self.connection = connection
        # A weak reference: a waiting request must keep neither the pool nor its cache alive.  (A
        # session keeps its command alive, and a command the pool.)
        self._owner = weakref.ref(owner)
        # The pool's lock guards these fields.
        self.requested = False  # the request to open it was sent
        self.channel: Optional[SshChannel] = None  # None: not open
        self.is_open = False
        self.command: Optional[SessionUser] = None  # None: this is a spare session
        self.ended = False
        self.lease: Optional[Lease] = None  # held while the session has a command

    def assign(self, command: SessionUser) -> None:
        """Assign the session to a command or a request; the pool's lock is held."""
        self.command = command
        if isinstance(command, SessionRequest):
            command.assign(ChannelHold(self, command.strand))
        elif isinstance(command, ChannelSink):
            self.forward_to(command)

    def on_open(self, channel: SshChannel) -> None:
        """Notify the pool that the session is open."""
        owner = self._owner()
        if owner is None:
            channel.close()
        else:
            owner.session_opened(self, channel)

    def on_close(self, error: Optional[SshServiceError]) -> None:
        """Notify the pool of the end of the session."""
        owner = self._owner()
        if owner is not None:
            owner.session_closed(self, error)


class ChannelHold:
    """
    Notifies the pool when a channel that was lent to a user has ended or was collected.

    Attributes
    ----------
    is_armed : bool
        Whether the user has the channel.  If not, the session itself notifies the pool.
    """

    def __init__(self, session: Session, strand: Optional[background.Strand]) -> None:
        self._strand = strand or background.Strand()
        self._session: Optional[Session] = session
        self.is_armed = False

    def __call__(self, error: Optional[SshServiceError]) -> None:
        """Handle the end of the channel, on the reader thread."""
        session, self._session = self._session, None
        if session is not None:
            session.on_close(error)

    def __del__(self) -> None:
        if self.is_armed and self._session is not None:
            background.submit_from_destructor(self._strand, self._session.on_close, None)
