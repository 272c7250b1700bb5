"""
The folders of a server's tree that a download lists, and what it accepts there.

The server may be hostile: it may list invalid names, one name twice, or entries without end.
"""

from __future__ import annotations

import errno
import functools
from typing import Any, List, NamedTuple, Optional, Set, Tuple

from ssh_service.copying.failures import display_path
from ssh_service.copying.local.system import comparable, is_usable
from ssh_service.copying.paths import MAX_NAME_LENGTH, join
from ssh_service.copying.sftp.protocol import Attributes
from ssh_service.errors import transfer_error

__all__ = ["ListingBounds", "SourceFolder", "check_local_name", "check_name"]

# Limits of one download: entries in total, folders among them (which are kept in memory until the
# end), and levels.
MAX_ENTRIES = 1_000_000
MAX_FOLDERS = 250_000
MAX_LEVELS = 1000


class SourceFolder(NamedTuple):
    """A folder to copy.  There may be many, so it does not store its complete path."""

    parent: Optional[Any]  # the SourceFolder that contains it
    name: bytes
    level: int
    attributes: Attributes
    real_paths: Tuple[bytes, ...]  # of the links on the way to it: their places and targets
    since: int  # how many of its names come before the end of the last of those links

    @property
    def names(self) -> Tuple[bytes, ...]:
        """The path from the root of the tree, as a tuple of names."""
        names: List[bytes] = []
        folder = self
        while folder.parent is not None:
            names.append(folder.name)
            folder = folder.parent
        return tuple(reversed(names))

    @property
    def real_path(self) -> bytes:
        """The folder's own path on the server, without links."""
        return functools.reduce(join, self.names[self.since :], self.real_paths[-1])


class ListingBounds:
    """Checks and counts the entries that a server lists, for one download."""

    def __init__(self) -> None:
        self._entries = 0
        self._folders = 0

    def check_entry(self, name: bytes, path: bytes, seen: Set[int]) -> None:
        """Refuse an invalid name, a name in `seen`, or an entry beyond the limit."""
        self._entries += 1
        if self._entries > MAX_ENTRIES:
            text = f"more than {MAX_ENTRIES} entries"
            raise transfer_error(errno.E2BIG, display_path(path), text, side="remote")
        if name not in (b".", b".."):
            check_local_name(name, path)
        digest = hash(
            comparable(name)
        )  # keyed, and 64 bits: small, and a server cannot cause collisions
        if digest in seen:
            text = "the server lists this name twice"
            if comparable(b"A") != b"A":
                text += ", or in two cases, which Windows does not distinguish"
            raise transfer_error(errno.EPROTO, display_path(path), text, side="remote")
        seen.add(digest)

    def check_folder(self, path: bytes, level: int) -> None:
        """Refuse a folder beyond the limits of number and depth."""
        self._folders += 1
        if self._folders > MAX_FOLDERS:
            text = f"more than {MAX_FOLDERS} folders"
            raise transfer_error(errno.E2BIG, display_path(path), text, side="remote")
        if level > MAX_LEVELS:
            text = "too many levels"
            raise transfer_error(errno.ELOOP, display_path(path), text, side="remote")


def check_name(name: bytes, path: bytes) -> None:
    """Refuse a name that a server must not send."""
    if len(name) > MAX_NAME_LENGTH:
        raise transfer_error(errno.ENAMETOOLONG, display_path(path), side="remote")
    if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
        text = "the server sent an invalid file name"
        raise transfer_error(errno.EPROTO, display_path(path), text, side="remote")


def check_local_name(name: bytes, path: bytes) -> None:
    """Refuse a name that a server must not send, or that a local file cannot have."""
    check_name(name, path)
    if not is_usable(name):
        text = "a file cannot have this name on Windows"
        raise transfer_error(errno.EINVAL, display_path(path), text, side="remote")
