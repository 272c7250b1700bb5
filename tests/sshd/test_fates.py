"""Commands under random faults: none runs twice, none is lost."""

from __future__ import annotations

import random
import signal
import threading
from collections import Counter
from os import kill
from pathlib import Path
from typing import Any, Callable, List

import pytest

from ssh_service import SshClientCache, operations, run, start, upload
from ssh_service.errors import (
    SshAuthError,
    SshCommandCancelled,
    SshCommandTimeout,
    SshConnectionLost,
    SshServiceError,
)
from ssh_service.testing.pytest_plugin import FaultProxy, Sshd
from tests.common import PATIENCE, eventually
from tests.faults.clients import connected, params_for
from tests.faults.evil_ssh import EvilSsh
from tests.soak.soak import options, phase

SECONDS = 15.0
"""How long random faults last here; the soak test (tests/soak) goes on for half an hour."""


def ids(file: Path) -> "Counter[int]":
    return Counter(map(int, file.read_text().split())) if file.exists() else Counter()


# Not sent, or not again.


def test_wrong_credentials_are_shown_once_and_never_retried(
    sshd_factory: Callable[..., Sshd], cache: SshClientCache
) -> None:
    sshd, other = sshd_factory({"MaxAuthTries": 3}), sshd_factory()
    params = {**sshd.connect_params, "client_keys": [other.client_key]}
    futures = [operations.submit(cache, params, "true") for _ in range(5)]
    assert {type(future.exception(PATIENCE)) for future in futures} == {SshAuthError}
    eventually(lambda: "Connection from" in sshd.log(), "the server has logged it")
    assert sshd.log().count("Connection from") == 1


@pytest.mark.long
def test_random_faults_leave_a_history_without_violation(
    sshd_factory: Callable[..., Sshd], tmp_path: Path
) -> None:
    """Ten threads; what is said to have run did once, what was never sent did not."""
    seed = random.randrange(10**6)
    history = phase(sshd_factory(options(tmp_path)), SECONDS, seed, tmp_path)
    assert not history.complaints, f"seed {seed}"
    assert history.counts["done"] > 100


