"""Dry runs: what they list is what a copy then does, and they change nothing."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

import pytest

from ssh_service.copying import CopyPlan, PlannedAction
from ssh_service.copying.options import Options
from ssh_service.copying.plan import sorted_plan
from ssh_service.copying.sftp import encode
from ssh_service.copying.sftp.session import SftpSession
from ssh_service.errors import SshConfigError, SshTransferError
from tests.unit.sftp_harness import download, upload

BOTH = pytest.mark.parametrize("copy", [upload, download])
Copy = Callable[..., Optional[CopyPlan]]
Snapshot = Dict[str, Tuple[Any, ...]]


def snapshot(root: Path) -> Snapshot:
    """Describe everything below a folder, with the times that any change would move."""
    found: Snapshot = {}
    for path in (root, *root.rglob("*")):
        status = os.lstat(path)
        times = (status.st_mtime_ns, status.st_ctime_ns)
        found[str(path.relative_to(root))] = (status.st_mode, status.st_ino, *times)
    return found


@pytest.fixture(name="dry_run")
def dry_run_that_is_checked(session: SftpSession, tmp_path: Path) -> Callable[..., CopyPlan]:
    """Plan a copy, and check that nothing below the folder of the test has changed."""

    def plan(copy: Copy, source: Any, target: Any, **options: Any) -> CopyPlan:
        before = snapshot(tmp_path)
        planned = copy(session, source, target, dry_run=True, **options)
        assert snapshot(tmp_path) == before
        assert planned is not None
        return planned

    return plan


def make(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
        os.utime(path, (1_600_000_000, 1_600_000_000))
    return root


def relative(plan: CopyPlan, root: Path) -> List[Tuple[str, str, str]]:
    return [(a.action, os.path.relpath(a.path, root), a.reason) for a in plan]


@BOTH
def test_dry_run_lists_new_tree(
    dry_run: Callable[..., CopyPlan], copy: Copy, tmp_path: Path
) -> None:
    source = make(tmp_path / "source", "a/file", "b", "c/d/e")
    plan = dry_run(copy, source, tmp_path / "target")
    assert [(a.path[len(str(tmp_path)) :], a.kind, a.size) for a in plan] == [
        ("/target", "folder", None),
        ("/target/a", "folder", None),
        ("/target/a/file", "file", 6),
        ("/target/b", "file", 1),
        ("/target/c", "folder", None),
        ("/target/c/d", "folder", None),
        ("/target/c/d/e", "file", 5),
    ]
    assert set(plan.paths("create")) == set(plan.copied) and plan.size == 12


@BOTH
@pytest.mark.parametrize("links", ["follow", "keep"])
def test_dry_run_lists_what_the_copy_then_does(
    dry_run: Callable[..., CopyPlan],
    session: SftpSession,
    copy: Copy,
    links: str,
    tmp_path: Path,
) -> None:
    """Each entry is new, replaced, unchanged or left out; a real copy agrees."""
    source = make(tmp_path / "source", "same", "changed", "new", "out.tmp", "sub/new", "sub2/x")
    target = make(tmp_path / "target", "same", "changed", "old", "sub/old", "out.tmp")
    (target / "changed").write_text("something else")
    for name, root in (("alike", source), ("alike", target), ("other", source)):
        (root / name).symlink_to("same")
    (target / "other").symlink_to("changed")
    options: Dict[str, Any] = {
        "contents": True, "update": True, "exclude": "*.tmp", "links": links,
    }  # fmt: skip
    plan = dry_run(copy, source, target, **options)
    skipped = {os.path.relpath(path, target) for path in plan.skipped}
    assert skipped - {"alike"} == {"same", "out.tmp"}
    copied = {os.path.relpath(path, target) for path in plan.copied}
    assert copied - {"alike"} == {"changed", "other", "new", "sub/new", "sub2", "sub2/x"}
    # A download writes through a local link without looking at what it points to.
    assert ("alike" in copied) == (copy is download and links == "follow")
    before = snapshot(target)
    copy(session, source, target, **options)
    after = snapshot(target)
    assert {name for name in after if name not in before} == {
        os.path.relpath(path, target) for path in plan.paths("create")
    }
    changed = {name for name in before if after[name][1:] != before[name][1:]}
    replaced = {os.path.relpath(path, target) for path in plan.paths("replace")}
    assert replaced - {"other", "alike"} <= changed


@BOTH
def test_dry_run_chooses_the_target_as_the_copy_does(
    dry_run: Callable[..., CopyPlan], copy: Copy, tmp_path: Path
) -> None:
    """Into an existing folder, with and without `contents`; a file, too."""
    source = make(tmp_path / "source", "file")
    (tmp_path / "target").mkdir()
    nested = dry_run(copy, source, tmp_path / "target")
    assert relative(nested, tmp_path)[-1] == ("create", "target/source/file", "")
    direct = dry_run(copy, source, tmp_path / "target", contents=True)
    assert relative(direct, tmp_path) == [("create", "target/file", "")]
    into = dry_run(copy, source / "file", tmp_path / "target")
    assert relative(into, tmp_path) == [("create", "target/file", "")]
    over = dry_run(copy, source / "file", tmp_path / "source" / "file")
    assert relative(over, tmp_path) == [("replace", "source/file", "")]


@BOTH
def test_dry_run_lists_every_failure(
    dry_run: Callable[..., CopyPlan], copy: Copy, tmp_path: Path
) -> None:
    """A copy ends at the first one unless told otherwise; a dry run shows all of them."""
    source = make(tmp_path / "source", "a", "b/x", "c")
    (source / "dangling").symlink_to("nowhere")
    os.mkfifo(source / "fifo")
    make(tmp_path / "target", "a/folder/x", "b")
    plan = dry_run(copy, source, tmp_path / "target", contents=True)
    assert plan.paths("create") == [str(tmp_path / "target" / "c")]
    failed = {
        os.path.relpath(path, tmp_path): a.reason for path, a in zip(plan.failed, _fails(plan))
    }
    assert set(failed) == {"target/a", "target/b", "source/dangling", "source/fifo"}
    assert "fifo" in failed["source/fifo"] and "nowhere" in failed["source/dangling"]


def _fails(plan: CopyPlan) -> List[PlannedAction]:
    return [action for action in plan if action.action == "fail"]


@BOTH
def test_dry_run_of_a_copy_that_cannot_start_is_the_same_error(
    session: SftpSession, copy: Copy, tmp_path: Path
) -> None:
    """A missing source, a missing parent folder, a file in the way: as the copy reports it."""
    source = make(tmp_path / "source", "file")
    make(tmp_path, "in the way")
    for one, other in (
        (tmp_path / "none", tmp_path / "target"),
        (source, tmp_path / "none" / "target"),
        (source / "file", tmp_path / "none" / "target"),
        (source, tmp_path / "in the way"),
    ):
        errors = []
        for dry_run in (True, False):
            with pytest.raises(SshTransferError) as caught:
                copy(session, one, other, dry_run=dry_run)
            errors.append(str(caught.value))
        assert errors[0] == errors[1]


@BOTH
def test_dry_run_with_verify_compares_content(
    dry_run: Callable[..., CopyPlan], copy: Copy, tmp_path: Path
) -> None:
    source, target = make(tmp_path / "source", "file"), make(tmp_path / "target", "file")
    (target / "file").write_text("elif")
    os.utime(target / "file", (1_600_000_000, 1_600_000_000))
    options: Dict[str, Any] = {"contents": True, "update": True}
    assert len(dry_run(copy, source, target, **options).skipped) == 1
    assert len(dry_run(copy, source, target, verify=True, **options).copied) == 1


def test_dry_run_upload_sends_no_request_that_changes_anything(
    session: SftpSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even to find out who we are, in a folder that others may write to."""
    source = make(tmp_path / "source", "a/file")
    shared = make(tmp_path / "shared", "a/file")
    shared.chmod(0o1777)
    (shared / "a").chmod(0o1777)

    def refuse(*args: Any) -> bytes:
        raise RuntimeError("a dry run must not send this")

    for name in (
        "write", "write_in", "fsetstat", "setstat", "remove", "rename", "posix_rename",
        "remove_folder", "make_folder", "make_link",
    ):  # fmt: skip
        monkeypatch.setattr(encode, name, refuse)
    plan = upload(session, source, f"{shared}/", contents=True, dry_run=True)
    assert plan is not None and relative(plan, shared) == [("replace", "a/file", "")]


def test_dry_run_and_resume_exclude_each_other() -> None:
    with pytest.raises(SshConfigError, match="dry_run=True .* resume=True"):
        Options(dry_run=True, resume=True).check()


def test_plan_can_be_iterated_printed_and_pickled() -> None:
    """Sorted as a tree, with deletions at the end, and one line for each entry."""
    actions = [
        PlannedAction("delete", "/t/0", "folder"),
        PlannedAction("create", "/t/a b", size=1),
        PlannedAction("create", "/t/a/c", size=3),
        PlannedAction("skip", "/t/new\nline", reason="unchanged"),
    ]
    plan = sorted_plan(actions)
    assert [action.path for action in plan] == ["/t/a/c", "/t/a b", "/t/new\nline", "/t/0"]
    assert str(plan).split("\n") == [
        "create  /t/a/c",
        "create  /t/a b",
        "skip    /t/new\\nline (unchanged)",
        "delete  /t/0/",
    ]
    assert (plan.size, len(plan), plan.deleted, plan.skipped) == (4, 4, ["/t/0"], ["/t/new\nline"])
    assert pickle.loads(pickle.dumps(plan)) == plan
    assert plan.moved("/t", "/elsewhere").deleted == ["/elsewhere/0"]
