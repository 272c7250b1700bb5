"""What the tests against the mock server share."""

from __future__ import annotations

import pytest

from ssh_service.commands import command


@pytest.fixture
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up early what was to end: the mock server knows no signals, and it would not."""
    monkeypatch.setattr(command, "_TERM_PATIENCE", 0.05)
    monkeypatch.setattr(command, "_KILL_PATIENCE", 0.05)
