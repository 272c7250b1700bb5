"""
The local folders that a download writes into, so that no server can reach outside.

Each folder is held open, and everything in it is accessed through its descriptor; symbolic links
are only followed deliberately.
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
from ssh_service.copying.local.system import files
from ssh_service.copying.ownership import (
    is_our_stale_file,
    may_use,
    not_ours_error,
    owner_and_mode,
)
from ssh_service.copying.path_walk import MAX_SYMLINKS
from ssh_service.copying.paths import is_within, real_path
from ssh_service.copying.sftp.protocol import Attributes
from ssh_service.interruptions import raise_interruption

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

_FOLDER_FLAGS = files.O_RDONLY | files.O_DIRECTORY
# For folders that are writable but cannot be listed.
_PATH_FLAG = getattr(os, "O_PATH", 0)

# The names from the root of a tree to one of its folders.
PathParts = Tuple[bytes, ...]


class TargetFolder:
    """
    A local folder that is held open while entries are written into it.

    Attributes
    ----------
    path : bytes
        The path, for errors.
    is_new : bool
        Whether this copy created the folder, so that it was empty.
    root : Optional[bytes]
        The real path outside of which no symbolic link in this folder may lead; None: no limit.
    unfinished : Set[Unfinished]
        The files that are being written in the folder; when the folder is closed, files that an
        exception has left are removed, or kept for the next copy.
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
        """The current owner and mode."""
        return owner_and_mode(files.fstat(self.fd))

    def hold(self) -> None:
        """Increase the refcount: keep the folder open for one more user."""
        self._refcount += 1

    def release(self) -> None:
        """Decrease the refcount; close the folder at zero."""
        self._refcount -= 1
        if not self._refcount:
            self.close()

    def close(self) -> None:
        """Close the folder, regardless of its refcount; may be called more than once."""
        for file in list(self.unfinished):
            file.keep()
        self._open_folders.discard(self)
        self._descriptor.close()

    def sync(self) -> None:
        """Flush the entries to the disk, if the folder was opened for reading."""
        try:
            files.fsync(self.fd)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise

    def unfinished_names(self) -> List[bytes]:
        """Return the names of unfinished files in the folder, which is listed only once."""
        if self._unfinished_names is None:
            try:
                names = map(os.fsencode, files.listdir(self.fd))
                self._unfinished_names = [
                    name for name in names if temporary.parse(name) is not None
                ]
            except OSError as error:
                raise_interruption(error)
                self._unfinished_names = []  # the copy does not depend on them
        return self._unfinished_names

    def remove_stale_files(self, may_resume: bool) -> None:
        """Remove files of dead copies; files that may be resumed are kept for a day."""
        now, uid = time.time(), files.geteuid()
        for name in self.unfinished_names():
            try:
                status = files.stat(name, dir_fd=self.fd, follow_symlinks=False)
                if not is_our_stale_file(owner_and_mode(status), uid, status.st_nlink):
                    continue
                if temporary.names.is_stale(name, now - status.st_mtime, may_resume):
                    files.unlink(name, dir_fd=self.fd)
            except OSError as error:
                raise_interruption(error)  # another copy has been faster, or we have no permission


class Unfinished:
    """The part of an unfinished file that its folder uses."""

    def keep(self) -> None:
        """Close the file; keep it for the next copy if that may resume it."""
        raise NotImplementedError


def open_parent(target: bytes) -> Tuple[TargetFolder, bytes]:
    """Open the folder of a file that the local user named; return the folder and file name."""
    try:
        path = follow_links(target)
        folder, name = os.path.split(path)
        return TargetFolder(open_folder(folder or b"."), folder or b"."), name
    except OSError as error:
        raise local_error(error, target) from error


def open_real(path: bytes, root: Optional[bytes]) -> TargetFolder:
    """Open a folder by the real path that links led to; see `TargetFolder.root`."""
    return TargetFolder(open_folder(path, flags=files.O_NOFOLLOW), path, root=root)


def open_folder(path: bytes, dir_fd: Optional[int] = None, flags: int = 0) -> Descriptor:
    """Open a folder, even if it cannot be listed."""
    descriptor = Descriptor()
    try:
        descriptor.open(path, _FOLDER_FLAGS | flags, dir_fd=dir_fd)
    except PermissionError:
        descriptor.open(path, _FOLDER_FLAGS | flags | _PATH_FLAG, dir_fd=dir_fd)
    return descriptor


def follow_links(path: bytes) -> bytes:
    """Follow symbolic links at `path`; refuse those of other users in shared folders."""
    for _ in range(MAX_SYMLINKS):
        try:
            found = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return path  # reported by the call that opens it
        if not stat.S_ISLNK(found.st_mode):
            return path
        folder = os.path.dirname(path)
        check_target(path, owner_and_mode(found), owner_and_mode(files.stat(folder or b".")))
        path = os.path.join(folder, files.readlink(path))
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def check_folder(path: bytes) -> None:
    """Check a folder by its path, as `check_target` does, following permitted links."""
    path = follow_links(path.rstrip(b"/") or b"/")
    if os.path.basename(path) not in (b"", b".", b".."):
        around = files.stat(os.path.dirname(path) or b".")
        check_target(path, owner_and_mode(os.lstat(path)), owner_and_mode(around))


def check_target(path: bytes, found: Attributes, folder: Attributes) -> None:
    """Refuse a target that another user created in a folder that others may write to."""
    if not may_use(found, folder, files.geteuid()):
        raise not_ours_error(display_path(path), found, "local")


def replaces_link(link: bytes, folder: TargetFolder) -> bool:
    """Return whether the server's entry replaces a local link, instead of following it."""
    if folder.root is None:
        return False  # the link is the target itself, which the user named
    return folder.keeps_links or parts_below(folder.root, link) is None


def parts_below(root: bytes, path: bytes) -> Optional[PathParts]:
    """Return the names from a real root to where a path leads; None if it leads outside."""
    real = real_path(path)
    if not is_within(real, root):
        return None
    return tuple(name for name in real[len(root) :].split(b"/") if name)
