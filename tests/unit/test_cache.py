"""The cache, one caller at a time: what it keeps, tells and closes."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
import time
from typing import Any, Iterator, List, Optional, Tuple

import pytest

from ssh_service import background
from ssh_service.connections import cache, dials, lender, pacing
from ssh_service.connections.cache import SshClientCache
from ssh_service.connections.client import SshClient
from ssh_service.errors import (
    SshAuthError,
    SshCacheClosed,
    SshConfigError,
    SshConnectError,
    SshConnectionLost,
    SshConnectTimeout,
)
from ssh_service.transport.lock_free import LockFreeEvent
from tests.common import eventually, refuse_threads
from tests.unit.engine_fakes import (
    PATIENCE,
    GatedDialer,
    Timers,
    callbacks_done,
    connect_params,
    outcome,
    target,
)

Event = Tuple[str, Any]


class Recorder:
    """Makes clients that record the calls of their hooks."""

    def __init__(self) -> None:
        self.clients: List[SshClient] = []
        self.events: List[Event] = []
        self.threads: List[bool] = []

    def __call__(self) -> SshClient:
        recorder = self

        class Recording(SshClient):
            def connection_made(self, conn: Any) -> None:
                recorder.threads.append(background.is_callback_thread())
                recorder.events.append(("made", conn))

            def connection_lost(self, exc: Optional[BaseException]) -> None:
                recorder.threads.append(background.is_callback_thread())
                recorder.events.append(("lost", exc))

        client = Recording()
        self.clients.append(client)
        return client


@pytest.fixture
def dialer() -> GatedDialer:
    return GatedDialer()


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def connections(dialer: GatedDialer, recorder: Recorder) -> Iterator[SshClientCache]:
    connections = SshClientCache(recorder, dialer=dialer)
    yield connections
    dialer.release()
    connections.cleanup()


@pytest.fixture
def timers(monkeypatch: pytest.MonkeyPatch) -> Timers:
    timers = Timers()
    monkeypatch.setattr(background, "call_at", timers.call_at)
    return timers


class Now:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Now:
    clock = Now()
    monkeypatch.setattr(lender, "time", clock)
    monkeypatch.setattr(cache, "time", clock)
    monkeypatch.setattr(dials, "time", clock)
    return clock


# Getting and keeping.


def test_the_second_call_gets_the_same_connection(
    connections: SshClientCache, dialer: GatedDialer
) -> None:
    transport, client = connections.get_client_connection(connect_params("alpha"))
    assert connections.get_client_connection(connect_params("alpha")) == (transport, client)
    assert client.connection() is transport
    assert repr(client) == "somebody@alpha:22"
    assert dialer.dials == ["alpha"]


def test_a_bare_cache_works_without_enter(connections: SshClientCache) -> None:
    connections.get_client_connection(connect_params("alpha"))
    assert len(connections) == 1


def test_other_hosts_ports_users_credentials_and_policies_get_other_connections(
    connections: SshClientCache, dialer: GatedDialer, tmp_path: Any
) -> None:
    known_hosts = tmp_path / "known_hosts"
    known_hosts.touch()
    variants = [
        {},
        {"host": "beta"},
        {"port": 2222},
        {"username": "else"},
        {"password": "other"},
        {"known_hosts": str(known_hosts)},
        {"keepalive_interval": 1},
        {"compression_algs": ["zlib@openssh.com"]},
    ]
    for _ in range(2):
        for variant in variants:
            connections.get_client_connection(connect_params(**variant))  # type: ignore[arg-type]
    assert len(dialer.dials) == len(variants) == len(connections)


def test_len_and_str_tell_the_live_connections_and_no_secret(
    connections: SshClientCache, dialer: GatedDialer
) -> None:
    assert (len(connections), str(connections)) == (0, "SshClientCache()")
    for host in ("beta", "alpha"):
        connections.get_client_connection(connect_params(host))
    assert str(connections) == "SshClientCache(somebody@alpha:22, somebody@beta:22)"
    assert "sesame" not in str(connections) + repr(connections) + str(connections.stats())
    dialer.transports[0].lose()
    assert (len(connections), str(connections)) == (1, "SshClientCache(somebody@alpha:22)")


def test_a_lost_connection_leaves_at_once_and_the_next_call_dials(
    connections: SshClientCache, dialer: GatedDialer, recorder: Recorder
) -> None:
    _, first = connections.get_client_connection(connect_params())
    dialer.transports[0].lose("reset")
    assert repr(first) == "LOST"
    assert len(connections) == 0
    transport, second = connections.get_client_connection(connect_params())
    assert transport is dialer.transports[1]
    assert second is not first
    assert repr(second) == "somebody@alpha:22"
    assert connections.stats()["reconnects"] == 1
    assert connections.stats()["losses"] == 1


def test_silently_ended_connection_is_not_leased(
    connections: SshClientCache, dialer: GatedDialer
) -> None:
    """Between the end of a connection and its callback nobody gets it any more."""
    connections.get_client_connection(connect_params())
    dialer.transports[0]._active = False  # its callbacks are still to be called
    assert len(connections) == 0
    transport, _ = connections.get_client_connection(connect_params())
    assert transport is dialer.transports[1]
    dialer.transports[0]._active = True
    dialer.transports[0].lose()  # now they are, and must not remove the new one
    assert connections.get_client_connection(connect_params())[0] is transport
    assert len(dialer.dials) == 2


def test_parameters_that_are_wrong_fail_before_anything_is_dialled(
    connections: SshClientCache, dialer: GatedDialer
) -> None:
    for wrong in ({"host": None}, connect_params(port="x"), connect_params(no_such_name=1)):
        with pytest.raises(SshConfigError):
            connections.get_client_connection(wrong)
    assert dialer.dials == []
    assert connections.stats()["leases"] == 0


# What goes wrong.


def test_a_failed_dial_is_raised_and_the_next_call_dials_again(
    connections: SshClientCache, dialer: GatedDialer, recorder: Recorder
) -> None:
    error = SshAuthError("refused", tried=("publickey",), connection_id="somebody@alpha:22")
    dialer.errors["alpha"] = [error]
    with pytest.raises(SshAuthError, match="refused") as caught:
        connections.get_client_connection(connect_params())
    assert caught.value is not error
    assert caught.value.__cause__ is error
    assert caught.value.tried == ("publickey",)
    assert connections.stats() == {
        "connections": 0, "leases": 0, "waiting": 0, "dials": 1, "reconnects": 0, "losses": 0,
        "refusals": 0, "drops": 0,
    }  # fmt: skip
    connections.get_client_connection(connect_params())
    assert dialer.dials == ["alpha"] * 2
    assert connections.stats()["reconnects"] == 0


@pytest.mark.parametrize(
    "raised, expected",
    [
        (OSError("no route"), SshConnectError),
        (ValueError("no such algorithm"), SshConfigError),
        (KeyError("x"), SshConnectError),
        (SystemExit("a password callable gave up"), SshConnectError),
        (KeyboardInterrupt(), SshConnectError),
    ],
)
def test_any_exception_of_a_dial_reaches_its_waiters(
    connections: SshClientCache,
    dialer: GatedDialer,
    recorder: Recorder,
    raised: BaseException,
    expected: Any,
) -> None:
    dialer.errors["alpha"] = [raised]
    with pytest.raises(expected, match="somebody@alpha:22") as caught:
        connections.get_client_connection(connect_params())
    assert caught.value.__cause__.__cause__ is raised
    callbacks_done()
    assert [kind for kind, _ in recorder.events] == ["lost"]
    connections.get_client_connection(connect_params())


@pytest.mark.parametrize(
    "raised, retryable",
    [
        (TypeError("dial() got an unexpected argument"), False),
        (AttributeError("no such name"), False),
        (KeyError("x"), False),
        (OSError("no route"), True),
        (EOFError("the proxy ended"), True),
    ],
)
def test_dial_that_ends_in_a_mistake_of_code_is_not_retryable(
    connections: SshClientCache, dialer: GatedDialer, raised: Exception, retryable: bool
) -> None:
    """The same code makes the same mistake the next time; networks come back."""
    dialer.errors["alpha"] = [raised]
    with pytest.raises(SshConnectError) as caught:
        connections.get_client_connection(connect_params())
    assert caught.value.retryable is retryable
    assert caught.value.permanent is not retryable


class _Forgetful(SshClient):
    def __init__(self) -> None:
        pass  # without super().__init__()


class _Unnamed(SshClient):
    @staticmethod
    def id_from_connection(connection: Any) -> str:
        raise LookupError("no name")


def _raises() -> SshClient:
    raise LookupError("no client")


@pytest.mark.parametrize("factory", [_Forgetful, _Unnamed, _raises, lambda: None])
def test_a_client_that_is_broken_is_an_error_for_its_callers_and_not_an_endless_wait(
    dialer: GatedDialer, factory: Any
) -> None:
    connections = SshClientCache(factory, dialer=dialer)
    slot = connections.request(target())
    with pytest.raises(SshConnectError, match="LookupError|AttributeError"):
        slot.connection.result(PATIENCE)
    connections.release(slot)
    assert all(not transport.is_active() for transport in dialer.transports)
    assert len(connections) == 0
    with pytest.raises(SshConnectError):
        connections.get_client_connection(connect_params())


@pytest.mark.parametrize("name", ["", "ssh-service-dial-"])
def test_where_no_thread_can_be_started_the_call_fails_and_the_next_one_dials(
    connections: SshClientCache,
    dialer: GatedDialer,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    callbacks_done()
    with monkeypatch.context() as patch:
        refuse_threads(patch, name)
        with pytest.raises(SshConnectError, match="cannot connect: the system gives no more thr"):
            connections.get_client_connection(connect_params())
    assert dialer.dials == []
    connections.get_client_connection(connect_params())
    assert connections.stats()["leases"] == 0


@pytest.mark.parametrize("limit", ["5", -1, float("nan"), b"5"])
def test_invalid_limit_is_refused_before_a_lease(limit: Any, connections: SshClientCache) -> None:
    for name in ("idle_timeout", "max_lifetime"):
        with pytest.raises(SshConfigError, match=name):
            with connections.lease(connect_params(), **{name: limit}):
                pass
    assert connections.stats()["dials"] == 0


def test_subscriber_that_is_not_callable_is_refused(connections: SshClientCache) -> None:
    wrong: Any = "print"
    with pytest.raises(SshConfigError, match="expected a function"):
        connections.subscribe(wrong)
    assert connections.subscribers == ()


def test_caller_deadline_does_not_affect_other_waiters(
    connections: SshClientCache, dialer: GatedDialer
) -> None:
    dialer.hold("alpha")
    with pytest.raises(SshConnectTimeout, match="within 0.0 s") as caught:
        connections.acquire(target(), time.monotonic() + 0.01)
    assert caught.value.phase == "connect"
    assert connections.stats()["leases"] == connections.stats()["waiting"] == 0
    slot = connections.request(target())
    dialer.release("alpha")
    transport, _ = slot.connection.result(PATIENCE)
    connections.release(slot)
    assert transport.is_active()
    assert dialer.dials == ["alpha"]


def test_a_caller_waits_for_a_dial_of_others_as_long_as_its_own_might_take(
    connections: SshClientCache, dialer: GatedDialer
) -> None:
    dialer.hold("alpha")
    patient = connections.request(target(connect_timeout=60))
    with pytest.raises(SshConnectTimeout, match="not connected within"):
        connections.get_client_connection(connect_params(connect_timeout=0.01))
    dialer.release("alpha")
    patient.connection.result(PATIENCE)
    connections.release(patient)
    connections.get_client_connection(connect_params(connect_timeout=0.01))
    assert dialer.dials == ["alpha"]


def test_dial_timeout_error_mentions_time_spent_queueing(
    connections: SshClientCache, dialer: GatedDialer, now: Now, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not "within 0.1 s" alone, when the caller gave it half a minute."""
    busy = [29.9, 0.0]

    def paced_dial(server: Any, deadline: float, dial: Any, *_: Any, **more: Any) -> Any:
        now.now += busy.pop(0)
        return dial()

    monkeypatch.setattr(pacing, "paced_dial", paced_dial)
    text = "somebody@alpha:22: no TCP connection within 0.1 s"
    dialer.errors["alpha"] = [SshConnectTimeout(text), SshConnectTimeout(text)]
    with pytest.raises(SshConnectTimeout) as caught:
        connections.get_client_connection(connect_params())
    assert str(caught.value) == f"{text}; 29.9 s of its 30 s were spent waiting for its turn"
    with pytest.raises(SshConnectTimeout) as caught:
        connections.get_client_connection(connect_params())
    assert str(caught.value) == text  # it was its turn at once


