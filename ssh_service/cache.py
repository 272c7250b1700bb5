"""The cache: one live connection per destination, shared by all threads of the process."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
import weakref
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Tuple, TypeVar

from ssh_service import background, dials, events, params
from ssh_service.client import SshClient
from ssh_service.connect import dial
from ssh_service.dials import Dial, Dialer
from ssh_service.errors import SshConfigError, SshConnectTimeout, again
from ssh_service.params import ConnectKey, ConnectParams
from ssh_service.slots import Pair, Slot, Slots
from ssh_service.transport import SshTransport

_log = logging.getLogger(__name__)

# Seconds for which a hook of the user's may hold up the handing out of its connection.
_HOOK_PATIENCE = 1.0
# Destinations to keep where nobody says how many: a connection each takes a thread, a descriptor
# (of 1024 that a process may have, commonly) and some 100 KiB.
MAX_DESTINATIONS = 1000

T = TypeVar("T")


class SshClientCache:
    """
    Share one live connection per destination between threads.

    Parameters
    ----------
    client_factory : Callable[[], SshClient]
        Makes the client of each new connection; a subclass of `SshClient` with hooks of its own.
    max_destinations : Optional[int]
        How many destinations to remember, with their connections; None: any number.  Beyond it,
        those are forgotten, and their connections closed, that nobody uses and that were used
        longest ago.  One in use never is: there are more as long as more are in use at once.
    dialer : Callable
        Makes a connection; for tests.

    Attributes
    ----------
    max_destinations : Optional[int]
        As given; may be changed, and holds from the next dial or release on.

    Raises
    ------
    SshConfigError
        `max_destinations` is no positive number (a `ValueError`).

    Notes
    -----
    Thread safety.  Every method may be called from any thread.

    Guarantees.  At most one dial per destination is in progress, however many ask.  A slow or
    dead host delays its own callers only.  A connection is lent only to callers whose parameters
    agree in everything that makes two connections different: credentials, host-key policy and
    route included.  A connection in use is closed by `cleanup` (or the last `exit`) alone; then
    whatever was in flight ends with an error at once.  A lost connection leaves at once; the next
    caller gets a new one.  A forked child starts with an empty cache and never harms its parent's
    connections.
    """

    def __init__(
        self,
        client_factory: Callable[[], SshClient] = SshClient,
        *,
        max_destinations: Optional[int] = MAX_DESTINATIONS,
        dialer: Dialer = dial,
    ) -> None:
        if max_destinations is not None and not (
            isinstance(max_destinations, int) and max_destinations >= 1
        ):
            raise SshConfigError(
                f"max_destinations is {max_destinations!r}; it must be at least 1"
            )
        self._slots = Slots(max_destinations)
        self._client_factory = client_factory
        self._dialer = dialer
        self._lock = threading.Lock()
        self._subscribers: Tuple[events.Subscriber, ...] = ()  # replaced whole, under _lock
        _caches.add(self)

    @property
    def max_destinations(self) -> Optional[int]:
        """See the class."""
        return self._slots.max_destinations

    @max_destinations.setter
    def max_destinations(self, most: Optional[int]) -> None:
        self._slots.max_destinations = most

    # What it holds.

    def __len__(self) -> int:
        return len(self._live())

    def __str__(self) -> str:
        names = ", ".join(sorted(slot.target.connection_id for slot in self._live()))
        return f"{type(self).__name__}({names})"

    def _live(self) -> List[Slot]:
        return [slot for slot in self._slots.all() if slot.is_live()]

    def stats(self) -> Dict[str, int]:
        """
        Count what there is and what happened.

        Returns
        -------
        Dict[str, int]
            ``connections`` (live), ``leases``, ``waiting`` (threads that wait for a dial),
            ``dials`` (begun), ``reconnects`` (made where one was before), ``losses``, ``refusals``
            (sessions beyond what a server admits; the command waited, or took a further
            connection), ``drops`` (attempts to dial that a server with too many dropped).
        """
        return {"connections": len(self), **self._slots.stats()}

    def count(self, what: str) -> None:
        """
        Count one more of something that `stats` tells of.

        Parameters
        ----------
        what : str
            Its name there.
        """
        self._slots.count(what)

    @property
    def subscribers(self) -> Tuple[events.Subscriber, ...]:
        """Who is told of events; empty as a rule, and then events cost nothing."""
        return self._subscribers

    def subscribe(self, subscriber: events.Subscriber) -> Callable[[], None]:
        """
        Be told what happens to connections, and to the commands and copies that use them.

        Parameters
        ----------
        subscriber : Callable[[Event], Any]
            Called with each event of `ssh_service.events`, in order, on the callback thread: it
            may wait, but others' callbacks wait for it.  What it raises is logged.

        Returns
        -------
        Callable[[], None]
            Ends it; commands and copies already under way are still told of.

        Raises
        ------
        SshConfigError
            `subscriber` is no function.
        """
        if not callable(subscriber):
            raise SshConfigError(f"subscribe: expected a function, got {subscriber!r}")
        with self._lock:
            self._subscribers = (*self._subscribers, subscriber)
        return lambda: self._unsubscribe(subscriber)

    def _unsubscribe(self, subscriber: events.Subscriber) -> None:
        with self._lock:
            self._subscribers = tuple(s for s in self._subscribers if s is not subscriber)

    def _publish(self, event: events.Event) -> None:
        if self._subscribers:
            background.run_callback(events.tell, self._subscribers, event)

    # Its life.

    def enter(self) -> None:
        """Keep the connections until `exit` has been called as often."""
        self._slots.enter()

    def exit(self) -> None:
        """
        Undo one `enter`; the last one closes all connections.

        Raises
        ------
        SshCacheClosed
            It was called once too often (a `RuntimeError`).
        """
        dials.close(self._slots.leave())

    def cleanup(self) -> None:
        """Close all connections; what is in flight ends with an error at once."""
        dials.close(self._slots.take_all())

    def beside(self, key: ConnectKey, make: Callable[[], T]) -> T:
        """
        Keep something for a destination, until it is forgotten or all connections are closed.

        Parameters
        ----------
        key : ConnectKey
            The destination's.
        make : Callable[[], T]
            Makes it where there is none; must be cheap, as one may be made in vain.

        Returns
        -------
        T
            The same for all callers.
        """
        now = time.monotonic()
        found = self._slots.beside(key, now)
        if found is None:
            found = self._slots.keep_beside(key, make(), now)
        return found  # type: ignore[no-any-return]

    # Connections.

    def get_client_connection(self, connect_params: Mapping[str, Any]) -> Pair:
        """
        Get the live connection to a destination, dialling where there is none.

        Parameters
        ----------
        connect_params : Mapping[str, Any]
            ``host`` and, where wanted, ``port``, ``username``, ``client_keys``, ``known_hosts``,
            ... by asyncssh's names; see `ssh_service.params.resolve`.

        Returns
        -------
        Tuple[SshTransport, SshClient]
            The connection (a `paramiko.Transport`) and its client.

        Raises
        ------
        SshConfigError
            A parameter is missing, unknown or wrong.
        SshConnectError
            No authenticated connection could be had.
        """
        connect_params = params.conceal(connect_params)
        slot = self.acquire(params.resolve(connect_params))
        self.release(slot)
        return slot.pair.result()

    @contextlib.contextmanager
    def lease(
        self,
        connect_params: Mapping[str, Any],
        *,
        idle_timeout: Optional[float] = None,
        max_lifetime: Optional[float] = None,
    ) -> Iterator[Pair]:
        """
        Use the connection to a destination; it is not closed by expiry meanwhile.

        Parameters
        ----------
        connect_params : Mapping[str, Any]
            As for `get_client_connection`, which also says what is raised.
        idle_timeout, max_lifetime : Optional[float]
            Seconds, as for `release`.

        Yields
        ------
        Tuple[SshTransport, SshClient]
            The connection and its client.

        Raises
        ------
        SshConfigError
            As in `get_client_connection`; or a limit is no number of seconds.
        """
        connect_params = params.conceal(connect_params)
        check_limits(idle_timeout, max_lifetime)
        slot = self.acquire(params.resolve(connect_params))
        try:
            yield slot.pair.result()
        finally:
            self.release(slot, idle_timeout, max_lifetime)

    def acquire(
        self, target: ConnectParams, deadline: Optional[float] = None, lane: int = 0
    ) -> Slot:
        """
        Lease a connection; `release` it when done.

        Parameters
        ----------
        target : ConnectParams
            Where to, from `ssh_service.params.resolve`.
        deadline : Optional[float]
            A monotonic instant; the destination's own connect time-out holds all the same.
        lane : int
            0 for the destination's connection, 1, 2, ... for further ones beside it.

        Returns
        -------
        Slot
            With its `pair` there.

        Raises
        ------
        SshConnectError
            No authenticated connection could be had; a fresh error for each caller.
        """
        slot = self.request(target, lane)
        if slot.target.connect_timeout > target.connect_timeout:  # a dial that others asked for
            own = time.monotonic() + target.connect_timeout
            deadline = own if deadline is None else min(deadline, own)
        try:
            self._wait(slot, deadline)
        except BaseException:
            self.release(slot)
            raise
        return slot

    def _wait(self, slot: Slot, deadline: Optional[float]) -> None:
        began = time.monotonic()
        self._slots.count_waiting(slot, +1)
        try:
            ready = threading.Event()
            slot.pair.add_done_callback(lambda _: ready.set())
            if not ready.wait(_left(deadline)):
                raise SshConnectTimeout(
                    f"{slot.target.connection_id}: still connecting when the time was up,"
                    f" after {time.monotonic() - began:.1f} s",
                    connection_id=slot.target.connection_id,
                    phase="connect",
                )
        finally:
            self._slots.count_waiting(slot, -1)
        error = slot.pair.exception()
        if error is not None:
            raise again(error) from error
        if not background.on_callback_thread():
            # From when it was made: a hook that waits for ever holds up the first second alone.
            patience = slot.made_at + _HOOK_PATIENCE
            slot.announced.wait(_left(patience if deadline is None else min(patience, deadline)))

    def request(self, target: ConnectParams, lane: int = 0) -> Slot:
        """
        Lease a connection that may still have to be made, without waiting.

        Parameters
        ----------
        target : ConnectParams
            Where to.
        lane : int
            As for `acquire`.

        Returns
        -------
        Slot
            Its `pair` will be there.  `release` it, whatever becomes of it.
        """
        background.require_threads()
        slot, is_new = self._slots.lease(target, lane, time.monotonic())
        if is_new:
            Dial(
                slot,
                self._slots,
                client_factory=self._client_factory,
                dialer=self._dialer,
                open_tunnel=self._open_tunnel,
                publish=self._publish,
            ).begin()
            self._make_room()
        return slot

    def _open_tunnel(
        self, hop: ConnectParams, deadline: float
    ) -> Tuple[SshTransport, Callable[[], None]]:
        slot = self.acquire(hop, deadline)
        return slot.pair.result()[0], lambda: self.release(slot)

    def renew(self, slot: Slot) -> bool:
        """
        Lease the connection of a slot once more.

        Parameters
        ----------
        slot : Slot
            From `acquire` or `request`, released or not.

        Returns
        -------
        bool
            False if it has left the cache, so that the connection is lost or being closed.
        """
        return self._slots.renew(slot)

    def release(
        self,
        slot: Slot,
        idle_timeout: Optional[float] = None,
        max_lifetime: Optional[float] = None,
    ) -> None:
        """
        Give a lease back.

        Parameters
        ----------
        slot : Slot
            From `acquire` or `request`.
        idle_timeout : Optional[float]
            Seconds after which the connection is closed if nobody uses it; None: never.
        max_lifetime : Optional[float]
            Seconds after which it is replaced, once nobody uses it; None: never.
        """
        due, crowded = self._slots.release(slot, time.monotonic(), idle_timeout, max_lifetime)
        if due is not None:
            background.call_at(due, lambda: self._expire(slot))
        if crowded:
            self._make_room()

    def _expire(self, slot: Slot) -> None:
        """Close a connection whose time is up, unless somebody uses it."""
        busy = slot.is_busy()
        expired, due = self._slots.expire(slot, time.monotonic(), busy)
        if expired:
            _hang_up(slot, "nobody needs it")
        elif due is not None:
            background.call_at(due, lambda: self._expire(slot))

    def _make_room(self) -> None:
        """Forget destinations that nobody uses, as many as it takes, the longest unused first."""
        for unused in self._slots.unused():
            if not self._slots.is_crowded():
                return
            if not any(slot.is_busy() for slot in unused.slots) and self._slots.forget(unused):
                for slot in unused.slots:
                    _hang_up(slot, "there are others to make room for")

    def _forget_parent(self) -> None:
        self._lock = threading.Lock()
        for slot in self._slots.disown():
            if slot.transport is not None:
                slot.transport.close()  # this process's copy of the descriptor, nothing more


def check_limits(*limits: Optional[float]) -> None:
    """
    Refuse what is no limit, before a connection is leased that could then not be released.

    Parameters
    ----------
    *limits : Optional[float]
        An ``idle_timeout`` or ``max_lifetime``, see `SshClientCache.release`.

    Raises
    ------
    SshConfigError
        One is no number of seconds.
    """
    for limit in limits:
        if limit is not None and not (isinstance(limit, (int, float)) and limit >= 0):
            raise SshConfigError(f"idle_timeout, max_lifetime: expected seconds, got {limit!r}")


def _hang_up(slot: Slot, why: str) -> None:
    if slot.transport is not None:
        _log.debug("%s: closed, as %s", slot.target.connection_id, why)
        slot.transport.hang_up()


def _left(deadline: Optional[float]) -> Optional[float]:
    return None if deadline is None else max(0.0, deadline - time.monotonic())


_caches: "weakref.WeakSet[SshClientCache]" = weakref.WeakSet()


def _forget_parent() -> None:
    for cache in list(_caches):
        cache._forget_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parent)
