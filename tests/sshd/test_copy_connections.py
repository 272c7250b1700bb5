"""Copies over real connections: shared, cut, frozen, made again."""

from __future__ import annotations

import filecmp
import os
import pwd
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any, Callable, Iterator, List

import pytest

from ssh_service.connect import dial
from ssh_service.copying import download, progress, upload
from ssh_service.copying.channels import get_session
from ssh_service.copying.sftp.time_limits import TimeLimits
from ssh_service.errors import (
    SshConfigError,
    SshConnectionLost,
    SshServiceError,
    SshSessionRefused,
)
from ssh_service.params import resolve
from ssh_service.testing import process_tree
from ssh_service.testing.local_sshd import Sshd
from ssh_service.testing.pytest_plugin import FaultProxy
from ssh_service.transport import SshTransport
from tests.common import PATIENCE, eventually
from tests.trees import describe, make_tree, many_files, unfinished_files

BOTH = pytest.mark.parametrize("copy", [upload, download])
Copy = Callable[..., None]
Connect = Callable[..., SshTransport]


@pytest.fixture(name="connect")
def connections_that_are_closed_afterwards() -> Iterator[Connect]:
    transports: List[SshTransport] = []

    def connect(server: Sshd, **changes: Any) -> SshTransport:
        params = {**server.connect_params, "keepalive_interval": None, **changes}
        transports.append(dial(resolve(params), time.monotonic() + PATIENCE))
        return transports[-1]

    yield connect
    for transport in transports:
        transport.close()


@pytest.fixture(name="transport")
def connection_to_the_sshd(sshd: Sshd, connect: Connect) -> SshTransport:
    return connect(sshd)


@pytest.fixture(name="proxy")
def network_in_front_of_the_sshd(sshd: Sshd, fault_proxy: Callable[..., FaultProxy]) -> FaultProxy:
    return fault_proxy(sshd.host, sshd.port)


def through(proxy: FaultProxy, server: Sshd) -> Any:
    return {"port": proxy.port, "host_key_alias": f"[{server.host}]:{server.port}"}


def sessions(server: Sshd) -> int:
    return server.log().count("subsystem 'sftp'")


def sftp_servers(server: Sshd) -> List[int]:
    return [
        pid
        for pid in process_tree.descendants(server.pid or 0)
        if Path(f"/proc/{pid}/comm").read_text().strip() == "sftp-server"
    ]


@BOTH
def test_a_tree_arrives_equal(copy: Copy, transport: SshTransport, tmp_path: Path) -> None:
    source = make_tree(tmp_path / "source")
    copy(transport, source, tmp_path / "target", timeout=PATIENCE)
    assert describe(tmp_path / "target") == describe(source)
    assert not unfinished_files(tmp_path)


def test_all_copies_of_a_connection_share_one_session(
    sshd: Sshd, transport: SshTransport, tmp_path: Path
) -> None:
    source = make_tree(tmp_path / "source")
    failures: List[BaseException] = []

    def work(number: int) -> None:
        try:
            upload(transport, source, tmp_path / f"up{number}")
            download(transport, tmp_path / f"up{number}", tmp_path / f"down{number}")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    for number in range(8):
        assert describe(tmp_path / f"down{number}") == describe(source)
    assert (sshd.logins(), sessions(sshd)) == (1, 1)


def test_remote_paths_are_relative_to_the_home_directory(
    sshd: Sshd, transport: SshTransport, tmp_path: Path
) -> None:
    name = f".ssh-service-test-{os.getpid()}"
    (tmp_path / "file").write_bytes(b"content")
    home = Path(pwd.getpwuid(os.getuid()).pw_dir)  # the server's idea, whatever HOME says here
    paths = [name, f"./{name}", f"~/{name}"]
    if "OpenSSH_8.4" not in transport.remote_version:  # it cannot say where others live
        paths.append(f"~{sshd.username}/{name}")
    try:
        for path in paths:
            upload(transport, tmp_path / "file", path)
            assert (home / name).read_bytes() == b"content"
            (home / name).unlink()
    finally:
        if (home / name).exists():
            (home / name).unlink()