class Schedule:
    """Commands, copies, cancellations, closes and resets, on two threads, as the seed has it."""

    def __init__(self, seed: int, sshd: Sshd, proxy: FaultProxy, folder: Path) -> None:
        self.rng = random.Random(seed)
        self.params = params_for(sshd, proxy)
        self.proxy, self.folder = proxy, folder
        self.cache = SshClientCache()
        self.ran = folder / "ran"
        self.fates: List[Any] = []
        self.wrong: List[str] = []

    def execute(self, number: int, cancels: bool) -> None:
        future = operations.submit(self.cache, self.params, f"echo {number} >>{self.ran}; echo hi")
        if cancels:
            future.cancel()
        error = future.exception(PATIENCE)
        if error is None:
            self.fates.append((number, "done"))
            if future.result().stdout != "hi\n":
                self.wrong.append(f"{number}: {future.result()!r}")
        elif getattr(error, "process", None) is None:
            self.fates.append((number, "never sent"))
        if not isinstance(error, (SshServiceError, type(None))):
            self.wrong.append(f"{number}: {error!r}")

    def copy(self, number: int) -> None:
        source, target = self.folder / f"from-{number}", self.folder / f"to-{number}"
        source.write_bytes(b"%d\n" % number * 1000)
        target.write_bytes(b"old")
        try:
            upload(self.params, source, target, cache=self.cache, timeout=PATIENCE)
        except (OSError, SshServiceError):
            whole = target.read_bytes() in (b"old", source.read_bytes())
        else:
            whole = target.read_bytes() == source.read_bytes()
        if not whole:
            self.wrong.append(f"half a file: {number}")

    def play(self) -> None:
        steps = [
            (self.rng.choice(["run", "run", "cancel", "copy", "close", "reset"]), number)
            for number in range(8)
        ]

        def work(steps: List[Any]) -> None:
            for step, number in steps:
                if step == "copy":
                    self.copy(number)
                elif step == "close":
                    self.cache.cleanup()
                elif step == "reset":
                    self.proxy.reset()
                else:
                    self.execute(number, step == "cancel")

        threads = [threading.Thread(target=work, args=(steps[n::2],)) for n in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(3 * PATIENCE)
            if thread.is_alive():
                self.wrong.append("a thread is stuck")
        self.cache.cleanup()

    def check(self) -> List[str]:
        ran = ids(self.ran)
        for number, fate in self.fates:
            if ran[number] != (1 if fate == "done" else 0):
                self.wrong.append(f"{number} is said to be {fate}, and ran {ran[number]} times")
        self.wrong += [f"{number} ran {n} times" for number, n in ran.items() if n > 1]
        return self.wrong


def play_schedules(count: int, sshd: Sshd, proxy: FaultProxy, folder: Path) -> None:
    seed = random.randrange(10**6)
    for number in range(seed, seed + count):
        place = folder / str(number)
        place.mkdir()
        schedule = Schedule(number, sshd, proxy, place)
        schedule.play()
        assert not schedule.check(), f"seed {number}"


def test_random_schedules_keep_the_promises(
    sshd_factory: Callable[..., Sshd], fault_proxy: Callable[..., FaultProxy], tmp_path: Path
) -> None:
    sshd = sshd_factory({"LogLevel": "ERROR"})
    play_schedules(3, sshd, fault_proxy(sshd.host, sshd.port), tmp_path)


@pytest.mark.long
def test_many_random_schedules_keep_the_promises(
    sshd_factory: Callable[..., Sshd], fault_proxy: Callable[..., FaultProxy], tmp_path: Path
) -> None:
    sshd = sshd_factory({"LogLevel": "ERROR"})
    play_schedules(60, sshd, fault_proxy(sshd.host, sshd.port), tmp_path)


# Ended, or perhaps not.


@pytest.mark.long
def test_two_hundred_time_outs_cost_the_server_no_session(
    sshd_factory: Callable[..., Sshd], cache: SshClientCache
) -> None:
    """With children, and where TERM is ignored."""
    web = sshd_factory({"MaxSessions": 10}).connect_params
    text = "trap '' TERM; (sleep 987) & sleep 987"
    futures = [
        operations.submit(cache, web, text if number % 4 == 0 else "sleep 987 & wait", timeout=2)
        for number in range(200)
    ]
    for future in futures:
        assert isinstance(future.exception(120), SshServiceError)
    sent = [future.exception() for future in futures if getattr(future.exception(), "process", 0)]
    assert sent and all(isinstance(error, SshCommandTimeout) for error in sent)
    for number in range(20):
        assert run(web, f"echo {number}", cache=cache, timeout=PATIENCE).stdout == f"{number}\n"


def test_ignored_signals_leave_ended_unknown() -> None:
    """A hundred of a hundred."""
    with EvilSsh(lambda *_: None) as server, connected(server.port) as transport:
        processes = [start(transport, "goes on", timeout=0.3) for _ in range(50)]
        others = [start(transport, "goes on") for _ in range(50)]
        errors = [process.future.exception(PATIENCE) for process in processes]
        assert {type(error) for error in errors} == {SshCommandTimeout}
        assert [getattr(error, "ended", 0) for error in errors] == [None] * 50
        for process in others:
            process.future.cancel()
        server.transports[0].close()
        errors = [process.future.exception(PATIENCE) for process in others]
        assert {type(error) for error in errors} == {SshCommandCancelled}
        assert [getattr(error, "ended", 0) for error in errors] == [None] * 50


def test_a_connection_that_is_lost_while_a_command_is_ended_leaves_it_unknown(
    sshd: Sshd, fault_proxy: Callable[..., FaultProxy], cache: SshClientCache
) -> None:
    proxy = fault_proxy(sshd.host, sshd.port)
    with start(params_for(sshd, proxy), "echo begun; exec sleep 30", cache=cache) as process:
        assert next(process.lines()) == "begun\n"
        proxy.freeze()
        assert process.future.cancel()
        proxy.reset()
        error = process.future.exception(PATIENCE)
    assert isinstance(error, SshCommandCancelled) and error.ended is None


# The connection lives on.


def test_an_error_of_the_callers_own_costs_no_connection(
    sshd: Sshd, cache: SshClientCache
) -> None:
    web = sshd.connect_params
    server = run(web, "echo $PPID", cache=cache, timeout=PATIENCE).stdout
    with pytest.raises(ZeroDivisionError), start(web, "sleep 60", cache=cache) as process:
        print(1 / 0)
    assert isinstance(process.future.exception(PATIENCE), SshCommandCancelled)
    with pytest.raises(ZeroDivisionError), cache.lease(web):
        print(1 / 0)
    assert run(web, "echo $PPID", cache=cache, timeout=PATIENCE).stdout == server


def test_a_server_that_reloads_its_configuration_keeps_the_connection(
    sshd_factory: Callable[..., Sshd], cache: SshClientCache
) -> None:
    """The old one lives on, through the end of the listener too; the next finds the new."""
    sshd = sshd_factory()
    web = sshd.connect_params

    def server() -> str:
        return run(web, "echo $PPID", cache=cache, timeout=PATIENCE).stdout

    old = server()
    assert sshd.pid is not None
    sshd.mark()
    kill(sshd.pid, signal.SIGHUP)
    eventually(lambda: "Server listening" in sshd.log(), "it has begun anew")
    assert server() == old
    sshd.cut()
    assert server() != old
    assert cache.stats()["dials"] == 2


def test_command_running_at_a_cut_is_not_repeated(
    sshd: Sshd, cache: SshClientCache, tmp_path: Path
) -> None:
    ran = tmp_path / "ran"
    futures = [
        operations.submit(cache, sshd.connect_params, f"echo {number} >>{ran}; sleep 30")
        for number in range(10)
    ]
    eventually(lambda: len(ids(ran)) == 10, "all run")
    sshd.cut()
    for future in futures:
        error = future.exception(PATIENCE)
        assert isinstance(error, SshConnectionLost) and error.sent
    assert run(sshd.connect_params, "echo on", cache=cache, timeout=PATIENCE).stdout == "on\n"
    assert set(ids(ran).values()) == {1}
