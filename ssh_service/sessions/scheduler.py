"""Decides which queued command starts on which connection of a destination."""

from __future__ import annotations

import heapq
import itertools
from typing import List, NamedTuple, Optional, Tuple

from ssh_service.errors import (
    SshCacheClosed,
    SshConnectionLost,
    SshServiceError,
    SshSessionRefused,
)
from ssh_service.sessions.request import SessionUser
from ssh_service.sessions.session import PooledConnection, Session
from ssh_service.transport import SshChannel, SshTransport

# Seconds after the failure of an additional connection until another one is tried.
_CONNECTION_RETRY_INTERVAL = 5.0
# Seconds until the next request for a session while other users hold all of the server's sessions,
# or have just closed one that the server has not freed yet; doubled each time.
_MIN_RETRY_INTERVAL, _MAX_RETRY_INTERVAL = 0.002, 0.1
# Seconds for which requests are repeated if the server opened sessions before, but now refuses one
# although none is open: OpenSSH frees a session a moment after its end.
_REFUSAL_TIMEOUT = 10.0
# The most refusals in a row after which another session is requested at once, if fewer sessions
# are open than the server admitted before.
_MAX_IMMEDIATE_RETRIES = 3
# The most connections in a row that may end before a session was opened on them.
_MAX_FRUITLESS_CONNECTIONS = 2
# Seconds for which a learnt limit is used.  It may have been learnt while other users (a copy, the
# user's paramiko code) held sessions, and another try costs no more than one refusal.
LIMIT_TTL = 60.0

# Commands that cannot run, each with its error.
Failed = List[Tuple[SessionUser, BaseException]]


class Step(NamedTuple):
    """The next action: start a command, dial a connection, or neither."""

    failed: Failed
    command: Optional[SessionUser] = None
    connection: Optional[PooledConnection] = None  # of the command; without one: to be dialled
    spare: Optional[Session] = None  # for the command; None: open a new session
    # The connections, if commands wait and only a retry could let them run.
    starved: Optional[List[SshTransport]] = None
    # How many commands have been started, if the queue has to wait until one of them ends.
    starts: Optional[int] = None


class End(NamedTuple):
    """The actions after the end of a session."""

    failed: Failed
    start_spare_timer: bool  # to check later whether the spare sessions are still needed
    start_limit_timer: bool  # to forget the learnt limit later


