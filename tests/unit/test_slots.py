"""The steps of the cache's state, one after the other: no thread, no connection, no clock."""

from __future__ import annotations

import random
from typing import Any, List, Optional

import pytest

from ssh_service.errors import SshCacheClosed
from ssh_service.slots import Slot, Slots
from tests.unit.engine_fakes import target


class Looked:
    """A connection that can only be looked at: a step that did more would fail."""

    def __init__(self) -> None:
        self.active = True

    def is_active(self) -> bool:
        return self.active


@pytest.fixture
def slots() -> Slots:
    return Slots(None)


def fill(slots: Slots, host: str = "alpha", lane: int = 0, now: float = 0.0) -> Slot:
    """Have a slot with a connection that nobody leases."""
    slot, is_new = slots.lease(target(host), lane, now)
    assert is_new and publish(slots, slot, now)
    slots.release(slot, now)
    return slot


def publish(slots: Slots, slot: Slot, now: float = 0.0) -> bool:
    transport: Any = Looked()
    return slots.publish(slot, transport, now)


def lease(slots: Slots, slot: Slot) -> None:
    assert slots.renew(slot)


# Who gets which.


def test_whoever_comes_while_a_slot_is_dialled_or_live_shares_it(slots: Slots) -> None:
    slot, is_new = slots.lease(target(), 0, 0.0)
    assert is_new
    assert slots.lease(target(), 0, 0.0) == (slot, False)
    assert publish(slots, slot)
    assert slots.lease(target(), 0, 0.0) == (slot, False)
    assert slots.stats() == {
        "leases": 3, "waiting": 0, "dials": 1, "reconnects": 0, "losses": 0, "refusals": 0,
        "drops": 0,
    }  # fmt: skip


def test_other_lanes_and_other_destinations_have_slots_of_their_own(slots: Slots) -> None:
    found = [slots.lease(target(host), lane, 0.0) for host in ("a", "b") for lane in (0, 1)]
    assert all(is_new for _, is_new in found)
    assert slots.all() == [slot for slot, _ in found]


def test_a_slot_whose_connection_has_ended_is_replaced_before_it_is_dropped(slots: Slots) -> None:
    old = fill(slots)
    old.transport.active = False  # type: ignore[union-attr]
    new, is_new = slots.lease(target(), 0, 0.0)
    assert is_new and new is not old
    slots.drop(old, losses=1)
    assert slots.all() == [new]
    assert slots.stats()["losses"] == 1


def test_whoever_comes_after_a_failed_dial_dials_again(slots: Slots) -> None:
    slot, _ = slots.lease(target(), 0, 0.0)
    slots.drop(slot)
    assert slots.all() == [] and slot.failed
    assert slots.lease(target(), 0, 0.0)[1]
    assert slots.stats()["losses"] == 0


def test_a_reconnect_is_a_connection_of_a_lane_that_had_one_even_before_a_cleanup(
    slots: Slots,
) -> None:
    fill(slots)
    fill(slots, lane=1)
    assert slots.stats()["reconnects"] == 0
    slots.take_all()
    fill(slots)
    assert slots.stats()["reconnects"] == 1


def test_threads_that_wait_are_counted(slots: Slots) -> None:
    slot, _ = slots.lease(target(), 0, 0.0)
    slots.count_waiting(slot, +1)
    slots.count_waiting(slot, +1)
    slots.count_waiting(slot, -1)
    assert slots.stats()["waiting"] == 1


# What was taken out never comes back.


@pytest.mark.parametrize("how", ["all", "last exit", "dropped", "expired", "forgotten"])
def test_what_was_taken_out_is_not_leased_again(how: str, slots: Slots) -> None:
    slot = fill(slots)
    if how == "all":
        assert slots.take_all() == [slot]
    elif how == "last exit":
        slots.enter()
        assert slots.leave() == [slot]
    elif how == "dropped":
        slots.drop(slot)
    elif how == "expired":
        lease(slots, slot)
        slots.release(slot, 0.0, idle_timeout=1.0)
        assert slots.expire(slot, 1.0, busy=False) == (True, None)
    else:
        slots.max_destinations = 0
        assert [slots.forget(unused) for unused in slots.unused()] == [True]
    assert not slots.renew(slot)
    assert slots.all() == [] and slot.leases == 0
    assert slot.closed == (how in ("all", "last exit"))  # in use or not
    assert slots.lease(target(), 0, 0.0)[1]


