"""
Who may open a session where: a destination's queue, its server's limits, its further connections.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from typing import List, Optional, Tuple

from ssh_service import background
from ssh_service.cache import Slot, SshClientCache
from ssh_service.command import Command
from ssh_service.errors import (
    SshCacheClosed,
    SshConnectionLost,
    SshServiceError,
    SshSessionRefused,
)
from ssh_service.params import ConnectParams
from ssh_service.transport import ChannelSink, SshChannel, SshTransport

_log = logging.getLogger(__name__)

# Seconds without another attempt at a further connection after one that failed.
_FURTHER_PAUSE = 5.0
# Seconds until the server is asked again while others hold all of its sessions.
_RETRY_PAUSE = 0.1


class _Lane:
    """A connection that works for the pool just now; the pool's lock guards all fields."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.slot: Optional[Slot] = None  # leased from the cache while the lane exists
        self.transport: Optional[SshTransport] = None  # None: still dialling
        self.sessions = 0  # given out: opening or open
        self.opened = 0  # of these, confirmed by the server

    def has_room(self) -> bool:
        transport = self.transport
        if transport is None or not transport.is_active():
            return False
        return transport.session_limit is None or self.sessions < transport.session_limit


class _Session(ChannelSink):
    """A session channel on a lane, with the command it runs."""

    def __init__(self, pool: "SessionPool", lane: _Lane, command: Command) -> None:
        self._pool = pool
        self._lane = lane
        self._command = command
        # The command hears what comes without a detour.
        for name in ("replied", "data", "stderr", "eof", "exit_status", "exit_signal", "writable"):
            setattr(self, name, getattr(command, name))

    def opened(self, channel: SshChannel) -> None:
        self._pool.session_opened(self._lane)
        if not self._command.start(channel):
            channel.close()

    def closed(self, error: Optional[SshServiceError]) -> None:
        self._pool.session_closed(self._lane, self._command, error)


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
    """

    def __init__(self, cache: SshClientCache, target: ConnectParams) -> None:
        self._cache = cache
        self._target = target
        self._lock = threading.Lock()
        self._tickets = itertools.count()
        self._queue: List[Tuple[int, Command]] = []  # guarded by _lock; a heap
        self._lanes: List[_Lane] = []  # guarded by _lock
        self._max_connections = 1  # guarded by _lock
        self._idle_timeout: Optional[float] = None  # guarded by _lock
        self._max_lifetime: Optional[float] = None  # guarded by _lock
        self._no_further_before = 0.0  # guarded by _lock
        self._refusal: Optional[SshServiceError] = None  # guarded by _lock: the last one

    def submit(
        self,
        command: Command,
        max_connections: int,
        idle_timeout: Optional[float] = None,
        max_lifetime: Optional[float] = None,
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
        """
        command.ticket = next(self._tickets)
        command.waits_for = self._what_is_waited_for
        with self._lock:
            self._max_connections = max_connections
            self._idle_timeout, self._max_lifetime = idle_timeout, max_lifetime
            heapq.heappush(self._queue, (command.ticket, command))
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
                stuck = [] if start or further else self._stuck_locked()
            if start is not None:
                self._start(*start)
            elif further is not None:
                self._connect(further)
            else:
                break
        for command in stuck:
            command.fail(self._refusal or SshCacheClosed("no session could be opened"))

    def _next_locked(self) -> Optional[Tuple[_Lane, Command]]:
        while self._queue and self._queue[0][1].over:  # timed out or cancelled meanwhile
            heapq.heappop(self._queue)
        lanes = [lane for lane in self._lanes if lane.has_room()]
        if not self._queue or not lanes:
            return None
        lane = min(lanes, key=lambda lane: lane.sessions)
        lane.sessions += 1
        return lane, heapq.heappop(self._queue)[1]

    def _further_lane_locked(self) -> Optional[_Lane]:
        if not self._queue or any(lane.transport is None for lane in self._lanes):
            return None
        if self._lanes and (
            len(self._lanes) >= self._max_connections or time.monotonic() < self._no_further_before
        ):
            return None
        taken = {lane.number for lane in self._lanes}
        lane = _Lane(next(number for number in itertools.count() if number not in taken))
        self._lanes.append(lane)
        return lane

    def _stuck_locked(self) -> List[Command]:
        """Say what can never run: no session is admitted, and none of ours will end."""
        if not self._queue or any(lane.sessions or not lane.transport for lane in self._lanes):
            return []
        transports = [lane.transport for lane in self._lanes if lane.transport is not None]
        for transport in transports:
            transport.session_limit = None
        if any(transport.open_channels for transport in transports):
            # Channels of others (a copy, paramiko code of the user's) hold the sessions.
            background.call_at(time.monotonic() + _RETRY_PAUSE, self._dispatch)
            return []
        stuck, self._queue = self._queue, []
        return [command for _, command in sorted(stuck)]

    def _connect(self, lane: _Lane) -> None:
        slot = self._cache.request(self._target, lane.number)
        lane.slot = slot
        slot.pair.add_done_callback(lambda _: self._connected(lane, slot))

    def _connected(self, lane: _Lane, slot: Slot) -> None:
        error = slot.pair.exception()
        if error is None:
            transport = slot.pair.result()[0]
            with self._lock:
                lane.transport = transport
        else:
            with self._lock:
                self._lanes.remove(lane)
                doomed = [] if self._lanes else sorted(self._queue)
                if self._lanes:  # a further connection that cannot be had does no harm
                    self._no_further_before = time.monotonic() + _FURTHER_PAUSE
                else:
                    self._queue = []
            self._cache.release(slot)
            for _, command in doomed:
                command.fail(error)
        self._dispatch()
        self._let_go_if_idle(lane)

    def _start(self, lane: _Lane, command: Command) -> None:
        transport = lane.transport
        if transport is None:
            raise RuntimeError("a session was given out on a connection that is still dialled")
        try:
            transport.start_session(_Session(self, lane, command))
        except SshConnectionLost as error:
            self.session_closed(lane, command, error)

    def session_opened(self, lane: _Lane) -> None:
        """
        Note that the server confirmed a session.

        Parameters
        ----------
        lane : _Lane
            Where.
        """
        with self._lock:
            lane.opened += 1
            if lane.transport is not None:
                peak = max(lane.opened, lane.transport.session_peak)
                lane.transport.session_peak = peak

    def session_closed(
        self, lane: _Lane, command: Command, error: Optional[SshServiceError]
    ) -> None:
        """
        Take back a session, and its command where that was never sent.

        Parameters
        ----------
        lane : _Lane
            Where it was.
        command : Command
            What ran there, or should have.
        error : Optional[SshServiceError]
            As for `ChannelSink.closed`.
        """
        refused = isinstance(error, SshSessionRefused)
        closed = isinstance(error, SshConnectionLost) and error.reason == "closed"
        doomed: List[Tuple[int, Command]] = []
        learnt = 0
        with self._lock:
            lane.sessions -= 1
            if refused and lane.transport is not None:
                # OpenSSH frees a session only after its CLOSE, so a refusal may come while one
                # less is open; what was open at once before is admitted for sure.
                self._refusal = error
                lane.transport.session_limit = learnt = lane.transport.session_peak
            elif lane.opened:
                lane.opened -= 1
            if closed:  # by cleanup(): whoever waits would only open it anew
                doomed, self._queue = sorted(self._queue), []
            again = not (command.sent or closed or command.over) and (
                refused or not command.retried
            )
            if again:
                command.retried = command.retried or not refused
                heapq.heappush(self._queue, (command.ticket, command))
        if refused:
            _log.debug("%s: the server admits %d sessions", self._target.connection_id, learnt)
        if command.sent:
            command.closed(error)
        elif not again:
            command.fail(error or SshCacheClosed("the session was closed at once"))
        for _, waiting in doomed:
            waiting.fail(SshCacheClosed("the connection cache was closed"))
        self._dispatch()
        self._let_go_if_idle(lane)

    def _let_go_if_idle(self, lane: _Lane) -> None:
        """Give the lease back when nothing runs on a lane, so that its connection may expire."""
        with self._lock:
            idle = lane in self._lanes and lane.sessions == 0 and lane.transport is not None
            if idle:
                self._lanes.remove(lane)
            limits = self._idle_timeout, self._max_lifetime
        if idle and lane.slot is not None:
            self._cache.release(lane.slot, *limits)
