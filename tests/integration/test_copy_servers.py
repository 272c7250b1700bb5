"""Made-up servers with the faults of real ones: copies arrive all the same."""

from __future__ import annotations

import os
import stat
import struct
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, Iterator, List, Tuple

import pytest

from ssh_service.copying import (
    Meter,
    Options,
    TimeLimits,
    channels,
    remote_files,
    replies,
    running,
)
from ssh_service.copying.sftp import encode, protocol
from ssh_service.copying.sftp.handles import OpenHandles
from ssh_service.copying.sftp.reply import Reply
from ssh_service.copying.sftp.session import SftpSession
from tests.common import PATIENCE, in_threads
from tests.integration.sftp_processes import real_session
from tests.trees import describe, many_files
from tests.unit.sftp_harness import (
    MadeUpServer,
    attributes,
    download,
    frame,
    status,
    string,
    upload,
)


class Erlang:
    """
    A server that numbers its handles as Erlang/OTP 25 does, with files in memory.

    The number of a new handle is found in one pass over those that are open, the newest first;
    where they do not lie in order, it is one that is in use.
    """

    def __init__(self) -> None:
        self.files: Dict[bytes, bytes] = {}
        self.folders = {b"/"}
        self.open: List[Tuple[int, bytes]] = []
        self.most_open = 0
        self.servers: List[MadeUpServer] = []

    def connect(self) -> MadeUpServer:
        self.open = []
        self.servers.append(MadeUpServer(self.answer, {protocol.POSIX_RENAME: b"1"}))
        return self.servers[-1]

    def number(self) -> int:
        number = 0
        for used, _ in self.open:
            if used <= number:
                number = used + 1
        return number

    def answer(self, kind: int, request_id: int, body: bytes) -> bytes:
        (size,) = struct.unpack_from(">I", body)
        path, rest = body[4 : 4 + size], body[4 + size :]
        if kind in (protocol.OPEN, protocol.OPENDIR):
            if kind == protocol.OPENDIR and path not in self.folders:
                return status(request_id, protocol.NO_SUCH_FILE)
            number = self.number()
            self.open.insert(0, (number, path))
            self.most_open = max(self.most_open, len(self.open))
            if kind == protocol.OPEN:
                self.files[path] = b""
            return frame(protocol.HANDLE, request_id, string(b"%d" % number))
        if kind in (protocol.CLOSE, protocol.WRITE):
            entry = next(entry for entry in self.open if b"%d" % entry[0] == path)
            if kind == protocol.CLOSE:
                self.open.remove(entry)
            else:
                self.files[entry[1]] += rest[12:]
            return status(request_id, protocol.OK)
        if kind == protocol.MKDIR:
            self.folders.add(path)
        elif kind == protocol.REMOVE:
            self.files.pop(path, None)
        elif kind == protocol.EXTENDED:
            (size,) = struct.unpack_from(">I", rest)
            self.files[rest[8 + size :]] = self.files.pop(rest[4 : 4 + size])
        elif kind == protocol.FSTAT:
            return self.describe(request_id, dict(self.numbered())[path])
        elif kind in (protocol.STAT, protocol.LSTAT):
            return self.describe(request_id, path)
        elif kind == protocol.READDIR:
            return status(request_id, protocol.EOF)
        elif kind == protocol.REALPATH:
            return status(request_id, protocol.OP_UNSUPPORTED)
        return status(request_id, protocol.OK)

    def numbered(self) -> List[Tuple[bytes, bytes]]:
        return [(b"%d" % number, path) for number, path in self.open]

    def describe(self, request_id: int, path: bytes) -> bytes:
        if path in self.folders:
            return frame(protocol.ATTRS, request_id, struct.pack(">II", 4, stat.S_IFDIR | 0o755))
        if path in self.files:
            return frame(protocol.ATTRS, request_id, struct.pack(">II", 4, stat.S_IFREG | 0o644))
        return status(request_id, protocol.NO_SUCH_FILE)


