"""``max_rate``: a copy is not faster, ends when it is told to, and shows its progress."""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import Any, Callable, List

import pytest

from ssh_service.copying import Progress, downloading
from ssh_service.copying import rate_limit as rate_limit_module
from ssh_service.copying import upload_stream
from ssh_service.copying.rate_limit import RateLimit
from ssh_service.copying.sftp.session import SftpSession
from ssh_service.copying.sftp.time_limits import TimeUp
from tests.integration.sftp_processes import Shell
from tests.trees import many_files
from tests.unit.sftp_harness import download, upload

BOTH = pytest.mark.parametrize("copy", [upload, download])
Copy = Callable[..., Any]


@BOTH
@pytest.mark.parametrize("rate, size", [(200_000, 100_000), (5_000_000, 2_000_000)])
def test_large_file_is_not_copied_faster(
    session: SftpSession, copy: Copy, rate: int, size: int, tmp_path: Path
) -> None:
    """At least the time that the rate needs, but for the last part."""
    (tmp_path / "source").write_bytes(bytes(range(250)) * (size // 250))
    began = time.monotonic()
    copy(session, tmp_path / "source", tmp_path / "target", max_rate=rate)
    assert time.monotonic() - began > size / rate - 0.15
    assert (tmp_path / "target").read_bytes() == (tmp_path / "source").read_bytes()


@BOTH
def test_small_files_together_are_not_copied_faster(
    session: SftpSession,
    home: Path,
    copy: Copy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor in a stream, which the limit could not hold back."""
    monkeypatch.setattr(upload_stream, "MANY_FILES", 1)
    monkeypatch.setattr(downloading, "MANY_FILES", 0)
    source, shell = many_files(tmp_path / "source", 50, 2000), Shell(home)
    began = time.monotonic()
    copy(session, source, tmp_path / "target", max_rate=250_000, shell=shell)
    assert time.monotonic() - began > 0.3 and not shell.commands
    assert len(list((tmp_path / "target").iterdir())) == 50


@BOTH
def test_slow_copy_reports_progress_and_obeys_its_timeout(
    session: SftpSession, copy: Copy, tmp_path: Path
) -> None:
    """A pause is no stall, but the time of the whole copy passes in it."""
    (tmp_path / "source").write_bytes(bytes(1_000_000))
    seen: List[Progress] = []
    slow = functools.partial(copy, session, tmp_path / "source", tmp_path / "target")
    began = time.monotonic()
    with pytest.raises(TimeUp):
        slow(max_rate=50_000, timeout=1.5, stall_timeout=1.0, progress=seen.append)
    assert 1.4 < time.monotonic() - began < 15
    assert len(seen) >= 5 and 0 < seen[-1].bytes_done < 500_000
    assert not (tmp_path / "target").exists()


@BOTH
def test_progress_that_raises_ends_a_slow_copy(
    session: SftpSession, copy: Copy, tmp_path: Path
) -> None:
    """During a pause, too; and the next copy on the session works."""
    (tmp_path / "source").write_bytes(bytes(1_000_000))

    def stop(progress: Progress) -> None:
        raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        copy(session, tmp_path / "source", tmp_path / "target", max_rate=50_000, progress=stop)
    assert not (tmp_path / "target").exists()
    copy(session, tmp_path / "source", tmp_path / "target")


def test_parts_are_small_enough_for_a_low_rate() -> None:
    """A part takes a tenth of a second at most, unless it has a kibibyte."""
    client: Any = None
    assert RateLimit(100_000, client).part_size(261_120) == 10_000
    assert RateLimit(10, client).part_size(261_120) == 1024
    assert RateLimit(float("inf"), client).part_size(261_120) == 261_120
    assert rate_limit_module._PAUSE == 0.1