def test_path_with_nul_is_an_error_and_harms_no_other_copy(
    sshd: Sshd, transport: SshTransport, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"content")
    upload(transport, tmp_path / "file", tmp_path / "first")
    for copy, source, target in (
        (upload, f"{tmp_path}/file", f"{tmp_path}/co\0py"),
        (upload, f"{tmp_path}/fi\0le", f"{tmp_path}/copy"),
        (download, f"{tmp_path}/fi\0le", f"{tmp_path}/copy"),
    ):
        with pytest.raises(SshConfigError, match="_path: .* without NUL"):
            copy(transport, source, target)
    upload(transport, tmp_path / "file", tmp_path / "last")
    assert sessions(sshd) == 1
    assert sorted(os.listdir(tmp_path)) == ["file", "first", "last"]


@BOTH
def test_the_time_out_is_seconds(copy: Copy, transport: SshTransport, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    for wrong in (-1, float("nan"), "5"):
        with pytest.raises(SshConfigError, match="timeout"):
            copy(transport, tmp_path / "file", tmp_path / "copy", timeout=wrong)
    assert not (tmp_path / "copy").exists()
    copy(transport, tmp_path / "file", tmp_path / "copy", timeout=float("inf"))
    assert (tmp_path / "copy").read_bytes() == b"content"


def test_a_session_that_died_is_replaced(
    sftp_server: str,
    sshd_factory: Callable[..., Sshd],
    connect: Connect,
    tmp_path: Path,
) -> None:
    server = sshd_factory({"Subsystem": f"sftp {sftp_server}"})
    transport = connect(server)
    (tmp_path / "file").write_bytes(b"content")
    upload(transport, tmp_path / "file", tmp_path / "one")
    (pid,) = sftp_servers(server)
    os.kill(pid, signal.SIGKILL)
    upload(transport, tmp_path / "file", tmp_path / "two")
    assert (tmp_path / "two").read_bytes() == b"content"
    assert server.logins() == 1


@BOTH
def test_session_death_fails_copy_and_keeps_connection(
    copy: Copy,
    sftp_server: str,
    sshd_factory: Callable[..., Sshd],
    connect: Connect,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress, "_REPORT_INTERVAL", 0.0)
    server = sshd_factory({"Subsystem": f"sftp {sftp_server}"})
    transport = connect(server)
    (tmp_path / "source").write_bytes(os.urandom(50_000_000))
    (tmp_path / "target").write_bytes(b"old")

    def kill(progress: Any) -> None:
        for pid in sftp_servers(server):
            os.kill(pid, signal.SIGKILL)

    with pytest.raises(OSError) as caught:
        copy(transport, tmp_path / "source", tmp_path / "target", progress=kill)
    assert not isinstance(caught.value, SshConnectionLost)
    assert isinstance(caught.value, SshServiceError)
    assert (tmp_path / "target").read_bytes() == b"old"
    copy(transport, tmp_path / "source", tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == (tmp_path / "source").read_bytes()
    assert not unfinished_files(tmp_path)


def test_a_server_without_sftp_says_so(
    sshd_factory: Callable[..., Sshd], connect: Connect, tmp_path: Path
) -> None:
    transport = connect(sshd_factory({"Subsystem": None}))
    (tmp_path / "file").write_bytes(b"content")
    with pytest.raises(SshSessionRefused, match="SFTP"):
        upload(transport, tmp_path / "file", tmp_path / "copy", timeout=PATIENCE)
    assert transport.is_active()


@BOTH
def test_cut_anywhere_a_file_is_the_old_or_the_new_one(
    copy: Copy,
    sshd: Sshd,
    connect: Connect,
    proxy: FaultProxy,
    tmp_path: Path,
) -> None:
    size = 2_000_000
    old, new = os.urandom(1000), os.urandom(size)
    (tmp_path / "source").write_bytes(new)
    target = tmp_path / "folder" / "target"
    target.parent.mkdir()
    chance = random.Random(size)
    outcomes = set()
    for _ in range(20):
        proxy.heal()
        target.write_bytes(old)
        transport = connect(sshd, **through(proxy, sshd))
        proxy.limit_after(chance.randrange(int(size * 1.01)))
        try:
            copy(transport, tmp_path / "source", target, timeout=PATIENCE)
        except SshConnectionLost as error:
            assert "/source" in str(error) or "/target" in str(error)
            outcomes.add("lost")
        transport.close()
        assert target.read_bytes() in (old, new)
    assert outcomes == {"lost"}
    copy(connect(sshd), tmp_path / "source", target)
    assert os.listdir(target.parent) == ["target"]
    assert target.read_bytes() == new


@BOTH
@pytest.mark.parametrize("cuts", [3, pytest.param(20, marks=pytest.mark.long)])
def test_a_tree_cut_anywhere_has_whole_files_only(
    copy: Copy,
    cuts: int,
    sshd: Sshd,
    connect: Connect,
    proxy: FaultProxy,
    tmp_path: Path,
) -> None:
    source = many_files(tmp_path / "source", 200, 5000)
    chance = random.Random(cuts)
    for _ in range(cuts):
        proxy.heal()
        transport = connect(sshd, **through(proxy, sshd))
        (tmp_path / "target").mkdir(exist_ok=True)
        proxy.limit_after(chance.randrange(100_000, 900_000))
        with pytest.raises(SshConnectionLost):
            copy(transport, source, tmp_path / "target", timeout=PATIENCE)
        transport.close()
        for folder, folders, names in os.walk(tmp_path / "target"):
            folders[:] = [name for name in folders if not name.startswith(".ssh_service-")]
            for name in names:
                if name.isdigit():
                    whole = (source / name).read_bytes()
                    assert (Path(folder) / name).read_bytes() == whole
    copy(connect(sshd), source, tmp_path / "target")
    assert describe(tmp_path / "target" / "source") == describe(source)
    assert not unfinished_files(tmp_path / "target")


def test_tree_cut_off_is_removed_by_the_server_itself(
    sshd: Sshd,
    connect: Connect,
    proxy: FaultProxy,
    tmp_path: Path,
) -> None:
    source = many_files(tmp_path / "source", 200, 5000)
    (tmp_path / "there").mkdir()
    transport = connect(sshd, **through(proxy, sshd))
    proxy.limit_after(600_000)
    with pytest.raises(SshConnectionLost):
        upload(transport, source, tmp_path / "there" / "target", timeout=PATIENCE)
    eventually(lambda: not os.listdir(tmp_path / "there"), "nothing is left")


@BOTH
def test_many_small_files_arrive_without_a_shell(
    copy: Copy, sshd_factory: Callable[..., Sshd], connect: Connect, tmp_path: Path
) -> None:
    transport = connect(sshd_factory({"ForceCommand": "internal-sftp"}))
    source = make_tree(tmp_path / "source")
    many_files(source / "many", 200)
    for number in range(2):  # the second time, nobody asks for a shell again
        target = tmp_path / f"target{number}"
        copy(transport, source, target, timeout=PATIENCE)
        assert describe(target) == describe(source)


def test_no_clean_profile_is_needed(
    sftp_server: str, sshd_factory: Callable[..., Sshd], connect: Connect, tmp_path: Path
) -> None:
    # A program of its own: from 9.8 on sshd quotes the words of this line anew.
    chatty = tmp_path / "chatty-sftp-server"
    chatty.write_text(f"#!/bin/sh\nprintf 'Welcome!\\nYou have mail.\\n'\nexec {sftp_server}\n")
    chatty.chmod(0o700)
    transport = connect(sshd_factory({"Subsystem": f"sftp {chatty}"}))
    source = make_tree(tmp_path / "source")
    upload(transport, source, tmp_path / "up", timeout=PATIENCE)
    download(transport, tmp_path / "up", tmp_path / "down", timeout=PATIENCE)
    assert describe(tmp_path / "down") == describe(source)


@BOTH
def test_many_small_files_arrive_where_no_session_is_left(
    copy: Copy, sshd_factory: Callable[..., Sshd], connect: Connect, tmp_path: Path
) -> None:
    transport = connect(sshd_factory({"MaxSessions": "1"}))
    source = many_files(tmp_path / "source", 200)
    copy(transport, source, tmp_path / "target", timeout=PATIENCE)
    assert describe(tmp_path / "target") == describe(source)
    known = get_session(transport, TimeLimits.from_now(PATIENCE))
    assert not known.facts.tar.is_missing  # there may be one the next time


@BOTH
def test_a_frozen_network_ends_the_copy_after_the_timeout(
    copy: Copy,
    sshd: Sshd,
    connect: Connect,
    proxy: FaultProxy,
    tmp_path: Path,
) -> None:
    (tmp_path / "source").write_bytes(os.urandom(30_000_000))
    (tmp_path / "target").write_bytes(b"old")
    transport = connect(sshd, **through(proxy, sshd))
    proxy.freeze()
    began = time.monotonic()
    with pytest.raises(TimeoutError, match="no progress for 0.5 s") as caught:
        copy(transport, tmp_path / "source", tmp_path / "target", stall_timeout=0.5)
    assert time.monotonic() - began < 5
    assert isinstance(caught.value, SshServiceError)
    proxy.thaw()
    proxy.cut()
    assert (tmp_path / "target").read_bytes() == b"old"


@BOTH
def test_a_slow_copy_that_moves_is_no_timeout(
    copy: Copy,
    sshd: Sshd,
    connect: Connect,
    proxy: FaultProxy,
    tmp_path: Path,
) -> None:
    (tmp_path / "source").write_bytes(os.urandom(600_000))
    transport = connect(sshd, **through(proxy, sshd))
    proxy.delay = 0.1
    began = time.monotonic()
    copy(transport, tmp_path / "source", tmp_path / "target", stall_timeout=0.5)
    assert time.monotonic() - began > 0.5
    assert (tmp_path / "target").read_bytes() == (tmp_path / "source").read_bytes()


@BOTH
def test_timeout_ends_a_slow_copy_that_moves(
    copy: Copy,
    sshd: Sshd,
    connect: Connect,
    proxy: FaultProxy,
    tmp_path: Path,
) -> None:
    """`timeout` is the whole copy, whatever moves meanwhile; the old file stays."""
    (tmp_path / "source").write_bytes(os.urandom(600_000))
    (tmp_path / "target").write_bytes(b"old")
    transport = connect(sshd, **through(proxy, sshd))
    proxy.delay = 0.1
    with pytest.raises(TimeoutError, match="0.3 s.*stall_timeout"):
        copy(transport, tmp_path / "source", tmp_path / "target", timeout=0.3, stall_timeout=5)
    assert (tmp_path / "target").read_bytes() == b"old"


@BOTH
def test_closing_the_connection_ends_the_copy(
    copy: Copy, transport: SshTransport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_REPORT_INTERVAL", 0.0)
    (tmp_path / "source").write_bytes(os.urandom(60_000_000))
    (tmp_path / "target").write_bytes(b"old")
    with pytest.raises(SshConnectionLost):
        copy(
            transport,
            tmp_path / "source",
            tmp_path / "target",
            progress=lambda progress: transport.close(),
        )
    assert (tmp_path / "target").read_bytes() == b"old"


@pytest.mark.parametrize("delay", [0.03])
def test_many_small_files_need_few_round_trips(
    sshd: Sshd,
    connect: Connect,
    proxy: FaultProxy,
    tmp_path: Path,
    delay: float,
) -> None:
    source = many_files(tmp_path / "source", 400, 3000)
    transport = connect(sshd, **through(proxy, sshd))
    proxy.delay = delay  # each way
    for copy, one, other in ((upload, "source", "up"), (download, "up", "down")):
        began = time.monotonic()
        copy(transport, tmp_path / one, tmp_path / other)
        elapsed = time.monotonic() - began
        assert describe(tmp_path / other) == describe(source)
        assert elapsed < 6  # promised: 2.5


@BOTH
def test_verifying_asks_the_shell_and_reads_nothing_twice(
    copy: Copy, transport: SshTransport, tmp_path: Path
) -> None:
    size = 20_000_000
    (tmp_path / "source").write_bytes(os.urandom(size))
    copy(transport, tmp_path / "source", tmp_path / "plain")
    moved = []
    for verify in (False, True):
        before = traffic(transport)
        copy(transport, tmp_path / "source", tmp_path / "target", verify=verify)
        moved.append(traffic(transport) - before)
    assert moved[1] - moved[0] < size // 10
    assert (tmp_path / "target").read_bytes() == (tmp_path / "source").read_bytes()


@BOTH
def test_verifying_reads_back_where_there_is_no_shell(
    copy: Copy, sshd_factory: Callable[..., Sshd], connect: Connect, tmp_path: Path
) -> None:
    transport = connect(sshd_factory({"ForceCommand": "internal-sftp"}))
    (tmp_path / "source").write_bytes(os.urandom(5_000_000))
    copy(transport, tmp_path / "source", tmp_path / "target", verify=True, timeout=PATIENCE)
    assert (tmp_path / "target").read_bytes() == (tmp_path / "source").read_bytes()


@BOTH
def test_a_copy_goes_on_where_the_connection_was_lost(
    copy: Copy,
    sshd: Sshd,
    connect: Connect,
    proxy: FaultProxy,
    tmp_path: Path,
) -> None:
    size = 20_000_000
    (tmp_path / "source").write_bytes(os.urandom(size))
    broken = connect(sshd, **through(proxy, sshd))
    proxy.limit_after(size * 3 // 4)
    with pytest.raises(SshConnectionLost):
        copy(broken, tmp_path / "source", tmp_path / "target", resume=True)
    transport = connect(sshd)
    before = traffic(transport)
    copy(transport, tmp_path / "source", tmp_path / "target", resume=True)
    assert traffic(transport) - before < size * 3 // 4
    assert (tmp_path / "target").read_bytes() == (tmp_path / "source").read_bytes()
    assert not unfinished_files(tmp_path)


def memory(peak: bool) -> int:
    """Tell how much memory the process has, or had at most since the last time, in KiB."""
    word = "VmHWM:" if peak else "VmRSS:"
    text = Path("/proc/self/status").read_text()
    if not peak:
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak
    return int(text.partition(word)[2].split()[0])


@pytest.fixture(name="bounded")
def memory_that_must_stay_within_bounds() -> Iterator[None]:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("needs Linux, to ask for the peak of this process's memory")
    before = memory(peak=False)
    yield
    assert memory(peak=True) - before < 64 * 1024


@BOTH
@pytest.mark.usefixtures("bounded")
def test_memory_is_bounded_whatever_the_size(
    copy: Copy, transport: SshTransport, tmp_path: Path
) -> None:
    (tmp_path / "source").write_bytes(b"x" * 1000)
    block = os.urandom(1_000_000)
    with open(tmp_path / "source", "ab") as file:
        for _ in range(200):
            file.write(block)
    copy(transport, tmp_path / "source", tmp_path / "target")
    assert filecmp.cmp(tmp_path / "source", tmp_path / "target", shallow=False)


@pytest.mark.long
@pytest.mark.parametrize(
    "copy, existing",
    [(upload, False), (upload, True), (download, False)],
    ids=["up", "up, merged", "down"],
)
@pytest.mark.usefixtures("bounded")
def test_ten_thousand_files_arrive(
    copy: Copy, transport: SshTransport, tmp_path: Path, existing: bool
) -> None:
    for number in range(10_000):
        folder = tmp_path / "source" / str(number % 50)
        if number < 50:
            folder.mkdir(parents=True)
        (folder / str(number)).write_bytes(b"%d" % number * (number % 700))
    target = tmp_path / "target"
    if existing:  # then by SFTP alone
        (target / "source").mkdir(parents=True)
        target = target / "source"
    copy(transport, tmp_path / "source", tmp_path / "target", timeout=PATIENCE)
    assert describe(target) == describe(tmp_path / "source")


def traffic(transport: SshTransport) -> int:
    """Tell how many bytes went over a connection so far, by paramiko's own count."""
    packets = transport.packetizer
    sent = (
        packets._Packetizer__sent_bytes
    )  # reset at a re-key, which these copies are too small for
    return int(sent + packets._Packetizer__received_bytes)


def test_second_deployment_takes_at_most_twice_the_first(
    sshd: Sshd, connect: Connect, proxy: FaultProxy, tmp_path: Path
) -> None:
    """The time is that of the round trips, which do not grow with the number of files."""
    source = many_files(tmp_path / "source", 400, size=200)
    transport = connect(sshd, **through(proxy, sshd))
    upload(transport, source, tmp_path / "warm", contents=True)
    proxy.delay = 0.1
    seconds: List[float] = []

    def deploy(target: Path, **options: Any) -> None:
        began = time.monotonic()
        upload(transport, source, target, contents=True, **options)
        seconds.append(time.monotonic() - began)

    for attempt in range(3):  # a busy machine may be slow at one time, but not for each of them
        target = tmp_path / f"target{attempt}"
        seconds.clear()
        deploy(target)
        for path in source.iterdir():
            path.write_bytes(os.urandom(201 + attempt))
        deploy(target)
        deploy(target, update=True)
        assert (target / "7").read_bytes() == (source / "7").read_bytes()
        if max(seconds[1:]) < 2 * seconds[0] + 0.5:
            return
    pytest.fail(f"seconds of the first, the second, and one that updates nothing: {seconds}")
