"""The cache's guarantees, each against the interleaving that would break it."""

from __future__ import annotations

import gc
import sys
import threading
import traceback
from functools import partial
from typing import Any, Callable, Dict, Iterator, List

import pytest

from ssh_service.connections.cache import SshClientCache
from ssh_service.connections.client import SshClient
from ssh_service.errors import SshAuthError, SshCacheClosed, SshConnectError
from tests.common import eventually
from tests.unit.engine_fakes import (
    PATIENCE,
    FakeTransport,
    GatedDialer,
    callbacks_done,
    connect_params,
    in_threads,
    outcome,
    target,
)


@pytest.fixture
def dialer() -> GatedDialer:
    return GatedDialer()


@pytest.fixture
def connections(dialer: GatedDialer) -> Iterator[SshClientCache]:
    connections = SshClientCache(dialer=dialer)
    yield connections
    dialer.release()
    connections.cleanup()
    callbacks_done()


@pytest.fixture
def fine_grained() -> Iterator[None]:
    """Let threads be switched as often as can be."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class After:
    """A lock that calls a function, once, right after it was given up for the n-th time."""

    def __init__(self, lock: Any, count: int, function: Callable[[], Any]) -> None:
        self._lock = lock
        self._left = count
        self._function = function

    def acquire(self, *args: Any, **kwargs: Any) -> bool:
        return bool(self._lock.acquire(*args, **kwargs))

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *exc_info: object) -> None:
        self.release()

    def release(self) -> None:
        self._lock.release()
        self._left -= 1
        if self._left == 0:
            self._function()


def wait_until_all_wait(connections: SshClientCache, count: int) -> None:
    """Return when so many threads wait for a dial."""
    eventually(lambda: connections.stats()["waiting"] >= count, f"{count} threads wait")


def start(count: int, function: Callable[[], Any], results: List[Any]) -> List[threading.Thread]:
    threads = [
        threading.Thread(target=lambda: results.append(outcome(function)), daemon=True)
        for _ in range(count)
    ]
    for thread in threads:
        thread.start()
    return threads


def join(threads: List[threading.Thread]) -> None:
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive(), "a caller still waits"


def test_a_hundred_callers_share_one_dial_and_its_connection(
    connections: SshClientCache, dialer: GatedDialer
) -> None:
    dialer.hold("alpha")
    results: List[Any] = []
    threads = start(100, lambda: connections.get_client_connection(connect_params()), results)
    wait_until_all_wait(connections, 100)
    assert dialer.dials == ["alpha"]
    dialer.release()
    join(threads)
    assert len(set(results)) == 1
    assert results[0][0] is dialer.transports[0]
    assert dialer.dials == ["alpha"]
    assert connections.stats()["leases"] == 0


def test_failed_dial_gives_each_of_100_callers_its_own_error(
    connections: SshClientCache, dialer: GatedDialer
) -> None:
    dialer.hold("alpha")
    shared = SshAuthError("refused", tried=("publickey",))
    dialer.errors["alpha"] = [shared]
    results: List[Any] = []
    threads = start(100, lambda: connections.get_client_connection(connect_params()), results)
    wait_until_all_wait(connections, 100)
    dialer.release()
    join(threads)
    assert len(results) == len({id(error) for error in results}) == 100
    for error in results:
        assert type(error) is SshAuthError
        assert str(error) == "refused"
        assert error.tried == ("publickey",)
        assert error.__cause__ is shared
        assert len(traceback.extract_tb(error.__traceback__)) < 8
    assert len(traceback.extract_tb(shared.__traceback__)) < 8  # nobody raised the shared one
    assert dialer.dials == ["alpha"]
    connections.get_client_connection(connect_params())
    assert dialer.dials == ["alpha"] * 2


def test_caller_of_a_failed_dial_can_redial_at_once(
    connections: SshClientCache, dialer: GatedDialer
) -> None:
    """The failed slot has left the cache before any waiter gets the error."""
    dialer.errors["alpha"] = [SshConnectError("refused")]
    dialer.hold("alpha")
    slot = connections.request(target())
    again: List[Any] = []
    told = threading.Event()

    def dial_again(_: Any) -> None:
        again.append(connections.request(target()))
        told.set()

    slot.connection.add_done_callback(dial_again)
    dialer.release()
    assert isinstance(slot.connection.exception(PATIENCE), SshConnectError)
    dialer.wait_dialling(2)
    assert told.wait(PATIENCE)
    assert again[0] is not slot
    assert again[0].connection.result(PATIENCE)[0] is dialer.transports[0]
    connections.release(slot)
    connections.release(again[0])


def test_slow_host_delays_only_its_own_callers(
    connections: SshClientCache, dialer: GatedDialer
) -> None:
    slow = [f"slow-{n}" for n in range(64)]
    dialer.hold(*slow)
    results: List[Any] = []
    threads: List[threading.Thread] = []
    for host in slow:
        threads += start(
            1, partial(connections.get_client_connection, connect_params(host)), results
        )
    dialer.wait_dialling(64)
    for host in ("good", "better"):
        for _ in range(2):
            assert connections.get_client_connection(connect_params(host))[0].is_active()
    assert results == []
    assert len(connections) == 2
    dialer.release()
    join(threads)
    assert len(connections) == 66


def test_cleanup_while_dialling_fails_waiters_and_closes_the_dial(
    connections: SshClientCache, dialer: GatedDialer
) -> None:
    dialer.hold("alpha")
    results: List[Any] = []
    threads = start(10, lambda: connections.get_client_connection(connect_params()), results)
    wait_until_all_wait(connections, 10)
    dialer.wait_dialling(1)
    connections.cleanup()
    join(threads)  # while the dial is still in progress
    assert [type(error) for error in results] == [SshCacheClosed] * 10
    assert len({id(error) for error in results}) == 10
    ended = threading.Event()
    dialer.prepare = lambda transport: transport.add_done_callback(lambda *_: ended.set())
    dialer.release()
    assert ended.wait(PATIENCE)
    assert not dialer.transports[0].is_active()
    assert len(connections) == 0
    assert connections.stats()["leases"] == 0


def test_a_call_after_cleanup_dials_anew_while_the_old_dial_is_in_progress(
    connections: SshClientCache, dialer: GatedDialer
) -> None:
    dialer.hold("alpha")
    old = connections.request(target())
    dialer.wait_dialling(1)
    connections.cleanup()
    new = connections.request(target())
    dialer.wait_dialling(2)
    dialer.release()
    transport, client = new.connection.result(PATIENCE)
    assert isinstance(old.connection.exception(PATIENCE), SshCacheClosed)
    assert transport.is_active() and client.connection() is transport
    connections.release(old)
    connections.release(new)
    callbacks_done()
    assert [t.is_active() for t in dialer.transports].count(True) == 1
    assert connections.get_client_connection(connect_params())[0] is transport


def test_cleanup_between_the_end_of_the_dial_and_its_publication_closes_the_newcomer(
    connections: SshClientCache, dialer: GatedDialer
) -> None:
    dialer.prepare = lambda transport: connections.cleanup()
    slot = connections.request(target())
    assert isinstance(slot.connection.exception(PATIENCE), SshCacheClosed)
    connections.release(slot)
    dialer.prepare = lambda transport: None
    connections.get_client_connection(connect_params())
    first, second = dialer.transports
    assert transport_ends(first) and second.is_active()


def test_cleanup_right_after_the_publication_closes_the_newcomer(
    connections: SshClientCache, dialer: GatedDialer
) -> None:
    """Check and publication are one step: whichever moment it falls on, nothing stays open."""
    destination, slots = target(), connections._slots
    for count in range(1, 9):
        before = len(dialer.transports)
        connections.session_pool(destination.key, object)  # makes the entry
        entry = slots._generation.entries[destination.key]
        lock = entry.lock
        entry.lock = After(lock, count, connections.cleanup)  # type: ignore[assignment]
        result = outcome(lambda: connections.get_client_connection(connect_params()))
        entry.lock = lock
        callbacks_done()
        connections.cleanup()
        assert isinstance(result, (tuple, SshCacheClosed))
        for transport in dialer.transports[before:]:
            assert transport_ends(transport), f"left open when cleaned up after lock {count}"


def transport_ends(transport: FakeTransport) -> bool:
    ended = threading.Event()
    transport.add_done_callback(lambda *_: ended.set())
    return ended.wait(PATIENCE)


def test_cleanup_ends_a_dial_and_is_the_reported_reason() -> None:
    """Not "the server closed the connection", which is what the hung-up dial finds."""
    told: List[Any] = []

    class Telling(SshClient):
        def connection_lost(self, exc: Any) -> None:
            told.append(exc)

    begun = threading.Event()

    def dial(to: Any, deadline: float, *, on_started: Any, **_: Any) -> Any:
        transport, ended = FakeTransport(), threading.Event()
        transport.add_done_callback(lambda *_: ended.set())
        close_nowait = transport.close_nowait

        def hang_up_slowly() -> None:
            close_nowait()
            failed.wait(0.5)  # long enough for the dial to fail before anything else happens

        transport.close_nowait = hang_up_slowly  # type: ignore[method-assign]
        on_started(transport)
        begun.set()
        assert ended.wait(PATIENCE)
        raise SshConnectError("the server closed the connection")

    failed = threading.Event()
    connections = SshClientCache(Telling, dialer=dial)
    slot = connections.request(target())
    slot.connection.add_done_callback(lambda _: failed.set())
    assert begun.wait(PATIENCE)
    connections.cleanup()
    assert isinstance(slot.connection.exception(PATIENCE), SshCacheClosed)
    connections.release(slot)
    eventually(lambda: told, "the client is told")
    assert [type(exc) for exc in told] == [SshCacheClosed]


def test_the_last_exit_with_a_dial_in_flight_ends_it(
    connections: SshClientCache, dialer: GatedDialer
) -> None:
    connections.enter()
    dialer.hold("alpha")
    slot = connections.request(target())
    dialer.wait_dialling(1)
    connections.exit()
    assert isinstance(slot.connection.exception(timeout=0), SshCacheClosed)
    connections.release(slot)
    dialer.release()
    eventually(lambda: dialer.transports, "the dial goes on")
    assert transport_ends(dialer.transports[0])


def test_an_exit_does_not_close_what_the_next_enter_brings(
    connections: SshClientCache, dialer: GatedDialer
) -> None:
    """Whether it is the last exit, and what it closes, are decided in one step."""
    connections.enter()
    connections.get_client_connection(connect_params("alpha"))
    slots, found = connections._slots, []
    lock = slots._lock

    def other_thread() -> None:
        slots._lock = lock
        connections.enter()
        found.append(connections.get_client_connection(connect_params("alpha"))[0])

    slots._lock = After(lock, 1, other_thread)  # type: ignore[assignment]
    connections.exit()
    assert found[0].is_active()
    assert not dialer.transports[0].is_active()
    connections.exit()


def test_callers_of_a_lost_connection_share_one_new_dial(
    connections: SshClientCache, dialer: GatedDialer
) -> None:
    for round_number in range(50):
        connections.get_client_connection(connect_params())
        lost = dialer.transports[-1]
        get = lambda: connections.get_client_connection(connect_params())[0]  # noqa: E731
        results = in_threads(lost.lose, *[get] * 9)[1:]
        assert {id(found) for found in results} <= {id(t) for t in dialer.transports[-2:]}
        connections.get_client_connection(connect_params())
        assert len(dialer.dials) == len(dialer.transports) == round_number + 2


def test_a_loss_that_is_noticed_late_does_not_remove_the_new_connection(
    connections: SshClientCache, dialer: GatedDialer
) -> None:
    connections.get_client_connection(connect_params())
    old = dialer.transports[0]
    callbacks, old._callbacks = old._callbacks, []
    old.lose()
    new, _ = connections.get_client_connection(connect_params())
    for callback in callbacks:  # only now the reader thread comes to it
        callback(old, None)
    assert connections.get_client_connection(connect_params())[0] is new
    assert len(dialer.dials) == 2


def test_a_leased_connection_is_never_expired_by_a_timer_that_runs_at_the_same_time(
    connections: SshClientCache, dialer: GatedDialer, fine_grained: None
) -> None:
    for _ in range(300):
        lease = connections.acquire(target())
        connections.release(lease, idle_timeout=1e-9)  # a real timer, due at once

        def use() -> bool:
            with connections.lease(connect_params()) as (transport, _):
                gc.is_tracked(transport)
                return transport.is_active()

        assert all(in_threads(use, use, lambda: connections.lender.expire(lease.slot) or True))
        connections.cleanup()


def test_two_hundred_rounds_of_everything_at_once_leave_nothing_open(
    fine_grained: None,
) -> None:
    """Calls, losses, cleanups and exits in any order: each call ends, and no connection stays."""
    made: List[FakeTransport] = []
    hooks: Dict[int, List[str]] = {}

    def dial(to: Any, deadline: float, **_: Any) -> FakeTransport:
        if len(made) % 7 == 3:
            transport = FakeTransport()
            made.append(transport)
            transport.lose()
            raise SshConnectError("refused")
        transport = FakeTransport(to.connection_id)
        made.append(transport)
        return transport

    class Counting(SshClient):
        def connection_made(self, conn: Any) -> None:
            hooks.setdefault(id(self), []).append("made")
            clients.append(self)

        def connection_lost(self, exc: Any) -> None:
            hooks.setdefault(id(self), []).append("lost")
            clients.append(self)

    clients: List[SshClient] = []  # so that no id is used twice
    connections = SshClientCache(Counting, dialer=dial)

    def call() -> None:
        for host in ("alpha", "beta"):
            result = outcome(lambda: connections.get_client_connection(connect_params(host)))
            assert isinstance(result, (tuple, SshConnectError, SshCacheClosed)), result

    def lose() -> None:
        for transport in made[-2:]:
            transport.lose()

    def enter_and_exit() -> None:
        connections.enter()
        call()
        connections.exit()

    for _ in range(200):
        in_threads(call, call, call, lose, connections.cleanup, enter_and_exit)
        if len(clients) > 5000:
            callbacks_done()
    connections.cleanup()
    callbacks_done()
    assert connections.stats()["leases"] == connections.stats()["connections"] == 0
    for transport in made:
        assert transport_ends(transport)
    callbacks_done()
    assert all(told in (["made", "lost"], ["lost"]) for told in hooks.values())


def test_thousands_of_cleanups_while_dialling_leave_nothing_open(fine_grained: None) -> None:
    """
    No connection is lost between two critical sections.

    With the check and the publication in two of them, 2 of 4,000 were left open.
    """
    made: List[FakeTransport] = []

    begun = threading.Semaphore(0)

    def dial(to: Any, deadline: float, **_: Any) -> FakeTransport:
        begun.release()
        transport = FakeTransport(to.connection_id)
        made.append(transport)
        return transport

    connections = SshClientCache(dialer=dial)
    destination = target()
    for number in range(4000):
        lease = connections.request(destination)
        if number % 8:
            assert begun.acquire(timeout=PATIENCE)
        connections.cleanup()
        connections.release(lease)
        lease.connection.exception(PATIENCE)
    connections.cleanup()
    callbacks_done()
    assert 3500 <= len(made) <= 4000  # some were over before they began
    for transport in made:
        assert transport_ends(transport)
    callbacks_done()
