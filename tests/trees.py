"""Trees of files to copy, and functions to compare them."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Dict, Optional, Tuple, Union

from ssh_service.copying.local.descriptors import current_umask

Description = Dict[bytes, Tuple[int, int, Optional[bytes]]]

PATTERN = b".ssh_service-"


def describe(path: Union[str, Path]) -> Description:
    """Give mode, time and content of all that is in a tree, links followed, the root included."""
    found: Description = {}
    root = os.fsencode(path)
    for folder, folders, files in os.walk(root, followlinks=True):
        for name in (*folders, *files, b""):
            full = os.path.join(folder, name)
            status = os.stat(full)
            content = None
            if stat.S_ISREG(status.st_mode):
                with open(full, "rb") as file:
                    content = file.read()
            relative = os.path.relpath(full, root)
            found[relative] = (status.st_mode, int(status.st_mtime), content)
    return found


def come_down(mode: int) -> int:
    """Give what a download makes of a mode by default."""
    return mode & 0o777 & ~(current_umask() & 0o022)


def received(description: Description) -> Description:
    """Give what a download makes of a tree by default."""
    return {
        path: (stat.S_IFMT(mode) | come_down(stat.S_IMODE(mode)), mtime, content)
        for path, (mode, mtime, content) in description.items()
    }


def unfinished_files(path: Union[str, Path]) -> list:
    """Give the unfinished files and folders that lie anywhere in a tree."""
    return [
        os.path.join(folder, name)
        for folder, folders, files in os.walk(os.fsencode(path))
        for name in (*folders, *files)
        if name.startswith(PATTERN)
    ]


ODD_NAMES = [
    b" ",
    b"a b\tc",
    b"new\nline",
    b"\xff\xfe not utf-8",
    "žluťoučký".encode(),
    b"-rf",
    b"--",
    b"'\"`",
    b"$(touch x);&|<>",
    b"*?[a]{b}!",
    b"~",
    b"~root",
    b"#",
    b"back\\slash",
    b".hidden",
    b"...",
    b"x" * 255,
    b"C:",
    b"\x01\x7f",
]


def make_tree(root: Path) -> Path:
    """Make a tree with every kind of thing that can be copied."""
    root.mkdir()
    (root / "empty folder").mkdir()
    (root / "deep" / "er" / "est").mkdir(parents=True)
    (root / "deep" / "er" / "est" / "file").write_bytes(b"far down")
    (root / "empty").write_bytes(b"")
    (root / "large").write_bytes(os.urandom(1_000_003))
    (root / "link").symlink_to("large")
    (root / "link to folder").symlink_to("deep")
    names = os.fsencode(root / "names")
    os.mkdir(names)
    for number, name in enumerate(ODD_NAMES):
        with open(os.path.join(names, name), "wb") as file:
            file.write(b"%d" % number)
    for mode in (0o755, 0o700, 0o600, 0o444):
        path = root / f"mode {mode:o}"
        path.write_bytes(b"%o" % mode)
        path.chmod(mode)
        os.utime(path, (1_000_000_000 + mode, 1_100_000_000 + mode))
    os.utime(root / "deep" / "er", (1_200_000_000, 1_300_000_000))
    (root / "empty folder").chmod(0o555)
    os.utime(root, (1_400_000_000, 1_500_000_000))
    return root


def many_files(root: Path, count: int, size: Optional[int] = None) -> Path:
    """Make a folder of small files: of random bytes, or of so many letters as its name says."""
    root.mkdir()
    for number in range(count):
        content = b"x" * number if size is None else os.urandom(size)
        (root / str(number)).write_bytes(content)
    return root
