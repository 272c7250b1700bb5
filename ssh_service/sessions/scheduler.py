"""A destination's connections, their sessions and who waits for one: what may start where."""

from __future__ import annotations

import heapq
import itertools
from typing import List, NamedTuple, Optional, Tuple

from ssh_service.commands.command import Command
from ssh_service.errors import (
    SshCacheClosed,
    SshConnectionLost,
    SshServiceError,
    SshSessionRefused,
)
from ssh_service.sessions.session import Lane, Session
from ssh_service.transport import SshChannel, SshTransport

# Seconds without another attempt at a further connection after one that failed.
_FURTHER_PAUSE = 5.0
# Seconds until the server is asked again while others hold all of its sessions, or have just
# closed one that it has not freed yet; doubled each time.
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.002, 0.1
# Seconds for which a server is asked again that admitted sessions before, and now admits none
# though none is open; OpenSSH frees one a moment after its end.
_REFUSAL_PATIENCE = 10.0
# Refusals in a row, with fewer sessions open than were admitted before, up to which the server is
# asked again at once.
_ASKED_AT_ONCE = 3
# Connections that may end, one after the other, before a session could be opened on them.
_BARREN_LIMIT = 2
# Seconds for which a limit is believed: it may have been learnt while others (a copy, paramiko
# code of the user's) held sessions, and to find out costs no more than one refusal.
LIMIT_KEPT = 60.0

# Commands that will not run, and why.
Failed = List[Tuple[Command, BaseException]]


class Step(NamedTuple):
    """What can be done next: start a command, or dial a lane, or neither."""

    failed: Failed
    command: Optional[Command] = None
    lane: Optional[Lane] = None  # the command's; or to be dialled
    spare: Optional[Session] = None  # for the command; None: a new one is to be opened
    # The connections there are, where something waits that nothing will bring on.
    stuck: Optional[List[SshTransport]] = None
    # How many commands have been started so far, where what waits has to wait for the end of one.
    full: Optional[int] = None


class End(NamedTuple):
    """What is to be done after the end of a session."""

    failed: Failed
    watch: bool  # whether the spare session is needed
    forget: bool  # the limit that was learnt


