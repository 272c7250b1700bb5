"""Downloads from hostile servers: nothing outside the target, nothing without bound."""

from __future__ import annotations

import errno
import itertools
import os
import resource
import struct
import traceback
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

import pytest

from ssh_service.copying import listing, pipeline
from ssh_service.copying.sftp import protocol
from ssh_service.copying.sftp.protocol import ProtocolError
from ssh_service.copying.sftp.time_limits import Stalled
from ssh_service.errors import SshTransferError
from tests.unit.sftp_harness import MadeUpServer, attributes, download, frame, status, string

FOLDER, FILE, LINK, FIFO = 0o40755, 0o100644, 0o120777, 0o10644


def name_entry(name: bytes, mode: int, size: int = 0) -> bytes:
    return string(name) + string(b"") + attributes(mode, size)


class Liar:
    """A server with a folder ``/tree`` whose entries, sizes and contents are made up."""

    def __init__(self, entries: Any = (), **replaced: Callable[[int, bytes], bytes]) -> None:
        # Each entry: name, mode, size, content.
        self.entries: Iterator[Tuple[bytes, int, int, bytes]] = iter(entries)
        self.contents: Dict[bytes, Tuple[int, int, bytes]] = {}
        self.replaced = replaced
        self.server = MadeUpServer(self.answer)

    def answer(self, kind: int, request_id: int, rest: bytes) -> bytes:
        replace = self.replaced.get(NAMES.get(kind, ""))
        if replace is not None:
            return replace(request_id, rest)
        (size,) = struct.unpack_from(">I", rest)
        path = rest[4 : 4 + size]
        if kind in (protocol.STAT, protocol.LSTAT, protocol.FSTAT):
            mode, size, _ = self.contents.get(path, (FOLDER, 0, b""))
            return frame(protocol.ATTRS, request_id, attributes(mode, size))
        if kind == protocol.REALPATH:
            return frame(protocol.NAME, request_id, struct.pack(">I", 1) + name_entry(path, 0))
        if kind in (protocol.OPENDIR, protocol.OPEN):
            return frame(protocol.HANDLE, request_id, string(path))
        if kind == protocol.READDIR:
            return self.list(request_id, path)
        if kind == protocol.READ:
            offset, count = struct.unpack_from(">QI", rest, 4 + size)
            if path not in self.contents:
                return status(request_id, protocol.NO_SUCH_FILE)
            data = self.contents[path][2][offset : offset + count]
            if not data:
                return status(request_id, protocol.EOF)
            return frame(protocol.DATA, request_id, string(data))
        return status(request_id, protocol.OK)

    def list(self, request_id: int, folder: bytes) -> bytes:
        batch = list(itertools.islice(self.entries, 100))
        if not batch:
            return status(request_id, protocol.EOF)
        for name, mode, size, content in batch:
            self.contents[folder + b"/" + name] = (mode, size, content)
        body = b"".join(name_entry(name, mode, size) for name, mode, size, _ in batch)
        return frame(protocol.NAME, request_id, struct.pack(">I", len(batch)) + body)

    def download(self, target: Path, source: str = "/tree", **options: Any) -> None:
        with self.server.ready() as session:
            download(session, source, target, **options)


NAMES = {
    protocol.READ: "read",
    protocol.STAT: "stat",
    protocol.FSTAT: "fstat",
    protocol.READDIR: "list",
    protocol.REALPATH: "real_path",
    protocol.OPEN: "open",
    protocol.READLINK: "read_link",
}


def test_tampered_sftp_server_works_without_tampering(target: Path) -> None:
    Liar([(b"file", FILE, 4, b"data"), (b"folder", FOLDER, 0, b"")]).download(target)
    assert (target / "file").read_bytes() == b"data"
    assert (target / "folder").is_dir()


