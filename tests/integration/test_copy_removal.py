"""The removal of an unfinished tree on the server, which is bounded."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssh_service.copying.remote_owner import RemoteOwner
from tests.integration.sftp_processes import real_session
from tests.unit.test_copy_removal import remove


def test_removal_of_a_tree_of_many_levels_leaves_nothing(
    sftp_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RemoteOwner, "is_our_private_folder", lambda self, found: True)
    root = folder = tmp_path / "unfinished"
    kept = tmp_path / "kept"
    kept.write_bytes(b"kept")
    for number in range(400):
        folder.mkdir()
        (folder / "file").write_bytes(b"x")
        if not number % 10:
            (folder / "empty").mkdir()
            (folder / "link").symlink_to(tmp_path)
        folder = folder / "d"
    with real_session(sftp_server, tmp_path) as session:
        remove(session, root)
    assert not root.exists()
    assert kept.read_bytes() == b"kept"