class Lanes:
    """
    What there is at one destination, and what may be done about it.

    Parameters
    ----------
    connection_id : str
        The destination's.

    Notes
    -----
    Thread safety.  None of its own: the pool's lock guards all of it.  Every method decides, and
    returns what is then to be done without the lock.
    """

    def __init__(self, connection_id: str) -> None:
        self.all: List[Lane] = []
        self.max_connections = 1
        self._connection_id = connection_id
        self._queue: List[Tuple[int, Command]] = []  # a heap
        self._no_further_before = 0.0
        self._refusal: Optional[SshServiceError] = None  # the last one
        self._barren = 0  # connections that ended without any session, in a row
        self._will_retry = False  # a timer is set
        self._starts = 0  # commands that were given a session
        self._pause = _SHORTEST_PAUSE  # seconds to the next retry
        self._refused_since: Optional[float] = None  # with no session open

    def queue(self, command: Command) -> None:
        """Let a command wait for its turn."""
        heapq.heappush(self._queue, (command.ticket, command))

    def has_waiting(self) -> bool:
        """Tell whether something waits for its turn."""
        return bool(self._queue)

    def are_connecting(self) -> bool:
        """Tell whether there is no connection yet."""
        return all(lane.transport is None for lane in self.all)

    def are_connecting_longer(self, limit: float) -> bool:
        """Tell whether there is no connection yet, and a dial may take more seconds than that."""
        slots = [lane.slot for lane in self.all if lane.slot is not None]
        return self.are_connecting() and any(s.target.connect_timeout > limit for s in slots)

    # What can be done next.

    def next_step(self, now: float) -> Step:
        """Say what can be started, or dialled, or cannot be helped."""
        failed = self._drop_ended()
        while self._queue and self._queue[0][1].over:  # timed out or cancelled meanwhile
            heapq.heappop(self._queue)
        if not self._queue:
            self._barren = 0
            return Step(failed)
        most = self._most_lanes()
        lanes = [lane for lane in self.all if lane.number < most and lane.has_room()]
        if lanes:
            lane = min(lanes, key=lambda lane: (lane.spare is None, lane.sessions))
            lane.sessions += 1
            self._starts += 1
            return Step(failed, heapq.heappop(self._queue)[1], lane, lane.take_spare())
        further = self._further(most, now)
        if further is not None:
            return Step(failed, lane=further)
        if self._is_stuck(now):
            return Step(failed, stuck=self.transports())
        return Step(failed, full=self._starts)

    def transports(self) -> List[SshTransport]:
        """List the connections there are."""
        return [lane.transport for lane in self.all if lane.transport is not None]

    def waiting_since(self, starts: int) -> Optional[List[SshTransport]]:
        """
        Say where all sessions are taken, for long enough that others should give up theirs.

        Parameters
        ----------
        starts : int
            From `Step.full`, a while ago.

        Returns
        -------
        Optional[List[SshTransport]]
            The connections there are; None if nothing waits any more, or something has started.
        """
        waits = any(not command.over for _, command in self._queue)
        return self.transports() if waits and self._starts == starts else None

    def made_room(self, transports: List[SshTransport], now: float) -> None:
        """Have the server asked again where others have just given up a session."""
        for lane in self.all:
            if lane.transport in transports:
                lane.forget_limit()
                lane.room_until = now + _REFUSAL_PATIENCE

    def _drop_ended(self) -> Failed:
        failed: Failed = []
        for lane in [lane for lane in self.all if lane.has_ended() and not lane.sessions]:
            failed += self.doomed(lane)
            self._remove(lane)
        return failed

    def _remove(self, lane: Lane) -> None:
        self.all.remove(lane)
        if lane.transport is not None and lane.has_ended() and not lane.transport.session_peak:
            self._barren += 1

    def _further(self, most: int, now: float) -> Optional[Lane]:
        """Add a connection that is to be dialled, where that helps."""
        if any(lane.transport is None or lane.is_closed() for lane in self.all):
            return None  # one at a time; or what waits is about to be told that all is closed
        if self._barren >= _BARREN_LIMIT and not self.all:
            self._barren = 0
            self._refusal = SshConnectionLost(
                f"{self._connection_id}: the server ended each connection before a session"
                " could be opened",
                connection_id=self._connection_id,
                reason="eof",
                sent=False,
            )
            return None  # and so nothing can run
        usable = sum(lane.number < most for lane in self.all)
        if usable and (usable >= most or now < self._no_further_before):
            return None
        taken = {lane.number for lane in self.all}
        lane = Lane(next(number for number in itertools.count() if number not in taken))
        self.all.append(lane)
        return lane

    def _most_lanes(self) -> int:
        """How many connections there may be for what is next in the queue."""
        # A command of ours that ends another may need one more: where all sessions are taken by
        # what never ends, nothing else would ever free one.
        ours = bool(self._queue) and self._queue[0][0] < 0
        return self.max_connections + ours

    def _is_stuck(self, now: float) -> bool:
        """Tell whether a connection admits no session, though there should be one soon."""
        if not self._queue or any(lane.transport is None or lane.has_ended() for lane in self.all):
            # (An end that has come between two looks is told by the connection's callback.)
            return False
        most = self._most_lanes()
        # What runs on other connections may take hours.
        return not self.all or any(
            lane.number < most and lane.expects_room(now) and not lane.has_room()
            for lane in self.all
        )

    def not_dialled(self, lane: Lane, error: BaseException, now: float) -> Failed:
        """Do without a connection that could not be made."""
        self.all.remove(lane)
        if not self.all:
            return self._give_up(error)
        self._no_further_before = now + _FURTHER_PAUSE  # there is one, so this does no harm
        return []

    def closed(self, lane: Lane) -> Failed:
        """Remove a connection that was not made, as the cache was closed, and all that waits."""
        self.all.remove(lane)
        return self._give_up(self._closed("the connection cache was closed"))

    # What becomes of a session.

    def begin(self, session: Session, command: Command, kept: bool, fit: bool) -> bool:
        """
        Give a session to the command it was chosen for, or let that wait for another.

        Parameters
        ----------
        session : Session
            The session.
        command : Command
            From `next_step`.
        kept : bool
            Whether the cache still has its connection.
        fit : bool
            Whether that has not ended.
        """
        lane = session.lane
        if kept and fit and not session.ended:
            session.give(command)
            return True
        lane.sessions -= 1  # closed just now; or expired, and so on its way out
        self.queue(command)
        if not kept and lane in self.all:
            self._remove(lane)
        return False

    def wants_spare(self, lane: Lane) -> bool:
        """Tell whether one more session is to be opened in advance."""
        return lane.spare is None and lane in self.all and lane.has_room(beside=1)

    def opened(self, session: Session, channel: SshChannel) -> None:
        """Take note that the server confirmed a session."""
        lane = session.lane
        lane.opened += 1
        self._barren = 0
        lane.refusals, lane.room_until = 0, 0.0
        self._pause, self._refused_since = _SHORTEST_PAUSE, None
        if lane.transport is not None:
            lane.transport.session_peak = max(lane.opened, lane.transport.session_peak)
        session.channel = channel

    def ended(
        self, session: Session, error: Optional[SshServiceError], unsent: bool, now: float
    ) -> End:
        """
        Take note of the end of a session.

        Parameters
        ----------
        session : Session
            The session; nobody gives it a command any more.
        error : Optional[SshServiceError]
            As for `ChannelSink.on_close`.
        unsent : bool
            Whether it had a command, which was never sent.
        now : float
            The monotonic instant.
        """
        lane = session.lane
        lane.opened -= session.channel is not None
        if lane.spare is session:
            lane.spare = None
        refused = isinstance(error, SshSessionRefused)
        forget = refused and self._learn_limit(lane, error, now)
        failed = self.doomed(lane)
        if session.command is not None:
            lane.sessions -= 1
            lane.used_at = now
            if unsent:
                failed += self._queue_again(session.command, lane, error)
        watch = lane.spare is not None and not lane.sessions and not lane.watched
        lane.watched = lane.watched or watch
        return End(failed, watch, forget)

    def _learn_limit(self, lane: Lane, refusal: Optional[SshServiceError], now: float) -> bool:
        """Note how many sessions are admitted; tell whether a timer must be set to forget it."""
        self._refusal = refusal
        if lane.transport is None:
            return False
        # OpenSSH frees a session only after its CLOSE, so a refusal may come while one less is
        # open; what was open at once before is admitted for sure.  With none of ours open, others
        # hold them: then we are to wait, not to ask again at once.
        # The same where it refuses again and again: else we would ask for as long as a copy takes.
        lane.refusals += 1
        at_once = lane.opened and lane.refusals <= _ASKED_AT_ONCE
        lane.transport.session_limit = lane.transport.session_peak if at_once else lane.opened
        if lane.refusals == _ASKED_AT_ONCE + 1 and lane.opened < lane.transport.session_peak:
            lane.room_until = max(lane.room_until, now + _REFUSAL_PATIENCE)
        no_timer = lane.limited_until <= now
        lane.limited_until = now + LIMIT_KEPT
        return no_timer

    def _queue_again(
        self, command: Command, lane: Lane, error: Optional[SshServiceError]
    ) -> Failed:
        """Let a command that was never sent wait once more; say whom it is too late for."""
        if lane.is_closed():  # whatever came of its session: a refusal is no news any more
            return [(command, self._closed("the connection cache was closed"))]
        refused = isinstance(error, SshSessionRefused)
        if command.over or (command.retried and not refused):
            return [(command, error or self._closed("the session was closed at once"))]
        command.retried = command.retried or not refused
        self.queue(command)
        return []

    # Who waits in vain.

    def doomed(self, lane: Lane) -> Failed:
        """Take all that waits if the cache closed a connection: it would only be opened anew."""
        if not lane.is_closed():
            return []
        return self._give_up(self._closed("the connection cache was closed"))

    def _give_up(self, error: BaseException) -> Failed:
        waiting, self._queue = sorted(self._queue), []
        return [(command, error) for _, command in waiting]

    def retry_or_give_up(
        self, held: bool, admitted: bool, now: float
    ) -> Tuple[Optional[float], Failed]:
        """
        Say what is to become of those for whom no session is admitted.

        Parameters
        ----------
        held : bool
            Whether others (a copy, paramiko code of the user's) hold sessions.
        admitted : bool
            Whether the server has ever admitted one.
        now : float
            The monotonic instant.

        Returns
        -------
        Tuple[Optional[float], List[Tuple[Command, BaseException]]]
            Seconds until the server is to be asked again, or None; and who is told that it will
            not be.
        """
        if self._will_retry or not self._is_stuck(now):
            return None, []
        since = self._refused_since
        self._refused_since = None if held else now if since is None else since
        patient = admitted and (since is None or now - since < _REFUSAL_PATIENCE)
        pause, self._pause = self._pause, min(2 * self._pause, _LONGEST_PAUSE)
        if held or patient:
            self._will_retry = True
            return pause, []
        if any(lane.sessions for lane in self.all):
            return None, []  # whose end is looked at
        self._refused_since = None
        for lane in self.all:
            lane.forget_limit()  # whoever comes next finds out anew
        return None, self._give_up(self._refusal or self._closed("no session could be opened"))

    def retry(self, now: float) -> None:
        """Let the server be asked again."""
        self._will_retry = False
        for lane in self.all:
            if lane.expects_room(now):
                lane.forget_limit()

    def _closed(self, what: str) -> SshCacheClosed:
        where = self._connection_id
        return SshCacheClosed(f"{where}: {what}", connection_id=where)
