"""A connection of the pool, and a session on it."""

from __future__ import annotations

import weakref
from typing import Optional, Protocol

from ssh_service import known_servers
from ssh_service.commands.command import Command
from ssh_service.commands.forwarding import ForwardingSink
from ssh_service.connections.entries import Lease, Slot
from ssh_service.errors import SshServiceError
from ssh_service.transport import SshChannel, SshTransport


class PooledConnection:
    """A connection of the pool; the pool's lock guards all fields."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.slot: Optional[Slot] = None
        self.transport: Optional[SshTransport] = None  # None: still dialling
        self.sessions = 0  # given to commands: opening or open
        self.opened = 0  # confirmed by the server, the spare one included
        self.spare: Optional[Session] = None  # opening or open, for the next command
        self.used_at = 0.0  # when the last command ended
        self.has_spare_timer = False  # a timer will look whether the spare session is needed
        self.limited_until = 0.0  # when the limit that was learnt is forgotten
        self.refusals = 0  # in a row
        self.retry_until = 0.0  # a session that others gave up may be freed late: until then

    def has_ended(self) -> bool:
        """Tell whether it was made, and is there no more."""
        return self.transport is not None and not self.transport.is_active()

    def is_closed(self) -> bool:
        """Tell whether the cache closed it, with all that it held."""
        return self.slot is not None and self.slot.is_retired

    def has_capacity(self, extra: int = 0) -> bool:
        """Tell whether a command could begin here, with so many others of now `beside` it."""
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
        """Tell whether a session should be free soon, and not by the end of a command."""
        return not self.sessions or now < self.retry_until

    def reset_limit(self) -> None:
        """Let the server be asked for more than it last admitted."""
        if self.transport is not None:
            self.transport.session_limit = None

    def take_spare(self) -> Optional["Session"]:
        """Give the spare session away, or up."""
        spare, self.spare = self.spare, None
        return spare


class SessionOwner(Protocol):
    """Who acts on what becomes of sessions: the pool."""

    def session_opened(self, session: "Session", channel: SshChannel) -> None:
        """Use a session that the server confirmed."""

    def session_closed(self, session: "Session", error: Optional[SshServiceError]) -> None:
        """Take back a session, and its command where that was never sent."""


class Session(ForwardingSink):
    """A session channel on a lane, with the command it runs, or none yet."""

    def __init__(self, owner: SessionOwner, connection: PooledConnection) -> None:
        self.connection = connection
        # A command keeps the pool, and a session its command.  What waits for one keeps neither
        # the pool nor its cache: nobody else may want them any more.
        self._owner = weakref.ref(owner)
        # The pool's lock guards these.
        self.requested = False  # the server was asked to open it
        self.channel: Optional[SshChannel] = None  # open
        self.command: Optional[Command] = None  # None: it is the spare one
        self.ended = False
        self.lease: Optional[Lease] = None  # while it has a command

    def assign(self, command: Command) -> None:
        """Let a command have it; the pool's lock is held."""
        self.command = command
        self.forward_to(command)

    def on_open(self, channel: SshChannel) -> None:
        """Have it used."""
        owner = self._owner()
        if owner is None:
            channel.close()
        else:
            owner.session_opened(self, channel)

    def on_close(self, error: Optional[SshServiceError]) -> None:
        """Have it taken back."""
        owner = self._owner()
        if owner is not None:
            owner.session_closed(self, error)
