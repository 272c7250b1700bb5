"""Bytes and file objects in place of a local file."""

from __future__ import annotations

import codecs
import gzip
import hashlib
import io
import os
import tempfile
import threading
from pathlib import Path
from typing import Any, Callable, List

import pytest

from ssh_service import fleet
from ssh_service.copying import Progress
from ssh_service.copying.context import CopyContext
from ssh_service.copying.download_object import ObjectDownload
from ssh_service.copying.failures import Refused
from ssh_service.copying.local.descriptors import Descriptor, set_attributes
from ssh_service.copying.local.file_objects import content_of
from ssh_service.copying.options import Options
from ssh_service.copying.remote_files import RemoteFiles
from ssh_service.copying.running import local_end, run_copy
from ssh_service.copying.sftp import protocol
from ssh_service.copying.sftp.protocol import Attributes
from ssh_service.copying.sftp.session import SftpSession
from ssh_service.copying.sftp.time_limits import TimeLimits
from ssh_service.copying.upload_content import ContentUpload
from ssh_service.errors import SshConfigError, SshTransferError
from tests.common import PATIENCE
from tests.trees import unfinished_files

SIZES = [0, 1, 1000, 261_120, 261_121, 1_000_003]


def copy_from(session: SftpSession, value: Any, target: Any, **options: Any) -> None:
    _run(session, ContentUpload, value, target, True, options)


def copy_to(session: SftpSession, source: Any, value: Any, **options: Any) -> None:
    _run(session, ObjectDownload, value, source, False, options)


def _run(
    session: SftpSession, kind: Any, value: Any, path: Any, is_upload: bool, options: Any
) -> None:
    progress = options.pop("progress", None)
    content, checked = local_end(value, Options(**options).check(), is_upload)

    def begin(context: CopyContext) -> Any:
        return kind(context, content).run(os.fsencode(path))

    run_copy(session, begin, checked, TimeLimits.from_now(None, PATIENCE), progress)


class Trickle(io.RawIOBase):
    """A stream that gives and takes a few bytes at a time, and has no position."""

    def __init__(self, data: bytes = b"") -> None:
        super().__init__()
        self.data = data
        self.taken = b""

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = min(len(buffer), 70_000)
        piece, self.data = self.data[:count], self.data[count:]
        buffer[: len(piece)] = piece
        return len(piece)

    def write(self, data: Any) -> int:
        self.taken += bytes(data[:50_000])
        return min(len(data), 50_000)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, io.BytesIO, Trickle])
