"""The removal of an unfinished tree on the server, which is bounded."""

from __future__ import annotations

import itertools
import os
import struct
import time
from typing import Any, Set

import pytest

from ssh_service.copying import removal, run_copy
from ssh_service.copying.options import Options
from ssh_service.copying.remote_owner import RemoteOwner
from ssh_service.copying.sftp import protocol
from ssh_service.copying.sftp.session import SftpSession
from tests.unit.sftp_harness import MadeUpServer, attributes, frame, status, string

FOLDER, FILE = 0o40700, 0o100644


@pytest.fixture(autouse=True)
def all_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RemoteOwner, "is_our_private_folder", lambda self, found: True)


def remove(session: SftpSession, path: Any) -> None:
    run_copy(session, lambda context: removal.remove_tree(context, os.fsencode(path)), Options())


class Endless:
    """A server with a tree that has no end: folders in folders, or one folder of them all."""

    def __init__(self, mode: int, lists_on: bool) -> None:
        self._mode = mode
        self._lists_on = lists_on
        self._numbers = itertools.count()
        self._listed: Set[bytes] = set()
        self.server = MadeUpServer(self.answer)

    def answer(self, kind: int, request_id: int, rest: bytes) -> bytes:
        (size,) = struct.unpack_from(">I", rest)
        path = rest[4 : 4 + size]
        if kind == protocol.LSTAT:
            return frame(protocol.ATTRS, request_id, attributes(FOLDER))
        if kind == protocol.OPENDIR:
            return frame(protocol.HANDLE, request_id, string(path[-200:]))
        if kind == protocol.READDIR and (self._lists_on or path not in self._listed):
            self._listed.add(path)
            entries = b"".join(
                string(b"%d" % next(self._numbers)) + string(b"") + attributes(self._mode)
                for _ in range(10)
            )
            return frame(protocol.NAME, request_id, struct.pack(">I", 10) + entries)
        return status(request_id, protocol.EOF if kind == protocol.READDIR else protocol.OK)


@pytest.mark.parametrize("lists_on", [True, False], ids=["wide", "deep"])
@pytest.mark.parametrize("mode", [FOLDER, FILE], ids=["folders", "files"])
@pytest.mark.parametrize("limit", ["_MAX_PATH_BYTES", "_TIMEOUT"])
def test_removal_of_a_tree_without_end_ends(
    monkeypatch: pytest.MonkeyPatch, mode: int, lists_on: bool, limit: str
) -> None:
    """A hostile server lists what it likes, and the copy waits for it."""
    monkeypatch.setattr(removal, limit, 100_000 if limit == "_MAX_PATH_BYTES" else 0.2)
    endless = Endless(mode, lists_on)
    with endless.server.ready() as session:
        began = time.monotonic()
        remove(session, "/unfinished")
        assert time.monotonic() - began < 20
    if limit == "_MAX_PATH_BYTES":
        assert len(endless.server.requests) < 30_000
