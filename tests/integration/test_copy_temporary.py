"""The names of unfinished files: their writer, and when they are stale."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Callable, Iterator

import pytest

from ssh_service.copying import temporary
from ssh_service.copying.sftp.session import SftpSession
from tests.integration.sftp_processes import real_session
from tests.unit.sftp_harness import download, upload

DAY = 24 * 3600

# Each prints the name of an unfinished file of its own process.
GIVE_A_NAME = (
    "from ssh_service.copying import temporary; import sys, os;"
    "os.write(1, temporary.names.new(b'x') + b'\\n'); sys.stdin.read()"
)


@pytest.fixture(name="living", scope="module")
def name_of_a_living_process() -> Iterator[bytes]:
    with subprocess.Popen(
        [sys.executable, "-c", GIVE_A_NAME], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.communicate()


@pytest.fixture(name="dead", scope="module")
def name_of_a_dead_process() -> bytes:
    command = [sys.executable, "-c", GIVE_A_NAME]
    result = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True)
    return result.stdout.strip()


def of_another_host(name: bytes) -> bytes:
    parts = name.split(b"-")
    return b"-".join([parts[0], b"0" * 8, *parts[2:]])


def of_another_boot(name: bytes) -> bytes:
    parts = name.split(b"-")
    return b"-".join([parts[0], parts[1][:4] + b"0" * 4, *parts[2:]])


def test_a_name_is_short_and_like_no_other() -> None:
    given = {temporary.names.new(b"x" * 255) for _ in range(100)}
    assert len(given) == 100
    assert max(map(len, given)) <= 65
    for name in given:
        temporary.names.release(name)


def test_a_name_says_who_writes_what() -> None:
    name = temporary.names.new(b"target")
    temporary.names.release(name)
    parsed = temporary.parse(name)
    assert parsed is not None
    assert parsed.pid == os.getpid()
    assert parsed.target.encode() == temporary.target_digest(b"target")


@pytest.mark.parametrize(
    "name", [b"", b"file", b".ssh_service-", b".ssh_service-notes", b".ssh_service-0-0-0-0-0"]
)
def test_files_with_other_names_are_never_stale(name: bytes) -> None:
    assert temporary.parse(name) is None
    assert not temporary.names.is_stale(name, 1000 * DAY)


def test_released_file_of_ours_is_stale() -> None:
    name = temporary.names.new(b"x")
    assert not temporary.names.is_stale(name, 1000 * DAY)
    temporary.names.release(name)
    assert temporary.names.is_stale(name, 0)


def test_file_of_a_living_process_is_never_stale(living: bytes) -> None:
    assert not temporary.names.is_stale(living, 1000 * DAY)


def test_file_of_dead_process_is_stale_unless_just_written(dead: bytes) -> None:
    """A cloned machine, which nothing in the name distinguishes, may be writing it."""
    assert not temporary.names.is_stale(dead, temporary.MIN_IDLE - 1)
    assert temporary.names.is_stale(dead, temporary.MIN_IDLE + 1)


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs /proc")
def test_is_running_distinguishes_a_reused_pid(living: bytes) -> None:
    parts = living.split(b"-")
    start = int(parts[3], 16)
    earlier = b"-".join([*parts[:3], b"%x" % (start - 1), *parts[4:]])
    assert temporary.names.is_stale(earlier, DAY)


def test_is_resumable_for_accepts_only_parts_of_dead_copies(living: bytes, dead: bytes) -> None:
    assert temporary.names.is_resumable_for(dead, b"x", 0)
    assert not temporary.names.is_resumable_for(dead, b"another target", DAY)
    assert not temporary.names.is_resumable_for(living, b"x", DAY)
    assert not temporary.names.is_resumable_for(of_another_host(dead), b"x", DAY)
    assert not temporary.names.is_resumable_for(b"x", b"x", DAY)


def test_file_of_another_boot_may_belong_to_a_clone(dead: bytes) -> None:
    """Clones share host name and machine id: only its age says that nobody is writing it."""
    name = of_another_boot(dead)
    assert not temporary.names.is_stale(name, DAY - 60)
    assert temporary.names.is_stale(name, DAY + 60)
    assert not temporary.names.is_resumable_for(name, b"x", temporary.MIN_IDLE - 1)
    assert temporary.names.is_resumable_for(name, b"x", temporary.MIN_IDLE + 1)


def test_file_of_another_host_is_stale_after_a_day(dead: bytes) -> None:
    name = of_another_host(dead)
    assert not temporary.names.is_stale(name, DAY - 60)
    assert temporary.names.is_stale(name, DAY + 60)


def test_a_forked_childs_names_are_its_own() -> None:
    mine = temporary.names.new(b"x")
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.write(writing, temporary.names.new(b"x"))
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(reading, 100)
    os.close(reading)
    os.close(writing)
    temporary.names.release(mine)
    parsed = temporary.parse(theirs)
    assert parsed is not None
    assert parsed.pid == child


class TestTheNextRun:
    @pytest.fixture
    def session(self, sftp_server: str, tmp_path: Path) -> Iterator[SftpSession]:
        with real_session(sftp_server, tmp_path) as session:
            yield session

    @pytest.mark.parametrize("what", ["file", "tree"])
    @pytest.mark.parametrize("copy", [upload, download])
    def test_copy_removes_only_files_of_dead_processes(
        self,
        session: SftpSession,
        tmp_path: Path,
        dead: bytes,
        living: bytes,
        copy: Callable[..., None],
        what: str,
    ) -> None:
        folder = tmp_path / "target" / "source"
        folder.mkdir(parents=True)
        old, young = of_another_host(dead), of_another_host(living)
        fresh = dead[:-8] + b"0" * 8
        for name in (dead, fresh, living, old, young, b"kept", b".ssh_service-kept"):
            (folder / os.fsdecode(name)).write_bytes(b"x")
        for name in (dead, living, old):
            os.utime(folder / os.fsdecode(name), (0, 0))
        source = tmp_path / "source"
        source.mkdir()
        (source / "new").write_bytes(b"new")
        if what == "file":
            copy(session, source / "new", folder)
        else:
            copy(session, source, tmp_path / "target")
        left = {os.fsencode(name) for name in os.listdir(folder)}
        assert left == {fresh, living, young, b"kept", b".ssh_service-kept", b"new"}
