"""Files that `SshPath.open` opens on a real server."""

from __future__ import annotations

import gc
import io
import os
import warnings
from pathlib import Path
from typing import Any, Callable, List

import pytest

from ssh_service import Host, SshClientCache, SshConfigError, SshConnectionLost, SshPath
from ssh_service.copying.sftp import encode
from ssh_service.testing.fault_proxy import FaultProxy
from ssh_service.testing.pytest_plugin import Sshd
from tests.common import eventually, in_threads


@pytest.fixture
def web(sshd: Sshd, cache: SshClientCache) -> Host:
    return Host(sshd.connect_params, cache=cache)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def there(web: Host, here: Path) -> SshPath:
    return web.path(here)


def edit(file: Any, mode: str) -> List[Any]:
    """Do with an open file whatever its mode allows, and return what is seen."""
    seen: List[Any] = [file.tell(), file.readable(), file.writable(), file.seekable()]
    if file.readable():
        seen += [file.read(3), file.tell(), file.read()]
        file.seek(2)
        seen.append(file.readline())
    if file.writable():
        seen.append(file.write(b"new\n" if "b" in mode else "new\n"))
        file.flush()
        seen.append(file.seek(0, os.SEEK_END))
        file.write(b"end" if "b" in mode else "end")
        if file.readable():
            file.seek(0)
            seen.append(file.read())
        file.seek(1)
        seen.append(file.truncate(9))
    return seen


@pytest.mark.parametrize("letter", ["r", "w", "a", "x"])
def test_open_file_does_what_a_local_one_does(here: Path, there: SshPath, letter: str) -> None:
    for kind in ("", "b", "+", "+b", "t"):
        mode = letter + kind
        for name in ("local", "remote"):
            (here / name).unlink() if (here / name).exists() else None
            if letter != "x":
                (here / name).write_text("0123456789\nold line\n")
        with (here / "local").open(mode, encoding=None if "b" in mode else "utf-8") as local:
            expected = edit(local, mode)
        with (there / "remote").open(mode) as remote:
            assert edit(remote, mode) == expected, mode
            assert remote.name == str(here / "remote") and not remote.closed
        assert remote.closed
        assert (here / "remote").read_bytes() == (here / "local").read_bytes(), mode
        with pytest.raises(ValueError, match="closed"):
            remote.tell()


def test_files_without_a_buffer_are_written_at_once(here: Path, there: SshPath) -> None:
    file: Any
    with (there / "file").open("w+b", buffering=0) as file:
        assert file.write(b"12345") == 5
        assert (here / "file").read_bytes() == b"12345"
        file.seek(1)
        buffer = bytearray(3)
        assert file.readinto(buffer) == 3 and buffer == b"234"
        assert file.read(10) == b"5" and file.read(10) == b"" and file.readall() == b""
    with (there / "file").open("w", buffering=1) as text:
        text.write("line\n")
        text.write("rest")
        assert (here / "file").read_bytes() == b"line\n"
    assert (here / "file").read_bytes() == b"line\nrest"
    with (there / "file").open("rb") as file, pytest.raises(io.UnsupportedOperation):
        file.write(b"x")
    with (there / "file").open("ab", buffering=0) as file, pytest.raises(io.UnsupportedOperation):
        file.read()


