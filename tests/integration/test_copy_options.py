"""The options of copies: what each does, by SFTP and in a stream, and which are refused."""

from __future__ import annotations

import functools
import inspect
import logging
import os
import pickle
import random
import stat
import time
from pathlib import Path
from typing import Any, Callable, Dict, List

import pytest

from ssh_service import api, fleet
from ssh_service.copying import context as context_module
from ssh_service.copying import downloading, upload_stream
from ssh_service.copying.failures import Refused, copy_error
from ssh_service.copying.local.descriptors import current_umask
from ssh_service.copying.options import Options
from ssh_service.copying.remote_files import RemoteFiles
from ssh_service.copying.sftp import protocol
from ssh_service.copying.sftp.client import SftpClient
from ssh_service.copying.sftp.session import SftpSession
from ssh_service.copying.sftp.time_limits import Stalled, TimeLimits, TimeUp
from ssh_service.errors import (
    SshConfigError,
    SshTransferError,
    SshTransferTimeout,
    SshTreeError,
    name_connection,
    transfer_error,
    tree_error,
)
from tests.common import PATIENCE
from tests.integration.sftp_processes import Shell
from tests.trees import describe, make_tree, unfinished_files
from tests.unit.sftp_harness import (
    MadeUpServer,
    attributes,
    download,
    frame,
    status,
    string,
    upload,
)
from tests.unit.test_copy_hostile import FOLDER, LINK, Liar, name_entry

WAYS = ["up by sftp", "up in a stream", "down by sftp", "down in a stream"]
Copy = functools.partial


