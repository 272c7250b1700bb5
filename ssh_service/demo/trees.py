"""The tree that the demonstration copies to the server and back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Dict, List, NamedTuple

__all__ = ["FILES", "TreeEntry", "differing", "make_tree", "read_tree"]

FILES = 120


class TreeEntry(NamedTuple):
    """What is compared for a file or folder."""

    content: bytes
    mode: int
    seconds: int


def make_tree(root: Path) -> None:
    """Create the tree to copy, with names that are difficult for shells and careless programs."""
    folders = [root / name for name in ("plain", "it's $HOME; * ?", "-rf", "größe\n2")]
    for folder in folders:
        folder.mkdir(parents=True)
    for number in range(FILES):
        path = folders[number % len(folders)] / f"file {number}"
        path.write_bytes(os.urandom(500 * number))
        path.chmod((0o644, 0o600, 0o755)[number % 3])
        os.utime(path, (1.5e9 + number, 1.5e9 + number))


def read_tree(root: Path, with_times: bool) -> Dict[str, TreeEntry]:
    """Read a tree: its entries by their relative names."""
    found = {}
    for path in sorted(root.rglob("*")):
        stat, is_file = path.stat(), path.is_file()
        found[str(path.relative_to(root))] = TreeEntry(
            path.read_bytes() if is_file else b"",
            stat.st_mode,
            int(stat.st_mtime) if is_file and with_times else 0,
        )
    return found


def differing(one: Dict[str, TreeEntry], other: Dict[str, TreeEntry]) -> List[str]:
    """Return the names that differ between two trees, or are missing in one."""
    return sorted(name for name in {*one, *other} if one.get(name) != other.get(name))
