"""
Decides the contents of the cache: an entry for each key, with its per-key lock and its refcount.

Each method is one short step under one lock: the entry's per-key lock or the lock of the map,
never both.  A step only decides; the `Actions` of a worker thread dial and close.  An action is
submitted under the lock and *before* the change.  It takes the lock itself, so it runs after the
step, and acts on the decision.  Therefore an exception of a signal handler (Ctrl-C) at any point
of a step does no harm: either nothing was changed, or the action for the change was submitted.
"""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Optional, Protocol, Set

from ssh_service.connections.entries import NEVER, CacheEntry, Generation, Lease, Slot, Target
from ssh_service.errors import SshCacheClosed
from ssh_service.locks import Lock
from ssh_service.params import ConnectKey
from ssh_service.transport import SshTransport

# Seconds until the next expiry check of a slot without leases that is being dialled or has an open
# channel.
_BUSY_CHECK_INTERVAL = 1.0
# Seconds for which a worker waits for an entry's lock; other calls need the worker, too.
_LOCK_TIMEOUT = 0.2
_COUNTED = ("dials", "reconnects", "losses", "refusals", "drops")


class Actions(Protocol):
    """Actions of a worker thread; these methods only enqueue them, and take no lock."""

    def start_dial(self, slot: Slot) -> None:
        """Dial, if the slot is still in the cache by then."""

    def schedule_expiry(self, slot: Slot, instant: float) -> None:
        """Call `Slots.expire` at a monotonic instant."""

    def evict_idle(self) -> None:
        """Evict entries that `Slots.evictable` returns."""

    def close_retired(self) -> None:
        """Close the generations that `Slots.retired` lists."""


class IdleEntry(NamedTuple):
    """An entry that was not in use, and the slots that it had at that time."""

    entry: CacheEntry
    slots: List[Slot]


