"""Where the user's own files are, and whether one of them has changed."""

from __future__ import annotations

import os
from typing import Tuple

__all__ = ["expand_home", "file_version", "home"]


def home() -> str:
    """
    Return the home directory of the user this process runs as.

    Returns
    -------
    str
        ``HOME``; where that is unset or empty, the one in the system's database, as in ssh.
    """
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
    """
    Replace ``~`` and ``~user`` at the start of a path.

    Parameters
    ----------
    path : str
        A path on this machine.

    Returns
    -------
    str
        Unlike `os.path.expanduser`, never a path below ``/`` because ``HOME`` is empty.
    """
    if path == "~" or path.startswith("~/"):
        return home().rstrip("/") + path[1:] or "/"
    return os.path.expanduser(path)


def file_version(facts: os.stat_result) -> Tuple[int, ...]:
    """
    Return what changes whenever a file is replaced or written to.

    Parameters
    ----------
    facts : os.stat_result
        Of the file.

    Returns
    -------
    Tuple[int, ...]
        For the key of a cache.  The time of the last change (ctime) is in it as no program can
        set that back, unlike the time of the last modification.
    """
    return (
        facts.st_dev,
        facts.st_ino,
        facts.st_size,
        facts.st_mtime_ns,
        facts.st_ctime_ns,
    )
