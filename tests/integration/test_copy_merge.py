"""Many small files into an existing folder in one stream: each file is old or new, never half."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, List

import pytest

from ssh_service.copying import upload_merge, upload_stream
from ssh_service.copying.remote_files import RemoteFiles
from ssh_service.copying.sftp import encode
from ssh_service.copying.sftp.session import SftpSession
from tests.integration.sftp_processes import Shell
from tests.trees import describe, unfinished_files
from tests.unit.sftp_harness import upload


@pytest.fixture(name="shell")
def shell_beside_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """Give a shell; few files are worth a stream."""
    for module in (upload_stream, upload_merge):
        monkeypatch.setattr(module, "MANY_FILES", 5)
    return Shell(home)


@pytest.fixture(name="source")
def tree(tmp_path: Path) -> Path:
    """Make a tree of 30 small files in three folders, and a large one."""
    source = tmp_path / "source"
    for folder in ("a", "b", "c/d"):
        (source / folder).mkdir(parents=True)
        for number in range(10):
            (source / folder / str(number)).write_bytes(os.urandom(100))
    (source / "large").write_bytes(os.urandom(1_000_000))
    return source


@pytest.fixture(name="opened")
def files_opened_by_sftp(monkeypatch: pytest.MonkeyPatch) -> List[bytes]:
    """Note the names of files that are opened by SFTP."""
    names: List[bytes] = []
    original = encode.open_file

    def open_file(request_id: int, path: bytes, *rest: Any) -> bytes:
        names.append(os.path.basename(path))
        return original(request_id, path, *rest)

    monkeypatch.setattr(encode, "open_file", open_file)
    return names


def content(tree: Path) -> Any:
    """Give all but the root's own attributes, which stay as they were."""
    found = describe(tree)
    del found[b"."]
    return found


def rewrite(source: Path) -> None:
    for path in source.rglob("[0-9]"):
        path.write_bytes(os.urandom(120))


def test_small_files_are_streamed_into_folder_that_has_them(
    session: SftpSession, shell: Shell, source: Path, tmp_path: Path, opened: List[bytes]
) -> None:
    """The second deployment is as the first: one stream, and what is stale stays."""
    target = tmp_path / "target"
    upload(session, source, target, contents=True, shell=shell)
    rewrite(source)
    (source / "new" / "deeper").mkdir(parents=True)
    (source / "new" / "deeper" / "file").write_bytes(b"x")
    (source / "a" / "added").write_bytes(b"x")
    (target / "a" / "stale").write_bytes(b"stale")
    del opened[:]
    upload(session, source, target, contents=True, shell=shell)
    assert len(shell.commands) == 2
    (target / "a" / "stale").unlink()
    os.utime(target / "a", (1, (source / "a").stat().st_mtime))
    assert content(target) == content(source)
    assert len(opened) <= 3  # the large one, and what tells who we are
    assert not unfinished_files(tmp_path)


def test_special_files_in_the_target_are_copied_one_by_one(
    session: SftpSession, shell: Shell, source: Path, tmp_path: Path
) -> None:
    """A link that stands in a file's place is followed, as by a copy without a stream."""
    target, elsewhere = tmp_path / "target", tmp_path / "elsewhere"
    upload(session, source, target, contents=True)
    elsewhere.write_bytes(b"old")
    (target / "a" / "0").unlink()
    (target / "a" / "0").symlink_to(elsewhere)
    rewrite(source)
    upload(session, source, target, contents=True, shell=shell)
    assert len(shell.commands) == 1
    assert (target / "a" / "0").is_symlink()
    assert elsewhere.read_bytes() == (source / "a" / "0").read_bytes()
    assert content(target) == content(source)