def transport_to(server: Erlang, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give what stands for a connection to it."""

    def open_once(transport: Any, limits: TimeLimits) -> Any:
        made = server.connect()
        running_session = made.ready()
        return running_session.__enter__()

    monkeypatch.setattr(channels, "_open_once", open_once)
    monkeypatch.setattr(
        running, "start_command", lambda transport, command, process: process.on_exit(None)
    )
    return SimpleNamespace(extras={}, connection_id="me@erlang:22")


@pytest.fixture(name="source")
def tree(tmp_path: Path) -> Path:
    """Make a tree of 30 files in three folders."""
    source = tmp_path / "source"
    for folder in "abc":
        (source / folder).mkdir(parents=True)
        for number in range(10):
            (source / folder / str(number)).write_bytes(os.urandom(50))
    return source


def test_files_arrive_where_handles_are_given_twice(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy begins anew, one file at a time, and so do all others on that connection."""
    server = Erlang()
    transport = transport_to(server, monkeypatch)
    meters = [Meter(None), Meter(None)]

    def copy(number: int) -> None:
        target = b"/target%d" % number
        limits = TimeLimits.from_now(PATIENCE)
        running.copy("upload", transport, source, target, Options(), limits, meters[number])

    copy(0)
    assert len(server.servers) == 2
    assert transport.extras["sftp"].copy_lock is not None
    server.most_open = 0
    threads = [threading.Thread(target=copy, args=(1,))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert server.most_open <= 2
    for number in (0, 1):
        assert meters[number].reading == (30 * 50, 30)
        for path in source.rglob("[0-9]"):
            there = b"/target%d/%s" % (number, os.fsencode(path.relative_to(source)))
            assert server.files[there] == path.read_bytes()


@pytest.fixture(name="small")
def session_with_room_for_few(sftp_server: str, tmp_path: Path) -> Iterator[SftpSession]:
    """Give a session of a server that can hold a dozen files open, and does not say so."""
    wrapper = tmp_path / "small-server"
    wrapper.write_text(f'#!/bin/sh\nulimit -n 17\nexec {sftp_server} "$@"\n')
    wrapper.chmod(0o755)
    with real_session(str(wrapper), tmp_path) as session:
        session.limits = session.limits._replace(handles=0)
        yield session


@pytest.mark.parametrize("copy", [upload, download])
@pytest.mark.parametrize("folders", [1, 40])
def test_a_server_with_room_for_few_open_files_gets_all(
    copy: Any, small: SftpSession, tmp_path: Path, folders: int
) -> None:
    """An open that fails for want of room waits until another file is closed."""
    for number in range(folders):
        (tmp_path / "source").mkdir(exist_ok=True)
        many_files(tmp_path / "source" / str(number), 120 // folders, 300)
    copy(small, tmp_path / "source", tmp_path / "target", stall_timeout=20)
    assert describe(tmp_path / "target") == describe(tmp_path / "source")
    assert small.handles.count() == 0
    assert small.handles._limit < 20


@pytest.mark.parametrize("copy", [upload, download])
def test_many_copies_share_the_few_open_files_of_a_server(
    copy: Any, small: SftpSession, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(700_000))
    in_threads(20, lambda number: copy(small, source, tmp_path / f"target{number}"))
    for number in range(20):
        assert (tmp_path / f"target{number}").read_bytes() == source.read_bytes()


def test_few_open_files_are_shared_by_copies_that_have_not_looked_yet(
    small: SftpSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy that may open no file is patient, though the others do not know yet that they may."""
    (tmp_path / "source").write_bytes(os.urandom(700_000))
    refused, looked = threading.Event(), OpenHandles.on_opened

    def refuse(reply: Reply, path: bytes) -> Exception:
        refused.set()
        return replies.refusal(reply, path)

    def look_late(handles: OpenHandles, handle: bytes, path: bytes, reply: Reply) -> None:
        assert refused.wait(PATIENCE)
        looked(handles, handle, path, reply)

    monkeypatch.setattr(remote_files, "refusal", refuse)
    monkeypatch.setattr(OpenHandles, "on_opened", look_late)
    copy: Any = download
    in_threads(20, lambda number: copy(small, tmp_path / "source", tmp_path / f"{number}"))
    assert small.handles.count() == 0


def test_open_failure_without_handle_shortage_is_raised(
    small: SftpSession, tmp_path: Path
) -> None:
    """It is retried while other files are open, but not without end."""
    many_files(tmp_path / "source", 8, 300)
    (tmp_path / "target").mkdir()
    original = encode.open_file

    def refuse(request_id: int, path: bytes, *rest: Any) -> Any:
        return original(request_id, path + b"/" if path.endswith(b"/5") else path, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encode, "open_file", refuse)
        with pytest.raises(OSError, match="source/5"):
            download(small, tmp_path / "source", tmp_path / "target")
    assert small.handles._limit == 100


class Rclone:
    """
    A server with one file, which reports its times as `rclone serve sftp` with a cache does.

    From the first read until the file is closed, it is the time of the copy in the cache.
    """

    SIZE, MTIME = 1_000_000, 1_600_000_000

    def __init__(self, changed: Tuple[int, int] = (0, 0)) -> None:
        self.is_read = False
        self.changed = changed  # by how much its size and time differ in the end

    def answer(self, kind: int, request_id: int, body: bytes) -> bytes:
        if kind == protocol.OPEN:
            return frame(protocol.HANDLE, request_id, string(b"h"))
        if kind == protocol.READ:
            self.is_read = True
            offset, size = struct.unpack(">QI", body[-12:])
            return frame(protocol.DATA, request_id, string(bytes(min(size, self.SIZE - offset))))
        if kind == protocol.CLOSE:
            self.is_read = False
        if kind == protocol.FSTAT:
            mtime = self.MTIME + 1000 * self.is_read
            return frame(protocol.ATTRS, request_id, attributes(0o100644, self.SIZE, mtime))
        if kind == protocol.STAT:
            size, mtime = self.SIZE + self.changed[0], self.MTIME + self.changed[1]
            return frame(protocol.ATTRS, request_id, attributes(0o100644, size, mtime))
        return status(request_id, protocol.OK)


def test_download_of_a_file_whose_time_moves_only_while_it_is_read(tmp_path: Path) -> None:
    """It has not changed: once it is closed, its time is what it was."""
    with MadeUpServer(Rclone().answer).ready() as session:
        download(session, "/file", tmp_path / "file")
    assert (tmp_path / "file").stat().st_size == Rclone.SIZE
    assert (tmp_path / "file").stat().st_mtime == Rclone.MTIME


@pytest.mark.parametrize("changed", [(0, 5), (5, 0), (-5, 0)])
def test_download_of_a_file_that_differs_once_it_is_closed_fails(
    changed: Tuple[int, int], tmp_path: Path
) -> None:
    """Growth too: what was there before has another time."""
    with MadeUpServer(Rclone(changed).answer).ready() as session:
        with pytest.raises(OSError, match="changed"):
            download(session, "/file", tmp_path / "file")
    assert os.listdir(tmp_path) == []
