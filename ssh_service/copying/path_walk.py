"""Follows a path link by link, for both sides: the caller examines each entry on the way."""

from __future__ import annotations

from collections import deque
from typing import Optional

from ssh_service.copying.paths import folder_of, join

__all__ = ["MAX_SYMLINKS", "PathWalk"]

# The number of symbolic links in one path that Linux follows.
MAX_SYMLINKS = 40


class PathWalk:
    """
    The walk from the root to the end of an absolute path.

    Attributes
    ----------
    real : bytes
        The real path so far.
    """

    def __init__(self, path: bytes) -> None:
        self.real = b"/"
        self._names = deque(path.split(b"/"))
        self._links = 0

    def next_entry(self) -> Optional[bytes]:
        """Return the path of the next entry, which may be a link; None at the end."""
        while self._names:
            name = self._names.popleft()
            if name == b"..":
                self.real = folder_of(self.real)
            elif name not in (b"", b"."):
                return join(self.real, name)
        return None

    def enter(self, entry: bytes) -> None:
        """Go on from an entry that is not a link."""
        self.real = entry

    def follow(self, text: bytes) -> None:
        """Follow a link with this text, in place of the entry; give up after too many links."""
        self._links += 1
        if self._links > MAX_SYMLINKS:
            self._names.clear()
            return
        if text.startswith(b"/"):
            self.real = b"/"
        self._names.extendleft(reversed(text.split(b"/")))
