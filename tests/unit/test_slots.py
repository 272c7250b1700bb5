"""The steps of the cache's state, one after the other: no thread, no connection, no clock."""

from __future__ import annotations

import random
from typing import Any, List, Optional, Tuple

import pytest

from ssh_service.connections.entries import Lease, Slot
from ssh_service.connections.slots import Slots
from ssh_service.errors import SshCacheClosed
from tests.common import Outcome
from tests.unit.engine_fakes import target


class Looked:
    """A connection that can only be looked at: a step that did more would fail."""

    def __init__(self) -> None:
        self.active = True

    def is_active(self) -> bool:
        return self.active


class Asked:
    """Writes down what is left to a thread of ours; and is who leases are given back to."""

    def __init__(self) -> None:
        self.dials: List[Slot] = []
        self.looks: List[float] = []
        self.rooms = 0
        self.closes = 0
        self.lost: List[int] = []  # tokens

    def start_dial(self, slot: Slot) -> None:
        assert slot.entry.lock.locked() and not slot.is_in_cache()
        self.dials.append(slot)

    def schedule_expiry(self, slot: Slot, instant: float) -> None:
        assert slot.entry.lock.locked()
        self.looks.append(instant)

    def evict_idle(self) -> None:
        self.rooms += 1

    def close_retired(self) -> None:
        self.closes += 1

    def release(self, lease: Lease, *limits: Optional[float]) -> None:
        raise AssertionError("not by these steps")

    def release_lost(self, slot: Slot, token: int, warn_if_lost: bool) -> None:
        self.lost.append(token)


@pytest.fixture
def asked() -> Asked:
    return Asked()


@pytest.fixture
def slots(asked: Asked) -> Slots:
    return Slots(None, asked)


def request(
    slots: Slots, host: str = "alpha", connection_no: int = 0, now: float = 0.0
) -> Tuple[Lease, bool]:
    """Lease a slot; return the lease, and whether the slot is new."""
    before = slots.stats()["dials"]
    lease = Lease(slots._actions)  # type: ignore[arg-type]
    slots.lease(lease, target(host), connection_no, now)
    return lease, slots.stats()["dials"] > before


def release(slots: Slots, lease: Lease, now: float, *limits: Optional[float]) -> None:
    slots.release(lease.slot, lease.token, now, *limits)


def fill(slots: Slots, host: str = "alpha", connection_no: int = 0, now: float = 0.0) -> Slot:
    """Have a slot with a connection that nobody leases."""
    lease, is_new = request(slots, host, connection_no, now)
    assert is_new and publish(slots, lease.slot, now)
    release(slots, lease, now)
    return lease.slot


def publish(slots: Slots, slot: Slot, now: float = 0.0) -> bool:
    transport: Any = Looked()
    return slots.store_connection(slot, transport, now)


def renew(slots: Slots, slot: Slot) -> Optional[Lease]:
    lease = Lease(slots._actions)  # type: ignore[arg-type]
    return lease if slots.renew(lease, slot) else None


def hold(slots: Slots, slot: Slot) -> Lease:
    lease = renew(slots, slot)
    assert lease is not None
    return lease


def take_all(slots: Slots) -> List[Slot]:
    """Close all, as the thread of ours does; return the slots."""
    slots.retire_all()
    return retired(slots)


def retired(slots: Slots) -> List[Slot]:
    found: List[Slot] = []
    for generation in slots.retired():
        for entry in generation.entries.values():
            found += slots.retire(entry) or []
        slots.discard_retired(generation)
    return found


# Who gets which.


def test_callers_share_a_dial_or_live_connection(slots: Slots, asked: Asked) -> None:
    first, is_new = request(slots)
    assert is_new and asked.dials == [first.slot]
    second, is_new = request(slots)
    assert second.slot is first.slot and not is_new
    assert publish(slots, first.slot)
    third, is_new = request(slots)
    assert third.slot is first.slot and not is_new
    assert asked.dials == [first.slot]
    assert slots.stats() == {
        "leases": 3, "waiting": 0, "dials": 1, "reconnects": 0, "losses": 0, "refusals": 0,
        "drops": 0,
    }  # fmt: skip
    assert first.slot.entry.refcount == 3


