"""The comparison with peers' own tests, which the full check relies on, finds what differs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Dict, List

import pytest

from tests.peers import compare as module
from tests.peers.differences import Difference
from tests.peers.suites import SUITES, Suite

pytestmark = pytest.mark.long

_TESTS = """
import sys

def test_passes():
    pass

def test_fails():
    assert False

def test_differs():
    assert "ssh_service.paramiko" not in sys.modules

def test_may_differ():
    assert "ssh_service.paramiko" not in sys.modules
"""
_LISTED = {"test_it.py::test_may_*": Difference("it may")}


class _NoServer:
    """Stands for a server to which nobody logs in."""

    def mark(self) -> None:
        pass

    def logins(self) -> int:
        return 0

    def environment(self) -> Dict[str, str]:
        return dict(os.environ)


@pytest.fixture
def compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that compares a peer of ours, with a list of expected differences."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "test_it.py").write_text(_TESTS)
    monkeypatch.setitem(SUITES, "it", Suite((("test_it.py",),)))

    def compare(expected: Dict[str, Difference]) -> List[str]:
        monkeypatch.setitem(module.EXPECTED, "it", expected)
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        server: Any = _NoServer()
        return module.compare("it", source, server, folder)

    return compare


def test_a_difference_that_is_not_listed_is_reported(compared: Any) -> None:
    (found,) = compared(_LISTED)
    assert found.startswith("it: test_it.py::test_differs: plain passed, with ours failed\n")


def test_an_entry_without_a_difference_is_reported(compared: Any) -> None:
    listed = {
        "test_it.py::*differ*": Difference("they may"),
        "test_it.py::test_passes": Difference("it may"),
        "test_it.py::test_fails": Difference("it may, at times", always=False),
    }
    assert compared(listed) == [
        "it: test_it.py::test_passes: listed in differences.py, but does not differ"
    ]