@pytest.fixture(name="copy", params=WAYS)
def copies(
    request: pytest.FixtureRequest,
    session: SftpSession,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Copy:
    """Give what copies a tree, each way; in a stream, one file is worth it."""
    monkeypatch.setattr(upload_stream, "MANY_FILES", 1)
    monkeypatch.setattr(downloading, "MANY_FILES", 0)
    one = upload if request.param.startswith("up") else download
    shell = Shell(home) if request.param.endswith("stream") else None
    return functools.partial(one, session, shell=shell)


# Every door has them.


@pytest.mark.parametrize(
    "function",
    [api.upload, api.download, fleet.upload, fleet.download],
)
def test_options_are_named_and_explained_by_every_function(function: Callable[..., Any]) -> None:
    """Each option is a keyword of its own, and stands in the docstring with its type."""
    parameters = inspect.signature(function).parameters
    documentation = inspect.getdoc(function) or ""
    for name in (*Options._fields, "timeout", "stall_timeout"):
        assert parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
        assert f"\n{name} : " in documentation
        if name in Options._field_defaults:
            assert parameters[name].default == Options._field_defaults[name]


@pytest.mark.parametrize(
    "wrong",
    [
        {"preserve": "yes"},
        {"links": "copy"},
        {"on_error": "ignore"},
        {"update": None},
        {"verify": 2},
        {"contents": True, "recursive": False},
        {"update": True, "preserve": False},
        {"exclude": "a["},
        {"dry_run": "yes"},
        {"max_rate": 0},
        {"max_rate": "1M"},
        {"max_rate": True},
        {"max_rate": float("nan")},
        {"dry_run": True, "resume": True},
    ],
    ids=str,
)
def test_options_that_are_wrong_are_refused_by_name(wrong: Dict[str, Any]) -> None:
    """An option that is wrong, or contradicts another, is an error that names it."""
    with pytest.raises(SshConfigError, match=next(iter(wrong))):
        Options(**wrong).check()


# Time.


def test_timeout_ends_a_copy_that_still_moves(tmp_path: Path) -> None:
    """`timeout` is the whole copy: a server that answers each request ends none of it."""
    until = time.monotonic() + PATIENCE

    def answer(kind: int, request_id: int, body: bytes) -> bytes:
        if time.monotonic() > until:
            return status(request_id, protocol.FAILURE)
        if kind == protocol.READ:  # one byte at a time, for ever
            return frame(protocol.DATA, request_id, b"\0\0\0\1x")
        if kind == protocol.OPEN:
            return frame(protocol.HANDLE, request_id, b"\0\0\0\1h")
        if kind in (protocol.STAT, protocol.FSTAT):
            return frame(protocol.ATTRS, request_id, attributes(0o100644, 10**9))
        return status(request_id, protocol.OK)

    with MadeUpServer(answer).ready() as session:
        with pytest.raises(TimeUp):
            download(session, "/file", tmp_path / "file", timeout=0.2, stall_timeout=0.1)
    assert os.listdir(tmp_path) == []


def test_timeout_names_stall_timeout_and_how_long_it_was() -> None:
    """The error of the whole time-out says which limit it was, and names the other."""
    limits = TimeLimits.from_now(5, 2)
    late = copy_error(TimeUp(), "/x", "root@web:22", limits)
    assert isinstance(late, SshTransferTimeout) and isinstance(late, TimeoutError)
    assert "5 s" in str(late) and "stall_timeout" in str(late) and "/x" in str(late)
    stalled = copy_error(Stalled(), "/x", "root@web:22", limits)
    assert "2 s" in str(stalled) and "stall_timeout" in str(stalled)


def test_stall_timeout_is_not_fed_by_other_copies(tmp_path: Path) -> None:
    """Data of other copies over the same session does not count as progress of this one."""
    with MadeUpServer(lambda *_: b"").ready() as session:
        other = SftpClient(session)

        def meanwhile(*_: Any) -> None:
            session.send(b"", [])
            session.sent += 1  # another copy's byte has left

        with other, pytest.raises(Stalled):
            timer = [0]

            class Moving(SftpClient):
                def wait_for_change(self, timeout: Any) -> Any:
                    meanwhile()
                    timer[0] += 1
                    assert timer[0] < 10, "kept alive by another copy"
                    return super().wait_for_change(timeout)

            with Moving(session) as client:
                client.ask(lambda number: frame(protocol.STAT, number, b""))
                client.flush()
                client.collect(0.05)


# Modes and times.


def test_downloads_drop_setuid_and_write_for_others(copy: Copy, tmp_path: Path) -> None:
    """Up: every bit.  Down: never setuid, setgid or sticky, and write bits by the umask."""
    source, down = tmp_path / "source", copy.func is download
    (source / "folder").mkdir(parents=True)
    modes = {"set": 0o6755, "all": 0o777, "private": 0o600, "folder": 0o1777}
    for name in modes:
        if name != "folder":
            (source / name).write_bytes(b"x")
        (source / name).chmod(modes[name])
    for preserve in (None, True):
        target = tmp_path / f"target {preserve}"
        copy(source, target, preserve=preserve)
        for name, mode in modes.items():
            if down:
                mode &= 0o777 & ~(0 if preserve else current_umask() & 0o022)
            assert stat.S_IMODE((target / name).stat().st_mode) == mode, name


def test_preserve_false_keeps_neither_modes_nor_times(copy: Copy, tmp_path: Path) -> None:
    """New files get the default mode; replaced files keep theirs."""
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "folder").mkdir(parents=True, mode=0o700)
    for name in ("new", "old"):
        (source / name).write_bytes(b"x")
        (source / name).chmod(0o700)
        os.utime(source / name, (1, 1))
    (target / "source").mkdir(parents=True)
    (target / "source" / "old").write_bytes(b"old")
    (target / "source" / "old").chmod(0o640)
    copy(source, target, preserve=False)
    found = target / "source"
    assert (found / "old").read_bytes() == b"x"
    assert stat.S_IMODE((found / "old").stat().st_mode) == 0o640
    assert stat.S_IMODE((found / "new").stat().st_mode) == 0o666 & ~current_umask()
    assert stat.S_IMODE((found / "folder").stat().st_mode) == 0o777 & ~current_umask()
    assert (found / "new").stat().st_mtime > 1


def test_preserve_false_makes_a_new_tree_by_the_umask(copy: Copy, tmp_path: Path) -> None:
    """The same for a tree that is new as a whole."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir(mode=0o700)
    for number in range(3):
        (source / str(number)).write_bytes(b"x")
        (source / str(number)).chmod(0o700)
        os.utime(source / str(number), (1, 1))
    copy(source, target, preserve=False)
    assert stat.S_IMODE(target.stat().st_mode) == 0o777 & ~current_umask()
    for number in range(3):
        status = (target / str(number)).stat()
        assert stat.S_IMODE(status.st_mode) == 0o666 & ~current_umask()
        assert status.st_mtime > 1


# Contents.


def test_contents_twice_makes_one_tree(copy: Copy, tmp_path: Path) -> None:
    """Contents fill the target whether or not it exists, and nest nothing."""
    source, target = make_tree(tmp_path / "source"), tmp_path / "target"
    for _ in range(2):
        copy(f"{source}/", target, contents=True)
        found, expected = describe(target), describe(source)
        assert found.pop(b".")[0] == expected.pop(b".")[0]
        assert found == expected
    (source / "added").write_bytes(b"new")
    copy(source, target, contents=True)
    assert (target / "added").read_bytes() == b"new"
    assert not (target / "source").exists()


def test_contents_leaves_the_target_its_own_mode(copy: Copy, tmp_path: Path) -> None:
    """The folder that was there keeps its mode: nobody wants another one for ``/tmp``."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    (source / "file").write_bytes(b"x")
    target.mkdir()
    target.chmod(0o1777)
    copy(source, target, contents=True)
    assert stat.S_IMODE(target.stat().st_mode) == 0o1777
    assert (target / "file").read_bytes() == b"x"


