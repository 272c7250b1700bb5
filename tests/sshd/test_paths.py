"""`SshPath` on a real server: what pathlib does with files here, it does with those over there."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import stat
from pathlib import Path
from typing import Any, Callable, List, Tuple

import pytest

import ssh_service
from ssh_service import Host, SshClientCache, SshConfigError, SshConnectionLost, SshPath
from ssh_service.copying.sftp import encode
from ssh_service.paths import owners
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
    """The same folder as `here`, as a path on the server."""
    return web.path(here)


# Content.


@pytest.mark.parametrize("size", [0, 1, 1000, 255 * 1024, 3_000_001])
def test_bytes_that_are_written_are_read(here: Path, there: SshPath, size: int) -> None:
    data = os.urandom(size)
    assert (there / "file").write_bytes(data) == size
    assert (here / "file").read_bytes() == data == (there / "file").read_bytes()
    assert sorted(here.iterdir()) == [here / "file"]


def test_text_is_utf8_and_line_ends_are_translated_as_asked(here: Path, there: SshPath) -> None:
    file = there / "file"
    assert file.write_text("é\nx") == 3
    assert (here / "file").read_bytes() == "é\nx".encode()
    file.write_text("é\nx", "latin-1", newline="\r\n")
    assert (here / "file").read_bytes() == b"\xe9\r\nx"
    assert file.read_text("latin-1") == "é\nx"
    assert file.read_text("latin-1", newline="") == "é\r\nx"
    assert file.read_text(errors="replace") == "\ufffd\nx"
    with pytest.raises(UnicodeDecodeError):
        file.read_text()
    with pytest.raises(LookupError):
        file.write_text("x", "no-such-encoding")
    with pytest.raises(TypeError, match="expected a str, got bytes"):
        file.write_text(b"x")  # type: ignore[arg-type]


def test_files_without_a_size_are_read_to_their_end(web: Host) -> None:
    assert web.path("/proc/self/status").read_text().startswith("Name:\t")
    with web.path("/proc/self/status").open() as file:
        assert file.readline().startswith("Name:\t")


def test_written_file_keeps_its_mode_and_a_new_one_follows_the_umask(
    here: Path, there: SshPath, web: Host
) -> None:
    umask = int(web.run("umask").stdout, 8)
    (there / "new").write_text("x")
    assert stat.S_IMODE((here / "new").stat().st_mode) == 0o666 & ~umask
    (here / "new").chmod(0o751)
    (there / "new").write_text("y")
    assert stat.S_IMODE((here / "new").stat().st_mode) == 0o751
    (there / "secret").write_text("x", mode=0o600)
    assert stat.S_IMODE((here / "secret").stat().st_mode) == 0o600
    (there / "new").write_text("z", mode=0o640)
    assert stat.S_IMODE((here / "new").stat().st_mode) == 0o640


def test_write_follows_a_link_and_replaces_the_file(here: Path, there: SshPath) -> None:
    (here / "file").write_text("old")
    (here / "link").symlink_to("file")
    os.link(here / "file", here / "other")
    (there / "link").write_text("new")
    assert (here / "link").is_symlink() and (here / "file").read_text() == "new"
    assert (here / "other").read_text() == "old"  # another file took its place: it is atomic


def test_write_that_is_cut_leaves_the_old_file(
    sshd: Sshd, cache: SshClientCache, here: Path, fault_proxy: Callable[..., FaultProxy]
) -> None:
    (here / "file").write_text("old")
    with fault_proxy(sshd) as proxy:
        file = Host(proxy.connect_params, cache=cache).path(here / "file")
        assert file.read_text() == "old"
        proxy.limit_after(1_000_000, "to_server")
        with pytest.raises(SshConnectionLost, match="while using '.*file'") as caught:
            file.write_bytes(bytes(5_000_000))
        assert caught.value.phase == "file" and not caught.value.retryable
    assert (here / "file").read_text() == "old"


def test_write_that_is_interrupted_leaves_the_old_file(
    here: Path, there: SshPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "file").write_text("old")
    (there / "file").write_text("old")

    def interrupted(*args: Any) -> bytes:
        monkeypatch.undo()
        raise KeyboardInterrupt

    for name in ("open_file", "write", "close", "posix_rename"):
        monkeypatch.setattr(encode, name, interrupted)
        with pytest.raises(KeyboardInterrupt):
            (there / "file").write_text("new")
        assert (here / "file").read_text() == "old" and os.listdir(here) == ["file"], name
    (there / "file").write_text("new")
    assert (here / "file").read_text() == "new"


WRITES: List[Callable[[SshPath], Any]] = [
    lambda path: path.write_text("new"),
    lambda path: path.open("w"),
    lambda path: path.open("a"),
    lambda path: path.open("r+"),
]


def test_strangers_file_in_a_shared_folder_is_not_written(here: Path, there: SshPath) -> None:
    """Nor is what a stranger's link leads to (S5)."""
    if os.geteuid():
        pytest.skip("only root can give a file away")
    (here / "shared").mkdir()
    (here / "shared").chmod(0o1777)
    (here / "ours").write_text("old")
    (here / "shared" / "file").write_text("old")
    (here / "shared" / "link").symlink_to(here / "ours")
    for name in ("file", "link"):
        os.chown(here / "shared" / name, 12345, 12345, follow_symlinks=False)
        for write in WRITES:
            with pytest.raises(PermissionError, match="of uid 12345"):
                write(there / "shared" / name)
    assert (here / "ours").read_text() == "old" == (here / "shared" / "file").read_text()


