"""
The local folders that a download writes into, so that no server can reach outside.

A folder is held open and everything in it is reached through its descriptor; a symbolic link is
never followed by accident.  The links that the local user made inside the target tree are
followed where they stay inside it.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from typing import List, Optional, Set, Tuple

from ssh_service.copying import temporary
from ssh_service.copying.failures import display_path, local_error
from ssh_service.copying.local.descriptors import Descriptor
from ssh_service.copying.ownership import (
    is_our_stale_file,
    may_use,
    not_ours_error,
    owner_and_mode,
)
from ssh_service.copying.paths import is_within
from ssh_service.copying.sftp.protocol import Attributes

__all__ = [
    "PathParts",
    "TargetFolder",
    "Unfinished",
    "check_folder",
    "check_target",
    "follow_links",
    "open_folder",
    "open_parent",
    "open_real",
    "parts_below",
    "replaces_link",
]

_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY
# For a folder that may be written to, but not be listed.
_PATH_FLAG = getattr(os, "O_PATH", 0)
_MAX_SYMLINKS = 40

# The names that lead from a tree's root to one of its folders.
PathParts = Tuple[bytes, ...]


class TargetFolder:
    """
    A local folder, held open while anything is written into it.

    Attributes
    ----------
    path : bytes
        Its path, for errors.
    is_new : bool
        Whether this copy made it, so that nothing can stand in the way in there.
    root : Optional[bytes]
        The real path that symbolic links met in here must not leave; None: they may lead anywhere.
    unfinished : Set[Unfinished]
        Files that are being written in here; what an exception left among them is removed, or
        kept for the next copy, when the folder is closed.
    """

    def __init__(
        self,
        descriptor: Descriptor,
        path: bytes,
        is_new: bool = False,
        root: Optional[bytes] = None,
        among: Optional[Set[TargetFolder]] = None,
        keeps_links: bool = False,
    ) -> None:
        self._descriptor = descriptor
        self.keeps_links = keeps_links
        self.path = path
        self.is_new = is_new
        self.root = root
        self.unfinished: Set[Unfinished] = set()
        self._refcount = 1
        self._left: Optional[List[bytes]] = None
        self._among = set() if among is None else among  # all that are open
        self._among.add(self)

    @property
    def fd(self) -> int:
        """Its descriptor."""
        return self._descriptor.fd

    @property
    def attributes(self) -> Attributes:
        """Its owner and mode, now."""
        return owner_and_mode(os.fstat(self.fd))

    def hold(self) -> None:
        """Keep it open for one more user."""
        self._refcount += 1

    def release(self) -> None:
        """Let it be closed, once for each user."""
        self._refcount -= 1
        if not self._refcount:
            self.close()

    def close(self) -> None:
        """Close it, whoever holds it; may be called more than once."""
        for file in list(self.unfinished):
            file.keep()
        self._among.discard(self)
        self._descriptor.close()

    def sync(self) -> None:
        """Have its entries written to the disk, where it could be opened for that."""
        try:
            os.fsync(self.fd)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise

    def unfinished_names(self) -> List[bytes]:
        """List the unfinished files in it; once, for all that ask."""
        if self._left is None:
            try:
                names = map(os.fsencode, os.listdir(self.fd))
                self._left = [name for name in names if temporary.parse(name) is not None]
            except OSError:
                self._left = []  # nothing the copy depends on
        return self._left

    def remove_stale_files(self, may_resume: bool) -> None:
        """Remove what dead copies left in it; but what a copy may resume, only after a day."""
        now, uid = time.time(), os.geteuid()
        for name in self.unfinished_names():
            try:
                status = os.stat(name, dir_fd=self.fd, follow_symlinks=False)
                if not is_our_stale_file(owner_and_mode(status), uid, status.st_nlink):
                    continue
                if temporary.names.is_stale(name, now - status.st_mtime, may_resume):
                    os.unlink(name, dir_fd=self.fd)
            except OSError:
                pass  # somebody else was faster, or may and we may not


class Unfinished:
    """What a folder knows of a file that is being written in it."""

    def keep(self) -> None:
        """Close it, and leave what there is to the next copy, if that may resume."""
        raise NotImplementedError


def open_parent(target: bytes) -> Tuple[TargetFolder, bytes]:
    """
    Open the folder that holds a file the local user named, following the user's own links.

    Parameters
    ----------
    target : bytes
        The path of the file.

    Returns
    -------
    Tuple[TargetFolder, bytes]
        The folder, and the file's name in it.
    """
    try:
        path = follow_links(target)
        folder, name = os.path.split(path)
        return TargetFolder(open_folder(folder or b"."), folder or b"."), name
    except OSError as error:
        raise local_error(error, target) from error


def open_real(path: bytes, root: Optional[bytes]) -> TargetFolder:
    """Open a folder by its real path: what links led to, as `TargetFolder.root` allows."""
    return TargetFolder(open_folder(path, flags=os.O_NOFOLLOW), path, root=root)


def open_folder(path: bytes, dir_fd: Optional[int] = None, flags: int = 0) -> Descriptor:
    """Open a folder; one that cannot be listed, too."""
    descriptor = Descriptor()
    try:
        descriptor.open(path, _FOLDER_FLAGS | flags, dir_fd=dir_fd)
    except PermissionError:
        descriptor.open(path, _FOLDER_FLAGS | flags | _PATH_FLAG, dir_fd=dir_fd)
    return descriptor


def follow_links(path: bytes) -> bytes:
    """
    Follow a symbolic link, and those it leads to; but not a stranger's in a shared folder.

    Parameters
    ----------
    path : bytes
        A path that may be a link, or may be nothing.

    Returns
    -------
    bytes
        The path of what it leads to, which need not exist.
    """
    for _ in range(_MAX_SYMLINKS):
        try:
            found = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return path  # told by whatever opens it
        if not stat.S_ISLNK(found.st_mode):
            return path
        folder = os.path.dirname(path)
        check_target(path, owner_and_mode(found), owner_and_mode(os.stat(folder or b".")))
        path = os.path.join(folder, os.readlink(path))
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def check_folder(path: bytes) -> None:
    """As `check_target`, for a folder by its path; links are followed if they may be."""
    path = follow_links(path.rstrip(b"/") or b"/")
    if os.path.basename(path) not in (b"", b".", b".."):
        around = os.stat(os.path.dirname(path) or b".")
        check_target(path, owner_and_mode(os.lstat(path)), owner_and_mode(around))


def check_target(path: bytes, found: Attributes, folder: Attributes) -> None:
    """Refuse a target that a stranger made in a folder which strangers may write to."""
    if not may_use(found, folder, os.geteuid()):
        raise not_ours_error(display_path(path), found, "local")


def replaces_link(link: bytes, folder: TargetFolder) -> bool:
    """
    Return whether a link of the local user's gives way to what the server has.

    Parameters
    ----------
    link : bytes
        Its path.
    folder : TargetFolder
        Where it lies.
    """
    if folder.root is None:
        return False  # it is the target itself, which the user named
    return folder.keeps_links or parts_below(folder.root, link) is None


def parts_below(root: bytes, path: bytes) -> Optional[PathParts]:
    """Give the way from a real root to what a path leads to; None if that lies outside."""
    real = os.path.realpath(path)
    if not is_within(real, root):
        return None
    return tuple(name for name in real[len(root) :].split(b"/") if name)
