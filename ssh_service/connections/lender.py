"""
Lends the connections of one cache, and dials, expires, evicts and closes them.

The lender has no reference to the cache.  Connections, dials and timers refer only to the lender,
and only leases keep the cache alive.  So a cache without other references is collected even if it
has open connections, which are then closed.

`Slots` decides, under an entry's per-key lock or the lock of the map.  The lender acts afterwards,
on worker threads, which no exception of a signal handler (Ctrl-C) reaches.  Only connections of an
entry whose refcount, the number of its leases, is zero may expire or be evicted.
"""

from __future__ import annotations

import logging
import time
import warnings
import weakref
from typing import Any, Callable, Optional, Set, Tuple

from ssh_service import background, events
from ssh_service.connections import dials
from ssh_service.connections.client import SshClient
from ssh_service.connections.dials import Dial, Dialer
from ssh_service.connections.entries import CacheEntry, Generation, Lease, Slot, Target
from ssh_service.connections.slots import Slots
from ssh_service.errors import SshConnectError, SshConnectTimeout, copy_for_raise
from ssh_service.transport import SshTransport
from ssh_service.transport.lock_free import LockFreeEvent

_log = logging.getLogger(__name__)

# Seconds for which a user's hook may delay the callers that wait for the connection.
_HOOK_TIMEOUT = 1.0
# Seconds that a worker thread may take to close all connections, before the caller closes them.
_CLOSE_TIMEOUT = 5.0
# Seconds for commands that are being ended before the cache is closed: TERM, KILL a second later,
# round trips; and seconds until it looks again.
_ENDING_TIMEOUT, _ENDING_INTERVAL = 2.5, 0.005
# Seconds until the next attempt to close entries whose lock was taken.
_CLOSE_RETRY_INTERVAL = 1.0


