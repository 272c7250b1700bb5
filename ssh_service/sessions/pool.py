"""What is done about the sessions of one destination; what is to be done, `Lanes` decides."""

from __future__ import annotations

import functools
import itertools
import logging
import threading
import time
import weakref
from typing import Any, Callable, List, Optional, Tuple

from ssh_service import background
from ssh_service.commands.command import Command, HelperCommand
from ssh_service.commands.process_group import Helper, Reply
from ssh_service.connections.cache import SshClientCache
from ssh_service.connections.entries import Generation, Lease
from ssh_service.errors import (
    SshConnectionLost,
    SshConnectTimeout,
    SshServiceError,
    SshSessionRefused,
)
from ssh_service.params import ConnectParams
from ssh_service.sessions.scheduler import LIMIT_KEPT, Failed, Lanes
from ssh_service.sessions.session import Lane, Session
from ssh_service.transport import SshChannel, SshTransport
from ssh_service.transport.lock_free import LockFreeEvent

_log = logging.getLogger(__name__)

# Under which name a connection knows of its spare session.
_SPARE = "spare"
# Seconds for which a spare session is kept when no command needs it.
_SPARE_IDLE = 60.0
# Seconds for which a command waits for the end of others, before an idle SFTP session is closed
# for it: where commands end all the time, it is better kept for the next copy.
_FULL_PATIENCE = 0.5
# Seconds that giving it up may take.
_ROOM_PATIENCE = 1.0


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
    Thread safety.  Every method may be called from any thread; none waits for the network.  What
    users' threads call is handed over to a thread of ours, which decides and acts: an exception
    of a signal's handler between the two would lose what was decided.

    Guarantees.  Commands start in the order in which they were submitted.  A server's MaxSessions
    is learnt from its first refusal and then kept to; callers never see it as an error.  What was
    never sent is tried once more when its connection turns out to be lost.

    A connection in use keeps one session open in advance, so that a command costs one round trip;
    it is given up where sessions are scarce, and when nothing was run for a while.
    """

    def __init__(self, cache: SshClientCache, target: ConnectParams) -> None:
        self._lender = cache.lender  # connections have the pool, and must not keep the cache
        self._strand = background.Strand()
        self._tickets = itertools.count()
        self._lock = threading.Lock()
        self._target = target  # guarded by _lock: the last caller's, whose time-outs may differ
        self._lanes = Lanes(target.connection_id)  # guarded by _lock
        self._limits: Tuple[Optional[float], ...] = (None, None)  # guarded by _lock: as submitted
        self._generation = self._lender.slots.generation  # guarded by _lock: as submitted
        self._watching = False  # guarded by _lock: a timer looks whether what waits still does

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
        command.strand = self._strand
        command.run_beside = functools.partial(self._run_beside, kept=self._lender.cache())
        background.submit(
            self._strand,
            self._accept,
            command,
            max_connections,
            (idle_timeout, max_lifetime),
            target,
            # As of now: a cache that is closed before a thread of ours comes to it ends it, too.
            self._lender.slots.generation,
        )

    def _accept(
        self,
        command: Command,
        max_connections: int,
        limits: Tuple[Optional[float], ...],
        target: Optional[ConnectParams],
        generation: Generation,
    ) -> None:
        with self._lock:
            self._generation = generation
            self._target = target or self._target
            self._lanes.max_connections = max_connections
            self._limits = limits
            connecting = self._lanes.are_connecting()
        if target is not None and connecting:
            self._limit_waiting(command, target.connect_timeout)
        self._enqueue(command, next(self._tickets))

    def _limit_waiting(self, command: Command, limit: float) -> None:
        """Have a command wait for a dial of others no longer than its own might take."""

        def look() -> None:
            with self._lock:
                late = self._lanes.are_connecting_longer(limit)
            if late:
                where = command.connection_id
                text = f"{where}: still connecting when the time was up, after {limit:g} s"
                command.fail(SshConnectTimeout(text, connection_id=where, phase="connect"))

        command.set_timer(limit, look)

    def _run_beside(self, text: str, reply: Reply, kept: Any = None) -> None:
        """
        Run a script of our own before all that waits, on whichever connection has room.

        A command has this until it is over, and so keeps the pool, and what is `kept`: the cache.
        """
        helper = HelperCommand(text, self._target.connection_id, reply)
        helper.run_beside = functools.partial(self._run_beside, kept=kept)
        self._enqueue(helper, -1 - next(self._tickets))

    def _enqueue(self, command: Command, ticket: int) -> None:
        command.ticket = ticket
        command.waits_for = self._what_is_waited_for
        with self._lock:
            self._lanes.queue(command)
        self._dispatch()

    def _what_is_waited_for(self) -> str:
        return "connect" if self._lanes.are_connecting() else "queue"

    def _dispatch(self) -> None:
        """Start what can be started, dial where that helps, and fail what never can run."""
        while True:
            with self._lock:
                step = self._lanes.next_step(time.monotonic())
            _fail(step.failed)
            if step.lane is None:
                break
            if step.command is None:
                self._connect(step.lane)
            else:
                self._start(step.spare or Session(self, step.lane), step.command)
            if not self._lanes.has_waiting():  # a look: whoever lets another one wait comes here
                return
        if step.stuck is not None:
            self._retry_or_give_up(step.stuck)
        elif step.full is not None:
            self._watch(step.full)

    # Where none is admitted.

    def _retry_or_give_up(self, transports: List[SshTransport]) -> None:
        """Wait where others (a copy, paramiko code of the user's) hold the sessions."""
        freed = [transport.reclaim_idle_sessions(except_of=_SPARE) for transport in transports]
        with self._lock:
            lanes = list(self._lanes.all)
        freed += [self._drop_spare(lane) for lane in lanes]
        held = any(freed) or any(transport.open_channel_count for transport in transports)
        admitted = any(transport.session_peak for transport in transports)
        now = time.monotonic()
        with self._lock:
            pause, failed = self._lanes.retry_or_give_up(held, admitted, now)
        if pause is not None:
            background.call_at(now + pause, self._retry)
        _fail(failed)

    def _retry(self) -> None:
        with self._lock:
            self._lanes.retry(time.monotonic())
        self._dispatch()

    # Where all that are admitted are taken.

    def _watch(self, starts: int) -> None:
        """Look later whether what waits still does."""
        with self._lock:
            transports = self._lanes.transports()
            if self._watching or not any(_others_reserve(each) for each in transports):
                return
            self._watching = True
        pool = weakref.ref(self)

        def look() -> None:
            its_pool = pool()
            if its_pool is not None:
                its_pool._make_room(starts)

        background.call_at(time.monotonic() + _FULL_PATIENCE, look)

    def _make_room(self, starts: int) -> None:
        """Have idle SFTP sessions closed if nothing has started since."""
        with self._lock:
            self._watching = False
            transports = self._lanes.waiting_since(starts)
        freed = [each for each in transports or () if each.reclaim_idle_sessions(except_of=_SPARE)]
        with self._lock:
            self._lanes.made_room(freed, time.monotonic())
        self._dispatch()

    # Connections.

    def _connect(self, lane: Lane) -> None:
        with self._lock:
            limits = self._limits
            generation = self._generation
        lease = self._lender.request(self._target, lane.number, *limits)
        if generation.is_over:  # the cache was closed, and knew of no connection of ours
            with self._lock:
                failed = self._lanes.closed(lane)
            _fail(failed)
            lease.release()
            return
        lane.slot = lease.slot
        strand, connected = self._strand, self._connected
        lease.pair.add_done_callback(lambda _: background.submit(strand, connected, lane, lease))

    def _connected(self, lane: Lane, lease: Lease) -> None:
        error = lease.pair.exception()
        if error is None:
            transport = lease.pair.result()[0]
            self._keep_weakly(transport, lane)
            with self._lock:
                lane.transport = transport
        else:
            with self._lock:
                failed = self._lanes.not_dialled(lane, error, time.monotonic())
            _fail(failed)
        self._dispatch()
        self._release(lease)  # each session that has begun holds a lease of its own

    def _keep_weakly(self, transport: SshTransport, lane: Lane) -> None:
        """Have the pool told by a connection, which does not keep it."""
        pool, its_lane = weakref.ref(self), weakref.ref(lane)

        def drop_spare() -> bool:
            its_pool, lane = pool(), its_lane()
            return its_pool is not None and lane is not None and its_pool._give_up_spare(lane)

        def helpers() -> Optional[Helper]:
            its_pool = pool()
            return None if its_pool is None else its_pool._run_beside

        def ended(*_: object) -> None:
            its_pool = pool()
            if its_pool is not None:
                its_pool._dispatch()  # it is let go, and those who wait for it go on

        transport.reclaimers[_SPARE] = drop_spare
        transport.extras["helpers"] = helpers
        transport.add_done_callback(ended)

    # Sessions.

    def _start(self, session: Session, command: Command) -> None:
        """Send a command over a session, or have the session opened for it first."""
        lane = session.lane
        lease = None if lane.slot is None else self._lender.renew(lane.slot)
        # A command that is sent into an end that has come already could not be sent once more.
        fit = lane.transport is not None and lane.transport.probe()
        with self._lock:
            usable = self._lanes.begin(session, command, lease is not None, fit)
            session.lease = lease
            failed = self._lanes.doomed(lane)
            channel, asked = session.channel, session.asked
            session.asked = True
        _fail(failed)
        if not usable:
            self._release(lease)
        elif channel is not None:
            self._run(session, command, channel)
        elif not asked:
            self._ask(session)

    def _ask(self, session: Session) -> None:
        transport = session.lane.transport
        if transport is None:
            raise RuntimeError("a session was asked for on a connection that is still dialled")
        try:
            channel = transport.start_session(session)
        except SshConnectionLost as error:
            self.session_closed(session, error)
            return
        with self._lock:  # or it would be overlooked that a command was given it meanwhile
            channel.is_idle_spare = session.command is None

    def _run(self, session: Session, command: Command, channel: SshChannel) -> None:
        channel.is_idle_spare = False
        lane = session.lane
        # In one piece with the request for a spare session: each piece wakes the server, and its
        # answer the reader.
        with channel.get_transport().batch():
            if not command.start(channel):
                channel.close()
            spare = Session(self, lane)
            with self._lock:
                wanted = self._lanes.wants_spare(lane)
                if wanted:
                    lane.spare, spare.asked = spare, True
            if wanted:
                self._ask(spare)

    def session_opened(self, session: Session, channel: SshChannel) -> None:
        """
        Use a session that the server confirmed.

        Parameters
        ----------
        session : Session
            The session.
        channel : SshChannel
            Its channel.
        """
        with self._lock:
            self._lanes.opened(session, channel)
            command, unwanted = session.command, session.ended
        if unwanted:
            channel.close()
        elif command is not None:
            self._run(session, command, channel)

    def session_closed(self, session: Session, error: Optional[SshServiceError]) -> None:
        """
        Take back a session, and its command where that was never sent.

        Parameters
        ----------
        session : Session
            The session.
        error : Optional[SshServiceError]
            As for `ChannelSink.on_close`.
        """
        lane, now = session.lane, time.monotonic()
        with self._lock:
            session.ended = True  # nobody gives it a command from here on
            command = session.command
        lost = isinstance(error, SshConnectionLost)
        unsent = command is not None and command.take_back(session.channel, lost)
        with self._lock:
            end = self._lanes.ended(session, error, unsent, now)
        if isinstance(error, SshSessionRefused):
            self._lender.slots.count("refusals")
            _log.debug("%s: the server refused a further session", self._target.connection_id)
        if command is not None and not unsent:
            command.on_close(error)
        _fail(end.failed)
        self._dispatch()
        if command is not None:
            self._release(session.lease)
        if end.watch:
            self._later(SessionPool._look_at, lane, now + _SPARE_IDLE)
        if end.forget:
            self._later(SessionPool._forget_limit, lane, now + LIMIT_KEPT)

    # What is looked at later.

    def _later(
        self, function: Callable[["SessionPool", Lane], None], lane: Lane, instant: float
    ) -> None:
        # The timer keeps neither alive: a connection that has ended would stay for a minute.
        pool, watched = weakref.ref(self), weakref.ref(lane)

        def look() -> None:
            its_pool, its_lane = pool(), watched()
            if its_pool is not None and its_lane is not None:
                function(its_pool, its_lane)

        background.call_at(instant, look)

    def _forget_limit(self, lane: Lane) -> None:
        """Let the server be asked for more than it last admitted."""
        with self._lock:
            until = lane.limited_until
            due = until <= time.monotonic()
            if due:
                lane.forget_limit()
        if due:
            self._dispatch()
        else:  # it was learnt once more meanwhile
            self._later(SessionPool._forget_limit, lane, until)

    def _look_at(self, lane: Lane) -> None:
        """Give the spare session up when nothing was run for a while."""
        with self._lock:
            due = lane.used_at + _SPARE_IDLE
            unused = not lane.sessions and due <= time.monotonic()
            lane.watched = lane.spare is not None and not unused
        if unused:
            self._drop_spare(lane)
        elif lane.watched:
            self._later(SessionPool._look_at, lane, max(due, time.monotonic() + 1.0))

    def _give_up_spare(self, lane: Lane) -> bool:
        """Drop the spare session for a user's thread that needs one."""
        if lane.spare is None:  # a look
            return False
        dropped: List[bool] = []
        done = LockFreeEvent()

        def drop() -> None:
            dropped.append(self._drop_spare(lane))
            done.set()

        background.submit(self._strand, drop)
        return done.wait(_ROOM_PATIENCE) and dropped[0]

    def _drop_spare(self, lane: Lane) -> bool:
        with self._lock:
            spare = lane.take_spare()
            if spare is None:
                return False
            spare.ended = True  # if it is still being opened, `session_opened` closes it
            channel = spare.channel
        if channel is not None:
            channel.close()
        return True

    def _release(self, lease: Optional[Lease]) -> None:
        with self._lock:
            limits = self._limits
        if lease is not None:
            self._lender.give_back(lease, *limits)


def _others_reserve(transport: SshTransport) -> bool:
    return any(name != _SPARE for name in transport.reclaimers)


def _fail(failed: Failed) -> None:
    for command, error in failed:
        command.fail(error)
