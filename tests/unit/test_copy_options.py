"""The options of copies: what each does, by SFTP and in a stream, and which are refused."""

from __future__ import annotations

import functools
import inspect
import logging
import os
import stat
from pathlib import Path
from typing import Any, Callable, Dict

import pytest

from ssh_service import copying, fleet, verbs
from ssh_service.copying import downloading, upload_stream
from ssh_service.copying.failures import copy_error
from ssh_service.copying.local.descriptors import current_umask
from ssh_service.copying.options import Options
from ssh_service.copying.sftp import protocol
from ssh_service.copying.sftp.session import SftpSession
from ssh_service.copying.sftp.time_limits import Stalled, TimeLimits, TimeUp
from ssh_service.errors import SshConfigError, SshTransferTimeout
from tests.unit.sftp_harness import (
    MadeUpServer,
    Shell,
    attributes,
    download,
    frame,
    status,
    upload,
)
from tests.unit.trees import describe, make_tree

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
    [copying.upload, copying.download, verbs.upload, verbs.download, fleet.upload, fleet.download],
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

    def answer(kind: int, request_id: int, body: bytes) -> bytes:
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
    """What other copies send over the same session is no progress of this one."""
    with MadeUpServer(lambda *_: b"").ready() as session:
        other = copying.running.Lane(session)

        def meanwhile(*_: Any) -> None:
            session.put(b"", [])
            session.sent += 1  # another copy's byte has left

        with other, pytest.raises(Stalled):
            timer = [0]

            class Moving(copying.running.Lane):
                def wait_for_news(self, timeout: Any) -> Any:
                    meanwhile()
                    timer[0] += 1
                    assert timer[0] < 10, "kept alive by another copy"
                    return super().wait_for_news(timeout)

            with Moving(session) as lane:
                lane.ask(lambda number: frame(protocol.STAT, number, b""))
                lane.flush()
                lane.collect(0.05)


# Modes and times.


def test_modes_come_down_without_setuid_and_strangers_write(copy: Copy, tmp_path: Path) -> None:
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
    """With ``preserve=False`` what is new is as new files are; what is replaced keeps its mode."""
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
    """``contents=True`` fills the target whether or not it exists, and nests nothing."""
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


def test_modes_that_are_refused_are_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
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
        return status(request_id, protocol.OK)

    with MadeUpServer(answer).ready() as session:
        with caplog.at_level(logging.WARNING, "ssh_service.copying"):
            upload(session, source, "/target")
        assert len([r for r in caplog.records if "modes and times" in r.message]) == 1
        with pytest.raises(PermissionError):
            upload(session, source, "/target", preserve=True)
