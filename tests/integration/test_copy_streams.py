"""Many small files in one stream over a shell: the result is that of SFTP, whatever happens."""

from __future__ import annotations

import functools
import io
import os
import shutil
import subprocess
import tarfile
import threading
from pathlib import Path
from typing import Any, Callable, List, Optional

import pytest

from ssh_service.copying import downloading, tar, temporary, upload_stream
from ssh_service.copying.local.source_file import SourceFile
from ssh_service.copying.sftp import encode, server_facts
from ssh_service.copying.sftp.protocol import Attributes, ProtocolError
from ssh_service.copying.sftp.session import SftpSession
from ssh_service.copying.shell_command import READY_LINE, ProcessChannel, ShellProcess
from tests.common import PATIENCE, require_part
from tests.integration.sftp_processes import Shell
from tests.trees import describe, make_tree, many_files, received, unfinished_files
from tests.unit.sftp_harness import download, upload
from tests.unit.test_copy_hostile import FILE, Liar

Copy = Callable[..., None]
BOTH = pytest.mark.parametrize("copy", [upload, download])


@pytest.fixture(autouse=True)
def one_file_is_worth_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload_stream, "MANY_FILES", 1)
    monkeypatch.setattr(downloading, "MANY_FILES", 0)


@pytest.fixture(name="shell")
def shell_beside_it(home: Path) -> Shell:
    return Shell(home)


def opened(session: SftpSession, monkeypatch: pytest.MonkeyPatch) -> List[bytes]:
    """Note the names of all files that are opened by SFTP from now on, to be copied."""
    paths: List[bytes] = []
    original = encode.open_file

    def open_file(request_id: int, path: bytes, *rest: Any) -> bytes:
        if not path.endswith(b"-00000000"):  # the empty file that tells who we are there
            paths.append(os.path.basename(path))
        return original(request_id, path, *rest)

    monkeypatch.setattr(encode, "open_file", open_file)
    return paths


def awkward_tree(root: Path) -> Path:
    """Make a tree with everything that is hard for tar's formats, or for any copy."""
    make_tree(root)
    deep = root
    for _ in range(4):  # past what one header holds, in names and in paths
        deep = deep / ("n" * 90)
        deep.mkdir()
        (deep / ("m" * 99)).write_bytes(b"99")
        (deep / ("m" * 100)).write_bytes(b"100")
        (deep / ("m" * 101)).write_bytes(b"101")
    for size in (511, 512, 513, 40_000):
        (root / f"{size}").write_bytes(os.urandom(size - 1) + b"x")
    (root / "ends with zeros").write_bytes(b"x" + bytes(2000))
    (root / "hole").write_bytes(b"")
    os.truncate(root / "hole", 5000)
    os.link(root / "40000", root / "hard link")
    (root / "unreadable by others").write_bytes(b"secret")
    (root / "unreadable by others").chmod(0o400 if os.geteuid() else 0)
    os.utime(root / "511", (0, 0))
    os.utime(root / "512", (2**31 + 1, 2**31 + 1))
    (root / "deep" / "not for others").mkdir()
    (root / "deep" / "not for others").chmod(0o750)
    return root


@pytest.mark.parametrize("existing", [False, True], ids=["new", "merged"])
@BOTH
def test_a_tree_arrives_as_by_sftp(
    copy: Copy, session: SftpSession, shell: Shell, tmp_path: Path, existing: bool
) -> None:
    source = awkward_tree(tmp_path / "source")
    targets = []
    for name, options in (("by sftp", {}), ("by stream", {"shell": shell})):
        target = tmp_path / name
        if existing:
            (target / "source" / "names").mkdir(parents=True)
            (target / "source" / "mode 600").write_bytes(b"old")
            target = target / "source"
        copy(session, source, tmp_path / name, **options)
        targets.append(describe(target))
    expected = describe(source) if copy is upload else received(describe(source))
    assert targets[0] == targets[1] == expected
    assert bool(shell.commands) != (existing and copy is upload)
    assert not session.facts.tar.is_missing


