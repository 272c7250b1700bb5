"""The cache: one live connection per destination, shared by all threads of the process."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
import weakref
from concurrent.futures import Future, InvalidStateError
from typing import (
    Any,
    Callable,
    Dict,
    Hashable,
    Iterator,
    List,
    Mapping,
    Optional,
    Set,
    Tuple,
    TypeVar,
)

from ssh_service import background, events, pacing, params
from ssh_service.client import SshClient
from ssh_service.connect import dial
from ssh_service.errors import (
    SshCacheClosed,
    SshConfigError,
    SshConnectError,
    SshConnectTimeout,
    SshServiceError,
    again,
)
from ssh_service.params import ConnectParams
from ssh_service.transport import SshTransport

_log = logging.getLogger(__name__)

# Seconds for which a hook of the user's may hold up the handing out of its connection.
_HOOK_PATIENCE = 1.0
# Destinations to keep where nobody says how many: a connection each takes a thread, a descriptor
# (of 1024 that a process may have, commonly) and some 100 KiB.
MAX_DESTINATIONS = 1000
_NEVER = float("inf")
_COUNTED = ("dials", "reconnects", "losses", "refusals", "drops")

Pair = Tuple[SshTransport, SshClient]
Dialer = Callable[..., SshTransport]
T = TypeVar("T")


class Destination:
    """What the cache remembers of a destination; the cache's lock guards it, except for a look."""

    __slots__ = ("beside", "lanes", "used_at")

    def __init__(self) -> None:
        self.beside: Any = None  # what others keep for it
        self.lanes: Set[int] = set()  # those that have had a connection
        self.used_at = time.monotonic()