def test_connection_numbers_and_destinations_have_own_slots(slots: Slots) -> None:
    found = [
        request(slots, host, connection_no) for host in ("a", "b") for connection_no in (0, 1)
    ]
    assert all(is_new for _, is_new in found)
    assert slots.all_slots() == [lease.slot for lease, _ in found]


def test_a_slot_whose_connection_has_ended_is_replaced_before_it_is_dropped(slots: Slots) -> None:
    old = fill(slots)
    old.transport.active = False  # type: ignore[union-attr]
    new, is_new = request(slots)
    assert is_new and new.slot is not old
    slots.remove(old, losses=1)
    assert slots.all_slots() == [new.slot]
    assert slots.stats()["losses"] == 1


def test_caller_after_a_failed_dial_dials_again(slots: Slots) -> None:
    lease, _ = request(slots)
    slots.remove(lease.slot)
    assert slots.all_slots() == [] and lease.slot.failed
    assert request(slots)[1]
    assert slots.stats()["losses"] == 0


def test_reconnects_are_counted_across_cleanup(
    slots: Slots,
) -> None:
    fill(slots)
    fill(slots, connection_no=1)
    assert slots.stats()["reconnects"] == 0
    take_all(slots)
    fill(slots)
    assert slots.stats()["reconnects"] == 1


def test_threads_that_wait_are_counted_and_go_with_their_leases(slots: Slots) -> None:
    leases = [request(slots)[0] for _ in range(2)]
    for lease in leases:
        lease.slot.waiters.add(lease.token)
    assert slots.stats()["waiting"] == 2
    leases[0].slot.waiters.discard(leases[0].token)
    release(slots, leases[1], 0.0)
    assert slots.stats()["waiting"] == 0


# A lease is given back once.


def test_lease_released_twice_counts_once(slots: Slots) -> None:
    one, two = request(slots)[0], request(slots)[0]
    for _ in range(3):
        release(slots, one, 0.0)
    assert not one.is_held() and two.is_held()
    assert two.slot.entry.refcount == 1


def test_lease_dropped_unreleased_is_handed_to_its_owner(slots: Slots, asked: Asked) -> None:
    lease, kept = request(slots)[0], request(slots)[0]
    token = lease.token
    kept.slot.entry.lock.acquire()  # a destructor takes no lock
    del lease
    assert asked.lost == [token]
    kept.slot.entry.lock.release()
    slots.release(kept.slot, token, 0.0)
    release(slots, kept, 0.0)
    del kept
    assert asked.lost == [token] and slots.stats()["leases"] == 0


# What was taken out never comes back.


@pytest.mark.parametrize("how", ["all", "last exit", "dropped", "expired", "forgotten"])
def test_evicted_connection_is_not_leased_again(how: str, slots: Slots, asked: Asked) -> None:
    slot = fill(slots)
    if how == "all":
        assert take_all(slots) == [slot] and asked.closes == 1
    elif how == "last exit":
        slots.enter()
        assert slots.leave() is slot.entry.generation
        assert retired(slots) == [slot] and asked.closes == 1
    elif how == "dropped":
        slots.remove(slot)
    elif how == "expired":
        release(slots, hold(slots, slot), 0.0, 1.0)
        assert slots.expire(slot, 1.0, busy=False)
    else:
        slots.max_destinations = 0
        assert [slots.evict(unused) for unused in slots.evictable()] == [True]
    assert renew(slots, slot) is None
    assert slots.all_slots() == [] and not slot.leases
    assert slot.is_retired == (how in ("all", "last exit"))  # in use or not
    assert slots.retired() == []
    assert request(slots)[1]