def test_read_that_is_cut_is_a_lost_connection(
    sshd: Sshd, cache: SshClientCache, here: Path, fault_proxy: Callable[..., FaultProxy]
) -> None:
    (here / "file").write_bytes(bytes(5_000_000))
    with fault_proxy(sshd) as proxy:
        file = Host(proxy.connect_params, cache=cache).path(here / "file")
        assert file.exists()
        proxy.limit_after(1_000_000, "to_client")
        with pytest.raises(SshConnectionLost):
            file.read_bytes()
        proxy.heal()
        with file.open("rb") as stream:
            assert stream.read(10) == bytes(10)
            proxy.limit_after(1_000_000, "to_client")
            with pytest.raises(SshConnectionLost):
                stream.read()
        proxy.heal()
        assert file.read_bytes() == bytes(5_000_000)
    eventually(lambda: cache.stats()["leases"] == 0)


# Errors.


CALLS: List[Callable[[Any], Any]] = [
    lambda path: path.read_bytes(),
    lambda path: path.open("rb").close(),
    lambda path: path.open("r+b").close(),
    lambda path: path.stat(),
    lambda path: path.lstat(),
    lambda path: list(path.iterdir()),
    lambda path: path.unlink(),
    lambda path: path.rmdir(),
    lambda path: path.chmod(0o700),
    lambda path: path.resolve(strict=True),
    lambda path: (path / "below").mkdir(),
    lambda path: (path / "below").mkdir(parents=True),
    lambda path: (path / "below").write_bytes(b""),
    lambda path: (path / "below").open("w").close(),
    lambda path: (path / "below").touch(),
    lambda path: path.rename(path.parent / "other"),
]


@pytest.mark.parametrize("name", ["missing", "missing/below", "file/below", "file", "folder"])
def test_errors_are_those_of_pathlib(here: Path, there: SshPath, name: str) -> None:
    """The same call, made locally, fails with the same errno and the same class."""
    for number, call in enumerate(CALLS):
        local, remote = here / "local" / str(number), there / "remote" / str(number)
        for folder in (local, here / "remote" / str(number)):
            (folder / "folder" / "inner").mkdir(parents=True)
            (folder / "file").write_text("x")
        try:
            call(local / name)
        except OSError as expected:
            with pytest.raises(OSError) as caught:
                call(remote / name)
            error = caught.value
            assert error.errno == expected.errno, (number, error)
            kind = next(c for c in type(expected).__mro__ if c.__module__ == "builtins")
            assert isinstance(error, kind)
            wanted = str(expected.filename).replace("/local/", "/remote/")
            # `pathlib.Path.resolve` names the first part that is missing.
            assert error.filename in (wanted, f"{remote / name}"), (number, error)
            assert error.filename in str(error)
        else:
            call(remote / name)