class Slot:
    """
    A destination's place in the cache: its connection, or the dial that will bring it.

    Attributes
    ----------
    pair : Future[Tuple[SshTransport, SshClient]]
        Done when the dial has ended.
    """

    def __init__(self, target: ConnectParams, lane: int) -> None:
        self.key: Hashable = (target.key, lane)
        self.target = target
        self.lane = lane
        self.pair: "Future[Pair]" = Future()
        self.announced = threading.Event()  # connection_made has returned
        # The cache's lock guards all of these.
        self.transport: Optional[SshTransport] = None  # set once, when the dial has succeeded
        self.dialling: Optional[SshTransport] = None  # set once, when the dial has a stream
        self.failed = False
        self.closed = False  # by `cleanup`, with all there was
        self.leases = 0
        self.waiting = 0
        self.made_at = 0.0
        self.idle_since = 0.0
        self.idle_timeout: Optional[float] = None
        self.max_lifetime: Optional[float] = None
        self.looked_at = _NEVER  # when a timer will look whether it is to be closed

    def is_live(self) -> bool:
        """Tell whether it holds a connection that can be used."""
        return self.transport is not None and self.transport.is_active()

    def is_stale(self) -> bool:
        """Tell whether its dial failed or its connection has ended."""
        return self.failed or (self.transport is not None and not self.transport.is_active())

    def expires_at(self) -> Optional[float]:
        """Say when it is to be closed if nothing happens."""
        limits = []
        if self.idle_timeout is not None:
            limits.append(self.idle_since + self.idle_timeout)
        if self.max_lifetime is not None:
            limits.append(self.made_at + self.max_lifetime)
        return min(limits) if limits else None


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
        self.max_destinations = max_destinations
        self._client_factory = client_factory
        self._dialer = dialer
        self._subscribers: Tuple[events.Subscriber, ...] = ()  # replaced whole, under _lock
        self._forget_everything()
        _caches.add(self)

    def _forget_everything(self) -> None:
        """Start anew, as in a forked child, where all of this belongs to the parent."""
        self._lock = threading.Lock()  # never held across I/O, logging or a callback
        self._slots: Dict[Hashable, Slot] = {}  # guarded by _lock
        self._destinations: Dict[Hashable, Destination] = {}  # guarded by _lock, but for a look
        self._entered = 0  # guarded by _lock
        self._counts = dict.fromkeys(_COUNTED, 0)  # guarded by _lock

    # What it holds.

    def __len__(self) -> int:
        return len(self._live())

    def __str__(self) -> str:
        names = ", ".join(sorted(slot.target.connection_id for slot in self._live()))
        return f"{type(self).__name__}({names})"

    def _live(self) -> List[Slot]:
        with self._lock:
            slots = list(self._slots.values())
        return [slot for slot in slots if slot.is_live()]

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
        live = len(self)
        with self._lock:
            return {
                "connections": live,
                "leases": sum(slot.leases for slot in self._slots.values()),
                "waiting": sum(slot.waiting for slot in self._slots.values()),
                **self._counts,
            }

    def count(self, what: str) -> None:
        """
        Count one more of something that `stats` tells of.

        Parameters
        ----------
        what : str
            Its name there.
        """
        with self._lock:
            self._counts[what] += 1

    @property
    def subscribers(self) -> Tuple[events.Subscriber, ...]:
        """Who is told of events; empty as a rule, and then events cost nothing."""
        return self._subscribers

    def subscribe(self, subscriber: events.Subscriber) -> Callable[[], None]:
        """
        Be told what happens to connections, and to the commands that use them.

        Parameters
        ----------
        subscriber : Callable[[Event], Any]
            Called with each event of `ssh_service.events`, in order, on the callback thread: it
            may wait, but others' callbacks wait for it.  What it raises is logged.

        Returns
        -------
        Callable[[], None]
            Ends it; commands already under way are still told of.

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
        background.run_callback(events.tell, self._subscribers, event)

    # Its life.

    def enter(self) -> None:
        """Keep the connections until `exit` has been called as often."""
        with self._lock:
            self._entered += 1

    def exit(self) -> None:
        """
        Undo one `enter`; the last one closes all connections.

        Raises
        ------
        SshCacheClosed
            It was called once too often (a `RuntimeError`).
        """
        with self._lock:
            if self._entered == 0:
                raise SshCacheClosed("SshClientCache.exit() was called more often than enter()")
            self._entered -= 1
            # Taken here, so that what the next `enter` brings is not closed with it.
            slots = [] if self._entered else self._take_all_locked()
        self._close(slots)

    def cleanup(self) -> None:
        """Close all connections; what is in flight ends with an error at once."""
        with self._lock:
            slots = self._take_all_locked()
        self._close(slots)

    def _take_all_locked(self) -> List[Slot]:
        # After the swap each slot is either filled (`_close` closes it) or not (its dialler finds
        # it gone, and closes what it brings).
        slots, self._slots = list(self._slots.values()), {}
        for destination in self._destinations.values():
            destination.beside = None
        for slot in slots:
            slot.closed = True
        return slots

    @staticmethod
    def _close(slots: List[Slot]) -> None:
        # The newest first: what goes through a jump host is younger than the way there, and would
        # take our closing that for a loss.
        youngest = sorted(slots, key=lambda slot: slot.made_at, reverse=True)
        transports = [slot.transport for slot in youngest if slot.transport is not None]
        for slot in slots:
            _settle(slot.pair, error=_closed())
        for slot in slots:  # after it, so that nobody is told of what ends a dial here
            if slot.transport is None and slot.dialling is not None:
                slot.dialling.hang_up()
        pacing.look_again()  # dials that wait for their turn are not wanted any more
        for transport in transports:  # all are told before one is waited for
            transport.hang_up()
        for transport in transports:
            transport.close()

    def beside(self, key: Hashable, make: Callable[[], T]) -> T:
        """
        Keep something for a destination, until it is forgotten or all connections are closed.

        Parameters
        ----------
        key : Hashable
            The destination's connect key.
        make : Callable[[], T]
            Makes it where there is none; must be cheap, as one may be made in vain.

        Returns
        -------
        T
            The same for all callers.
        """
        destination = self._destinations.get(key)
        found = None if destination is None else destination.beside
        if destination is None or found is None:
            made = make()
            with self._lock:
                destination = self._destinations.setdefault(key, Destination())
                if destination.beside is None:  # the first one counts
                    destination.beside = made
                found = destination.beside
        destination.used_at = time.monotonic()
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
        with self._lock:
            slot.waiting += 1
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
            with self._lock:
                slot.waiting -= 1
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
        key = (target.key, lane)
        with self._lock:
            self._destinations.setdefault(target.key, Destination()).used_at = time.monotonic()
            slot = self._slots.get(key)
            dials = slot is None or slot.is_stale()
            if slot is None or dials:
                slot = self._slots[key] = Slot(target, lane)
                self._counts["dials"] += 1
            slot.leases += 1
        if dials:
            dialler = threading.Thread(
                target=self._fill,
                args=(slot,),
                name=f"ssh-service-dial-{target.connection_id}",
                daemon=True,
            )
            try:
                dialler.start()
            except RuntimeError as exc:  # the system gives no more threads
                self._fail(slot, None, exc, time.monotonic())
        return slot

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
        with self._lock:
            kept = self._slots.get(slot.key) is slot
            if kept:
                slot.leases += 1
            return kept

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
        with self._lock:
            slot.leases -= 1
            slot.idle_since = time.monotonic()
            if idle_timeout is not None:
                slot.idle_timeout = idle_timeout
            if max_lifetime is not None:
                slot.max_lifetime = max_lifetime
            destination = self._destinations.get(slot.target.key)
            if destination is not None:
                destination.used_at = slot.idle_since
            due = self._arm_locked(slot, 0.0)
            crowded = not slot.leases and self._is_crowded_locked()
        if due is not None:
            background.call_at(due, lambda: self._expire(slot))
        if crowded:
            self._make_room()

    def _arm_locked(self, slot: Slot, earliest: float) -> Optional[float]:
        """Say when a timer is to look at a slot, where none will do so by then."""
        due = slot.expires_at()
        if due is None or slot.leases > 0 or self._slots.get(slot.key) is not slot:
            return None  # whoever holds it arms it again when done
        due = max(due, earliest)
        if due >= slot.looked_at:
            return None
        slot.looked_at = due
        return due

    def _expire(self, slot: Slot) -> None:
        """Close a connection whose time is up, unless somebody uses it."""
        transport = slot.transport
        busy = transport is None or transport.open_channels > 0
        now = time.monotonic()
        with self._lock:
            slot.looked_at = _NEVER
            due = self._arm_locked(slot, now + 1.0 if busy else now)
            expired = due is not None and due <= now
            if expired:
                del self._slots[slot.key]
        if expired and transport is not None:
            _log.debug("%s: closed, as nobody needs it", slot.target.connection_id)
            transport.hang_up()
        elif due is not None:
            background.call_at(due, lambda: self._expire(slot))

    def _is_crowded_locked(self) -> bool:
        most = self.max_destinations
        return most is not None and len(self._destinations) > most

    def _make_room(self) -> None:
        """Forget destinations that nobody uses, as many as it takes, the longest unused first."""
        with self._lock:
            busy = {slot.target.key for slot in self._slots.values() if _is_used(slot)}
            idle = [item for item in self._destinations.items() if item[0] not in busy]
        for key, destination in sorted(idle, key=lambda item: item[1].used_at):
            with self._lock:
                if not self._is_crowded_locked():
                    return
                slots = [slot for slot in self._slots.values() if slot.target.key == key]
            transports = [slot.transport for slot in slots if slot.transport is not None]
            if any(transport.open_channels for transport in transports):
                continue
            with self._lock:
                current = [slot for slot in self._slots.values() if slot.target.key == key]
                forgotten = (
                    self._destinations.get(key) is destination
                    and current == slots
                    and not any(map(_is_used, slots))
                )
                if forgotten:
                    del self._destinations[key]
                    for slot in slots:
                        del self._slots[slot.key]
            if forgotten:
                for slot in slots:
                    _log.debug("%s: closed to make room", slot.target.connection_id)
                for transport in transports:
                    transport.hang_up()

    # Dialling, on a thread of the slot's own.

    def _fill(self, slot: Slot) -> None:
        target = slot.target
        client: Optional[SshClient] = None
        transport: Optional[SshTransport] = None
        began = time.monotonic()
        with self._lock:
            crowded = self._is_crowded_locked()
        try:
            if crowded:
                self._make_room()
            client = self._client_factory()
            deadline = began + target.connect_timeout
            transport = pacing.paced(
                (target.hostname, target.port, target.key.route),
                deadline,
                lambda: self._dial_once(slot, deadline),
                lambda: not slot.closed,
                connection_id=target.connection_id,
            )
            client.made(transport)
        except BaseException as exc:  # whatever it is, somebody waits for it
            if transport is not None:
                transport.close()
            self._fail(slot, client, exc, began)
            return
        made_at = time.monotonic()
        with self._lock:
            kept = self._slots.get(slot.key) is slot
            if kept:  # published where it is checked, so that cleanup() cannot miss it
                slot.transport = transport
                slot.made_at = slot.idle_since = made_at
                lanes = self._destinations.setdefault(target.key, Destination()).lanes
                self._counts["reconnects"] += slot.lane in lanes
                lanes.add(slot.lane)
        background.run_callback(self._announce, slot, client, transport)
        if self._subscribers:
            self._publish(events.ConnectionMade(target.connection_id, made_at, made_at - began))
        transport.add_done_callback(lambda _, loss: self._ended(slot, client, loss, made_at))
        if kept:
            _log.debug("%s: connected", target.connection_id)
            _settle(slot.pair, pair=(transport, client))
        else:
            transport.close()

    def _dial_once(self, slot: Slot, deadline: float) -> SshTransport:
        try:
            return self._dialer(
                slot.target,
                deadline,
                open_tunnel=self._open_tunnel,
                started=lambda transport: self._has_started(slot, transport),
                wanted=lambda: not slot.closed,
            )
        except SshConnectError as exc:
            if exc.throttled:
                self.count("drops")
            raise

    def _has_started(self, slot: Slot, transport: SshTransport) -> None:
        with self._lock:
            slot.dialling = transport
            closed = slot.closed
        if closed:
            transport.hang_up()

    def _fail(
        self, slot: Slot, client: Optional[SshClient], cause: BaseException, began: float
    ) -> None:
        error = _closed() if slot.closed else _as_ours(cause, slot.target.connection_id)
        _log.info("%s", error)
        self._drop(slot)  # first, so that who is told of the failure can dial again
        if isinstance(client, SshClient):
            with contextlib.suppress(Exception):  # a subclass that forgot to call our __init__
                client.lost()
            background.run_callback(client.connection_lost, error)
        if self._subscribers:
            now, kind = time.monotonic(), type(error).__name__
            name = slot.target.connection_id
            self._publish(events.DialFailed(name, now, now - began, kind, str(error), error.phase))
        _settle(slot.pair, error=error)

    @staticmethod
    def _announce(slot: Slot, client: SshClient, transport: SshTransport) -> None:
        try:
            client.connection_made(transport)
        finally:
            slot.announced.set()

    def _ended(
        self, slot: Slot, client: SshClient, loss: Optional[Exception], made_at: float
    ) -> None:
        self._drop(slot, losses=int(loss is not None))
        client.lost()
        background.run_callback(client.connection_lost, loss)
        if self._subscribers:
            now, name = time.monotonic(), slot.target.connection_id
            why = (None, None) if loss is None else (type(loss).__name__, str(loss))
            self._publish(events.ConnectionEnded(name, now, now - made_at, *why))
        if loss is not None:
            _log.info("%s", loss)

    def _drop(self, slot: Slot, losses: int = 0) -> None:
        with self._lock:
            slot.failed = slot.transport is None
            self._counts["losses"] += losses
            if self._slots.get(slot.key) is slot:
                del self._slots[slot.key]

    def _open_tunnel(
        self, hop: ConnectParams, deadline: float
    ) -> Tuple[SshTransport, Callable[[], None]]:
        slot = self.acquire(hop, deadline)
        return slot.pair.result()[0], lambda: self.release(slot)


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


def _is_used(slot: Slot) -> bool:
    return slot.leases > 0 or (slot.transport is None and not slot.failed)


def _left(deadline: Optional[float]) -> Optional[float]:
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def _closed() -> SshCacheClosed:
    return SshCacheClosed("the connection cache was closed")


def _as_ours(error: BaseException, connection_id: str) -> SshServiceError:
    """Turn what a dialler or a client raised into what each waiter can be given a copy of."""
    if isinstance(error, SshServiceError):
        return error
    kind = SshConfigError if isinstance(error, ValueError) else SshConnectError
    ours = kind(
        f"{connection_id}: {type(error).__name__}: {error}",
        connection_id=connection_id,
        phase="connect",
    )
    ours.__cause__ = error
    return ours


def _settle(
    future: "Future[Pair]", *, pair: Optional[Pair] = None, error: Optional[Exception] = None
) -> None:
    with contextlib.suppress(InvalidStateError):  # cleanup() and the dialler race; one wins
        if pair is not None:
            future.set_result(pair)
        else:
            future.set_exception(error)


_caches: "weakref.WeakSet[SshClientCache]" = weakref.WeakSet()


def _forget_parent() -> None:
    for cache in list(_caches):
        inherited = [slot.transport for slot in cache._slots.values() if slot.transport]
        cache._forget_everything()
        for transport in inherited:
            transport.close()  # this process's copy of the descriptor, nothing more


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parent)