@pytest.mark.parametrize("how", ["all", "last exit"])
def test_dial_of_an_evicted_slot_stops_at_each_step(how: str, slots: Slots) -> None:
    slots.enter()
    transport: Any = Looked()
    lease, _ = request(slots)
    slot = lease.slot
    assert slots.is_in_cache(slot) and slots.note_dialling(slot, transport)
    slots.retire_all() if how == "all" else slots.leave()
    assert retired(slots) == [slot]
    assert not slots.is_in_cache(slot)
    assert not slots.note_dialling(slot, transport)
    assert not publish(slots, slot)
    assert slot.transport is None and slot.dialling is transport
    assert slots.stats()["reconnects"] == 0


def test_only_the_last_exit_closes_and_an_extra_one_raises(
    slots: Slots,
) -> None:
    slots.enter()
    slots.enter()
    slot = fill(slots)
    assert slots.leave() is None
    assert hold(slots, slot)
    assert slots.leave() is slot.entry.generation
    with pytest.raises(SshCacheClosed, match="more often than enter"):
        slots.leave()


def test_exit_that_is_still_closing_leaves_what_the_next_enter_brings(slots: Slots) -> None:
    """From the last exit on, no caller gets a connection that it is about to close."""
    slots.enter()
    old = fill(slots)
    slots.leave()
    slots.enter()
    assert slots.session_pool(old.entry.key, 0.0) is None
    lease, is_new = request(slots)
    assert is_new and lease.slot is not old
    assert retired(slots) == [old]
    assert publish(slots, lease.slot) and not lease.slot.is_retired
    assert slots.all_slots() == [lease.slot]


def test_session_pool_is_shared_until_the_entry_goes(slots: Slots) -> None:
    key = target().key
    assert slots.session_pool(key, 0.0) is None
    assert slots.set_session_pool(key, "first", 0.0) == "first"
    assert slots.set_session_pool(key, "second", 0.0) == "first"
    assert slots.session_pool(key, 0.0) == "first"
    slots.retire_all()
    assert slots.session_pool(key, 0.0) is None
    assert slots.set_session_pool(key, "third", 0.0) == "third"


def test_a_forked_child_holds_nothing_even_if_the_parent_held_the_locks(slots: Slots) -> None:
    slots.enter()
    slot = fill(slots)
    lease = hold(slots, slot)
    slots._lock.acquire()
    slot.entry.lock.acquire()
    assert slots.reset_after_fork() == [slot]
    assert slots.all_slots() == [] and renew(slots, slot) is None
    release(slots, lease, 0.0)
    assert slots.stats()["dials"] == slots.stats()["leases"] == 0
    with pytest.raises(SshCacheClosed):
        slots.leave()


# An entry's lock is its own.


def test_per_key_lock_held_for_ever_blocks_nobody_else(slots: Slots, asked: Asked) -> None:
    """Another key, a new one, the counts, a look, an eviction and the rest of a cleanup go on."""
    stuck, other = fill(slots, "stuck"), fill(slots, "other", now=1.0)
    stuck.entry.lock.acquire()
    slots.max_destinations = 1

    def use_the_others() -> None:
        lease, is_new = request(slots, "other", now=2.0)
        assert not is_new
        release(slots, lease, 2.0)
        new, is_new = request(slots, "new", now=3.0)
        assert is_new and publish(slots, new.slot)
        assert slots.stats()["leases"] == 1
        assert set(slots.all_slots()) == {stuck, other, new.slot}
        assert [slots.evict(unused) for unused in slots.evictable()] == [False, True]
        assert set(slots.all_slots()) == {stuck, new.slot}
        assert not slots.expire(stuck, 100.0, busy=False)  # later
        slots.retire_all()
        assert retired(slots) == [new.slot]
        assert request(slots, "stuck")[1]  # the one that was retired is not waited for

    assert Outcome(use_the_others).wait().error is None


