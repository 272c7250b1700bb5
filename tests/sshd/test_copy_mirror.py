"""Mirrors of a folder over real connections: left out, deleted, planned and slowed down."""

from __future__ import annotations

import io
import os
import time
from pathlib import Path
from typing import Any, Dict, Set

import pytest

from ssh_service import Host, download, fleet, upload
from ssh_service.connect import dial
from ssh_service.errors import SshTransferError
from ssh_service.params import resolve
from ssh_service.testing.local_sshd import Sshd
from tests.common import PATIENCE


@pytest.fixture(name="host")
def host_with_its_connection(sshd: Sshd) -> Host:
    return Host(dict(sshd.connect_params))


def tree(root: Path, count: int) -> Path:
    for number in range(count):
        path = root / str(number % 7) / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(number))
    return root


def content(root: Path) -> Set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


@pytest.mark.parametrize("way", ["upload", "download"])
@pytest.mark.parametrize("count", [10, 300])
def test_mirror_becomes_and_stays_like_the_source(
    host: Host, way: str, count: int, tmp_path: Path
) -> None:
    """By SFTP and in a stream; the plan of the second copy is what it does."""
    source, target = tree(tmp_path / "source", count), tmp_path / "target"
    options: Dict[str, Any] = {
        "contents": True, "update": True, "delete": True, "exclude": ["*.log", "/6/"],
    }  # fmt: skip
    copy = getattr(host, way)
    copy(source, target, **options)
    (target / "mine.log").write_text("kept")
    for name in ("0/7.txt", "1/1.txt"):
        (source / name).unlink()
    tree(target / "old", 20)
    plan = copy(source, target, dry_run=True, **options)
    assert {os.path.relpath(path, target) for path in plan.deleted} == {
        "0/7.txt", "1/1.txt", "old", *(f"old/{name}" for name in content(target / "old")),
    }  # fmt: skip
    assert not plan.copied and str(target / "6") in plan.skipped
    copy(source, target, **options)
    expected = {name for name in content(source) if name.partition("/")[0] != "6"}
    assert content(target) == expected | {"mine.log"}


def test_fleet_plans_and_mirrors_on_each_host(sshd: Sshd, tmp_path: Path) -> None:
    """The plan is in the result, and in its dictionary; a download creates no folder for it."""
    source = tree(tmp_path / "source", 5)
    hosts = [dict(sshd.connect_params)]
    (result,) = fleet.upload(hosts, source, tmp_path / "there", dry_run=True, exclude="[12].txt")
    assert result.plan is not None and not (tmp_path / "there").exists()
    assert len(result.as_dict()["plan"]) == len(result.plan) == 11
    (result,) = fleet.download(hosts, source, tmp_path / "got", dry_run=True)
    assert result.plan is not None and not (tmp_path / "got").exists()
    assert all(path.startswith(f"{tmp_path}/got/127.0.0.1") for path in result.plan.copied)
    (result,) = fleet.upload(
        hosts, source, tmp_path / "there", contents=True, delete=True, max_rate=1e9
    )
    assert result.ok and result.plan is None and content(tmp_path / "there") == content(source)


def test_rate_is_kept_over_ssh(host: Host, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(os.urandom(300_000))
    for way in ("upload", "download"):
        began = time.monotonic()
        getattr(host, way)(tmp_path / "file", tmp_path / way, max_rate=600_000)
        assert time.monotonic() - began > 0.35
        assert (tmp_path / way).read_bytes() == (tmp_path / "file").read_bytes()


def test_content_is_copied_by_every_function(host: Host, sshd: Sshd, tmp_path: Path) -> None:
    """Over a cache, over a connection of one's own, and to many hosts."""
    there, data = tmp_path / "there", os.urandom(300_000)
    host.upload(io.BytesIO(data), there, verify=True)
    assert there.read_bytes() == data
    transport = dial(resolve(sshd.connect_params), time.monotonic() + PATIENCE)
    try:
        upload(transport, bytearray(b"short"), there)
        received = io.BytesIO()
        download(transport, there, received, verify=True)
    finally:
        transport.close()
    assert received.getvalue() == b"short" == there.read_bytes()
    received = io.BytesIO()
    host.download(there, received)
    (result,) = fleet.upload([dict(sshd.connect_params)], b"to all", there)
    assert result.ok and there.read_bytes() == b"to all" and received.getvalue() == b"short"


def test_lost_connection_deletes_nothing(sshd: Sshd, host: Host, tmp_path: Path) -> None:
    """A copy that is cut never reaches its deletions."""
    source, target = tree(tmp_path / "source", 3), tree(tmp_path / "target" / "old", 3)
    (source / "large").write_bytes(os.urandom(2_000_000))

    def cut(progress: Any) -> None:
        if progress.bytes_done > 100_000:
            sshd.cut()

    options: Dict[str, Any] = {"contents": True, "delete": True, "max_rate": 300_000}
    with pytest.raises((SshTransferError, ConnectionError)):
        host.upload(source, target.parent, progress=cut, **options)
    assert len(list(target.rglob("*.txt"))) == 3
