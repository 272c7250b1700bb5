"""One connection, many threads: nothing is mixed up, nothing stands still, nothing is left."""

from __future__ import annotations

import contextlib
import functools
import gc
import hashlib
import itertools
import logging
import os
import threading
import time
from pathlib import Path
from typing import Any, Callable, List

import paramiko
import pytest

from ssh_service import operations
from ssh_service.connections.cache import SshClientCache
from ssh_service.errors import SshConnectionLost, SshConnectTimeout, SshSessionRefused
from ssh_service.testing.pytest_plugin import Sshd
from ssh_service.transport import SshChannel, SshTransport
from ssh_service.transport.packets import SshPacketizer
from tests.common import PATIENCE, Outcome, eventually, in_threads, resident, within
from tests.faults.clients import Collector, dialled, drain, entered, execute

MIB = 1024 * 1024
Factory = Callable[..., Sshd]


def run_in_eight_threads(sshd: Sshd, count: int) -> None:
    """Run `count` commands, half of them the library's way, half paramiko's; check each."""
    with entered() as cache:
        transport, _ = cache.get_client_connection(sshd.connect_params)

        def work(thread: int) -> None:
            for number in range(count // 8):
                tag, status = f"{thread}-{number}", (thread * 31 + number) % 120
                text = f"echo {tag}; echo err-{tag} >&2; exit {status}"
                if number % 2:
                    result = operations.submit(cache, sshd.connect_params, text).result(60)
                    assert result.stdout == tag + "\n"
                    assert result.stderr == f"err-{tag}\n"
                    assert result.exit_status == status
                else:
                    assert execute(transport, text) == (status, f"{tag}\n".encode())

        in_threads(8, work, timeout=600)
        assert transport.is_active()
        assert cache.stats()["reconnects"] == cache.stats()["losses"] == 0
    assert sshd.logins() == 1
    assert "nonexistent" not in sshd.log()


def test_eight_threads_share_one_connection(sshd: Sshd) -> None:
    """Paramiko's dies within 500 commands."""
    run_in_eight_threads(sshd, 480)


@pytest.mark.long
def test_eight_threads_share_one_connection_for_20000_commands(sshd_factory: Factory) -> None:
    run_in_eight_threads(sshd_factory({"LogLevel": "INFO"}), 20000)


def test_debug_log_of_a_shared_connection_has_no_secret(
    sshd: Sshd, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with entered() as cache:

        def work(thread: int) -> None:
            for number in range(10):
                result = operations.submit(
                    cache, sshd.connect_params, "echo $TOKEN", env={"TOKEN": "hunter2-marker"}
                ).result(60)
                assert result.stdout == "hunter2-marker\n"

        in_threads(8, work)
    text = "\n".join(record.getMessage() for record in caplog.records)
    assert f"{sshd.username}@{sshd.host}:{sshd.port}" in text
    assert "hunter2-marker" not in text
    for line in Path(sshd.client_key).read_text().splitlines():
        assert line not in text


def end_early(sshd: Sshd, rounds: int) -> None:
    """Feed commands that end in the middle of their input."""
    with dialled(sshd) as transport:

        def work(thread: int) -> None:
            for _ in range(rounds):
                channel = transport.open_session()
                channel.exec_command("head -c 10")
                with contextlib.suppress(OSError):  # this call ends; the connection does not
                    for _ in range(200):
                        channel.sendall(b"x" * 32768)
                channel.close()

        in_threads(4, work)
        assert transport.is_active()
        assert execute(transport, "echo hello") == (0, b"hello\n")
    assert "nonexistent" not in sshd.log()


def test_a_command_that_ends_while_its_input_is_sent_ends_alone(sshd: Sshd) -> None:
    """The server ends a connection that sends data to a channel that is no more."""
    end_early(sshd, 25)


@pytest.mark.long
def test_1200_commands_that_end_while_their_input_is_sent(sshd: Sshd) -> None:
    end_early(sshd, 300)


class Overtaken:
    """Holds up a channel's data, as a switch of threads may, until the test lets it go."""

    def __init__(self, transport: SshTransport, secret: bytes) -> None:
        self.is_waiting = threading.Event()
        self.may_go_on = threading.Event()
        self._secret = secret
        self._send = transport._send_user_message
        transport._send_user_message = self  # type: ignore[assignment,method-assign]

    def __call__(self, m: Any, outbound: Any = None) -> None:
        if self._secret in m.asbytes():
            self.is_waiting.set()
            assert self.may_go_on.wait(PATIENCE)
        self._send(m, outbound)


def open_numbered(transport: SshTransport, number: int) -> SshChannel:
    """Open sessions until one has the server's number that is wanted."""
    others: List[SshChannel] = []
    while True:
        channel = transport.open_session()
        if channel.remote_chanid == number:
            for other in others:
                other.close()
            return channel
        others.append(channel)
        assert len(others) < 50, "the number is never given again, so this proves nothing"


def send_late(transport: SshTransport, case: int) -> None:
    """Send to a channel that was closed meanwhile, and whose number has been given anew."""
    secret = b"secret of the first, case %d" % case
    first = transport.open_session()
    first.exec_command("cat >/dev/null")
    hold = Overtaken(transport, secret)
    sending = Outcome(lambda: first.sendall(secret))
    assert hold.is_waiting.wait(PATIENCE)
    number = first.remote_chanid
    first.close()
    eventually(lambda: first not in transport._channels.values(), "the server closed it too")
    second = open_numbered(transport, number)
    second.exec_command("cat")
    hold.may_go_on.set()
    sending.wait()
    second.sendall(b"its own")
    second.shutdown_write()
    assert drain(second) == (0, b"its own")
    second.close()
    eventually(lambda: second not in transport._channels.values(), "the server closed it too")
    del transport._send_user_message


def test_late_stdin_never_reaches_another_command(sshd: Sshd) -> None:
    """With paramiko, another command's stdin gets it."""
    with dialled(sshd) as transport:
        for case in range(10):
            send_late(transport, case)
        assert transport.is_active()
    assert "nonexistent" not in sshd.log()


@pytest.mark.long
def test_late_stdin_never_reaches_another_command_in_100_rounds(sshd: Sshd) -> None:
    with dialled(sshd) as transport:
        for case in range(100):
            send_late(transport, case)


class Rekeys:
    """Counts the key exchanges of all connections after their first."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
        self.count = 0
        monkeypatch.setattr(SshPacketizer, "REKEY_BYTES", size)
        parse = SshTransport._parse_newkeys

        def counting(transport: SshTransport, m: Any) -> None:
            self.count += bool(transport.initial_kex_done)
            parse(transport, m)

        monkeypatch.setattr(SshTransport, "_parse_newkeys", counting)
        # The table of handlers is made with each transport, so it takes the method as it is now.


def move_bytes(sshd: Sshd, tmp_path: Path, each_way: int) -> int:
    """Send and receive while commands run; return how many ran."""
    block = os.urandom(MIB)
    source = tmp_path / "source"
    with open(source, "wb") as file:
        for number in range(8):
            file.write(number.to_bytes(4, "big") + block[4:])
    whole = source.read_bytes()
    rounds = max(1, each_way // len(whole))
    expected = hashlib.sha256()
    for _ in range(rounds):
        expected.update(whole)
    count = itertools.count()
    with dialled(sshd) as transport:

        def download() -> None:
            found = hashlib.sha256()
            channel = transport.open_session()
            channel.settimeout(60)
            channel.exec_command(f"for i in $(seq {rounds}); do cat {source}; done")
            while True:
                chunk = channel.recv(MIB)
                if not chunk:
                    break
                found.update(chunk)
            assert channel.recv_exit_status(PATIENCE) == 0
            channel.close()
            assert found.hexdigest() == expected.hexdigest()

        def upload() -> None:
            channel = transport.open_session()
            channel.settimeout(60)
            channel.exec_command("sha256sum")
            for _ in range(rounds):
                channel.sendall(whole)
            channel.shutdown_write()
            status, out = drain(channel)
            channel.close()
            assert (status, out.split()[0].decode()) == (0, expected.hexdigest())

        both = [Outcome(download), Outcome(upload)]

        def work(thread: int) -> None:
            while not all(call.is_over() for call in both):
                number = next(count)
                assert execute(transport, f"echo {number}", timeout=60) == (
                    0,
                    b"%d\n" % number,
                )

        in_threads(2, work, timeout=900)
        for call in both:
            error = call.wait().error
            if error is not None:
                raise error
        assert transport.is_active()
        eventually(lambda: not transport._send_queue, "all is sent")
    return next(count)


def test_keys_are_exchanged_anew_under_load(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paramiko stands still at the first re-key under load, for 30 s, and dies."""
    rekeys = Rekeys(monkeypatch, MIB)
    assert move_bytes(sshd, tmp_path, 16 * MIB) > 0
    assert rekeys.count >= 10


def test_keys_are_exchanged_anew_from_both_sides(
    sshd_factory: Factory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rekeys = Rekeys(monkeypatch, 3 * MIB)
    assert move_bytes(sshd_factory({"RekeyLimit": "2M"}), tmp_path, 16 * MIB) > 0
    assert rekeys.count >= 8


def test_keys_can_be_renewed_by_many_threads_at_once_and_under_load(sshd: Sshd) -> None:
    """With paramiko, two threads begin exchanges in the middle of each other's."""
    with dialled(sshd) as transport:

        def work(thread: int) -> None:
            for number in range(5):
                if thread < 4:
                    before = transport.H
                    transport.renegotiate_keys()
                    assert transport.H != before  # the hash of the last exchange
                else:
                    text = f"{thread}-{number}\n".encode()
                    assert execute(transport, "cat", text * 1000) == (0, text * 1000)

        in_threads(8, work)
        assert transport.is_active()


@pytest.mark.long
def test_four_gib_through_fifty_rekeys(
    sshd_factory: Factory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rekeys = Rekeys(monkeypatch, 32 * MIB)
    sshd = sshd_factory({"LogLevel": "INFO", "RekeyLimit": "100M"})
    assert move_bytes(sshd, tmp_path, 2048 * MIB) > 0
    assert rekeys.count >= 50


def both_streams(sshd: Sshd, size: int) -> None:
    command = (
        f"for i in $(seq {size // MIB}); do head -c {MIB} /dev/zero; head -c {MIB} /dev/zero >&2;"
        " done"
    )
    with entered() as cache:
        memory = resident()
        result = operations.submit(cache, sshd.connect_params, command).result(120)
        assert resident() - memory < 5 * size + 8 * MIB
        assert result.exit_status == 0
        assert result.stdout_bytes == result.stderr_bytes == bytes(size)


def test_stdout_and_stderr_are_read_together(sshd: Sshd) -> None:
    """One window for both, so that reading one of them first stands still."""
    both_streams(sshd, 5 * MIB)


@pytest.mark.long
def test_fifty_mib_of_stdout_and_stderr(sshd: Sshd) -> None:
    both_streams(sshd, 50 * MIB)


def test_a_session_that_was_opened_too_late_is_given_back(sshd_factory: Factory) -> None:
    """Three sessions are admitted; nine time-outs leave all three."""
    sshd = sshd_factory({"MaxSessions": 3})
    with dialled(sshd) as transport:
        for _ in range(3):
            sshd.freeze()
            for _ in range(3):
                with pytest.raises(SshConnectTimeout):
                    transport.open_session(timeout=0.05)
            sshd.thaw()
            eventually(lambda: not transport._strong_references, "late sessions are closed")
        channels = [transport.open_session(timeout=10) for _ in range(3)]
        for channel in channels:
            channel.close()


def test_a_forgotten_channel_gives_its_session_back_though_collected_under_every_lock(
    sshd_factory: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paramiko's destructor takes a lock that its thread may hold already."""
    sshd = sshd_factory({"MaxSessions": 2})
    send = SshTransport._send_message

    def collecting(transport: SshTransport, m: Any) -> None:
        gc.collect()  # as the interpreter may at any time: here, with the gate held
        send(transport, m)

    gc.freeze()  # what is there already need not be looked through each time
    try:
        with dialled(sshd) as transport:
            monkeypatch.setattr(SshTransport, "_send_message", collecting)

            def forget_ten() -> None:
                for _ in range(10):
                    eventually(lambda: forget_a_channel(transport), "a session is free")

            for call in [Outcome(forget_ten) for _ in range(2)]:
                assert call.wait(3 * PATIENCE).error is None
            gc.collect()
            eventually(lambda: forget_a_channel(transport), "a session is free")
    finally:
        gc.unfreeze()


def forget_a_channel(transport: SshTransport) -> bool:
    """Leave a channel, with a command that never ends, to the collector."""
    try:
        channel = transport.open_session(timeout=PATIENCE)
    except SshSessionRefused:
        return False  # the server has not seen yet that the last ones were closed
    channel.exec_command("cat")
    cycle: List[Any] = [channel]
    cycle.append(cycle)
    return True


def test_a_forgotten_channel_gives_its_session_back_though_nothing_else_comes(
    sshd_factory: Factory,
) -> None:
    """Paramiko's reader keeps the channel whose message came last."""
    with dialled(sshd_factory({"MaxSessions": 1})) as transport:
        for _ in range(3):
            eventually(lambda: forget_a_channel(transport), "the session is free")
            gc.collect()


def test_signal_status_and_loss_are_distinguished(sshd: Sshd) -> None:
    """Paramiko shows -1 for two of them."""
    with dialled(sshd) as transport:
        found = []
        for command in ("exit 255", "kill -9 $$", "kill -TERM $$"):
            channel = transport.open_session()
            channel.exec_command(command)
            found.append((channel.recv_exit_status(PATIENCE), channel.exit_signal))
            channel.close()
        assert found == [(255, None), (-1, ("KILL", False, "")), (-1, ("TERM", False, ""))]
        channel = transport.open_session()
        channel.exec_command("sleep 60")
        waiting = Outcome(channel.recv_exit_status)
        sshd.cut()
        assert isinstance(waiting.wait().error, SshConnectionLost)


def test_a_request_ends_with_its_connection(sshd: Sshd) -> None:
    """With paramiko, it waits without end."""
    for _ in range(5):
        with dialled(sshd) as transport:
            channel = transport.open_session()
            sshd.freeze()
            waiting = Outcome(functools.partial(channel.exec_command, "true"))
            sshd.cut()
            assert isinstance(waiting.wait().error, (OSError, paramiko.SSHException))


def test_a_hundred_callers_of_a_cold_host_cause_one_login(sshd: Sshd) -> None:
    with entered() as cache:
        calls = [
            Outcome(lambda: cache.get_client_connection(sshd.connect_params)) for _ in range(100)
        ]
        pairs = {call.wait().value for call in calls}
        assert len(pairs) == 1
        assert cache.stats()["dials"] == 1
    assert sshd.logins() == 1


def test_closing_ends_fifty_blocked_calls_at_once(sshd: Sshd) -> None:
    with dialled(sshd) as transport:
        sinks = [Collector(b"sleep 60") for _ in range(20)]
        for sink in sinks:
            transport.start_session(sink)
        channels = [transport.open_session() for _ in range(30)]
        for channel in channels:
            channel.exec_command("sleep 60")
        calls = [Outcome(functools.partial(channel.recv, 1)) for channel in channels[:10]]
        calls += [Outcome(channel.recv_exit_status) for channel in channels[10:20]]
        calls += [
            Outcome(functools.partial(channel.sendall, bytes(64 * MIB)))
            for channel in channels[20:30]
        ]
        for sink in sinks:
            assert sink.started.wait(PATIENCE)
        threading.Event().wait(0.2)  # let them block; what has not yet, ends all the same
        began = time.monotonic()
        transport.close()
        for call in calls:
            assert isinstance(call.wait(5).error, OSError), call.error
        for sink in sinks:
            assert sink.ended.wait(5) and sink.error is not None
        within(1.0, began)
        assert not transport.is_alive()
        assert transport.loss is None


def test_closing_the_cache_ends_fifty_commands_with_their_output(sshd: Sshd) -> None:
    cache = SshClientCache()
    cache.enter()
    futures = [
        operations.submit(cache, sshd.connect_params, f"echo {n}; sleep 60") for n in range(50)
    ]
    transport, _ = cache.get_client_connection(sshd.connect_params)
    eventually(lambda: transport.open_channel_count >= 50, "all run")
    began = time.monotonic()
    cache.exit()
    for future in futures:
        assert future.exception(5) is not None
    within(1.0, began)
