"""
Limits on how fast a server is dialled, as servers drop or penalise clients that dial too often.

OpenSSH starts to drop connections once ten are not logged in yet (MaxStartups).  Since 9.8 it also
rejects, for a while, addresses whose connections fail (PerSourcePenalties).
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from typing import Callable, Dict, Hashable, Optional

from ssh_service.errors import SshConnectError, SshConnectTimeout
from ssh_service.transport import SshTransport

_log = logging.getLogger(__name__)

# The most dials to one server at a time.
_MAX_CONCURRENT_DIALS = 5
# Seconds until the next attempt after the server dropped a connection, doubled each time.  Jitter
# prevents that clients which were dropped at the same time return at the same time.
_MIN_PAUSE = 0.25
_MAX_PAUSE = 4.0


class _ServerState:
    """The dials to one server; the pacer's lock guards all fields."""

    def __init__(self) -> None:
        self.under_way = 0
        self.waiting = 0
        self.drops = 0  # in a row
        self.not_before = 0.0


class Pacer:
    """
    Limits the concurrent dials to each server, and spaces out the retries.

    Parameters
    ----------
    jitter : Callable[[], float]
        Returns a random number from 0 to 1.

    Notes
    -----
    Thread safety.  `dial` may be called from any thread.

    Guarantees.  Dials to one server never delay those to another.  A dial is repeated only if the
    server reported that it dropped the connection, before its identification string; it is never
    repeated after a refused credential.
    """

    def __init__(self, jitter: Callable[[], float] = random.random) -> None:
        self._jitter = jitter
        self._changed = threading.Condition(threading.Lock())
        self._servers: Dict[Hashable, _ServerState] = {}  # guarded by _changed

    def dial(
        self,
        server: Hashable,
        deadline: float,
        dial: Callable[[], SshTransport],
        wanted: Callable[[], bool] = lambda: True,
        *,
        connection_id: Optional[str] = None,
    ) -> SshTransport:
        """
        Dial when it is this call's turn; if the server drops the connection, retry after a pause.

        Parameters
        ----------
        server : Hashable
            Identifies the server.
        deadline : float
            The monotonic instant after which no further attempt begins.
        dial : Callable[[], SshTransport]
            Makes one attempt.
        wanted : Callable[[], bool]
            Returns whether a caller still wants the connection.
        connection_id : Optional[str]
            ``user@host:port``, for messages.

        Raises
        ------
        SshConnectError
            The error of the last attempt; `SshConnectTimeout` if it was never this call's turn.
        """
        began = time.monotonic()
        while True:
            state = self._wait_for_turn(server, deadline, wanted)
            if state is None:
                raise SshConnectTimeout(
                    f"{connection_id}: timed out after {time.monotonic() - began:.1f} s of waiting"
                    f" to dial (at most {_MAX_CONCURRENT_DIALS} dials per server at once)",
                    connection_id=connection_id,
                    phase="connect",
                )
            try:
                transport = dial()
            except BaseException as error:
                dropped = isinstance(error, SshConnectError) and error.throttled
                pause = self._end_turn(server, state, dropped)
                if not dropped or not wanted() or time.monotonic() + pause >= deadline:
                    raise
                _log.debug("%s; trying again in %.2f s", error, pause)
                continue
            self._end_turn(server, state, dropped=False)
            return transport

    def wake_waiters(self) -> None:
        """Wake the dials that wait for their turn: some may not be wanted any more."""
        with self._changed:
            self._changed.notify_all()

    def _wait_for_turn(
        self, server: Hashable, deadline: float, wanted: Callable[[], bool]
    ) -> Optional[_ServerState]:
        """Wait for a turn; return None after the deadline, or if the dial is no longer wanted."""
        with self._changed:
            state = self._servers.setdefault(server, _ServerState())
            state.waiting += 1
            try:
                while True:
                    now = time.monotonic()
                    pause = state.not_before - now
                    if pause <= 0 and state.under_way < _MAX_CONCURRENT_DIALS:
                        state.under_way += 1
                        return state
                    if now >= deadline or not wanted():
                        return None
                    until = deadline if pause <= 0 else min(deadline, state.not_before)
                    self._changed.wait(until - now)
            finally:
                state.waiting -= 1
                self._discard_unused_locked(server, state)

    def _end_turn(self, server: Hashable, state: _ServerState, dropped: bool) -> float:
        with self._changed:
            state.under_way -= 1
            state.drops = state.drops + 1 if dropped else 0
            pause = 0.0
            if dropped:
                pause = min(_MAX_PAUSE, _MIN_PAUSE * 2 ** (state.drops - 1))
                pause *= 0.5 + self._jitter() / 2
                state.not_before = max(state.not_before, time.monotonic() + pause)
            self._discard_unused_locked(server, state)
            self._changed.notify_all()
            return pause

    def _discard_unused_locked(self, server: Hashable, state: _ServerState) -> None:
        if not (state.under_way or state.waiting or state.drops):
            self._servers.pop(server, None)


_pacer = Pacer()


def paced_dial(
    server: Hashable,
    deadline: float,
    dial: Callable[[], SshTransport],
    wanted: Callable[[], bool] = lambda: True,
    *,
    connection_id: Optional[str] = None,
) -> SshTransport:
    """Dial with the pacer of this process; see `Pacer.dial`."""
    return _pacer.dial(server, deadline, dial, wanted, connection_id=connection_id)


def wake_waiters() -> None:
    """Wake the dials that wait for their turn: some may not be wanted any more."""
    _pacer.wake_waiters()


def _after_fork_in_child() -> None:
    global _pacer
    _pacer = (
        Pacer()
    )  # the dials belong to the parent, and its lock may be held by a thread that the child lacks


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