@BOTH
def test_small_files_are_not_opened_one_by_one(
    copy: Copy,
    session: SftpSession,
    shell: Shell,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = many_files(tmp_path / "source", 300)
    (source / "large").write_bytes(os.urandom(500_000))
    paths = opened(session, monkeypatch)
    progress: List[Any] = []
    copy(session, tmp_path / "source", tmp_path / "target", shell=shell, progress=progress.append)
    assert describe(tmp_path / "target") == describe(tmp_path / "source")
    assert len(paths) <= 2  # the large one, and down the empty one
    assert progress[-1][2:] == (301, 301)
    assert progress[-1][0] == progress[-1][1] == 500_000 + sum(range(300))


@pytest.mark.parametrize("what", ["no tar", "another tar", "no such folder", "no shell"])
@BOTH
def test_without_gnu_tar_files_are_copied_by_sftp(
    copy: Copy, session: SftpSession, tmp_path: Path, what: str
) -> None:
    source = make_tree(tmp_path / "source")
    tools = tmp_path / "tools"
    tools.mkdir()
    os.symlink(shutil.which("sh") or "/bin/sh", tools / "sh")
    if what == "another tar":
        (tools / "tar").write_text("#!/bin/sh\necho 'tar: unknown option' >&2\nexit 1\n")
        (tools / "tar").chmod(0o755)
    shell: Any = Shell(tmp_path, str(tools))
    if what == "no such folder":  # the shell sees other files than SFTP does
        shell = functools.partial(elsewhere, Shell(tools))
    if what == "no shell":
        shell = refused
    copy(session, source, tmp_path / "target", shell=shell)
    assert describe(tmp_path / "target") == describe(source)
    assert session.facts.tar.is_missing  # and it is not asked for again


def elsewhere(shell: Shell, command: bytes, process: ShellProcess) -> None:
    shell(command.replace(b'"$(printf "', b'"/nowhere$(printf "'), process)


def refused(command: bytes, process: ShellProcess) -> None:
    process.on_exit(None)


@pytest.mark.parametrize("status", [0, 1])
def test_upload_that_tar_did_not_unpack_is_done_by_sftp(
    session: SftpSession, tmp_path: Path, status: int
) -> None:
    source = make_tree(tmp_path / "source")
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "cat", "rm"):
        os.symlink(shutil.which(name) or "", tools / name)
    (tools / "tar").write_text(f"#!/bin/sh\ncat >/dev/null\nexit {status}\n")
    (tools / "tar").chmod(0o755)
    upload(session, source, tmp_path / "target", shell=Shell(tmp_path, str(tools)))
    assert describe(tmp_path / "target") == describe(source)


@BOTH
def test_verified_copies_are_looked_at_one_by_one(
    copy: Copy, session: SftpSession, shell: Shell, tmp_path: Path
) -> None:
    source = make_tree(tmp_path / "source")
    copy(session, source, tmp_path / "target", shell=shell, verify=True)
    assert describe(tmp_path / "target") == describe(source)
    assert not any(b"tar" in command for command in shell.commands)


