"""
Questions about local paths, as in `os.path`, but without its habit of ignoring any `OSError`.

The time limit of a task queue is often a `TimeoutError` that a signal handler raises; `os.path`
takes it for a missing file, and the time limit is lost.
"""

from __future__ import annotations

import os
import stat
from typing import Callable, Optional, Union

from ssh_service.interruptions import raise_interruption

__all__ = ["entry_exists", "exists", "is_file", "is_folder", "is_link"]

_LocalPath = Union[str, bytes, "os.PathLike[str]"]


def exists(path: _LocalPath) -> bool:
    """Return whether there is something at a path, at the end of its links."""
    return _mode(path, os.stat) is not None


def entry_exists(path: _LocalPath) -> bool:
    """Return whether there is something at a path, be it a broken link."""
    return _mode(path, os.lstat) is not None


def is_folder(path: _LocalPath) -> bool:
    """Return whether a path leads to a folder."""
    return stat.S_ISDIR(_mode(path, os.stat) or 0)


def is_file(path: _LocalPath) -> bool:
    """Return whether a path leads to a regular file."""
    return stat.S_ISREG(_mode(path, os.stat) or 0)


def is_link(path: _LocalPath) -> bool:
    """Return whether there is a symbolic link at a path."""
    return stat.S_ISLNK(_mode(path, os.lstat) or 0)


def _mode(path: _LocalPath, look: Callable[[_LocalPath], os.stat_result]) -> Optional[int]:
    try:
        return look(path).st_mode
    except (OSError, ValueError) as error:
        raise_interruption(error)
        return None
