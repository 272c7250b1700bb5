"""
The local folders that a download writes into, so that no server can reach outside.

A folder is held open, and everything in it is reached through its descriptor; a symbolic link is
followed only deliberately.
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
# For a folder that is writable but cannot be listed.
_PATH_FLAG = getattr(os, "O_PATH", 0)
_MAX_SYMLINKS = 40

# The names from the root of a tree to one of its folders.
PathParts = Tuple[bytes, ...]


class TargetFolder:
    """
    A local folder, held open while anything is written into it.

    Attributes
    ----------
    path : bytes
        The path, for errors.
    is_new : bool
        Whether this copy created it, so that nothing is in the way there.
    root : Optional[bytes]
        The real path that symbolic links in this folder must not leave; None: anywhere.
    unfinished : Set[Unfinished]
        The files that are being written in it; those that an exception has left here are removed,
        or kept for the next copy, when the folder is closed.
    """

    def __init__(
        self,
        descriptor: Descriptor,
        path: bytes,
        is_new: bool = False,
        root: Optional[bytes] = None,
        open_folders: Optional[Set[TargetFolder]] = None,
        keeps_links: bool = False,
    ) -> None:
        self._descriptor = descriptor
        self.keeps_links = keeps_links
        self.path = path
        self.is_new = is_new
        self.root = root
        self.unfinished: Set[Unfinished] = set()
        self._refcount = 1
        self._unfinished_names: Optional[List[bytes]] = None
        # All open folders of the tree.
        self._open_folders = set() if open_folders is None else open_folders
        self._open_folders.add(self)

    @property
    def fd(self) -> int:
        """The descriptor."""
        return self._descriptor.fd

    @property
    def attributes(self) -> Attributes:
        """The owner and mode, now."""
        return owner_and_mode(os.fstat(self.fd))

    def hold(self) -> None:
        """Increase the refcount: keep the folder open for one more user."""
        self._refcount += 1

    def release(self) -> None:
        """Decrease the refcount; close the folder at zero."""
        self._refcount -= 1
        if not self._refcount:
            self.close()

    def close(self) -> None:
        """Close the folder, whatever its refcount; may be called more than once."""
        for file in list(self.unfinished):
            file.keep()
        self._open_folders.discard(self)
        self._descriptor.close()

    def sync(self) -> None:
        """Flush the entries to the disk, if the folder was opened for reading."""
        try:
            os.fsync(self.fd)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise

    def unfinished_names(self) -> List[bytes]:
        """Return the names of unfinished files in it, listed once."""
        if self._unfinished_names is None:
            try:
                names = map(os.fsencode, os.listdir(self.fd))
                self._unfinished_names = [
                    name for name in names if temporary.parse(name) is not None
                ]
            except OSError:
                self._unfinished_names = []  # the copy does not depend on it
        return self._unfinished_names

    def remove_stale_files(self, may_resume: bool) -> None:
        """Remove the files of dead copies; those that may be resumed, only after a day."""
        now, uid = time.time(), os.geteuid()
        for name in self.unfinished_names():
            try:
                status = os.stat(name, dir_fd=self.fd, follow_symlinks=False)
                if not is_our_stale_file(owner_and_mode(status), uid, status.st_nlink):
                    continue
                if temporary.names.is_stale(name, now - status.st_mtime, may_resume):
                    os.unlink(name, dir_fd=self.fd)
            except OSError:
                pass  # another copy was faster, or we have no permission


class Unfinished:
    """A file that is being written in a folder, as the folder sees it."""

    def keep(self) -> None:
        """Close the file; leave it for the next copy, if that may resume it."""
        raise NotImplementedError


def open_parent(target: bytes) -> Tuple[TargetFolder, bytes]:
    """Open the folder of a file that the local user named; return it, and the file's name."""
    try:
        path = follow_links(target)
        folder, name = os.path.split(path)
        return TargetFolder(open_folder(folder or b"."), folder or b"."), name
    except OSError as error:
        raise local_error(error, target) from error


def open_real(path: bytes, root: Optional[bytes]) -> TargetFolder:
    """Open a folder by its real path, to which links led; see `TargetFolder.root`."""
    return TargetFolder(open_folder(path, flags=os.O_NOFOLLOW), path, root=root)


def open_folder(path: bytes, dir_fd: Optional[int] = None, flags: int = 0) -> Descriptor:
    """Open a folder, even one that cannot be listed."""
    descriptor = Descriptor()
    try:
        descriptor.open(path, _FOLDER_FLAGS | flags, dir_fd=dir_fd)
    except PermissionError:
        descriptor.open(path, _FOLDER_FLAGS | flags | _PATH_FLAG, dir_fd=dir_fd)
    return descriptor


def follow_links(path: bytes) -> bytes:
    """Follow symbolic links at `path`; refuse those of other users in shared folders."""
    for _ in range(_MAX_SYMLINKS):
        try:
            found = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return path  # reported by the call that opens it
        if not stat.S_ISLNK(found.st_mode):
            return path
        folder = os.path.dirname(path)
        check_target(path, owner_and_mode(found), owner_and_mode(os.stat(folder or b".")))
        path = os.path.join(folder, os.readlink(path))
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def check_folder(path: bytes) -> None:
    """Check a folder by its path, as `check_target` does, following permitted links."""
    path = follow_links(path.rstrip(b"/") or b"/")
    if os.path.basename(path) not in (b"", b".", b".."):
        around = os.stat(os.path.dirname(path) or b".")
        check_target(path, owner_and_mode(os.lstat(path)), owner_and_mode(around))


def check_target(path: bytes, found: Attributes, folder: Attributes) -> None:
    """Refuse a target that another user created in a folder that others may write to."""
    if not may_use(found, folder, os.geteuid()):
        raise not_ours_error(display_path(path), found, "local")


def replaces_link(link: bytes, folder: TargetFolder) -> bool:
    """Return whether a local link is replaced by what the server has, instead of followed."""
    if folder.root is None:
        return False  # it is the target itself, which the user named
    return folder.keeps_links or parts_below(folder.root, link) is None


def parts_below(root: bytes, path: bytes) -> Optional[PathParts]:
    """Return the names from a real root to where a path leads; None if that is outside."""
    real = os.path.realpath(path)
    if not is_within(real, root):
        return None
    return tuple(name for name in real[len(root) :].split(b"/") if name)
