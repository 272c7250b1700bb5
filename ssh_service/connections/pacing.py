"""
How fast one server is dialled: it drops, and some punish, those who knock too often.

OpenSSH begins to drop at ten connections that are not logged in yet (MaxStartups); since 9.8 it
also shuts out, for a while, addresses whose connections fail (PerSourcePenalties).
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

# Dials to one server that may be under way at once.
_AT_ONCE = 5
# Seconds to the next attempt after the server dropped one, doubled each time; with jitter, so that
# those who were dropped together do not come back together.
_FIRST_PAUSE = 0.25
_LONGEST_PAUSE = 4.0


class _Door:
    """What is known of one server; the pacer's lock guards all fields."""

    def __init__(self) -> None:
        self.under_way = 0
        self.waiting = 0
        self.drops = 0  # in a row
        self.not_before = 0.0


class Pacer:
    """
    Spaces the dials to each server.

    Parameters
    ----------
    jitter : Callable[[], float]
        A number from 0 to 1; for tests.

    Notes
    -----
    Thread safety.  `dial` may be called from any thread.

    Guarantees.  One server's dials never hold up another's.  Only a dial that the server dropped
    before its identification, saying so, is repeated; a refused credential never is.
    """

    def __init__(self, jitter: Callable[[], float] = random.random) -> None:
        self._jitter = jitter
        self._changed = threading.Condition(threading.Lock())
        self._doors: Dict[Hashable, _Door] = {}  # guarded by _changed

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
        Dial when it is this call's turn; again after a pause, where the server has no room yet.

        Parameters
        ----------
        server : Hashable
            Which server: address and route.
        deadline : float
            Monotonic instant until which to try.
        dial : Callable[[], SshTransport]
            Makes one attempt.
        wanted : Callable[[], bool]
            Says whether anyone still waits for it.
        connection_id : Optional[str]
            For the error.

        Returns
        -------
        SshTransport
            The connection.

        Raises
        ------
        SshConnectError
            What the last attempt raised; `SshConnectTimeout` where it was never this call's turn.
        """
        began = time.monotonic()
        while True:
            door = self._enter(server, deadline, wanted)
            if door is None:
                raise SshConnectTimeout(
                    f"{connection_id}: could not begin to connect within"
                    f" {time.monotonic() - began:.1f} s, as others were connecting to this server,"
                    " or it had no room",
                    connection_id=connection_id,
                    phase="connect",
                )
            try:
                transport = dial()
            except BaseException as error:
                dropped = isinstance(error, SshConnectError) and error.throttled
                pause = self._leave(server, door, dropped)
                if not dropped or not wanted() or time.monotonic() + pause >= deadline:
                    raise
                _log.debug("%s; trying again in %.2f s", error, pause)
                continue
            self._leave(server, door, dropped=False)
            return transport

    def look_again(self) -> None:
        """Let those who wait for their turn ask whether they are still wanted."""
        with self._changed:
            self._changed.notify_all()

    def _enter(
        self, server: Hashable, deadline: float, wanted: Callable[[], bool]
    ) -> Optional[_Door]:
        """Wait for a turn; None: it did not come in time, or nobody wants it any more."""
        with self._changed:
            door = self._doors.setdefault(server, _Door())
            door.waiting += 1
            try:
                while True:
                    now = time.monotonic()
                    pause = door.not_before - now
                    if pause <= 0 and door.under_way < _AT_ONCE:
                        door.under_way += 1
                        return door
                    if now >= deadline or not wanted():
                        return None
                    until = deadline if pause <= 0 else min(deadline, door.not_before)
                    self._changed.wait(until - now)
            finally:
                door.waiting -= 1
                self._forget_locked(server, door)

    def _leave(self, server: Hashable, door: _Door, dropped: bool) -> float:
        with self._changed:
            door.under_way -= 1
            door.drops = door.drops + 1 if dropped else 0
            pause = 0.0
            if dropped:
                pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** (door.drops - 1))
                pause *= 0.5 + self._jitter() / 2
                door.not_before = max(door.not_before, time.monotonic() + pause)
            self._forget_locked(server, door)
            self._changed.notify_all()
            return pause

    def _forget_locked(self, server: Hashable, door: _Door) -> None:
        if not (door.under_way or door.waiting or door.drops):
            self._doors.pop(server, None)


_pacer = Pacer()


def paced(
    server: Hashable,
    deadline: float,
    dial: Callable[[], SshTransport],
    wanted: Callable[[], bool] = lambda: True,
    *,
    connection_id: Optional[str] = None,
) -> SshTransport:
    """
    Dial by the pacer of this process; see `Pacer.dial`.

    Parameters
    ----------
    server, deadline, dial, wanted, connection_id
        As for `Pacer.dial`, which also says what is returned and raised.

    Returns
    -------
    SshTransport
        The connection.
    """
    return _pacer.dial(server, deadline, dial, wanted, connection_id=connection_id)


def look_again() -> None:
    """Let those who wait for their turn ask whether they are still wanted."""
    _pacer.look_again()


def _after_fork_in_child() -> None:
    global _pacer
    _pacer = Pacer()  # the parent's dials are not ours, and its lock may be held for ever


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