def test_contents_of_a_file_is_an_error(copy: Copy, file: Path, tmp_path: Path) -> None:
    """A file has no contents to be spread."""
    with pytest.raises(NotADirectoryError, match="contents"):
        copy(file, tmp_path / "target", contents=True)
    assert not (tmp_path / "target").exists()


# The disk.


def test_fsync_is_refused_where_the_server_cannot(file: Path) -> None:
    """A server that does not announce ``fsync@openssh.com`` is not asked for it."""

    def answer(kind: int, request_id: int, body: bytes) -> bytes:
        return status(request_id, protocol.NO_SUCH_FILE)

    server = MadeUpServer(answer)
    with server.ready() as session:
        with pytest.raises(OSError, match="fsync"):
            upload(session, file, "/target", fsync=True)
    assert server.requests == []


def test_refused_modes_are_reported_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A server that lets nobody set modes gets the tree all the same, with one warning."""
    source = tmp_path / "source"
    source.mkdir()
    for number in range(3):
        (source / str(number)).mkdir()

    def answer(kind: int, request_id: int, body: bytes) -> bytes:
        if kind in (protocol.SETSTAT, protocol.FSETSTAT):
            return status(request_id, protocol.PERMISSION_DENIED)
        if kind in (protocol.STAT, protocol.LSTAT, protocol.OPENDIR, protocol.REALPATH):
            return status(request_id, protocol.NO_SUCH_FILE)
        if kind == protocol.OPEN:
            return frame(protocol.HANDLE, request_id, string(b"handle"))
        return status(request_id, protocol.OK)

    with MadeUpServer(answer).ready() as session:
        with caplog.at_level(logging.WARNING, "ssh_service.copying"):
            upload(session, source, "/target")
        assert len([r for r in caplog.records if "modes and times" in r.message]) == 1
        with pytest.raises(PermissionError):
            upload(session, source, "/target", preserve=True)


# Errors and links.


def awkward_tree(root: Path) -> Path:
    """Make a tree of which three entries cannot be copied, and two files can."""
    (root / "folder").mkdir(parents=True)
    (root / "folder" / "good").write_bytes(b"good")
    (root / "folder" / "dangling").symlink_to("nowhere")
    (root / "good").write_bytes(b"good")
    os.mkfifo(root / "fifo")
    (root / "loop").symlink_to(".")
    return root


def test_on_error_continue_copies_the_rest_and_lists_all(copy: Copy, tmp_path: Path) -> None:
    """One `SshTreeError` at the end has all that could not be copied, and says how many."""
    source, target = awkward_tree(tmp_path / "source"), tmp_path / "target"
    with pytest.raises(SshTreeError) as caught:
        copy(source, target, on_error="continue")
    error = caught.value
    bad = {str(source / name) for name in ("folder/dangling", "fifo", "loop")}
    assert [failure.filename for failure in error.failures] == sorted(bad)
    side = "remote" if copy.func is download else "local"
    assert {failure.side for failure in error.failures} == {side}
    assert "3 entries" in str(error) and all(repr(path) in str(error) for path in bad)
    assert error.filename == str(source)
    assert isinstance(error, SshTransferError) and isinstance(error, OSError)
    found = {path.relative_to(target).as_posix() for path in target.rglob("*")}
    assert found == {"folder", "folder/good", "good"}
    again = pickle.loads(pickle.dumps(error))
    assert [str(one) for one in again.failures] == [str(one) for one in error.failures]
    assert (type(again), str(again), again.errno) == (SshTreeError, str(error), error.errno)


def test_on_error_continue_shows_the_first_few_in_its_message() -> None:
    """A thousand failures make no message of a thousand lines; it begins with the first paths."""
    failures = [transfer_error(13, f"/{number:03}", side="remote") for number in range(1000)]
    random.shuffle(failures)
    error = name_connection(tree_error(failures, "/", "remote"), "root@web:22")
    assert str(error).startswith("root@web:22: remote '/': 1000 entries could not be copied")
    assert "remote '/002': Permission denied; and 997 more" in str(error)
    assert "'/003'" not in str(error)
    assert str(error.failures[3]) == "root@web:22: remote '/003': Permission denied"


def test_on_error_continue_stops_at_ten_thousand(
    session: SftpSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list of failures is bounded: a server may make up any number."""
    monkeypatch.setattr(context_module, "MAX_FAILURES", 5)
    source = tmp_path / "source"
    source.mkdir()
    for number in range(20):
        (source / str(number)).symlink_to("nowhere")
    for one in (upload, download):
        with pytest.raises(OSError, match="5 other entries"):
            one(session, source, tmp_path / f"{one.__name__}", on_error="continue")


