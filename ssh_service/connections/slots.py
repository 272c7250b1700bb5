"""
What the cache holds, and the steps that change it: an entry for each key, with its per-key lock.

Each method is one short step under one lock: an entry's, or the map's, never both.  It decides;
what is to be done about it, a dial or a close, is left to the `Actions` of a thread of ours.  They
are asked for under the lock and *before* the change: a chore takes the lock itself, so that it
looks when the step is over, and does what was decided.  An exception of a signal's handler
(Ctrl-C) that strikes anywhere in a step has either changed nothing, or what it changed is seen to.
"""

from __future__ import annotations

import threading
from typing import Any, Dict, List, NamedTuple, Optional, Protocol, Set

from ssh_service.connections.entries import NEVER, CacheEntry, Generation, Lease, Slot
from ssh_service.errors import SshCacheClosed
from ssh_service.params import ConnectKey, ConnectParams
from ssh_service.transport import SshTransport

# Seconds until a slot is looked at again that nobody leases, but that is dialled or has a channel.
_BUSY_CHECK_INTERVAL = 1.0
# Seconds that a thread of ours, which others need too, waits for an entry's lock.
_LOCK_TIMEOUT = 0.2
_COUNTED = ("dials", "reconnects", "losses", "refusals", "drops")


class Actions(Protocol):
    """What is left to a thread of ours; to ask for one takes no lock."""

    def start_dial(self, slot: Slot) -> None:
        """Dial, if the slot is kept."""

    def schedule_expiry(self, slot: Slot, instant: float) -> None:
        """Call `Slots.expire` at some instant."""

    def evict_idle(self) -> None:
        """Forget what is `Slots.evictable`."""

    def close_retired(self) -> None:
        """Close what is `retired`."""


class IdleEntry(NamedTuple):
    """An entry that nobody uses, and the slots it had when that was so."""

    entry: CacheEntry
    slots: List[Slot]


