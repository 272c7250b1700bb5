"""The contract: upload and download, as a service's methods."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Dict

import pytest

from ssh_service import SshFileShareService
from ssh_service.testing.pytest_plugin import Sshd
from tests.common import in_threads


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "deep" / "er").mkdir(parents=True)
    (root / "empty").mkdir()
    (root / "a file").write_bytes(b"\x00\xff" * 1000)
    (root / "deep" / "er" / "ü $x 'q' *").write_text("x")
    (root / "deep" / "run").write_text("#!/bin/sh\n")
    (root / "deep" / "run").chmod(0o755)
    os.utime(root / "a file", (1_000_000_000, 1_100_000_000))
    return root


def contents(root: Path) -> Dict[str, Any]:
    return {
        str(path.relative_to(root)): (
            path.stat().st_mode,
            None if path.is_dir() else (path.read_bytes(), int(path.stat().st_mtime)),
        )
        for path in root.rglob("*")
    }


def test_file_copied_both_ways_is_equal(
    share: SshFileShareService, call: Dict[str, Any], tree: Path, tmp_path: Path
) -> None:
    source, there, back = tree / "a file", tmp_path / "there", tmp_path / "back"
    source.chmod(0o640)
    assert share.upload(call, str(source), str(there)) is None
    share.download(call, str(there), str(back))
    for copy in (there, back):
        assert copy.read_bytes() == source.read_bytes()
        assert copy.stat().st_mode == source.stat().st_mode
        assert int(copy.stat().st_mtime) == 1_100_000_000


def test_tree_copied_both_ways_is_equal(
    share: SshFileShareService, call: Dict[str, Any], tree: Path, tmp_path: Path
) -> None:
    share.upload(call, str(tree), str(tmp_path / "there"))
    share.download(call, str(tmp_path / "there"), str(tmp_path / "back"))
    assert contents(tmp_path / "there") == contents(tree)
    assert contents(tmp_path / "back") == contents(tree)


def test_into_a_folder_that_exists_it_keeps_its_name(
    share: SshFileShareService, call: Dict[str, Any], tree: Path, tmp_path: Path
) -> None:
    (tmp_path / "into").mkdir()
    share.upload(call, str(tree), str(tmp_path / "into"))
    assert contents(tmp_path / "into" / "tree") == contents(tree)


def test_missing_source_is_a_file_not_found_error(
    share: SshFileShareService, call: Dict[str, Any], tmp_path: Path
) -> None:
    missing, target = str(tmp_path / "missing"), tmp_path / "target"
    with pytest.raises(FileNotFoundError, match="missing"):
        share.upload(call, missing, str(target))
    with pytest.raises(FileNotFoundError, match="missing"):
        share.download(call, missing, str(target))
    target.write_text("mine")
    with pytest.raises(FileNotFoundError):
        share.download(call, missing, str(target))
    assert target.read_text() == "mine"


def test_a_folder_is_not_copied_unless_asked_for(
    share: SshFileShareService, call: Dict[str, Any], tree: Path, tmp_path: Path
) -> None:
    for copy in (share.upload, share.download):
        with pytest.raises(OSError):
            copy(call, str(tree), str(tmp_path / "target"), recursive=False)
    assert not (tmp_path / "target").exists()
    share.upload(call, str(tree / "a file"), str(tmp_path / "target"), recursive=False)


def test_an_error_is_an_os_error_and_the_connection_stays(
    share: SshFileShareService, call: Dict[str, Any], tree: Path, tmp_path: Path, sshd: Sshd
) -> None:
    with pytest.raises(OSError):
        share.upload(call, str(tree), str(tmp_path / "no" / "such" / "folder"))
    share.upload(call, str(tree), str(tmp_path / "there"))
    assert sshd.logins() == 1


def test_params_are_not_changed_and_may_have_unknown_keys(
    share: SshFileShareService, call: Dict[str, Any], tree: Path, tmp_path: Path
) -> None:
    params = {**call, "unrelated": object()}
    before = dict(params)
    share.upload(params, str(tree / "a file"), str(tmp_path / "x"))
    assert params == before


def test_without_a_host_it_fails_at_once(share: SshFileShareService) -> None:
    for copy in (share.upload, share.download):
        with pytest.raises(ValueError, match="ssh_hostname"):
            copy({}, "a", "b")


def test_many_threads_may_copy_at_once(
    share: SshFileShareService, call: Dict[str, Any], tree: Path, tmp_path: Path, sshd: Sshd
) -> None:
    in_threads(8, lambda n: share.upload(call, str(tree), str(tmp_path / f"copy{n}")))
    for number in range(8):
        assert contents(tmp_path / f"copy{number}") == contents(tree)
    assert sshd.logins() == 1
