"""``python -m ssh_service.paramiko PROGRAM`` runs programs as Python does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.common import PATIENCE


def run_program(folder: Path, *arguments: str, libraries: str = "", **more: str) -> str:
    paths = [libraries, *sys.path]
    # cryptography warns of each Python that is about to end.
    warnings = ["-W", "error", "-W", "ignore:Python 3."]
    done = subprocess.run(
        [sys.executable, *warnings, "-m", "ssh_service.paramiko", *arguments],
        cwd=str(folder),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **more},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=PATIENCE,
        check=False,
    )
    return done.stdout.decode()


def test_a_mistake_in_a_program_is_shown_by_python(tmp_path: Path) -> None:
    (tmp_path / "wrong.py").write_text("def (\n")
    assert "SyntaxError" in run_program(tmp_path, "wrong.py")


def test_pytest_runs_without_a_warning(tmp_path: Path) -> None:
    """It rewrites packages that have plugins, and this one has been imported before."""
    (tmp_path / "test_it.py").write_text("def test_it():\n    assert True\n")
    out = run_program(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_it.py")
    assert "1 passed" in out and "warning" not in out, out


def test_a_folder_is_run_as_python_runs_it(tmp_path: Path) -> None:
    (tmp_path / "tool").mkdir()
    (tmp_path / "tool" / "beside.py").write_text("NAME = 'beside'\n")
    (tmp_path / "tool" / "__main__.py").write_text(
        "import sys, beside\nprint(beside.NAME, sys.argv[1:], __file__)\n"
    )
    expected = f"beside ['x'] {tmp_path / 'tool' / '__main__.py'}\n"
    assert run_program(tmp_path, "tool", "x") == expected


@pytest.mark.skipif(sys.version_info < (3, 11), reason="before 3.11 there is no safe path")
def test_a_safe_path_keeps_its_first_entry(tmp_path: Path) -> None:
    """Python puts no folder in front of it that would have to be replaced."""
    (tmp_path / "libraries").mkdir()
    (tmp_path / "libraries" / "first_of_all.py").write_text("NAME = 'found'\n")
    (tmp_path / "program.py").write_text("import first_of_all\nprint(first_of_all.NAME)\n")
    out = run_program(
        tmp_path, "program.py", libraries=str(tmp_path / "libraries"), PYTHONSAFEPATH="1"
    )
    assert out == "found\n"