class Slots:
    """
    All entries of one cache, and their slots.

    Notes
    -----
    Thread safety.  Every method may be called from any thread.  `forget`, `expire` and `retire`
    are for threads of ours, and give up where they do not get an entry's lock soon.

    Guarantees.  An entry has at most one slot for each lane.  A slot that is leased, or is being
    dialled, is taken out by `retire_all` and `leave` alone.  What was taken out is never handed
    out again, and what is dialled for it is not published.  The lock of one entry keeps nobody
    from another.

    """

    def __init__(self, max_destinations: Optional[int], actions: Actions) -> None:
        self.max_destinations = max_destinations
        self._actions = actions
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()  # of the map
        self._generation = Generation()  # guarded by _lock, but for a look
        self._entered = 0  # guarded by _lock
        self._retired: Set[Generation] = set()  # to be closed; single operations on it are atomic
        self._counting = threading.Lock()
        self._counts = dict.fromkeys(_COUNTED, 0)  # guarded by _counting

    def reset_after_fork(self) -> List[Slot]:
        """Start anew, in a forked child; return what belongs to the parent."""
        # Without the locks: there is no other thread, but one of the parent's may have held them.
        inherited: List[Slot] = []
        for generation in {self._generation, *self._retired}:
            generation.is_retired = True
            for entry in generation.entries.values():
                entry.lock, entry.session_pool = threading.Lock(), None
                inherited += entry.all_slots()
        for slot in inherited:
            slot.leases.clear()
        self._reset()
        return inherited

    # What there is.

    @property
    def generation(self) -> Generation:
        """Whose entries are lent out now; it is over once all of them are being closed."""
        return self._generation

    def _all_entries(self) -> List[CacheEntry]:
        with self._lock:
            return list(self._generation.entries.values())

    def all_slots(self) -> List[Slot]:
        """List the slots, by a look at one entry after the other."""
        return [slot for e in self._all_entries() if not e.is_removed() for slot in e.all_slots()]

    def stats(self) -> Dict[str, int]:
        """Count leases, threads that wait, and what happened; see `SshClientCache.stats`."""
        slots = self.all_slots()
        with self._counting:
            counts = dict(self._counts)
        return {
            "leases": sum(len(slot.leases) for slot in slots),
            "waiting": sum(len(slot.waiters) for slot in slots),
            **counts,
        }

    def count(self, what: str, number: int = 1) -> None:
        """Count one more of something."""
        with self._counting:
            self._counts[what] += number

    def _find_or_add_entry(self, key: ConnectKey, now: float) -> CacheEntry:
        """Find the entry of a key, or make one; it may be evicted as soon as it was found."""
        entry = self._generation.entries.get(key)  # a look
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
        """Return what is kept for a key, which counts as a use of it; None: nothing."""
        found = self._generation.entries.get(key)  # a look
        if found is None or found.is_removed():
            return None
        found.used_at = now
        return found.session_pool

    def set_session_pool(self, key: ConnectKey, made: Any, now: float) -> Any:
        """Keep something for a key; return it, or what somebody else was first with."""
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
        target: ConnectParams,
        connection_no: int,
        now: float,
        idle_timeout: Optional[float] = None,
        max_lifetime: Optional[float] = None,
    ) -> None:
        """Let a lease have a slot; the dial of a new one, which is left to the chores, begins."""
        key = target.key  # which may read files
        while True:  # each time, somebody else has evicted what was found
            entry = self._find_or_add_entry(key, now)
            with entry.lock:
                if entry.was_evicted or entry.generation.is_retired:
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

    def renew(self, lease: Lease, slot: Slot) -> bool:
        """Let one more lease have a slot; return False if that was taken out."""
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
        """Give a lease back, unless that was done before."""
        if token not in slot.leases:  # a look
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
            slot.leases.discard(token)  # last: until here it can be done once more

    def _schedule_expiry_locked(self, slot: Slot, earliest: float = 0.0) -> None:
        """Have a slot looked at when its time is up, where no timer will do so by then."""
        due = max(slot.expires_at(), earliest)
        if due < slot.next_expiry_check and slot.is_in_cache():
            self._actions.schedule_expiry(slot, due)
            slot.next_expiry_check = due

    # Dials.

    def is_in_cache(self, slot: Slot) -> bool:
        """Tell whether a slot is in the cache, once the step that put it there is over."""
        with slot.entry.lock:
            return slot.is_in_cache()

    def note_dialling(self, slot: Slot, transport: SshTransport) -> bool:
        """Note that a dial has a stream; return False if nobody wants it any more."""
        with slot.entry.lock:
            slot.dialling = transport
            return not slot.is_retired

    def store_connection(self, slot: Slot, transport: SshTransport, now: float) -> bool:
        """Note that a dial has succeeded; return False if its slot was taken out meanwhile."""
        entry = slot.entry
        with entry.lock:
            if not slot.is_in_cache():
                return False
            # Where it is checked, so that whoever takes all out cannot miss it.
            slot.transport = transport
            slot.made_at = slot.idle_since = now
            again = slot.connection_no in entry.connected
            entry.connected.add(slot.connection_no)
            if not slot.leases:  # all who waited have gone
                self._schedule_expiry_locked(slot)
        if again:
            self.count("reconnects")
        return True

    def remove(self, slot: Slot, losses: int = 0) -> None:
        """Take a slot out whose dial has failed, or whose connection has ended."""
        with slot.entry.lock:
            slot.failed = slot.transport is None
            _remove_locked(slot)
        if losses:
            self.count("losses", losses)

    # What is to be closed.

    def enter(self) -> None:
        """Note one more user of the whole."""
        with self._lock:
            self._entered += 1

    def leave(self) -> Optional[Generation]:
        """
        Undo one `enter`; once nobody is left, do as `retire_all`, else return None.

        Raises
        ------
        SshCacheClosed
            It was called once too often.

        """
        with self._lock:
            if self._entered == 0:
                raise SshCacheClosed("SshClientCache.exit() was called more often than enter()")
            # Here, so that what the next `enter` brings is not closed with it.
            gone = self._retire_all_locked() if self._entered == 1 else None
            self._entered -= 1
            return gone

    def retire_all(self) -> Generation:
        """Have all there is closed, and return it.  Who comes later finds none of it."""
        with self._lock:
            return self._retire_all_locked()

    def _retire_all_locked(self) -> Generation:
        gone = self._generation
        self._actions.close_retired()
        self._retired.add(gone)
        gone.is_retired = True  # of all slots at once
        self._generation = Generation()
        return gone

    def retired(self) -> List[Generation]:
        """List what is to be closed."""
        with self._lock:  # once the step that retired it is over, or was torn
            for generation in self._retired:
                generation.is_retired = True
            return list(self._retired)

    def retire(self, entry: CacheEntry) -> Optional[List[Slot]]:
        """Take an entry's slots out, to be closed; return None where its lock was not had."""
        # From here on each slot either has its connection (the caller closes it) or not (its
        # dialler finds it gone, and closes what it brings).
        if not entry.lock.acquire(timeout=_LOCK_TIMEOUT):
            return None
        try:
            entry.session_pool = None
            slots = entry.all_slots()
        finally:
            entry.lock.release()
        with self._lock:
            if not self._generation.is_retired and entry.connected:
                # The next connection is a reconnect.
                heir = CacheEntry(entry.key, self._generation, entry.used_at, entry.connected)
                self._generation.entries.setdefault(entry.key, heir)
        return slots

    def discard_retired(self, generation: Generation) -> None:
        """Note that all of it is closed."""
        self._retired.discard(generation)

    def expire(self, slot: Slot, now: float, busy: bool) -> bool:
        """Take a slot out if its time is up; return whether it was."""
        if not slot.entry.lock.acquire(timeout=_LOCK_TIMEOUT):
            self._actions.schedule_expiry(slot, now + _BUSY_CHECK_INTERVAL)
            return False
        try:
            slot.next_expiry_check = NEVER
            if slot.leases:
                return False  # whoever holds it has it looked at when done
            due = slot.expires_at()
            busy = busy or slot.transport is None  # still dialled
            if due > now or busy or not slot.is_in_cache():
                self._schedule_expiry_locked(slot, now + _BUSY_CHECK_INTERVAL if busy else now)
                return False
            _remove_locked(slot)
            return True
        finally:
            slot.entry.lock.release()

    def evictable(self) -> List[IdleEntry]:
        """List what may be forgotten, if anything is to be: the longest unused first."""
        if not self.is_over_limit():
            return []
        idle = [IdleEntry(e, e.all_slots()) for e in self._all_entries() if not e.is_in_use()]
        return sorted(idle, key=lambda item: item.entry.used_at)

    def evict(self, idle: IdleEntry) -> bool:
        """Forget an entry; return False if it was used since, or that is no longer needed."""
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
        """Tell whether there are more entries than there are to be."""
        most = self.max_destinations
        return most is not None and len(self._generation.entries) > most


def _remove_locked(slot: Slot) -> None:
    if slot.is_in_cache():
        del slot.entry.slots[slot.connection_no]