def test_content_becomes_the_file(
    session: SftpSession, kind: Callable[[bytes], Any], size: int, tmp_path: Path
) -> None:
    """Of any size, known or not; checked if asked."""
    data = os.urandom(min(size, 70_000)) * (size // 70_000 + 1)
    data = data[:size]
    copy_from(session, kind(data), tmp_path / "file", verify=True)
    assert (tmp_path / "file").read_bytes() == data and not unfinished_files(tmp_path)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", [io.BytesIO, Trickle])
def test_file_object_receives_the_file(
    session: SftpSession, kind: Callable[[], Any], size: int, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(hashlib.sha256(b"%d" % size).digest() * (size // 32 + 1))
    data = (tmp_path / "file").read_bytes()
    target = kind()
    copy_to(session, tmp_path / "file", target, verify=True)
    assert (target.taken if kind is Trickle else target.getvalue()) == data
    assert not target.closed


def test_objects_are_used_from_their_position_and_stay_open(
    session: SftpSession, tmp_path: Path
) -> None:
    """As `shutil.copyfileobj` does it."""
    with open(tmp_path / "source", "w+b") as file:
        file.write(b"header" + b"x" * 300_000)
        file.seek(6)
        copy_from(session, file, tmp_path / "there")
        assert not file.closed and file.tell() == 300_006
        file.seek(3)
        copy_to(session, tmp_path / "there", file)
        assert file.tell() == 300_003
        file.seek(0)
        assert file.read() == b"hea" + b"x" * 300_000 + b"xxx"
    assert (tmp_path / "there").read_bytes() == b"x" * 300_000


def test_pipes_and_compressed_files_are_sources(session: SftpSession, tmp_path: Path) -> None:
    """What has no size, and comes slowly."""
    reading, writing = os.pipe()

    def write() -> None:
        with open(writing, "wb") as pipe:
            for _ in range(20):
                pipe.write(b"y" * 30_000)

    writer = threading.Thread(target=write)
    writer.start()
    with open(reading, "rb") as pipe:
        copy_from(session, pipe, tmp_path / "piped")
    writer.join(PATIENCE)
    assert (tmp_path / "piped").read_bytes() == b"y" * 600_000
    with gzip.open(tmp_path / "file.gz", "wb") as packed:
        packed.write(b"z" * 500_000)
    with gzip.open(tmp_path / "file.gz", "rb") as packed:
        copy_from(session, packed, tmp_path / "unpacked")
    assert (tmp_path / "unpacked").read_bytes() == b"z" * 500_000


def test_new_file_has_the_default_mode_and_an_old_one_keeps_its(
    session: SftpSession, tmp_path: Path
) -> None:
    """Bytes have no mode and no time."""
    (tmp_path / "usual").write_bytes(b"")
    copy_from(session, b"data", tmp_path / "new")
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "usual").stat().st_mode
    (tmp_path / "old").write_bytes(b"old")
    (tmp_path / "old").chmod(0o640)
    copy_from(session, b"data", tmp_path / "old")
    assert (tmp_path / "old").stat().st_mode & 0o777 == 0o640


def test_progress_has_a_total_where_one_is_known(session: SftpSession, tmp_path: Path) -> None:
    for source, known in ((b"x" * 600_000, True), (Trickle(b"x" * 600_000), False)):
        seen: List[Progress] = []
        copy_from(session, source, tmp_path / "file", progress=seen.append, max_rate=2_000_000)
        assert seen[-1] == Progress(600_000, 600_000, 1, 1)
        assert (seen[0].bytes_total == 600_000) is known
    seen = []
    copy_to(session, tmp_path / "file", io.BytesIO(), progress=seen.append)
    assert seen[-1] == Progress(600_000, 600_000, 1, 1)


@pytest.mark.parametrize("name", ["", "folder", "folder/", "new/"])
def test_folder_is_no_target_for_content(session: SftpSession, name: str, tmp_path: Path) -> None:
    """Content has no name, so none is made up."""
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError, match="give the path of a file"):
        copy_from(session, b"data", f"{tmp_path}/{name}")
    with pytest.raises((IsADirectoryError, FileNotFoundError)):
        copy_to(session, f"{tmp_path}/{name}", io.BytesIO())


def test_object_that_fails_leaves_the_old_file(session: SftpSession, tmp_path: Path) -> None:
    """Its own exception is raised, and nothing unfinished stays."""

    class Failing(Trickle):
        def readinto(self, buffer: Any) -> int:
            if not self.data:
                raise LookupError("the source is gone")
            return super().readinto(buffer)

    (tmp_path / "file").write_bytes(b"old")
    for size in (0, 1000, 700_000):
        with pytest.raises(LookupError, match="gone"):
            copy_from(session, Failing(b"x" * size), tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"old" and not unfinished_files(tmp_path)
    (tmp_path / "large").write_bytes(b"x" * 700_000)

    class Full(Trickle):
        def write(self, data: Any) -> int:
            raise OSError(28, "no room")

    with pytest.raises(OSError, match="no room"):
        copy_to(session, tmp_path / "large", Full())

    class Wrong(Trickle):
        def write(self, data: Any) -> int:
            return -1

    with pytest.raises(SshTransferError, match="says that it has written -1 of"):
        copy_to(session, tmp_path / "large", Wrong())
    copy_from(session, b"new", tmp_path / "file")


@pytest.mark.parametrize("kind", [io.BytesIO, Trickle])
def test_file_that_is_written_in_place_needs_a_second_reading(
    session: SftpSession, kind: Callable[[bytes], Any], tmp_path: Path, monkeypatch: Any
) -> None:
    """An object without positions cannot give it: the old file stays as it is."""
    (tmp_path / "file").write_bytes(b"old")

    async def refuse(self: RemoteFiles, old: bytes, new: bytes) -> None:
        raise Refused(protocol.FAILURE, "", new)  # as for a mount point

    monkeypatch.setattr(RemoteFiles, "rename", refuse)
    source = kind(b"x" * 600_000)
    if kind is Trickle:
        with pytest.raises(SshTransferError, match="cannot seek"):
            copy_from(session, source, tmp_path / "file")
        assert (tmp_path / "file").read_bytes() == b"old"
    else:
        copy_from(session, source, tmp_path / "file", verify=True)
        assert (tmp_path / "file").read_bytes() == b"x" * 600_000
    assert not unfinished_files(tmp_path)


@pytest.mark.parametrize("result", [5, object(), ["a"]])
def test_a_file_object_that_reads_no_bytes_is_named(
    session: SftpSession, tmp_path: Path, result: Any
) -> None:
    class Odd:
        def read(self, size: int) -> Any:
            return result

    with pytest.raises(SshConfigError, match=r"whose read\(\) returns bytes, but that of Odd"):
        copy_from(session, Odd(), tmp_path / "file")
    assert not (tmp_path / "file").exists()


@pytest.mark.parametrize("result", ["x", b"1", 1.0])
def test_a_file_object_that_writes_no_number_is_named(
    session: SftpSession, tmp_path: Path, result: Any
) -> None:
    class Odd:
        def write(self, data: bytes) -> Any:
            return result

    (tmp_path / "file").write_bytes(b"data")
    with pytest.raises(SshConfigError, match=r"whose write\(\) returns the number .* of Odd"):
        copy_to(session, tmp_path / "file", Odd())


@pytest.mark.skipif(not hasattr(os, "O_PATH"), reason="needs O_PATH")
def test_what_cannot_be_read_is_the_reason_why_its_mode_stays(tmp_path: Path) -> None:
    descriptor = Descriptor()
    descriptor.open(os.fsencode(str(tmp_path)), os.O_PATH)
    error = set_attributes(descriptor.fd, Attributes(mode=0o700))
    descriptor.close()
    assert "the folder cannot be opened for reading" in str(error)


@pytest.mark.parametrize("is_upload", [True, False])
def test_text_files_are_refused(is_upload: bool, tmp_path: Path) -> None:
    """Before anything is sent; the message says what to do."""
    (tmp_path / "file").write_text("text")
    with open(tmp_path / "file", "r+", encoding="utf-8") as text:
        for file in (text, io.StringIO()):
            with pytest.raises(SshConfigError, match="local_path: .*binary mode"):
                content_of("local_path", file, is_upload)
    with tempfile.NamedTemporaryFile("w+") as temporary:
        with pytest.raises(SshConfigError, match="binary mode"):
            content_of("local_path", temporary, is_upload)
    if is_upload:
        ways = codecs.lookup("utf-8")
        with codecs.StreamReaderWriter(
            open(tmp_path / "file", "rb"), ways.streamreader, ways.streamwriter
        ) as decoded:
            with pytest.raises(SshConfigError, match="binary mode"):
                content_of("local_path", decoded, is_upload)


def test_objects_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"data")
    with open(tmp_path / "file", "rb") as file:
        with pytest.raises(SshConfigError, match="not writable"):
            content_of("local_path", file, False)
    with pytest.raises(SshConfigError, match="closed"):
        content_of("local_path", file, True)
    with open(tmp_path / "file", "ab") as log:
        with pytest.raises(SshConfigError, match="not readable"):
            content_of("local_path", log, True)
    for value in (None, 1, ["a"], object()):
        with pytest.raises(SshConfigError, match="local_path: expected one path"):
            local_end(value, Options(), True)


@pytest.mark.parametrize(
    "options",
    [
        {"resume": True},
        {"update": True},
        {"contents": True},
        {"dry_run": True},
        {"preserve": True},
    ],
    ids=str,
)
def test_options_that_need_a_path_are_refused(options: Any) -> None:
    for value, is_upload in ((b"x", True), (io.BytesIO(), True), (io.BytesIO(), False)):
        with pytest.raises(SshConfigError, match=f"{next(iter(options))}=True needs a local path"):
            local_end(value, Options(**options).check(), is_upload)


def test_fleet_takes_bytes_but_no_file_objects() -> None:
    """Many hosts cannot read one object; workers cannot be given it."""
    for copy in (fleet.upload, fleet.download):
        with pytest.raises(SshConfigError, match="file object"):
            paths = (io.BytesIO(), "x") if copy is fleet.upload else ("x", io.BytesIO())
            copy(["a"], *paths)
    with pytest.raises(SshConfigError, match="update=True needs a local path"):
        fleet.upload(["a"], b"content", "x", update=True)