class Lender:
    """
    Lends the connections of one cache.

    Notes
    -----
    Thread safety.  Every method may be called from any thread.

    """

    def __init__(
        self,
        client_factory: Callable[[], SshClient],
        max_destinations: Optional[int],
        dialer: Dialer,
    ) -> None:
        self.slots = Slots(max_destinations, self)
        self.subscribers: Tuple[events.Subscriber, ...] = ()  # replaced, never changed in place
        # The commands that are being ended; changed only by atomic operations.
        self.being_ended: Set[Any] = set()
        self._client_factory = client_factory
        self._dialer = dialer
        self._strand = background.Strand()
        self._has_threads = False
        self.cache: Callable[[], Any] = lambda: None  # a weak reference

    # Methods for leases.

    def bind_cache(self, cache: Any) -> None:
        """Store a weak reference to the cache; leases keep the cache alive."""
        self.cache = weakref.ref(cache)

    def request(
        self,
        target: Target,
        connection_no: int = 0,
        idle_timeout: Optional[float] = None,
        max_lifetime: Optional[float] = None,
        *,
        keeps_cache: bool = True,
        generation: Optional[Generation] = None,
    ) -> Lease:
        """
        Lease a connection without waiting; it may still have to be dialled.

        Raises
        ------
        SshCacheClosed
            The cache has been closed since `generation` was its current one.
        """
        background.require_threads()
        lease, now = Lease(self, self.cache() if keeps_cache else None), time.monotonic()
        self._has_threads = self._has_threads or background.ensure_threads()  # they stay
        if self._has_threads:
            limits = (idle_timeout, max_lifetime)
            if not self.slots.lease(lease, target, connection_no, now, *limits, generation):
                raise dials.cache_closed_error()
        else:  # without threads, the slot would never be dialled
            lease.slot = _without_threads(target, connection_no)
        return lease

    def wait(self, lease: Lease, target: Target, deadline: Optional[float]) -> None:
        """
        Wait for the connection of a lease, until a monotonic deadline.

        Raises
        ------
        SshConnectError
            No authenticated connection could be made; each caller gets its own copy of the error.
        """
        slot = lease.slot
        if not slot.connection.done():
            self._wait_for_dial(lease, target, deadline)
        error = slot.connection.exception()
        if error is not None:
            raise copy_for_raise(error) from error
        if not slot.hook_done.is_set() and not background.is_callback_thread():
            # Counted from the end of the dial: a hook that never returns delays no later caller.
            patience = slot.made_at + _HOOK_TIMEOUT
            slot.hook_done.wait(
                _seconds_left(patience if deadline is None else min(patience, deadline))
            )

    @staticmethod
    def _wait_for_dial(lease: Lease, target: Target, deadline: Optional[float]) -> None:
        slot, began = lease.slot, time.monotonic()
        if slot.target.connect_timeout > target.connect_timeout:  # a dial with other parameters
            own = began + target.connect_timeout
            deadline = own if deadline is None else min(deadline, own)
        try:
            slot.waiters.add(lease.token)  # the release discards it, too, if this is interrupted
            if not slot.connection.wait(None if deadline is None else max(0.0, deadline - began)):
                name, phase = slot.target.connection_id, slot.dial_phase
                raise SshConnectTimeout(
                    f"{name}: not connected within {time.monotonic() - began:.1f} s"
                    f" (phase: {phase})",
                    connection_id=name,
                    phase=phase,
                )
        finally:
            slot.waiters.discard(lease.token)

    def renew(self, slot: Slot) -> Optional[Lease]:
        """Return another lease of a slot's connection, or None if the slot has left the cache."""
        lease = Lease(self, self.cache())
        return lease if self.slots.renew(lease, slot) else None

    def release(
        self,
        lease: Lease,
        idle_timeout: Optional[float] = None,
        max_lifetime: Optional[float] = None,
    ) -> None:
        """Release a lease; do nothing if it was already released."""
        self.slots.release(lease.slot, lease.token, time.monotonic(), idle_timeout, max_lifetime)

    def release_lost(self, slot: Slot, token: int, warn_if_lost: bool) -> None:
        """Release a lease whose object was collected; called by the lease's destructor."""
        background.submit_from_destructor(
            self._strand, self._release_lost, slot, token, warn_if_lost
        )

    def _release_lost(self, slot: Slot, token: int, warn_if_lost: bool) -> None:
        self.slots.release(slot, token, time.monotonic())
        if warn_if_lost:
            _warn_leaked(f"a lease of {slot.target.connection_id} was not released")

    # Actions on a worker thread; `Slots` submits them while it holds a lock.

    def start_dial(self, slot: Slot) -> None:
        """Dial a slot on a thread of its own."""
        background.submit(self._strand, self._start_dial, slot)

    def _start_dial(self, slot: Slot) -> None:
        if self.slots.is_in_cache(slot):
            Dial(
                slot,
                self.slots,
                client_factory=self._client_factory,
                dialer=self._dialer,
                open_tunnel=self._open_tunnel,
                publish=self.publish,
            ).start()

    def _open_tunnel(
        self, hop: Target, deadline: float
    ) -> Tuple[SshTransport, Callable[[], None]]:
        lease = self.request(hop, keeps_cache=False)  # a connection holds this lease
        try:
            self.wait(lease, hop, deadline)
        except BaseException:
            lease.release()
            raise
        return lease.connection.result()[0], lease.release

    def publish(self, event: events.Event) -> None:
        """Deliver an event to the subscribers, on the callback thread."""
        if self.subscribers:
            background.run_callback(events.publish, self.subscribers, event)

    def schedule_expiry(self, slot: Slot, instant: float) -> None:
        """Check at an instant whether a slot has expired; the timer keeps no object alive."""
        lender, watched = weakref.ref(self), weakref.ref(slot)

        def look() -> None:
            its_lender, its_slot = lender(), watched()
            if its_lender is not None and its_slot is not None:
                its_lender.expire(its_slot)

        background.call_at(instant, look)

    def expire(self, slot: Slot) -> None:
        """Close the connection of a slot if it has expired and is not in use."""
        if self.slots.expire(slot, time.monotonic(), slot.is_busy()):
            _close_slot(slot, "it has expired")

    def evict_idle(self) -> None:
        """Evict idle entries until the cache is within its limit."""
        background.submit(self._strand, self._evict_idle)

    def _evict_idle(self) -> None:
        for unused in self.slots.evictable():
            if not self.slots.is_over_limit():
                return
            if not any(slot.is_busy() for slot in unused.slots) and self.slots.evict(unused):
                for slot in unused.slots:
                    _close_slot(slot, "max_destinations was exceeded")

    def close_retired(self) -> None:
        """Close all retired generations."""
        background.submit(self._strand, self._close_retired)

    def _close_retired(self) -> None:
        for generation in self.slots.retired():
            entries = list(generation.entries.values())
            found = [self.slots.retire(entry) for entry in entries]
            dials.close_slots([slot for slots in found if slots is not None for slot in slots])
            if None in found:  # the lock of an entry could not be taken in time
                background.call_at(time.monotonic() + _CLOSE_RETRY_INTERVAL, self.close_retired)
            else:
                self.slots.discard_retired(generation)

    def wait_for_endings(self) -> None:
        """
        Wait a little for the commands that are being ended.

        Ending them may take another session: without its connection they would be left running.
        """
        if background.is_worker_thread():  # they need it
            return
        deadline = time.monotonic() + _ENDING_TIMEOUT
        while any(not one.has_outcome for one in list(self.being_ended)):
            if time.monotonic() >= deadline:
                return
            time.sleep(_ENDING_INTERVAL)

    def close_and_wait(self, retired: Optional[Generation]) -> None:
        """Wait until a retired generation is closed; do nothing for None."""
        if retired is None:
            return
        closed = LockFreeEvent()
        if background.ensure_threads() and not background.is_worker_thread():
            background.submit(self._strand, closed.set)  # runs after `_close_retired`
            closed.wait(_CLOSE_TIMEOUT)
        if not closed.is_set():
            self._close_retired()
        slots = [slot for entry in list(retired.entries.values()) for slot in entry.all_slots()]
        for transport in dials.transports_of(slots):
            transport.close()  # waits for the reader thread

    def close_dropped(self) -> None:
        """Close all connections of a collected cache; called by the cache's destructor."""
        background.submit_from_destructor(self._strand, self._close_dropped)

    def _close_dropped(self) -> None:
        used = [slot for slot in self.slots.all_slots() if slot.is_live() or slot.is_in_use()]
        names = sorted({slot.target.connection_id for slot in used})
        self.slots.retire_all()
        if names:
            _warn_leaked(
                f"an SshClientCache was not closed; it was connected to {', '.join(names)}"
            )

    def reset_after_fork(self) -> None:
        """Start empty in a forked child."""
        self._strand, self._has_threads = background.Strand(), False
        self.being_ended.clear()
        for slot in self.slots.reset_after_fork():
            if slot.transport is not None:
                slot.transport.close()  # closes only this process's copy of the descriptor


def _without_threads(target: Target, connection_no: int) -> Slot:
    slot = Slot(target, connection_no, CacheEntry(target.key, Generation(), 0.0))
    name = target.connection_id
    text = f"{name}: cannot connect: the system gives no more threads"
    slot.failed = slot.connection.settle(
        error=SshConnectError(text, connection_id=name, phase="connect")
    )
    return slot


def _close_slot(slot: Slot, why: str) -> None:
    if slot.transport is not None:
        _log.debug("%s: closed, as %s", slot.target.connection_id, why)
        slot.transport.close_nowait()


def _warn_leaked(text: str) -> None:
    try:
        warnings.warn(text, ResourceWarning, stacklevel=2)
    except ResourceWarning as warning:  # the user's filters turn it into an error
        _log.error("%s", warning)


def _seconds_left(deadline: Optional[float]) -> Optional[float]:
    return None if deadline is None else max(0.0, deadline - time.monotonic())
