"""``delete=True``: what only the target has is deleted, and nothing that anybody may miss."""

from __future__ import annotations

import contextlib
import functools
import os
import pwd
import stat
from pathlib import Path
from typing import Any, Callable, Iterator, List, Set

import pytest

from ssh_service.copying import downloading, temporary, upload_merge, upload_stream
from ssh_service.copying.deletions import Deletions, SourceNames
from ssh_service.copying.local import deletion as local_deletion
from ssh_service.copying.local.source_tree import SourceTree
from ssh_service.copying.options import Options
from ssh_service.copying.remote_files import RemoteFiles
from ssh_service.copying.replies import parse_attributes
from ssh_service.copying.sftp import encode
from ssh_service.copying.sftp.protocol import Attributes
from ssh_service.copying.sftp.session import SftpSession
from ssh_service.errors import SshConfigError, SshTransferError, SshTreeError
from tests.integration.sftp_processes import Shell, real_session
from tests.unit.sftp_harness import download, upload

WAYS = ["up by sftp", "up in a stream", "down by sftp", "down in a stream"]
BOTH = pytest.mark.parametrize("one", [upload, download])
STRANGER = 65534
Copy = Callable[..., Any]


@pytest.fixture(name="session")
def session_beside_strangers(
    sftp_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SftpSession]:
    """Give a session that begins in a folder of its own, and a local home of its own."""
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with real_session(sftp_server, tmp_path / "home") as session:
        yield session


