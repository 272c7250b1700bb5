"""
The rules of ``delete=True`` for both sides: which entries of a target are deleted, which stay.

Entries that only the target has are deleted if they belong to our user.  They stay if they are
excluded, if other users could exchange them meanwhile, or if the copy may have written them
through a symbolic link.  Links are deleted, but never followed.
"""

from __future__ import annotations

import stat
from typing import Callable, Dict, Iterable, List, NamedTuple, Optional, Set, Tuple

from ssh_service.copying import temporary
from ssh_service.copying.exclusions import Excludes
from ssh_service.copying.ownership import may_delete
from ssh_service.copying.paths import join
from ssh_service.copying.sftp.protocol import Attributes

__all__ = ["EXCLUDED", "Deletions", "Doomed", "Kept", "SourceNames"]

# Why an entry stays.
EXCLUDED = "excluded"
FOREIGN = "it belongs to another user"
UNSAFE = "other users could exchange it while it is deleted"
MOUNTED = "it is another file system"


class SourceNames:
    """
    The names in each folder of a source; paths are relative to its root, which is ``b""``.

    Attributes
    ----------
    is_empty : bool
        Whether no entry is copied.
    """

    def __init__(self) -> None:
        self._folders: Dict[bytes, Dict[bytes, bool]] = {}
        self.is_empty = True

    def add(
        self, folder: bytes, name: bytes, keeps_link: bool = False, is_excluded: bool = False
    ) -> None:
        """Add an entry; `keeps_link`: it is a link that is copied as a link."""
        self._folders.setdefault(folder, {})[name] = keeps_link
        self.is_empty = self.is_empty and is_excluded

    def add_folder(self, folder: bytes) -> None:
        """Add a folder, whose entries follow."""
        self._folders.setdefault(folder, {})

    def has_folder(self, path: bytes) -> bool:
        """Return whether the source has this folder."""
        return path in self._folders

    def find(self, folder: bytes, name: bytes) -> Optional[bool]:
        """Return whether an entry is a kept link; None if the source does not have it."""
        return self._folders.get(folder, {}).get(name)


class Doomed(NamedTuple):
    """An entry of the target to be deleted."""

    path: bytes  # relative to the root
    attributes: Attributes
    identity: Tuple[int, int]  # device and inode of a local entry

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder."""
        return stat.S_ISDIR(self.attributes.mode or 0)


class Kept(NamedTuple):
    """An entry that only the target has, and that stays."""

    path: bytes
    is_folder: bool
    reason: str


class Deletions:
    """
    Decides which entries are deleted, folder by folder.

    Parameters
    ----------
    names : SourceNames
        The names in the source.
    excludes : Optional[Excludes]
        Returns whether an entry is excluded.
    uid : int
        Our user's number on the side of the target.
    is_missing : Callable[[bytes], bool]
        Returns whether the source still does not have a path.

    Attributes
    ----------
    kept : List[Kept]
        The entries that stay.
    links : List[bytes]
        The links of the target that the copy may have written through; their targets must be
        passed to `protect`.
    """

    def __init__(
        self,
        names: SourceNames,
        excludes: Optional[Excludes],
        uid: int,
        is_missing: Callable[[bytes], bool] = lambda path: True,
    ) -> None:
        self._names = names
        self._excludes = excludes
        self._uid = uid
        self._is_missing = is_missing
        self._doomed: List[Doomed] = []
        self.kept: List[Kept] = []
        self.links: List[bytes] = []
        self._protected: Set[bytes] = set()

    def examine(
        self,
        folder: bytes,
        entries: Iterable[Tuple[bytes, Attributes, Tuple[int, int]]],
        is_safe: bool = True,
        device: Optional[int] = None,
    ) -> List[bytes]:
        """
        Decide about the entries of a folder; return the folders to examine next.

        Parameters
        ----------
        folder : bytes
            The path of the folder.
        entries : Iterable[Tuple[bytes, Attributes, Tuple[int, int]]]
            Each entry's name, attributes (not of a link's target), and device and inode.
        is_safe : bool
            Whether no other user can exchange a folder of ours in it.
        device : Optional[int]
            The device of the root; None if that is unknown.
        """
        to_examine: List[bytes] = []
        for name, attributes, identity in entries:
            if name in (b"", b".", b"..") or b"/" in name or temporary.parse(name) is not None:
                continue
            path = join(folder, name) if folder else name
            found = self._names.find(folder, name)
            is_a_folder = stat.S_ISDIR(attributes.mode or 0)
            if found is not None:
                if stat.S_ISLNK(attributes.mode or 0) and not found:
                    self.links.append(path)
                elif is_a_folder and self._names.has_folder(path):
                    if is_safe and self._is_ours_or_roots(attributes):
                        to_examine.append(path)
                    else:
                        reason = UNSAFE if self._is_ours_or_roots(attributes) else FOREIGN
                        self.kept.append(Kept(path, True, reason))
                continue
            reason = self._reason_to_keep(path, attributes, is_a_folder, is_safe)
            if device is not None and is_a_folder and identity[0] != device:
                reason = MOUNTED
            if reason:
                self.kept.append(Kept(path, is_a_folder, reason))
            elif self._is_missing(path):
                self._doomed.append(Doomed(path, attributes, identity))
                if is_a_folder:
                    to_examine.append(path)
        return to_examine

    def _is_ours_or_roots(self, folder: Attributes) -> bool:
        return folder.uid in (0, self._uid)

    def _reason_to_keep(
        self, path: bytes, attributes: Attributes, is_a_folder: bool, is_safe: bool
    ) -> str:
        if self._excludes is not None and self._excludes(path, is_a_folder):
            return EXCLUDED
        if not may_delete(attributes, self._uid):
            return FOREIGN
        return UNSAFE if is_a_folder and not is_safe else ""

    def protect(self, path: bytes) -> None:
        """Keep an entry with all that it contains: the copy may have written it."""
        self._protected.add(path)

    def doomed(self) -> List[Doomed]:
        """Return the entries to delete, each folder after its entries."""
        occupied: Set[bytes] = set()
        for path in (*self._protected, *(kept.path for kept in self.kept)):
            occupied.update(_parents(path))
        return [
            doomed
            for doomed in reversed(self._doomed)
            if doomed.path not in occupied
            and self._protected.isdisjoint((doomed.path, *_parents(doomed.path)))
        ]


def _parents(path: bytes) -> List[bytes]:
    """Return the folders that contain a path, with the root."""
    names = path.split(b"/")
    return [b"/".join(names[:count]) for count in range(len(names))]
