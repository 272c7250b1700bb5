"""Requests for a session whose channel a caller uses directly, without a command."""

from __future__ import annotations

import time
from typing import Any, Callable, Dict, List, Optional, Protocol, Set, Tuple

from ssh_service import background
from ssh_service.commands.process_group import Helper
from ssh_service.errors import SshServiceError, copy_for_raise
from ssh_service.transport import ChannelSink, SshChannel
from ssh_service.transport.channel import OnEnd
from ssh_service.transport.lock_free import LockFreeEvent

# The most seconds to wait while other users hold all sessions.
_MAX_QUEUE_TIME = 3600.0
# Seconds between checks whether the request was sent to the server.
_CHECK_INTERVAL = 1.0

# Hands a channel over to its user; returns False if the channel has been closed.
Lend = Callable[[SshChannel, Optional[OnEnd]], bool]


class SessionUser(Protocol):
    """An object that waits for a session: a `Command` or a `SessionRequest`."""

    ticket: int  # the place in the queue
    retried: bool  # whether this is the second attempt
    max_connections: int
    fails_with_dial: bool  # fails if an additional connection cannot be made, instead of waiting
    connection_id: str
    auto_window: bool
    strand: Optional[background.Strand]
    waits_for: Callable[[], str]
    run_helper: Helper
    being_ended: Set[Any]  # the cache's, of those that it waits for before it closes

    @property
    def is_done(self) -> bool:
        """Whether no session is needed any more."""

    def start(self, channel: SshChannel) -> bool:
        """Use an open session; return False if none is needed any more."""

    def unsend(self, channel: Optional[SshChannel], lost: bool = False) -> bool:
        """Detach from a session; return True if it was not used, so another one can be used."""

    def settle_unsent(self, error: BaseException) -> None:
        """Fail with an error, unless a session was used."""

    def set_timer(self, seconds: float, function: Callable[[], None]) -> None:
        """Call a function after some seconds, unless this object is done by then."""

    def on_close(self, error: Optional[SshServiceError]) -> None:
        """Handle the end of the session."""


class Hold(Protocol):
    """Called when a channel ends; if armed, also notified when the channel is collected."""

    is_armed: bool

    def __call__(self, error: Optional[SshServiceError]) -> None:
        """Handle the end of the channel."""


class SessionRequest(ChannelSink):
    """
    Waits for a session, and lends its channel to the caller.

    Parameters
    ----------
    connection_id : str
        ``user@host:port``.
    lend : Lend
        Hands the channel over to its user, before any channel request is sent.
    window_size, max_packet_size : Optional[int]
        The channel's sizes in bytes; None: the transport's defaults.

    Notes
    -----
    Thread safety.  Every method may be called from any thread.

    Guarantees.  The session is given back when its channel has ended or was collected, even if an
    exception interrupts the caller at any point.
    """

    auto_window = False
    fails_with_dial = True

    def __init__(
        self,
        connection_id: str,
        lend: Lend,
        window_size: Optional[int] = None,
        max_packet_size: Optional[int] = None,
    ) -> None:
        self.connection_id = connection_id
        self.sizes = (window_size, max_packet_size)
        self.ticket, self.retried, self.max_connections = 0, False, 1
        self.strand: Optional[background.Strand] = None
        self.waits_for: Callable[[], str] = lambda: "queue"
        self.run_helper: Any = None
        self.being_ended: Set[Any] = set()
        self._hold: Optional[Hold] = None  # of the assigned session
        self._assigned_at: Optional[float] = None  # None: still in the queue
        self._lend = lend
        self._done = LockFreeEvent()
        self._outcome: Dict[str, Tuple[Optional[SshChannel], Optional[BaseException]]] = {}
        self._timers: List[background.Timer] = []

    @property
    def takes_spare(self) -> bool:
        """Whether the spare session, which has the default sizes, can be used."""
        return self.sizes == (None, None)

    # Methods for the caller.

    def wait(self, timeout: float) -> Optional[SshChannel]:
        """
        Wait for the channel.

        Return None if the server does not open it within `timeout` seconds of the request.

        Raises
        ------
        SshServiceError
            No session could be opened.
        """
        try:
            self._wait(timeout)
            channel, error = self._settle(None, None)
            if error is not None:
                raise copy_for_raise(error) from error
        except BaseException:
            self._abandon()
            raise
        self._outcome["is"] = (None, None)  # only the user should keep the channel alive
        return channel

    def _wait(self, timeout: float) -> None:
        # `timeout` counts from the request to the server, which is sent only when other users do
        # not hold all sessions, and an additional connection has been dialled.
        give_up = time.monotonic() + max(timeout, _MAX_QUEUE_TIME)
        while not self._done.wait(min(timeout, _CHECK_INTERVAL)):
            now, since = time.monotonic(), self._assigned_at
            if now >= (give_up if since is None else since + timeout):
                return

    def _abandon(self) -> None:
        channel = self._settle(None, None)[0]
        if channel is not None:
            channel.close()

    def _settle(
        self, channel: Optional[SshChannel], error: Optional[BaseException]
    ) -> Tuple[Optional[SshChannel], Optional[BaseException]]:
        """Set the outcome, unless there is one; return the one that is set."""
        outcome = self._outcome.setdefault("is", (channel, error))  # atomic
        self._done.set()
        while self._timers:
            try:
                self._timers.pop().cancel()
            except IndexError:  # another thread was faster
                break
        return outcome

    # Methods for the pool.

    @property
    def is_done(self) -> bool:
        """Whether no session is needed any more."""
        return "is" in self._outcome

    def assign(self, hold: Hold) -> None:
        """Record that a session is being requested, and the hold to call at its end."""
        self._hold, self._assigned_at = hold, time.monotonic()

    def start(self, channel: SshChannel) -> bool:
        """Lend an open session to the caller; return False if it is not needed any more."""
        hold, self._hold = self._hold, None
        if hold is None or self.is_done:
            return False
        hold.is_armed = True
        if not self._lend(channel, hold):
            hold.is_armed = False
            return False
        if self._settle(channel, None)[0] is not channel:
            channel.close()
        return True

    def unsend(self, channel: Optional[SshChannel], lost: bool = False) -> bool:
        """Detach from a session; return whether another one is needed."""
        self._hold = self._assigned_at = None
        return not self.is_done

    def settle_unsent(self, error: BaseException) -> None:
        """Fail with an error."""
        self._settle(None, error)

    def set_timer(self, seconds: float, function: Callable[[], None]) -> None:
        """Call a function after some seconds, unless the request is done by then."""
        self._timers.append(background.call_at(time.monotonic() + seconds, function))

    def on_close(self, error: Optional[SshServiceError]) -> None:
        """Do nothing: the channel itself notifies its user."""
