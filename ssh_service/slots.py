"""
What the cache holds: destinations, a slot for each connection, who leases it; and their one lock.

Each method is one short step under that lock.  It decides, and returns what is to be done about
it: a slot to dial, slots to close, an instant at which to look again.  None of them waits,
connects, closes, logs or calls anyone back; that is for the caller, with the lock given up.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any, Dict, List, NamedTuple, Optional, Set, Tuple

from ssh_service.client import SshClient
from ssh_service.errors import SshCacheClosed
from ssh_service.params import ConnectKey, ConnectParams
from ssh_service.transport import SshTransport

_NEVER = float("inf")
# Seconds until a slot is looked at again that nobody leases, but that is dialled or has a channel.
_BUSY_PAUSE = 1.0
_COUNTED = ("dials", "reconnects", "losses", "refusals", "drops")

Pair = Tuple[SshTransport, SshClient]


class Destination:
    """What is remembered of a destination, connected or not; the lock of `Slots` guards it."""

    __slots__ = ("key", "slots", "connected", "beside", "used_at")

    def __init__(self, key: ConnectKey, now: float) -> None:
        self.key = key
        self.slots: Dict[int, Slot] = {}  # by lane
        self.connected: Set[int] = set()  # lanes that have had a connection
        self.beside: Any = None  # what others keep for it
        self.used_at = now

    def is_used(self) -> bool:
        """Tell whether a slot of it is."""
        return any(slot.is_used() for slot in self.slots.values())


class Slot:
    """
    A destination's place in the cache: its connection, or the dial that will bring it.

    Attributes
    ----------
    pair : Future[Tuple[SshTransport, SshClient]]
        Done when the dial has ended.
    """

    def __init__(self, target: ConnectParams, lane: int, destination: Destination) -> None:
        self.target = target
        self.lane = lane
        self.destination = destination
        self.pair: "Future[Pair]" = Future()
        self.announced = threading.Event()  # connection_made has returned
        # The lock of `Slots` guards all of these.
        self.transport: Optional[SshTransport] = None  # set once, when the dial has succeeded
        self.dialling: Optional[SshTransport] = None  # set once, when the dial has a stream
        self.failed = False
        self.closed = False  # by `cleanup`, with all there was
        self.leases = 0
        self.waiting = 0  # threads
        self.made_at = 0.0
        self.idle_since = 0.0
        self.idle_timeout: Optional[float] = None
        self.max_lifetime: Optional[float] = None
        self.looked_at = _NEVER  # when a timer will look whether it is to be closed

    def is_kept(self) -> bool:
        """Tell whether it has not been taken out of the cache."""
        return self.destination.slots.get(self.lane) is self

    def is_live(self) -> bool:
        """Tell whether it holds a connection that can be used."""
        return self.transport is not None and self.transport.is_active()

    def is_stale(self) -> bool:
        """Tell whether its dial failed or its connection has ended."""
        return self.failed or (self.transport is not None and not self.transport.is_active())

    def is_used(self) -> bool:
        """Tell whether somebody leases it, or its dial is under way."""
        return self.leases > 0 or (self.transport is None and not self.failed)

    def is_busy(self) -> bool:
        """Tell whether anything runs on its connection; not to be asked under a lock."""
        return self.transport is not None and self.transport.open_channels > 0

    def expires_at(self) -> Optional[float]:
        """Say when it is to be closed if nothing happens."""
        limits = []
        if self.idle_timeout is not None:
            limits.append(self.idle_since + self.idle_timeout)
        if self.max_lifetime is not None:
            limits.append(self.made_at + self.max_lifetime)
        return min(limits) if limits else None


class Unused(NamedTuple):
    """A destination that nobody uses, and the slots it had when that was so."""

    destination: Destination
    slots: List[Slot]


class Slots:
    """
    All slots of one cache.

    Parameters
    ----------
    max_destinations : Optional[int]
        How many destinations to remember; None: any number.

    Notes
    -----
    Thread safety.  Every method may be called from any thread; none takes another lock.

    Guarantees.  A destination has at most one slot for each lane.  A slot that is leased, or is
    being dialled, is taken out by `take_all` and `leave` alone.  What was taken out is never
    handed out again, and what is dialled for it is not published.
    """

    def __init__(self, max_destinations: Optional[int]) -> None:
        self.max_destinations = max_destinations
        self._hold_nothing()

    def _hold_nothing(self) -> None:
        self._lock = threading.Lock()
        self._destinations: Dict[ConnectKey, Destination] = {}  # guarded by _lock, but for a look
        self._entered = 0  # guarded by _lock
        self._counts = dict.fromkeys(_COUNTED, 0)  # guarded by _lock

    def disown(self) -> List[Slot]:
        """Start anew, in a forked child; return what belongs to the parent."""
        # Without the lock: there is no other thread, but one of the parent's may have held it.
        inherited = self._take_all_locked()
        self._hold_nothing()
        return inherited

    # What there is.

    def all(self) -> List[Slot]:
        """List the slots."""
        with self._lock:
            return self._all_locked()

    def _all_locked(self) -> List[Slot]:
        return [slot for found in self._destinations.values() for slot in found.slots.values()]

    def stats(self) -> Dict[str, int]:
        """Count leases, threads that wait, and what happened; see `SshClientCache.stats`."""
        with self._lock:
            slots = self._all_locked()
            return {
                "leases": sum(slot.leases for slot in slots),
                "waiting": sum(slot.waiting for slot in slots),
                **self._counts,
            }

    def count(self, what: str) -> None:
        """Count one more of something."""
        with self._lock:
            self._counts[what] += 1

    def beside(self, key: ConnectKey, now: float) -> Any:
        """Return what is kept for a destination, which counts as a use of it; None: nothing."""
        found = self._destinations.get(key)  # a look
        if found is None:
            return None
        found.used_at = now
        return found.beside

    def keep_beside(self, key: ConnectKey, made: Any, now: float) -> Any:
        """Keep something for a destination; return it, or what somebody else was first with."""
        with self._lock:
            destination = self._destination_locked(key, now)
            if destination.beside is None:
                destination.beside = made
            return destination.beside

    def _destination_locked(self, key: ConnectKey, now: float) -> Destination:
        destination = self._destinations.get(key)
        if destination is None:
            destination = self._destinations[key] = Destination(key, now)
        destination.used_at = now
        return destination

    # Leases.

    def lease(self, target: ConnectParams, lane: int, now: float) -> Tuple[Slot, bool]:
        """Lease a slot; return it, and whether it is new, so that the caller has to dial."""
        key = target.key  # which may read files
        with self._lock:
            destination = self._destination_locked(key, now)
            slot = destination.slots.get(lane)
            is_new = slot is None or slot.is_stale()
            if slot is None or is_new:
                slot = destination.slots[lane] = Slot(target, lane, destination)
                self._counts["dials"] += 1
            slot.leases += 1
            return slot, is_new

    def renew(self, slot: Slot) -> bool:
        """Lease a slot once more; return False if it was taken out."""
        with self._lock:
            kept = slot.is_kept()
            slot.leases += kept
            return kept

    def release(
        self,
        slot: Slot,
        now: float,
        idle_timeout: Optional[float] = None,
        max_lifetime: Optional[float] = None,
    ) -> Tuple[Optional[float], bool]:
        """Give a lease back; return when to call `expire`, and whether there are `unused` ones."""
        with self._lock:
            slot.leases -= 1
            slot.idle_since = slot.destination.used_at = now
            if idle_timeout is not None:
                slot.idle_timeout = idle_timeout
            if max_lifetime is not None:
                slot.max_lifetime = max_lifetime
            return self._look_locked(slot), slot.leases == 0 and self._is_crowded_locked()

    def count_waiting(self, slot: Slot, change: int) -> None:
        """Count the threads that wait for a slot's dial: one more, or one less."""
        with self._lock:
            slot.waiting += change

    # Dials.

    def started(self, slot: Slot, transport: SshTransport) -> bool:
        """Note that a dial has a stream; return False if nobody wants it any more."""
        with self._lock:
            slot.dialling = transport
            return not slot.closed

    def publish(self, slot: Slot, transport: SshTransport, now: float) -> bool:
        """Note that a dial has succeeded; return False if its slot was taken out meanwhile."""
        with self._lock:
            if not slot.is_kept():
                return False
            # Where it is checked, so that whoever takes all out cannot miss it.
            slot.transport = transport
            slot.made_at = slot.idle_since = now
            connected = slot.destination.connected
            self._counts["reconnects"] += slot.lane in connected
            connected.add(slot.lane)
            return True

    def drop(self, slot: Slot, losses: int = 0) -> None:
        """Take a slot out whose dial has failed, or whose connection has ended."""
        with self._lock:
            slot.failed = slot.transport is None
            self._counts["losses"] += losses
            _take_out(slot)

    # What is to be closed.

    def enter(self) -> None:
        """Note one more user of the whole."""
        with self._lock:
            self._entered += 1

    def leave(self) -> List[Slot]:
        """
        Undo one `enter`; return what is to be closed, which is all once nobody is left.

        Raises
        ------
        SshCacheClosed
            It was called once too often.
        """
        with self._lock:
            if self._entered == 0:
                raise SshCacheClosed("SshClientCache.exit() was called more often than enter()")
            self._entered -= 1
            # Taken here, so that what the next `enter` brings is not closed with it.
            return [] if self._entered else self._take_all_locked()

    def take_all(self) -> List[Slot]:
        """Take all slots out, to be closed."""
        with self._lock:
            return self._take_all_locked()

    def _take_all_locked(self) -> List[Slot]:
        # From here on each slot either has its connection (the caller closes it) or not (its
        # dialler finds it gone, and closes what it brings).
        taken = self._all_locked()
        for destination in self._destinations.values():
            destination.slots = {}
            destination.beside = None
        for slot in taken:
            slot.closed = True
        return taken

    def expire(self, slot: Slot, now: float, busy: bool) -> Tuple[bool, Optional[float]]:
        """Take a slot out if its time is up; return whether it was, and when to look again."""
        with self._lock:
            slot.looked_at = _NEVER
            busy = busy or slot.transport is None  # still dialled
            due = self._look_locked(slot, now + _BUSY_PAUSE if busy else now)
            if due is None or due > now:
                return False, due
            _take_out(slot)
            return True, None

    def _look_locked(self, slot: Slot, earliest: float = 0.0) -> Optional[float]:
        """Say when a timer is to look at a slot, where none will do so by then."""
        due = slot.expires_at()
        if due is None or slot.leases > 0 or not slot.is_kept():
            return None  # whoever holds it has it looked at when done
        due = max(due, earliest)
        if due >= slot.looked_at:
            return None
        slot.looked_at = due
        return due

    def unused(self) -> List[Unused]:
        """List what may be forgotten, if anything is to be: the longest unused first."""
        with self._lock:
            if not self._is_crowded_locked():
                return []
            idle = [
                Unused(destination, list(destination.slots.values()))
                for destination in self._destinations.values()
                if not destination.is_used()
            ]
        return sorted(idle, key=lambda item: item.destination.used_at)

    def forget(self, unused: Unused) -> bool:
        """Forget a destination; return False if it was used since, or that is no longer needed."""
        destination, slots = unused
        with self._lock:
            if (
                not self._is_crowded_locked()
                or self._destinations.get(destination.key) is not destination
                or destination.is_used()
                or list(destination.slots.values()) != slots
            ):
                return False
            del self._destinations[destination.key]
            destination.slots = {}
            return True

    def is_crowded(self) -> bool:
        """Tell whether there are more destinations than there are to be."""
        with self._lock:
            return self._is_crowded_locked()

    def _is_crowded_locked(self) -> bool:
        most = self.max_destinations
        return most is not None and len(self._destinations) > most


def _take_out(slot: Slot) -> None:
    if slot.is_kept():
        del slot.destination.slots[slot.lane]
