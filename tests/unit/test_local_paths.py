"""Questions about local paths that do not lose the time limit of a task queue."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Callable

import pytest

import ssh_service
from ssh_service import local_paths

PACKAGE = Path(ssh_service.__file__).parent
# Programs of their own, in which no other code sets a time limit.
PROGRAMS = {"cli", "demo", "testing", "__main__.py"}
QUESTIONS = [
    (local_paths.exists, os.path.exists),
    (local_paths.entry_exists, os.path.lexists),
    (local_paths.is_file, os.path.isfile),
    (local_paths.is_folder, os.path.isdir),
    (local_paths.is_link, os.path.islink),
]


@pytest.mark.parametrize("ours, standard", QUESTIONS)
def test_answers_are_those_of_the_standard_library(
    tmp_path: Path, ours: Callable[[Any], bool], standard: Callable[[Any], bool]
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "broken").symlink_to("nothing")
    (tmp_path / "loop").symlink_to("loop")
    for name in (
        "",
        "file",
        "link",
        "broken",
        "loop",
        "missing",
        "file/below",
        "nul\0",
        "x" * 300,
    ):
        path = f"{tmp_path}/{name}"
        assert ours(path) == standard(path), name
        assert ours(os.fsencode(path)) == standard(os.fsencode(path)), name


@pytest.mark.parametrize("ours, _", QUESTIONS)
def test_time_limit_that_strikes_within_comes_through(
    ours: Callable[[Any], bool], _: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def handler(*_: Any) -> None:
        raise TimeoutError("time is up")

    monkeypatch.setattr(os, "stat", handler)
    monkeypatch.setattr(os, "lstat", handler)
    with pytest.raises(TimeoutError, match="time is up"):
        ours(tmp_path)


def test_library_asks_only_in_this_way() -> None:
    pattern = re.compile(r"os\.path\.(exists|lexists|isfile|isdir|islink|ismount)\b")
    for module in PACKAGE.rglob("*.py"):
        if PROGRAMS.isdisjoint(module.relative_to(PACKAGE).parts):
            assert not pattern.search(module.read_text(encoding="utf-8")), module
