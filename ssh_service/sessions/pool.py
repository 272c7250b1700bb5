"""Acts on the decisions of `SessionScheduler` about the sessions of one destination."""

from __future__ import annotations

import functools
import itertools
import logging
import time
import weakref
from typing import Any, Callable, List, Optional, Tuple

from ssh_service import background
from ssh_service.commands.command import HelperCommand
from ssh_service.commands.process_group import Helper, OnHelperOutput
from ssh_service.commands.sudo import Sudo
from ssh_service.connections.cache import SshClientCache
from ssh_service.connections.entries import Generation, Lease, Target
from ssh_service.errors import (
    SshCacheClosed,
    SshConnectionLost,
    SshConnectTimeout,
    SshServiceError,
    SshSessionRefused,
)
from ssh_service.locks import Lock
from ssh_service.sessions.request import SessionRequest, SessionUser
from ssh_service.sessions.scheduler import LIMIT_TTL, Failed, SessionScheduler
from ssh_service.sessions.session import PooledConnection, Session
from ssh_service.transport import SshChannel, SshTransport
from ssh_service.transport.lock_free import LockFreeEvent

_log = logging.getLogger(__name__)

# The name under which a connection holds its spare sessions.
_SPARE = "spare"
# Seconds for which spare sessions are kept when no command needs them.
_SPARE_IDLE_TIMEOUT = 60.0
# Seconds for which a command waits for others to end, before an idle SFTP session is closed for
# it: if commands end all the time, the SFTP session is better kept for the next copy.
_RECLAIM_DELAY = 0.5
# Seconds that closing an idle session may take.
_RECLAIM_TIMEOUT = 1.0


