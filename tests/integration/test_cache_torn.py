"""An exception at every moment of what callers do with the cache: nothing is lost."""

from __future__ import annotations

import gc
import threading
from typing import Any, Callable, Dict, List, Optional

import pytest

from ssh_service import background
from ssh_service.connections.cache import SshClientCache
from ssh_service.errors import SshCacheClosed, SshServiceError
from tests.common import Outcome, eventually
from tests.injection import HOWS, Torn, moments, tear, torn_at
from tests.unit.engine_fakes import (
    PATIENCE,
    FakeTransport,
    connect_params,
    in_threads,
    target,
)

pytestmark = pytest.mark.filterwarnings("ignore:a lease of:ResourceWarning")

TARGET = target()

SECONDS = 0.6
"""For the moments of each call; a long test takes all of them."""


class Site:
    """A cache, what it dialled, and whether all is well with it."""

    def __init__(self, **options: Any) -> None:
        self.made: List[FakeTransport] = []
        self.cache = SshClientCache(dialer=self._dial, **options)

    def _dial(self, to: Any, deadline: float, **_: Any) -> FakeTransport:
        transport = FakeTransport(to.connection_id)
        self.made.append(transport)
        return transport

    def wait_for_chores(self) -> None:
        """Wait until what the cache left to a thread of ours is done."""
        done = threading.Event()
        background.submit(self.cache.lender._strand, done.set)
        assert done.wait(PATIENCE), "a chore is stuck"

    def is_well(self) -> None:
        """Nothing is leased, no dial is lost, no lock is taken, and a plain lease works."""
        self.wait_for_chores()
        if self.cache.stats()["leases"]:
            gc.collect()  # what holds them is part of a cycle
        eventually(lambda: self.cache.stats()["leases"] == 0, "all leases are given back")
        assert self.cache.stats()["waiting"] == 0
        for slot in self.cache._slots.all_slots():
            slot.connection.exception(PATIENCE)
            assert not slot.entry.lock.locked()
        assert not self.cache._slots._lock.locked()
        other = Outcome(self._use).wait()
        assert other.error is None, other.error
        assert self.cache.stats()["leases"] == 0

    def _use(self) -> None:
        for host in ("alpha", "beta"):
            with self.cache.lease(connect_params(host)) as (transport, _):
                assert transport.is_active()

    def close(self) -> None:
        self.cache.cleanup()
        assert len(self.cache) == 0
        for transport in self.made:
            eventually(lambda: not transport.is_active(), "all connections end")  # noqa: B023


def lease(cache: SshClientCache) -> None:
    with cache.lease(connect_params(), idle_timeout=3600.0) as (transport, _):
        assert transport.is_active()


def acquire(cache: SshClientCache) -> None:
    found = cache.acquire(TARGET)
    again = cache.renew(found)
    found.release(3600.0, 7200.0)
    if again is not None:
        again.release()


def request(cache: SshClientCache) -> None:
    cache.request(TARGET).release()


CALLS: Dict[str, Callable[[SshClientCache], object]] = {
    "lease": lease,
    "acquire": acquire,
    "request": request,
    "connect": lambda cache: cache.get_client_connection(connect_params()),
    "session_pool": lambda cache: cache.session_pool(TARGET.key, object),
    "look": lambda cache: (len(cache), str(cache), cache.stats()),
}


def tear_all(
    call: Callable[[SshClientCache], object], how: str, warm: bool, seconds: Optional[float]
) -> int:
    """Tear a call at its moments, or at those that some seconds allow; return at how many."""
    site = Site(max_destinations=1)

    def make() -> Callable[[], object]:
        if warm:
            site.cache.get_client_connection(connect_params())
        else:
            site.cache.cleanup()
        return lambda: call(site.cache)

    try:
        return tear(make, how, site.is_well, seconds, at_least=6)
    finally:
        site.close()


@pytest.mark.parametrize("warm", [True, False], ids=["warm", "cold"])
@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("name", CALLS)
def test_call_torn_anywhere_loses_nothing(name: str, how: str, warm: bool) -> None:
    assert tear_all(CALLS[name], how, warm, SECONDS) > 5


@pytest.mark.long
@pytest.mark.parametrize("warm", [True, False], ids=["warm", "cold"])
@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("name", CALLS)
def test_call_torn_at_each_of_its_moments_loses_nothing(name: str, how: str, warm: bool) -> None:
    assert tear_all(CALLS[name], how, warm, None) > 5


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("call", [SshClientCache.cleanup, SshClientCache.exit])
def test_interrupted_cleanup_closes_all_or_nothing(
    call: Callable[[SshClientCache], None], how: str
) -> None:
    """Everything it had decided to close is closed, even if no caller waits any more."""
    targets = [target(host) for host in ("alpha", "beta", "gamma")]
    for number in moments(8 * SECONDS):
        site = Site()
        site.cache.enter()
        for each in targets:
            site.cache.acquire(each).release()
        more = torn_at(number, lambda: call(site.cache), how)  # noqa: B023
        site.wait_for_chores()
        there = {transport.connection_id for transport in site.made if transport.is_active()}
        assert len(there) in (0, 3), f"{number}: {there}"
        assert len(site.cache) == len(there)
        site.is_well()
        site.close()
        if not more:
            assert number > 20
            return


@pytest.mark.parametrize("how", HOWS)
def test_waiter_torn_anywhere_keeps_no_other_from_the_connection(how: str) -> None:
    """The dial, and those who wait for it too, need nothing that the torn one may have taken."""
    gate = threading.Event()

    class Slow(Site):
        def _dial(self, to: Any, deadline: float, **_: Any) -> FakeTransport:
            assert gate.wait(PATIENCE)
            return super()._dial(to, deadline)

    for number in moments(8 * SECONDS):
        site = Slow()
        gate.clear()
        others = [Outcome(lambda: lease(site.cache)) for _ in range(2)]  # noqa: B023
        eventually(lambda: site.cache.stats()["waiting"] == 2, "they wait")  # noqa: B023
        slot = site.cache._slots.all_slots()[0]

        def open_gate() -> None:
            eventually(lambda: len(slot.waiters) > 2 or gate.is_set())  # noqa: B023
            gate.set()

        opener = Outcome(open_gate)
        more = torn_at(number, lambda: acquire(site.cache), how)  # noqa: B023
        gate.set()
        for other in [opener, *others]:
            assert other.wait().error is None
        site.is_well()
        site.close()
        if not more:
            return


def test_threads_torn_while_others_use_the_cache_lose_nothing() -> None:
    """As fast as can be, in many threads at once, while connections are lost and closed."""
    site = Site(max_destinations=2)

    def be_torn(offset: int) -> None:
        for number in moments(3 * SECONDS, first=offset, step=5):
            call = CALLS[("lease", "acquire", "request")[number % 3]]
            try:
                torn_at(number % 400, lambda: call(site.cache), HOWS[-1])  # noqa: B023
            except (SshServiceError, Torn):
                pass

    def disturb() -> None:
        for number in moments(3 * SECONDS):
            if number % 10 == 0:
                site.cache.cleanup()
            for transport in site.made[-1:]:
                transport.lose()
            try:
                site.cache.get_client_connection(connect_params("beta"))
            except SshCacheClosed:
                pass

    in_threads(*[lambda n=n: be_torn(n) for n in range(3)], disturb)
    site.is_well()
    site.close()
