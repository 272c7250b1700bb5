"""Leases, connections and caches that are dropped without being released or closed."""

from __future__ import annotations

import gc
import threading
import time
import warnings
import weakref
from typing import Any, Callable, Iterator, List

import pytest

from ssh_service import background
from ssh_service.connections.cache import SshClientCache
from ssh_service.errors import SshConnectError
from tests.common import eventually
from tests.unit.engine_fakes import (
    PATIENCE,
    FakeTransport,
    GatedDialer,
    connect_params,
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


def chores_done(connections: SshClientCache) -> None:
    done = threading.Event()
    background.submit(connections.lender._strand, done.set)
    assert done.wait(PATIENCE)


def warned_of(text: str, act: Callable[[], None]) -> bool:
    """Tell whether there is a ResourceWarning with a text, soon after an act."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        act()
        gc.collect()
        eventually(lambda: any(text in str(each.message) for each in seen), f"warned: {text}")
    return all(issubclass(each.category, ResourceWarning) for each in seen)


# Leases.


def test_lease_dropped_unreleased_is_given_back_with_a_warning(
    connections: SshClientCache,
) -> None:
    def forget() -> None:
        lending = connections.lease(connect_params())
        lending.__enter__()
        assert connections.stats()["leases"] == 1

    assert warned_of("a lease of somebody@alpha:22 was not released", forget)
    assert connections.stats()["leases"] == 0


def test_internal_lease_lost_to_an_exception_is_given_back_silently(
    connections: SshClientCache,
) -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        connections.acquire(target())
        gc.collect()
        chores_done(connections)
    assert connections.stats()["leases"] == 0 and not seen


def test_lost_lease_lets_its_connection_expire(
    connections: SshClientCache, dialer: GatedDialer
) -> None:
    """By the limits it was asked for with."""
    connections.acquire(target(), idle_timeout=0.01)
    gc.collect()
    eventually(lambda: not dialer.transports[0].is_active(), "it expires")


def test_lease_of_one_with_statement_is_not_entered_twice(connections: SshClientCache) -> None:
    lending = connections.lease(connect_params())
    with lending:
        with pytest.raises(RuntimeError, match="entered only once"):
            lending.__enter__()
    assert connections.stats()["leases"] == 0


# Connections.


@pytest.mark.parametrize("how", ["lost", "expired", "cleaned up"])
def test_connection_that_has_ended_is_collected_though_a_timer_is_set(
    how: str, connections: SshClientCache, dialer: GatedDialer
) -> None:
    lease = connections.acquire(target())
    slot, gone = lease.slot, weakref.ref(lease.connection.result()[0])
    lease.release(3600.0, 7200.0)
    transport = dialer.transports.pop()
    if how == "lost":
        transport.lose()
    elif how == "expired":
        slot.idle_timeout = 0.0
        connections.lender.expire(slot)
    else:
        connections.cleanup()
    assert not transport.is_active()
    del transport, slot, lease
    chores_done(connections)
    gc.collect()
    eventually(lambda: gone() is None, "the connection is collected")


# Caches.


def test_cache_dropped_without_cleanup_closes_its_connections_with_a_warning(
    dialer: GatedDialer,
) -> None:
    def forget() -> None:
        connections = SshClientCache(dialer=dialer)
        for host in ("beta", "alpha"):
            connections.release(connections.acquire(target(host)), 3600.0)

    assert warned_of("connected to somebody@alpha:22, somebody@beta:22", forget)
    eventually(lambda: not any(transport.is_active() for transport in dialer.transports))


def test_cache_dropped_while_it_dials_ends_the_dial(dialer: GatedDialer) -> None:
    dialer.hold("alpha")

    def forget() -> None:
        connections = SshClientCache(dialer=dialer)
        connections.request(target()).release()
        dialer.wait_dialling(1)

    assert warned_of("connected to somebody@alpha:22", forget)
    dialer.release()
    eventually(lambda: dialer.transports and not dialer.transports[0].is_active())


@pytest.mark.parametrize("cleaned_up", [True, False])
def test_cache_dropped_without_connections_is_no_news(
    cleaned_up: bool, dialer: GatedDialer
) -> None:
    connections = SshClientCache(dialer=dialer)
    if cleaned_up:
        connections.get_client_connection(connect_params())
        connections.cleanup()
    lender = connections.lender
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        del connections
        gc.collect()
        done = threading.Event()
        background.submit(lender._strand, done.set)
        assert done.wait(PATIENCE)
    assert not seen


def test_cache_that_could_not_be_made_is_dropped_without_a_word() -> None:
    with pytest.raises(ValueError):
        SshClientCache(max_destinations=0)
    gc.collect()


def test_lease_keeps_its_cache_and_its_connection(dialer: GatedDialer) -> None:
    lease = SshClientCache(dialer=dialer).acquire(target())
    gc.collect()
    time.sleep(0.05)  # for what must not happen
    assert dialer.transports[0].is_active()

    def forget() -> None:
        nonlocal lease
        lease.release()
        del lease

    assert warned_of("connected to somebody@alpha:22", forget)
    eventually(lambda: not dialer.transports[0].is_active())


def test_cache_with_connections_through_a_jump_host_is_dropped_whole() -> None:
    """A connection leases the way it goes; that lease does not keep the cache."""
    made: List[FakeTransport] = []

    def dial(to: Any, deadline: float, *, open_tunnel: Any, **_: Any) -> FakeTransport:
        transport = FakeTransport(to.connection_id)
        if to.tunnel is not None:
            _, release = open_tunnel(to.tunnel, deadline)
            transport.add_done_callback(lambda *_: release())
        made.append(transport)
        return transport

    def forget() -> None:
        connections = SshClientCache(dialer=dial)
        connections.get_client_connection(connect_params("alpha", tunnel="me@jump"))
        assert connections.stats()["leases"] == 1
        assert len(connections) == 2

    assert warned_of("was not closed", forget)
    eventually(lambda: len(made) == 2 and not any(each.is_active() for each in made))


# No thread, no interpreter.


def test_where_the_system_gives_no_thread_a_request_fails_at_once(
    connections: SshClientCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(background, "ensure_threads", lambda: False)
        with pytest.raises(SshConnectError, match="no more threads"):
            connections.get_client_connection(connect_params())
        assert connections.stats()["leases"] == connections.stats()["dials"] == 0
    connections.get_client_connection(connect_params())
