"""Who may open a session where: a destination's queue, its limits, its further connections."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
import weakref
from typing import Callable, List, Optional, Tuple

from ssh_service import background
from ssh_service.cache import SshClientCache
from ssh_service.command import HEARD, Command
from ssh_service.errors import (
    SshCacheClosed,
    SshConnectionLost,
    SshConnectTimeout,
    SshServiceError,
    SshSessionRefused,
)
from ssh_service.params import ConnectParams
from ssh_service.slots import Slot
from ssh_service.transport import ChannelSink, SshChannel, SshTransport

_log = logging.getLogger(__name__)

# Seconds without another attempt at a further connection after one that failed.
_FURTHER_PAUSE = 5.0
# Seconds until the server is asked again while others hold all of its sessions, or have just
# closed one that it has not freed yet; doubled each time.
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.002, 0.1
# Seconds for which a limit is believed: it may have been learnt while others (a copy, paramiko
# code of the user's) held sessions, and to find out costs no more than one refusal.
_LIMIT_KEPT = 60.0
# Seconds for which a server is asked again that admitted sessions before, and now admits none
# though none is open; OpenSSH frees one a moment after its end.
_REFUSAL_PATIENCE = 10.0
# Seconds for which a spare session is kept when no command needs it.
_SPARE_IDLE = 60.0
# Connections that may end, one after the other, before a session could be opened on them.
_BARREN_LIMIT = 2
# Seconds for a command of our own, such as the one that ends another.
_HELPER_TIMEOUT = 10.0


class _Lane:
    """A connection of the pool; the pool's lock guards all fields."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.slot: Optional[Slot] = None
        self.transport: Optional[SshTransport] = None  # None: still dialling
        self.sessions = 0  # given to commands: opening or open
        self.opened = 0  # confirmed by the server, the spare one included
        self.spare: Optional[_Session] = None  # opening or open, for the next command
        self.used_at = 0.0  # when the last command ended
        self.watched = False  # a timer will look whether the spare session is needed
        self.limited_until = 0.0  # when the limit that was learnt is forgotten

    def has_ended(self) -> bool:
        return self.transport is not None and not self.transport.is_active()

    def is_closed(self) -> bool:
        """Tell whether the cache closed it, with all that it held."""
        return self.slot is not None and self.slot.closed

    def has_room(self, beside: int = 0) -> bool:
        transport = self.transport
        if transport is None or not transport.is_active():
            return False
        if self.spare is not None and not beside:
            return True
        limit = transport.session_limit
        return limit is None or self.sessions + beside < limit


class _Session(ChannelSink):
    """A session channel on a lane, with the command it runs, or none yet."""

    def __init__(self, pool: "SessionPool", lane: _Lane) -> None:
        self.lane = lane
        self._pool = pool
        # The pool's lock guards these.
        self.asked = False  # the server was asked to open it
        self.channel: Optional[SshChannel] = None  # open
        self.command: Optional[Command] = None  # None: it is the spare one
        self.ended = False

    def give(self, command: Command) -> None:
        """Let a command have it; the pool's lock is held."""
        self.command = command
        self.gives_back = command.gives_back
        # The command hears what comes without a detour.
        for name in HEARD:
            setattr(self, name, getattr(command, name))

    def opened(self, channel: SshChannel) -> None:
        self._pool.session_opened(self, channel)

    def closed(self, error: Optional[SshServiceError]) -> None:
        self._pool.session_closed(self, error)


