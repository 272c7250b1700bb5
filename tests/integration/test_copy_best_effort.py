"""Copies continue without features that a server or file system lacks."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import stat
from pathlib import Path
from typing import Any, Callable, Iterator, List

import pytest

from ssh_service.copying import downloading, folder_reader, stale_files, upload_stream
from ssh_service.copying.local import descriptors
from ssh_service.copying.sftp import encode
from ssh_service.copying.sftp.session import SftpSession
from ssh_service.errors import SshTreeError
from tests.common import require_part
from tests.integration.sftp_processes import Shell, real_session
from tests.trees import many_files, unfinished_files
from tests.unit.sftp_harness import check, download, upload

USER = 65534
Copy = Callable[..., None]
BOTH = pytest.mark.parametrize("copy", [upload, download])


@pytest.fixture(name="session")
def session_of_a_real_server(sftp_server: str, tmp_path: Path) -> Iterator[SftpSession]:
    with real_session(sftp_server, tmp_path) as session:
        yield session


def wrapped(sftp_server: str, tmp_path: Path, command: str) -> str:
    """Give a program that runs the server in another way."""
    wrapper = tmp_path / "wrapper"
    wrapper.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    wrapper.chmod(0o755)
    return str(wrapper)


@pytest.fixture(name="refusing")
def session_of_a_server_that_sets_nothing(
    sftp_server: str, tmp_path: Path
) -> Iterator[SftpSession]:
    command = f"{sftp_server} -P setstat,fsetstat"
    with real_session(wrapped(sftp_server, tmp_path, command), tmp_path) as session:
        yield session


def warnings_in(caplog: pytest.LogCaptureFixture) -> List[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


# Modes and times.


@pytest.mark.parametrize("size", [0, 1000, 1_000_000])
@pytest.mark.parametrize("existing", [False, True], ids=["new", "replaced"])
def test_upload_of_a_file_where_nothing_can_be_set(
    refusing: SftpSession,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    size: int,
    existing: bool,
) -> None:
    """It is created with its mode, less the umask; one warning says that nothing was set."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(os.urandom(size))
    source.chmod(0o644)
    if existing:
        target.write_bytes(b"old")
        os.link(target, tmp_path / "old")
    for _ in range(2):
        caplog.clear()
        upload(refusing, source, target, resume=True)
        assert target.read_bytes() == source.read_bytes()
        assert stat.S_IMODE(target.stat().st_mode) == 0o644 & ~descriptors.current_umask()
        assert not existing or (tmp_path / "old").read_bytes() == b"old"  # not in place
        assert len(warnings_in(caplog)) == 1
        assert not unfinished_files(tmp_path)


def test_upload_of_a_tree_where_nothing_can_be_set(
    refusing: SftpSession, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """All files have the same kind of mode, whichever came first; twice."""
    source = many_files(tmp_path / "source", 150)
    for path in source.iterdir():
        path.chmod(0o644)
    for _ in range(2):
        caplog.clear()
        upload(refusing, source, tmp_path / "target", contents=True)
        modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "target").iterdir()}
        assert modes == {0o644 & ~descriptors.current_umask()}
        assert len(list((tmp_path / "target").iterdir())) == 150
        assert len(warnings_in(caplog)) == 1
    assert not unfinished_files(tmp_path)


