"""What replaces calls that Windows, PyPy or macOS lack, tried on this system."""

from __future__ import annotations

import builtins
import errno
import os
import select
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

from ssh_service.connect import proxy_command
from ssh_service.copying import (
    context,
    download_plan,
    downloading,
    listing,
    paths,
    temporary,
    upload_file,
    upload_merge,
    upload_stream,
)
from ssh_service.copying.local import descriptors, path_files, positions
from ssh_service.copying.local.descriptors import current_umask
from ssh_service.copying.sftp.session import SftpSession
from ssh_service.errors import SshTransferError
from ssh_service.forwarding import wakeups
from tests.common import PATIENCE
from tests.integration.sftp_processes import Shell
from tests.trees import unfinished_files
from tests.unit.sftp_harness import download, upload


@pytest.fixture(name="paths_only")
def without_descriptors_of_folders(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have copies use paths, as on Windows."""
    monkeypatch.setattr(path_files, "geteuid", os.geteuid)  # Windows reports one owner
    for name, module in list(sys.modules.items()):
        in_copying = name.startswith("ssh_service.copying.local.") or module in (
            downloading,
            download_plan,
        )
        if in_copying and getattr(module, "files", None) is os:
            monkeypatch.setattr(module, "files", path_files)
    yield
    assert not path_files._folders, "a folder was left open"


def _make_tree(folder: Path) -> Path:
    (folder / "inner" / "deep" / "empty").mkdir(parents=True)
    (folder / "a").write_bytes(b"")
    (folder / "grün b").write_bytes(b"content")
    (folder / "inner" / "large").write_bytes(os.urandom(400_000))
    (folder / "inner" / "link").symlink_to("large")
    for number in range(20):
        (folder / "inner" / "deep" / f"file{number}").write_bytes(b"%d" % number)
    return folder


def _contents(folder: Path) -> Any:
    return {
        path.relative_to(folder): path.is_dir() or path.read_bytes() for path in folder.rglob("*")
    }


@pytest.mark.parametrize("links", ["follow", "keep"])
def test_trees_are_copied_by_paths(
    session: SftpSession, paths_only: None, tmp_path: Path, links: str
) -> None:
    source = _make_tree(tmp_path / "source")
    upload(session, source, tmp_path / "there", links=links)
    download(session, tmp_path / "there", tmp_path / "back", links=links)
    assert _contents(tmp_path / "back") == _contents(source)


def test_a_tree_is_brought_up_to_date_by_paths(
    session: SftpSession, paths_only: None, tmp_path: Path
) -> None:
    source, target = _make_tree(tmp_path / "source"), tmp_path / "target"
    options = {"contents": True, "update": True, "delete": True}
    download(session, source, target, **options)
    (target / "extra").mkdir()
    (target / "extra" / "file").write_bytes(b"extra")
    changed = next(path for path in sorted(target.rglob("*")) if path.is_file())
    changed.write_bytes(b"changed, and longer than before")
    download(session, source, target, **options)
    assert _contents(target) == _contents(source)


@pytest.mark.parametrize("in_a_stream", [False, True])
def test_uploads_without_local_modes_keep_those_of_the_server(
    session: SftpSession,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    in_a_stream: bool,
) -> None:
    for module in (descriptors, context, upload_file):
        monkeypatch.setattr(module, "HAS_MODES", False)
    for module in (upload_stream, upload_merge):
        monkeypatch.setattr(module, "MANY_FILES", 1)
    source, target = _make_tree(tmp_path / "source"), tmp_path / "target"
    for path in source.rglob("*"):
        path.chmod(0o777)
    shell = Shell(home) if in_a_stream else None
    upload(session, source, target, contents=True, shell=shell)
    usual = {"folder": 0o777 & ~current_umask(), "file": 0o666 & ~current_umask()}
    for path in target.rglob("*"):
        assert path.stat().st_mode & 0o7777 == usual["folder" if path.is_dir() else "file"], path
        there = source / path.relative_to(target)
        assert int(path.stat().st_mtime) == int(there.stat().st_mtime)
    (target / "a").chmod(0o750)
    (source / "a").write_bytes(b"new")
    for number in range(5):
        (source / f"new{number}").write_bytes(b"new")
    upload(session, source, target, contents=True, shell=shell)
    assert (target / "a").read_bytes() == b"new"
    assert (target / "a").stat().st_mode & 0o7777 == 0o750
    assert (target / "new0").stat().st_mode & 0o7777 == usual["file"]


def test_an_interrupted_download_is_resumed_by_paths(
    session: SftpSession, paths_only: None, tmp_path: Path
) -> None:
    (tmp_path / "source").write_bytes(os.urandom(2_000_000))

    class Stop(Exception):
        pass

    def stop(progress: Any) -> None:
        raise Stop

    with pytest.raises(Stop):
        download(session, tmp_path / "source", tmp_path / "target", resume=True, progress=stop)
    download(session, tmp_path / "source", tmp_path / "target", resume=True)
    assert (tmp_path / "target").read_bytes() == (tmp_path / "source").read_bytes()
    assert not unfinished_files(tmp_path)


def test_a_link_in_the_target_leads_nowhere_by_paths(
    session: SftpSession, paths_only: None, tmp_path: Path
) -> None:
    (tmp_path / "source" / "folder").mkdir(parents=True)
    (tmp_path / "source" / "folder" / "file").write_bytes(b"content")
    (tmp_path / "target").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "target" / "folder").symlink_to(tmp_path / "outside")
    download(session, tmp_path / "source", tmp_path / "target", contents=True)
    assert not list((tmp_path / "outside").iterdir())
    assert (tmp_path / "target" / "folder" / "file").read_bytes() == b"content"


@pytest.mark.parametrize("is_folder", [False, True])
def test_a_link_is_not_opened_by_its_path(tmp_path: Path, is_folder: bool) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("folder" if is_folder else "file")
    folder = path_files.open(os.fsencode(tmp_path), path_files.O_DIRECTORY)
    flags = path_files.O_DIRECTORY if is_folder else os.O_RDONLY
    with pytest.raises(OSError) as caught:
        path_files.open(b"link", flags | path_files.O_NOFOLLOW, dir_fd=folder)
    assert caught.value.errno == errno.ELOOP
    path_files.close(folder)


@pytest.mark.parametrize(
    "name",
    [
        b"..\\up",
        b"c:",
        b"a:stream",
        b"NUL",
        b"com1.txt",
        b"LPT\xc2\xb2",
        b"dot.",
        b"space ",
        b"a?",
        b"\xff",
        b"",
    ],
)
def test_a_name_that_means_something_else_on_windows_is_refused(
    name: bytes, tmp_path: Path
) -> None:
    folder = path_files.open(os.fsencode(tmp_path), path_files.O_DIRECTORY)
    with pytest.raises(OSError, match="Windows"):
        path_files.open(name, os.O_WRONLY | os.O_CREAT, dir_fd=folder)
    path_files.close(folder)
    assert not list(tmp_path.iterdir())


def test_a_server_cannot_send_names_that_windows_lacks(
    session: SftpSession, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(listing, "is_usable", path_files.is_usable)
    monkeypatch.setattr(listing, "comparable", path_files.comparable)
    source = tmp_path / "source"
    source.mkdir()
    for name in ("good", "a\\b", "case", "CASE"):
        (source / name).write_bytes(name.encode())
    with pytest.raises(SshTransferError, match="2 entries could not be copied"):
        download(session, source, tmp_path / "target", on_error="continue")
    found = sorted(path.name.lower() for path in (tmp_path / "target").iterdir())
    assert found == ["case", "good"]


@pytest.mark.parametrize("kind", ["pread", "seek"])
def test_files_are_copied_without_preadv(
    session: SftpSession, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    read, write = {
        "pread": (positions._read_copy, positions._write_piece),
        "seek": (positions._seek_and_read, positions._seek_and_write),
    }[kind]
    monkeypatch.setattr(positions, "_read", read)
    monkeypatch.setattr(positions, "_write", write)
    (tmp_path / "source").write_bytes(os.urandom(3_000_000))
    upload(session, tmp_path / "source", tmp_path / "there", verify=True)
    download(session, tmp_path / "there", tmp_path / "back", verify=True)
    assert (tmp_path / "back").read_bytes() == (tmp_path / "source").read_bytes()


@pytest.mark.parametrize("make", [wakeups._PipeWakeup, wakeups._SocketWakeup])
def test_a_wakeup_never_blocks_and_is_drained(make: Callable[[], wakeups.Wakeup]) -> None:
    wakeup = make()
    try:
        for _ in range(3):
            for _ in range(300_000 if isinstance(wakeup, wakeups._PipeWakeup) else 10_000):
                wakeup.wake()
            assert select.select([wakeup], [], [], PATIENCE)[0]
            while select.select([wakeup], [], [], 0)[0]:
                wakeup.drain()
            wakeup.drain()
    finally:
        wakeup.close()


def test_the_pipes_of_a_proxy_command_are_carried_and_closed() -> None:
    process = subprocess.Popen(
        ["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    )
    ours, theirs = socket.socketpair()
    with ours:
        ours.settimeout(PATIENCE)
        proxy_command.carry(process, theirs)
        received = bytearray()
        for _ in range(20):
            ours.sendall(b"x" * 100_000)
            while len(received) % 100_000 or not received:
                received += ours.recv(65536)
            received.clear()
        ours.shutdown(socket.SHUT_WR)
        assert ours.recv(10) == b""
    assert process.wait(PATIENCE) == 0
    assert process.stderr is not None
    process.stderr.close()


def test_a_remote_path_that_is_not_utf8_has_a_text_on_windows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(paths, "_IS_WINDOWS", True)
    name = "ü".encode() + b"\xff"
    assert paths.to_text(name) == "ü\udcff"
    assert paths.to_bytes(paths.to_text(name)) == name
    assert paths.with_slashes(b"\\\\?\\C:\\a\\b") == b"C:/a/b"


def test_unfinished_files_are_judged_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    def hidden(path: Any, *args: Any, **kwargs: Any) -> Any:
        if str(path).startswith(("/proc/", "/etc/machine-id")):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return original(path, *args, **kwargs)

    original = builtins.open
    monkeypatch.setattr(builtins, "open", hidden)
    names = temporary.TemporaryNames()
    name = names.new(b"target")
    assert not names.is_stale(name, 10 * temporary.MIN_IDLE)
    names.release(name)
    assert names.is_stale(name, 0.0)
    with subprocess.Popen(["true"]) as ended:
        pass
    assert temporary.is_running(os.getpid(), 0)
    assert not temporary.is_running(ended.pid, 0)
    umask = os.umask(0o027)
    try:
        assert current_umask() == 0o027
    finally:
        os.umask(umask)