UNDOABLE: List[Tuple[Callable[[SshPath], Any], int]] = [
    (lambda path: (path / "folder").unlink(), errno.EISDIR),
    (lambda path: (path / "folder").write_text("x"), errno.EISDIR),
    (lambda path: (path / "file").mkdir(), errno.EEXIST),
    (lambda path: (path / "file").mkdir(exist_ok=True), errno.EEXIST),
    (lambda path: (path / "folder").mkdir(), errno.EEXIST),
    (lambda path: (path / "file").touch(exist_ok=False), errno.EEXIST),
    (lambda path: (path / "file").open("x"), errno.EEXIST),
    (lambda path: (path / "file").symlink_to("x"), errno.EEXIST),
    (lambda path: (path / "file").readlink(), errno.EINVAL),
    (lambda path: (path / "full").rmdir(), errno.ENOTEMPTY),
    (lambda path: (path / "file").rmdir(), errno.ENOTDIR),
    (lambda path: (path / "folder").rename(path / "full"), errno.ENOTEMPTY),
    (lambda path: (path / "file").rename(path / "folder"), errno.EISDIR),
    (lambda path: (path / "folder").rename(path / "file"), errno.ENOTDIR),
    (lambda path: (path / ("n" * 300)).write_text("x"), errno.ENAMETOOLONG),
    (lambda path: (path / "fifo").read_text(), errno.EINVAL),
    (lambda path: (path / "fifo").open("w"), errno.EINVAL),
    (lambda path: (path / "fifo").write_text("x"), errno.EINVAL),
]


def test_what_cannot_be_done_has_the_right_errno(here: Path, there: SshPath) -> None:
    (here / "file").write_text("x")
    (here / "folder").mkdir()
    (here / "full" / "inner").mkdir(parents=True)
    os.mkfifo(here / "fifo")
    for number, (call, code) in enumerate(UNDOABLE):
        with pytest.raises(OSError) as caught:
            call(there)
        assert caught.value.errno == code, (number, caught.value)
        assert (here / "file").read_text() == "x" and (here / "full" / "inner").is_dir()


def test_no_access_is_a_permission_error(here: Path, there: SshPath) -> None:
    if not os.geteuid():
        pytest.skip("root may do everything")
    (here / "closed").mkdir()
    (here / "closed" / "x").touch()
    for mode in (0, 0o600):  # 0o600: OpenSSH lists it as empty
        (here / "closed").chmod(mode)
        for call in (
            lambda: (there / "closed" / "x").exists(),
            lambda: list((there / "closed").iterdir()),
        ):
            with pytest.raises(PermissionError):
                call()
    (here / "closed").chmod(0o700)


# Status.


def test_status_is_what_the_system_says(here: Path, there: SshPath) -> None:
    (here / "file").write_text("12345")
    (here / "link").symlink_to("file")
    (here / "dangling").symlink_to("nothing")
    (here / "folder").mkdir()
    os.mkfifo(here / "fifo")
    for name in ("file", "link", "folder"):
        found, expected = (there / name).stat(), (here / name).stat()
        for field in ("st_mode", "st_uid", "st_gid", "st_size"):
            assert getattr(found, field) == getattr(expected, field)
        assert found.st_mtime == int(expected.st_mtime)
        assert (there / name).lstat().st_mode == (here / name).lstat().st_mode
    kinds = "exists is_dir is_file is_symlink is_fifo is_socket is_block_device is_char_device"
    for name in ("file", "link", "folder", "fifo", "dangling", "missing", "file/below"):
        for method in kinds.split():
            expected = getattr(here / name, method)()
            assert getattr(there / name, method)() == expected, (name, method)
    assert (there / "dangling").exists(follow_symlinks=False)
    assert not (there / "link").is_file(follow_symlinks=False)
    assert (there / "folder").is_dir(follow_symlinks=False)
    with pytest.raises(AttributeError):
        getattr((there / "file").stat(), "st_ino")  # not reported, and so not made up


def test_owner_and_group_have_the_names_of_pathlib(here: Path, there: SshPath, web: Host) -> None:
    (here / "file").write_text("x")
    (here / "link").symlink_to("/etc/passwd")
    for path, expected in (
        (there, here),
        (there / "file", here / "file"),
        (there / "link", here / "link"),
        (web.path("/"), Path("/")),
    ):
        assert (path.owner(), path.group()) == (expected.owner(), expected.group())
    with pytest.raises(FileNotFoundError):
        (there / "missing").owner()
    if not os.geteuid():
        os.chown(here / "file", 54321, 54321)
        with pytest.raises(KeyError, match="no name for the user number 54321"):
            (there / "file").owner()
        assert there.owner() == "root"


