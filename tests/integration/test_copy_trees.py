"""Copies of trees, by SFTP and in a stream over a shell, with the same result."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import resource
import shutil
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Iterator, List

import pytest

from ssh_service.copying import downloading
from ssh_service.copying import progress as progress_module
from ssh_service.copying import upload_stream, uploading
from ssh_service.copying.local import walk as walk_module
from ssh_service.copying.progress import Progress
from ssh_service.copying.sftp.server_facts import Feature
from ssh_service.copying.sftp.session import SftpSession
from ssh_service.errors import SshTransferError
from tests.common import PATIENCE
from tests.integration.sftp_processes import Shell
from tests.trees import describe, make_tree, many_files, unfinished_files
from tests.unit.sftp_harness import check, download, upload

Copy = functools.partial


@pytest.fixture(
    name="copy", params=["up by sftp", "up in a stream", "down by sftp", "down in a stream"]
)
def copies_of_a_tree(
    request: pytest.FixtureRequest,
    session: SftpSession,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Copy]:
    """Give what copies a tree, each way; in a stream, one file is worth it."""
    monkeypatch.setattr(upload_stream, "MANY_FILES", 1)
    monkeypatch.setattr(downloading, "MANY_FILES", 0)
    one = upload if request.param.startswith("up") else download
    shell = Shell(home) if request.param.endswith("stream") else None
    yield functools.partial(one, session, shell=shell)
    assert not session.facts.tar.is_missing, "what was to go in a stream did not"


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_tree_becomes_the_name_it_is_given(copy: Copy, tmp_path: Path, slash: str) -> None:
    source = make_tree(tmp_path / "source")
    copy(f"{source}{slash}", f"{tmp_path}/target{slash}")
    assert describe(tmp_path / "target") == describe(source)


@pytest.mark.parametrize("slash", ["", "/", "/."])
def test_tree_into_existing_folder_nests_the_second_time(
    copy: Copy, tmp_path: Path, slash: str
) -> None:
    source = make_tree(tmp_path / "source")
    copy(source, tmp_path / "target")
    copy(f"{source}{slash}", tmp_path / "target")
    nested = tmp_path / "target" / "source"
    assert describe(nested) == describe(source)


def test_merging_keeps_what_was_there(copy: Copy, tmp_path: Path) -> None:
    source = make_tree(tmp_path / "source")
    (tmp_path / "target").mkdir()
    copy(source, tmp_path / "target")
    merged = tmp_path / "target" / "source"
    (merged / "deep" / "stale").write_bytes(b"stale")
    (merged / "large").write_bytes(b"old")
    copy(source, tmp_path / "target")
    assert (merged / "deep" / "stale").read_bytes() == b"stale"
    assert (merged / "large").read_bytes() == (source / "large").read_bytes()


def test_read_only_folder_is_copied_with_its_contents(copy: Copy, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "locked").mkdir(parents=True)
    (source / "locked" / "file").write_bytes(b"x")
    (source / "locked").chmod(0o555)
    copy(source, tmp_path / "target")
    assert describe(tmp_path / "target") == describe(source)


def test_many_small_files_arrive(copy: Copy, tmp_path: Path) -> None:
    source = tmp_path / "source"
    for folder in range(20):
        (source / str(folder)).mkdir(parents=True)
        for number in range(15):
            (source / str(folder) / str(number)).write_bytes(b"%d" % number)
    copy(source, tmp_path / "target")
    assert describe(tmp_path / "target") == describe(source)


def test_a_tree_cannot_replace_a_file(copy: Copy, file: Path, tmp_path: Path) -> None:
    source = make_tree(tmp_path / "source")
    with pytest.raises(NotADirectoryError) as caught:
        copy(source, file)
    check(caught.value, errno.ENOTDIR, file)
    assert file.read_bytes() == b"content"


def test_tree_never_replaces_folder_by_file_or_file_by_folder(copy: Copy, tmp_path: Path) -> None:
    target = tmp_path / "target"
    for name, wrong in (("file", "folder"), ("folder", "file")):
        for path, kind in ((tmp_path / name / "x", name), (target / name / "x", wrong)):
            path.parent.mkdir(parents=True)
            if kind == "file":
                path.write_bytes(b"")
            else:
                path.mkdir()
        with pytest.raises((IsADirectoryError, NotADirectoryError)) as caught:
            copy(tmp_path / name, target)
        assert caught.value.filename == str(target / name / "x")


def test_a_dangling_link_is_an_error_that_names_it(copy: Copy, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "link").symlink_to("nowhere")
    with pytest.raises(FileNotFoundError) as caught:
        copy(source, tmp_path / "target")
    check(caught.value, errno.ENOENT, source / "link")


@pytest.mark.parametrize("to", [".", "..", "../..", "back"])
def test_a_link_that_leads_back_is_an_error_that_names_it(
    copy: Copy, tmp_path: Path, to: str
) -> None:
    source = tmp_path / "source"
    (source / "folder").mkdir(parents=True)
    (source / "folder" / "back").symlink_to(to)
    with pytest.raises(OSError) as caught:
        copy(source, tmp_path / "target")
    # A link to itself is all that SFTP shows as missing.
    assert caught.value.errno == errno.ELOOP or (to == "back" and copy.func is download)
    assert caught.value.filename == str(source / "folder" / "back")
    assert not (tmp_path / "target" / "folder" / "back").exists()


def test_links_to_the_same_folder_are_no_loop(copy: Copy, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "folder").mkdir(parents=True)
    (source / "folder" / "file").write_bytes(b"x")
    (source / "one").symlink_to("folder")
    (source / "two").symlink_to("folder")
    copy(source, tmp_path / "target")
    assert describe(tmp_path / "target") == describe(source)


def test_tree_stops_at_first_bad_entry_and_keeps_earlier_ones(copy: Copy, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(30):
        (source / f"{number:02}").write_bytes(b"x" * number)
    order = os.listdir(source)
    (source / order[10]).unlink()
    (source / order[10]).symlink_to("nowhere")
    order = os.listdir(source)
    bad = next(place for place, name in enumerate(order) if (source / name).is_symlink())
    with pytest.raises(FileNotFoundError):
        copy(source, tmp_path / "target")
    assert sorted(os.listdir(tmp_path / "target")) == sorted(order[:bad])


def test_progress_total_does_without_what_cannot_be_examined(
    session: SftpSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To count the bytes is no part of the copy: its errors are not the copy's."""
    source = many_files(tmp_path / "source", 3)
    (locked, original), seen = (os.fsencode(source / "1"), os.stat), []

    def examine(path: Any, **options: Any) -> os.stat_result:
        if path == locked:
            seen.append(path)
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return original(path, **options)

    monkeypatch.setattr(os, "stat", examine)
    upload(session, source, tmp_path / "target", progress=lambda progress: None)
    monkeypatch.undo()
    assert seen and describe(tmp_path / "target") == describe(source)