@pytest.mark.parametrize("how", ["all", "last exit"])
def test_a_dial_whose_slot_was_taken_out_is_told_so_at_each_step(how: str, slots: Slots) -> None:
    slots.enter()
    transport: Any = Looked()
    slot, _ = slots.lease(target(), 0, 0.0)
    assert slots.started(slot, transport)
    assert (slots.take_all() if how == "all" else slots.leave()) == [slot]
    assert not slots.started(slot, transport)
    assert not publish(slots, slot)
    assert slot.transport is None and slot.dialling is transport
    assert slots.stats()["reconnects"] == 0


def test_an_exit_takes_nothing_out_but_the_last_one_and_one_too_many_raises(
    slots: Slots,
) -> None:
    slots.enter()
    slots.enter()
    slot = fill(slots)
    assert slots.leave() == []
    assert slots.renew(slot)
    assert slots.leave() == [slot]
    with pytest.raises(SshCacheClosed, match="more often than enter"):
        slots.leave()


def test_what_lies_beside_is_the_first_ones_until_all_is_taken_out(slots: Slots) -> None:
    key = target().key
    assert slots.beside(key, 0.0) is None
    assert slots.keep_beside(key, "first", 0.0) == "first"
    assert slots.keep_beside(key, "second", 0.0) == "first"
    assert slots.beside(key, 0.0) == "first"
    slots.take_all()
    assert slots.beside(key, 0.0) is None


def test_a_forked_child_holds_nothing_even_if_the_parent_held_the_lock(slots: Slots) -> None:
    slots.enter()
    slot = fill(slots)
    lease(slots, slot)
    slots._lock.acquire()
    assert slots.disown() == [slot]
    assert slots.all() == [] and not slots.renew(slot)
    assert slots.stats()["dials"] == slots.stats()["leases"] == 0
    with pytest.raises(SshCacheClosed):
        slots.leave()


# When to look.


def test_a_release_says_when_to_look_once_for_each_earlier_end(slots: Slots) -> None:
    slot = fill(slots, now=100.0)

    def use(now: float, *limits: Optional[float]) -> Optional[float]:
        lease(slots, slot)
        return slots.release(slot, now, *limits)[0]

    assert use(100.0) is None  # no limit, no look
    assert use(100.0, 60.0) == 160.0
    assert use(110.0, 60.0) is None  # there is a timer by then
    assert use(120.0, 5.0) == 125.0
    assert slots.expire(slot, 125.0, busy=False) == (True, None)


def test_of_two_limits_the_earlier_one_counts(slots: Slots) -> None:
    slot = fill(slots, now=100.0)
    lease(slots, slot)
    assert slots.release(slot, 150.0, 60.0, 70.0)[0] == 170.0


def test_what_was_used_since_is_looked_at_again_when_it_would_end(slots: Slots) -> None:
    slot = fill(slots)
    for now in (0.0, 10.0):
        lease(slots, slot)
        slots.release(slot, now, 60.0)
    assert slots.expire(slot, 60.0, busy=False) == (False, 70.0)
    assert slots.expire(slot, 70.0, busy=True) == (False, 71.0)
    lease(slots, slot)
    assert slots.expire(slot, 71.0, busy=False) == (False, None)  # its release will say when
    assert slots.release(slot, 80.0)[0] == 140.0
    slots.drop(slot)
    assert slots.expire(slot, 140.0, busy=False) == (False, None)


def test_a_dial_that_takes_longer_than_its_slot_may_be_idle_goes_on(slots: Slots) -> None:
    slot, _ = slots.lease(target(), 0, 0.0)
    assert slots.release(slot, 0.0, 5.0)[0] == 5.0
    assert slots.expire(slot, 5.0, busy=False) == (False, 6.0)
    assert publish(slots, slot, 5.5)
    assert slots.expire(slot, 6.0, busy=False) == (False, 10.5)


def test_a_slot_that_was_taken_out_is_not_looked_at(slots: Slots) -> None:
    slot = fill(slots)
    lease(slots, slot)
    slots.take_all()
    assert slots.release(slot, 0.0, 60.0) == (None, False)


