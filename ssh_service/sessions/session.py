"""A connection of the pool, and a session on it."""

from __future__ import annotations

import weakref
from typing import Optional, Protocol

from ssh_service import background, known_servers
from ssh_service.commands.forwarding import ForwardingSink
from ssh_service.connections.entries import Lease, Slot
from ssh_service.errors import SshServiceError
from ssh_service.sessions.request import SessionRequest, SessionUser
from ssh_service.transport import ChannelSink, SshChannel, SshTransport

# Seconds after the end of a session within which the server should have freed it.
_FREEING_TIME = 0.5
# Sessions that are requested before the first reply: OpenSSH's default MaxSessions.  Where more
# are open, as many more are requested at a time.
_MAX_FIRST_REQUESTS = 10


class PooledConnection:
    """A connection of the pool; the pool's lock guards all fields."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.slot: Optional[Slot] = None
        self.transport: Optional[SshTransport] = None  # None: still dialling
        self.sessions = 0  # given to commands: opening or open
        self.opened = 0  # confirmed by the server, the spare one included
        self.peak = 0  # the most that were open at once, since others held sessions for a while
        self.spare: Optional[Session] = None  # opening or open, for the next command
        self.used_at = 0.0  # when the last command ended
        self.ended_at = float("-inf")  # when the last open session ended
        self.has_spare_timer = False  # a timer will check whether the spare session is needed
        self.limited_until = 0.0  # when the limit that was learnt is forgotten
        self.refusals = 0  # in a row
        self.retry_until = 0.0  # a session that others gave up may be freed late: until then

    def has_ended(self) -> bool:
        """Return whether it was made and has ended."""
        return self.transport is not None and not self.transport.is_active()

    def is_closed(self) -> bool:
        """Return whether `SshClientCache.cleanup` closed it."""
        return self.slot is not None and self.slot.is_retired

    def has_capacity(self, extra: int = 0) -> bool:
        """Return whether a command could start here, in addition to `extra` new sessions."""
        transport = self.transport
        if transport is None or not transport.is_active():
            return False
        if self.spare is not None and not extra:
            return True
        limit = transport.session_limit
        if known_servers.runs_one_command(transport.remote_version):
            limit = 1
        return limit is None or self.sessions + extra < limit

    def expects_capacity(self, now: float) -> bool:
        """Return whether a session should be free soon, without the end of one of our commands."""
        return not self.sessions or now < self.retry_until or self.frees_session(now)

    def frees_session(self, now: float) -> bool:
        """Return whether the server, which opened more sessions before, is about to free one."""
        peak = 0 if self.transport is None else self.transport.session_peak
        return self.sessions < peak and now < self.ended_at + _FREEING_TIME

    def awaits_replies(self) -> bool:
        """Return whether the server should first answer the requests for sessions it has."""
        if self.spare is not None:
            return False
        return self.sessions - self.opened >= max(_MAX_FIRST_REQUESTS, self.opened)

    def reset_limit(self) -> None:
        """Forget the learnt session limit."""
        if self.transport is not None:
            self.transport.session_limit = None

    def try_one_more(self) -> None:
        """Allow one session more than there are; if the server opens it, `raise_limit` goes on."""
        if self.transport is not None:
            self.transport.session_limit = self.sessions + 1

    def raise_limit(self) -> None:
        """After a session was opened: expect more, up to what the server allowed before."""
        transport = self.transport
        if transport is None:
            return
        limit = transport.session_limit
        if limit is not None and self.opened >= limit:
            doubled, is_most = 2 * self.opened, self.opened > self.peak
            transport.session_limit = doubled if is_most else min(doubled, self.peak)
        self.peak = max(self.opened, self.peak)
        transport.session_peak = max(self.peak, transport.session_peak)

    def take_spare(self) -> Optional["Session"]:
        """Remove and return the spare session."""
        spare, self.spare = self.spare, None
        return spare


class SessionOwner(Protocol):
    """Handles what happens to sessions: the pool."""

    def session_opened(self, session: "Session", channel: SshChannel) -> None:
        """Use a session that the server confirmed."""

    def session_closed(self, session: "Session", error: Optional[SshServiceError]) -> None:
        """Take back a session, and its command where that was never sent."""


class Session(ForwardingSink):
    """A session channel on a connection; with its command, or as the spare."""

    def __init__(self, owner: SessionOwner, connection: PooledConnection) -> None:
        self.connection = connection
        # A command keeps the pool, and a session its command.  A waiting request keeps
        # neither the pool nor its cache alive: there may be no other reference.
        self._owner = weakref.ref(owner)
        # The pool's lock guards these.
        self.requested = False  # the server was asked to open it
        self.channel: Optional[SshChannel] = None  # open
        self.is_open = False
        self.command: Optional[SessionUser] = None  # None: it is the spare one
        self.ended = False
        self.lease: Optional[Lease] = None  # while it has a command

    def assign(self, command: SessionUser) -> None:
        """Give it to a command or a request; the pool's lock is held."""
        self.command = command
        if isinstance(command, SessionRequest):
            command.assign(ChannelHold(self, command.strand))
        elif isinstance(command, ChannelSink):
            self.forward_to(command)

    def on_open(self, channel: SshChannel) -> None:
        """Hand it to the pool."""
        owner = self._owner()
        if owner is None:
            channel.close()
        else:
            owner.session_opened(self, channel)

    def on_close(self, error: Optional[SshServiceError]) -> None:
        """Hand its end to the pool."""
        owner = self._owner()
        if owner is not None:
            owner.session_closed(self, error)


class ChannelHold:
    """
    Notifies the pool when a channel that was lent to a user has ended or was collected.

    Attributes
    ----------
    is_armed : bool
        Whether the user has the channel; else the pool knows of its end by itself.
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