class Slots:
    """
    All entries of one cache, and their slots.

    Notes
    -----
    Thread safety.  Every method may be called from any thread.  `evict`, `expire` and `retire` are
    for worker threads, and give up if they cannot take an entry's per-key lock soon.

    Guarantees.  An entry has at most one slot for each connection number.  A slot that is leased
    (its refcount is not 0) or being dialled is removed only by `retire_all` and `leave`.  A
    removed slot is never handed out again, and a connection dialled for it is not stored.  The
    per-key lock of one entry blocks no other key.
    """

    def __init__(self, max_destinations: Optional[int], actions: Actions) -> None:
        self.max_destinations = max_destinations
        self._actions = actions
        self._reset()

    def _reset(self) -> None:
        self._lock = Lock()  # the lock of the map
        self._generation = Generation()  # guarded by _lock; also read without it
        self._entered = 0  # guarded by _lock
        self._retired: Set[Generation] = set()  # to be closed; single operations on it are atomic
        self._counting = Lock()
        self._counts = dict.fromkeys(_COUNTED, 0)  # guarded by _counting

    def reset_after_fork(self) -> List[Slot]:
        """Start empty in a forked child; return the parent's slots."""
        # Without the locks: a thread of the parent may have held them, and the child has no other
        # thread.
        inherited: List[Slot] = []
        for generation in {self._generation, *self._retired}:
            generation.is_retired = True
            for entry in generation.entries.values():
                entry.lock, entry.session_pool = Lock(), None
                inherited += entry.all_slots()
        for slot in inherited:
            slot.leases.clear()
        self._reset()
        return inherited

    # Contents.

    @property
    def generation(self) -> Generation:
        """The generation whose entries are in use; it is retired by `cleanup`."""
        return self._generation

    def _all_entries(self) -> List[CacheEntry]:
        with self._lock:
            return list(self._generation.entries.values())

    def all_slots(self) -> List[Slot]:
        """Return the slots, one entry after the other."""
        return [slot for e in self._all_entries() if not e.is_removed() for slot in e.all_slots()]

    def stats(self) -> Dict[str, int]:
        """Return the counters of `SshClientCache.stats`."""
        slots = self.all_slots()
        with self._counting:
            counts = dict(self._counts)
        return {
            "leases": sum(len(slot.leases) for slot in slots),
            "waiting": sum(len(slot.waiters) for slot in slots),
            **counts,
        }

    def count(self, what: str, number: int = 1) -> None:
        """Increase a counter of `stats`."""
        with self._counting:
            self._counts[what] += number

    def _find_or_add_entry(self, key: ConnectKey, now: float) -> CacheEntry:
        """Return the entry of a key; make it if necessary.  It may be evicted at any time."""
        entry = self._generation.entries.get(key)  # read without the lock
        if entry is None or entry.was_evicted or entry.generation.is_retired:
            with self._lock:
                if self._generation.is_retired:
                    self._generation = Generation()
                entries = self._generation.entries
                entry = entries.get(key)
                if entry is None or entry.was_evicted:
                    entry = entries[key] = CacheEntry(key, self._generation, now)
        return entry

    def session_pool(self, key: ConnectKey, now: float) -> Any:
        """Return the session pool of a key, or None; this counts as a use of the entry."""
        found = self._generation.entries.get(key)  # read without the lock
        if found is None or found.is_removed():
            return None
        found.used_at = now
        return found.session_pool

    def set_session_pool(self, key: ConnectKey, made: Any, now: float) -> Any:
        """Store the session pool of a key, unless there is one; return the stored one."""
        while True:
            entry = self._find_or_add_entry(key, now)
            with entry.lock:
                if not entry.is_removed():
                    entry.used_at = now
                    if entry.session_pool is None:
                        entry.session_pool = made
                    return entry.session_pool

    # Leases.

    def lease(
        self,
        lease: Lease,
        target: Target,
        connection_no: int,
        now: float,
        idle_timeout: Optional[float] = None,
        max_lifetime: Optional[float] = None,
        generation: Optional[Generation] = None,
    ) -> bool:
        """
        Assign a slot to a lease; start a dial if the slot is new.

        Return False if the cache has been closed since `generation` was its current one.
        """
        key = target.key  # may read files, so not under the lock
        while True:  # repeats only if the entry was evicted, or the cache closed, meanwhile
            if generation is not None and generation.is_retired:
                return False
            entry = self._find_or_add_entry(key, now)
            with entry.lock:
                if entry.was_evicted or entry.generation.is_retired:
                    continue
                if generation is not None and entry.generation is not generation:
                    continue
                entry.used_at = now
                slot = entry.slots.get(connection_no)
                is_new = slot is None or slot.is_stale()
                if slot is None or is_new:
                    slot = Slot(target, connection_no, entry)
                    self._actions.start_dial(slot)
                    entry.slots[connection_no] = slot
                if idle_timeout is not None:
                    slot.idle_timeout = idle_timeout
                if max_lifetime is not None:
                    slot.max_lifetime = max_lifetime
                lease.slot = slot
                slot.leases.add(lease.token)
            break
        if is_new:
            self.count("dials")
            if self.is_over_limit():
                self._actions.evict_idle()
        return True

    def renew(self, lease: Lease, slot: Slot) -> bool:
        """Assign a slot to another lease; return False if the slot has left the cache."""
        with slot.entry.lock:
            kept = slot.is_in_cache()
            if kept:
                lease.slot = slot
                slot.leases.add(lease.token)
            return kept

    def release(
        self,
        slot: Slot,
        token: int,
        now: float,
        idle_timeout: Optional[float] = None,
        max_lifetime: Optional[float] = None,
    ) -> None:
        """Release a lease; do nothing if it was already released."""
        if token not in slot.leases:  # read without the lock
            return
        with slot.entry.lock:
            if token not in slot.leases:
                return
            slot.idle_since = slot.entry.used_at = now
            if idle_timeout is not None:
                slot.idle_timeout = idle_timeout
            if max_lifetime is not None:
                slot.max_lifetime = max_lifetime
            if len(slot.leases) == 1:
                self._schedule_expiry_locked(slot)
                if self.is_over_limit():
                    self._actions.evict_idle()
            slot.waiters.discard(token)
            slot.leases.discard(token)  # last: if interrupted before, the step can be repeated

    def _schedule_expiry_locked(self, slot: Slot, earliest: float = 0.0) -> None:
        """Schedule the expiry check of a slot, unless one is due earlier."""
        due = max(slot.expires_at(), earliest)
        if due < slot.next_expiry_check and slot.is_in_cache():
            self._actions.schedule_expiry(slot, due)
            slot.next_expiry_check = due

    # Dials.

    def is_in_cache(self, slot: Slot) -> bool:
        """Return whether a slot is in the cache; wait for a step in progress."""
        with slot.entry.lock:
            return slot.is_in_cache()

    def note_dialling(self, slot: Slot, transport: SshTransport) -> bool:
        """Record the transport being dialled; return False if the slot was retired."""
        with slot.entry.lock:
            slot.dialling = transport
            return not slot.is_retired

    def store_connection(self, slot: Slot, transport: SshTransport, now: float) -> bool:
        """Record the connection; return False if its slot has left the cache meanwhile."""
        entry = slot.entry
        with entry.lock:
            if not slot.is_in_cache():
                return False
            # Stored in the same step as the check, so that `retire` cannot miss the connection.
            slot.transport = transport
            slot.made_at = slot.idle_since = now
            again = slot.connection_no in entry.connected
            entry.connected.add(slot.connection_no)
            if not slot.leases:  # callers no longer wait
                self._schedule_expiry_locked(slot)
        if again:
            self.count("reconnects")
        return True

    def remove(self, slot: Slot, losses: int = 0) -> None:
        """Remove a slot whose dial failed or whose connection ended."""
        with slot.entry.lock:
            slot.failed = slot.transport is None
            _remove_locked(slot)
        if losses:
            self.count("losses", losses)

    # Closing.

    def enter(self) -> None:
        """Count a call of `SshClientCache.enter`."""
        with self._lock:
            self._entered += 1

    def is_entered_once(self) -> bool:
        """Return whether the next call of `leave` is likely to be the last one."""
        return self._entered == 1

    def leave(self) -> Optional[Generation]:
        """
        Undo one call of `enter`; the last one retires all entries, see `retire_all`.

        Return the retired generation; None if this was not the last one.

        Raises
        ------
        SshCacheClosed
            `leave` was called more often than `enter`.
        """
        with self._lock:
            if self._entered == 0:
                raise SshCacheClosed("SshClientCache.exit() was called more often than enter()")
            # Under the same lock, so that entries made after the next `enter` are not retired.
            gone = self._retire_all_locked() if self._entered == 1 else None
            self._entered -= 1
            return gone

    def retire_all(self) -> Generation:
        """Retire all entries, and have them closed; later callers get new entries."""
        with self._lock:
            return self._retire_all_locked()

    def _retire_all_locked(self) -> Generation:
        gone = self._generation
        self._actions.close_retired()
        self._retired.add(gone)
        gone.is_retired = True  # retires all of its slots at once
        self._generation = Generation()
        return gone

    def retired(self) -> List[Generation]:
        """Return the generations to be closed."""
        with self._lock:  # waits for a step in progress, which an exception may have interrupted
            for generation in self._retired:
                generation.is_retired = True
            return list(self._retired)

    def retire(self, entry: CacheEntry) -> Optional[List[Slot]]:
        """Return an entry's slots, to be closed; None if its lock could not be taken in time."""
        # From here on, either a slot has its connection, which the caller closes; or its dial
        # finds the slot retired, and closes the connection.
        if not entry.lock.acquire(timeout=_LOCK_TIMEOUT):
            return None
        try:
            entry.session_pool = None
            slots = entry.all_slots()
        finally:
            entry.lock.release()
        with self._lock:
            if not self._generation.is_retired and entry.connected:
                # So that the next connection counts as a reconnect.
                heir = CacheEntry(entry.key, self._generation, entry.used_at, entry.connected)
                self._generation.entries.setdefault(entry.key, heir)
        return slots

    def discard_retired(self, generation: Generation) -> None:
        """Forget a generation that is closed."""
        self._retired.discard(generation)

    def expire(self, slot: Slot, now: float, busy: bool) -> bool:
        """Remove a slot if it has expired; return whether it was removed."""
        if not slot.entry.lock.acquire(timeout=_LOCK_TIMEOUT):
            self._actions.schedule_expiry(slot, now + _BUSY_CHECK_INTERVAL)
            return False
        try:
            slot.next_expiry_check = NEVER
            if slot.leases:
                return False  # the release schedules the next check
            due = slot.expires_at()
            busy = busy or slot.transport is None  # still being dialled
            if due > now or busy or not slot.is_in_cache():
                self._schedule_expiry_locked(slot, now + _BUSY_CHECK_INTERVAL if busy else now)
                return False
            _remove_locked(slot)
            return True
        finally:
            slot.entry.lock.release()

    def evictable(self) -> List[IdleEntry]:
        """Return idle entries, least recently used first, if over the limit."""
        if not self.is_over_limit():
            return []
        idle = [IdleEntry(e, e.all_slots()) for e in self._all_entries() if not e.is_in_use()]
        return sorted(idle, key=lambda item: item.entry.used_at)

    def evict(self, idle: IdleEntry) -> bool:
        """Evict an entry; return False if it was used since, or the cache is within its limit."""
        entry, slots = idle
        if not self.is_over_limit() or not entry.lock.acquire(timeout=_LOCK_TIMEOUT):
            return False
        try:
            if entry.is_removed() or entry.is_in_use() or entry.all_slots() != slots:
                return False
            entry.was_evicted = True
        finally:
            entry.lock.release()
        with self._lock:
            if entry.generation.entries.get(entry.key) is entry:
                del entry.generation.entries[entry.key]
        return True

    def is_over_limit(self) -> bool:
        """Return whether there are more entries than `max_destinations`."""
        most = self.max_destinations
        return most is not None and len(self._generation.entries) > most


def _remove_locked(slot: Slot) -> None:
    if slot.is_in_cache():
        del slot.entry.slots[slot.connection_no]