class SessionPool:
    """
    The sessions of one destination.

    Notes
    -----
    Thread safety.  Every method may be called from any thread; none waits for the network.  Users'
    threads hand their calls over to a worker thread, which decides and acts: in a user's thread, a
    signal handler's exception between decision and action would lose the decision.

    Guarantees.  Commands start in the order in which they were submitted.  A server's MaxSessions
    is learnt from its first refusal and then respected; callers never see it as an error.  A
    command that was never sent is retried once if its connection turns out to be lost.

    A connection in use keeps a spare session open, or two where many commands run at once, so that
    a command costs one round trip.  The spare sessions are closed if sessions are scarce, or when
    no command has run for a while.
    """

    def __init__(self, cache: SshClientCache, target: Target) -> None:
        self._lender = cache.lender  # connections refer to the pool, and must not keep the cache
        self._strand = background.Strand()
        self._tickets = itertools.count()
        self._lock = Lock()
        self._target = target  # guarded by _lock: of the last caller; timeouts may differ
        self._scheduler = SessionScheduler(target.connection_id)  # guarded by _lock
        self._limits: Tuple[Optional[float], ...] = (None, None)  # guarded by _lock: as submitted
        self._generation = self._lender.slots.generation  # guarded by _lock: as submitted
        self._reclaim_scheduled = False  # guarded by _lock: a timer is set

    def submit(
        self,
        command: SessionUser,
        max_connections: int,
        idle_timeout: Optional[float] = None,
        max_lifetime: Optional[float] = None,
        target: Optional[Target] = None,
    ) -> None:
        """Queue a command or a request, which receives the outcome."""
        command.strand, command.max_connections = self._strand, max_connections
        command.being_ended = self._lender.being_ended
        command.run_helper = functools.partial(self._run_helper, kept=self._lender.cache())
        background.submit(
            self._strand,
            self._accept,
            command,
            (idle_timeout, max_lifetime),
            target,
            # The generation at the time of the call: if the cache is closed before the worker
            # thread accepts the command, the command fails, too.
            self._lender.slots.generation,
        )

    def _accept(
        self,
        command: SessionUser,
        limits: Tuple[Optional[float], ...],
        target: Optional[Target],
        generation: Generation,
    ) -> None:
        with self._lock:
            self._generation = generation
            self._target = target or self._target
            self._limits = limits
            connecting = self._scheduler.are_connecting()
        if target is not None and connecting:
            self._limit_connect_wait(command, target.connect_timeout)
        self._enqueue(command, next(self._tickets))

    def _limit_connect_wait(self, command: SessionUser, limit: float) -> None:
        """Limit a command's wait for another caller's dial to the command's connect timeout."""

        def check() -> None:
            with self._lock:
                late = self._scheduler.are_connecting_longer(limit)
                phase = self._scheduler.dial_phase()
            if late:
                where = command.connection_id
                text = f"{where}: not connected within {limit:g} s (phase: {phase})"
                command.settle_unsent(SshConnectTimeout(text, connection_id=where, phase=phase))

        command.set_timer(limit, check)

    def _run_helper(
        self, text: str, reply: OnHelperOutput, kept: Any = None, sudo: Optional[Sudo] = None
    ) -> None:
        """
        Run a helper script before all queued commands, on any connection with capacity.

        A command refers to this method until it is done, and so keeps the pool alive, as well as
        `kept`, the cache.
        """
        helper = HelperCommand(text, self._target.connection_id, reply, sudo)
        helper.run_helper = functools.partial(self._run_helper, kept=kept)
        self._enqueue(helper, -1 - next(self._tickets))

    def _enqueue(self, command: SessionUser, ticket: int) -> None:
        command.ticket = ticket
        command.waits_for = self._wait_phase
        with self._lock:
            self._scheduler.enqueue(command)
        self._dispatch()

    def _wait_phase(self) -> str:
        return self._scheduler.dial_phase() if self._scheduler.are_connecting() else "queue"

    def _dispatch(self) -> None:
        """Start commands, dial connections and fail commands until nothing more can be done."""
        while True:
            with self._lock:
                step = self._scheduler.next_step(time.monotonic())
            _settle_failed(step.failed)
            if step.connection is None:
                break
            if step.command is None:
                self._connect(step.connection)
            else:
                spare = step.spare
                if spare is not None and not _takes_spare(step.command):
                    self._discard(spare)
                    spare = None
                self._start(spare or Session(self, step.connection), step.command)
            # Read without the lock: each enqueue calls this, too.
            if not self._scheduler.has_waiting():
                return
        if step.starved is not None:
            self._retry_or_give_up(step.starved)
        elif step.starts is not None:
            self._schedule_reclaim(step.starts)

    # If the server admits no session.

    def _retry_or_give_up(self, transports: List[SshTransport]) -> None:
        """Retry later if other users (a copy, paramiko code) hold the sessions; otherwise fail."""
        freed = [transport.reclaim_idle_sessions(keep=_SPARE) for transport in transports]
        with self._lock:
            connections = list(self._scheduler.connections)
        freed += [self._drop_spares(connection) for connection in connections]
        held = any(freed) or any(transport.open_channel_count for transport in transports)
        admitted = any(transport.session_peak for transport in transports)
        now = time.monotonic()
        with self._lock:
            pause, failed = self._scheduler.retry_or_give_up(held, admitted, now)
        if pause is not None:
            background.call_at(now + pause, self._retry)
        _settle_failed(failed)

    def _retry(self) -> None:
        with self._lock:
            self._scheduler.retry(time.monotonic())
        self._dispatch()

    # If our commands hold all sessions that the server admits.

    def _schedule_reclaim(self, starts: int) -> None:
        """Reclaim idle SFTP sessions after a delay, if the queue still waits then."""
        with self._lock:
            transports = self._scheduler.transports()
            if self._reclaim_scheduled or not any(map(_has_other_reclaimers, transports)):
                return
            self._reclaim_scheduled = True
        pool = weakref.ref(self)

        def check() -> None:
            its_pool = pool()
            if its_pool is not None:
                its_pool._reclaim_idle_sessions(starts)

        background.call_at(time.monotonic() + _RECLAIM_DELAY, check)

    def _reclaim_idle_sessions(self, starts: int) -> None:
        """Close idle SFTP sessions if no command has started since `starts` was counted."""
        with self._lock:
            self._reclaim_scheduled = False
            transports = self._scheduler.waiting_since(starts)
        freed = [each for each in transports or () if each.reclaim_idle_sessions(keep=_SPARE)]
        with self._lock:
            self._scheduler.on_sessions_reclaimed(freed, time.monotonic())
        self._dispatch()

    # Connections.

    def _connect(self, connection: PooledConnection) -> None:
        with self._lock:
            limits = self._limits
            generation = self._generation
        try:
            lease = self._lender.request(
                self._target, connection.number, *limits, generation=generation
            )
        except SshCacheClosed:  # before it had a connection of this pool
            with self._lock:
                failed = self._scheduler.on_cache_closed(connection)
            _settle_failed(failed)
            return
        connection.slot = lease.slot
        strand, connected = self._strand, self._connected
        lease.connection.add_done_callback(
            lambda _: background.submit(strand, connected, connection, lease)
        )

    def _connected(self, connection: PooledConnection, lease: Lease) -> None:
        error = lease.connection.exception()
        if error is None:
            transport = lease.connection.result()[0]
            self._register_callbacks(transport, connection)
            with self._lock:
                connection.transport = transport
        else:
            with self._lock:
                failed = self._scheduler.on_dial_failed(connection, error, time.monotonic())
            _settle_failed(failed)
        self._dispatch()
        self._release(lease)  # each started session holds a lease of its own

    def _register_callbacks(self, transport: SshTransport, connection: PooledConnection) -> None:
        """Register callbacks with a connection; they keep neither the pool nor its state alive."""
        pool, its_connection = weakref.ref(self), weakref.ref(connection)

        def drop_spares() -> bool:
            its_pool, connection = pool(), its_connection()
            return (
                its_pool is not None
                and connection is not None
                and its_pool._yield_spares(connection)
            )

        def helpers() -> Optional[Helper]:
            its_pool = pool()
            return None if its_pool is None else its_pool._run_helper

        def ended(*_: object) -> None:
            its_pool = pool()
            if its_pool is not None:
                its_pool._dispatch()  # drop the connection, so that queued commands continue

        transport.reclaimers[_SPARE] = drop_spares
        transport.extras["helpers"] = helpers
        transport.add_done_callback(ended)

    # Sessions.

    def _start(self, session: Session, command: SessionUser) -> None:
        """Run a command on a session; open the session first if it has no channel."""
        connection = session.connection
        lease = None if connection.slot is None else self._lender.renew(connection.slot)
        # Probe the connection first: a command that is sent over a dead one cannot be retried.
        is_alive = connection.transport is not None and connection.transport.probe()
        with self._lock:
            usable = self._scheduler.assign(session, command, lease is not None, is_alive)
            session.lease = lease
            failed = self._scheduler.fail_all_if_closed(connection)
            channel, requested = session.channel, session.requested
            session.requested = True
        _settle_failed(failed)
        if not usable:
            self._release(lease)
        elif channel is not None:
            self._run(session, command, channel)
        elif not requested:
            self._request_session(session)
        else:  # it takes a spare session that is still being opened
            self._request_spares(connection, early=True)

    def _request_session(self, session: Session) -> None:
        transport = session.connection.transport
        if transport is None:
            raise RuntimeError("a session was asked for on a connection that is still dialled")
        try:
            command = session.command
            sizes = command.sizes if isinstance(command, SessionRequest) else (None, None)
            channel = transport.start_session(
                session, window_size=sizes[0], max_packet_size=sizes[1]
            )
        except SshConnectionLost as error:
            self.session_closed(session, error)
            return
        with self._lock:  # so that a command which is assigned at the same time is not missed
            channel.is_idle_spare = session.command is None

    def _run(self, session: Session, command: SessionUser, channel: SshChannel) -> None:
        channel.is_idle_spare = False
        connection = session.connection
        # Send the request for spare sessions in the same write: each write wakes the server, and
        # its reply wakes our reader thread.
        with channel.get_transport().batch():
            if not command.start(channel):
                channel.close()
            elif isinstance(command, SessionRequest):
                session.channel = None  # only the user should keep the channel alive
            self._request_spares(connection)

    def _request_spares(self, connection: PooledConnection, early: bool = False) -> None:
        with self._lock:
            missing = self._scheduler.missing_spares(connection, early)
            spares = [Session(self, connection) for _ in range(missing)]
            connection.spares += spares
            for spare in spares:
                spare.requested = True
        for spare in spares:
            self._request_session(spare)

    def session_opened(self, session: Session, channel: SshChannel) -> None:
        """Run the session's command, or keep the session as a spare."""
        with self._lock:
            self._scheduler.on_opened(session, channel)
            command, unwanted = session.command, session.ended
        if unwanted:
            channel.close()
        elif command is not None:
            self._run(session, command, channel)
        # Read without the lock: each enqueue dispatches, too.
        if self._scheduler.has_waiting():
            self._dispatch()

    def session_closed(self, session: Session, error: Optional[SshServiceError]) -> None:
        """Remove a session that has ended; queue its command again if that was never sent."""
        connection, now = session.connection, time.monotonic()
        with self._lock:
            session.ended = True  # from here on, no command is assigned to it
            command = session.command
        lost = isinstance(error, SshConnectionLost)
        unsent = command is not None and command.unsend(session.channel, lost)
        with self._lock:
            end = self._scheduler.on_ended(session, error, unsent, now)
        if isinstance(error, SshSessionRefused):
            self._lender.slots.count("refusals")
            _log.debug("%s: the server refused a further session", self._target.connection_id)
        if command is not None and not unsent:
            command.on_close(error)
        _settle_failed(end.failed)
        # Read without the lock: each enqueue dispatches, too.
        if self._scheduler.has_waiting() or connection.has_ended():
            self._dispatch()
        if command is not None:
            self._release(session.lease)
        if end.start_spare_timer:
            self._call_later(SessionPool._check_spares, connection, now + _SPARE_IDLE_TIMEOUT)
        if end.start_limit_timer:
            self._call_later(SessionPool._reset_limit, connection, now + LIMIT_TTL)

    # Timers.

    def _call_later(
        self,
        function: Callable[["SessionPool", PooledConnection], None],
        connection: PooledConnection,
        instant: float,
    ) -> None:
        # Weak references: the timer would keep an ended connection in memory for a minute.
        pool, watched = weakref.ref(self), weakref.ref(connection)

        def check() -> None:
            its_pool, its_connection = pool(), watched()
            if its_pool is not None and its_connection is not None:
                function(its_pool, its_connection)

        background.call_at(instant, check)

    def _reset_limit(self, connection: PooledConnection) -> None:
        """Forget the learnt session limit, unless it was learnt again meanwhile."""
        with self._lock:
            until = connection.limited_until
            due = until <= time.monotonic()
            if due:
                connection.reset_limit()
        if due:
            self._dispatch()
        else:  # learnt again meanwhile
            self._call_later(SessionPool._reset_limit, connection, until)

    def _check_spares(self, connection: PooledConnection) -> None:
        """Close the spare sessions if no command has run for a while."""
        with self._lock:
            due = connection.used_at + _SPARE_IDLE_TIMEOUT
            unused = not connection.sessions and due <= time.monotonic()
            connection.has_spare_timer = bool(connection.spares) and not unused
        if unused:
            self._drop_spares(connection)
        elif connection.has_spare_timer:
            self._call_later(
                SessionPool._check_spares, connection, max(due, time.monotonic() + 1.0)
            )

    def _yield_spares(self, connection: PooledConnection) -> bool:
        """Close the spare sessions for a user's thread that needs one; return whether it did."""
        if not connection.spares:  # read without the lock
            return False
        dropped: List[bool] = []
        done = LockFreeEvent()

        def drop() -> None:
            dropped.append(self._drop_spares(connection))
            done.set()

        background.submit(self._strand, drop)
        return done.wait(_RECLAIM_TIMEOUT) and dropped[0]

    def _drop_spares(self, connection: PooledConnection) -> bool:
        with self._lock:
            spares, connection.spares = connection.spares, []
        for spare in spares:
            self._discard(spare)
        return bool(spares)

    def _discard(self, spare: Session) -> None:
        with self._lock:
            spare.ended = True  # if it is still being opened, `session_opened` closes it
            channel = spare.channel
        if channel is not None:
            channel.close()

    def _release(self, lease: Optional[Lease]) -> None:
        with self._lock:
            limits = self._limits
        if lease is not None:
            self._lender.release(lease, *limits)


def _has_other_reclaimers(transport: SshTransport) -> bool:
    return any(name != _SPARE for name in transport.reclaimers)


def _takes_spare(command: SessionUser) -> bool:
    return not isinstance(command, SessionRequest) or command.takes_spare


def _settle_failed(failed: Failed) -> None:
    for command, error in failed:
        command.settle_unsent(error)
