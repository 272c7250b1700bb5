"""Interrupted trees that are copied again by the same call, with ``resume``."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

from ssh_service.copying import progress as progress_module
from ssh_service.copying import upload_stream
from ssh_service.copying.sftp.session import SftpSession
from tests.integration.sftp_processes import Shell, real_session
from tests.trees import unfinished_files
from tests.unit.sftp_harness import download, upload

SIZE = 3_000_000
STRANGER = 65534  # nobody
Copy = Callable[..., None]
BOTH = pytest.mark.parametrize("copy", [upload, download])


@pytest.fixture(name="session")
def session_of_a_real_server(sftp_server: str, tmp_path: Path) -> Iterator[SftpSession]:
    """Give a session; something unfinished may be left when it ends."""
    with real_session(sftp_server, tmp_path) as session:
        yield session


@pytest.fixture(name="source")
def tree_of_large_files(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    (source / "folder").mkdir(parents=True)
    for name in ("a", "b", "c", "folder/d"):
        (source / name).write_bytes(os.urandom(SIZE))
    return source


@pytest.fixture(name="interrupt")
def what_stops_a_copy_half_way(
    session: SftpSession, source: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., None]:
    def stop(progress: Any) -> None:
        if progress.bytes_done > 2 * SIZE:
            raise KeyboardInterrupt

    def interrupt(copy: Copy, target: Path, **options: Any) -> None:
        monkeypatch.setattr(progress_module, "_REPORT_INTERVAL", 0.0)
        with pytest.raises(KeyboardInterrupt):
            copy(session, source, target, progress=stop, resume=True, **options)

    return interrupt


def contents(root: Path) -> Any:
    return {
        path.relative_to(root): path.read_bytes() if path.is_file() else None
        for path in root.rglob("*")
    }


@BOTH
@pytest.mark.parametrize("options", [{}, {"contents": True}], ids=["plain", "contents"])
def test_resume_of_a_new_tree_goes_into_the_same_folder(
    copy: Copy,
    session: SftpSession,
    source: Path,
    tmp_path: Path,
    interrupt: Callable[..., None],
    options: Any,
) -> None:
    """The tree of the interrupted call is recognized, so the same call does not nest."""
    interrupt(copy, tmp_path / "target", **options)
    copy(session, source, tmp_path / "target", resume=True, **options)
    assert contents(tmp_path / "target") == contents(source)
    assert not unfinished_files(tmp_path / "target")


def test_resume_of_a_tree_sends_only_what_is_missing(
    session: SftpSession, source: Path, tmp_path: Path, interrupt: Callable[..., None]
) -> None:
    """Files that arrived are not sent again, the one that was begun is continued."""
    interrupt(upload, tmp_path / "target")
    before = session.sent
    upload(session, source, tmp_path / "target", resume=True)
    assert session.sent - before < 2 * SIZE + SIZE // 2
    assert contents(tmp_path / "target") == contents(source)


@BOTH
def test_resume_copies_a_file_that_has_changed_since(
    copy: Copy,
    session: SftpSession,
    source: Path,
    tmp_path: Path,
    interrupt: Callable[..., None],
) -> None:
    """A file of another time is copied once more, although its size is the same."""
    interrupt(copy, tmp_path / "target")
    for name in ("a", "b", "c", "folder/d"):
        (source / name).write_bytes(os.urandom(SIZE))
        os.utime(source / name, (1, 1))
    copy(session, source, tmp_path / "target", resume=True)
    assert contents(tmp_path / "target") == contents(source)


@BOTH
def test_resume_of_a_tree_inside_a_folder_continues_it_there(
    copy: Copy,
    session: SftpSession,
    source: Path,
    tmp_path: Path,
    interrupt: Callable[..., None],
) -> None:
    """Where the target was there before, the tree is below it, and is marked there."""
    (tmp_path / "target").mkdir()
    interrupt(copy, tmp_path / "target")
    copy(session, source, tmp_path / "target", resume=True)
    assert os.listdir(tmp_path / "target") == ["source"]
    assert contents(tmp_path / "target" / "source") == contents(source)
    assert not unfinished_files(tmp_path / "target")


@BOTH
def test_a_complete_tree_is_not_taken_for_a_begun_one(
    copy: Copy,
    session: SftpSession,
    source: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nothing marks it any more: the second copy goes into it, as ever, and says so."""
    copy(session, source, tmp_path / "target", resume=True)
    with caplog.at_level(logging.INFO, "ssh_service.copying"):
        copy(session, source, tmp_path / "target", resume=True)
    assert contents(tmp_path / "target" / "source") == contents(source)
    assert len([r for r in caplog.records if "nothing to resume" in r.getMessage()]) == 1
    assert not unfinished_files(tmp_path / "target")


@BOTH
def test_tree_begun_from_another_source_is_not_resumed(
    copy: Copy,
    session: SftpSession,
    source: Path,
    tmp_path: Path,
    interrupt: Callable[..., None],
) -> None:
    """A tree of another folder goes into what is there."""
    interrupt(copy, tmp_path / "target")
    other = tmp_path / "other"
    other.mkdir()
    (other / "file").write_bytes(b"x")
    copy(session, other, tmp_path / "target", resume=True)
    assert (tmp_path / "target" / "other" / "file").read_bytes() == b"x"


def test_a_tree_unpacked_from_a_stream_is_continued(
    session: SftpSession,
    source: Path,
    tmp_path: Path,
    interrupt: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is marked before it gets its name; the large files follow by SFTP."""
    monkeypatch.setattr(upload_stream, "MANY_FILES", 1)
    for number in range(3):
        (source / f"small{number}").write_bytes(b"x")
    shell = Shell(tmp_path)
    interrupt(upload, tmp_path / "target", shell=shell)
    shell.wait()
    assert shell.commands
    assert (tmp_path / "target" / "small0").exists()
    upload(session, source, tmp_path / "target", resume=True, shell=shell)
    shell.wait()
    assert contents(tmp_path / "target") == contents(source)
    assert not unfinished_files(tmp_path / "target")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, which can act as two users")
@BOTH
def test_tree_with_another_users_marker_is_not_resumed(
    copy: Copy,
    session: SftpSession,
    source: Path,
    tmp_path: Path,
    interrupt: Callable[..., None],
) -> None:
    """Anybody who may write there could else have the copy go into a tree of their own."""
    target = tmp_path / "target"
    interrupt(copy, target)
    for path in unfinished_files(target):
        os.chown(path, STRANGER, STRANGER)
    copy(session, source, target, resume=True)
    assert contents(target / "source") == contents(source)