def test_ctrl_c_leaves_nothing_of_a_tree_that_is_not_whole(
    session: SftpSession, shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_tree(tmp_path / "source")
    original = tar.header

    def interrupted(name: bytes, *rest: Any) -> bytes:
        if name == b"end":
            raise KeyboardInterrupt
        return original(name, *rest)

    monkeypatch.setattr(tar, "header", interrupted)
    with pytest.raises(KeyboardInterrupt):
        upload(session, source, tmp_path / "target", shell=shell)
    assert not (tmp_path / "target").exists()


def test_entry_created_meanwhile_is_not_replaced(
    session: SftpSession, shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_tree(tmp_path / "source")
    original = tar.header

    def slow(name: bytes, *rest: Any) -> bytes:
        if name == b"end":
            (tmp_path / "target").mkdir()
            (tmp_path / "target" / "theirs").write_bytes(b"theirs")
        return original(name, *rest)

    monkeypatch.setattr(tar, "header", slow)
    upload(session, source, tmp_path / "target", shell=shell)
    assert (tmp_path / "target" / "theirs").read_bytes() == b"theirs"
    (tmp_path / "target" / "theirs").unlink()
    os.utime(tmp_path / "target", (1_400_000_000, 1_500_000_000))
    assert describe(tmp_path / "target") == describe(source)


def test_upload_of_changing_file_is_consistent_or_fails(
    session: SftpSession, shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = many_files(tmp_path / "source", 20, 3000)
    read_into, times = SourceFile.read_into, iter([True])

    def read(self: SourceFile, buffer: memoryview, offset: int) -> None:
        read_into(self, buffer, offset)
        if next(times, False):  # somebody writes to it while it is being read
            Path(os.fsdecode(self.path)).write_bytes(b"new" * 500)

    monkeypatch.setattr(SourceFile, "read_into", read)
    upload(session, source, tmp_path / "target", shell=shell)
    assert describe(tmp_path / "target") == describe(source)
    assert not session.facts.tar.is_missing


def test_unfinished_file_is_not_readable_by_others(
    session: SftpSession, shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_tree(tmp_path / "source")
    modes: List[int] = []
    original = tar.header

    def watched(name: bytes, *rest: Any) -> bytes:
        modes.extend(os.stat(path).st_mode & 0o777 for path in unfinished_files(tmp_path)[:1])
        return original(name, *rest)

    monkeypatch.setattr(tar, "header", watched)
    upload(session, source, tmp_path / "target", shell=shell)
    assert set(modes) == {0o700}


def test_unfinished_tree_of_a_dead_process_is_removed(
    session: SftpSession, shell: Shell, tmp_path: Path
) -> None:
    source = make_tree(tmp_path / "source")
    left = make_tree(tmp_path / os.fsdecode(name_of_the_dead()))
    left.chmod(0o700)
    os.utime(left, (0, 0))
    for number in range(20):  # what is not done by the end of a copy is left to the next one
        upload(session, source, tmp_path / f"target{number}", shell=shell)
        assert describe(tmp_path / f"target{number}") == describe(source)
        if not unfinished_files(tmp_path):
            break
    assert not unfinished_files(tmp_path)


def name_of_the_dead() -> bytes:
    name, reading = b"", os.pipe()
    child = os.fork()
    if not child:
        os.write(reading[1], temporary.names.new(b"other"))
        os._exit(0)
    os.waitpid(child, 0)
    name = os.read(reading[0], 100)
    for fd in reading:
        os.close(fd)
    return name


# What a server sends may be anything.


class MadeUpShell(ProcessChannel):
    """A server's tar whose every archive a test makes up, from the names it was asked for."""

    def __init__(self, answer: Callable[[List[bytes]], bytes]) -> None:
        self.answer = answer
        self.names = b""

    def __call__(self, command: bytes, process: ShellProcess) -> None:
        self.process = process
        process.channel = self
        process.on_writable()
        process.feed(b"what a profile prints\n" + READY_LINE)

    def send_some(self, data: memoryview) -> int:
        self.names += bytes(data)
        return len(data)

    def send_eof(self) -> None:
        archive = self.answer(self.names.split(b"\0")[:-1])
        for at in range(0, len(archive), 1000):
            self.process.feed(archive[at : at + 1000])
        self.process.on_exit(0)

    def adjust_window(self, size: int) -> None:
        pass

    def close(self) -> None:
        self.process.on_exit(None)


def entry(
    name: bytes,
    data: bytes,
    kind: bytes = tarfile.REGTYPE,
    size: Optional[int] = None,
    atime: str = "1600000000.5",
) -> bytes:
    info = tarfile.TarInfo(os.fsdecode(name))
    info.size, info.type, info.mtime, info.mode = len(data), kind, 1_600_000_000, 0o644
    info.size = len(data) if size is None else size
    info.linkname = "/etc/passwd" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
    info.pax_headers = {"atime": atime}
    head = info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    return head + data + bytes(-len(data) % 512)


def archive(names: List[bytes]) -> bytes:
    return b"".join(entry(name, b"by tar: " + name) for name in names) + bytes(1024)


def liar() -> Liar:
    return Liar([(b"a", FILE, 4, b"by s"), (b"b", FILE, 4, b"by s"), (b"c", FILE, 4, b"by s")])


def test_fake_tar_works_without_tampering(target: Path) -> None:
    liar().download(target, shell=MadeUpShell(archive))
    assert (target / "a").read_bytes() == b"by tar: ./a"
    assert int((target / "b").stat().st_mtime) == 1_600_000_000


@pytest.mark.parametrize(
    "answer",
    [
        lambda names: archive([b"../precious", *names]),
        lambda names: archive([b"/etc/x", *names]),
        lambda names: archive([b"./a/../../precious", *names]),
        lambda names: archive([*names, b"./d"]),
        lambda names: archive([*names, *names]),
        lambda names: archive(list(reversed(names))),
        lambda names: archive(names[1:]),
        lambda names: archive([]),
        lambda names: b"",
        lambda names: archive(names)[:700],
        lambda names: archive(names)[:1800],
        lambda names: os.urandom(5000),
        lambda names: b"\0" * 100 + b"x" * 5000,
        lambda names: entry(names[0], b"", tarfile.SYMTYPE) + archive(names[1:]),
        lambda names: entry(names[0], b"", tarfile.LNKTYPE) + archive(names[1:]),
        lambda names: entry(names[0], b"", tarfile.DIRTYPE) + archive(names[1:]),
        lambda names: entry(names[0], b"", tarfile.CHRTYPE) + archive(names[1:]),
        lambda names: entry(names[0], b"", tarfile.FIFOTYPE) + archive(names[1:]),
        lambda names: entry(names[0], b"x", size=2**33 - 1),
        lambda names: entry(names[0], b"x" * 300_000) + archive(names[1:]),
        lambda names: entry(names[0], b"shrunk\0\0") + archive(names[1:]),
        lambda names: entry(names[0], b"") + archive(names[1:]),
        lambda names: entry(names[0], b"by s", atime="9" * 30) + archive(names[1:]),
        lambda names: entry(names[0], b"by s", atime="9" * 5000) + archive(names[1:]),
        lambda names: entry(b"./" + b"x" * 100_000, b"x"),
        lambda names: tar.header(names[0], tar.FILE, Attributes(size=1, mode=0o644)) + b"x" * 512,
    ],
)
def test_hostile_tar_can_write_only_requested_files(
    target: Path, answer: Callable[[List[bytes]], bytes]
) -> None:
    liar().download(target, shell=MadeUpShell(answer))
    assert sorted(os.listdir(target)) == ["a", "b", "c"]
    for name in ("a", "b", "c"):
        assert (target / name).is_file() and not (target / name).is_symlink()
        content = (target / name).read_bytes()
        assert content in (b"by s", b"by tar: ./" + name.encode())


def test_unwritable_local_file_is_reported(target: Path) -> None:
    target.mkdir()
    (target / "tree" / "b").mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        liar().download(target, shell=MadeUpShell(archive))
    assert (target / "tree" / "a").read_bytes() == b"by tar: ./a"
    assert not (target / "tree" / "c").exists()


# The format.


@pytest.mark.parametrize("name", [b"a", b"n" * 99, b"n" * 100, b"d" * 90 + b"/" + b"n" * 255])
def test_tar_that_we_write_is_read_by_tarfile(name: bytes) -> None:
    given = Attributes(size=5, mode=0o4751, atime=1_000_000_000, mtime=1_100_000_000)
    data = tar.header(name, tar.FILE, given) + b"hello" + tar.padding(5) + tar.END
    with tarfile.open(fileobj=io.BytesIO(data)) as file:
        (info,) = file.getmembers()
        read = file.extractfile(info)
        assert read is not None and read.read() == b"hello"
    assert (info.name, info.mode, info.mtime) == (os.fsdecode(name), 0o4751, 1_100_000_000)


@pytest.mark.parametrize(
    "more", [b"5", b"9 atime=1", b"99 btime=1\n", b"x atime=1\n", b"11 atime=x\n", b"0 a=b\n"]
)
def test_malformed_pax_records_are_refused(more: bytes) -> None:
    block = tar.header(b"a", tar.FILE, Attributes(size=1, mode=0o644))
    with pytest.raises(ProtocolError):
        tar.read_header(block[:345] + bytes(167), more)


@BOTH
def test_names_in_another_charset_are_kept(
    copy: Copy,
    session: SftpSession,
    shell: Shell,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Left to itself, tar converts the long names of an archive to the session's character set."""
    made = shutil.which("localedef") and subprocess.run(
        ["localedef", "-i", "en_US", "-f", "ISO-8859-1", tmp_path / "latin1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=PATIENCE,
    )
    # It warns, and makes it all the same.
    require_part((tmp_path / "latin1").exists(), f"needs localedef and its charmaps: {made}")
    shell.environment.update(LOCPATH=str(tmp_path), LC_ALL="latin1")
    source = tmp_path / "source"
    folder = source / ("übergröße" * 10) / ("ý" * 60)
    folder.mkdir(parents=True)
    for number in range(3):
        (folder / ("é" * 40 + str(number))).write_bytes(b"x")
    opened_files = opened(session, monkeypatch)
    copy(session, source, tmp_path / "target", shell=shell)
    assert describe(tmp_path / "target") == describe(source)
    assert opened_files == []


class HungShell(MadeUpShell):
    """A login shell that takes the command, prints something, and never runs it."""

    def __call__(self, command: bytes, process: ShellProcess) -> None:
        self.process = process
        process.channel = self
        process.on_writable()
        process.feed(b"Welcome!\n")
        threading.Timer(0.05, process.fail_unless_ready).start()

    def send_some(self, data: memoryview) -> int:
        return 0

    def send_eof(self) -> None:
        pass


@BOTH
def test_a_shell_that_hangs_is_given_up(
    copy: Copy, session: SftpSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SFTP does it all, and the shell is not asked again for a while, but not never."""
    source = many_files(tmp_path / "source", 5, size=10)
    copy(session, source, tmp_path / "target", shell=HungShell(archive))
    assert describe(tmp_path / "target") == describe(source)
    assert session.facts.tar.is_missing
    monkeypatch.setattr(server_facts, "MISSING_TTL", 0.0)
    assert not session.facts.tar.is_missing


def test_output_of_a_profile_does_not_disturb_streams(
    session: SftpSession, shell: Shell, tmp_path: Path
) -> None:
    """Output before the script's own greeting is skipped, both ways."""
    source = many_files(tmp_path / "source", 5, size=10)
    shell.prologue = b"echo hello from the profile;"
    for copy in (upload, download):
        copy(session, source, tmp_path / copy.__name__, shell=shell)
        assert describe(tmp_path / copy.__name__) == describe(source)
    assert not session.facts.tar.is_missing and len(shell.commands) == 2