def test_the_dialler_is_given_the_destinations_own_connect_timeout(
    connections: SshClientCache, recorder: Recorder
) -> None:
    deadlines: List[float] = []
    dialer = GatedDialer()

    def dial(to: Any, deadline: float, **more: Any) -> Any:
        deadlines.append(deadline - time.monotonic())
        assert set(more) == {"open_tunnel", "on_started", "is_wanted"}
        return dialer(to, deadline)

    connections = SshClientCache(dialer=dial)
    connections.get_client_connection(connect_params(connect_timeout=7))
    assert 6 < deadlines[0] <= 7
    connections.cleanup()


# Hooks.


def test_hooks_get_made_then_lost_once_on_the_callback_thread(
    connections: SshClientCache, dialer: GatedDialer, recorder: Recorder
) -> None:
    transport, client = connections.get_client_connection(connect_params())
    assert recorder.events == [("made", transport)]  # before it was handed out
    dialer.transports[0].lose("silence")
    dialer.transports[0].lose("silence")
    callbacks_done()
    assert [kind for kind, _ in recorder.events] == ["made", "lost"]
    loss = recorder.events[1][1]
    assert isinstance(loss, SshConnectionLost) and loss.reason == "silence"
    assert recorder.threads == [True, True]


def test_clean_disconnect_is_reported_without_an_error(
    connections: SshClientCache, recorder: Recorder
) -> None:
    transport, _ = connections.get_client_connection(connect_params())
    connections.cleanup()
    callbacks_done()
    assert recorder.events == [("made", transport), ("lost", None)]
    assert connections.stats()["losses"] == 0


