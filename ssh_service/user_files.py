"""Where the user's own files are, and whether one of them has changed."""

from __future__ import annotations

import os
from typing import Tuple

__all__ = ["expand_home", "file_version", "home"]


def home() -> str:
    """Return the home directory of the user this process runs as."""
    given = os.environ.get("HOME")
    if os.name != "posix":
        return os.path.expanduser("~")
    if given:
        return given.rstrip("/") or "/"
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_dir or "/"
    except KeyError:  # a user without an entry, as in some containers
        return "/"


def expand_home(path: str) -> str:
    """Replace ``~`` and ``~user`` at the start of a path."""
    if path == "~" or path.startswith("~/"):
        return home().rstrip("/") + path[1:] or "/"
    return os.path.expanduser(path)


def file_version(facts: os.stat_result) -> Tuple[int, ...]:
    """Return what changes whenever a file is replaced or written to."""
    return (
        facts.st_dev,
        facts.st_ino,
        facts.st_size,
        facts.st_mtime_ns,
        facts.st_ctime_ns,
    )