def test_on_error_continue_skips_what_the_target_refuses(copy: Copy, tmp_path: Path) -> None:
    """A folder that stands where a file goes, or a file where a folder goes, is one failure."""
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "folder" / "deeper").mkdir(parents=True)
    (source / "folder" / "deeper" / "file").write_bytes(b"x")
    for name in ("one", "two"):
        (source / name).write_bytes(b"new")
    (target / "one").mkdir(parents=True)
    (target / "folder").write_bytes(b"in the way")
    with pytest.raises(SshTreeError) as caught:
        copy(source, target, on_error="continue", contents=True)
    names = {failure.filename for failure in caught.value.failures}
    assert names == {str(target / "one"), str(target / "folder")}
    assert (target / "two").read_bytes() == b"new"
    assert (target / "folder").read_bytes() == b"in the way"


def test_on_error_continue_of_a_single_file_is_its_own_error(copy: Copy, tmp_path: Path) -> None:
    """There is nothing to go on with."""
    with pytest.raises(FileNotFoundError) as caught:
        copy(tmp_path / "missing", tmp_path / "target", on_error="continue")
    assert not isinstance(caught.value, SshTreeError)


def test_on_error_continue_lists_a_folder_that_cannot_be_read(
    session: SftpSession, tmp_path: Path
) -> None:
    """An unreadable folder is one failure, and its neighbours are copied."""
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    source = tmp_path / "source"
    (source / "locked").mkdir(parents=True)
    (source / "locked").chmod(0)
    (source / "file").write_bytes(b"x")
    for one in (upload, download):
        with pytest.raises(SshTreeError) as caught:
            one(session, source, tmp_path / one.__name__, on_error="continue")
        assert [f.filename for f in caught.value.failures] == [str(source / "locked")]
        assert (tmp_path / one.__name__ / "file").read_bytes() == b"x"
    (source / "locked").chmod(0o700)


LINKS = {
    "to file": "file",
    "to folder": "folder",
    "dangling": "nowhere",
    "absolute": "/etc/hostname",
    "upwards": "../../..",
    "long": "x" * 150,
    "folder/inner": "../file",
}


def linked_tree(root: Path) -> Path:
    """Make a tree with every kind of link."""
    (root / "folder").mkdir(parents=True)
    (root / "file").write_bytes(b"x")
    for name, text in LINKS.items():
        (root / name).symlink_to(text)
    return root


def test_links_keep_copies_links_as_links(copy: Copy, tmp_path: Path) -> None:
    """Every link says over there what it says here, dangling or not; also a second time."""
    source, target = linked_tree(tmp_path / "source"), tmp_path / "target"
    for _ in range(2):
        copy(source, target, links="keep", contents=True)
        assert {name: os.readlink(target / name) for name in LINKS} == LINKS
        assert (target / "file").read_bytes() == b"x"
    assert not unfinished_files(tmp_path)