@pytest.mark.parametrize(
    "name",
    [b"../precious", b"/etc/x", b"a/b", b"folder/../../precious", b"", b"nul\0", b"x" * 256],
)
@pytest.mark.parametrize("mode", [FILE, FOLDER, LINK])
def test_invalid_file_name_from_the_server_is_refused(
    target: Path, name: bytes, mode: int
) -> None:
    with pytest.raises(SshTransferError):
        Liar([(b"good", FILE, 1, b"x"), (name, mode, 1, b"x")]).download(target)
    assert os.listdir(target) == ["good"]


def test_listing_skips_dot_and_dot_dot(target: Path) -> None:
    Liar([(b".", FOLDER, 0, b""), (b"..", FOLDER, 0, b""), (b"a", FILE, 0, b"")]).download(target)
    assert os.listdir(target) == ["a"]


class EmptyFolder(Liar):
    """An empty folder ``/tree``, and what the server says of ``/tree/.``."""

    def __init__(self, code: int, entries: Any = ()) -> None:
        super().__init__(entries)
        self.code = code
        self.checks = 0

    def answer(self, kind: int, request_id: int, rest: bytes) -> bytes:
        if kind == protocol.LSTAT and rest[4:] == b"/tree/.":
            self.checks += 1
            if self.code != protocol.OK:
                return status(request_id, self.code)
        return super().answer(kind, request_id, rest)


@pytest.mark.parametrize(
    "code", [protocol.PERMISSION_DENIED, protocol.BAD_MESSAGE, protocol.FAILURE]
)
def test_empty_listing_of_a_folder_that_cannot_be_entered_is_an_error(
    target: Path, code: int
) -> None:
    with pytest.raises(SshTransferError) as caught:
        EmptyFolder(code).download(target)
    assert caught.value.filename == "/tree" and caught.value.side == "remote"
    assert isinstance(caught.value, PermissionError) == (code == protocol.PERMISSION_DENIED)


@pytest.mark.parametrize("code", [protocol.OK, protocol.NO_SUCH_FILE, protocol.OP_UNSUPPORTED])
def test_empty_folder_is_copied_if_the_server_never_lists_dot(target: Path, code: int) -> None:
    server = EmptyFolder(code)
    server.download(target)
    assert os.listdir(target) == [] and server.checks == 1


@pytest.mark.parametrize("name", [b".", b"file"])
def test_listing_with_any_entry_needs_no_more_requests(target: Path, name: bytes) -> None:
    server = EmptyFolder(protocol.OK, [(name, FOLDER if name == b"." else FILE, 0, b"")])
    server.download(target)
    assert not server.checks


class ShortHandles(Liar):
    def answer(self, kind: int, request_id: int, rest: bytes) -> bytes:
        if kind == protocol.OPENDIR:
            return frame(protocol.HANDLE, request_id, string(b"handle"))
        return super().answer(kind, request_id, rest)


def test_folder_whose_path_is_too_long_to_list_all_of_it_is_an_error(target: Path) -> None:
    """The server of OpenSSH leaves out entries with which it has more than 4095 bytes."""
    source = ("/" + "d" * 239) * 16
    assert len(source) == 3840
    with pytest.raises(SshTransferError) as caught:
        ShortHandles([(b".", FOLDER, 0, b"")]).download(target, source)
    assert caught.value.errno == errno.ENAMETOOLONG and caught.value.filename == source
    ShortHandles([(b".", FOLDER, 0, b"")]).download(target, source[:-1], contents=True)


@pytest.mark.parametrize("second", [FILE, FOLDER, LINK])
def test_a_name_that_comes_twice_is_refused(target: Path, second: int) -> None:
    with pytest.raises(OSError, match="twice"):
        Liar([(b"a", FILE, 0, b""), (b"a", second, 0, b"")]).download(target)


def test_invalid_path_from_the_server_is_refused(target: Path) -> None:
    target.mkdir()

    def real_path(request_id: int, rest: bytes) -> bytes:
        body = struct.pack(">I", 1) + name_entry(b"/x/..", 0)
        return frame(protocol.NAME, request_id, body)

    with pytest.raises(SshTransferError):
        Liar(real_path=real_path).download(target, "/tree/.")
    assert os.listdir(target) == []