def test_owner_without_a_usable_listing_is_an_error(
    there: SshPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owners, "_WORDS_BEFORE_NAME", 9)
    with pytest.raises(OSError, match="lists no names of owners; stat.. has their numbers") as e:
        there.owner()
    assert e.value.errno == errno.EOPNOTSUPP


def test_absolute_and_samefile_go_by_the_real_path(web: Host, here: Path, there: SshPath) -> None:
    home = web.path("~").expanduser()
    assert web.path("a/../b").absolute() == home / "a/../b"
    assert web.path("~/a").absolute() == home / "a"
    assert web.path(".").absolute() == home and there.absolute() is there
    (here / "file").write_text("x")
    (here / "link").symlink_to("file")
    (here / "x").mkdir()
    assert (there / "link").samefile(there / "file") and there.samefile(str(there / "x" / ".."))
    assert not there.samefile("/")
    with pytest.raises(FileNotFoundError):
        there.samefile(there / "missing")


# Folders.


def test_walk_visits_what_os_walk_visits(here: Path, there: SshPath) -> None:
    for name in ("a/b/c", "a/d", "e", "closed"):
        (here / name).mkdir(parents=True)
        (here / name / "file").write_text("x")
    (here / "link").symlink_to("a/d")
    for follow in (False, True):
        for top_down in (True, False):
            found = list(there.walk(top_down, follow_symlinks=follow))
            shown = {str(path): (sorted(inner), sorted(rest)) for path, inner, rest in found}
            expected = {}
            for path, inner, rest in os.walk(here, followlinks=follow):
                links = [] if follow else [name for name in inner if name == "link"]
                expected[path] = (sorted({*inner} - {*links}), sorted(rest + links))
            assert shown == expected
            order = [str(path) for path, _, _ in found]
            assert (order.index(str(there / "a")) < order.index(str(there / "a/b"))) is top_down
    seen = []
    for folder, inner, _ in there.walk():
        inner[:] = [name for name in inner if name != "b"]
        seen.append(folder.name)
    assert "d" in seen and "b" not in seen and "c" not in seen


def test_walk_reports_folders_that_cannot_be_listed(here: Path, there: SshPath) -> None:
    problems: List[OSError] = []
    assert list((there / "missing").walk()) == []
    assert list((there / "missing").walk(on_error=problems.append)) == []
    assert [error.errno for error in problems] == [errno.ENOENT]


def test_glob_finds_what_pathlib_finds(here: Path, there: SshPath) -> None:
    for name in (
        "a/b/c/x.txt",
        "a/x.txt",
        "a/.hidden",
        "x.TXT",
        "y[1].txt",
        "a/b/x.log",
        "é/x.txt",
    ):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text("")
    (here / "link").symlink_to("a")
    (here / "dangling").symlink_to("nothing")
    patterns = ["*", "*.txt", "a/*", "*/*.txt", "**/*.txt", "**/b/*", "a/**/x.*", "y[[]1].txt"]
    patterns += ["?", "nothing*", "nothing/*", "a/x.txt", "a/b", "*/b/..", "link/*", "x.txt/*"]
    patterns += ["[!a]", "é/*", "**/c", "*/**/x.log", ".*", "**/.h*"]
    for pattern in patterns:
        expected = sorted(path.relative_to(here).parts for path in here.glob(pattern))
        found = [path.relative_to(there).parts for path in there.glob(pattern)]
        assert found == sorted(found) == expected, pattern
    expected = sorted(path.relative_to(here).parts for path in here.rglob("*.txt"))
    assert [path.relative_to(there).parts for path in there.rglob("*.txt")] == expected
    assert [path.name for path in there.glob("*/")] == ["a", "link", "é"]
    assert list((there / "missing").glob("*")) == [] == list((there / "missing").rglob("*"))


@pytest.mark.parametrize("pattern", ["", "/etc/*", ".", "a\0b", b"*", None])
def test_pattern_that_is_none_is_refused(web: Host, pattern: Any) -> None:
    with pytest.raises(SshConfigError, match="pattern: expected"):
        web.path("/etc").glob(pattern)