@pytest.fixture(name="copy", params=WAYS)
def copies(
    request: pytest.FixtureRequest,
    session: SftpSession,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Copy:
    """Give what mirrors a tree, each way; in a stream, one file is worth it."""
    monkeypatch.setattr(upload_stream, "MANY_FILES", 1)
    monkeypatch.setattr(upload_merge, "MANY_FILES", 1)
    monkeypatch.setattr(downloading, "MANY_FILES", 0)
    one = upload if request.param.startswith("up") else download
    shell = Shell(tmp_path / "home") if request.param.endswith("stream") else None
    return functools.partial(one, session, shell=shell, contents=True, delete=True)


def tree(root: Path, *names: str) -> Path:
    """Make files, and folders where a name ends with a slash."""
    root.mkdir(exist_ok=True)
    for name in names:
        path = root / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.write_text(name)
    return root


def content(root: Path) -> Set[str]:
    found = set()
    for folder, folders, files in os.walk(root):
        found |= {os.path.relpath(os.path.join(folder, name), root) for name in folders + files}
    return found


# What is deleted.


def test_delete_makes_the_target_like_the_source(copy: Copy, tmp_path: Path) -> None:
    """Files, trees, links and special files that the source does not have."""
    source = tree(tmp_path / "source", "a/file", "b", "empty/")
    target = tree(tmp_path / "target", "a/old", "b", "old/deep/er/file", "old/empty/", "odd\nname")
    (target / "a" / "link").symlink_to("nowhere")
    os.mkfifo(target / "a" / "fifo")
    os.chmod(target / "old" / "deep" / "er", 0o555)
    os.link(target / "b", target / "linked twice")
    copy(source, target)
    assert content(target) == content(source)
    assert (target / "b").read_text() == "b"


def test_delete_into_a_new_folder_deletes_nothing(copy: Copy, tmp_path: Path) -> None:
    source = tree(tmp_path / "source", "a/file")
    copy(source, tmp_path / "target")
    assert content(tmp_path / "target") == content(source)


def test_folder_times_are_those_of_the_source(copy: Copy, tmp_path: Path) -> None:
    """Deleting changes the time of a folder; the copy sets it afterwards."""
    source, target = tree(tmp_path / "source", "a/file"), tree(tmp_path / "target", "a/old")
    os.utime(source / "a", (1_500_000_000, 1_500_000_000))
    copy(source, target)
    assert (target / "a").stat().st_mtime == 1_500_000_000


@BOTH
def test_dry_run_lists_what_would_be_deleted(
    session: SftpSession, one: Copy, tmp_path: Path
) -> None:
    """Nothing is changed; entries that stay are listed with the reason."""
    source = tree(tmp_path / "source", "a/file", "x.tmp")
    target = tree(tmp_path / "target", "a/old", "old/file", "y.tmp", "keeps/z.tmp", "x.tmp")
    before = content(target)
    options: Any = {"contents": True, "delete": True, "exclude": "*.tmp"}
    plan = one(session, source, target, dry_run=True, **options)
    assert content(target) == before
    found = [(a.action, os.path.relpath(a.path, target), a.kind) for a in plan]
    assert [each for each in found if each[0] in ("delete", "keep")] == [
        ("delete", "a/old", "file"),
        ("keep", "keeps/z.tmp", "file"),
        ("delete", "old", "folder"),
        ("delete", "old/file", "file"),
        ("keep", "y.tmp", "file"),
    ]
    one(session, source, target, **options)
    assert before - content(target) == {os.path.relpath(path, target) for path in plan.deleted}


# What stays.


def test_excluded_entries_stay(copy: Copy, tmp_path: Path) -> None:
    """Also within a folder that the source does not have, which then stays as well."""
    source = tree(tmp_path / "source", "file", "cache")
    target = tree(
        tmp_path / "target", ".env", "cache/data", "old/.env", "old/gone", "gone/gone", "gone2"
    )
    copy(source, target, exclude=[".env", "cache"])
    assert content(target) == {"file", ".env", "cache", "cache/data", "old", "old/.env"}


def test_entry_that_the_source_excludes_stays_whatever_it_is(copy: Copy, tmp_path: Path) -> None:
    """A folder is excluded here, and a file of that name is not; it stays all the same."""
    source, target = tree(tmp_path / "source", "file", "cache/x"), tree(
        tmp_path / "target", "cache"
    )
    copy(source, target, exclude="cache/")
    assert content(target) == {"file", "cache"}


def test_links_are_deleted_but_not_followed(copy: Copy, tmp_path: Path) -> None:
    """Neither a link that goes, nor one in the place of a folder of the source."""
    source = tree(tmp_path / "source", "sub/file")
    target, elsewhere = tree(tmp_path / "target", "x"), tree(tmp_path / "elsewhere", "a", "b/c")
    (target / "old").symlink_to(elsewhere)
    copy(source, target)
    assert content(target) == {"sub", "sub/file"}
    assert content(elsewhere) == {"a", "b", "b/c"}


def test_folder_that_a_link_leads_to_stays(copy: Copy, tmp_path: Path) -> None:
    """The copy writes through a link inside the target; what it wrote is not deleted."""
    source = tree(tmp_path / "source", "sub/file")
    target = tree(tmp_path / "target", "data/mine", "gone/file")
    (target / "sub").symlink_to("data")
    copy(source, target)
    assert content(target) == {"sub", "data", "data/mine", "data/file"}


def test_folder_that_a_link_behind_a_link_leads_to_stays(copy: Copy, tmp_path: Path) -> None:
    source = tree(tmp_path / "source", "sub/deep/file")
    target = tree(tmp_path / "target", "data/mine", "other/mine", "gone/file")
    (target / "sub").symlink_to("data")
    (target / "data" / "deep").symlink_to("../other")
    copy(source, target)
    assert (target / "sub" / "deep" / "file").exists() and (target / "other" / "mine").exists()
    assert not (target / "gone").exists()


@pytest.mark.parametrize("is_planned", [False, True])
def test_entry_that_may_be_a_copied_one_is_not_deleted(is_planned: bool) -> None:
    """Where a file system ignores case, "Readme" was written over "README", which it is."""
    names = SourceNames()
    for name, is_excluded in ((b"Readme", False), (b"excluded", True)):
        names.add(b"", name, is_excluded=is_excluded)
    names.add(b"sub", b"file")
    file = Attributes(1, 7, 7, stat.S_IFREG | 0o644)
    deletions = Deletions(names, None, 7, is_planned=is_planned)
    deletions.examine(b"", [(b"README", file, (1, 1))])
    deletions.examine(b"sub", [(b"file", file, (1, 2)), (b"old", file, (1, 3))])
    doomed = [entry.path for entry in deletions.doomed()]
    assert doomed == ([b"sub/old", b"README"] if is_planned else [b"sub/old"])
    assert [kept.path for kept in deletions.kept] == ([] if is_planned else [b"README"])


@BOTH
def test_nothing_is_deleted_if_an_entry_failed(
    session: SftpSession, one: Copy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, target = tree(tmp_path / "source", "file"), tree(tmp_path / "target", "old")
    (source / "dangling").symlink_to("nowhere")
    for on_error, error in (("continue", SshTreeError), ("stop", SshTransferError)):
        with pytest.raises(error):
            one(session, source, target, contents=True, delete=True, on_error=on_error)
        assert (target / "old").exists()
    assert "nothing was deleted, because 1 entry could not be copied" in caplog.text
    plan = one(session, source, target, contents=True, delete=True, dry_run=True)
    assert len(plan.failed) == 1 and not plan.deleted
    assert "nothing would be deleted, because 1 entry cannot be copied" in caplog.text


@BOTH
def test_empty_source_is_an_error_unless_it_is_expected(
    session: SftpSession, one: Copy, tmp_path: Path
) -> None:
    """A disk that is not mounted looks like this; so does a pattern for everything."""
    source, target = tree(tmp_path / "source"), tree(tmp_path / "target", "a/b", "c")
    for dry_run in (False, True):
        with pytest.raises(SshTransferError, match="is empty.*even-if-empty") as caught:
            one(session, source, target, contents=True, delete=True, dry_run=dry_run)
        assert caught.value.filename == str(source)
    tree(source, "x.tmp")
    with pytest.raises(SshTransferError, match="is empty"):
        one(session, source, target, contents=True, delete=True, exclude="*.tmp")
    assert content(target) == {"a", "a/b", "c"}
    one(session, source, target, contents=True, delete="even-if-empty", exclude="*.tmp")
    assert content(target) == set()


@BOTH
def test_unfinished_files_of_other_copies_stay(
    session: SftpSession, one: Copy, tmp_path: Path
) -> None:
    source, target = tree(tmp_path / "source", "file"), tree(tmp_path / "target", "old")
    name = os.fsdecode(temporary.names.new(b"file"))
    try:
        (target / name).write_text("another thread writes this")
        one(session, source, target, contents=True, delete=True)
        assert content(target) == {"file", name}
    finally:
        (target / name).unlink()
        temporary.names.release(os.fsencode(name))


@BOTH
def test_entries_of_other_users_stay(
    session: SftpSession, one: Copy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With a warning, and with all that such a folder contains, ours included."""
    if os.geteuid():
        pytest.skip("needs root, which can act as two users")
    source = tree(tmp_path / "source", "file")
    target = tree(tmp_path / "target", "old", "theirs", "folder/ours", "mine/theirs", "mine/ours")
    for name in ("theirs", "folder", "mine/theirs"):
        os.chown(target / name, STRANGER, STRANGER)
    one(session, source, target, contents=True, delete=True)
    assert content(target) == {
        "file", "theirs", "folder", "folder/ours", "mine", "mine/theirs",
    }  # fmt: skip
    assert "it belongs to another user" in caplog.text


@BOTH
@pytest.mark.parametrize("entry", [".ssh/authorized_keys", ".bashrc"])
def test_home_directory_is_refused(
    session: SftpSession, one: Copy, tmp_path: Path, entry: str
) -> None:
    """`~` by mistake would delete all that somebody has; keys may lie elsewhere."""
    source = tree(tmp_path / "source", "file")
    home = tree(tmp_path / "home", entry, "thesis")
    for target in (home, tmp_path):
        with pytest.raises(SshTransferError, match="home directory"):
            one(session, source, target, contents=True, delete=True)
    assert (home / "thesis").exists() and not (home / "file").exists()


def test_home_directory_is_refused_although_home_names_another_one(
    session: SftpSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for a service, or in cron."""
    source, home = tree(tmp_path / "source", "file"), tree(tmp_path / "mine", "thesis")
    entry = pwd.struct_passwd(("me", "x", os.geteuid(), 1, "", str(home), "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: entry)
    with pytest.raises(SshTransferError, match="home directory"):
        download(session, source, home, contents=True, delete=True)
    assert content(home) == {"thesis"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"delete": True},
        {"delete": "yes", "contents": True},
        {"delete": "even-if-empty"},
        {"delete": 1, "contents": True},
    ],
    ids=str,
)
def test_delete_needs_contents(wrong: Any) -> None:
    """Otherwise, a folder is copied into the target, and its neighbours would go."""
    with pytest.raises(SshConfigError, match="delete"):
        Options(**wrong).check()


# Others who meddle.


def test_upload_does_not_delete_where_others_could_exchange_folders(
    session: SftpSession, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """SFTP works by path: in a folder that a group may write to, only files are deleted."""
    source = tree(tmp_path / "source", "shared/sub/file", "file")
    target = tree(
        tmp_path / "target", "shared/sub/old", "shared/old", "shared/folder/old", "gone/x"
    )
    (target / "shared").chmod(0o2777)
    session.facts.connection_id = "deploy@web1:22"
    upload(session, source, target, contents=True, delete=True)
    assert content(target) == content(source) | {
        "shared/sub/old", "shared/folder", "shared/folder/old",
    }  # fmt: skip
    assert "deploy@web1:22: '" in caplog.text and "other users could exchange it" in caplog.text


@BOTH
def test_target_behind_a_link_of_another_user_is_refused(
    session: SftpSession, one: Copy, tmp_path: Path
) -> None:
    """Members of a group could lead the deletion to a folder of ours, before it begins."""
    if os.geteuid():
        pytest.skip("needs root, which can act as two users")
    source = tree(tmp_path / "source", "file")
    mine = tree(tmp_path / "mine", "site/old")
    (tmp_path / "shared").mkdir()
    os.chown(tmp_path / "shared", 0, STRANGER)
    (tmp_path / "shared").chmod(0o2775)
    link = tmp_path / "shared" / "link"
    link.symlink_to("../mine")
    os.chown(link, STRANGER, STRANGER, follow_symlinks=False)
    (tmp_path / "ours").symlink_to("shared/link/site")
    for target in (link / "site", tmp_path / "ours"):
        with pytest.raises(PermissionError, match=f"link of another user .uid {STRANGER}."):
            one(session, source, target, contents=True, delete=True)
    assert content(mine) == {"site", "site/old"}
    os.chown(link, 0, 0, follow_symlinks=False)
    one(session, source, link / "site", contents=True, delete=True)
    assert content(mine) == {"site", "site/file"}


def test_upload_refuses_target_that_others_could_exchange(
    session: SftpSession, tmp_path: Path
) -> None:
    """Before anything is copied: a deletion would be possible nowhere."""
    source = tree(tmp_path / "source", "file")
    shared = tree(tmp_path / "shared", "target/old")
    shared.chmod(0o777)
    why = "users may write to '.*/shared', and could put a link in its place"
    with pytest.raises(PermissionError, match=why):
        upload(session, source, shared / "target", contents=True, delete=True)
    if os.geteuid() == 0:
        shared.chmod(0o2775)
        os.chown(shared, 0, STRANGER)
        with pytest.raises(PermissionError, match=f"group {STRANGER} may write to '.*/shared'"):
            upload(session, source, shared / "target", contents=True, delete=True)
        os.chown(shared / "target", STRANGER, 0)
        with pytest.raises(PermissionError, match=f"belongs to another user .uid {STRANGER}."):
            upload(session, source, shared / "target", contents=True, delete=True)
    assert content(shared) == {"target", "target/old"}


def test_server_that_reports_no_owners_is_refused(
    session: SftpSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = tree(tmp_path / "source", "file"), tree(tmp_path / "target", "old")
    monkeypatch.setattr(
        "ssh_service.copying.remote_owner.parse_attributes",
        lambda *args: parse_attributes(*args)._replace(uid=None, gid=None),
    )
    with pytest.raises(PermissionError, match="does not report who owns"):
        upload(session, source, target, contents=True, delete=True)
    assert content(target) == {"old"}


@pytest.mark.parametrize("how", ["link", "folder"])
def test_download_deletes_nothing_elsewhere_whatever_is_exchanged(
    session: SftpSession, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder becomes a link, or another folder, between the decision and the deletion."""
    source = tree(tmp_path / "source", "file")
    target = tree(tmp_path / "target", "old/a", "old/b", "gone")
    victim = tree(tmp_path / "victim", "a", "b")
    original = local_deletion.delete_doomed

    def delete(*args: Any) -> Any:
        (target / "old").rename(tmp_path / "hidden")
        if how == "link":
            (target / "old").symlink_to(victim)
        else:
            victim.rename(target / "old")
        return original(*args)

    monkeypatch.setattr(downloading, "delete_doomed", delete)
    with contextlib.suppress(SshTransferError):  # for the link, which is not entered
        download(session, source, target, contents=True, delete=True)
    left = victim if how == "link" else target / "old"
    assert content(left) == {"a", "b"} and not (target / "gone").exists()


def test_source_tree_of_a_descriptor_is_the_open_folder(tmp_path: Path) -> None:
    """Also if the path leads elsewhere by now."""
    root = tree(tmp_path / "root", "a")
    fd = os.open(root, os.O_RDONLY)
    try:
        root.rename(tmp_path / "moved")
        tree(tmp_path / "root", "b")
        opened = SourceTree(os.fsencode(root), fd)
        assert os.listdir(opened.open_folder(os.fsencode(root)).fd) == ["a"]
        opened.close()
    finally:
        os.close(fd)


# Interruptions.


@pytest.mark.parametrize("step", [0, 1, 3, 7])
def test_interrupted_upload_deletes_whole_entries(
    session: SftpSession, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C between two deletions; the next copy completes them."""
    source = tree(tmp_path / "source", "file")
    target = tree(tmp_path / "target", *(f"old{n}/file" for n in range(5)))
    calls: List[bytes] = []
    originals = encode.remove, encode.remove_folder

    def interrupting(which: int, request_id: int, path: bytes) -> Any:
        if os.path.basename(path).startswith((b"old", b"file")):
            if len(calls) == step:
                raise KeyboardInterrupt
            calls.append(path)
        return originals[which](request_id, path)

    with monkeypatch.context() as patch:
        patch.setattr(encode, "remove", functools.partial(interrupting, 0))
        patch.setattr(encode, "remove_folder", functools.partial(interrupting, 1))
        with pytest.raises(KeyboardInterrupt):
            upload(session, source, target, contents=True, delete=True)
    assert (target / "file").read_text() == "file" and len(content(target)) >= 11 - step
    upload(session, source, target, contents=True, delete=True)
    assert content(target) == {"file"}


def test_interrupted_download_deletes_whole_entries(
    session: SftpSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tree(tmp_path / "source", "file")
    target = tree(tmp_path / "target", *(f"old{n}/file" for n in range(5)))
    unlink, count = os.unlink, []

    def interrupting(path: Any, **options: Any) -> None:
        if path == b"file":
            count.append(path)
            if len(count) == 3:
                raise KeyboardInterrupt
        unlink(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", interrupting)
        with pytest.raises(KeyboardInterrupt):
            download(session, source, target, contents=True, delete=True)
    assert len(content(target)) == 9
    download(session, source, target, contents=True, delete=True)
    assert content(target) == {"file"}


@BOTH
def test_entry_that_cannot_be_deleted_is_an_error_after_the_others(
    session: SftpSession, one: Copy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with copying: the error names the path; with "continue" all of them."""
    source = tree(tmp_path / "source", "file")
    target = tree(tmp_path / "target", "old", "busy/file")
    unlink, ask = os.unlink, RemoteFiles.ask_remove

    def refuse(path: Any, **options: Any) -> None:
        if path == b"file":
            raise PermissionError(1, "not this one")
        unlink(path, **options)

    monkeypatch.setattr(os, "unlink", refuse)
    monkeypatch.setattr(
        RemoteFiles,
        "ask_remove",
        lambda self, path: ask(self, path + b"/x" if path.endswith(b"busy/file") else path),
    )
    with pytest.raises(SshTransferError) as caught:
        one(session, source, target, contents=True, delete=True)
    assert str(target / "busy") in str(caught.value.filename)
    assert content(target) == {"file", "busy", "busy/file"}


def test_entry_that_appeared_in_the_source_is_not_deleted() -> None:
    """The copy may have copied it after the source was listed."""
    names = SourceNames()
    file = Attributes(1, 7, 7, stat.S_IFREG | 0o644)
    deletions = Deletions(names, None, 7, lambda path: path == b"appeared")
    assert not deletions.examine(b"", [(b"appeared", file, (1, 1)), (b"old", file, (1, 2))])
    assert [entry.path for entry in deletions.doomed()] == [b"old"]


def test_deletions_of_mounted_file_systems_are_left_out() -> None:
    names = SourceNames()
    folder = Attributes(1, 7, 7, stat.S_IFDIR | 0o755)
    deletions = Deletions(names, None, 7)
    assert not deletions.examine(b"", [(b"disk", folder, (2, 2))], device=1)
    assert not deletions.doomed() and "file system" in deletions.kept[0].reason


def test_names_that_only_the_server_can_have_are_deleted(
    session: SftpSession, tmp_path: Path
) -> None:
    """Such as a colon, and Windows; here, a path that would be too long below the source."""
    source = tmp_path.joinpath(*["s" * 200] * 3)
    source.mkdir(parents=True)
    (source / "file").write_bytes(b"x")
    depth = (4000 - len(bytes(tmp_path))) // 201
    (tmp_path / "target").joinpath(*["d" * 200] * depth).mkdir(parents=True)
    upload(session, source, tmp_path / "target", contents=True, delete=True)
    assert os.listdir(tmp_path / "target") == ["file"]
