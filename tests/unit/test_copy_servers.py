"""Servers that nobody here wrote: what they get wrong, made up, and copies that arrive."""

from __future__ import annotations

import os
import stat
import struct
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, List, Tuple

import pytest

from ssh_service.copying import Meter, Options, TimeLimits, channels, running
from ssh_service.copying.sftp import protocol
from tests.common import PATIENCE
from tests.unit.sftp_harness import MadeUpServer, frame, status, string


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
        running, "start_command", lambda transport, command, process: process.ended(None)
    )
    return SimpleNamespace(beside={}, connection_id="me@erlang:22")


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
    assert transport.beside["sftp"].alone is not None
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
