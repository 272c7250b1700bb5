"""Uploads and downloads of single files with OpenSSH's own sftp-server, without SSH."""

from __future__ import annotations

import errno
import os
import stat
import sys
import threading
from pathlib import Path
from typing import Any, Callable, Iterator, List, Type

import pytest

from ssh_service.copying import progress as progress_module
from ssh_service.copying.local.source_file import SourceFile
from ssh_service.copying.progress import Progress
from ssh_service.copying.remote_files import RemoteFiles
from ssh_service.copying.sftp import encode
from ssh_service.copying.sftp.session import SftpSession
from ssh_service.errors import SshTransferError
from tests.integration.sftp_processes import real_session
from tests.trees import come_down, describe, make_tree, unfinished_files
from tests.unit.sftp_harness import check, download, upload

Copy = Callable[..., None]
BOTH = pytest.mark.parametrize("copy", [upload, download])


def same(one: Path, other: Path) -> bool:
    a, b = one.stat(), other.stat()
    return (one.read_bytes(), a.st_mode, int(a.st_mtime)) == (
        other.read_bytes(),
        b.st_mode,
        int(b.st_mtime),
    )


# Files.


@BOTH
@pytest.mark.parametrize("mode", [0o755, 0o777, 0o600, 0o444, 0o000, 0o4755])
def test_mode_and_times_are_kept(
    copy: Copy, session: SftpSession, file: Path, tmp_path: Path, mode: int
) -> None:
    if mode == 0 and os.geteuid() != 0:
        pytest.skip("only root can read it")
    file.chmod(mode)
    before = file.stat()
    copy(session, file, tmp_path / "copy")
    after = (tmp_path / "copy").stat()
    expected = mode if copy is upload else come_down(mode)
    assert stat.S_IMODE(after.st_mode) == expected
    assert (after.st_mtime, int(after.st_atime)) == (before.st_mtime, int(before.st_atime))


