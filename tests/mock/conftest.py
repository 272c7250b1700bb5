"""Fixtures of the tests against the mock server."""

from __future__ import annotations

import pytest

from ssh_service.commands import termination


@pytest.fixture
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up early what was to end: the mock server knows no signals, and it would not."""
    monkeypatch.setattr(termination, "_TERM_TIMEOUT", 0.05)
    monkeypatch.setattr(termination, "_KILL_TIMEOUT", 0.05)
