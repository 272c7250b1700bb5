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

__all__ = [
    "CHANGED",
    "EXCLUDED",
    "Deletions",
    "Doomed",
    "Kept",
    "SourceNames",
    "TargetEntry",
    "link_of_another_user",
]

# Why an entry stays.
EXCLUDED = "excluded"
FOREIGN = "it belongs to another user"
UNSAFE = "other users could exchange it while it is deleted"
MOUNTED = "it is another file system"
RENAMED = "it may be an entry that was just copied, under a name that the target has changed"
# Why a target is refused.
CHANGED = "a link on its path has just been changed, or leads elsewhere for others"


# An entry's name, attributes (not of a link's target), and device and inode.
TargetEntry = Tuple[bytes, Attributes, Tuple[int, int]]


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
        self._excluded: Set[Tuple[bytes, bytes]] = set()
        self.is_empty = True

    def add(
        self, folder: bytes, name: bytes, keeps_link: bool = False, is_excluded: bool = False
    ) -> None:
        """Add an entry; `keeps_link`: it is a link that is copied as a link."""
        self._folders.setdefault(folder, {})[name] = keeps_link
        if is_excluded:
            self._excluded.add((folder, name))
        self.is_empty = self.is_empty and is_excluded

    def add_folder(self, folder: bytes) -> None:
        """Add a folder, whose entries follow."""
        self._folders.setdefault(folder, {})

    def has_folder(self, path: bytes) -> bool:
        """Return whether the source has this folder."""
        return path in self._folders

    def copied(self, folder: bytes) -> List[bytes]:
        """Return the names in a folder that are not excluded."""
        return [n for n in self._folders.get(folder, ()) if (folder, n) not in self._excluded]

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
    is_in_source : Optional[Callable[[bytes], bool]]
        Returns whether the source has a path now; None: that cannot have changed.
    is_planned : bool
        Whether nothing was copied, as the copy is only planned.

    Attributes
    ----------
    kept : List[Kept]
        The entries that stay.
    links : List[bytes]
        The links of the target that the copy may have written through; what each of them leads to
        must be passed to `protect`, which may add further links.
    """

    def __init__(
        self,
        names: SourceNames,
        excludes: Optional[Excludes],
        uid: int,
        is_in_source: Optional[Callable[[bytes], bool]] = None,
        is_planned: bool = False,
    ) -> None:
        self._names = names
        self._excludes = excludes
        self._uid = uid
        self._is_in_source = is_in_source
        self._is_planned = is_planned
        self._doomed: List[Doomed] = []
        self.kept: List[Kept] = []
        self.links: List[bytes] = []
        self._protected: Set[bytes] = set()
        # The other links of the target, by each folder that contains them.
        self._links_below: Dict[bytes, List[bytes]] = {}

    def examine(
        self,
        folder: bytes,
        entries: Iterable[TargetEntry],
        is_safe: bool = True,
        device: Optional[int] = None,
    ) -> List[bytes]:
        """
        Decide about the entries of a folder; return the folders to examine next.

        Parameters
        ----------
        folder : bytes
            The path of the folder.
        entries : Iterable[TargetEntry]
            Its entries.
        is_safe : bool
            Whether no other user can exchange a folder of ours in it.
        device : Optional[int]
            The device of the root; None if that is unknown.
        """
        to_examine: List[bytes] = []
        entries = list(entries)
        is_renaming = not self._is_planned and self._is_renaming(folder, entries)
        for name, attributes, identity in entries:
            if name in (b"", b".", b"..") or b"/" in name or temporary.parse(name) is not None:
                continue
            path = _join(folder, name)
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
            if stat.S_ISLNK(attributes.mode or 0):
                for parent in _parents(path):
                    self._links_below.setdefault(parent, []).append(path)
            reason = self._reason_to_keep(path, attributes, is_a_folder, is_safe)
            if device is not None and is_a_folder and identity[0] != device:
                reason = MOUNTED
            if reason or is_renaming:
                self.kept.append(Kept(path, is_a_folder, reason or RENAMED))
            elif self._is_in_source is None or not self._is_in_source(path):
                self._doomed.append(Doomed(path, attributes, identity))
                if is_a_folder:
                    to_examine.append(path)
        return to_examine

    def _is_renaming(self, folder: bytes, entries: List[TargetEntry]) -> bool:
        """Return whether the target lacks a copied name: it may ignore case, or change names."""
        shown = {name for name, _, _ in entries}
        return any(
            name not in shown
            and (self._is_in_source is None or self._is_in_source(_join(folder, name)))
            for name in self._names.copied(folder)
        )

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
        self.links += self._links_below.pop(path, [])  # it may have written through these as well

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


def link_of_another_user(path: str, uid: Optional[int]) -> str:
    """Return why a target is refused that a link leads to, which its owner could change."""
    return f"{path!r}, which leads to it, is a link of another user (uid {uid})"


def _join(folder: bytes, name: bytes) -> bytes:
    """Return the path of an entry of a folder, which is ``b""`` for the root."""
    return join(folder, name) if folder else name


def _parents(path: bytes) -> List[bytes]:
    """Return the folders that contain a path, with the root."""
    names = path.split(b"/")
    return [b"/".join(names[:count]) for count in range(len(names))]