def test_links_keep_replaces_what_is_no_folder(copy: Copy, tmp_path: Path) -> None:
    """A file, or another link, gives way to the link; a folder does not."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    for name in ("file", "link"):
        (source / name).symlink_to("new")
    (target / "file").write_bytes(b"old")
    (target / "link").symlink_to("old")
    copy(source, target, links="keep", contents=True)
    assert [os.readlink(target / name) for name in ("file", "link")] == ["new", "new"]
    (source / "folder").symlink_to("new")
    (target / "folder").mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        copy(source, target, links="keep", contents=True)
    assert caught.value.filename == str(target / "folder")


@pytest.mark.parametrize("is_refused", [False, True])
@pytest.mark.parametrize("what", ["file", "link"])
def test_links_keep_without_posix_rename_leave_the_old_or_the_new(
    session: SftpSession,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    is_refused: bool,
) -> None:
    session.extensions.clear()
    source, target = tmp_path / "source", tmp_path / "target"
    for folder, text in ((source, "new"), (target, "old")):
        folder.mkdir()
        (folder / "link").symlink_to(text)
    (target / "old").write_bytes(b"old")
    if what == "file":
        (target / "old").replace(target / "link")
    names = sorted(os.listdir(target))
    rename = RemoteFiles.rename
    refused: List[bytes] = []

    async def refuse(self: RemoteFiles, old: bytes, new: bytes) -> None:
        if new.endswith(b"/link") and not refused:
            refused.append(old)
            raise Refused(protocol.FAILURE, "refused", new)
        await rename(self, old, new)

    if is_refused:
        monkeypatch.setattr(RemoteFiles, "rename", refuse)
        with pytest.raises(OSError, match="refused"):
            upload(session, source, target, links="keep", contents=True)
        if what == "file":
            assert (target / "link").read_bytes() == b"old"
        else:
            assert os.readlink(target / "link") == "old"
    else:
        upload(session, source, target, links="keep", contents=True)
        assert os.readlink(target / "link") == "new"
    assert sorted(os.listdir(target)) == names


@pytest.mark.parametrize("reverses", [False, True])
def test_links_keep_finds_out_the_servers_order_of_paths(tmp_path: Path, reverses: bool) -> None:
    """The two paths of SYMLINK go to OpenSSH the other way round than the protocol says."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "link").symlink_to("text")
    links: Dict[bytes, bytes] = {}

    def answer(kind: int, request_id: int, body: bytes) -> bytes:
        size = int.from_bytes(body[:4], "big")
        path = body[4 : 4 + size]
        if kind == protocol.SYMLINK:
            other = body[8 + size :]
            links.update({path: other} if reverses else {other: path})
        elif kind == protocol.REMOVE:
            links.pop(path)
        elif kind == protocol.LSTAT and path in links:
            return frame(protocol.ATTRS, request_id, attributes(0o120777))
        elif kind not in (protocol.MKDIR, protocol.SETSTAT):
            return status(request_id, protocol.NO_SUCH_FILE)
        return status(request_id, protocol.OK)

    with MadeUpServer(answer).ready() as session:
        upload(session, source, "/target", links="keep")
    assert links == {b"/target/link": b"text"}


def test_a_link_from_the_server_leads_nothing_outside(tmp_path: Path) -> None:
    """A hostile server's link is never written through, in this copy or the next."""
    outside, target = tmp_path / "outside", tmp_path / "target"
    outside.mkdir()

    def read_link(request_id: int, rest: bytes) -> bytes:
        name = name_entry(os.fsencode(outside), 0)
        return frame(protocol.NAME, request_id, b"\0\0\0\1" + name)

    Liar([(b"x", LINK, 0, b"")], read_link=read_link).download(target, links="keep")
    assert os.readlink(target / "x") == str(outside)
    Liar([(b"x", FOLDER, 0, b"")]).download(target, contents=True)
    assert (target / "x").is_dir() and not (target / "x").is_symlink()
    assert os.listdir(outside) == []


def test_update_downloads_only_what_differs(
    session: SftpSession, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files with the same size and time are passed over, whatever is in them."""
    monkeypatch.setattr(downloading, "MANY_FILES", 0)
    source, target = make_tree(tmp_path / "source"), tmp_path / "target"
    for shell in (None, Shell(home)):
        download(session, source, target, contents=True, shell=shell)
        kept = target / "mode 600"
        kept.write_bytes(b"abc")  # as long as it was
        os.utime(kept, (1, (source / "mode 600").stat().st_mtime))
        (source / "mode 444").chmod(0o644)  # whoever is not root may not write otherwise
        (source / "mode 444").write_bytes(b"new")
        (target / "large").write_bytes(b"broken")
        download(session, source, target, contents=True, update=True, shell=shell)
        assert kept.read_bytes() == b"abc"
        assert (target / "mode 444").read_bytes() == b"new"
        assert (target / "large").read_bytes() == (source / "large").read_bytes()


def test_update_of_a_single_file_passes_it_over(
    session: SftpSession, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same goes for a file alone, both ways."""
    for one in (upload, download):
        target = tmp_path / one.__name__
        one(session, file, target, update=True)
        before = target.stat().st_ino
        one(session, file, target, update=True)
        assert target.stat().st_ino == before
        one(session, file, target)
        assert target.stat().st_ino != before
