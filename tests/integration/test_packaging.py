"""All files are published, and nothing else, as far as the packaging files say."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.test_packaging import ROOT


def test_long_description_has_no_link_that_an_index_cannot_follow(tmp_path: Path) -> None:
    """A package index shows README's text, without links to files of the repository."""
    pytest.importorskip("setuptools")
    shutil.copy(ROOT / "README.md", tmp_path)
    shutil.copy(ROOT / "setup.py", tmp_path)
    shown = subprocess.run(
        [sys.executable, "setup.py", "--long-description"],
        cwd=str(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        timeout=60,
    )
    assert shown.returncode == 0, shown.stderr
    text = shown.stdout
    assert "CONTRIBUTING.md: a map of the code" in text and "pip install" in text
    assert set(re.findall(r"\]\((https?:)?", text)) == {"https:"}
