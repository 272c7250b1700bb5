"""Resuming and verifying on a server without a shell."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, Callable, Iterator, List

import pytest

from ssh_service.copying import download_file
from ssh_service.copying import progress as progress_module
from ssh_service.copying import upload_file
from ssh_service.copying.sftp.server_facts import ServerFacts
from ssh_service.copying.sftp.session import SftpSession
from tests.integration.sftp_processes import real_session
from tests.trees import describe, make_tree, unfinished_files
from tests.unit.sftp_harness import download, upload

SIZE = 20_000_000
BOTH = pytest.mark.parametrize("copy", [upload, download])
Copy = Callable[..., object]
Interrupt = Callable[[Copy], bytes]


@pytest.fixture(name="session")
def session_of_a_real_server(sftp_server: str, tmp_path: Path) -> Iterator[SftpSession]:
    """Give a session; something unfinished may be left when it ends."""
    with real_session(sftp_server, tmp_path) as session:
        yield session


@pytest.fixture(name="source")
def large_file(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(os.urandom(SIZE))
    return path


@pytest.fixture(name="target")
def place_in_a_folder_of_its_own(tmp_path: Path) -> Path:
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder" / "target"


@pytest.fixture(name="interrupt")
def what_stops_a_copy_half_way(
    session: SftpSession, source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> Interrupt:
    """Give what begins a copy, stops it half-way, and gives the path of what it left."""

    def stop(progress: Any) -> None:
        if progress.bytes_done > SIZE // 2:
            raise KeyboardInterrupt

    def interrupt(copy: Copy) -> bytes:
        monkeypatch.setattr(progress_module, "_REPORT_INTERVAL", 0.0)
        with pytest.raises(KeyboardInterrupt):
            copy(session, source, target, progress=stop, resume=True)
        (left,) = unfinished_files(target.parent)
        assert os.path.getsize(left) > SIZE // 2
        return bytes(left)

    return interrupt


def test_an_upload_goes_on_where_it_was_interrupted(
    session: SftpSession, source: Path, target: Path, interrupt: Interrupt
) -> None:
    interrupt(upload)
    before = session.sent
    upload(session, source, target, resume=True)
    assert session.sent - before < SIZE // 2
    assert target.read_bytes() == source.read_bytes()
    assert not unfinished_files(target.parent)


@BOTH
def test_stale_part_of_skipped_file_is_removed(
    copy: Copy, session: SftpSession, source: Path, target: Path, interrupt: Interrupt
) -> None:
    """E5: ``update`` finds the file, complete by other means, and ``resume`` nothing to do."""
    interrupt(copy)
    shutil.copy2(source, target)
    inode = target.stat().st_ino
    copy(session, source, target, resume=True, update=True)
    assert target.stat().st_ino == inode
    assert not unfinished_files(target.parent)


@BOTH
@pytest.mark.parametrize("place", [0, SIZE // 3])
def test_changed_file_is_not_resumed(
    copy: Copy,
    session: SftpSession,
    source: Path,
    target: Path,
    interrupt: Interrupt,
    place: int,
) -> None:
    left = interrupt(copy)
    with open(left, "r+b") as file:
        file.seek(place)
        byte = file.read(1)
        file.seek(place)
        file.write(bytes([byte[0] ^ 1]))
    copy(session, source, target, resume=True)
    assert target.read_bytes() == source.read_bytes()
    assert not unfinished_files(target.parent)


@BOTH
def test_the_source_may_have_become_shorter(
    copy: Copy,
    session: SftpSession,
    source: Path,
    target: Path,
    interrupt: Interrupt,
) -> None:
    interrupt(copy)
    source.write_bytes(b"x" * (SIZE // 10))
    copy(session, source, target, resume=True)
    assert target.read_bytes() == source.read_bytes()


@BOTH
def test_copy_without_resume_removes_resumable_files(
    copy: Copy,
    session: SftpSession,
    source: Path,
    target: Path,
    interrupt: Interrupt,
) -> None:
    interrupt(copy)
    session.facts = ServerFacts()  # as for another connection
    copy(session, source, target)
    assert os.listdir(target.parent) == ["target"]


def test_upload_with_resume_removes_small_unfinished_files(
    session: SftpSession, source: Path, target: Path, interrupt: Interrupt
) -> None:
    """One request writes them, so that there is nothing to resume: they would stay for a day."""
    left = interrupt(upload)
    os.truncate(left, 1000)
    session.facts = ServerFacts()  # as for another connection
    upload(session, source, target.with_name("other"), resume=True)
    assert unfinished_files(target.parent) == []


@BOTH
def test_unfinished_file_of_another_target_is_kept(
    copy: Copy,
    session: SftpSession,
    source: Path,
    target: Path,
    interrupt: Interrupt,
) -> None:
    left = interrupt(copy)
    copy(session, source, target.with_name("other"), resume=True)
    assert unfinished_files(target.parent) == [left]


@BOTH
def test_verified_copies_are_the_same(copy: Copy, session: SftpSession, tmp_path: Path) -> None:
    source = make_tree(tmp_path / "source")
    copy(session, source, tmp_path / "target", verify=True)
    assert describe(tmp_path / "target") == describe(source)


@BOTH
@pytest.mark.parametrize("size", [1, 1000, 3_000_000])
def test_verify_mismatch_fails_and_keeps_old_file(
    copy: Copy,
    session: SftpSession,
    tmp_path: Path,
    target: Path,
    monkeypatch: pytest.MonkeyPatch,
    size: int,
) -> None:
    (tmp_path / "source").write_bytes(bytes(size))
    target.write_bytes(b"old")
    module = upload_file if copy is upload else download_file
    verify = module.verify
    spoiled: List[bytes] = []

    async def spoil_and_verify(*args: Any) -> None:
        for path in unfinished_files(target.parent):
            with open(path, "r+b") as file:
                file.seek(size - 1)
                file.write(b"\1")
            spoiled.append(path)
        await verify(*args)

    monkeypatch.setattr(module, "verify", spoil_and_verify)
    with pytest.raises(OSError, match="differs from the source"):
        copy(session, tmp_path / "source", target, verify=True)
    assert len(spoiled) == 1
    assert target.read_bytes() == b"old"
    assert not unfinished_files(target.parent)