class SessionScheduler:
    """
    The connections, sessions and queue of one destination; decides the next action.

    Notes
    -----
    Not thread-safe: the pool's lock guards the whole object.  Each method decides, and returns the
    actions, which the pool then performs without the lock.
    """

    def __init__(self, connection_id: str) -> None:
        self.connections: List[PooledConnection] = []
        self._connection_id = connection_id
        self._queue: List[Tuple[int, SessionUser]] = []  # a heap
        self._no_dial_before = 0.0
        self._refusal: Optional[SshServiceError] = None  # the last one
        self._fruitless_connections = 0  # in a row: connections that ended without any session
        self._will_retry = False  # a timer is set
        self._starts = 0  # how many commands have been assigned a session
        self._pause = _MIN_RETRY_INTERVAL  # seconds until the next retry
        self._refused_since: Optional[float] = None  # since then, refused with no session open

    def enqueue(self, command: SessionUser) -> None:
        """Queue a command by its ticket."""
        heapq.heappush(self._queue, (command.ticket, command))

    def has_waiting(self) -> bool:
        """Return whether the queue is not empty."""
        return bool(self._queue)

    def are_connecting(self) -> bool:
        """Return whether there is no connection yet."""
        return all(connection.transport is None for connection in self.connections)

    def dial_phase(self) -> str:
        """Return the phase of the first dial."""
        slots = [connection.slot for connection in self.connections]
        return next((slot.dial_phase for slot in slots if slot is not None), "connect")

    def are_connecting_longer(self, limit: float) -> bool:
        """Return whether there is no connection yet, and a dial may take more than `limit` s."""
        slots = [connection.slot for connection in self.connections if connection.slot is not None]
        return self.are_connecting() and any(s.target.connect_timeout > limit for s in slots)

    # The next action.

    def next_step(self, now: float) -> Step:
        """Decide the next action."""
        failed = self._drop_ended()
        while self._queue and self._queue[0][1].is_done:  # timed out or cancelled meanwhile
            heapq.heappop(self._queue)
        if not self._queue:
            if not any(connection.sessions for connection in self.connections):
                self._fruitless_connections = 0
            return Step(failed)
        most = self._connection_limit()
        connections = [
            connection
            for connection in self.connections
            if connection.number < most and connection.has_capacity()
        ]
        if connections:
            ready = [connection for connection in connections if not connection.awaits_replies()]
            if not ready:
                return Step(failed)  # `on_opened` and `on_ended` are followed by another step
            connection = min(
                ready, key=lambda connection: (not connection.spares, connection.sessions)
            )
            connection.sessions += 1
            self._starts += 1
            return Step(failed, heapq.heappop(self._queue)[1], connection, connection.take_spare())
        added = self._add_connection(most, now)
        if added is not None:
            return Step(failed, connection=added)
        if self._is_starved(now):
            return Step(failed, starved=self.transports())
        return Step(failed, starts=self._starts)

    def transports(self) -> List[SshTransport]:
        """Return the transports of all connections that are not being dialled."""
        return [
            connection.transport
            for connection in self.connections
            if connection.transport is not None
        ]

    def waiting_since(self, starts: int) -> Optional[List[SshTransport]]:
        """Return the transports if commands wait and none started since `starts`; else None."""
        waits = any(not command.is_done for _, command in self._queue)
        return self.transports() if waits and self._starts == starts else None

    def on_sessions_reclaimed(self, transports: List[SshTransport], now: float) -> None:
        """Allow one more session on connections whose idle sessions were just closed."""
        for connection in self.connections:
            if connection.transport in transports:
                connection.try_one_more()
                connection.retry_until = now + _REFUSAL_TIMEOUT

    def _drop_ended(self) -> Failed:
        failed: Failed = []
        for connection in [
            connection
            for connection in self.connections
            if connection.has_ended() and not connection.sessions
        ]:
            failed += self.fail_all_if_closed(connection)
            self._remove(connection)
        return failed

    def _remove(self, connection: PooledConnection) -> None:
        self.connections.remove(connection)
        if (
            connection.transport is not None
            and connection.has_ended()
            and not connection.transport.session_peak
        ):
            self._fruitless_connections += 1

    def _add_connection(self, most: int, now: float) -> Optional[PooledConnection]:
        """Return a new connection to dial if that would help, otherwise None."""
        if any(
            connection.transport is None or connection.is_closed()
            for connection in self.connections
        ):
            return (
                None  # one dial at a time; or the cache was closed, and the queue is about to fail
            )
        if self._fruitless_connections >= _MAX_FRUITLESS_CONNECTIONS and not any(
            connection.transport is not None and connection.transport.session_peak
            for connection in self.connections
        ):
            if not self.connections:
                self._fruitless_connections = 0
                self._refusal = self._refusal or SshConnectionLost(
                    f"{self._connection_id}: the server ended each connection before a session"
                    " could be opened",
                    connection_id=self._connection_id,
                    reason="eof",
                    sent=False,
                )
            return None  # so the queue starves, and fails with this error
        usable = sum(connection.number < most for connection in self.connections)
        if usable and (usable >= most or now < self._no_dial_before):
            return None
        if any(connection.frees_session(now) for connection in self.connections):
            return None  # to wait for that session costs less than a login
        taken = {connection.number for connection in self.connections}
        connection = PooledConnection(
            next(number for number in itertools.count() if number not in taken)
        )
        self.connections.append(connection)
        return connection

    def _connection_limit(self) -> int:
        """Return the most connections that the first command of the queue may use."""
        # A helper that ends another command may use an additional connection: if commands that
        # never end hold all sessions, no session would become free.
        if not self._queue:
            return 1
        ticket, command = self._queue[0]
        if ticket < 0:
            return 2 + max((connection.number for connection in self.connections), default=0)
        return command.max_connections

    def _is_starved(self, now: float) -> bool:
        """Return whether the queue waits for sessions that none of our commands holds."""
        if not self._queue or any(
            connection.transport is None or connection.has_ended()
            for connection in self.connections
        ):
            # (If a connection ends meanwhile, its callback dispatches again.)
            return False
        most = self._connection_limit()
        # Do not wait for commands on other connections, which may take hours.
        return not self.connections or any(
            connection.number < most
            and connection.expects_capacity(now)
            and not connection.has_capacity()
            for connection in self.connections
        )

    def on_dial_failed(
        self, connection: PooledConnection, error: BaseException, now: float
    ) -> Failed:
        """
        Remove a connection that could not be dialled; fail the queue if it was the only one.

        If there are other connections, only the commands with `fails_with_dial` fail.
        """
        self.connections.remove(connection)
        if not self.connections:
            return self._fail_queue(error)
        self._no_dial_before = (
            now + _CONNECTION_RETRY_INTERVAL
        )  # harmless, because there is another connection
        mine = [(ticket, command) for ticket, command in self._queue if command.fails_with_dial]
        self._queue = [entry for entry in self._queue if not entry[1].fails_with_dial]
        heapq.heapify(self._queue)
        return [(command, error) for _, command in sorted(mine)]

    def on_cache_closed(self, connection: PooledConnection) -> Failed:
        """Remove a connection that was not made because the cache was closed; fail the queue."""
        self.connections.remove(connection)
        return self._fail_queue(self._closed("the connection cache was closed"))

    # The life of a session.

    def assign(
        self, session: Session, command: SessionUser, in_cache: bool, is_alive: bool
    ) -> bool:
        """Assign a session to its command; requeue the command if the session is unusable."""
        connection = session.connection
        if in_cache and is_alive and not session.ended:
            session.assign(command)
            return True
        connection.sessions -= 1  # the connection was just closed or lost, or has expired
        self.enqueue(command)
        if not in_cache and connection in self.connections:
            self._remove(connection)
        return False

    def missing_spares(self, connection: PooledConnection, early: bool) -> int:
        """Return how many spare sessions should be opened on a connection."""
        return connection.missing_spares(early) if connection in self.connections else 0

    def on_opened(self, session: Session, channel: SshChannel) -> None:
        """Record that the server confirmed a session."""
        connection = session.connection
        connection.opened += 1
        self._fruitless_connections, self._refusal = 0, None
        connection.refusals, connection.retry_until = 0, 0.0
        self._pause, self._refused_since = _MIN_RETRY_INTERVAL, None
        connection.raise_limit()
        session.channel, session.is_open = channel, True

    def on_ended(
        self, session: Session, error: Optional[SshServiceError], unsent: bool, now: float
    ) -> End:
        """Record the end of a session."""
        connection = session.connection
        connection.opened -= session.is_open
        if session.is_open and session.command is not None:
            connection.ended_at = now
        if session in connection.spares:
            connection.spares.remove(session)
        refused = isinstance(error, SshSessionRefused)
        start_limit_timer = refused and self._learn_limit(connection, error, now)
        failed = self.fail_all_if_closed(connection)
        if session.command is not None:
            connection.sessions -= 1
            connection.used_at = now
            if unsent:
                failed += self._queue_again(session.command, connection, error)
        start_spare_timer = (
            bool(connection.spares) and not connection.sessions and not connection.has_spare_timer
        )
        connection.has_spare_timer = connection.has_spare_timer or start_spare_timer
        return End(failed, start_spare_timer, start_limit_timer)

    def _learn_limit(
        self, connection: PooledConnection, refusal: Optional[SshServiceError], now: float
    ) -> bool:
        """Learn the session limit from a refusal; return whether to set its timer."""
        self._refusal = refusal
        if connection.transport is None:
            return False
        # OpenSSH frees a session only after its CLOSE, so it may refuse a session although one
        # less is open; as many sessions as were open at once before are certainly admitted.  If
        # none of ours is open, other users hold them: wait instead of a request at once.  Wait
        # also after repeated refusals: otherwise requests would repeat as long as a copy takes.
        connection.refusals += 1
        at_once = connection.opened and connection.refusals <= _MAX_IMMEDIATE_RETRIES
        connection.transport.session_limit = (
            min(connection.sessions, connection.transport.session_peak)
            if at_once
            else connection.opened
        )
        if connection.refusals == _MAX_IMMEDIATE_RETRIES + 1:
            connection.peak = connection.opened  # others may hold the rest
            if connection.opened < connection.transport.session_peak:
                connection.retry_until = max(connection.retry_until, now + _REFUSAL_TIMEOUT)
        no_timer = connection.limited_until <= now
        connection.limited_until = now + LIMIT_TTL
        return no_timer

    def _queue_again(
        self, command: SessionUser, connection: PooledConnection, error: Optional[SshServiceError]
    ) -> Failed:
        """Queue an unsent command again; if it was already retried, return it with its error."""
        if connection.is_closed():  # this reason takes precedence over the session's error
            return [(command, self._closed("the connection cache was closed"))]
        refused = isinstance(error, SshSessionRefused)
        if command.is_done or (command.retried and not refused):
            return [(command, error or self._closed("the session was closed at once"))]
        command.retried = command.retried or not refused
        self.enqueue(command)
        return []

    # Commands that cannot run.

    def fail_all_if_closed(self, connection: PooledConnection) -> Failed:
        """Fail the queue if the cache closed the connection: a retry would only reopen it."""
        if not connection.is_closed():
            return []
        return self._fail_queue(self._closed("the connection cache was closed"))

    def _fail_queue(self, error: BaseException) -> Failed:
        waiting, self._queue = sorted(self._queue), []
        return [(command, error) for _, command in waiting]

    def retry_or_give_up(
        self, held: bool, admitted: bool, now: float
    ) -> Tuple[Optional[float], Failed]:
        """
        Decide whether commands for which the server admits no session wait or fail.

        Return the seconds until the next retry, or None; and the commands that fail.
        """
        if self._will_retry or not self._is_starved(now):
            return None, []
        since = self._refused_since
        self._refused_since = None if held else now if since is None else since
        patient = admitted and (since is None or now - since < _REFUSAL_TIMEOUT)
        pause, self._pause = self._pause, min(2 * self._pause, _MAX_RETRY_INTERVAL)
        if held or patient:
            self._will_retry = True
            return pause, []
        if any(connection.sessions for connection in self.connections):
            return None, []  # the end of one of these sessions starts the next command
        self._refused_since = None
        for connection in self.connections:
            connection.reset_limit()  # so that the next command requests a session again
        return None, self._fail_queue(self._refusal or self._closed("no session could be opened"))

    def retry(self, now: float) -> None:
        """Allow one more session on connections where one should be free by now."""
        self._will_retry = False
        for connection in self.connections:
            if connection.expects_capacity(now):
                connection.try_one_more()

    def _closed(self, what: str) -> SshCacheClosed:
        where = self._connection_id
        return SshCacheClosed(f"{where}: {what}", connection_id=where)