def test_files_that_cannot_be_renamed_are_copied_one_by_one(
    session: SftpSession,
    shell: Shell,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A folder of another file system takes no rename."""
    target = tmp_path / "target"
    upload(session, source, target, contents=True)
    rewrite(source)
    ask = RemoteFiles.ask_rename

    def ask_rename(self: RemoteFiles, old: bytes, new: bytes) -> Any:
        from_stream = b"/tree/" in old
        return ask(self, old + b"missing" if from_stream and b"/b/" in new else old, new)

    monkeypatch.setattr(RemoteFiles, "ask_rename", ask_rename)
    meters: List[Any] = []
    upload(session, source, target, contents=True, shell=shell, progress=meters.append)
    assert content(target) == content(source)
    total = sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
    assert meters[-1] == (total, total, 31, 31)


def test_interrupted_merge_leaves_each_file_old_or_new(
    session: SftpSession,
    shell: Shell,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever ends it on the way, no file is half a one, and nothing unfinished is left."""
    target = tmp_path / "target"
    upload(session, source, target, contents=True)
    before = {path: path.read_bytes() for path in target.rglob("[0-9]")}
    rewrite(source)
    ask, count = RemoteFiles.ask_rename, [0]

    def ask_rename(self: RemoteFiles, old: bytes, new: bytes) -> Any:
        count[0] += 1
        if count[0] == 15:
            raise KeyboardInterrupt
        return ask(self, old, new)

    monkeypatch.setattr(RemoteFiles, "ask_rename", ask_rename)
    with pytest.raises(KeyboardInterrupt):
        upload(session, source, target, contents=True, shell=shell)
    shell.wait()
    for path, old in before.items():
        new = (source / path.relative_to(target)).read_bytes()
        assert path.read_bytes() in (old, new)
    assert not unfinished_files(tmp_path)


@pytest.mark.parametrize("streams", [False, True])
def test_update_copies_only_what_differs(
    session: SftpSession,
    shell: Shell,
    source: Path,
    tmp_path: Path,
    streams: bool,
) -> None:
    """Files with the same size and time are passed over, whatever is in them."""
    target = tmp_path / "target"
    upload(session, source, target, contents=True)
    kept = target / "a" / "0"
    status = kept.stat()
    kept.write_bytes(b"z" * 100)  # as long as it was
    os.utime(kept, ns=(status.st_atime_ns, status.st_mtime_ns))
    changed = [source / "b" / "0", *(source / "c" / "d").iterdir()]
    for path in changed if streams else changed[:1]:
        path.write_bytes(b"new and longer" * 20)
    meters: List[Any] = []
    upload(
        session,
        source,
        target,
        contents=True,
        update=True,
        shell=shell,
        progress=meters.append,
    )
    assert len(shell.commands) == streams
    assert kept.read_bytes() == b"z" * 100
    kept.write_bytes((source / "a" / "0").read_bytes())
    os.utime(kept, (1, (source / "a" / "0").stat().st_mtime))
    assert content(target) == content(source)
    assert meters[-1].files_done == meters[-1].files_total == 31


def test_update_of_folder_that_has_everything_creates_nothing(
    session: SftpSession,
    shell: Shell,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = tmp_path / "target"
    upload(session, source, target, contents=True)
    before = target.stat().st_mtime_ns

    def make_folder(*_: Any) -> bytes:
        raise AssertionError("a folder is created")

    monkeypatch.setattr(encode, "make_folder", make_folder)
    upload(session, source, target, contents=True, update=True, shell=shell)
    assert target.stat().st_mtime_ns == before
    assert shell.commands == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, which can act as two users")
@pytest.mark.parametrize("what", ["file", "folder"])
def test_merge_leaves_foreign_files_in_shared_folder_alone(
    session: SftpSession, shell: Shell, source: Path, tmp_path: Path, what: str
) -> None:
    """A folder inside the target that others may write to is no safer than any other."""
    target, stranger = tmp_path / "target", 65534
    shared = target / "c" if what == "folder" else target / "a"
    theirs = shared / ("d" if what == "folder" else "0")
    original = source / theirs.relative_to(target)
    shared.mkdir(parents=True)
    if what == "folder":
        theirs.mkdir()
        (theirs / "0").symlink_to(tmp_path / "victim")
    else:
        theirs.write_bytes(b"x" * 100)
        os.utime(theirs, ns=(0, original.stat().st_mtime_ns))
    os.chown(theirs, stranger, stranger)
    shared.chmod(0o1777)
    with pytest.raises(PermissionError, match=f"a {what} of uid {stranger}"):
        upload(session, source, target, contents=True, update=True, shell=shell)
    assert not (tmp_path / "victim").exists()
    shell.wait()
