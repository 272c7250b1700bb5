"""Ownership: files of other users are never removed, resumed, followed or written to."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import stat
import threading
from pathlib import Path
from typing import Any, Callable, Iterator, List

import pytest

from ssh_service.copying import temporary, upload_merge, upload_stream
from ssh_service.copying.local import target_file, target_folder, target_tree
from ssh_service.copying.ownership import is_guarded, is_our_file, is_shared, may_use
from ssh_service.copying.remote_files import RemoteFiles
from ssh_service.copying.sftp import decode, encode
from ssh_service.copying.sftp.protocol import POSIX_RENAME, Attributes
from ssh_service.copying.sftp.session import SftpSession
from tests.common import require_part
from tests.integration.sftp_processes import Shell, real_session
from tests.trees import unfinished_files
from tests.unit.sftp_harness import check, download, upload

STRANGER, OTHER = 65534, 1  # nobody; daemon, as sftp-server wants users that have a name
LARGE = 1_000_000
Copy = Callable[..., None]
BOTH = pytest.mark.parametrize("copy", [upload, download])


@pytest.fixture(name="as_root")
def only_root_can_play_two_users() -> None:
    if os.geteuid():
        pytest.skip("needs root, which can act as two users")


@pytest.fixture(name="session")
def session_beside_strangers(sftp_server: str, tmp_path: Path) -> Iterator[SftpSession]:
    """Give a session; a stranger's unfinished files may be left when it ends."""
    with real_session(sftp_server, tmp_path) as session:
        yield session


@pytest.fixture(name="ordinary")
def session_of_an_ordinary_user(
    as_root: None, sftp_server: str, tmp_path: Path
) -> Iterator[SftpSession]:
    """Give a session whose server runs as another user, in a home of theirs."""
    require_part(shutil.which("setpriv"), "needs setpriv (Debian: apt install util-linux)")
    for parent in (tmp_path, *list(tmp_path.parents)[:2]):
        parent.chmod(0o755)
    wrapper = tmp_path / "as-other"
    wrapper.write_text(
        f"#!/bin/sh\nexec setpriv --reuid={OTHER} --regid={OTHER} --clear-groups "
        f'{sftp_server} "$@"\n'
    )
    wrapper.chmod(0o755)
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, OTHER, OTHER)
    with real_session(str(wrapper), home) as session:
        yield session