@pytest.mark.parametrize(
    "arguments, why",
    [
        ({"mode": "rw"}, "mode: expected one of"),
        ({"mode": ""}, "mode: expected one of"),
        ({"mode": "r++"}, "mode: expected one of"),
        ({"mode": None}, "mode: expected one of"),
        ({"mode": "rbt"}, "expected 'b' or 't', not both"),
        ({"mode": "rb", "encoding": "utf-8"}, "encoding: expected None in the binary mode 'rb'"),
        ({"mode": "r", "buffering": 0}, "buffering: expected -1, 1 or a number of bytes for text"),
        ({"mode": "rb", "buffering": -2}, "buffering: expected -1"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_sent(arguments: Any, why: str) -> None:
    with pytest.raises(SshConfigError, match=why):
        Host("nowhere.invalid").path("x").open(**arguments)
    with pytest.raises((LookupError, ValueError)):
        Host("nowhere.invalid").path("x").open(encoding="no-such-encoding")


def test_reader_asks_ahead_and_writer_does_not_wait(
    here: Path, there: SshPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large file takes a few round trips, not one for each piece of the program's."""
    from ssh_service.paths.remote_file import RemoteFile

    data = os.urandom(8_000_000)
    (here / "file").write_bytes(data)
    waits: List[int] = []
    wait_for = RemoteFile._wait_for

    def counted(file: RemoteFile, reply: Any) -> Any:
        ahead = sum(request.size for request in file._ahead)
        waits.append(max(ahead, file._behind_size))
        return wait_for(file, reply)

    monkeypatch.setattr(RemoteFile, "_wait_for", counted)
    pieces = []
    with (there / "file").open("rb") as file:
        while True:
            piece = file.read(10_000)
            if not piece:
                break
            pieces.append(piece)
    assert b"".join(pieces) == data
    assert len(waits) < 300 and max(waits) >= 3_000_000  # OpenSSH 8.4 gives 32 KiB at a time
    waits.clear()
    with (there / "copy").open("wb") as file:
        for start in range(0, len(data), 10_000):
            file.write(data[start : start + 10_000])
    assert (here / "copy").read_bytes() == data
    assert len(waits) < 300 and max(waits) >= 3_000_000


def test_reading_here_and_there_returns_the_right_bytes(here: Path, there: SshPath) -> None:
    data = os.urandom(2_000_000)
    (here / "file").write_bytes(data)
    with (there / "file").open("rb") as file:
        for offset in (1_500_000, 10, 0, 1_999_990, 700_000, 700_100, 3_000_000):
            assert file.seek(offset) == offset
            assert file.read(5000) == data[offset : offset + 5000]
        file.seek(-100, os.SEEK_END)
        assert file.read() == data[-100:]
        with (here / "file").open("ab") as local:
            local.write(b"grown")
        assert file.read() == b"grown"


def test_appends_of_several_writers_are_all_kept(here: Path, there: SshPath) -> None:
    def work(number: int) -> None:
        with (there / "log").open("a") as file:
            for turn in range(20):
                file.write(f"{number} {turn}\n")
                file.flush()

    (here / "log").write_text("")
    in_threads(4, work)
    lines = (here / "log").read_text().splitlines()
    assert sorted(lines) == sorted(f"{n} {turn}" for n in range(4) for turn in range(20))


def test_append_goes_to_the_end_wherever_the_position_was(here: Path, there: SshPath) -> None:
    """And the position is there afterwards, as truncate() without a size tells."""
    for root in (here, there):
        (root / "log").write_bytes(b"12345")
        with (root / "log").open("ab") as file:
            file.seek(1000)
            file.write(b"6")
            file.flush()
            assert (file.tell(), file.truncate(), file.truncate(3)) == (6, 6, 3)
            file.write(b"end")
        assert (root / "log").read_bytes() == b"123end"


def test_threads_share_a_file_of_bytes(here: Path, there: SshPath) -> None:
    (here / "file").write_bytes(bytes(3_000_000))
    got: List[bytes] = []
    with (there / "file").open("rb", buffering=0) as file:
        in_threads(4, lambda number: got.extend(iter(lambda: file.read(50_000), b"")))
    assert sum(map(len, got)) == 3_000_000


def test_full_disk_is_told_by_the_writer(there: SshPath, web: Host) -> None:
    if not web.path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    file = web.path("/dev/full").open("wb")
    file.write(b"x")
    with pytest.raises(OSError, match="/dev/full"):
        file.flush()
    file.write(b"x")
    with pytest.raises(OSError, match="/dev/full"):
        file.close()
    assert file.closed


def test_lost_connection_is_told_by_reader_and_writer(
    sshd: Sshd, cache: SshClientCache, here: Path, fault_proxy: Callable[..., FaultProxy]
) -> None:
    (here / "file").write_bytes(bytes(100_000))
    with fault_proxy(sshd) as proxy:
        there = Host(proxy.connect_params, cache=cache).path(here)
        reader, writer = (there / "file").open("rb"), (there / "new").open("wb")
        writer.write(b"x")
        proxy.cut()
        with pytest.raises(SshConnectionLost, match="while using '.*file'"):
            reader.read()
        with pytest.raises(SshConnectionLost, match="while using '.*new'"):
            writer.flush()
        reader.close()  # nothing was to be written
        with pytest.raises(SshConnectionLost):
            writer.close()
        assert reader.closed and writer.closed
    eventually(lambda: cache.stats()["leases"] == 0)


def test_open_file_keeps_the_connection_and_a_closed_one_does_not(
    cache: SshClientCache, here: Path, there: SshPath
) -> None:
    (here / "file").write_text("x")
    with (there / "file").open():
        assert cache.stats()["leases"] == 1
    assert cache.stats()["leases"] == 0


def test_dropped_file_is_closed_with_a_warning(
    cache: SshClientCache, here: Path, there: SshPath, caplog: pytest.LogCaptureFixture
) -> None:
    """On a worker thread: the garbage collector may run while any lock is held."""
    for mode, buffering in (("w", -1), ("wb", -1), ("w+b", -1), ("wb", 0)):
        with warnings.catch_warnings():
            warnings.simplefilter("error", ResourceWarning)
            file = (there / "file").open(mode, buffering)
            file.write("x" if mode == "w" else b"x")
            del file
            gc.collect()
            eventually(lambda: cache.stats()["leases"] == 0)
        assert (here / "file").read_text() == "x"
        assert "was not closed" in caplog.text
        caplog.clear()


def test_interrupted_file_goes_on_after_an_interruption(
    here: Path, there: SshPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while a request is made: the next read asks again; a torn write is told."""
    data = os.urandom(1_000_000)
    (here / "file").write_bytes(data)
    original = encode.read

    def interrupted(*args: Any) -> bytes:
        monkeypatch.setattr(encode, "read", original)
        raise KeyboardInterrupt

    with (there / "file").open("rb") as file:
        assert file.read(100) == data[:100]
        file.seek(500_000)
        monkeypatch.setattr(encode, "read", interrupted)
        with pytest.raises(KeyboardInterrupt):
            file.read(200_000)
        file.seek(500_000)
        assert file.read() == data[500_000:]
    write = encode.write

    def interrupted_write(*args: Any) -> bytes:
        monkeypatch.setattr(encode, "write", write)
        raise KeyboardInterrupt

    file = (there / "new").open("wb", buffering=0)
    monkeypatch.setattr(encode, "write", interrupted_write)
    with pytest.raises(KeyboardInterrupt):
        file.write(bytes(10))
    assert file.write(b"after") == 5
    file.close()
    assert (there / "file").read_bytes() == data  # the session is replaced