def test_folders_without_end_end(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MAX_LEVELS", 20)
    endless = ((b"d", FOLDER, 0, b"") for _ in itertools.count())

    def list_one(request_id: int, rest: bytes) -> bytes:
        body = struct.pack(">I", 1) + name_entry(next(endless)[0], FOLDER)
        seen = rest not in listed
        listed.add(rest)
        return frame(protocol.NAME, request_id, body) if seen else status(request_id, protocol.EOF)

    listed: set = set()
    with pytest.raises(OSError, match="levels"):
        Liar(list=list_one).download(target)


def test_entries_without_end_end(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MAX_ENTRIES", 1000)
    many = ((b"%d" % number, FILE, 0, b"") for number in range(3000))
    with pytest.raises(OSError, match="more than 1000 entries") as caught:
        Liar(many).download(target)
    assert caught.value.errno == errno.E2BIG
    assert len(os.listdir(target)) <= 1000


def test_an_absurd_size_costs_no_memory(target: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(OSError, match="changed"):
        Liar([(b"huge", FILE, 1 << 63, b"only this")]).download(target)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024
    assert os.listdir(target) == []


def test_requests_in_flight_are_bounded_for_any_announced_size(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "_CLEANUP_TIMEOUT", 0.05)
    waiting: List[bytes] = []

    def hold_back(request_id: int, rest: bytes) -> bytes:
        waiting.append(rest)
        return b""

    liar = Liar([(b"huge", FILE, 1 << 40, b"")], read=hold_back)
    with pytest.raises(Stalled):
        liar.download(target, stall_timeout=0.2)
    assert 0 < len(waiting) <= 8 * 1024 * 1024 // protocol.SAFE_DATA_SIZE


def test_more_data_than_asked_for_is_refused(target: Path) -> None:
    def too_much(request_id: int, rest: bytes) -> bytes:
        return frame(protocol.DATA, request_id, string(bytes(200_000)))

    for size in (10, 1 << 20):
        with pytest.raises(ProtocolError):
            Liar([(b"file", FILE, size, b"x")], read=too_much).download(target)
    assert [name for name in os.listdir(target) if name != "tree"] == []


@pytest.mark.parametrize("verify", [False, True])
def test_less_data_than_asked_for_is_no_end(target: Path, verify: bool) -> None:
    content = os.urandom(300_000)

    def crumbs(request_id: int, rest: bytes) -> bytes:
        (size,) = struct.unpack_from(">I", rest)
        offset, count = struct.unpack_from(">QI", rest, 4 + size)
        data = content[offset : offset + min(count, 10_000)]
        return frame(protocol.DATA, request_id, string(data))

    liar = Liar([(b"file", FILE, len(content), b"")], read=crumbs)
    liar.download(target, verify=verify)
    assert (target / "file").read_bytes() == content


def test_empty_data_ends_a_file_without_size(target: Path) -> None:
    reads: List[int] = []

    def read(request_id: int, rest: bytes) -> bytes:
        offset, count = struct.unpack_from(">QI", rest, len(rest) - 12)
        reads.append(offset)
        if len(reads) > 10:
            raise AssertionError("it is read for ever")
        return frame(protocol.DATA, request_id, string(b"content"[offset : offset + count]))

    Liar([(b"cpuinfo", FILE, 0, b"")], read=read).download(target)
    assert (target / "cpuinfo").read_bytes() == b"content"


def test_a_file_that_never_ends_ends(target: Path) -> None:
    def endless(request_id: int, rest: bytes) -> bytes:
        return frame(protocol.DATA, request_id, string(bytes(32768)))

    with pytest.raises((SshTransferError, ProtocolError)):
        Liar([(b"file", FILE, 0, b"")], read=endless).download(target)
    assert not (target / "file").exists()


@pytest.mark.parametrize("mode", [FIFO, 0o60644, 0o20644, 0o140644])
def test_only_files_and_folders_are_made(target: Path, mode: int) -> None:
    with pytest.raises(OSError, match="not a regular file"):
        Liar([(b"special", mode, 0, b"")]).download(target)
    assert os.listdir(target) == []


@pytest.mark.parametrize("kind", ["stat", "list", "read", "fstat", "open"])
@pytest.mark.parametrize(
    "reply",
    [
        lambda request_id, rest: frame(protocol.HANDLE, request_id, b""),
        lambda request_id, rest: frame(77, request_id, b"what?"),
        lambda request_id, rest: frame(protocol.NAME, request_id, b"\xff\xff\xff\xff"),
        lambda request_id, rest: frame(protocol.ATTRS, request_id, b"\xff\xff\xff\xff"),
        lambda request_id, rest: frame(protocol.DATA, request_id, b"\xff\xff\xff\xff"),
        lambda request_id, rest: status(request_id, protocol.OK),
        lambda request_id, rest: status(request_id, 12345, b"\x1b[31mred"),
    ],
)
def test_malformed_reply_is_an_error_and_leaves_nothing(
    target: Path, kind: str, reply: Any
) -> None:
    liar = Liar([(b"file", FILE, 4, b"data")], **{kind: reply})
    with pytest.raises((SshTransferError, ProtocolError)) as caught:
        liar.download(target)
    error = caught.value
    assert "\x1b" not in "".join(traceback.format_exception(type(error), error, None))
    assert not (target / "file").exists()


def test_local_link_leading_out_is_replaced_not_followed(target: Path) -> None:
    """As with rsync: what the server has takes its place, and nothing outside is written."""
    (target / "tree").mkdir(parents=True)
    (target / "tree" / "file").symlink_to("../../precious")
    Liar([(b"file", FILE, 4, b"data")]).download(target)
    assert not (target / "tree" / "file").is_symlink()
    assert (target / "tree" / "file").read_bytes() == b"data"
    (target / "tree" / "folder").symlink_to("../..")
    deeper = iter([(b"folder", FOLDER, 0, b"")])

    def list_entries(request_id: int, rest: bytes) -> bytes:
        if rest.endswith(b"/folder"):
            entry = name_entry(b"precious", FILE, 4)
            return frame(protocol.NAME, request_id, struct.pack(">I", 1) + entry)
        for name, mode, _, _ in deeper:
            entry = name_entry(name, mode)
            return frame(protocol.NAME, request_id, struct.pack(">I", 1) + entry)
        return status(request_id, protocol.EOF)

    with pytest.raises(FileNotFoundError):  # the liar has no such file
        Liar(list=list_entries).download(target)
    assert not (target / "tree" / "folder").is_symlink()
    assert (target / "tree" / "folder").is_dir()


def test_a_local_link_that_stays_inside_is_followed(target: Path) -> None:
    (target / "tree" / "real").mkdir(parents=True)
    (target / "tree" / "file").symlink_to("real/file")
    Liar([(b"file", FILE, 4, b"data")]).download(target)
    assert (target / "tree" / "file").is_symlink()
    assert (target / "tree" / "real" / "file").read_bytes() == b"data"


def test_a_listing_of_nothing_but_the_folder_itself_ends(target: Path) -> None:
    """``.`` comes once in a folder, as every name does."""
    endless = ((b".", FOLDER, 0, b"") for _ in itertools.count())
    with pytest.raises(OSError, match="twice"):
        Liar(endless).download(target)


def test_folders_that_are_made_up_are_bounded(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folders wait in memory, so there may be fewer of them than files."""
    monkeypatch.setattr(listing, "MAX_FOLDERS", 500)
    entries = ((b"%d" % number, FOLDER, 0, b"") for number in range(1000))
    with pytest.raises(OSError, match="more than 500 folders"):
        Liar(entries).download(target)