def test_key_found_evicted_is_looked_up_again(slots: Slots) -> None:
    """A caller that found an entry just before its eviction gets the new one."""
    old = fill(slots)
    found = slots._find_or_add_entry

    def evicted_meanwhile(key: Any, now: float) -> Any:
        entry = found(key, now)
        slots._find_or_add_entry = found  # type: ignore[method-assign]
        slots.max_destinations = 0
        assert [slots.evict(unused) for unused in slots.evictable()] == [True]
        return entry

    slots._find_or_add_entry = evicted_meanwhile  # type: ignore[method-assign]
    lease, is_new = request(slots)
    assert is_new and lease.slot is not old and lease.slot.is_in_cache()
    assert slots.all_slots() == [lease.slot]


# When to look.


def test_release_schedules_one_expiry_check(slots: Slots, asked: Asked) -> None:
    slot = fill(slots, now=100.0)

    def use(now: float, *limits: Optional[float]) -> List[float]:
        asked.looks.clear()
        release(slots, hold(slots, slot), now, *limits)
        return list(asked.looks)

    assert use(100.0) == []  # no limit, no look
    assert use(100.0, 60.0) == [160.0]
    assert use(110.0, 60.0) == []  # there is a timer by then
    assert use(120.0, 5.0) == [125.0]
    assert slots.expire(slot, 125.0, busy=False)


def test_of_two_limits_the_earlier_one_counts(slots: Slots, asked: Asked) -> None:
    slot = fill(slots, now=100.0)
    release(slots, hold(slots, slot), 150.0, 60.0, 70.0)
    assert asked.looks == [170.0]


def test_expiry_check_is_repeated_after_use(slots: Slots, asked: Asked) -> None:
    slot = fill(slots)
    for now in (0.0, 10.0):
        release(slots, hold(slots, slot), now, 60.0)
    assert not slots.expire(slot, 60.0, busy=False)
    assert not slots.expire(slot, 70.0, busy=True)
    lease = hold(slots, slot)
    assert not slots.expire(slot, 71.0, busy=False)  # its release will say when
    release(slots, lease, 80.0)
    slots.remove(slot)
    assert not slots.expire(slot, 140.0, busy=False)
    assert asked.looks == [60.0, 70.0, 71.0, 140.0]


def test_a_dial_that_takes_longer_than_its_slot_may_be_idle_goes_on(
    slots: Slots, asked: Asked
) -> None:
    lease, _ = request(slots)
    slot = lease.slot
    release(slots, lease, 0.0, 5.0)
    assert not slots.expire(slot, 5.0, busy=False)
    assert publish(slots, slot, 5.5)
    assert not slots.expire(slot, 6.0, busy=False)
    assert asked.looks == [5.0, 6.0, 10.5]


def test_dial_whose_callers_have_all_gone_is_looked_at(slots: Slots, asked: Asked) -> None:
    """Torn away before they released, perhaps: its limits hold all the same."""
    lease = Lease(asked)
    slots.lease(lease, target(), 0, 0.0, 5.0, None)
    lease.slot.leases.clear()
    assert publish(slots, lease.slot, 1.0)
    assert asked.looks == [6.0]


def test_evicted_slot_is_not_checked_for_expiry(slots: Slots, asked: Asked) -> None:
    lease = hold(slots, fill(slots))
    take_all(slots)
    release(slots, lease, 0.0, 60.0)
    assert asked.looks == []


# Room.


def test_evictable_entries_are_listed_over_the_limit_lru_first(
    slots: Slots,
) -> None:
    for now, host in enumerate(("a", "b", "c", "a")):
        lease, _ = request(slots, host, now=float(now))
        slots.remove(lease.slot)
        release(slots, lease, float(now))
    assert slots.evictable() == []
    slots.max_destinations = 2
    assert slots.is_over_limit()
    assert [unused.entry.key for unused in slots.evictable()] == [
        target(host).key for host in "bca"
    ]
    assert slots.evict(slots.evictable()[0])
    assert not slots.is_over_limit() and slots.evictable() == []


