"""Copies to a server that knows neither times nor posix-rename, nor where a link leads."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path
from typing import Dict, Iterator

import pytest

from ssh_service.connect import dial
from ssh_service.copying import download, upload
from ssh_service.params import resolve
from ssh_service.testing.mock_sshd import MockSshd
from ssh_service.transport import SshTransport
from tests.trees import unfinished_files


@pytest.fixture(name="transport")
def connection_to_the_mock(mock_sshd: MockSshd) -> Iterator[SshTransport]:
    transport = dial(resolve(mock_sshd.connect_params), time.monotonic() + 20)
    yield transport
    transport.close()


def contents(root: Path) -> Dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.fixture(name="source")
def tree_to_copy(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    (source / "folder" / "empty").mkdir(parents=True)
    (source / "folder" / "large").write_bytes(os.urandom(300_000))
    (source / "script").write_bytes(b"#!/bin/sh\n")
    (source / "script").chmod(0o750)
    (source / "nothing").write_bytes(b"")
    (source / "žluť").write_bytes(b"utf-8")
    return source


def test_empty_path_is_an_error(transport: SshTransport, source: Path, tmp_path: Path) -> None:
    """It copied the whole home directory."""
    for copy, one, other in (
        (download, "", tmp_path / "down"),
        (download, "/etc/hostname", ""),
        (upload, "", "up"),
        (upload, source, ""),
    ):
        with pytest.raises(FileNotFoundError, match="a path cannot be empty"):
            copy(transport, one, other, timeout=20)
    assert not (tmp_path / "down").exists()


def test_tree_copied_both_ways_is_equal(
    transport: SshTransport, source: Path, tmp_path: Path
) -> None:
    upload(transport, source, tmp_path / "up", timeout=20)
    assert contents(tmp_path / "up") == contents(source)
    assert (tmp_path / "up" / "folder" / "empty").is_dir()
    assert stat.S_IMODE((tmp_path / "up" / "script").stat().st_mode) == 0o750
    download(transport, tmp_path / "up", tmp_path / "down", timeout=20)
    assert contents(tmp_path / "down") == contents(source)
    assert not unfinished_files(tmp_path)


def test_upload_replaces_a_file_and_follows_a_link(
    transport: SshTransport, source: Path, tmp_path: Path
) -> None:
    (tmp_path / "old").write_bytes(b"something much longer than the script")
    (tmp_path / "link").symlink_to("old")
    for target in ("old", "link"):
        (tmp_path / "old").write_bytes(b"something much longer than the script")
        upload(transport, source / "script", tmp_path / target, timeout=20)
        assert (tmp_path / "old").read_bytes() == b"#!/bin/sh\n"
    assert (tmp_path / "link").is_symlink()


def test_missing_file_is_an_error(transport: SshTransport, tmp_path: Path) -> None:
    """The error names the connection, the side and the path."""
    missing = tmp_path / "missing"
    for copy, side in ((download, "remote"), (upload, "local")):
        with pytest.raises(FileNotFoundError) as caught:
            copy(transport, missing, tmp_path / "x", timeout=20)
        where = f"{transport.connection_id}: {side} {str(missing)!r}"
        assert str(caught.value) == f"{where}: No such file or directory"
