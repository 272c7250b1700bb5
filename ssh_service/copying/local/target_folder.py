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
from typing import Optional, Set, Tuple

from ssh_service.copying import temporary
from ssh_service.copying.failures import local_error, shown
from ssh_service.copying.local.descriptors import set_attributes
from ssh_service.copying.paths import is_within
from ssh_service.copying.sftp.protocol import Attributes
from ssh_service.errors import transfer_error

__all__ = ["Names", "TargetFolder", "TargetTree", "open_parent", "open_real"]

_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | getattr(os, "O_CLOEXEC", 0)

# The names that lead from a tree's root to one of its folders.
Names = Tuple[bytes, ...]


class TargetFolder:
    """
    A local folder, held open while anything is written into it.

    Attributes
    ----------
    fd : int
        Its descriptor.
    path : bytes
        Its path, for errors.
    is_new : bool
        Whether this copy made it, so that nothing can stand in the way in there.
    root : Optional[bytes]
        The real path that symbolic links met in here must not leave; None: they may lead anywhere.
    """

    def __init__(
        self,
        fd: int,
        path: bytes,
        is_new: bool = False,
        root: Optional[bytes] = None,
        among: Optional[Set[TargetFolder]] = None,
    ) -> None:
        self.fd = fd
        self.path = path
        self.is_new = is_new
        self.root = root
        self._users = 1
        self._among = set() if among is None else among  # all that are open
        self._among.add(self)

    def hold(self) -> None:
        """Keep it open for one more user."""
        self._users += 1

    def release(self) -> None:
        """Let it be closed, once for each user."""
        self._users -= 1
        if not self._users:
            self.close()

    def close(self) -> None:
        """Close it, whoever holds it; may be called more than once."""
        if self in self._among:
            self._among.remove(self)
            os.close(self.fd)

    def set(self, attributes: Attributes) -> None:
        """Give it its mode and times."""
        try:
            set_attributes(self.fd, attributes)
        except OSError as error:
            raise local_error(error, self.path) from error

    def sweep(self, may_resume: bool) -> None:
        """Remove what dead copies left in it; but what a copy may resume, only after a day."""
        now = time.time()
        try:
            names = [os.fsencode(name) for name in os.listdir(self.fd)]
        except OSError:
            return  # nothing the copy depends on
        for name in names:
            if temporary.parse(name) is None:
                continue
            try:
                age = now - os.stat(name, dir_fd=self.fd, follow_symlinks=False).st_mtime
                if temporary.names.is_litter(name, age, may_resume):
                    os.unlink(name, dir_fd=self.fd)
            except OSError:
                pass  # somebody else was faster, or may and we may not


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
    path = os.path.realpath(target) if os.path.islink(target) else target
    folder, name = os.path.split(path)
    try:
        return TargetFolder(os.open(folder or b".", _FOLDER_FLAGS), folder or b"."), name
    except OSError as error:
        raise local_error(error, target) from error


def open_real(path: bytes, root: Optional[bytes]) -> TargetFolder:
    """Open a folder by its real path: what links led to, as `TargetFolder.root` allows."""
    return TargetFolder(os.open(path, _FOLDER_FLAGS | os.O_NOFOLLOW), path, root=root)


class TargetTree:
    """
    A local tree that a download writes into.

    Parameters
    ----------
    path : bytes
        The path of its root; made if it does not exist, but not its parents.
    mode : int
        The mode to make it with.
    """

    def __init__(self, path: bytes, mode: int) -> None:
        try:
            is_new = _make(path, mode, None)
            fd = os.open(path, _FOLDER_FLAGS)
        except OSError as error:
            raise local_error(error, path) from error
        self._open: Set[TargetFolder] = set()
        self._root = TargetFolder(fd, path, is_new, os.path.realpath(path), self._open)

    def close(self) -> None:
        """Close all of its folders: a task that never took a step has released none."""
        for folder in list(self._open):
            folder.close()

    def make_folder(self, names: Names, mode: int) -> TargetFolder:
        """
        Make a folder, or take the one that is there, and open it.

        Parameters
        ----------
        names : Names
            Where, from the root; all but the last exist.
        mode : int
            The mode to make it with.

        Returns
        -------
        TargetFolder
            To be released.
        """
        if not names:
            self._root.hold()
            return self._root
        parent = self.open_folder(names[:-1])
        try:
            is_new = _make(names[-1], mode, parent.fd)
        except OSError as error:
            raise local_error(error, self._path(names)) from error
        finally:
            parent.release()
        folder = self.open_folder(names)
        folder.is_new = is_new
        return folder

    def open_folder(self, names: Names, links: int = 0) -> TargetFolder:
        """
        Open a folder of the tree, step by step, so that none of the steps leads outside.

        Parameters
        ----------
        names : Names
            The way from the root.
        links : int
            How many symbolic links were followed so far.

        Returns
        -------
        TargetFolder
            To be released.
        """
        fd = os.dup(self._root.fd)
        try:
            for count, name in enumerate(names, 1):
                try:
                    inner = os.open(name, _FOLDER_FLAGS | os.O_NOFOLLOW, dir_fd=fd)
                except OSError as error:
                    if not _is_link(name, fd):
                        raise local_error(error, self._path(names[:count])) from error
                    way = self._way_inside(names[:count], links)
                    return self.open_folder(way + names[count:], links + 1)
                os.close(fd)
                fd = inner
            root = self._root.root
            result, fd = TargetFolder(fd, self._path(names), root=root, among=self._open), -1
            return result
        finally:
            if fd >= 0:
                os.close(fd)

    def _way_inside(self, names: Names, links: int) -> Names:
        path = self._path(names)
        way = way_inside(self._root.root or b"/", path)
        if way is None or links > 40:
            raise transfer_error(
                errno.ELOOP, shown(path), "a local symbolic link that leads out of the target"
            )
        return way

    def _path(self, names: Names) -> bytes:
        return os.path.join(self._root.path, *names)


def way_inside(root: bytes, path: bytes) -> Optional[Names]:
    """Give the way from a real root to what a path leads to; None if that lies outside."""
    real = os.path.realpath(path)
    if not is_within(real, root):
        return None
    return tuple(name for name in real[len(root) :].split(b"/") if name)


def _make(path: bytes, mode: int, fd: Optional[int]) -> bool:
    """Make a folder; False if there is one."""
    try:
        os.mkdir(path, mode | stat.S_IRWXU, dir_fd=fd)
        return True
    except FileExistsError:
        if not stat.S_ISDIR(os.stat(path, dir_fd=fd).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None
        return False


def _is_link(name: bytes, fd: int) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode)
    except OSError:
        return False
