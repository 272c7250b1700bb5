"""A session that a caller wants as a channel, instead of a command."""

from __future__ import annotations

import time
from typing import Any, Callable, Dict, List, Optional, Protocol, Tuple

from ssh_service import background
from ssh_service.commands.process_group import Helper
from ssh_service.errors import SshServiceError, copy_for_raise
from ssh_service.transport import ChannelSink, SshChannel
from ssh_service.transport.channel import OnEnd
from ssh_service.transport.lock_free import LockFreeEvent

# Seconds for which a session is waited for that others hold.
_MAX_QUEUE_TIME = 3600.0
# Seconds between checks whether the server was asked.
_CHECK_INTERVAL = 1.0

# Makes a channel its user's; returns False if it has been closed.
Lend = Callable[[SshChannel, Optional[OnEnd]], bool]


class SessionUser(Protocol):
    """Who waits for a session: a `Command`, or a `SessionRequest`."""

    ticket: int  # its place in the queue
    retried: bool  # whether it is on its second attempt
    max_connections: int
    fails_with_dial: bool  # where a further connection cannot be made, instead of waiting
    connection_id: str
    auto_window: bool
    strand: Optional[background.Strand]
    waits_for: Callable[[], str]
    run_helper: Helper

    @property
    def is_done(self) -> bool:
        """Whether it needs no session any more."""

    def start(self, channel: SshChannel) -> bool:
        """Use an open session; return False if it is not needed any more."""

    def unsend(self, channel: Optional[SshChannel], lost: bool = False) -> bool:
        """Return whether it can be given another session, as this one was not used."""

    def settle_unsent(self, error: BaseException) -> None:
        """Fail, unless it has used a session."""

    def set_timer(self, seconds: float, function: Callable[[], None]) -> None:
        """Call a function later, unless it is done by then."""

    def on_close(self, error: Optional[SshServiceError]) -> None:
        """Handle the end of its session."""


class Hold(Protocol):
    """Is called with the end of a channel; also where that is collected, if armed."""

    is_armed: bool

    def __call__(self, error: Optional[SshServiceError]) -> None:
        """Handle the end."""


class SessionRequest(ChannelSink):
    """
    Waits for a session, and gets its channel.

    Parameters
    ----------
    connection_id : str
        ``user@host:port``.
    lend : Lend
        Makes the channel its user's, before the first request.
    window_size, max_packet_size : Optional[int]
        Bytes; None: the transport's defaults.

    Notes
    -----
    Thread safety.  Every method may be called from any thread.

    Guarantees.  A session is given back when its channel has ended or was collected, whatever
    exception reaches the caller.
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
        # Of the session that it was given, and when: until then it waits for others.
        self._hold: Optional[Hold] = None
        self._assigned_at: Optional[float] = None
        self._lend = lend
        self._done = LockFreeEvent()
        self._outcome: Dict[str, Tuple[Optional[SshChannel], Optional[BaseException]]] = {}
        self._timers: List[background.Timer] = []

    @property
    def takes_spare(self) -> bool:
        """Whether a session will do that was opened before."""
        return self.sizes == (None, None)

    # The caller.

    def wait(self, timeout: float) -> Optional[SshChannel]:
        """
        Wait for the channel; return None if the server does not open it within the timeout.

        Raises
        ------
        SshServiceError
            No session could be had.
        """
        try:
            self._wait(timeout)
            channel, error = self._settle(None, None)
            if error is not None:
                raise copy_for_raise(error) from error
        except BaseException:
            self._abandon()
            raise
        self._outcome["is"] = (None, None)  # only its user keeps the channel
        return channel

    def _wait(self, timeout: float) -> None:
        # While others hold all sessions, or a further connection is dialled, the server was not
        # asked yet.
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
        """Set the outcome, unless there is one; return what it is."""
        outcome = self._outcome.setdefault("is", (channel, error))  # atomic
        self._done.set()
        while self._timers:
            self._timers.pop().cancel()
        return outcome

    # The pool.

    @property
    def is_done(self) -> bool:
        """Whether it needs no session any more."""
        return "is" in self._outcome

    def assign(self, hold: Hold) -> None:
        """Note that the server is asked for a session, and what its end is to call."""
        self._hold, self._assigned_at = hold, time.monotonic()

    def start(self, channel: SshChannel) -> bool:
        """Take an open session; return False if it is not needed any more."""
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
        """Return whether it can be given another session."""
        self._hold = self._assigned_at = None
        return not self.is_done

    def settle_unsent(self, error: BaseException) -> None:
        """Fail."""
        self._settle(None, error)

    def set_timer(self, seconds: float, function: Callable[[], None]) -> None:
        """Call a function later, unless it is done by then."""
        self._timers.append(background.call_at(time.monotonic() + seconds, function))

    def on_close(self, error: Optional[SshServiceError]) -> None:
        """Do nothing: the channel tells its user."""
