"""`SshPath.rmtree` on a real server: everything in the folder, and nothing anywhere else."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from ssh_service import Host, SshClientCache, SshPath
from ssh_service.copying import shell_command
from ssh_service.paths import removal
from ssh_service.testing.pytest_plugin import Sshd


@pytest.fixture
def web(sshd: Sshd, cache: SshClientCache) -> Host:
    return Host(sshd.connect_params, cache=cache)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def there(web: Host, here: Path) -> SshPath:
    return web.path(here)


@pytest.fixture(params=["rm", "sftp"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """By the server's rm, or as on a server without a shell."""
    if request.param == "sftp":
        monkeypatch.setattr(removal, "_SCRIPT", b"exit 1 # %s %d %s %d %s %d %s")
    return str(request.param)


def make_tree(root: Path) -> None:
    for name in ("a/b/c", "a/d", "empty", "a/~root"):
        (root / name).mkdir(parents=True, mode=0o755)
    for name in ("file", "a/file", "a/b/file", "a/b/c/-rf", "a/b/c/new\nline", "a/b/c/é 'x"):
        (root / name).write_text("x")
    (root / "a" / "up").symlink_to("../..")
    (root / "a" / "dangling").symlink_to("nothing")


def test_tree_is_removed_and_links_are_not_followed(here: Path, there: SshPath, way: str) -> None:
    make_tree(here / "tree")
    make_tree(here / "other")
    (here / "tree" / "a" / "link").symlink_to(here / "other")
    os.symlink(here / "other" / "file", here / "tree" / "file link")
    (there / "tree").rmtree()
    assert [path.name for path in here.iterdir()] == ["other"]
    assert (here / "other" / "a" / "b" / "c" / "-rf").read_text() == "x"
    (there / "tree").rmtree(missing_ok=True)
    with pytest.raises(FileNotFoundError):
        (there / "tree").rmtree()


@pytest.mark.parametrize("name", ["-rf", "new\nline", 'it\'s "$x" \\', "é", "~root"])
def test_names_are_taken_to_the_letter(here: Path, there: SshPath, way: str, name: str) -> None:
    make_tree(here / "folder" / name)
    (there / "folder" / name).rmtree()
    assert list((here / "folder").iterdir()) == []


def test_what_is_no_folder_is_refused(here: Path, there: SshPath, web: Host) -> None:
    make_tree(here / "tree")
    (here / "link").symlink_to("tree")
    for name in ("link", "tree/file"):
        with pytest.raises(NotADirectoryError):
            (there / name).rmtree()
    home = web.path("~").resolve()
    for path in (
        "/",
        "~",
        ".",
        str(home),
        str(home.parent),
        f"{home}/..",
        str(there / "tree" / "a" / ".."),
    ):
        with pytest.raises(OSError, match="the root, the home directory, and what contains them"):
            web.path(path).rmtree()
    assert (here / "tree" / "a" / "b" / "c" / "-rf").exists()


def test_folder_that_others_may_change_is_left_without_a_safe_rm(
    here: Path, there: SshPath, way: str
) -> None:
    """They could exchange an entry for a link while SFTP removes it by path (S1)."""
    make_tree(here / "tree")
    (here / "tree" / "a").chmod(0o777)
    if way == "rm":
        (there / "tree").rmtree()
        assert list(here.iterdir()) == []
        return
    with pytest.raises(PermissionError, match="other users may change '.*/tree/a'"):
        (there / "tree").rmtree()
    assert (here / "tree" / "a" / "b" / "c" / "-rf").exists()
    (here / "tree").chmod(0o700)  # closed: nobody can reach what is in it
    (there / "tree").rmtree()
    assert list(here.iterdir()) == []


def test_rm_that_is_not_gnus_is_used_only_in_private(
    here: Path, there: SshPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removal, "_ONLY_GNU", b"exit %d;")
    calls = []
    start = removal._TreeRemoval._run

    async def counted(self: Any, marker: bytes, only_gnu: bool) -> Any:
        calls.append(only_gnu)
        return await start(self, marker, only_gnu)

    monkeypatch.setattr(removal._TreeRemoval, "_run", counted)
    make_tree(here / "private")
    (here / "private").chmod(0o700)
    make_tree(here / "open")
    (here / "open" / "a").chmod(0o777)
    (there / "private").rmtree()
    with pytest.raises(PermissionError, match="other users may change"):
        (there / "open").rmtree()
    assert calls == [False, True] and (here / "open" / "a" / "file").exists()


def test_shell_that_sees_other_files_removes_nothing(
    here: Path, there: SshPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some appliances chroot SFTP but not the shell: the same path is another folder there."""
    make_tree(here / "tree")
    make_tree(here / "shells" / "tree")

    def elsewhere(path: bytes) -> bytes:
        return shell_command.quoted(path.replace(os.fsencode(here), os.fsencode(here / "shells")))

    monkeypatch.setattr(removal, "quoted", elsewhere)
    (there / "tree").rmtree()  # by SFTP
    assert not (here / "tree").exists()
    assert (here / "shells" / "tree" / "a" / "b" / "c" / "-rf").exists()


def test_rest_that_cannot_be_removed_is_told(here: Path, there: SshPath, way: str) -> None:
    make_tree(here / "tree")
    if os.geteuid():
        (here / "tree" / "a" / "b").chmod(0o500)
        expected: Any = PermissionError
    else:
        pytest.skip("root may remove everything")
    try:
        with pytest.raises(expected, match="ermission denied"):
            (there / "tree").rmtree()
        assert (here / "tree" / "a" / "b" / "file").exists()
    finally:
        (here / "tree" / "a" / "b").chmod(0o700)
    assert not list((here / "tree").glob(".ssh_service-*"))
    shutil.rmtree(here / "tree")


def test_large_tree_is_removed_by_sftp(
    here: Path, there: SshPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removal, "_SCRIPT", b"exit 1 # %s %d %s %d %s %d %s")
    for number in range(40):
        (here / "tree" / str(number)).mkdir(parents=True)
        for name in range(30):
            (here / "tree" / str(number) / str(name)).touch()
    (there / "tree").rmtree()
    assert list(here.iterdir()) == []