@BOTH
@pytest.mark.parametrize("size", [0, 1, 32767, 32768, 261119, 261120, 261121, 10_000_000])
def test_content_of_every_size_arrives(
    copy: Copy, session: SftpSession, tmp_path: Path, size: int
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(os.urandom(size))
    copy(session, source, target)
    assert same(source, target)


HOLES = {
    "all": [],
    "in the middle": [(0, 300_000), (9_000_000, 300_000)],
    "first": [(9_000_000, 1_000_000)],
    "last": [(0, 1)],
    "many": [(at, 5000) for at in range(0, 9_000_000, 700_000)],
}


@BOTH
@pytest.mark.parametrize("existing", [False, True], ids=["new", "replaced"])
@pytest.mark.parametrize("where", list(HOLES))
def test_holes_stay_holes(
    copy: Copy, session: SftpSession, tmp_path: Path, where: str, existing: bool
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    with open(source, "wb") as file:
        file.truncate(10_000_000)
        for offset, size in HOLES[where]:
            file.seek(offset)
            file.write(os.urandom(size))
    if existing:
        target.write_bytes(b"old" * 4_000_000)
    progress: List[Progress] = []
    for verify in (False, True):
        copy(session, source, target, verify=verify, progress=progress.append)
        assert same(source, target)
        assert progress[-1].bytes_done == 10_000_000
    written = sum(size for _, size in HOLES[where])
    assert target.stat().st_blocks * 512 < written + len(HOLES[where]) * 300_000 + 100_000


@pytest.mark.long
@BOTH
def test_sparse_file_above_4_gib_arrives_with_holes(
    copy: Copy, session: SftpSession, tmp_path: Path
) -> None:
    ends = os.urandom(300_000), os.urandom(300_000)
    with open(tmp_path / "source", "wb") as file:
        file.write(ends[0])
        file.seek(5 * 2**30 - len(ends[1]))
        file.write(ends[1])
    copy(session, tmp_path / "source", tmp_path / "target")
    status = (tmp_path / "target").stat()
    assert status.st_size == 5 * 2**30
    assert status.st_blocks * 512 < 5_000_000
    with open(tmp_path / "target", "rb") as file:
        assert file.read(len(ends[0])) == ends[0]
        file.seek(-len(ends[1]), os.SEEK_END)
        assert file.read() == ends[1]


@BOTH
def test_an_existing_file_is_replaced(
    copy: Copy, session: SftpSession, file: Path, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"much longer than the new content")
    target.chmod(0o777)
    copy(session, file, target)
    assert same(file, target)


@BOTH
@pytest.mark.parametrize("slash", ["", "/"])
def test_a_file_goes_into_an_existing_folder(
    copy: Copy, session: SftpSession, file: Path, tmp_path: Path, slash: str
) -> None:
    (tmp_path / "folder").mkdir()
    copy(session, file, f"{tmp_path}/folder{slash}")
    assert same(file, tmp_path / "folder" / "file")


@BOTH
def test_target_link_to_file_stays_a_link(
    copy: Copy, session: SftpSession, file: Path, tmp_path: Path
) -> None:
    (tmp_path / "real folder").mkdir()
    (tmp_path / "real folder" / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("second")
    (tmp_path / "second").symlink_to("real folder/real")
    copy(session, file, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "second").is_symlink()
    assert same(file, tmp_path / "real folder" / "real")


@BOTH
def test_a_link_to_a_file_is_followed(
    copy: Copy, session: SftpSession, file: Path, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to("file")
    copy(session, tmp_path / "link", tmp_path / "copy")
    assert not (tmp_path / "copy").is_symlink()
    assert same(file, tmp_path / "copy")


def test_a_remote_path_is_relative_to_where_the_session_begins(
    session: SftpSession, file: Path, home: Path, tmp_path: Path
) -> None:
    upload(session, file, "copy")
    assert same(file, home / "copy")
    upload(session, file, ".")
    assert same(file, home / "file")
    download(session, "copy", tmp_path / "back")
    assert same(file, tmp_path / "back")


def test_tilde_is_home_only_at_the_start_of_a_remote_path(
    session: SftpSession, file: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(session, file, "./~")
    assert same(file, home / "~")
    upload(session, file, "~/copy")
    assert same(file, home / "copy")
    upload(session, file, "~")
    assert same(file, home / "file")
    monkeypatch.chdir(home)
    (home / "~").unlink()
    (home / "~").mkdir()
    download(session, "copy", "~/x")  # a local one means nothing
    assert same(file, home / "~" / "x")


def test_a_tilde_works_without_the_servers_help(
    session: SftpSession, file: Path, home: Path
) -> None:
    session.extensions.clear()
    upload(session, file, "~/copy")
    assert same(file, home / "copy")
    with pytest.raises(OSError) as raised:
        upload(session, file, "~somebody/copy")
    assert raised.value.errno == errno.EOPNOTSUPP


@BOTH
def test_paths_are_taken_literally(
    copy: Copy, session: SftpSession, file: Path, tmp_path: Path
) -> None:
    name = "a*b?[c] $(touch x); 'd' \"e\" \\f"
    copy(session, file, tmp_path / name)
    copy(session, tmp_path / name, tmp_path / "back")
    assert same(file, tmp_path / "back")


@BOTH
def test_hard_links_to_replaced_file_keep_old_content(
    copy: Copy, session: SftpSession, file: Path, tmp_path: Path
) -> None:
    (tmp_path / "target").write_bytes(b"old")
    os.link(tmp_path / "target", tmp_path / "other")
    copy(session, file, tmp_path / "target")
    assert (tmp_path / "other").read_bytes() == b"old"


@BOTH
def test_with_fsync_the_copy_is_the_same(
    copy: Copy, session: SftpSession, file: Path, tmp_path: Path
) -> None:
    copy(session, file, tmp_path / "copy", fsync=True)
    assert same(file, tmp_path / "copy")


def test_a_session_serves_many_threads_at_once(session: SftpSession, tmp_path: Path) -> None:
    source = make_tree(tmp_path / "source")
    failures: List[BaseException] = []

    def work(number: int) -> None:
        try:
            upload(session, source, tmp_path / f"up{number}")
            download(session, source, tmp_path / f"down{number}")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    for number in range(6):
        assert describe(tmp_path / f"up{number}") == describe(source)
        assert describe(tmp_path / f"down{number}") == describe(source)


# What cannot be copied.


@BOTH
@pytest.mark.parametrize("in_the_way", [None, b"old"])
def test_missing_source_is_file_not_found_and_changes_nothing(
    copy: Copy, session: SftpSession, tmp_path: Path, in_the_way: Any
) -> None:
    target = tmp_path / "target"
    if in_the_way is not None:
        target.write_bytes(in_the_way)
    with pytest.raises(FileNotFoundError) as caught:
        copy(session, tmp_path / "missing", target)
    check(caught.value, errno.ENOENT, tmp_path / "missing")
    assert (target.read_bytes() if target.exists() else None) == in_the_way


@BOTH
def test_folders_around_the_target_are_not_made(
    copy: Copy, session: SftpSession, file: Path, tmp_path: Path
) -> None:
    source = make_tree(tmp_path / "source")
    for what in (file, source):
        with pytest.raises(FileNotFoundError) as caught:
            copy(session, what, tmp_path / "new" / "target")
        check(caught.value, errno.ENOENT, tmp_path / "new" / "target")
    assert not (tmp_path / "new").exists()


def test_a_file_cannot_become_a_new_folder(
    session: SftpSession, file: Path, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError):
        upload(session, file, f"{tmp_path}/new/")
    with pytest.raises(IsADirectoryError):
        download(session, file, f"{tmp_path}/new/")
    assert not (tmp_path / "new").exists()


@BOTH
def test_not_recursive_a_folder_is_an_error_and_a_file_is_not(
    copy: Copy, session: SftpSession, file: Path, tmp_path: Path
) -> None:
    source = make_tree(tmp_path / "source")
    with pytest.raises(IsADirectoryError) as caught:
        copy(session, source, tmp_path / "target", recursive=False)
    check(caught.value, errno.EISDIR, source)
    assert not (tmp_path / "target").exists()
    copy(session, file, tmp_path / "target", recursive=False)
    assert same(file, tmp_path / "target")


@BOTH
@pytest.mark.parametrize("inside", [False, True])
def test_a_fifo_is_an_error_and_never_waited_for(
    copy: Copy, session: SftpSession, tmp_path: Path, inside: bool
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    os.mkfifo(source / "fifo")
    with pytest.raises(OSError, match="fifo") as caught:
        copy(session, source if inside else source / "fifo", tmp_path / "target")
    check(caught.value, errno.EINVAL, source / "fifo")


# Where replacing is not possible.


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to become somebody else")
class TestAsSomebodyElse:
    NOBODY = 65534

    @pytest.fixture
    def theirs(self, tmp_path: Path) -> Path:
        """Return a folder of the user nobody, which that user can reach."""
        folder = tmp_path / "theirs"
        folder.mkdir()
        os.chown(folder, self.NOBODY, self.NOBODY)
        for parent in (tmp_path, *list(tmp_path.parents)[:2]):
            parent.chmod(0o755)
        return folder

    @pytest.fixture
    def session(self, sftp_server: str, theirs: Path, tmp_path: Path) -> Iterator[SftpSession]:
        """Give a session whose server runs as nobody."""
        wrapper = tmp_path / "as-nobody"
        wrapper.write_text(
            "#!/bin/sh\nexec setpriv --reuid=65534 --regid=65534 --clear-groups "
            f'{sftp_server} "$@"\n'
        )
        wrapper.chmod(0o755)
        with real_session(str(wrapper), theirs) as session:
            yield session

    def test_where_writing_is_denied_nothing_changes(
        self, session: SftpSession, file: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "target").write_bytes(b"old")
        for target in (tmp_path / "target", tmp_path / "new"):
            with pytest.raises(PermissionError) as caught:
                upload(session, file, target)
            check(caught.value, errno.EACCES, target)
        assert (tmp_path / "target").read_bytes() == b"old"
        assert not (tmp_path / "new").exists()

    def test_a_folder_that_may_not_be_written_is_uploaded_with_what_is_in_it(
        self, session: SftpSession, theirs: Path, tmp_path: Path
    ) -> None:
        source = tmp_path / "source"
        (source / "locked" / "inner").mkdir(parents=True)
        (source / "locked" / "file").write_bytes(b"x")
        for folder in (source / "locked" / "inner", source / "locked", source):
            folder.chmod(0o555)
        upload(session, source, theirs / "target")
        assert describe(theirs / "target") == describe(source)

    def test_where_reading_is_denied_nothing_changes(
        self, session: SftpSession, file: Path, tmp_path: Path
    ) -> None:
        file.chmod(0o600)
        (tmp_path / "target").write_bytes(b"old")
        with pytest.raises(PermissionError) as caught:
            download(session, file, tmp_path / "target")
        check(caught.value, errno.EACCES, file)
        assert (tmp_path / "target").read_bytes() == b"old"

    def test_a_file_in_a_folder_that_takes_no_new_ones_is_written_in_place(
        self, session: SftpSession, file: Path, theirs: Path
    ) -> None:
        target = theirs / "target"
        target.write_bytes(b"something longer than the new one")
        os.chown(target, self.NOBODY, self.NOBODY)
        theirs.chmod(0o555)
        os.chown(theirs, 0, 0)
        inode = target.stat().st_ino
        upload(session, file, target)
        assert same(file, target)
        assert target.stat().st_ino == inode

    def test_other_users_file_is_written_in_place_and_keeps_owner(
        self, session: SftpSession, file: Path, theirs: Path
    ) -> None:
        target = theirs / "target"
        target.write_bytes(b"something longer than the new one")
        target.chmod(0o666)
        inode = target.stat().st_ino
        upload(session, file, target)
        assert target.read_bytes() == b"content"
        assert (target.stat().st_uid, target.stat().st_ino) == (0, inode)
        assert not unfinished_files(theirs)


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to give files away")
@BOTH
def test_a_replaced_file_keeps_its_owner(
    copy: Copy, session: SftpSession, file: Path, tmp_path: Path
) -> None:
    file.chmod(0o755)
    target = tmp_path / "target"
    target.write_bytes(b"old")
    os.chown(target, 1234, 5678)
    copy(session, file, target)
    assert same(file, target)
    assert (target.stat().st_uid, target.stat().st_gid) == (1234, 5678)


@BOTH
def test_device_is_written_to_and_never_replaced(
    copy: Copy, session: SftpSession, file: Path, tmp_path: Path
) -> None:
    device = tmp_path / "null"
    try:
        os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        device.read_bytes()
    except PermissionError:
        pytest.skip("needs root, to make a device")
    before = device.stat()
    copy(session, file, device)
    after = device.stat()
    assert (after.st_mode, after.st_ino) == (before.st_mode, before.st_ino)


def test_a_device_gets_zeros_where_the_source_has_a_hole(
    session: SftpSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: List[int] = []
    write_in, pwritev = encode.write_in, os.pwritev

    def counted(request_id: int, handle: bytes, offset: int, size: int, buffer: bytearray) -> Any:
        written.append(size)
        return write_in(request_id, handle, offset, size, buffer)

    def counted_here(fd: int, pieces: Any, offset: int) -> int:
        written.append(sum(map(len, pieces)))
        return pwritev(fd, pieces, offset)

    monkeypatch.setattr(encode, "write_in", counted)
    monkeypatch.setattr(os, "pwritev", counted_here)
    with open(tmp_path / "source", "wb") as file:
        file.truncate(1_000_000)
    for copy in (upload, download):
        written.clear()
        copy(session, tmp_path / "source", "/dev/null")
        assert sum(written) == 1_000_000


@BOTH
def test_a_fifo_in_the_way_is_an_error_and_never_waited_for(
    copy: Copy, session: SftpSession, file: Path, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError) as caught:
        copy(session, file, tmp_path / "fifo")
    assert caught.value.filename == str(tmp_path / "fifo")


@pytest.mark.parametrize("plain_rename_replaces", [False, True])
def test_without_posix_rename_existing_file_is_overwritten(
    session: SftpSession, file: Path, tmp_path: Path, plain_rename_replaces: bool
) -> None:
    session.extensions.clear()
    upload(session, file, tmp_path / "new")
    assert same(file, tmp_path / "new")
    (tmp_path / "old").write_bytes(b"something longer than the new one")
    inode = (tmp_path / "old").stat().st_ino
    for _ in range(2):
        upload(session, file, tmp_path / "old")
        assert same(file, tmp_path / "old")
        assert (tmp_path / "old").stat().st_ino == inode


# Sources that do not stand still.


def test_upload_of_changing_file_fails_and_keeps_old_copy(
    session: SftpSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    target.write_bytes(b"old")
    read = SourceFile.read_into

    for size, change in ((100, b"shorter"), (3_000_000, b"shorter"), (100, b"y" * 100)):
        source.write_bytes(b"x" * size)
        os.utime(source, (1, 1))

        def meddle(self: SourceFile, buffer: memoryview, offset: int, new: bytes = change) -> None:
            read(self, buffer, offset)
            source.write_bytes(new)

        monkeypatch.setattr(SourceFile, "read_into", meddle)
        with pytest.raises(OSError, match="changed") as caught:
            upload(session, source, target)
        check(caught.value, errno.EIO, source)
        assert target.read_bytes() == b"old"


@pytest.mark.parametrize(
    "change",
    [b"shorter", b"y" * 30_000_000],
    ids=["shorter", "same size"],
)
def test_download_of_changing_file_fails_and_keeps_old_copy(
    session: SftpSession, tmp_path: Path, change: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    target.write_bytes(b"old")
    source.write_bytes(b"x" * 30_000_000)
    os.utime(source, (1, 1))

    changed = False

    def meddle(progress: Progress) -> None:
        nonlocal changed
        if not changed and progress.bytes_done:
            changed = True
            with open(source, "r+b") as file:  # in place, so that only its time may tell
                file.write(change)
                file.truncate()

    monkeypatch.setattr(progress_module, "_REPORT_INTERVAL", 0.0)
    with pytest.raises(OSError, match="changed") as caught:
        download(session, source, target, progress=meddle)
    check(caught.value, errno.EIO, source)
    assert target.read_bytes() == b"old"


@BOTH
@pytest.mark.parametrize("size", [100, 3_000_000])
@pytest.mark.parametrize("in_a_tree", [False, True])
def test_a_file_that_grows_is_copied_as_long_as_it_was(
    copy: Copy,
    session: SftpSession,
    tmp_path: Path,
    size: int,
    in_a_tree: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A log that is appended to is copied as far as it went when it was opened."""
    source = tmp_path / "source"
    source.mkdir()
    log, content = source / "log", os.urandom(size)
    log.write_bytes(content)
    read, ask_read = SourceFile.read_into, RemoteFiles.ask_read

    def append() -> None:
        with open(log, "ab") as file:
            file.write(b"another line")

    def read_into(self: SourceFile, buffer: memoryview, offset: int) -> None:
        append()
        read(self, buffer, offset)

    def ask(self: RemoteFiles, handle: bytes, offset: int, count: int) -> Any:
        append()
        return ask_read(self, handle, offset, count)

    monkeypatch.setattr(SourceFile, "read_into", read_into)
    monkeypatch.setattr(RemoteFiles, "ask_read", ask)
    if in_a_tree:
        copy(session, source, tmp_path / "target")
    else:
        (tmp_path / "target").mkdir()
        copy(session, log, tmp_path / "target")
    copied = (tmp_path / "target" / "log").read_bytes()
    assert copied[:size] == content
    assert copied == log.read_bytes()[: len(copied)]
    assert log.stat().st_size > len(copied)


@BOTH
def test_a_file_that_claims_to_be_empty_is_read_to_its_end(
    copy: Copy, session: SftpSession, tmp_path: Path
) -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("needs /proc")
    copy(session, "/proc/version", tmp_path / "version")
    assert (tmp_path / "version").read_bytes() == Path("/proc/version").read_bytes()


# Progress and memory.


def test_endless_file_of_size_zero_is_an_error(
    session: SftpSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "source").write_bytes(b"")
    given: List[int] = []

    def read(fd: int, size: int) -> bytes:
        given.append(size)
        assert len(given) < 1000
        return bytes(size)

    with monkeypatch.context() as patch:
        patch.setattr(os, "read", read)
        with pytest.raises(SshTransferError, match="changed"):
            SourceFile(os.fsencode(tmp_path / "source"))
    assert sum(given) < 20_000_000


@BOTH
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt], ids=["error", "ctrl-c"])
def test_progress_exception_keeps_old_file_and_session(
    copy: Copy,
    session: SftpSession,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Type[BaseException],
) -> None:
    monkeypatch.setattr(progress_module, "_REPORT_INTERVAL", 0.0)
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(bytes(20_000_000))
    target.write_bytes(b"old")

    def fail(progress: Progress) -> None:
        if progress.bytes_done > 5_000_000:
            raise error("enough")

    with pytest.raises(error, match="enough"):
        copy(session, source, target, progress=fail)
    assert session.is_usable
    assert target.read_bytes() == b"old"
    assert not unfinished_files(tmp_path)
    copy(session, source, target)
    assert same(source, target)


@BOTH
@pytest.mark.parametrize("what", ["file", "tree"])
def test_a_target_that_cannot_be_created_says_what_is_wrong_with_its_path(
    copy: Copy, session: SftpSession, tmp_path: Path, what: str
) -> None:
    source = tmp_path / "source"
    if what == "file":
        source.write_bytes(b"x")
    else:
        source.mkdir()
    (tmp_path / "dangling").symlink_to(tmp_path / "no" / "where")
    (tmp_path / "blocked").write_bytes(b"")
    for target, code, text in (
        ("no/such", errno.ENOENT, f"the folder '{tmp_path}/no' does not exist"),
        ("dangling", errno.ENOENT, f"a symbolic link to '{tmp_path}/no/where', which does not"),
        ("blocked/x", errno.ENOTDIR, f"'{tmp_path}/blocked' is not a folder"),
    ):
        with pytest.raises(OSError) as caught:
            copy(session, source, tmp_path / target)
        check(caught.value, code, tmp_path / target)
        assert text in str(caught.value)


@BOTH
def test_missing_source_with_a_pattern_says_that_it_is_none(
    copy: Copy, session: SftpSession, tmp_path: Path
) -> None:
    for name in ("*.log", "no/*.log"):
        with pytest.raises(FileNotFoundError, match="patterns are not expanded"):
            copy(session, tmp_path / name, tmp_path / "target")
    (tmp_path / "[1]").write_bytes(b"x")
    copy(session, tmp_path / "[1]", tmp_path / "*")
    assert (tmp_path / "*").read_bytes() == b"x"


def test_local_tilde_says_that_it_is_not_expanded(session: SftpSession, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="~ is not expanded in a local path"):
        upload(session, "~/no-such-file", tmp_path / "target")


def test_full_disk_is_reported_and_keeps_the_old_file(
    session: SftpSession, tmp_path: Path, mount: Callable[..., None]
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount(disk, "-t", "tmpfs", "-o", "size=1m", "tmpfs")
    source = tmp_path / "source"
    source.write_bytes(os.urandom(3_000_000))
    (disk / "target").write_bytes(b"old")
    for copy in (upload, download):
        with pytest.raises(OSError) as caught:
            copy(session, source, disk / "target")
        check(caught.value, errno.ENOSPC, disk / "target")
        assert (disk / "target").read_bytes() == b"old"
        assert not unfinished_files(disk)


def test_file_system_without_inodes_is_reported(
    session: SftpSession, file: Path, tmp_path: Path, mount: Callable[..., None]
) -> None:
    """There is room for data, so that "No space left on device" alone would mislead."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount(disk, "-t", "tmpfs", "-o", "size=10m,nr_inodes=3", "tmpfs")
    for name in ("a", "b"):
        (disk / name).write_bytes(b"")
    for copy in (upload, download):
        with pytest.raises(OSError, match="no inode left for another file") as caught:
            copy(session, file, disk / "target")
        check(caught.value, errno.ENOSPC, disk / "target")


def test_a_read_only_file_system_is_told(
    session: SftpSession, file: Path, tmp_path: Path, mount: Callable[..., None]
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount(disk, "-t", "tmpfs", "-o", "ro", "tmpfs")
    for copy in (upload, download):
        with pytest.raises(OSError) as caught:
            copy(session, file, disk / "target")
        check(caught.value, errno.EROFS, disk / "target")


@BOTH
def test_unfinished_file_is_not_readable_by_others(
    copy: Copy, session: SftpSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_module, "_REPORT_INTERVAL", 0.0)
    (tmp_path / "source").write_bytes(os.urandom(10_000_000))
    (tmp_path / "source").chmod(0o644)
    modes: List[int] = []

    def look(progress: Progress) -> None:
        modes.extend(os.stat(path).st_mode & 0o777 for path in unfinished_files(tmp_path))

    copy(session, tmp_path / "source", tmp_path / "target", progress=look)
    assert 0o600 in modes
    assert set(modes) <= {0o600, 0o644}  # it gets its own mode before it gets its name
    assert (tmp_path / "target").stat().st_mode & 0o777 == 0o644


def test_a_mount_point_is_written_in_place(
    session: SftpSession, file: Path, tmp_path: Path, mount: Callable[..., None]
) -> None:
    other, target = tmp_path / "other", tmp_path / "target"
    other.write_bytes(b"something longer than the new one")
    target.write_bytes(b"below")
    mount(target, "--bind", str(other))
    for copy in (upload, download):
        other.write_bytes(b"something longer than the new one")
        meters: List[Progress] = []
        copy(session, file, target, progress=meters.append)
        assert same(file, target)
        assert meters[-1] == (7, 7, 1, 1)
        assert stat.S_ISREG(target.stat().st_mode)