def knows_where_others_live(web: Host) -> bool:
    """Return whether the server can say so: OpenSSH 8.7 and later."""
    try:
        return web.path("~root").expanduser() is not None
    except OSError as error:
        assert error.errno == errno.EOPNOTSUPP
        return False


def test_entries_that_start_with_a_tilde_are_no_home_directories(
    web: Host, here: Path, there: SshPath
) -> None:
    """Nobody else's home is read, or removed, through the name of a file."""
    (here / "~root").mkdir()
    (here / "~root" / "file").write_text("ours")
    home = web.path("~").resolve()
    relative = web.path(os.path.relpath(here, str(home)))
    for folder in (there, relative):
        (child,) = folder.iterdir()
        assert (child / "file").read_text() == "ours"
        assert [one.read_text() for one in folder.rglob("file")] == ["ours"]
    assert str(web.path(".") / "~root") == "./~root"
    assert str(pickle.loads(pickle.dumps(web.path(".") / "~root"))) == "./~root"
    assert web.path("./~root") == web.path(".") / "~root" != web.path("~root")
    assert not (web.path(".") / "~root").exists()
    if knows_where_others_live(web):
        assert str(web.path("~root").expanduser()) == os.path.expanduser("~root")
    assert web.path("./~root").expanduser() == web.path("./~root")


def test_nothing_exists_in_the_home_of_no_user(web: Host) -> None:
    """As with pathlib, the questions are answered; what needs the file raises."""
    if not knows_where_others_live(web):
        pytest.skip("this sshd cannot say where others live")
    for path in (web.path("~no-such-user"), web.path("~no-such-user/x")):
        assert not (path.exists() or path.is_file() or path.is_dir() or path.is_symlink())
        assert not (path.is_fifo() or path.exists(follow_symlinks=False))
        with pytest.raises(FileNotFoundError):
            path.stat()


def test_copy_to_or_from_a_path_on_a_host_says_how(there: SshPath) -> None:
    for copy in (there.upload_from, there.download_to):
        with pytest.raises(SshConfigError, match="got SshPath, a path on a host; .* download"):
            copy(there / "other")  # type: ignore[arg-type]


