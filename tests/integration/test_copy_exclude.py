"""Entries that a copy leaves out: patterns, compared with rsync's, and what copies do."""

from __future__ import annotations

import functools
import os
import random
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Set

import pytest

from ssh_service.copying import downloading, upload_merge, upload_stream
from ssh_service.copying.exclusions import Exclusions, check_patterns
from ssh_service.copying.local.walk import walk
from ssh_service.copying.options import Options
from ssh_service.copying.sftp.session import SftpSession
from ssh_service.errors import SshConfigError
from tests.common import require_part
from tests.integration.sftp_processes import Shell
from tests.unit.sftp_harness import download, upload

Copy = Callable[..., Any]
WAYS = ["up by sftp", "up in a stream", "down by sftp", "down in a stream"]
NAMES = [
    "a/x.pyc", "a/x.py", "b/build/o", "build/o", "c/d/e.txt", "c/d/cache", "cache/f",
    "foo/bar/baz", "x/foo/bar", "deep/foo/x/bar", "[odd]", "back\\slash", "two words", "*", "q?",
    "ab", "abc", "abb", "-dash", "#hash", ".hidden/x", "foo", "bar",
]  # fmt: skip
PATTERNS = [
    "*.pyc", "/build/", "build/", "/build", "build", "cache", "cache/", "/c/d", "d/e.txt",
    "/d/e.txt", "foo/bar", "foo/*/bar", "foo/**/bar", "**/bar", "/**/bar", "**bar", "foo**",
    "x/**", "a?c", "a[bc]*",
    "a[!b]*", "a[^b]*", "[[]*", "[[]odd]", "[]o]*", "[a-c]*", "ab[a-]*", "[[:alpha:]]*",
    "?", "??", "*", "/*", "*/", "*/*", "back\\slash", "back\\\\sl*", "two words", "\\*", "\\**",
    "[*]", "q[?]", ".*", "/.*", "c/**", "c/*", "**/d/**", "#hash", "-dash", "**", "b*/*d/", "*o*",
    "a*b*", "[[:alpha:]0-9]b", "f**r/baz", "/foo/bar", "/f*/bar/", "/x/*/bar", "x/*/bar", "[.]*",
]  # fmt: skip


def tree(root: Path, names: List[str]) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_dir():
            path.write_text(name)
    return root


def content(root: Path) -> Set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def by_walk(root: Path, patterns: List[str]) -> Set[str]:
    source = os.fsencode(root)
    excludes = Exclusions(check_patterns(patterns)).matches
    entries = walk(source, os.stat(source), None, excludes=excludes)
    return {os.fsdecode(entry.path[len(source) + 1 :]) for entry in entries}


def by_rsync(root: Path, patterns: List[str]) -> Set[str]:
    options = [f"--exclude={pattern}" for pattern in patterns]
    done = subprocess.run(
        ["rsync", "-rn8", "--out-format=%n", *options, f"{root}/", f"{root}.copy"],
        stdout=subprocess.PIPE,
        check=True,
        timeout=60,
    )
    lines = done.stdout.decode().splitlines()
    # rsync shows a backslash before "#" and three digits as an escape; no name here has those.
    return {line.rstrip("/") for line in lines if line not in ("./", "")} - {
        line for line in lines if line.startswith("created directory")
    }


def test_patterns_select_what_rsync_selects(tmp_path: Path) -> None:
    """Each pattern alone, and random ones together, leave out the same entries as rsync's."""
    require_part(shutil.which("rsync"), "needs rsync (Debian: apt install rsync)")
    root = tree(tmp_path / "tree", [name for name in NAMES if name not in ("foo",)])
    chance = random.Random(18)
    several = [chance.sample(PATTERNS, chance.randrange(2, 4)) for _ in range(20)]
    for patterns in [*([pattern] for pattern in PATTERNS), *several]:
        assert by_walk(root, patterns) == by_rsync(root, patterns), patterns


@pytest.mark.parametrize(
    "pattern, matching, others",
    [
        ("*.pyc", ["x.pyc", "a/b/x.pyc"], ["x.py", "pyc"]),
        ("/build", ["build"], ["a/build"]),
        ("foo/bar", ["foo/bar", "a/foo/bar"], ["foo", "bar", "xfoo/bar"]),
        ("/a/**/z", ["a/b/z", "a/b/c/z"], ["a/z", "b/z"]),
        ("**/z", ["z", "a/z", "a/b/z"], ["az"]),
        ("?", ["a", "ž", "d/x"], ["ab"]),
        ("[!a-c]1", ["d1", "x/d1"], ["a1", "/1"]),
        ("\udcff*", ["\udcff", "\udcffx"], ["x"]),
    ],
)
def test_pattern_matches_names_and_paths(
    pattern: str, matching: List[str], others: List[str]
) -> None:
    """Where rsync is not installed: the rules that the documentation gives."""
    exclusions = Exclusions(check_patterns(pattern))
    assert all(exclusions.matches(os.fsencode(path), False) for path in matching)
    assert not any(exclusions.matches(os.fsencode(path), False) for path in others)


