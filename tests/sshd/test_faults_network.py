"""Faults of networks and servers: noticed in every state, and reported as what they are."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import random
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

import pytest

from ssh_service import operations
from ssh_service.connections.cache import SshClientCache
from ssh_service.errors import SshConnectError, SshConnectionLost, SshServiceError
from ssh_service.testing.pytest_plugin import FaultProxy, Sshd
from ssh_service.transport import SshTransport
from tests.common import PATIENCE, Outcome, descriptors, eventually, in_threads, within
from tests.faults.clients import Collector, dialled, drain, entered, execute, params_for
from tests.keys import generated

Proxies = Callable[[str, int], FaultProxy]
Factory = Callable[..., Sshd]

INTERVAL, COUNT = 0.5, 2
LIMIT = INTERVAL * COUNT
"""Seconds of silence after which a connection is lost."""


class States:
    """Connections, each in another state, each with the call that is blocked in it."""

    def __init__(
        self, stack: contextlib.ExitStack, sshd: Sshd, proxy: Optional[FaultProxy]
    ) -> None:
        self._stack, self._sshd, self._proxy = stack, sshd, proxy
        self.transports: Dict[str, SshTransport] = {}
        self._arranged: Dict[str, Callable[[], Any]] = {}
        self._calls: Dict[str, Outcome] = {}

    def arrange(self) -> None:
        """Make the connections, up to the step before the one that blocks."""
        for state in ("idle", "open", "exec", "recv", "status", "send", "re-key"):
            transport = self.transports[state] = self._stack.enter_context(
                dialled(
                    self._sshd,
                    self._proxy,
                    keepalive_interval=INTERVAL,
                    keepalive_count_max=COUNT,
                )
            )
            self._arranged[state] = getattr(self, f"_{state.replace('-', '')}")(transport)

    def block(self) -> None:
        """Take the step that blocks."""
        for state, step in self._arranged.items():
            self._calls[state] = Outcome(step)

    def check(self, began: float) -> None:
        """Assert that all was noticed in time, and that nothing is left."""
        for state, call in self._calls.items():
            error = call.wait().error
            assert isinstance(error, SshConnectionLost), (state, error)
            assert error.reason in ("silence", "reset"), (state, error)
            assert call.after(began) <= 2 * LIMIT + 1, (state, call.after(began))
        for state, transport in self.transports.items():
            transport.join(2)
            assert not transport.is_alive(), state
            assert transport._wire.fileno() == -1, state
            assert transport.loss is not None and transport.loss.reason in ("silence", "reset")

    @staticmethod
    def _idle(transport: SshTransport) -> Callable[[], Any]:
        ended = threading.Event()
        transport.add_done_callback(lambda *_: ended.set())

        def wait() -> None:
            ended.wait(PATIENCE)
            raise transport.loss or AssertionError("no loss")

        return wait

    @staticmethod
    def _open(transport: SshTransport) -> Callable[[], Any]:
        return transport.open_session

    @staticmethod
    def _exec(transport: SshTransport) -> Callable[[], Any]:
        channel = transport.open_session()
        return lambda: channel.exec_command("true")

    @staticmethod
    def _recv(transport: SshTransport) -> Callable[[], Any]:
        channel = transport.open_session()
        channel.exec_command("cat")
        return lambda: channel.recv(1)

    @staticmethod
    def _status(transport: SshTransport) -> Callable[[], Any]:
        channel = transport.open_session()
        channel.exec_command("cat")
        return channel.recv_exit_status

    @staticmethod
    def _send(transport: SshTransport) -> Callable[[], Any]:
        channel = transport.open_session()
        channel.exec_command("cat >/dev/null")

        def send() -> None:
            while True:
                channel.sendall(bytes(1 << 20))

        return send

    @staticmethod
    def _rekey(transport: SshTransport) -> Callable[[], Any]:
        channel = transport.open_session()
        channel.exec_command("cat >/dev/null")

        def rekey() -> None:
            transport._send_kex_init()
            channel.sendall(b"x")

        return rekey


def test_a_frozen_server_is_noticed_in_every_state(sshd: Sshd) -> None:
    """With paramiko, never."""
    with contextlib.ExitStack() as stack:
        states = States(stack, sshd, None)
        states.arrange()
        sshd.freeze()
        began = time.monotonic()
        states.block()
        states.check(began)


@pytest.mark.parametrize("direction", ["to_client", "to_server", "both"])
def test_a_black_hole_on_the_way_is_noticed_in_every_state(
    sshd: Sshd, fault_proxy: Proxies, direction: str
) -> None:
    proxy = fault_proxy(sshd.host, sshd.port)
    with contextlib.ExitStack() as stack:
        states = States(stack, sshd, proxy)
        states.arrange()
        proxy.freeze(direction)
        began = time.monotonic()
        states.block()
        states.check(began)


def test_a_copy_to_a_frozen_server_ends_in_time(sshd: Sshd, tmp_path: Path) -> None:
    """The sixth state."""
    source = tmp_path / "source"
    source.write_bytes(bytes(64 * 1024 * 1024))
    target = tmp_path / "target"
    params = params_for(sshd, keepalive_interval=INTERVAL, keepalive_count_max=COUNT)
    with entered() as cache:
        transport, _ = cache.get_client_connection(params)
        frozen = threading.Event()

        def progress(*_: Any) -> None:
            if not frozen.is_set():
                sshd.freeze()
                frozen.set()

        copying = Outcome(
            lambda: operations.upload(cache, params, source, target, progress=progress)
        )
        assert frozen.wait(PATIENCE)
        began = time.monotonic()
        assert isinstance(copying.wait().error, (OSError, SshServiceError))
        within(LIMIT + 2, began)  # two seconds to tidy up
        sshd.thaw()
        assert not target.exists()


OUTPUT = "for i in $(seq 20000); do echo line $i of the output; done"
WHOLE = b"".join(b"line %d of the output\n" % n for n in range(1, 20001))


def cut_in_mid_output(
    sshd: Sshd, proxies: Proxies, seed: int, rounds: int, how: List[str]
) -> None:
    """Cut connections after any number of bytes; nothing may look like success and be short."""
    rng = random.Random(seed)
    proxy = proxies(sshd.host, sshd.port)
    outcomes = {"lost": 0, "whole": 0}
    for _ in range(rounds):
        with dialled(sshd, proxy) as transport:
            sink = Collector(OUTPUT.encode())
            transport.start_session(sink)
            assert sink.started.wait(PATIENCE)
            began = time.monotonic()
            proxy.limit_after(rng.randrange(len(WHOLE)), "to_client", then=rng.choice(how))
            assert sink.ended.wait(PATIENCE)
            if sink.error is None:
                outcomes["whole"] += 1
                assert sink.saw_eof and sink.statuses == [0] and bytes(sink.out) == WHOLE
            else:
                outcomes["lost"] += 1
                assert isinstance(sink.error, SshConnectionLost), seed
                assert sink.error.reason in ("eof", "reset")
                assert WHOLE.startswith(bytes(sink.out))
            within(5.0, began)
        proxy.heal()
    assert outcomes["lost"] > rounds // 2


def test_output_that_was_cut_short_never_looks_like_success(
    sshd: Sshd, fault_proxy: Proxies
) -> None:
    """With paramiko, a lost connection is the end of the output."""
    cut_in_mid_output(sshd, fault_proxy, 1, 10, ["cut", "reset"])


@pytest.mark.long
def test_output_that_was_cut_short_a_thousand_times(sshd: Sshd, fault_proxy: Proxies) -> None:
    in_threads(
        4, lambda n: cut_in_mid_output(sshd, fault_proxy, n, 250, ["cut", "reset"]), timeout=400
    )


def test_recv_distinguishes_a_lost_connection_from_eof(sshd: Sshd, fault_proxy: Proxies) -> None:
    proxy = fault_proxy(sshd.host, sshd.port)
    with dialled(sshd, proxy) as transport:
        channel = transport.open_session()
        channel.exec_command("echo before; cat")
        assert channel.recv(100) == b"before\n"
        began = time.monotonic()
        proxy.reset()
        with pytest.raises(SshConnectionLost):
            channel.recv(100)
        with pytest.raises(SshConnectionLost):
            channel.recv_exit_status()
        with pytest.raises(OSError):
            channel.sendall(b"x")
        within(0.5, began)


def test_a_killed_server_is_a_loss_with_the_output_so_far(sshd: Sshd) -> None:
    with entered() as cache:
        future = operations.submit(cache, sshd.connect_params, "echo before; sleep 60")
        transport, _ = cache.get_client_connection(sshd.connect_params)
        eventually(lambda: transport.open_channel_count, "it runs")
        threading.Event().wait(0.3)
        began = time.monotonic()
        sshd.cut()
        error = future.exception(PATIENCE)
        within(0.5, began)
        assert isinstance(error, SshConnectionLost)
        assert error.sent and error.process is not None
        assert error.process.stdout == "before\n"
        assert error.process.exit_status is None
        assert (
            operations.submit(cache, sshd.connect_params, "echo again").result(30).stdout
            == "again\n"
        )


def corrupt(sshd: Sshd, proxies: Proxies, offsets: List[int]) -> None:
    proxy = proxies(sshd.host, sshd.port)
    for offset in offsets:
        for direction in ("to_client", "to_server"):
            command = OUTPUT if direction == "to_client" else "cat"
            keepalive = {"keepalive_interval": 0.5, "keepalive_count_max": 4}
            with dialled(sshd, proxy, **keepalive) as transport:
                sink = Collector(command.encode())
                proxy.corrupt_at(offset, direction)
                try:
                    transport.start_session(sink)
                except SshConnectionLost:  # the bit was in what the server says after a login
                    continue
                if direction == "to_server":

                    def send() -> None:
                        eventually(lambda: sink.started.is_set() or sink.ended.is_set(), "go")
                        with contextlib.suppress(SshConnectionLost):
                            while sink.channel and sink.channel.send_some(b"y" * 4096):
                                pass

                    Outcome(send).wait()
                assert sink.ended.wait(PATIENCE)
                assert isinstance(sink.error, SshConnectionLost), (offset, direction)
                if direction == "to_client":
                    assert WHOLE.startswith(bytes(sink.out))
                else:
                    assert not bytes(sink.out).strip(b"y")
            proxy.heal()


def test_a_flipped_bit_ends_the_connection_and_delivers_nothing_wrong(
    sshd: Sshd, fault_proxy: Proxies
) -> None:
    corrupt(sshd, fault_proxy, [0, 5, 17, 100, 4000, 20000])


@pytest.mark.long
def test_a_hundred_flipped_bits(sshd: Sshd, fault_proxy: Proxies) -> None:
    rng = random.Random(10)
    corrupt(sshd, fault_proxy, [rng.randrange(60000) for _ in range(50)])


def test_single_bytes_delays_and_pauses_only_make_it_slower(
    sshd: Sshd, fault_proxy: Proxies
) -> None:
    """No time-out fires early."""
    proxy = fault_proxy(sshd.host, sshd.port)
    keepalive = {"keepalive_interval": 1.0, "keepalive_count_max": 3}
    with dialled(sshd, proxy, **keepalive) as transport:
        proxy.slice_size = 1
        assert execute(transport, "cat", b"x" * 2000) == (0, b"x" * 2000)
        proxy.heal()
        proxy.delay = 0.05
        in_threads(4, lambda n: check_echo(transport, n))
        proxy.heal()
        for _ in range(3):
            proxy.freeze()
            calls = [Outcome(functools.partial(check_echo, transport, n)) for n in range(3)]
            threading.Event().wait(0.3)
            proxy.thaw()
            for call in calls:
                assert call.wait().error is None
        assert transport.is_active()


def check_echo(transport: SshTransport, number: int) -> None:
    text = f"number {number}"
    assert execute(transport, f"echo {text}") == (0, text.encode() + b"\n")


def replace_dead(sshd: Sshd, rounds: int) -> None:
    with entered() as cache:
        operations.submit(cache, sshd.connect_params, "true").result(30)
        for number in range(rounds):
            sshd.cut()  # while it is idle in the cache
            result = operations.submit(cache, sshd.connect_params, f"echo {number}").result(30)
            assert result.stdout == f"{number}\n"
        stats = cache.stats()
        assert stats["dials"] <= rounds + 1 and stats["reconnects"] <= rounds
        assert stats["connections"] == 1


def test_dead_cached_connection_is_replaced_silently(sshd: Sshd) -> None:
    replace_dead(sshd, 10)


@pytest.mark.long
def test_a_connection_that_died_in_the_cache_a_thousand_times(sshd_factory: Factory) -> None:
    """On four servers, so that two cores have enough to do."""
    servers = [sshd_factory({"LogLevel": "INFO"}) for _ in range(4)]
    in_threads(4, lambda number: replace_dead(servers[number], 250), timeout=300)


def test_no_command_is_sent_into_an_ended_connection(sshd: Sshd) -> None:
    """The reader thread has not got round to it, as on a machine with much to do."""
    go_on = threading.Event()

    class Blocking(Collector):
        def on_data(self, chunk: bytes) -> None:
            super().on_data(chunk)
            go_on.wait(PATIENCE)

    with entered() as cache:
        try:
            operations.submit(cache, sshd.connect_params, "true").result(30)
            transport, _ = cache.get_client_connection(sshd.connect_params)
            sink = Blocking(b"echo busy; sleep 60")
            transport.start_session(sink)
            eventually(lambda: sink.out, "the reader is busy")
            sshd.cut()
            future = operations.submit(cache, sshd.connect_params, "echo again")
            eventually(lambda: future.done() or not transport.is_active(), "it goes elsewhere")
        finally:
            go_on.set()
        assert future.result(30).stdout == "again\n"


def test_connection_that_died_silently_is_replaced(sshd: Sshd, fault_proxy: Proxies) -> None:
    """The end is noticed only by the next caller."""
    proxy = fault_proxy(sshd.host, sshd.port)
    params = params_for(sshd, proxy, keepalive_interval=0.3, keepalive_count_max=2)
    with entered() as cache:
        operations.submit(cache, params, "true").result(30)
        proxy.freeze()
        transport, client = cache.get_client_connection(params)
        eventually(lambda: repr(client) == "LOST", "it is noticed without any call")
        proxy.reset()
        proxy.thaw()
        assert operations.submit(cache, params, "echo again").result(30).stdout == "again\n"
        assert cache.stats()["losses"] == 1


def test_idle_connections_expire_and_busy_ones_do_not(sshd: Sshd) -> None:
    with entered() as cache:

        def run(text: str) -> str:
            future = operations.submit(cache, sshd.connect_params, text, idle_timeout=0.3)
            return future.result(30).stdout

        began = time.monotonic()
        assert run("sleep 1; echo done") == "done\n"  # three times the limit
        transport, _ = cache.get_client_connection(sshd.connect_params)
        assert cache.stats()["dials"] == 1
        with cache.lease(sshd.connect_params):
            threading.Event().wait(0.8)
            assert transport.is_active()
        channel = transport.open_session()
        threading.Event().wait(1.0)
        assert transport.is_active()  # a channel of the user's is open
        channel.close()
        del channel
        eventually(lambda: len(cache) == 0, "it expires")
        transport.join(5)
        assert transport.loss is None and not transport.is_active()
        assert run("echo again") == "again\n"
        assert cache.stats()["dials"] == 2
        assert time.monotonic() - began > 2


def test_connections_are_replaced_at_the_end_of_their_life_when_nobody_uses_them(
    sshd: Sshd,
) -> None:
    with entered() as cache:
        pids = set()
        for _ in range(8):
            future = operations.submit(
                cache, sshd.connect_params, "echo $PPID; sleep 0.1", max_lifetime=0.3
            )
            pids.add(future.result(30).stdout)
            threading.Event().wait(0.1)
        assert 2 <= len(pids) <= 8
        assert cache.stats()["losses"] == 0
    assert sshd.logins() == len(pids)


def go_round(sshd: Sshd, rounds: int) -> None:
    """Enter, run, fail to log in, fail to connect, exit; again and again."""
    wrong = params_for(sshd, client_keys=[str(generated("stranger"))], agent_path=None)
    nowhere = params_for(sshd, port=1, host_key_alias="nowhere")
    cache = SshClientCache()

    def one_round() -> None:
        cache.enter()
        result = operations.submit(cache, sshd.connect_params, "echo hello").result(30)
        assert result.stdout == "hello\n"
        for params in (wrong, nowhere):
            error = operations.submit(cache, params, "true").exception(30)
            assert isinstance(error, SshConnectError)
        cache.exit()

    one_round()
    threads, files = threading.active_count(), descriptors()
    for _ in range(rounds):
        one_round()
    eventually(lambda: threading.active_count() <= threads, "the same number of threads")
    eventually(lambda: descriptors() <= files, "the same number of descriptors")


def test_rounds_leave_the_same_threads_and_descriptors(sshd: Sshd) -> None:
    """Paramiko leaks a thread and a socket for each failure."""
    go_round(sshd, 15)


@pytest.mark.long
def test_sixty_rounds_leave_the_same_threads_and_descriptors(sshd: Sshd) -> None:
    go_round(sshd, 60)


def test_the_wall_clock_may_jump(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour on or back, at every look at it."""
    wall = time.time
    rng = random.Random(42)
    monkeypatch.setattr(time, "time", lambda: wall() + rng.choice([-3600, 3600]))
    with entered() as cache:
        assert operations.submit(cache, sshd.connect_params, "echo hello", timeout=30).result(30)
        transport, _ = cache.get_client_connection(sshd.connect_params)
        assert execute(transport, "sha256sum", bytes(8 << 20))[1].split()[0] == (
            hashlib.sha256(bytes(8 << 20)).hexdigest().encode()
        )
        channel = transport.open_session()
        channel.exec_command("sleep 0.5; cat >/dev/null")
        channel.settimeout(10)
        channel.sendall(bytes(8 << 20))  # waits for the window
        channel.shutdown_write()
        assert drain(channel) == (0, b"")
        channel.close()