@pytest.fixture(name="shared", params=[0o1777, 0o777], ids=["sticky", "writable"])
def folder_that_all_may_write_to(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(request.param)
    return folder


@pytest.fixture(name="sticky")
def folder_like_tmp(tmp_path: Path) -> Path:
    folder = tmp_path / "sticky"
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


@pytest.fixture(name="source")
def large_file(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(os.urandom(LARGE))
    return path


def name_of_the_dead(target: bytes) -> str:
    """Give the name of an unfinished file whose writer, a child of this process, is gone."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.write(writing, temporary.names.new(target))
        os._exit(0)
    os.waitpid(child, 0)
    name = os.read(reading, 100)
    os.close(reading)
    os.close(writing)
    return os.fsdecode(name)


def planted(folder: Path, target: str, content: bytes, owner: int = STRANGER) -> Path:
    """Make what looks like an unfinished copy, old enough to be removed."""
    path = folder / name_of_the_dead(os.fsencode(target))
    path.write_bytes(content)
    os.chown(path, owner, owner)
    os.utime(path, (0, 0))
    return path


# The rules.


def seen(uid: int, mode: int, gid: int = 100) -> Attributes:
    return Attributes(uid=uid, gid=gid, mode=mode)


@pytest.mark.parametrize(
    "folder, expected",
    [
        (seen(1, stat.S_IFDIR | 0o755), True),
        (seen(0, stat.S_IFDIR | 0o1777), True),
        (seen(1, stat.S_IFDIR | 0o775, gid=1), True),  # the user's private group
        (seen(1, stat.S_IFDIR | 0o775), False),
        (seen(1, stat.S_IFDIR | 0o777), False),
        (seen(2, stat.S_IFDIR | 0o755), False),
        (seen(2, stat.S_IFDIR | 0o1777), False),
        (seen(1, stat.S_IFLNK | 0o777), False),
        (Attributes(uid=1), False),
    ],
)
def test_is_guarded_only_where_no_stranger_changes_entries(
    folder: Attributes, expected: bool
) -> None:
    """Entries are safe in folders of ours or root's, sticky or not writable by others."""
    assert is_guarded(folder, 1) is expected


def test_is_our_file_wants_owner_kind_and_one_name() -> None:
    """A file of another owner or kind, or with a second name, is not ours."""
    assert is_our_file(seen(1, stat.S_IFREG), 1, 1)
    assert not is_our_file(seen(2, stat.S_IFREG), 1, 1)
    assert not is_our_file(seen(1, stat.S_IFLNK), 1, 1)
    assert not is_our_file(seen(1, stat.S_IFREG), 1, 2)
    assert not is_our_file(Attributes(mode=stat.S_IFREG), 1, 1)


def test_may_use_follows_the_kernels_rule_for_shared_folders() -> None:
    """As fs.protected_regular: one's own files, and those of the folder's owner."""
    tmp, private = seen(0, stat.S_IFDIR | 0o1777), seen(2, stat.S_IFDIR | 0o755)
    assert is_shared(tmp) and not is_shared(private)
    assert may_use(seen(1, stat.S_IFREG), tmp, 1)
    assert may_use(seen(0, stat.S_IFREG), tmp, 1)
    assert not may_use(seen(2, stat.S_IFREG), tmp, 1)
    assert not may_use(Attributes(mode=stat.S_IFLNK), tmp, 1)
    assert may_use(seen(2, stat.S_IFREG), private, 1)


# Removing.


class Attack:
    """A stranger's unfinished folder, in which a folder is exchanged for a link to a victim's."""

    def __init__(self, shared: Path, victim: Path) -> None:
        self.folder = shared / name_of_the_dead(b"tree")
        self.inner = self.folder / "inner"
        self.link = self.folder / "link"
        self.inner.mkdir(parents=True)
        self.folder.chmod(0o700)
        victim.mkdir(mode=0o700)
        for number in range(40):
            (self.inner / f"precious{number}").touch()
            (victim / f"precious{number}").write_bytes(b"precious")
        self.link.symlink_to(victim)
        for path in (self.folder, self.inner):
            os.chown(path, STRANGER, STRANGER)
            os.utime(path, (0, 0))

    def swap(self) -> None:
        aside = self.folder / "aside"
        os.rename(self.inner, aside)
        os.rename(self.link, self.inner)
        os.rename(aside, self.link)


@pytest.fixture(name="chain")
def tree_that_takes_many_round_trips(tmp_path: Path) -> Path:
    """Give folders in folders, each made after the one around it: the sweep has time."""
    folder = tmp_path / "chain"
    for level in range(60):
        folder.mkdir()
        (folder / "file").write_bytes(b"x")
        folder = folder / str(level)
    return tmp_path / "chain"


def test_stale_removal_does_not_follow_planted_links(
    as_root: None,
    session: SftpSession,
    shared: Path,
    tmp_path: Path,
    chain: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A folder exchanged for a link between its listing and the removals costs no file."""
    victim = tmp_path / "victim"
    attack = Attack(shared, victim)
    original = encode.remove
    swapped: List[Any] = []

    def swap_and_remove(request_id: int, path: bytes) -> bytes:
        if b"precious" in path and not swapped:
            swapped.append(path)
            attack.swap()
        return original(request_id, path)

    monkeypatch.setattr(encode, "remove", swap_and_remove)
    for number in range(3):
        upload(session, chain, shared / f"tree{number}")
        session.facts.cleaned_folders.clear()
    assert len(os.listdir(victim)) == 40
    assert len(os.listdir(attack.inner)) == 40


def test_stale_removal_is_safe_while_a_stranger_swaps(
    as_root: None, session: SftpSession, shared: Path, tmp_path: Path, chain: Path
) -> None:
    """The same with an attacker who never stops."""
    victim = tmp_path / "victim"
    attack = Attack(shared, victim)
    over = threading.Event()

    def swap() -> None:
        while not over.is_set():
            attack.swap()

    attacker = threading.Thread(target=swap)
    attacker.start()
    try:
        for number in range(6):
            upload(session, chain, shared / f"tree{number}")
            session.facts.cleaned_folders.clear()
    finally:
        over.set()
        attacker.join()
    assert len(os.listdir(victim)) == 40


@BOTH
def test_stale_removal_keeps_strangers_files(
    as_root: None, session: SftpSession, sticky: Path, tmp_path: Path, copy: Copy
) -> None:
    """In a folder like /tmp, our dead copies' files are removed, and no others."""
    ours = planted(sticky, "x", b"ours", owner=0)
    theirs = planted(sticky, "x", b"theirs")
    other_name = planted(sticky, "x", b"two names", owner=0)
    os.link(other_name, tmp_path / "another name")
    (tmp_path / "file").write_bytes(b"x")
    copy(session, tmp_path / "file", sticky / "file")
    assert not ours.exists()
    assert theirs.read_bytes() == b"theirs"
    assert other_name.exists()


def test_stale_removal_skips_folders_strangers_can_change(
    as_root: None, session: SftpSession, tmp_path: Path
) -> None:
    """By path, nothing is removed from a folder that others may write to and is not sticky."""
    folder = tmp_path / "writable"
    folder.mkdir()
    folder.chmod(0o777)
    ours = planted(folder, "x", b"ours", owner=0)
    (tmp_path / "file").write_bytes(b"x")
    upload(session, tmp_path / "file", folder / "file")
    assert ours.exists()


def test_tree_is_not_unpacked_in_unguarded_folder(
    as_root: None, session: SftpSession, shared: Path, tmp_path: Path
) -> None:
    """In a folder that is not sticky, the unfinished tree could be exchanged."""
    source = tmp_path / "many"
    source.mkdir()
    for number in range(100):
        (source / str(number)).write_bytes(b"x")
    commands: List[bytes] = []

    def refuse(command: bytes, process: Any) -> None:
        commands.append(command)
        process.on_exit(1)

    upload(session, source, shared / "tree", shell=refuse)
    assert len(os.listdir(shared / "tree")) == 100
    is_sticky = bool(shared.stat().st_mode & stat.S_ISVTX)
    assert bool(commands) == is_sticky


# Continuing.


@BOTH
@pytest.mark.parametrize("planted_size", [0, LARGE // 2])
def test_resume_does_not_take_over_a_strangers_file(
    as_root: None,
    session: SftpSession,
    shared: Path,
    source: Path,
    copy: Copy,
    planted_size: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its owner could read what is written, and change it afterwards."""
    theirs = planted(shared, "target", source.read_bytes()[:planted_size])
    with caplog.at_level(logging.WARNING, "ssh_service.copying"):
        copy(session, source, shared / "target", resume=True)
    assert (shared / "target").read_bytes() == source.read_bytes()
    assert (shared / "target").stat().st_uid == 0
    assert theirs.stat().st_size == planted_size
    assert [r for r in caplog.records if "not resumed" in r.getMessage()]


@BOTH
def test_resume_does_not_take_over_a_file_with_two_names(
    as_root: None, session: SftpSession, sticky: Path, source: Path, copy: Copy, tmp_path: Path
) -> None:
    """A hard link of a stranger's making may name any file of ours."""
    victim = tmp_path / "victim"
    victim.write_bytes(source.read_bytes()[: LARGE // 2])
    left = sticky / name_of_the_dead(b"target")
    os.link(victim, left)
    copy(session, source, sticky / "target", resume=True)
    assert victim.stat().st_size == LARGE // 2
    assert (sticky / "target").read_bytes() == source.read_bytes()


def test_resume_continues_our_own_file_in_a_sticky_folder(
    session: SftpSession, sticky: Path, source: Path
) -> None:
    """Our own unfinished file in a folder like /tmp is resumed there."""
    left = sticky / name_of_the_dead(b"target")
    left.write_bytes(source.read_bytes()[: LARGE - 10])
    before = session.sent
    upload(session, source, sticky / "target", resume=True)
    assert session.sent - before < LARGE // 2
    assert (sticky / "target").read_bytes() == source.read_bytes()
    assert not unfinished_files(sticky)


@pytest.mark.parametrize("reported", [None, 1000], ids=["none", "the same"])
def test_resume_without_reported_owners_resumes_nothing(
    session: SftpSession,
    sticky: Path,
    source: Path,
    reported: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A server without owners, or with one for all files, proves nothing; one warning says so."""
    original = decode._take_attributes

    def take(body: bytes, at: int) -> Any:
        attributes, at = original(body, at)
        return attributes._replace(uid=reported, gid=reported), at

    monkeypatch.setattr(decode, "_take_attributes", take)
    left = sticky / name_of_the_dead(b"target")
    left.write_bytes(source.read_bytes()[: LARGE // 2])
    with caplog.at_level(logging.WARNING, "ssh_service.copying"):
        upload(session, source, sticky / "target", resume=True)
    assert (sticky / "target").read_bytes() == source.read_bytes()
    assert left.exists()
    assert len([r for r in caplog.records if "not resumed" in r.getMessage()]) == 1


# Targets.


@BOTH
def test_a_strangers_file_in_a_shared_folder_is_refused(
    as_root: None, session: SftpSession, shared: Path, source: Path, copy: Copy
) -> None:
    """It is neither replaced nor written to, and nothing is given to its owner."""
    target = shared / "target"
    target.write_bytes(b"old")
    os.chown(target, STRANGER, STRANGER)
    with pytest.raises(PermissionError, match=f"uid {STRANGER}") as caught:
        copy(session, source, target)
    check(caught.value, errno.EACCES, target)
    assert target.read_bytes() == b"old"
    assert target.stat().st_uid == STRANGER
    assert not unfinished_files(shared)


@BOTH
@pytest.mark.parametrize("is_direct", [True, False], ids=["direct", "by our link"])
def test_a_strangers_link_in_a_shared_folder_is_not_followed(
    as_root: None,
    session: SftpSession,
    shared: Path,
    source: Path,
    tmp_path: Path,
    copy: Copy,
    is_direct: bool,
) -> None:
    """Wherever it leads: to a file of ours, or to where none is yet."""
    (tmp_path / "victim").write_bytes(b"victim")
    for number, name in enumerate(("victim", "nothing")):
        link = shared / f"link{number}"
        link.symlink_to(tmp_path / name)
        os.chown(link, STRANGER, STRANGER, follow_symlinks=False)
        target = link
        if not is_direct:
            target = tmp_path / f"our link{number}"
            target.symlink_to(link)
        with pytest.raises(PermissionError):
            copy(session, source, target)
    assert (tmp_path / "victim").read_bytes() == b"victim"
    assert not (tmp_path / "nothing").exists()


@BOTH
@pytest.mark.parametrize("is_tree", [False, True], ids=["file", "tree"])
def test_a_strangers_link_to_a_folder_is_not_followed(
    as_root: None,
    session: SftpSession,
    shared: Path,
    source: Path,
    tmp_path: Path,
    copy: Copy,
    is_tree: bool,
) -> None:
    """Else files would land in a folder of the stranger's choice."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (shared / "link").symlink_to(victim)
    os.chown(shared / "link", STRANGER, STRANGER, follow_symlinks=False)
    if is_tree:
        tree = tmp_path / "tree"
        tree.mkdir()
        (tree / "file").write_bytes(b"x")
        source = tree
    with pytest.raises(PermissionError):
        copy(session, source, shared / "link")
    assert not os.listdir(victim)


@BOTH
def test_our_own_file_and_link_in_a_shared_folder_are_used(
    as_root: None, session: SftpSession, shared: Path, source: Path, tmp_path: Path, copy: Copy
) -> None:
    """Only strangers' are refused; those of the folder's owner are allowed, as by the kernel."""
    os.chown(shared, OTHER, OTHER)
    for number, owner in enumerate((0, OTHER)):
        target, link = shared / f"target{number}", shared / f"link{number}"
        target.write_bytes(b"old")
        link.symlink_to(target)
        os.chown(target, owner, owner)
        os.chown(link, owner, owner, follow_symlinks=False)
        copy(session, source, link)
        assert link.is_symlink()
        assert target.read_bytes() == source.read_bytes()
        assert target.stat().st_uid == owner


@BOTH
def test_link_does_not_replace_foreign_file_in_shared_folder(
    as_root: None, session: SftpSession, shared: Path, tmp_path: Path, copy: Copy
) -> None:
    """Links that are kept as links are as careful as files."""
    source = tmp_path / "links"
    source.mkdir()
    (source / "target").symlink_to("anywhere")
    (shared / "target").write_bytes(b"old")
    os.chown(shared / "target", STRANGER, STRANGER)
    with pytest.raises(PermissionError, match=f"uid {STRANGER}"):
        copy(session, source, shared, contents=True, links="keep")
    assert (shared / "target").read_bytes() == b"old"


@BOTH
@pytest.mark.parametrize("is_tree", [False, True], ids=["file", "tree"])
def test_foreign_link_behind_own_link_is_not_followed(
    as_root: None,
    session: SftpSession,
    shared: Path,
    source: Path,
    tmp_path: Path,
    copy: Copy,
    is_tree: bool,
) -> None:
    """A link of ours to a folder may lead on by a stranger's."""
    (tmp_path / "victim").mkdir()
    (shared / "theirs").symlink_to(tmp_path / "victim")
    os.chown(shared / "theirs", STRANGER, STRANGER, follow_symlinks=False)
    (tmp_path / "ours").symlink_to(shared / "theirs")
    if is_tree:
        source = tree_of(tmp_path / "tree", source.read_bytes())
    with pytest.raises(PermissionError, match=f"a symbolic link of uid {STRANGER}"):
        copy(session, source, tmp_path / "ours", contents=is_tree)
    assert not os.listdir(tmp_path / "victim")


def tree_of(path: Path, content: bytes, count: int = 1) -> Path:
    """Make a folder of files, which are of one age."""
    path.mkdir()
    for number in range(count):
        (path / f"file{number}").write_bytes(content)
        os.utime(path / f"file{number}", (1_000_000_000, 1_000_000_000))
    return path


def folder_of_a_stranger(path: Path, victim: Path) -> Path:
    """Make what a stranger would, where a file or a folder of ours is expected."""
    path.mkdir(parents=True)
    for name in ("file0", "source"):
        (path / name).symlink_to(victim)
    os.chown(path, STRANGER, STRANGER)
    return path


@BOTH
@pytest.mark.parametrize("what", ["file", "tree", "contents", "tree into", "update"])
def test_a_strangers_folder_in_a_shared_folder_is_refused(
    as_root: None,
    session: SftpSession,
    shared: Path,
    source: Path,
    tmp_path: Path,
    copy: Copy,
    what: str,
) -> None:
    """Its links would lead what is copied to any place of its owner's choice."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"victim")
    if what != "file":
        source = tree_of(tmp_path / "tree", b"x", 100)
    theirs = folder_of_a_stranger(shared / "tree", victim)
    options = {name: True for name in ("contents", "update") if name == what}
    with pytest.raises(PermissionError, match=f"a folder of uid {STRANGER}.*a slash") as caught:
        copy(session, source, shared if "into" in what else theirs, **options)
    check(caught.value, errno.EACCES, theirs)
    assert victim.read_bytes() == b"victim"


@BOTH
def test_foreign_folder_in_shared_folder_of_tree_is_refused(
    as_root: None, session: SftpSession, tmp_path: Path, copy: Copy
) -> None:
    """Not only the tree's root may lie in a folder that others may write to."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"victim")
    (tmp_path / "source" / "uploads").mkdir(parents=True)
    tree_of(tmp_path / "source" / "uploads" / "tree", b"x", 100)
    shared = tmp_path / "target" / "uploads"
    folder_of_a_stranger(shared / "tree", victim)
    shared.chmod(0o1777)
    with pytest.raises(PermissionError, match=f"a folder of uid {STRANGER}"):
        copy(session, tmp_path / "source", tmp_path / "target", contents=True, preserve=False)
    assert victim.read_bytes() == b"victim"


@pytest.mark.parametrize("times", [1, 1000], ids=["once", "always"])
def test_a_folder_is_checked_even_if_it_seems_to_be_missing_by_then(
    as_root: None,
    session: SftpSession,
    shared: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    times: int,
) -> None:
    """A stranger may remove a link for the moment in which it is looked at."""
    (tmp_path / "victim").mkdir()
    link = shared / "theirs"
    link.symlink_to(tmp_path / "victim")
    os.chown(link, STRANGER, STRANGER, follow_symlinks=False)
    original, looks = encode.lstat, [0]

    def lstat(request_id: int, path: bytes) -> Any:
        looks[0] += path == os.fsencode(link)
        is_gone = path == os.fsencode(link) and looks[0] <= times
        return original(request_id, path + b".gone" * is_gone)

    monkeypatch.setattr(encode, "lstat", lstat)
    error = PermissionError if times == 1 else FileNotFoundError
    with pytest.raises(error):
        upload(session, tree_of(tmp_path / "tree", b"x", 3), link, contents=True)
    assert not os.listdir(tmp_path / "victim")


@pytest.mark.parametrize("update", [False, True])
def test_files_are_replaced_in_a_folder_of_ours_that_takes_none(
    ordinary: SftpSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, update: bool
) -> None:
    """A tree that its owner may only read, such as a cache of packages, can be copied again."""
    for module in (upload_stream, upload_merge):
        monkeypatch.setattr(module, "MANY_FILES", 5)
    source, target = tree_of(tmp_path / "tree", b"x", 10), tmp_path / "home" / "target"
    for path in (*source.iterdir(), source):
        path.chmod(0o555 if path == source else 0o444)
    options = {"update": True} if update else {"preserve": False}
    upload(ordinary, source, target, contents=True)
    (source / "file0").write_bytes(b"new")
    upload(ordinary, source, target, contents=True, shell=Shell(tmp_path / "home"), **options)
    assert (target / "file0").read_bytes() == b"new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o555


@BOTH
@pytest.mark.parametrize("is_tree", [False, True], ids=["file", "tree"])
def test_a_strangers_folder_with_a_slash_is_used(
    as_root: None, session: SftpSession, shared: Path, tmp_path: Path, copy: Copy, is_tree: bool
) -> None:
    """The slash says that the existing folder is meant."""
    source = tree_of(tmp_path / "tree", b"x")
    (shared / "theirs").mkdir()
    os.chown(shared / "theirs", STRANGER, STRANGER)
    target = f"{shared / 'theirs'}/"
    copy(session, source if is_tree else source / "file0", target, contents=is_tree)
    assert (shared / "theirs" / "file0").read_bytes() == b"x"
    if is_tree:
        copy(session, source, target)
        assert (shared / "theirs" / "tree" / "file0").read_bytes() == b"x"


@BOTH
@pytest.mark.parametrize("count", [1, 100])
def test_update_does_not_take_a_strangers_file_for_ours(
    as_root: None, session: SftpSession, tmp_path: Path, copy: Copy, count: int
) -> None:
    """Size and time are easily made, and the content would be the stranger's."""
    (tmp_path / "source").mkdir()
    tree_of(tmp_path / "source" / "uploads", b"good", count)
    (tmp_path / "target").mkdir()
    shared = tree_of(tmp_path / "target" / "uploads", b"evil")
    os.chown(shared / "file0", STRANGER, STRANGER)
    shared.chmod(0o1777)
    with pytest.raises(PermissionError, match=f"a file of uid {STRANGER}"):
        copy(session, tmp_path / "source", tmp_path / "target", contents=True, update=True)
    if count == 1:
        source = tmp_path / "source" / "uploads" / "file0"
        with pytest.raises(PermissionError, match=f"a file of uid {STRANGER}"):
            copy(session, source, shared / "file0", update=True)


def write_in_place(session: SftpSession) -> None:
    """Have files that are there written into, as on servers that cannot rename over them."""
    del session.extensions[POSIX_RENAME]
    session.facts.rename_replaces = False


def test_overwritten_file_replaced_by_link_is_not_followed(
    session: SftpSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is made or lost behind a link that takes our file's place after the look."""
    write_in_place(session)
    folder, source, victim = tmp_path / "folder", tmp_path / "source", tmp_path / "victim"
    folder.mkdir()
    folder.chmod(0o777)
    for path, content in ((source, b"new"), (victim, b"victim"), (folder / "target", b"old")):
        path.write_bytes(content)
    original = RemoteFiles.open

    async def swap(self: RemoteFiles, path: bytes, *rest: Any) -> bytes:
        if path == os.fsencode(folder / "target"):
            os.unlink(path)
            os.symlink(victim, path)
        return await original(self, path, *rest)

    monkeypatch.setattr(RemoteFiles, "open", swap)
    with pytest.raises(PermissionError, match="replaced while it was being opened") as caught:
        upload(session, source, folder / "target")
    check(caught.value, errno.EACCES, folder / "target")
    assert victim.read_bytes() == b"victim"
    (folder / "target").unlink()
    (folder / "target").write_bytes(b"old")
    victim.unlink()
    with pytest.raises(FileNotFoundError):
        upload(session, source, folder / "target")
    assert not victim.exists()


def test_own_file_in_shared_folder_is_overwritten_if_necessary(
    session: SftpSession, shared: Path, tmp_path: Path
) -> None:
    write_in_place(session)
    (tmp_path / "source").write_bytes(b"new")
    (shared / "target").write_bytes(b"old content")
    inode = (shared / "target").stat().st_ino
    upload(session, tmp_path / "source", shared / "target")
    assert (shared / "target").read_bytes() == b"new"
    assert (shared / "target").stat().st_ino == inode


@pytest.mark.parametrize("count", [1, 100])
def test_links_keep_file_replaced_by_link_is_not_followed(
    session: SftpSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """A stranger's file may become a link after it was listed, to one that only we may read."""
    (tmp_path / "victim").write_bytes(b"victim")
    source = tree_of(tmp_path / "source", b"x", count)
    original = os.open

    def swap(path: Any, *rest: Any, **more: Any) -> int:
        if path == b"file0" and not (source / path.decode()).is_symlink():
            os.unlink(source / "file0")
            os.symlink(tmp_path / "victim", source / "file0")
        return original(path, *rest, **more)

    monkeypatch.setattr(os, "open", swap)
    shell, copied = Shell(tmp_path), tmp_path / "target" / "file0"
    with contextlib.suppress(OSError):  # or it is copied as the link that it is now
        upload(session, source, tmp_path / "target", links="keep", shell=shell)
    shell.wait()
    assert (source / "file0").is_symlink()
    assert copied.is_symlink() or not copied.exists()


@pytest.mark.parametrize("count", [1, 100])
@pytest.mark.parametrize("levels", [1, 20])
@pytest.mark.parametrize("swapped", ["before it is listed", "before its file is opened"])
def test_links_keep_folder_replaced_by_link_is_not_followed(
    session: SftpSession,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    levels: int,
    swapped: str,
) -> None:
    """A stranger's folder may become a link, to one that only we may read."""
    source, way = tmp_path / "source", Path(*["folder"] * levels)
    victim = tree_of(tmp_path / "victim", b"victim", count)
    (source / way).parent.mkdir(parents=True)
    folder = tree_of(source / way, b"x", count)
    flag = os.O_DIRECTORY if swapped == "before it is listed" else 0
    last = b"folder" if flag else b"file0"
    original, away, swaps = os.open, tmp_path / "away", []

    def swap(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if os.path.basename(os.fsencode(path)) != last or flags & os.O_DIRECTORY != flag:
            return original(path, flags, *rest, **more)
        swaps.append(path)
        os.rename(folder, away)
        os.symlink(victim, folder)
        try:
            return original(path, flags, *rest, **more)
        finally:
            os.unlink(folder)
            os.rename(away, folder)

    monkeypatch.setattr(os, "open", swap)
    shell = Shell(tmp_path)
    with contextlib.suppress(OSError):
        upload(session, source, tmp_path / "target", links="keep", shell=shell)
    shell.wait()
    assert swaps
    copied = [path for path in (tmp_path / "target").rglob("file*") if not path.is_symlink()]
    assert all(path.read_bytes() == b"x" for path in copied)


def test_link_made_after_the_check_of_a_tree_is_not_followed(
    as_root: None,
    session: SftpSession,
    shared: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A stranger may exchange the folder that was looked at, before it is opened."""
    (tmp_path / "victim").mkdir()
    source = tree_of(tmp_path / "source", b"x")
    original = target_tree._make

    def make(path: bytes, mode: int, fd: Any) -> bool:
        is_new = original(path, mode, fd)
        if fd is None:
            os.rmdir(path)
            os.symlink(tmp_path / "victim", path)
        return is_new

    monkeypatch.setattr(target_tree, "_make", make)
    with pytest.raises(OSError, match="Not a directory|Too many levels"):
        download(session, source, shared / "tree")
    assert not os.listdir(tmp_path / "victim")


def test_link_made_after_the_check_of_a_file_is_not_followed(
    as_root: None,
    session: SftpSession,
    shared: Path,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Our link leads to a name that a stranger may make a link of at any time."""
    (tmp_path / "victim").write_bytes(b"victim")
    (shared / "ours").symlink_to(shared / "free")
    original = getattr(target_file, "follow_links")

    def follow(path: bytes) -> bytes:
        found = original(path)
        os.symlink(tmp_path / "victim", found)
        os.chown(found, STRANGER, STRANGER, follow_symlinks=False)
        return found

    monkeypatch.setattr(target_file, "follow_links", follow)
    monkeypatch.setattr(target_folder, "follow_links", lambda path: path)
    with pytest.raises(PermissionError, match=f"a symbolic link of uid {STRANGER}"):
        download(session, source, shared / "ours")
    assert (tmp_path / "victim").read_bytes() == b"victim"


@BOTH
def test_stale_removal_removes_our_unfinished_links(
    as_root: None, session: SftpSession, sticky: Path, tmp_path: Path, copy: Copy
) -> None:
    """Removing a link touches nothing that it leads to; a stranger's stays."""
    for owner in (0, STRANGER):
        link = sticky / name_of_the_dead(b"x")
        link.symlink_to(tmp_path / "file")
        os.chown(link, owner, owner, follow_symlinks=False)
        os.utime(link, (0, 0), follow_symlinks=False)
    (tmp_path / "file").write_bytes(b"x")
    copy(session, tmp_path / "file", sticky / "file")
    assert [os.lstat(path).st_uid for path in unfinished_files(sticky)] == [STRANGER]
    assert (tmp_path / "file").read_bytes() == b"x"


@contextlib.contextmanager
def acting_as(uid: int) -> Iterator[None]:
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("owner, is_refused", [(OTHER, False), (STRANGER, True)])
def test_a_sticky_folder_that_takes_no_files_of_ours(
    as_root: None, ordinary: SftpSession, tmp_path: Path, owner: int, is_refused: bool
) -> None:
    """Our own file in there is written in place: who we are shows in the home, then."""
    folder, source = tmp_path / "sticky", tmp_path / "source"
    folder.mkdir()
    folder.chmod(0o1755)
    source.write_bytes(b"new")
    target = folder / "target"
    target.write_bytes(b"old")
    target.chmod(0o666)
    os.chown(target, owner, owner)
    if is_refused:
        with pytest.raises(PermissionError, match=f"uid {owner}"):
            upload(ordinary, source, target)
    else:
        upload(ordinary, source, target)
    assert target.read_bytes() == (b"old" if is_refused else b"new")


@BOTH
def test_an_ordinary_user_is_refused_a_strangers_file_too(
    as_root: None, ordinary: SftpSession, shared: Path, source: Path, copy: Copy
) -> None:
    """Whatever the kernel's own protection is set to."""
    target = shared / "target"
    target.write_bytes(b"old")
    target.chmod(0o666)
    os.chown(target, STRANGER, STRANGER)
    with acting_as(OTHER), pytest.raises(PermissionError, match=f"uid {STRANGER}"):
        copy(ordinary, source, target)
    assert target.read_bytes() == b"old"