def test_download_where_nothing_can_be_set(
    session: SftpSession,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A local file system such as vfat costs a warning, and no more."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise PermissionError(errno.EPERM, "refused by the test")

    source = many_files(tmp_path / "source", 3)
    (source / "large").write_bytes(os.urandom(1_000_000))
    monkeypatch.setattr(os, "fchmod", refuse)
    monkeypatch.setattr(os, "utime", refuse)
    download(session, source, tmp_path / "target")
    assert sorted(os.listdir(tmp_path / "target")) == sorted(os.listdir(source))
    assert len(warnings_in(caplog)) == 1
    with pytest.raises(PermissionError):
        download(session, source / "large", tmp_path / "strict", preserve=True)
    assert not (tmp_path / "strict").exists()
    assert not unfinished_files(tmp_path)


def test_download_of_times_before_1970_keeps_them(session: SftpSession, tmp_path: Path) -> None:
    """SFTP has no sign: they arrive as times of the next century."""
    source = tmp_path / "source"
    source.write_bytes(b"x")
    for mtime in (-86400, -1, 0, 2**31 + 5):
        os.utime(source, (mtime, mtime))
        download(session, source, tmp_path / "target")
        assert (tmp_path / "target").stat().st_mtime == mtime


# Folders that may not be written to, or not be listed.


@contextlib.contextmanager
def acting_as(uid: int) -> Iterator[None]:
    """Act as another user for the file system, if this is root."""
    if os.geteuid():
        yield
        return
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture(name="theirs")
def folder_of_an_ordinary_user(tmp_path: Path) -> Path:
    folder = tmp_path / "theirs"
    folder.mkdir()
    if not os.geteuid():
        os.chown(folder, USER, USER)
        for parent in (tmp_path, *list(tmp_path.parents)[:2]):
            parent.chmod(0o755)
    return folder


@pytest.fixture(name="ordinary")
def session_of_an_ordinary_user(
    sftp_server: str, tmp_path: Path, theirs: Path
) -> Iterator[SftpSession]:
    command = sftp_server
    if not os.geteuid():
        require_part(shutil.which("setpriv"), "needs setpriv (Debian: apt install util-linux)")
        command = f"setpriv --reuid={USER} --regid={USER} --clear-groups {sftp_server}"
    with real_session(wrapped(sftp_server, tmp_path, command), theirs) as session:
        yield session


@BOTH
@pytest.mark.parametrize("preserve", [None, False])
def test_a_tree_with_a_read_only_folder_is_copied_twice(
    ordinary: SftpSession, theirs: Path, tmp_path: Path, copy: Copy, preserve: Any
) -> None:
    """The folder is writable for the time of the copy, as with ``rsync -a``."""
    source = tmp_path / "source"
    (source / "locked" / "inner").mkdir(parents=True)
    (source / "locked" / "inner" / "file").write_bytes(b"1")
    for folder in ("locked/inner", "locked"):
        (source / folder).chmod(0o555)
    target = theirs / "target"
    with acting_as(USER):
        copy(ordinary, source, target, contents=True, preserve=preserve)
        for folder in ("locked/inner", "locked"):
            (target / folder).chmod(0o555)
    for folder in ("locked/inner", "locked"):
        (source / folder).chmod(0o755)
    (source / "locked" / "inner" / "file").write_bytes(b"2")
    (source / "locked" / "inner" / "new").write_bytes(b"new")
    for folder in ("locked/inner", "locked"):
        (source / folder).chmod(0o555)
    with acting_as(USER):
        copy(ordinary, source, target, contents=True, preserve=preserve)
    assert (target / "locked" / "inner" / "file").read_bytes() == b"2"
    assert (target / "locked" / "inner" / "new").read_bytes() == b"new"
    for folder in ("locked/inner", "locked"):
        assert stat.S_IMODE((target / folder).stat().st_mode) == 0o555


def test_download_into_a_folder_that_cannot_be_listed(
    ordinary: SftpSession, theirs: Path, tmp_path: Path
) -> None:
    """Write and search permission are enough for a file."""
    source = tmp_path / "source"
    source.write_bytes(b"x")
    theirs.chmod(0o300)
    with acting_as(USER):
        download(ordinary, source, theirs / "target", fsync=True)
    theirs.chmod(0o700)
    assert (theirs / "target").read_bytes() == b"x"


@pytest.mark.parametrize("on_error", ["stop", "continue"])
def test_mirror_keeps_its_copy_of_a_folder_that_may_not_be_entered(
    ordinary: SftpSession, theirs: Path, tmp_path: Path, on_error: str
) -> None:
    """After `chmod -R 644`, say: such a folder is listed as empty by OpenSSH."""
    options: Any = {"contents": True, "update": True, "delete": True, "on_error": on_error}
    source, target = theirs / "source", tmp_path / "target"
    with acting_as(USER):
        (source / "sub" / "deeper").mkdir(parents=True)
        for name in ("top", "sub/a", "sub/deeper/b"):
            (source / name).write_bytes(b"x")
    download(ordinary, source, target, **options)
    before = sorted(target.rglob("*"))
    (source / "sub").chmod(0o644)
    try:
        plan = download(ordinary, source, target, dry_run=True, **options)
        assert plan is not None and not plan.deleted
        with pytest.raises((PermissionError, SshTreeError)) as caught:
            download(ordinary, source, target, **options)
    finally:
        for folder in (source, target):  # the folder's own mode is copied all the same
            (folder / "sub").chmod(0o755)
    error = caught.value
    failure = error.failures[0] if isinstance(error, SshTreeError) else error
    check(failure, errno.EACCES, source / "sub")
    assert sorted(target.rglob("*")) == before and len(before) == 5


@BOTH
def test_other_users_file_in_a_sticky_folder_is_named_as_cause(
    ordinary: SftpSession, theirs: Path, tmp_path: Path, copy: Copy
) -> None:
    """It is the folder's owner's, and so trusted; but "Permission denied" alone says nothing."""
    if os.geteuid():
        pytest.skip("needs root, to give a file to another user")
    sticky = theirs / "sticky"
    sticky.mkdir()
    target = sticky / "target"
    target.write_bytes(b"old")
    os.chown(sticky, USER - 1, USER - 1)
    os.chown(target, USER - 1, USER - 1)
    sticky.chmod(0o1777)
    source = tmp_path / "source"
    source.write_bytes(b"new")
    with acting_as(USER):
        with pytest.raises(
            PermissionError, match=f"to uid {USER - 1}, and lies in a sticky folder"
        ):
            copy(ordinary, source, target)
    assert target.read_bytes() == b"old"


# A full disk.


@BOTH
def test_overwrite_without_disk_space_keeps_old_content(
    ordinary: SftpSession,
    theirs: Path,
    tmp_path: Path,
    copy: Copy,
    mount: Callable[..., None],
) -> None:
    """A file that can only be written in place is not truncated for what has no room."""
    disk = theirs / "disk"
    disk.mkdir()
    mount(disk, "-t", "tmpfs", "-o", "size=1M,mode=0755", "tmpfs")
    target = disk / "target"
    target.write_bytes(b"old")
    os.chown(target, USER, USER)
    source = tmp_path / "source"
    source.write_bytes(os.urandom(2_000_000))
    with acting_as(USER):
        with pytest.raises(OSError) as caught:
            copy(ordinary, source, target)
    check(caught.value, errno.ENOSPC, target)
    assert target.read_bytes() == b"old"


# Other copies' unfinished files.


@BOTH
@pytest.mark.parametrize("how", ["by sftp", "in a stream"])
def test_unfinished_files_of_others_are_passed_over(
    session: SftpSession, tmp_path: Path, copy: Copy, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are neither copied, nor does it matter that they vanish meanwhile."""
    monkeypatch.setattr(upload_stream, "MANY_FILES", 1)
    monkeypatch.setattr(downloading, "MANY_FILES", 0)
    source = many_files(tmp_path / "source", 5)
    for number in range(3):
        name = f".ssh_service-12345678-{number}-1-1-12345678"
        (source / name).write_bytes(b"unfinished")
        (source / name).chmod(0)
    unfinished = source / ".ssh_service-12345678-9-1-1-12345678"
    unfinished.mkdir()
    (unfinished / "file").write_bytes(b"unfinished")
    (source / ".ssh_service-12345678-8-1-1-12345678").symlink_to("nowhere")
    shell = Shell(tmp_path)
    copy(session, source, tmp_path / "target", shell=shell if how == "in a stream" else None)
    shell.wait()
    assert sorted(os.listdir(tmp_path / "target")) == ["0", "1", "2", "3", "4"]


# Sweeping.


def test_copy_does_not_wait_for_stale_file_removal(
    session: SftpSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small file into a folder of many costs few requests, whatever its size."""
    folder = tmp_path / "folder"
    folder.mkdir()
    for number in range(10_000):
        (folder / str(number)).touch()
    asked: List[bytes] = []
    original = encode.read_folder

    def read_folder(request_id: int, handle: bytes) -> bytes:
        asked.append(handle)
        return original(request_id, handle)

    monkeypatch.setattr(encode, "read_folder", read_folder)
    (tmp_path / "file").write_bytes(b"x")
    upload(session, tmp_path / "file", folder / "file")
    assert (folder / "file").read_bytes() == b"x"
    assert 0 < len(asked) < 80  # of 100 and more


def test_a_folder_is_listed_once_for_all_files_to_resume(
    session: SftpSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ``resume``, what was left is looked for once a folder, not once a file."""
    source = many_files(tmp_path / "source", 5, 300_000)
    (tmp_path / "target" / "source").mkdir(parents=True)
    opened: List[bytes] = []
    original = encode.open_folder

    def open_folder(request_id: int, path: bytes) -> bytes:
        opened.append(path)
        return original(request_id, path)

    monkeypatch.setattr(encode, "open_folder", open_folder)
    upload(session, source, tmp_path / "target", resume=True)
    assert len(opened) == len(set(opened))


@pytest.fixture(name="listing")
def what_is_asked_and_answered_of_a_large_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> List[int]:
    """Make ``folder``; give how many parts of its listing are under way at each reply."""
    (tmp_path / "folder").mkdir()
    for number in range(2_000):
        (tmp_path / "folder" / str(number)).touch()
    (tmp_path / "file").write_bytes(bytes(300_000))
    asked: List[bytes] = []
    under_way: List[int] = []
    request, parse = encode.read_folder, getattr(folder_reader, "parse_names")

    def read_folder(request_id: int, handle: bytes) -> bytes:
        asked.append(handle)
        return request(request_id, handle)

    def parse_names(reply: Any, path: bytes) -> Any:
        under_way.append(len(asked) - len(under_way))
        return parse(reply, path)

    monkeypatch.setattr(encode, "read_folder", read_folder)
    monkeypatch.setattr(folder_reader, "parse_names", parse_names)
    return under_way


def test_search_for_resumable_files_is_pipelined(
    session: SftpSession, tmp_path: Path, listing: List[int]
) -> None:
    """A large folder costs a few round trips, not one for each hundred entries."""
    upload(session, tmp_path / "file", tmp_path / "folder" / "file", resume=True)
    assert len(listing) >= 20 and min(listing[:20]) >= 4


def test_search_for_resumable_files_is_bounded(
    session: SftpSession, tmp_path: Path, listing: List[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of millions does not hold up the copy."""
    monkeypatch.setattr(stale_files, "_MAX_ENTRIES", 500)
    upload(session, tmp_path / "file", tmp_path / "folder" / "file", resume=True)
    assert len(listing) <= 5