class SessionPool:
    """
    The sessions of one destination.

    Parameters
    ----------
    cache : SshClientCache
        Where the connections live.
    target : ConnectParams
        The destination.

    Notes
    -----
    Thread safety.  Every method may be called from any thread; none waits for the network.

    Guarantees.  Commands start in the order in which they were submitted.  A server's MaxSessions
    is learnt from its first refusal and then kept to; callers never see it as an error.  What was
    never sent is tried once more when its connection turns out to be lost.

    A connection in use keeps one session open in advance, so that a command costs one round trip;
    it is given up where sessions are scarce, and when nothing was run for a while.
    """

    def __init__(self, cache: SshClientCache, target: ConnectParams) -> None:
        self._cache = cache
        self._target = target  # the last caller's: their time-outs may differ
        self._lock = threading.Lock()
        self._tickets = itertools.count()
        self._queue: List[Tuple[int, Command]] = []  # guarded by _lock; a heap
        self._lanes: List[_Lane] = []  # guarded by _lock
        self._max_connections = 1  # guarded by _lock
        self._idle_timeout: Optional[float] = None  # guarded by _lock
        self._max_lifetime: Optional[float] = None  # guarded by _lock
        self._no_further_before = 0.0  # guarded by _lock
        self._refusal: Optional[SshServiceError] = None  # guarded by _lock: the last one
        self._barren = 0  # guarded by _lock: connections that ended without any session, in a row
        self._will_retry = False  # guarded by _lock: a timer is set
        self._pause = _SHORTEST_PAUSE  # guarded by _lock: seconds to the next retry
        self._refused_since: Optional[float] = None  # guarded by _lock: with no session open

    def submit(
        self,
        command: Command,
        max_connections: int,
        idle_timeout: Optional[float] = None,
        max_lifetime: Optional[float] = None,
        target: Optional[ConnectParams] = None,
    ) -> None:
        """
        Run a command as soon as a session is free.

        Parameters
        ----------
        command : Command
            To be run; its future tells of its fate.
        max_connections : int
            How many connections to the destination there may be.
        idle_timeout, max_lifetime : Optional[float]
            Seconds, see `SshClientCache.release`.
        target : Optional[ConnectParams]
            The destination as this caller gave it; None: as before.
        """
        command.run_beside = self._run_beside
        with self._lock:
            self._target = target or self._target
            self._max_connections = max_connections
            self._idle_timeout, self._max_lifetime = idle_timeout, max_lifetime
        if target is not None and self._what_is_waited_for() == "connect":
            self._limit_waiting(command, target.connect_timeout)
        self._enqueue(command, next(self._tickets))

    def _limit_waiting(self, command: Command, limit: float) -> None:
        """Have a command wait for a dial of others no longer than its own might take."""

        def look() -> None:
            with self._lock:
                dials = [lane.slot for lane in self._lanes if lane.transport is None]
            longer = any(slot and slot.target.connect_timeout > limit for slot in dials)
            if longer and self._what_is_waited_for() == "connect":
                text = f"{command.connection_id}: still connecting when the time was up, after"
                command.fail(
                    SshConnectTimeout(
                        f"{text} {limit:g} s", connection_id=command.connection_id, phase="connect"
                    )
                )

        timer = background.call_at(time.monotonic() + limit, look)
        command.future.add_done_callback(lambda _: timer.cancel())

    def _run_beside(self, text: str) -> None:
        """Run a command of our own before all that waits, on whichever connection has room."""
        helper = Command(text, {}, None, self._target.connection_id, timeout=_HELPER_TIMEOUT)
        self._enqueue(helper, -1 - next(self._tickets))

    def _enqueue(self, command: Command, ticket: int) -> None:
        command.ticket = ticket
        command.waits_for = self._what_is_waited_for
        with self._lock:
            heapq.heappush(self._queue, (ticket, command))
        self._dispatch()

    def _what_is_waited_for(self) -> str:
        return "queue" if any(lane.transport for lane in self._lanes) else "connect"

    def _dispatch(self) -> None:
        """Start what can be started, dial where that helps, and fail what never can run."""
        while True:
            further: Optional[_Lane] = None
            with self._lock:
                start = self._next_locked()
                if start is None:
                    further = self._further_lane_locked()
                stuck = not start and not further and self._is_stuck_locked()
                lanes = list(self._lanes)
            if start is not None:
                self._start(*start)
            elif further is not None:
                self._connect(further)
            else:
                break
        if stuck:
            self._retry_or_fail([lane.transport for lane in lanes if lane.transport is not None])

    def _next_locked(self) -> Optional[Tuple[_Session, Command]]:
        while self._queue and self._queue[0][1].over:  # timed out or cancelled meanwhile
            heapq.heappop(self._queue)
        if not self._queue:
            self._barren = 0
        for lane in [lane for lane in self._lanes if lane.has_ended() and not lane.sessions]:
            self._remove_locked(lane)
        if not self._queue:
            return None
        most = self._most_lanes_locked()
        lanes = [lane for lane in self._lanes if lane.number < most and lane.has_room()]
        if not lanes:
            return None
        lane = min(lanes, key=lambda lane: (lane.spare is None, lane.sessions))
        session, lane.spare = lane.spare or _Session(self, lane), None
        lane.sessions += 1
        return session, heapq.heappop(self._queue)[1]

    def _remove_locked(self, lane: _Lane) -> None:
        self._lanes.remove(lane)
        if lane.transport is not None and lane.has_ended() and not lane.transport.session_peak:
            self._barren += 1

    def _further_lane_locked(self) -> Optional[_Lane]:
        if not self._queue or any(lane.transport is None for lane in self._lanes):
            return None
        if any(lane.is_closed() for lane in self._lanes):
            return None  # what waits is about to be told so
        if self._barren >= _BARREN_LIMIT and not self._lanes:
            self._barren = 0
            self._refusal = SshConnectionLost(
                f"{self._target.connection_id}: the server ended each connection before a session"
                " could be opened",
                connection_id=self._target.connection_id,
                reason="eof",
                sent=False,
            )
            return None  # and so nothing can run
        most = self._most_lanes_locked()
        usable = sum(lane.number < most for lane in self._lanes)
        if usable and (usable >= most or time.monotonic() < self._no_further_before):
            return None
        taken = {lane.number for lane in self._lanes}
        lane = _Lane(next(number for number in itertools.count() if number not in taken))
        self._lanes.append(lane)
        return lane

    def _most_lanes_locked(self) -> int:
        """How many connections there may be for what is next in the queue."""
        # A command of ours that ends another may need one more: where all sessions are taken by
        # what never ends, nothing else would ever free one.
        ours = bool(self._queue) and self._queue[0][0] < 0
        return self._max_connections + ours

    def _is_stuck_locked(self) -> bool:
        """Tell whether no session is admitted, and none of ours will end."""
        return bool(self._queue) and not any(
            # (An end that has come between two looks is told by the connection's callback.)
            lane.sessions or lane.transport is None or lane.has_ended()
            for lane in self._lanes
        )

    def _retry_or_fail(self, transports: List[SshTransport]) -> None:
        """Wait where others (a copy, paramiko code of the user's) hold the sessions."""
        freed = [transport.make_room() for transport in transports]
        held = any(freed) or any(transport.open_channels for transport in transports)
        admitted = any(transport.session_peak for transport in transports)
        now = time.monotonic()
        doomed: List[Tuple[int, Command]] = []
        with self._lock:
            if self._will_retry or not self._is_stuck_locked():
                return
            since = self._refused_since
            self._refused_since = None if held else now if since is None else since
            patient = admitted and (since is None or now - since < _REFUSAL_PATIENCE)
            self._will_retry = others = held or patient
            pause, self._pause = self._pause, min(2 * self._pause, _LONGEST_PAUSE)
            if not others:
                self._refused_since = None
                doomed, self._queue = sorted(self._queue), []
                for transport in transports:
                    transport.session_limit = None  # whoever comes next finds out anew
            error = self._refusal
        if others:
            background.call_at(time.monotonic() + pause, self._retry)
        for _, command in doomed:
            command.fail(error or SshCacheClosed("no session could be opened"))

    def _retry(self) -> None:
        with self._lock:
            self._will_retry = False
            for lane in self._lanes:
                if lane.transport is not None:
                    lane.transport.session_limit = None
        self._dispatch()

    def _connect(self, lane: _Lane) -> None:
        slot = self._cache.request(self._target, lane.number)
        lane.slot = slot
        slot.pair.add_done_callback(lambda _: self._connected(lane, slot))

    def _connected(self, lane: _Lane, slot: Slot) -> None:
        error = slot.pair.exception()
        doomed: List[Tuple[int, Command]] = []
        with self._lock:
            if error is None:
                lane.transport = slot.pair.result()[0]
                lane.transport.in_reserve["spare"] = lambda: self._drop_spare(lane)
            else:
                self._lanes.remove(lane)
                if self._lanes:  # a further connection that cannot be had does no harm
                    self._no_further_before = time.monotonic() + _FURTHER_PAUSE
                else:
                    doomed, self._queue = sorted(self._queue), []
        for _, command in doomed:
            command.fail(error or SshCacheClosed("no connection could be had"))
        if error is None:  # an ended connection is let go, and those who wait for it go on
            slot.pair.result()[0].add_done_callback(lambda *_: self._dispatch())
        self._dispatch()
        self._release(slot)  # each session that has begun holds a lease of its own

    def _start(self, session: _Session, command: Command) -> None:
        """Send a command over a session, or have the session opened for it first."""
        lane = session.lane
        kept = lane.slot is not None and self._cache.renew(lane.slot)
        # A command that is sent into an end that has come already could not be sent once more.
        fit = lane.transport is not None and lane.transport.is_fit()
        with self._lock:
            usable = kept and fit and not session.ended
            if usable:
                session.give(command)
            else:  # closed just now; or expired, and so on its way out
                lane.sessions -= 1
                heapq.heappush(self._queue, (command.ticket, command))
                if not kept and lane in self._lanes:
                    self._remove_locked(lane)
            doomed = self._doomed_locked(lane)
            channel, asked = session.channel, session.asked
            session.asked = True
        _tell_closed(doomed)
        if not usable:
            if kept:
                self._release(lane.slot)
        elif channel is not None:
            self._run(session, command, channel)
        elif not asked:
            self._ask(session)

    def _ask(self, session: _Session) -> None:
        transport = session.lane.transport
        if transport is None:
            raise RuntimeError("a session was asked for on a connection that is still dialled")
        try:
            channel = transport.start_session(session)
        except SshConnectionLost as error:
            self.session_closed(session, error)
            return
        with self._lock:  # or it would be overlooked that a command was given it meanwhile
            channel.in_reserve = session.command is None

    def _doomed_locked(self, lane: _Lane) -> List[Command]:
        """Take all that waits if the cache closed a connection: it would only be opened anew."""
        if not lane.is_closed():
            return []
        doomed, self._queue = sorted(self._queue), []
        return [command for _, command in doomed]

    def _run(self, session: _Session, command: Command, channel: SshChannel) -> None:
        channel.in_reserve = False
        lane = session.lane
        with channel.get_transport().together():
            if not command.start(channel):
                channel.close()
        # Not in one piece with it: the server is at work while the next session is prepared.
        with self._lock:
            wanted = lane.spare is None and lane in self._lanes and lane.has_room(beside=1)
            spare = _Session(self, lane)
            if wanted:
                lane.spare, spare.asked = spare, True
        if wanted:
            self._ask(spare)

    def session_opened(self, session: _Session, channel: SshChannel) -> None:
        """
        Use a session that the server confirmed.

        Parameters
        ----------
        session : _Session
            The session.
        channel : SshChannel
            Its channel.
        """
        lane = session.lane
        with self._lock:
            lane.opened += 1
            self._barren = 0
            self._pause, self._refused_since = _SHORTEST_PAUSE, None
            if lane.transport is not None:
                lane.transport.session_peak = max(lane.opened, lane.transport.session_peak)
            session.channel = channel
            command, unwanted = session.command, session.ended
        if unwanted:
            channel.close()
        elif command is not None:
            self._run(session, command, channel)

    def session_closed(self, session: _Session, error: Optional[SshServiceError]) -> None:
        """
        Take back a session, and its command where that was never sent.

        Parameters
        ----------
        session : _Session
            The session.
        error : Optional[SshServiceError]
            As for `ChannelSink.closed`.
        """
        refused = isinstance(error, SshSessionRefused)
        lane, again, forget, now = session.lane, False, False, time.monotonic()
        with self._lock:
            session.ended = True  # nobody gives it a command from here on
            command = session.command
        lost = isinstance(error, SshConnectionLost)
        unsent = command is not None and command.take_back(session.channel, lost)
        with self._lock:
            lane.opened -= session.channel is not None
            if lane.spare is session:
                lane.spare = None
            if refused and lane.transport is not None:
                # OpenSSH frees a session only after its CLOSE, so a refusal may come while one
                # less is open; what was open at once before is admitted for sure.  With none of
                # ours open, others hold them: then we are to wait, not to ask again at once.
                self._refusal = error
                lane.transport.session_limit = lane.transport.session_peak if lane.opened else 0
                forget = lane.limited_until <= now
                lane.limited_until = now + _LIMIT_KEPT
            doomed = self._doomed_locked(lane)
            if command is not None:
                lane.sessions -= 1
                lane.used_at = now
                again = unsent and not (lane.is_closed() or command.over)
                again = again and (refused or not command.retried)
                if again:
                    command.retried = command.retried or not refused
                    heapq.heappush(self._queue, (command.ticket, command))
            watch = lane.spare is not None and not lane.sessions and not lane.watched
            lane.watched = lane.watched or watch
        if refused:
            self._cache.count("refusals")
            _log.debug("%s: the server refused a further session", self._target.connection_id)
        if command is not None and not unsent:
            command.closed(error)
        elif command is not None and lane.is_closed():
            doomed.append(command)  # whatever came of its session: a refusal is no news any more
        elif command is not None and not again:
            command.fail(error or SshCacheClosed("the session was closed at once"))
        _tell_closed(doomed)
        self._dispatch()
        if command is not None:
            self._release(lane.slot)
        if watch:
            self._later(SessionPool._look_at, lane, now + _SPARE_IDLE)
        if forget:
            self._later(SessionPool._forget_limit, lane, now + _LIMIT_KEPT)

    def _later(
        self, function: Callable[["SessionPool", _Lane], None], lane: _Lane, instant: float
    ) -> None:
        # The timer keeps neither alive: a connection that has ended would stay for a minute.
        pool, watched = weakref.ref(self), weakref.ref(lane)

        def look() -> None:
            its_pool, its_lane = pool(), watched()
            if its_pool is not None and its_lane is not None:
                function(its_pool, its_lane)

        background.call_at(instant, look)

    def _forget_limit(self, lane: _Lane) -> None:
        """Let the server be asked for more than it last admitted."""
        with self._lock:
            until = lane.limited_until
            due = until <= time.monotonic()
            if due and lane.transport is not None:
                lane.transport.session_limit = None
        if due:
            self._dispatch()
        else:  # it was learnt once more meanwhile
            self._later(SessionPool._forget_limit, lane, until)

    def _look_at(self, lane: _Lane) -> None:
        """Give the spare session up when nothing was run for a while."""
        with self._lock:
            due = lane.used_at + _SPARE_IDLE
            unused = not lane.sessions and due <= time.monotonic()
            lane.watched = lane.spare is not None and not unused
        if unused:
            self._drop_spare(lane)
        elif lane.watched:
            self._later(SessionPool._look_at, lane, max(due, time.monotonic() + 1.0))

    def _drop_spare(self, lane: _Lane) -> bool:
        with self._lock:
            spare, lane.spare = lane.spare, None
            if spare is None:
                return False
            spare.ended = True  # if it is still being opened, `session_opened` closes it
            channel = spare.channel
        if channel is not None:
            channel.close()
        return True

    def _release(self, slot: Optional[Slot]) -> None:
        with self._lock:
            limits = self._idle_timeout, self._max_lifetime
        if slot is not None:
            self._cache.release(slot, *limits)


def _tell_closed(commands: List[Command]) -> None:
    for command in commands:
        command.fail(SshCacheClosed("the connection cache was closed"))