def test_failed_dial_calls_only_connection_lost(
    connections: SshClientCache, dialer: GatedDialer, recorder: Recorder
) -> None:
    dialer.errors["alpha"] = [SshConnectError("refused")]
    assert isinstance(
        outcome(lambda: connections.get_client_connection(connect_params())), SshConnectError
    )
    callbacks_done()
    assert [kind for kind, _ in recorder.events] == ["lost"]
    assert str(recorder.events[0][1]) == "refused"
    assert recorder.clients[0].connection(timeout=0) is None


def test_a_hook_that_raises_is_logged_and_stalls_nothing(
    dialer: GatedDialer, caplog: pytest.LogCaptureFixture
) -> None:
    class Raising(SshClient):
        def connection_made(self, conn: Any) -> None:
            raise LookupError("made on purpose")

        def connection_lost(self, exc: Optional[BaseException]) -> None:
            raise LookupError("lost on purpose")

    connections = SshClientCache(Raising, dialer=dialer)
    with caplog.at_level(logging.ERROR):
        transport, client = connections.get_client_connection(connect_params())
        assert client.connection() is transport
        dialer.transports[0].lose()
        assert repr(client) == "LOST"
        connections.get_client_connection(connect_params())
        connections.cleanup()
        callbacks_done()
    assert "made on purpose" in caplog.text and "lost on purpose" in caplog.text


