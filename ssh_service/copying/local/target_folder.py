"""
The local folders that a download writes into, so that no server can reach outside.

A folder is held open and everything in it is reached through its descriptor; a symbolic link is
never followed by accident.  The links that the local user made inside the target tree are
followed where they stay inside it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from typing import Dict, List, Optional, Set, Tuple

from ssh_service.copying import temporary
from ssh_service.copying.failures import display_path, local_error
from ssh_service.copying.local.descriptors import Descriptor, set_attributes
from ssh_service.copying.ownership import (
    is_our_stale_file,
    may_use,
    not_ours_error,
    owner_and_mode,
)
from ssh_service.copying.paths import is_within
from ssh_service.copying.sftp.protocol import Attributes
from ssh_service.errors import transfer_error

__all__ = [
    "PathParts",
    "TargetFolder",
    "TargetTree",
    "Unfinished",
    "check_folder",
    "check_target",
    "follow_links",
    "open_folder",
    "open_parent",
    "open_real",
]

_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY
# For a folder that may be written to, but not be listed.
_PATH_FLAG = getattr(os, "O_PATH", 0)
_MAX_SYMLINKS = 40
_MARKER_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW

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


class TargetTree:
    """
    A local tree that a download writes into.

    Parameters
    ----------
    path : bytes
        The path of its root; made if it does not exist, but not its parents.
    mode : int
        The mode to make it with.
    keeps_links : bool
        Whether links are copied as links, so that one of the local user's gives way to what the
        server has; else one that stays inside the tree is followed, and only others give way.
    is_explicit : bool
        Whether the local user has named it as a folder, whoever made it.

    Attributes
    ----------
    marker : bytes
        The name of a file that is in its root as long as new folders are made in the tree.
    """

    def __init__(
        self, path: bytes, mode: int, keeps_links: bool = False, is_explicit: bool = False
    ) -> None:
        self._keeps_links = keeps_links
        self._open: Set[TargetFolder] = set()
        self.marker = temporary.names.new(b"")
        self._marker = Descriptor()
        self._made_writable: Dict[PathParts, int] = {}  # to the mode it had
        try:
            real = follow_links(path)
            is_new = _make(real, mode, None)
            if not is_new and not is_explicit:
                check_folder(real)
            # A link that a stranger has made there meanwhile is not followed.
            descriptor = open_folder(real, flags=os.O_NOFOLLOW)
            real = os.path.realpath(real)
            self._root = TargetFolder(descriptor, path, is_new, real, self._open, keeps_links)
            if is_new:
                self._set_marker()
            else:
                self._make_writable((), self._root)
        except OSError as error:
            self.close()
            raise local_error(error, path) from error

    def _set_marker(self) -> None:
        """Mark the root, before any folder is made in it: whoever lists that one has come back."""
        if self._marker.fd < 0:
            with contextlib.suppress(OSError):  # no files, so no folders either
                self._marker.open(self.marker, _MARKER_FLAGS, dir_fd=self._root.fd)

    def remove_marker(self) -> None:
        """Remove the mark; may be called more than once."""
        if self._marker.fd >= 0:
            with contextlib.suppress(OSError):  # somebody else has removed it
                os.unlink(self.marker, dir_fd=self._root.fd)
            self._marker.close()
        temporary.names.release(self.marker)

    def _make_writable(self, names: PathParts, folder: TargetFolder) -> None:
        """Let files be created in a folder of ours that was there, until all is in it."""
        found = folder.attributes
        mode = found.mode or 0
        if found.uid == os.geteuid() != 0 and mode & stat.S_IRWXU != stat.S_IRWXU:
            self._made_writable[names] = mode
            set_attributes(folder.fd, Attributes(mode=mode | stat.S_IRWXU))

    def finish_folder(self, names: PathParts, attributes: Attributes) -> Optional[OSError]:
        """
        Give a folder its mode and times, once all is in it.

        Parameters
        ----------
        names : PathParts
            Where, from the root.
        attributes : Attributes
            Mode and times; what is None is left as it was.

        Returns
        -------
        Optional[OSError]
            What was refused.
        """
        old_mode = self._made_writable.pop(names, None)
        if attributes.mode is None and old_mode is not None:
            attributes = attributes._replace(mode=old_mode)
        if attributes == Attributes():
            return None
        folder = self.open_folder(names)
        try:
            return set_attributes(folder.fd, attributes)
        finally:
            folder.release()

    def restore(self) -> None:
        """Give the folders that were there their modes back, unless they got others."""
        for names in list(self._made_writable):
            self.finish_folder(names, Attributes())

    @property
    def root(self) -> TargetFolder:
        """Its root, open."""
        return self._root

    def close(self) -> None:
        """Close all of its folders: a task that never took a step has released none."""
        self.remove_marker()
        for folder in list(self._open):
            folder.close()

    def make_folder(self, names: PathParts, mode: int) -> TargetFolder:
        """
        Make a folder, or take the one that is there, and open it.

        Parameters
        ----------
        names : PathParts
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
            self._remove_link(names, parent)
            if not _is_there(names[-1], parent.fd):
                self._set_marker()
            is_new, around = _make(names[-1], mode, parent.fd), parent.attributes
        except OSError as error:
            raise local_error(error, self._path(names)) from error
        finally:
            parent.release()
        folder = self.open_folder(names)
        folder.is_new = is_new
        if not is_new:
            try:
                check_target(folder.path, folder.attributes, around)
            except BaseException:
                folder.release()
                raise
            self._make_writable(names, folder)
        return folder

    def _remove_link(self, names: PathParts, parent: TargetFolder) -> None:
        """Remove a link that stands in a folder's place, as rsync does, unless it is followed."""
        name, path = names[-1], self._path(names)
        if _is_link(name, parent.fd) and replaces_link(path, parent):
            found = os.stat(name, dir_fd=parent.fd, follow_symlinks=False)
            check_target(path, owner_and_mode(found), parent.attributes)
            os.unlink(name, dir_fd=parent.fd)

    def open_folder(self, names: PathParts, links: int = 0) -> TargetFolder:
        """
        Open a folder of the tree, step by step, so that none of the steps leads outside.

        Parameters
        ----------
        names : PathParts
            The way from the root.
        links : int
            How many symbolic links were followed so far.

        Returns
        -------
        TargetFolder
            To be released.
        """
        descriptor = Descriptor()
        descriptor.duplicate(self._root.fd)
        for count, name in enumerate(names, 1):
            try:
                inner = open_folder(name, descriptor.fd, os.O_NOFOLLOW)
            except OSError as error:
                if not _is_link(name, descriptor.fd):
                    raise local_error(error, self._path(names[:count])) from error
                way = self._parts_inside(names[:count], links)
                return self.open_folder(way + names[count:], links + 1)
            descriptor = inner  # the one before is closed with it
        root, path = self._root.root, self._path(names)
        return TargetFolder(
            descriptor, path, root=root, among=self._open, keeps_links=self._keeps_links
        )

    def _parts_inside(self, names: PathParts, links: int) -> PathParts:
        path = self._path(names)
        try:
            follow_links(path)
        except OSError as error:
            raise local_error(error, path) from error
        way = parts_below(self._root.root or b"/", path)
        if way is None or links > 40:
            raise transfer_error(
                errno.ELOOP,
                display_path(path),
                "a symbolic link that leads out of the target",
                side="local",
            )
        return way

    def _path(self, names: PathParts) -> bytes:
        return os.path.join(self._root.path, *names)


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


def _make(path: bytes, mode: int, fd: Optional[int]) -> bool:
    """Make a folder; False if there is one."""
    try:
        os.mkdir(path, mode | stat.S_IRWXU, dir_fd=fd)
        return True
    except FileExistsError:
        if not stat.S_ISDIR(os.stat(path, dir_fd=fd).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None
        return False


def _is_there(name: bytes, fd: int) -> bool:
    try:
        os.stat(name, dir_fd=fd, follow_symlinks=False)
    except OSError:
        return False
    return True


def _is_link(name: bytes, fd: int) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode)
    except OSError:
        return False