# Room.


def test_what_may_be_forgotten_is_listed_only_beyond_the_bound_the_longest_unused_first(
    slots: Slots,
) -> None:
    for now, host in enumerate(("a", "b", "c", "a")):
        slot, _ = slots.lease(target(host), 0, float(now))
        slots.drop(slot)
        slots.release(slot, float(now))
    assert slots.unused() == []
    slots.max_destinations = 2
    assert slots.is_crowded()
    assert [unused.destination.key for unused in slots.unused()] == [
        target(host).key for host in "bca"
    ]
    assert slots.forget(slots.unused()[0])
    assert not slots.is_crowded() and slots.unused() == []


def test_what_is_leased_or_dialled_is_not_listed_and_a_release_says_that_there_is_something(
    slots: Slots,
) -> None:
    slots.max_destinations = 1
    leased = fill(slots, "a")
    lease(slots, leased)
    lease(slots, leased)
    dialled, _ = slots.lease(target("b"), 0, 0.0)
    assert slots.unused() == []
    assert slots.release(dialled, 0.0) == (None, True)
    assert slots.unused() == []  # the dial goes on
    assert slots.release(leased, 0.0) == (None, False)
    assert slots.release(leased, 0.0) == (None, True)
    assert [unused.slots for unused in slots.unused()] == [[leased]]


@pytest.mark.parametrize("what", ["leased", "lost", "redialled", "another lane", "room", "gone"])
def test_what_changed_since_it_was_listed_is_not_forgotten(what: str, slots: Slots) -> None:
    slots.max_destinations = 0
    slot = fill(slots)
    (unused,) = slots.unused()
    if what == "leased":
        lease(slots, slot)
    elif what == "lost":
        slots.drop(slot)
    elif what == "redialled":
        slots.drop(slot)
        slots.lease(target(), 0, 0.0)
    elif what == "another lane":
        fill(slots, lane=1)
    elif what == "room":
        slots.max_destinations = 1
    else:
        assert slots.forget(unused)
        fill(slots)
    before = slots.all()
    assert not slots.forget(unused)
    assert slots.all() == before


def test_the_use_of_what_lies_beside_puts_off_that_it_is_forgotten(slots: Slots) -> None:
    slots.max_destinations = 1
    for now, host in enumerate("ab"):
        fill(slots, host, now=float(now))
    slots.beside(target("a").key, 2.0)
    assert slots.unused()[0].destination.key == target("b").key


# All of it in any order.


@pytest.mark.parametrize("seed", range(20))
def test_each_connection_is_returned_to_be_closed_exactly_once(seed: int, slots: Slots) -> None:
    """Published and then lost, expired, forgotten or taken out, whatever happens around it."""
    chance, now = random.Random(seed), 0.0
    slots.max_destinations = 2
    targets = [target(host) for host in "abc"]
    dialled: List[Slot] = []  # under way
    leased: List[Slot] = []
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
            slot, is_new = slots.lease(chance.choice(targets), chance.randrange(2), now)
            leased.append(slot)
            if is_new:
                dialled.append(slot)
        elif step in ("publish", "fail") and dialled:
            slot = dialled.pop(chance.randrange(len(dialled)))
            if step == "fail":
                slots.drop(slot)
            elif publish(slots, slot, now):
                published.append(slot)
        elif step == "lose" and live:
            slot = chance.choice(live)
            slot.transport.active = False  # type: ignore[union-attr]
            slots.drop(slot, losses=1)
            closed.append(slot)
        elif step == "release" and leased:
            slots.release(leased.pop(chance.randrange(len(leased))), now, idle_timeout=3.0)
        elif step == "expire" and live + dialled:
            slot = chance.choice(live + dialled)
            if slots.expire(slot, now, busy=chance.random() < 0.2)[0]:
                assert slot not in leased + dialled
                closed.append(slot)
        elif step == "forget":
            for unused in slots.unused():
                if slots.forget(unused):
                    assert not set(unused.slots) & {*leased, *dialled}
                    end(unused.slots)
        elif step == "all" and chance.random() < 0.2:
            end(slots.take_all())
    end(slots.take_all())
    assert len(published) > 20
    assert sorted(closed, key=id) == sorted(published, key=id)