def test_large_folder_is_listed_in_few_round_trips(
    web: Host, here: Path, there: SshPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 60 ms each, 10,000 entries take a second; OpenSSH's sftp takes a hundred round trips."""
    from ssh_service.copying.sftp.client import SftpClient

    for number in range(10_000):
        os.close(os.open(here / f"{number:05}", os.O_CREAT))
    assert there.exists()
    round_trips: List[int] = []
    collect, answered = SftpClient.collect, [0]

    def counted(client: SftpClient, timeout: Any) -> Any:
        # A trip begins when a request is sent after a reply to one of the trip before.
        replies = collect(client, timeout)
        answered[0] += len(replies)
        return replies

    flush = SftpClient.flush

    def flushed(client: SftpClient) -> None:
        if client._batch and (not round_trips or answered[0] > round_trips[-1]):
            round_trips.append(answered[0] + client.outstanding - 1)
        flush(client)

    monkeypatch.setattr(SftpClient, "collect", counted)
    monkeypatch.setattr(SftpClient, "flush", flushed)
    names = sorted(path.name for path in there.iterdir())
    assert names == [f"{number:05}" for number in range(10_000)]
    assert len(round_trips) <= 12, round_trips
    entries = dict(there.scandir())
    assert len(entries) == 10_000 and entries[there / "00000"].st_size == 0


def test_folders_are_made_with_their_parents(here: Path, there: SshPath) -> None:
    (there / "a" / "b" / "c").mkdir(parents=True)
    (there / "a" / "b" / "c").mkdir(parents=True, exist_ok=True)
    assert (here / "a" / "b" / "c").is_dir()
    (there / "private").mkdir(0o700)
    assert stat.S_IMODE((here / "private").stat().st_mode) == 0o700
    (there / "private").rmdir()
    assert not (here / "private").exists()


# Changes.


def test_files_are_renamed_and_replaced(here: Path, there: SshPath) -> None:
    (here / "file").write_text("new")
    (here / "other").write_text("old")
    renamed = (there / "file").rename(there / "other")
    assert renamed == there / "other" and renamed.read_text() == "new"
    assert not (here / "file").exists()
    assert (there / "other").replace(str(here / "third")) == there / "third"
    with pytest.raises(FileNotFoundError) as caught:
        (there / "third").rename(there / "missing" / "x")
    assert caught.value.filename2 == str(here / "missing" / "x")


def test_touch_makes_files_and_renews_their_times(here: Path, there: SshPath) -> None:
    (there / "new").touch()
    assert (here / "new").read_text() == ""
    (there / "private").touch(0o600)
    assert stat.S_IMODE((here / "private").stat().st_mode) == 0o600
    (here / "new").write_text("x")
    os.utime(here / "new", (1, 1))
    (there / "new").touch()
    assert (here / "new").read_text() == "x" and (here / "new").stat().st_mtime > 1e9


def test_links_are_made_read_and_resolved(web: Host, here: Path, there: SshPath) -> None:
    (here / "folder").mkdir()
    (there / "link").symlink_to("folder")
    (there / "absolute").symlink_to(there / "folder")
    (there / "tilde").symlink_to("~root")
    assert os.readlink(here / "link") == "folder"
    assert os.readlink(here / "absolute") == str(here / "folder")
    assert (there / "link").readlink() == web.path("folder")
    assert (there / "tilde").readlink() == web.path("./~root")
    real = there.resolve()
    assert str(real) == os.path.realpath(here)
    assert (there / "link" / ".." / "link").resolve() == real / "folder"
    assert (there / "link" / "a" / "b").resolve() == real / "folder" / "a" / "b"
    with pytest.raises(FileNotFoundError):
        (there / "link" / "a").resolve(strict=True)
    (there / "folder").chmod(0o711)
    assert stat.S_IMODE((here / "folder").stat().st_mode) == 0o711
    (there / "link").unlink()
    assert (here / "folder").is_dir() and not (here / "link").is_symlink()
    (there / "link").unlink(missing_ok=True)


def test_home_is_where_relative_paths_start(web: Host) -> None:
    home = web.run("pwd -P").stdout.rstrip("\n")
    assert str(web.path(".").resolve()) == str(web.path("~").resolve()) == home
    assert str(web.path("~/x").expanduser()) == f"{web.path('~').expanduser()}/x"
    assert web.path("/x").expanduser() == web.path("/x")


def test_copies_begin_and_end_at_a_path(here: Path, there: SshPath) -> None:
    (here / "source").mkdir()
    (here / "source" / "file").write_text("x")
    (there / "target").upload_from(here / "source", contents=True)
    (there / "target" / "file").download_to(here / "back")
    assert (here / "back").read_text() == "x"
    with pytest.raises(SshConfigError, match="cache: expected none"):
        there.download_to(here, cache=None)


# The rest.


def test_functions_for_local_files_refuse_a_path(here: Path, there: SshPath) -> None:
    """`shutil.rmtree(path)` must not delete here what was meant to be deleted there."""
    (here / "file").write_text("x")
    path: Any = there
    for call in (
        open,
        os.fspath,
        os.stat,
        os.remove,
        os.listdir,
        shutil.rmtree,
        Path,
        os.path.join,
    ):
        with pytest.raises(TypeError):
            call(path)
    with pytest.raises(TypeError):
        shutil.copy(here / "file", path)
    with pytest.raises(TypeError):
        here / path
    assert (here / "file").exists() and not isinstance(path, os.PathLike)


def test_threads_share_a_path_and_its_session(sshd: Sshd, there: SshPath) -> None:
    (there / "shared").write_text("0" * 100_000)

    def work(number: int) -> None:
        own = there / f"file{number}"
        for turn in range(5):
            own.write_text(f"{number} {turn}")
            assert own.read_text() == f"{number} {turn}"
            assert len((there / "shared").read_text()) == 100_000
        own.unlink()

    in_threads(8, work)
    assert [path.name for path in there.iterdir()] == ["shared"]
    assert sshd.logins() == 1


def test_path_is_pickled_with_its_host(sshd: Sshd, here: Path, there: SshPath) -> None:
    path = pickle.loads(pickle.dumps(there / "file"))
    assert str(path) == str(here / "file") and path.host.settings == there.host.settings
    assert path == pickle.loads(pickle.dumps(path)) and hash(path) == hash(
        pickle.loads(pickle.dumps(path))
    )
    path.write_text("x")
    assert (here / "file").read_text() == "x"
    ssh_service.close_all()
