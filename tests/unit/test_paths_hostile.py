"""Listings of a hostile server, as `SshPath` reads them."""

from __future__ import annotations

import errno
import struct
from typing import Any, List

import pytest

from ssh_service.copying import run_copy
from ssh_service.copying.options import Options
from ssh_service.copying.sftp import protocol
from ssh_service.errors import SshTransferError
from ssh_service.paths import listing
from tests.unit.sftp_harness import MadeUpServer, attributes, frame, status, string

FOLDER, FILE = 0o040755, 0o100644


def names(request_id: int, entries: List[Any]) -> bytes:
    rows = [string(name) + string(b"") + attributes(mode) for name, mode in entries]
    return frame(protocol.NAME, request_id, struct.pack(">I", len(rows)) + b"".join(rows))


def server(entries: List[Any], endless: bool = False) -> MadeUpServer:
    """Return a server on which every folder has these entries."""
    listed = set()

    def answer(kind: int, request_id: int, body: bytes) -> bytes:
        if kind == protocol.OPENDIR:
            return frame(protocol.HANDLE, request_id, string(b"%d" % request_id))
        if kind == protocol.READDIR and (endless or body not in listed):
            listed.add(body)
            return names(request_id, entries)
        if kind in (protocol.STAT, protocol.LSTAT):
            return frame(protocol.ATTRS, request_id, attributes(FOLDER))
        code = protocol.EOF if kind == protocol.READDIR else protocol.OK
        return status(request_id, code)

    return MadeUpServer(answer)


def search(made_up: MadeUpServer, pattern: str) -> List[Any]:
    found: List[Any] = []

    async def run(context: Any) -> None:
        parts = listing.parse_pattern(pattern)
        found.extend(await listing.find_matches(context, b"/srv", parts))

    with made_up.ready() as session:
        run_copy(session, run, Options())
    return found


@pytest.mark.parametrize("name", [b"a/b", b"../x", b"", b"a\0b"])
def test_name_that_leads_elsewhere_is_refused(name: bytes) -> None:
    """A path that is removed, or written, is always in the folder that was listed."""
    with pytest.raises(SshTransferError, match="invalid file name"):
        search(server([(b"good", FILE), (name, FILE)]), "*")
    assert search(server([(b"good", FILE), (b".", FOLDER), (b"..", FOLDER)]), "*") == [("good",)]


def test_endless_listings_and_trees_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MAX_ENTRIES", 1000)
    with pytest.raises(SshTransferError) as caught:
        search(server([(b"file", FILE)] * 100, endless=True), "*")
    assert caught.value.errno == errno.E2BIG
    with pytest.raises(SshTransferError) as caught:
        search(server([(b"%d" % number, FOLDER) for number in range(10)]), "**/x")
    assert caught.value.errno == errno.E2BIG
    monkeypatch.setattr(listing, "MAX_LEVELS", 20)
    with pytest.raises(SshTransferError) as caught:
        search(server([(b"a", FOLDER)]), "**/x")
    assert caught.value.errno == errno.ELOOP