def test_progress_reports_bytes_and_files_up_to_the_totals(
    copy: Copy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_module, "_REPORT_INTERVAL", 0.0)
    source = make_tree(tmp_path / "source")
    told: List[Progress] = []
    copy(source, tmp_path / "target", progress=told.append)
    files = [value[2] for value in describe(source).values() if value[2] is not None]
    size = sum(map(len, files))
    assert told[-1] == Progress(size, size, len(files), len(files))
    assert len(told) > 2
    assert [one.bytes_done for one in told] == sorted(one.bytes_done for one in told)


def test_no_file_stays_open_whatever_happens(copy: Copy, tmp_path: Path) -> None:
    source = make_tree(tmp_path / "source")
    for number in range(20):  # which tar may not be believed about
        (source / "names" / f"ends with zero {number}").write_bytes(b"x\0")
    (source / "names" / "bad").symlink_to("nowhere")
    before = sorted(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError):
        copy(source, tmp_path / "abort")
    (source / "names" / "bad").unlink()
    copy(source, tmp_path / "whole")
    if copy.keywords["shell"] is not None:
        copy.keywords["shell"].wait()
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_the_time_of_the_last_access_is_kept(copy: Copy, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file").write_bytes(b"content")
    os.utime(tmp_path / "source" / "file", (1_000_000_000, 1_100_000_000))
    copy(tmp_path / "source", tmp_path / "target")
    status = (tmp_path / "target" / "file").stat()
    assert (status.st_atime, status.st_mtime) == (1_000_000_000, 1_100_000_000)


def test_tree_root_path_may_have_odd_characters(copy: Copy, tmp_path: Path) -> None:
    for name in ("-rf", "it's $(touch x) \"`!\\", "line\nbreak\n"):
        source = tmp_path / name / name
        source.mkdir(parents=True)
        (source / "file").write_bytes(b"content")
        copy(source, tmp_path / name / (name + "2"))
        assert describe(tmp_path / name / (name + "2")) == describe(source)
    assert not list(tmp_path.rglob("x"))


@pytest.mark.parametrize("files, folders", [(0, 0), (0, 3), (3, 0), (3, 3)])
def test_empty_files_and_folders_are_copied(
    copy: Copy, tmp_path: Path, files: int, folders: int
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(files):
        (source / f"file{number}").write_bytes(b"")
    for number in range(folders):
        (source / f"folder{number}" / "deeper").mkdir(parents=True)
    copy(source, tmp_path / "target")
    assert describe(tmp_path / "target") == describe(source)


def test_full_disk_fails_and_keeps_earlier_files_whole(
    copy: Copy, tmp_path: Path, mount: Callable[..., None]
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount(disk, "-t", "tmpfs", "-o", "size=1m", "tmpfs")
    source = many_files(tmp_path / "source", 30, 100_000)
    with pytest.raises(OSError) as caught:
        copy(source, disk / "target")
    assert caught.value.errno == errno.ENOSPC
    for name in os.listdir(disk / "target"):
        assert (disk / "target" / name).read_bytes() == (source / name).read_bytes()
    assert not unfinished_files(disk)
    copy.args[0].facts.tar = Feature()  # which failed, up, as it should


def test_times_of_very_many_folders_are_set(
    copy: Copy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploading, "_MAX_IN_FLIGHT", 5)
    source = tmp_path / "source"
    for number in range(20):
        (source / f"{number}").mkdir(parents=True)
        os.utime(source / f"{number}", (1_000_000_000, 1_000_000_000 + number))
    copy(source, tmp_path / "target")
    assert describe(tmp_path / "target") == describe(source)


def test_upload_over_irreplaceable_entry_names_it(
    session: SftpSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that wait for their folder go on after another one's failure."""

    def in_order(folder: Any) -> Any:  # so that the folders are under way when the file fails
        with os.scandir(folder) as entries:
            return contextlib.nullcontext(sorted(entries, key=lambda entry: str(entry.name)))

    monkeypatch.setattr(walk_module, "_scan", in_order)
    source, target = tmp_path / "source", tmp_path / "target"
    for name in ("a", "b", "c"):
        (source / name).mkdir(parents=True)
        (source / name / "file").write_bytes(b"new")
    (source / "file").write_bytes(b"new")
    for name in ("a", "b", "c", "file"):
        (target / name).mkdir(parents=True)
    with pytest.raises(IsADirectoryError) as caught:
        upload(session, source, target, contents=True)
    check(caught.value, errno.EISDIR, target / "file")


@pytest.mark.parametrize("copy", [upload, download])
def test_many_copies_stay_within_what_the_process_may_open(
    copy: Any, session: SftpSession, tmp_path: Path
) -> None:
    """The bound is the process's, whatever number of copies there is."""
    source = many_files(tmp_path / "source", 200, size=10)
    with limited_files(150):
        failures = in_threads(12, lambda number: copy(session, source, tmp_path / str(number)))
        assert failures == []
        # Once more, to where all of it is, and so without a stream.
        failures = in_threads(
            12, lambda number: copy(session, source, tmp_path / str(number), contents=True)
        )
    assert failures == []
    assert describe(tmp_path / "11") == {
        **describe(source),
        b".": describe(tmp_path / "11")[b"."],
    }


@contextlib.contextmanager
def limited_files(count: int) -> Iterator[None]:
    """Allow so many more descriptors than are open now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    now = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (now + count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def in_threads(count: int, work: Callable[[int], None]) -> List[BaseException]:
    """Do something many times at once; give what went wrong."""
    with ThreadPoolExecutor(count) as pool:
        futures = [pool.submit(work, number) for number in range(count)]
        errors = [future.exception(PATIENCE) for future in futures]
    return [error for error in errors if error is not None]


@pytest.mark.parametrize("copy, levels", [(upload, 900), (download, 250)])
def test_a_tree_of_many_levels_is_copied(
    copy: Any, levels: int, session: SftpSession, tmp_path: Path
) -> None:
    """Depth is bounded by the length of paths, not by the interpreter's stack."""
    source = tmp_path / "s"
    source.mkdir()
    before = os.getcwd()
    try:
        os.chdir(source)
        for _ in range(levels):
            os.mkdir("d")
            os.chdir("d")
        Path("file").write_bytes(b"x")
    finally:
        os.chdir(before)
    copy(session, source, tmp_path / "t", progress=lambda progress: None)
    assert (tmp_path / "t" / "/".join("d" * levels) / "file").read_bytes() == b"x"
    for name in "st":
        shutil.rmtree(tmp_path / name)


def test_too_deep_tree_is_a_clear_error(session: SftpSession, tmp_path: Path) -> None:
    """A path that is too long is an error with the path, not a RecursionError."""
    source = tmp_path / "s"
    source.mkdir()
    inner = os.open(source, os.O_RDONLY)
    for _ in range(1100):
        os.mkdir("dddd", dir_fd=inner)
        outer, inner = inner, os.open("dddd", os.O_RDONLY, dir_fd=inner)
        os.close(outer)
    os.close(inner)
    for progress in (None, lambda progress: None):
        with pytest.raises(OSError) as caught:
            upload(session, source, tmp_path / "t", contents=True, progress=progress)
        assert str(source) in str(caught.value)
    for tree in (source, tmp_path / "t"):
        subprocess.run(["rm", "-rf", tree], check=True, timeout=PATIENCE)


def test_errors_say_which_side_and_which_file(session: SftpSession, tmp_path: Path) -> None:
    """The path alone does not tell whether it is here or there."""
    for copy, sides in ((upload, ("local", "remote")), (download, ("remote", "local"))):
        missing, file = tmp_path / "missing", tmp_path / "file"
        file.write_bytes(b"x")
        for source, target, side, wrong in (
            (missing, tmp_path / "new", sides[0], missing),
            (file, missing / "inside", sides[1], missing / "inside"),
        ):
            with pytest.raises(FileNotFoundError) as caught:
                copy(session, source, target)
            assert str(caught.value).startswith(
                f"{side} {str(wrong)!r}: No such file or directory"
            )
            assert getattr(caught.value, "side") == side


@pytest.mark.parametrize(
    "copy, kind", [(upload, uploading.Upload), (download, downloading.Download)]
)
def test_the_same_tree_copied_at_once_is_one_tree(
    copy: Any, kind: Any, session: SftpSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second call finds the folder that the first has just made, and does not nest."""
    source, target = make_tree(tmp_path / "source"), tmp_path / "target"
    finish, waits, may_go = kind._finish_folders, threading.Event(), threading.Event()

    def wait() -> None:
        if threading.current_thread() is not threading.main_thread():
            waits.set()
            assert may_go.wait(PATIENCE)

    if copy is upload:

        async def finish_later(self: Any) -> None:
            wait()
            await finish(self)

        monkeypatch.setattr(kind, "_finish_folders", finish_later)
    else:

        def finish_then(self: Any) -> None:
            wait()
            finish(self)

        monkeypatch.setattr(kind, "_finish_folders", finish_then)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(copy, session, source, target)
        assert waits.wait(PATIENCE)
        copy(session, source, target)
        may_go.set()
        first.result(PATIENCE)
    assert describe(target) == describe(source)
    copy(session, source, target)  # later, it goes into what is there
    assert (target / "source").is_dir()


@pytest.mark.parametrize("one", [upload, download])
@pytest.mark.parametrize("place", ["new", "old", "old/new", "old/older"])
@pytest.mark.parametrize("contents", [False, True])
@pytest.mark.parametrize("on_error", ["stop", "continue"])
def test_a_folder_copied_into_itself_is_an_error(
    one: Any, session: SftpSession, tmp_path: Path, place: str, contents: bool, on_error: str
) -> None:
    """The server may be this machine; so it was copied until its paths were too long."""
    source = tmp_path / "source"
    (source / "old" / "older").mkdir(parents=True)
    (source / "file").write_bytes(b"x")
    for _ in range(2):  # again, with the folders that the first call has created
        with pytest.raises(SshTransferError, match="cannot be copied into itself") as caught:
            one(session, source, source / place, contents=contents, on_error=on_error)
        assert caught.value.errno == errno.EINVAL
        assert max(len(path.parts) for path in tmp_path.rglob("*")) < len(tmp_path.parts) + 12
        assert not unfinished_files(tmp_path)


@pytest.mark.parametrize("source", ["x", "x/", ".", "./", "source/x"])
def test_a_tree_named_by_a_relative_path_is_uploaded(
    session: SftpSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    make_tree(tmp_path / "x")
    (tmp_path / "source").symlink_to(".")
    monkeypatch.chdir(tmp_path / "x" if source in (".", "./") else tmp_path)
    for links in ("follow", "keep"):
        upload(session, source, tmp_path / links, links=links)
        assert describe(tmp_path / links) == describe(tmp_path / "x")


@pytest.mark.parametrize("one", [upload, download])
def test_just_changed_tree_is_copied_and_leaves_no_marker(
    one: Any, session: SftpSession, tmp_path: Path
) -> None:
    source = make_tree(tmp_path / "source")
    before = (tmp_path / "source").stat().st_mtime_ns
    one(session, source, tmp_path / "target")
    assert not unfinished_files(tmp_path)
    assert (tmp_path / "source").stat().st_mtime_ns == before
    assert int((tmp_path / "target").stat().st_mtime) == before // 10**9


def test_a_folder_streamed_into_itself_is_copied_once(
    session: SftpSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload_stream, "MANY_FILES", 1)
    source, shell = many_files(tmp_path / "source", 10), Shell(tmp_path)
    upload(session, source, source / "copy", shell=shell)
    shell.wait()
    assert len(list(source.rglob("*"))) == 2 * (len(list(source.iterdir())) - 1) + 1


def test_a_tree_for_which_inodes_do_not_suffice_says_so(
    session: SftpSession, home: Path, tmp_path: Path, mount: Callable[..., None]
) -> None:
    source = many_files(tmp_path / "source", 300, 100)
    for number, one in enumerate([upload, download]):
        disk = tmp_path / f"disk{number}"
        disk.mkdir()
        mount(disk, "-t", "tmpfs", "-o", "size=10m,nr_inodes=20", "tmpfs")
        with pytest.raises(OSError, match="no inode left for another file") as caught:
            one(session, source, disk / "target", shell=Shell(home))
        assert caught.value.errno == errno.ENOSPC
