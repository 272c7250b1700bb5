"""Copies as in the README, with real servers, into folders that other users may write to."""

from __future__ import annotations

import logging
import os
import stat
import time
from pathlib import Path
from typing import Callable, Iterator

import pytest

from ssh_service.connect import dial
from ssh_service.copying import download, upload
from ssh_service.copying.local.descriptors import current_umask
from ssh_service.params import resolve
from ssh_service.testing.local_sshd import Sshd
from ssh_service.transport import SshTransport
from tests.common import PATIENCE
from tests.integration.test_copy_ownership import STRANGER, Attack, planted
from tests.trees import many_files, unfinished_files


@pytest.fixture(name="connect")
def connections_that_are_closed_afterwards() -> Iterator[Callable[[Sshd], SshTransport]]:
    transports = []

    def connect(server: Sshd) -> SshTransport:
        transports.append(dial(resolve(server.connect_params), time.monotonic() + PATIENCE))
        return transports[-1]

    yield connect
    for transport in transports:
        transport.close()


@pytest.fixture(name="shared")
def folder_like_tmp(tmp_path: Path) -> Path:
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


def test_root_neither_removes_nor_resumes_foreign_files(
    sshd: Sshd, connect: Callable[[Sshd], SshTransport], shared: Path, tmp_path: Path
) -> None:
    """A tree in a stream, a file to resume, and a folder that was planted to be removed."""
    if os.geteuid():
        pytest.skip("needs root, which can act as two users")
    attack = Attack(shared, tmp_path / "victim")
    attack.swap()
    source = many_files(tmp_path / "source", 100, 100)
    (source / "large").write_bytes(os.urandom(1_000_000))
    theirs = planted(shared, "large", (source / "large").read_bytes()[:1000])
    transport = connect(sshd)
    for number in range(3):
        upload(transport, source, shared / f"tree{number}")
        upload(transport, source / "large", shared / "large", resume=True)
    assert len(os.listdir(tmp_path / "victim")) == 40
    assert (shared / "large").stat().st_uid == 0
    assert (theirs.stat().st_size, theirs.stat().st_uid) == (1000, STRANGER)
    for number in range(3):
        assert len(os.listdir(shared / f"tree{number}")) == 101
    with pytest.raises(PermissionError):
        upload(transport, source / "large", theirs)


def test_server_without_modes_and_times_is_copied_to(
    sshd_factory: Callable[..., Sshd],
    connect: Callable[[Sshd], SshTransport],
    shared: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As ``sftp put -p`` does, the copy warns and goes on."""
    server = sshd_factory({"Subsystem": "sftp internal-sftp -P setstat,fsetstat"})
    transport = connect(server)
    source = many_files(tmp_path / "source", 10, 300_000)
    for path in source.iterdir():
        path.chmod(0o644)
    with caplog.at_level(logging.WARNING, "ssh_service.copying"):
        for _ in range(2):
            upload(transport, source, shared / "tree", contents=True, resume=True)
    assert len([r for r in caplog.records if r.name == "ssh_service.copying"]) == 2
    for path in (shared / "tree").iterdir():
        assert path.read_bytes() == (source / path.name).read_bytes()
        assert stat.S_IMODE(path.stat().st_mode) == 0o644 & ~current_umask()
    download(transport, shared / "tree", tmp_path / "back")
    assert sorted(os.listdir(tmp_path / "back")) == sorted(os.listdir(source))
    assert not unfinished_files(shared)