def test_eviction_skips_leased_entries_and_follows_a_release(slots: Slots, asked: Asked) -> None:
    slots.max_destinations = 1
    leased = fill(slots, "a")
    leases = [hold(slots, leased), hold(slots, leased)]
    dialled, _ = request(slots, "b")
    assert slots.evictable() == []
    asked.rooms = 0
    release(slots, dialled, 0.0)
    assert asked.rooms == 1
    assert slots.evictable() == []  # the dial goes on
    release(slots, leases[0], 0.0)
    assert asked.rooms == 1
    release(slots, leases[1], 0.0)
    assert asked.rooms == 2
    assert [unused.slots for unused in slots.evictable()] == [[leased]]


@pytest.mark.parametrize("what", ["leased", "lost", "redialled", "another lane", "room", "gone"])
def test_entry_used_since_listing_is_not_evicted(what: str, slots: Slots) -> None:
    slots.max_destinations = 0
    slot = fill(slots)
    (unused,) = slots.evictable()
    lease: Optional[Lease] = None
    if what == "leased":
        lease = hold(slots, slot)
    elif what == "lost":
        slots.remove(slot)
    elif what == "redialled":
        slots.remove(slot)
        lease, _ = request(slots)
    elif what == "another lane":
        fill(slots, connection_no=1)
    elif what == "room":
        slots.max_destinations = 1
    else:
        assert slots.evict(unused)
        fill(slots)
    before = slots.all_slots()
    assert not slots.evict(unused)
    assert slots.all_slots() == before
    assert lease is None or lease.is_held()


def test_session_pool_use_keeps_its_entry_from_eviction(slots: Slots) -> None:
    slots.max_destinations = 1
    for now, host in enumerate("ab"):
        fill(slots, host, now=float(now))
    slots.session_pool(target("a").key, 2.0)
    assert slots.evictable()[0].entry.key == target("b").key


# All of it in any order.


@pytest.mark.parametrize("seed", range(20))
def test_each_connection_is_returned_to_be_closed_exactly_once(seed: int, slots: Slots) -> None:
    """Published and then lost, expired, forgotten or taken out, whatever happens around it."""
    chance, now = random.Random(seed), 0.0
    slots.max_destinations = 2
    dialled: List[Slot] = []  # under way
    leased: List[Lease] = []
    published: List[Slot] = []
    closed: List[Slot] = []

    def end(taken: List[Slot]) -> None:
        closed.extend(slot for slot in taken if slot.transport is not None)

    for _ in range(1000):
        now += chance.random()
        step = chance.choice(["lease", "lease", "publish", "publish", "fail", "lose", "release",
                              "release", "expire", "forget", "all"])  # fmt: skip
        live = [slot for slot in published if slot not in closed]
        if step == "lease":
            lease, is_new = request(slots, chance.choice("abc"), chance.randrange(2), now)
            leased.append(lease)
            if is_new:
                dialled.append(lease.slot)
        elif step in ("publish", "fail") and dialled:
            slot = dialled.pop(chance.randrange(len(dialled)))
            if step == "fail":
                slots.remove(slot)
            elif publish(slots, slot, now):
                published.append(slot)
        elif step == "lose" and live:
            slot = chance.choice(live)
            slot.transport.active = False  # type: ignore[union-attr]
            slots.remove(slot, losses=1)
            closed.append(slot)
        elif step == "release" and leased:
            release(slots, leased.pop(chance.randrange(len(leased))), now, 3.0)
        elif step == "expire" and live + dialled:
            slot = chance.choice(live + dialled)
            if slots.expire(slot, now, busy=chance.random() < 0.2):
                assert slot not in [lease.slot for lease in leased] + dialled
                closed.append(slot)
        elif step == "forget":
            for unused in slots.evictable():
                if slots.evict(unused):
                    used = {*[lease.slot for lease in leased], *dialled}
                    assert not set(unused.slots) & used
                    end(unused.slots)
        elif step == "all" and chance.random() < 0.2:
            end(take_all(slots))
    end(take_all(slots))
    assert len(published) > 20
    assert sorted(closed, key=id) == sorted(published, key=id)
