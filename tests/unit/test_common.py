"""The tests' own helpers."""

from __future__ import annotations

import pytest

from tests.common import require_part

_VARIABLE = "SSH_SERVICE_REQUIRE_PARTS"


def test_require_part_present_goes_on() -> None:
    require_part("/bin/sh", "needs a shell")


@pytest.mark.parametrize("value", [None, "", "0"])
def test_require_part_missing_skips(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing part skips the test, and the reason says what is missing."""
    if value is None:
        monkeypatch.delenv(_VARIABLE, raising=False)
    else:
        monkeypatch.setenv(_VARIABLE, value)
    with pytest.raises(pytest.skip.Exception, match="needs dropbear"):
        require_part(None, "needs dropbear (Debian: apt install dropbear-bin)")


def test_require_part_missing_in_ci_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every part must be there, a missing one is a failure."""
    monkeypatch.setenv(_VARIABLE, "1")
    with pytest.raises(pytest.fail.Exception, match="needs dropbear"):
        require_part(None, "needs dropbear (Debian: apt install dropbear-bin)")
