"""The walk through a local tree."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ssh_service.copying.local import walk as walking


@pytest.mark.parametrize("where", ["_scan", "_make_entry"])
def test_time_limit_that_strikes_in_a_listing_is_not_an_error_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """A signal handler may raise TimeoutError, which is an OSError, too."""
    (tmp_path / "file").touch()

    def handler(*_: object) -> None:
        raise TimeoutError("time is up")

    monkeypatch.setattr(walking, where, handler)
    swallowed: "list[Exception]" = []
    with pytest.raises(TimeoutError, match="^time is up$"):
        list(walking.walk(os.fsencode(tmp_path), os.stat(tmp_path), None, swallowed.append))
    assert swallowed == []