def test_no_name_takes_long_whatever_somebody_has_called_a_file() -> None:
    """A regular expression may try each way to divide a name between the stars: seconds."""
    exclusions = Exclusions(check_patterns(["*-*-*-*-*.log", "/*-*-*-*/*-*-*.log"]))
    began = time.process_time()
    for name in (b"-" * 250, b"-" * 250 + b"/" + b"-" * 250):
        assert not exclusions.matches(name, False) and exclusions.matches(name + b".log", False)
    assert time.process_time() - began < 2


def test_slash_at_end_matches_only_folders() -> None:
    exclusions = Exclusions(check_patterns(["cache/", "/a/b/"]))
    assert exclusions.matches(b"x/cache", True) and not exclusions.matches(b"x/cache", False)
    assert exclusions.matches(b"a/b", True) and not exclusions.matches(b"a/b", False)


@pytest.mark.parametrize(
    "wrong",
    [
        "", "/", "//", "a//b", "/a//", "a[b", "a[", "a[]", "a[!]", "[b-a]", "[[:word:]]", "[a/b]",
        "x*\\", "a\0b", "+ a", "- a", "!", "a/***", "./a", "../a", "a/../b", "a/.", b"bytes", 1,
        ["good", ""], [None], Path("a"), {"a": 1}.values(), True,
    ],
    ids=repr,
)  # fmt: skip
def test_bad_pattern_is_refused_by_name(wrong: Any) -> None:
    """The error names the option and the value; nothing is matched by chance."""
    with pytest.raises(SshConfigError, match="exclude: "):
        Options(exclude=wrong).check()


def test_patterns_may_come_from_any_iterable() -> None:
    """A generator is read once; None and no pattern are the same."""
    assert Options(exclude=(name for name in "ab")).check().exclude == ("a", "b")
    assert Options(exclude=None).check().exclude == Options(exclude=[]).check().exclude == ()
    assert Options(exclude="a b").check().exclude == ("a b",)


# What copies make of them.


@pytest.fixture(name="copy", params=WAYS)
def copies(
    request: pytest.FixtureRequest,
    session: SftpSession,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Copy:
    """Give what copies a tree, each way; in a stream, one file is worth it."""
    monkeypatch.setattr(upload_stream, "MANY_FILES", 1)
    monkeypatch.setattr(upload_merge, "MANY_FILES", 1)
    monkeypatch.setattr(downloading, "MANY_FILES", 0)
    one = upload if request.param.startswith("up") else download
    shell = Shell(home) if request.param.endswith("stream") else None
    return functools.partial(one, session, shell=shell)


@pytest.mark.parametrize("contents", [False, True])
def test_excluded_entries_are_not_copied(copy: Copy, contents: bool, tmp_path: Path) -> None:
    """A pattern is anchored at the folder that is copied, with and without `contents`."""
    source = tree(tmp_path / "source", NAMES[:10])
    options: Dict[str, Any] = {"exclude": ["*.pyc", "/build/", "d/e.txt"], "contents": contents}
    if contents:
        tree(tmp_path / "target", ["old.pyc", "build/old"])
    copy(source, tmp_path / "target", **options)
    gone = {"a/x.pyc", "build", "build/o", "c/d/e.txt"}
    kept = {"old.pyc", "build", "build/old"} if contents else set()
    assert content(tmp_path / "target") == (content(source) - gone) | kept


def test_excluded_entries_cannot_fail(copy: Copy, tmp_path: Path) -> None:
    """What cannot be copied is no error where it is left out."""
    source = tree(tmp_path / "source", ["a/file", "b"])
    (source / "dangling").symlink_to("nowhere")
    (source / "loop").symlink_to(".")
    os.mkfifo(source / "a" / "fifo")
    copy(source, tmp_path / "target", exclude=["dangling", "/loop/", "a/fifo"])
    assert content(tmp_path / "target") == {"a", "a/file", "b"}


def test_links_that_are_kept_are_no_folders(copy: Copy, tmp_path: Path) -> None:
    """As with rsync: ``name/`` leaves out a link to a folder only where it is followed."""
    source = tree(tmp_path / "source", ["folder/file"])
    (source / "link").symlink_to("folder")
    copy(source, tmp_path / "kept", exclude="link/", links="keep")
    copy(source, tmp_path / "followed", exclude="link/")
    assert os.path.islink(tmp_path / "kept" / "link")
    assert content(tmp_path / "followed") == {"folder", "folder/file"}


def test_file_that_is_named_is_copied_despite_patterns(copy: Copy, tmp_path: Path) -> None:
    source = tree(tmp_path, ["file"]) / "file"
    copy(source, tmp_path / "copied", exclude="*")
    assert (tmp_path / "copied").read_text() == "file"