def test_callers_of_a_client_without_hooks_do_not_wait_for_a_busy_callback_thread(
    dialer: GatedDialer,
) -> None:
    gate = threading.Event()
    background.run_callback(gate.wait, PATIENCE)
    connections = SshClientCache(dialer=dialer)
    try:
        assert connections.acquire(target()).slot.hook_done.is_set()
    finally:
        gate.set()
        connections.cleanup()


def test_endless_hook_delays_only_first_callers_and_briefly(
    dialer: GatedDialer, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()

    class Blocking(SshClient):
        def connection_made(self, conn: Any) -> None:
            gate.wait(PATIENCE)

    monkeypatch.setattr(lender, "_HOOK_TIMEOUT", 0.05)
    connections = SshClientCache(Blocking, dialer=dialer)
    try:
        connections.get_client_connection(connect_params())
        waits: List[Optional[float]] = []

        class Noting(LockFreeEvent):
            def wait(self, timeout: Optional[float] = None) -> bool:
                waits.append(timeout)
                return False

        slot = connections.request(target())
        slot.slot.hook_done = Noting()
        for _ in range(5):
            connections.get_client_connection(connect_params())
        connections.release(slot)
        assert waits == [0.0] * 5  # its patience is over for good
    finally:
        gate.set()
        connections.cleanup()
        callbacks_done()


def test_a_hook_may_use_the_cache(dialer: GatedDialer) -> None:
    connections: SshClientCache
    results: List[Any] = []

    class Asking(SshClient):
        def connection_made(self, conn: Any) -> None:
            if not results:
                results.append(None)
                results.append(connections.get_client_connection(connect_params("alpha"))[0])
                results.append(connections.get_client_connection(connect_params("beta"))[0])

    connections = SshClientCache(Asking, dialer=dialer)
    connections.get_client_connection(connect_params("alpha"))
    callbacks_done()
    assert results[1:] == dialer.transports[:2]
    connections.cleanup()
    callbacks_done()


# Leases, expiry.


def test_a_lease_is_counted_and_given_back_even_after_an_error(
    connections: SshClientCache,
) -> None:
    with pytest.raises(LookupError):
        with connections.lease(connect_params()) as (transport, client):
            assert client.connection() is transport
            with connections.lease(connect_params()):
                assert connections.stats()["leases"] == 2
            raise LookupError
    assert connections.stats()["leases"] == 0
    assert len(connections) == 1


def test_an_unused_connection_is_closed_when_its_time_is_up(
    connections: SshClientCache, dialer: GatedDialer, timers: Timers, now: Now
) -> None:
    slot = connections.acquire(target())
    connections.release(slot, idle_timeout=60)
    assert [due for due, _ in timers.live] == [1060.0]
    now.now = 1060.0
    timers.fire()
    assert not dialer.transports[0].is_active()
    assert len(connections) == 0
    assert timers.live == []
    assert connections.stats()["losses"] == 0


def test_every_use_puts_the_end_off_with_one_timer(
    connections: SshClientCache, dialer: GatedDialer, timers: Timers, now: Now
) -> None:
    for _ in range(100):
        slot = connections.acquire(target())
        connections.release(slot, idle_timeout=60)
        now.now += 0.5
    assert len(timers.live) == 1
    now.now = 1060.0
    timers.fire()  # used 10.5 s ago
    assert dialer.transports[0].is_active()
    assert [due for due, _ in timers.live] == [1109.5]
    now.now = 1109.5
    timers.fire()
    assert not dialer.transports[0].is_active()


def test_a_shorter_limit_holds_from_when_it_is_given(
    connections: SshClientCache, dialer: GatedDialer, timers: Timers, now: Now
) -> None:
    connections.release(connections.acquire(target()), idle_timeout=3600)
    connections.release(connections.acquire(target()), idle_timeout=5)
    now.now = 1005.0
    timers.fire()
    assert not dialer.transports[0].is_active()


def test_a_leased_connection_does_not_expire_and_one_with_an_open_channel_does_not_either(
    connections: SshClientCache, dialer: GatedDialer, timers: Timers, now: Now
) -> None:
    connections.release(connections.acquire(target()), idle_timeout=60, max_lifetime=100)
    slot = connections.acquire(target())
    now.now = 2000.0
    timers.fire()
    assert dialer.transports[0].is_active()
    assert timers.live == []  # the release will see to it
    dialer.transports[0].others = 1
    connections.release(slot)
    timers.fire()
    assert dialer.transports[0].is_active()
    assert [due for due, _ in timers.live] == [2001.0]
    dialer.transports[0].others = 0
    now.now = 2001.0
    timers.fire()
    assert not dialer.transports[0].is_active()


def test_a_connection_past_its_lifetime_is_replaced_when_nobody_uses_it(
    connections: SshClientCache, dialer: GatedDialer, timers: Timers, now: Now
) -> None:
    for at in (1000.0, 1050.0, 1099.0):
        now.now = at
        connections.release(connections.acquire(target()), max_lifetime=100)
    now.now = 1100.0
    timers.fire()
    assert not dialer.transports[0].is_active()
    connections.get_client_connection(connect_params())
    assert dialer.dials == ["alpha"] * 2


def test_a_timer_of_a_connection_that_has_gone_does_nothing(
    connections: SshClientCache, dialer: GatedDialer, timers: Timers, now: Now
) -> None:
    connections.release(connections.acquire(target()), idle_timeout=60)
    dialer.transports[0].lose()
    connections.get_client_connection(connect_params())
    now.now = 1060.0
    timers.fire()
    assert dialer.transports[1].is_active()
    assert timers.live == []


# A bound on destinations.


def test_over_max_destinations_least_recently_used_are_closed(
    dialer: GatedDialer, now: Now
) -> None:
    connections = SshClientCache(max_destinations=3, dialer=dialer)
    for host in ("alpha", "beta", "gamma", "alpha", "delta", "epsilon"):
        now.now += 1.0
        connections.get_client_connection(connect_params(host))
        callbacks_done()
        assert len(connections) <= 3
    alpha, beta, gamma, delta, epsilon = dialer.transports
    assert not beta.is_active() and not gamma.is_active()
    assert alpha.is_active() and delta.is_active() and epsilon.is_active()
    assert connections.stats()["losses"] == 0
    connections.cleanup()


def test_max_destinations_never_closes_used_connections(dialer: GatedDialer, now: Now) -> None:
    """Leased, or with a channel open; as soon as it is not, the bound holds again."""
    connections = SshClientCache(max_destinations=1, dialer=dialer)
    leased = [connections.acquire(target(host)) for host in ("alpha", "beta")]
    connections.get_client_connection(connect_params("gamma"))
    callbacks_done()
    assert all(transport.is_active() for transport in dialer.transports[:2])
    assert not dialer.transports[2].is_active()  # whoever asked has it no longer
    dialer.transports[0].others = 1
    connections.release(leased[0])
    connections.release(leased[1])
    callbacks_done()
    assert [transport.is_active() for transport in dialer.transports[:2]] == [True, False]
    dialer.transports[0].others = 0
    connections.get_client_connection(connect_params("delta"))
    callbacks_done()
    assert str(connections) == "SshClientCache(somebody@delta:22)"
    connections.cleanup()


def test_eviction_happens_at_the_dial_not_at_the_release(
    dialer: GatedDialer,
) -> None:
    connections = SshClientCache(max_destinations=1, dialer=dialer)
    connections.get_client_connection(connect_params("alpha"))
    dialer.hold("beta")
    slot = connections.request(target("beta"))
    callbacks_done()
    assert not dialer.transports[0].is_active()
    dialer.release("beta")
    slot.connection.result(PATIENCE)
    connections.release(slot)
    connections.cleanup()


def test_hundreds_of_destinations_stay_within_max_destinations(
    dialer: GatedDialer,
) -> None:
    connections = SshClientCache(max_destinations=5, dialer=dialer)
    template = target()
    for number in range(500):
        dialer.errors["alpha"] = [ConnectionRefusedError()] if number % 2 else []
        to = dataclasses.replace(template, port=1 + number)
        connections.session_pool(to.key, object)
        with contextlib.suppress(SshConnectError):
            connections.release(connections.acquire(to))
    callbacks_done()
    assert len(connections._slots._generation.entries) <= 5
    assert len(connections._slots.all_slots()) <= 5
    connections.cleanup()


def test_further_connections_of_a_destination_count_as_one_and_go_together(
    dialer: GatedDialer, now: Now
) -> None:
    connections = SshClientCache(max_destinations=1, dialer=dialer)
    for lane in (0, 1):
        connections.release(connections.acquire(target("alpha"), connection_no=lane))
    assert len(connections) == 2
    now.now += 1.0
    connections.get_client_connection(connect_params("beta"))
    callbacks_done()
    assert [transport.is_active() for transport in dialer.transports] == [False, False, True]
    connections.cleanup()


def test_max_destinations_can_be_set_or_omitted_and_is_positive(dialer: GatedDialer) -> None:
    with pytest.raises(SshConfigError, match="max_destinations"):
        SshClientCache(max_destinations=0)
    connections = SshClientCache(max_destinations=None, dialer=dialer)
    for host in ("alpha", "beta", "gamma"):
        connections.get_client_connection(connect_params(host))
    assert len(connections) == 3
    connections.max_destinations = 2
    connections.get_client_connection(connect_params("gamma"))
    callbacks_done()
    assert len(connections) == 2
    connections.cleanup()


def test_a_lease_can_be_renewed_only_while_the_connection_is_in_the_cache(
    connections: SshClientCache, dialer: GatedDialer
) -> None:
    lease = connections.acquire(target())
    again = connections.renew(lease)
    assert again is not None and again is not lease
    assert connections.stats()["leases"] == 2
    connections.release(lease)
    connections.release(again)
    once_more = connections.renew(lease.slot)
    assert once_more is not None
    connections.release(once_more)
    dialer.transports[0].lose()
    assert connections.renew(lease) is None
    assert connections.stats()["leases"] == 0


# Its life.


def test_the_last_exit_closes_all_and_one_too_many_raises(
    connections: SshClientCache, dialer: GatedDialer
) -> None:
    connections.enter()
    connections.enter()
    for host in ("alpha", "beta"):
        connections.get_client_connection(connect_params(host))
    connections.exit()
    assert len(connections) == 2
    connections.exit()
    assert len(connections) == 0
    assert not any(transport.is_active() for transport in dialer.transports)
    for _ in range(2):
        with pytest.raises(SshCacheClosed, match="more often than enter"):
            connections.exit()
    connections.get_client_connection(connect_params("alpha"))
    assert dialer.dials == ["alpha", "beta", "alpha"]


def test_cleanup_closes_leased_connections_too_and_all_before_one_is_waited_for(
    connections: SshClientCache, dialer: GatedDialer
) -> None:
    with connections.lease(connect_params("alpha")), connections.lease(connect_params("beta")):
        first, second = dialer.transports

        def close() -> None:
            assert not second.is_active(), "one was waited for while another was still open"

        setattr(first, "close", close)
        connections.cleanup()
        assert not first.is_active() and not second.is_active()
    assert connections.stats()["leases"] == 0


def test_session_pool_goes_with_its_connections(connections: SshClientCache) -> None:
    made = [object(), object()]
    key, other = target("alpha").key, target("beta").key
    assert connections.session_pool(key, lambda: made[0]) is made[0]
    assert connections.session_pool(key, lambda: made[1]) is made[0]
    assert connections.session_pool(other, lambda: made[1]) is made[1]
    connections.cleanup()
    assert connections.session_pool(key, lambda: made[1]) is made[1]


def test_stats_count_what_there_is_and_what_happened(
    connections: SshClientCache, dialer: GatedDialer
) -> None:
    dialer.hold("beta")
    slots = [connections.request(target("beta")) for _ in range(3)]
    waiter = threading.Thread(
        target=lambda: connections.get_client_connection(connect_params("beta")), daemon=True
    )
    waiter.start()
    eventually(lambda: connections.stats()["waiting"] == 1, "it waits")
    with connections.lease(connect_params("alpha")):
        assert connections.stats() == {
            "connections": 1, "leases": 5, "waiting": 1, "dials": 2, "reconnects": 0, "losses": 0,
            "refusals": 0, "drops": 0,
        }  # fmt: skip
    dialer.release()
    waiter.join(PATIENCE)
    for slot in slots:
        connections.release(slot)
    assert connections.stats() == {
        "connections": 2, "leases": 0, "waiting": 0, "dials": 2, "reconnects": 0, "losses": 0,
        "refusals": 0, "drops": 0,
    }  # fmt: skip


def test_nothing_secret_is_logged(
    connections: SshClientCache, dialer: GatedDialer, caplog: pytest.LogCaptureFixture
) -> None:
    dialer.errors["beta"] = [SshConnectError("somebody@beta:22: refused")]
    with caplog.at_level(logging.DEBUG):
        connections.get_client_connection(connect_params("alpha"))
        outcome(lambda: connections.get_client_connection(connect_params("beta")))
        dialer.transports[0].lose()
        connections.cleanup()
    assert "somebody@alpha:22" in caplog.text and "somebody@beta:22: refused" in caplog.text
    assert "sesame" not in caplog.text


@pytest.mark.parametrize("wrong", [SshClient(), {"host": "web1"}])
def test_cache_client_factory_that_is_not_callable_is_refused(wrong: Any) -> None:
    """A client or a destination as the factory is an error at once, not at each dial."""
    with pytest.raises(SshConfigError, match="client_factory: expected a class such as SshClient"):
        SshClientCache(wrong)
