"""Fixtures of the tests of copies: OpenSSH's sftp-server without the SSH around it."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Callable, Iterator

import pytest

from ssh_service.copying.sftp.session import SftpSession
from tests.integration.sftp_processes import real_session
from tests.trees import unfinished_files


@pytest.fixture(name="home")
def folder_where_the_session_begins(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    return home


@pytest.fixture(name="session")
def session_of_a_real_server(
    sftp_server: str, home: Path, tmp_path: Path
) -> Iterator[SftpSession]:
    """Give a session; nothing unfinished may be left when it ends."""
    with real_session(sftp_server, home) as session:
        yield session
    assert not unfinished_files(tmp_path)


@pytest.fixture(name="file")
def file_to_copy(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    path.chmod(0o640)
    os.utime(path, (1_000_000_000, 1_100_000_000))
    return path


@pytest.fixture(name="mount")
def what_mounts_something_until_the_test_ends() -> Iterator[Callable[..., None]]:
    with contextlib.ExitStack() as mounted:

        def mount(target: Path, *how: str) -> None:
            if os.getuid() != 0 or shutil.which("mount") is None:
                pytest.skip("needs root, to mount")
            command = ["mount", *how, str(target)]
            if subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode != 0:
                pytest.skip("mounting is not allowed here")
            mounted.callback(subprocess.run, ["umount", str(target)], check=True)

        yield mount
