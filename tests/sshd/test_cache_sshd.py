"""The cache on a real server: hooks, credentials, leases, and what `exit` does to all of them."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import pytest

from ssh_service import SshClient, SshClientCache, operations
from ssh_service.errors import (
    SshAuthError,
    SshCacheClosed,
    SshCommandTimeout,
    SshConfigError,
    SshConnectionLost,
    SshHostKeyError,
)
from ssh_service.testing.local_sshd import Sshd
from ssh_service.testing.pytest_plugin import FaultProxy
from ssh_service.transport import SshChannel
from tests.common import PATIENCE, eventually, is_running, within
from tests.faults.clients import execute, params_for
from tests.keys import generated

Proxies = Callable[[str, int], FaultProxy]


class Telling(SshClient):
    """Records its hooks' calls; each test's subclass has a list of its own."""

    told: List[Tuple[str, Any]]
    news: threading.Semaphore

    def connection_made(self, conn: Any) -> None:
        self.told.append(("made", repr(self)))
        self.news.release()

    def connection_lost(self, exc: Optional[BaseException]) -> None:
        self.told.append((repr(self), exc))
        self.news.release()


@pytest.fixture
def telling() -> Iterator[Tuple[SshClientCache, Any]]:
    kind = type("Mine", (Telling,), {"told": [], "news": threading.Semaphore(0)})
    cache = SshClientCache(kind)
    yield cache, kind
    cache.cleanup()


def echo(cache: SshClientCache, params: Dict[str, Any], word: str = "hello") -> str:
    future = operations.submit(cache, params, f"echo {word}", timeout=PATIENCE)
    return future.result(PATIENCE).stdout.strip()


# Hooks.


@pytest.mark.parametrize("how", ["killed", "cut", "reset", "closed", "exit"])
def test_hooks_report_the_connection_and_once_its_end(
    how: str, sshd: Sshd, fault_proxy: Proxies, telling: Any
) -> None:
    cache, kind = telling
    proxy = fault_proxy(sshd.host, sshd.port)
    name = f"{sshd.username}@{sshd.host}:{proxy.port}"
    cache.enter()
    transport, client = cache.get_client_connection(params_for(sshd, proxy))
    assert kind.told == [("made", name)]  # before it was handed out
    assert kind.news.acquire(timeout=PATIENCE)
    began = time.monotonic()
    {
        "killed": sshd.cut,
        "cut": proxy.cut,
        "reset": proxy.reset,
        "closed": transport.close,
        "exit": cache.exit,
    }[how]()
    assert kind.news.acquire(timeout=PATIENCE)
    assert time.monotonic() - began < 2 * 0.5 + 1  # at once, without polling
    assert client.connection(timeout=0) is None
    state, reason = kind.told[1]
    assert state == "LOST"
    if how in ("closed", "exit"):
        assert reason is None
    else:
        assert isinstance(reason, SshConnectionLost)
        assert reason.reason in ({"reset"} if how == "reset" else {"eof", "reset"})
    assert client.id_from_connection(transport) == name
    cache.cleanup()
    assert len(kind.told) == 2
    assert cache.stats()["losses"] == (how not in ("closed", "exit"))


def test_every_reconnect_is_a_new_client(sshd: Sshd, telling: Any) -> None:
    cache, kind = telling
    clients = []
    for _ in range(3):
        clients.append(cache.get_client_connection(sshd.connect_params)[1])
        sshd.cut()
        eventually(lambda: repr(clients[-1]) == "LOST", "the loss is noticed")
    assert len({id(client) for client in clients}) == 3
    assert cache.stats()["reconnects"] == 2
    assert sshd.logins() == 3


def test_failed_login_calls_only_connection_lost(sshd: Sshd, telling: Any, tmp_path: Path) -> None:
    cache, kind = telling
    stranger = str(tmp_path / "key")
    shutil.copy(sshd.host_key, stranger)  # a key, but nobody's here
    with pytest.raises(SshAuthError):
        cache.get_client_connection({**sshd.connect_params, "client_keys": [stranger]})
    assert kind.news.acquire(timeout=PATIENCE)
    assert [state for state, _ in kind.told] == ["LOST"]
    assert isinstance(kind.told[0][1], SshAuthError)


def test_a_hook_that_never_returns_and_one_that_raises_stall_no_command(sshd: Sshd) -> None:
    gate = threading.Event()

    class Stuck(SshClient):
        def connection_made(self, conn: Any) -> None:
            gate.wait(PATIENCE)
            raise LookupError("on purpose")

    cache = SshClientCache(Stuck)
    try:
        began = time.monotonic()
        assert [echo(cache, sshd.connect_params, str(n)) for n in range(20)] == [
            str(n) for n in range(20)
        ]
        cache.get_client_connection(sshd.connect_params)
        for _ in range(20):
            cache.get_client_connection(sshd.connect_params)
        assert time.monotonic() - began < 2 * 2 + 1  # it is waited for once, for a second
    finally:
        gate.set()
        cache.cleanup()


# Who gets which connection.


def test_two_keys_and_two_policies_are_four_connections(
    sshd_factory: Callable[..., Sshd], cache: SshClientCache, tmp_path: Path
) -> None:
    sshd = sshd_factory()
    other = str(generated("welcome-too"))
    with open(sshd.authorized_keys, "a") as keys:
        keys.write(Path(other + ".pub").read_text())
    variants = [
        {**sshd.connect_params, **variant}
        for variant in (
            {},
            {"client_keys": [other]},
            {"known_hosts": None},
            {"client_keys": [other], "known_hosts": None},
        )
    ]
    for _ in range(2):
        transports = [cache.get_client_connection(variant)[0] for variant in variants]
        assert len(set(map(id, transports))) == 4
        assert [echo(cache, variant) for variant in variants] == ["hello"] * 4
    assert sshd.logins() == 4
    assert len(cache) == 4
    assert str(cache).count(f"{sshd.username}@{sshd.host}:{sshd.port}") == 4


def test_a_wrong_key_and_a_wrong_host_key_never_get_the_connection_of_a_right_one(
    sshd: Sshd, cache: SshClientCache, tmp_path: Path
) -> None:
    assert echo(cache, sshd.connect_params) == "hello"
    stranger, wrong = str(tmp_path / "key"), tmp_path / "known_hosts"
    shutil.copy(sshd.host_key, stranger)
    key = " ".join(Path(sshd.client_key + ".pub").read_text().split()[:2])
    wrong.write_text(f"[{sshd.host}]:{sshd.port} {key}\n")
    with pytest.raises(SshAuthError):
        echo(cache, {**sshd.connect_params, "client_keys": [stranger]})
    with pytest.raises(SshHostKeyError):
        echo(cache, {**sshd.connect_params, "known_hosts": str(wrong)})
    with pytest.raises(SshConfigError):
        echo(cache, {**sshd.connect_params, "client_keys": [str(tmp_path / "missing")]})
    assert sshd.logins() == 1


@pytest.mark.parametrize("policy", ["strict", "accept-new"])
def test_a_host_that_comes_back_with_another_key_is_refused(
    sshd_factory: Callable[..., Sshd], cache: SshClientCache, policy: str
) -> None:
    """Also where the cache had a connection, and before any credential is shown."""
    server = sshd_factory()
    web = {**server.connect_params, "host_key_policy": policy}
    assert echo(cache, web) == "hello"
    on_file = Path(server.known_hosts).read_text()
    for suffix in ("", ".pub"):
        shutil.copy(server.client_key + suffix, server.host_key + suffix)
    server.restart()
    server.mark()
    with pytest.raises(SshHostKeyError, match="it has CHANGED") as caught:
        echo(cache, web)
    assert caught.value.expected != caught.value.received
    assert f"{server.known_hosts}:1" in str(caught.value)
    assert "userauth-request" not in server.log()
    assert Path(server.known_hosts).read_text() == on_file


# Leases.


def test_paramiko_code_can_use_what_the_cache_hands_out(sshd: Sshd, cache: SshClientCache) -> None:
    with cache.lease(sshd.connect_params, idle_timeout=0.05) as (transport, _):
        channel = transport.open_session()
        channel.exec_command("echo from paramiko; cat; exit 3")
        channel.sendall(b"and back")
        channel.shutdown_write()
        output = b""
        while True:
            piece = channel.recv(1000)
            if not piece:
                break
            output += piece
        assert output == b"from paramiko\nand back"
        assert channel.recv_exit_status() == 3
        channel.close()
        assert cache.stats()["leases"] == 1
    eventually(lambda: not transport.is_active(), "it expires when nobody uses it")
    assert len(cache) == 0
    assert cache.stats()["losses"] == 0


def test_paramiko_code_can_have_the_server_forward_a_port(
    sshd: Sshd, cache: SshClientCache
) -> None:
    """The channels that the server opens then are repaired like any other."""
    with cache.lease(sshd.connect_params) as (transport, _):
        port = transport.request_port_forward("127.0.0.1", 0)
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as sock:
            channel = transport.accept(PATIENCE)
            assert isinstance(channel, SshChannel)
            sock.sendall(b"x" * 100000)
            received = b""
            while len(received) < 100000:
                received += channel.recv(65536)
            channel.sendall(b"there")
            channel.close()
            sock.settimeout(PATIENCE)
            assert sock.recv(100) == b"there"
        transport.cancel_port_forward("127.0.0.1", port)
        assert execute(transport, "echo fine") == (0, b"fine\n")


def test_an_open_channel_keeps_its_connection_though_nobody_leases_it(
    sshd: Sshd, cache: SshClientCache
) -> None:
    with cache.lease(sshd.connect_params, idle_timeout=0.01) as (transport, _):
        channel = transport.open_session()
        channel.exec_command("cat")
    pause = threading.Event()
    pause.wait(1.3)  # the cache has looked at least once
    channel.sendall(b"still here")
    assert channel.recv(100) == b"still here"
    channel.close()
    eventually(lambda: not transport.is_active(), "it expires when the channel is closed")


# Exit.


def test_exit_ends_all_work_and_dials_nothing_more(
    sshd_factory: Callable[..., Sshd], cache: SshClientCache
) -> None:
    sshd = sshd_factory({"MaxSessions": 4})
    cache.enter()
    futures = [
        operations.submit(cache, sshd.connect_params, f"echo {n}; sleep 20", max_connections=2)
        for n in range(40)
    ]
    eventually(lambda: cache.stats()["connections"] == 2, "the second connection")
    eventually(lambda: cache.stats()["leases"] >= 8, "all sessions are taken")
    logins = sshd.logins()
    began = time.monotonic()
    cache.exit()
    errors = [future.exception(PATIENCE) for future in futures]
    assert time.monotonic() - began < 2 * 0.5 + 1
    assert {type(error) for error in errors} == {SshConnectionLost, SshCacheClosed}
    for error in errors:
        if isinstance(error, SshConnectionLost):
            assert error.reason == "closed"
    assert len(cache) == 0 and cache.stats()["leases"] == 0
    with pytest.raises(RuntimeError):
        cache.exit()
    assert sshd.logins() == logins
    assert echo(cache, sshd.connect_params) == "hello"


def test_exit_ends_a_dial_to_a_host_that_never_speaks(
    sshd: Sshd, fault_proxy: Proxies, cache: SshClientCache
) -> None:
    proxy = fault_proxy(sshd.host, sshd.port)
    proxy.freeze()
    cache.enter()
    futures = [operations.submit(cache, params_for(sshd, proxy), "true") for _ in range(10)]
    eventually(lambda: proxy.connections == 1, "the dial has begun")
    began = time.monotonic()
    cache.exit()
    assert {type(future.exception(PATIENCE)) for future in futures} == {SshCacheClosed}
    assert time.monotonic() - began < 2 * 0.5 + 1


def test_mute_hosts_delay_no_other(
    sshd: Sshd, fault_proxy: Proxies, cache: SshClientCache
) -> None:
    proxies = [fault_proxy(sshd.host, sshd.port) for _ in range(16)]
    for proxy in proxies:
        proxy.freeze()
    futures = [operations.submit(cache, params_for(sshd, proxy), "true") for proxy in proxies]
    eventually(lambda: all(proxy.connections for proxy in proxies), "all are being dialled")
    began = time.monotonic()
    assert echo(cache, sshd.connect_params) == "hello"
    assert time.monotonic() - began < 2 * 1 + 1
    assert not any(future.done() for future in futures)
    assert cache.stats()["dials"] == 17
    cache.cleanup()
    assert all(isinstance(future.exception(PATIENCE), SshCacheClosed) for future in futures)


# Where all sessions are taken by what never ends.


@pytest.mark.parametrize("limit", [1, 3])
def test_commands_that_fill_the_server_and_time_out_are_ended_and_it_goes_on(
    limit: int, sshd_factory: Callable[..., Sshd], cache: SshClientCache, tmp_path: Path
) -> None:
    """
    For root they can be ended over another session alone, and here there is none to be had.

    They always are; a busy machine may take longer than the outcome waits for the news.
    """
    sshd = sshd_factory({"MaxSessions": limit})
    assert echo(cache, sshd.connect_params) == "hello"

    def are_told(folder: Path) -> bool:
        folder.mkdir()
        began = time.monotonic()
        futures = [
            operations.submit(
                cache,
                sshd.connect_params,
                f"echo $$ > {folder}/pid-{n}; exec sleep 60",
                timeout=1.5,
                max_connections=1,
            )
            for n in range(limit)
        ]
        errors = [future.exception(PATIENCE) for future in futures]
        within(1.5 + 2, began)
        assert [(type(e), getattr(e, "phase", None)) for e in errors] == [
            (SshCommandTimeout, "run")
        ] * limit
        for file in folder.iterdir():
            pid = file.read_text().strip()
            eventually(lambda: not is_running(pid), "the process ends")
        return all(getattr(error, "ended", None) is True for error in errors)

    told = any(are_told(tmp_path / str(attempt)) for attempt in range(4))
    assert told, "all were ended, and never all told in time"
    future = operations.submit(cache, sshd.connect_params, "echo next", max_connections=1)
    assert future.result(PATIENCE).stdout == "next\n"
