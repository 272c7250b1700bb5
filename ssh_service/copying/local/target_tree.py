"""
The local tree that a download writes into, so that no server can reach outside.

Every folder is opened from the root step by step, through descriptors.  Symbolic links that the
local user created inside the tree are followed if they stay inside it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import Dict, Optional, Set

from ssh_service.copying import temporary
from ssh_service.copying.failures import display_path, local_error
from ssh_service.copying.local.descriptors import Descriptor, set_attributes
from ssh_service.copying.local.system import files
from ssh_service.copying.local.target_folder import (
    PathParts,
    TargetFolder,
    check_folder,
    check_target,
    follow_links,
    open_folder,
    parts_below,
    replaces_link,
)
from ssh_service.copying.ownership import owner_and_mode
from ssh_service.copying.paths import real_path
from ssh_service.copying.sftp.protocol import Attributes
from ssh_service.errors import transfer_error
from ssh_service.interruptions import raise_interruption

__all__ = ["TargetTree"]

_MARKER_FLAGS = files.O_WRONLY | files.O_CREAT | files.O_EXCL | files.O_NOFOLLOW


class TargetTree:
    """
    A local tree that a download writes into.

    Parameters
    ----------
    path : bytes
        The path of the root, which is created if it does not exist; its parents are not.
    mode : int
        The mode for creating the root.
    keeps_links : bool
        Whether links are copied as links; if so, the server's entries replace local links.
        Otherwise, local links that stay inside the tree are followed, and only others are
        replaced.
    is_explicit : bool
        Whether the local user named the root as a folder, so that any owner is accepted.

    Attributes
    ----------
    marker : bytes
        The name of files by which a copy recognises its own target in its source: one in each
        folder of the target that existed before, and in which the copy creates a folder.
    """

    def __init__(
        self, path: bytes, mode: int, keeps_links: bool = False, is_explicit: bool = False
    ) -> None:
        self._keeps_links = keeps_links
        self._open: Set[TargetFolder] = set()
        self.marker = temporary.names.new(b"")
        self._marked: Set[PathParts] = set()
        self._created: Set[PathParts] = set()  # new folders, but none inside another
        self._made_writable: Dict[PathParts, int] = {}  # paths with their old modes
        try:
            self._open_root(path, mode, is_explicit)
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise local_error(error, path) from error
            raise

    def _open_root(self, path: bytes, mode: int, is_explicit: bool) -> None:
        real = follow_links(path)
        is_new = _make(real, mode, None)
        if not is_new and not is_explicit:
            check_folder(real)
        # A link that another user has created in the meantime is not followed.
        descriptor = open_folder(real, flags=files.O_NOFOLLOW)
        self._root = self._held(descriptor, path, is_new, real_path(real))
        if is_new:
            self._created.add(())
            self._set_marker((), self._root)
        else:
            self._make_writable((), self._root)

    def _held(
        self, descriptor: Descriptor, path: bytes, is_new: bool, root: Optional[bytes]
    ) -> TargetFolder:
        return TargetFolder(descriptor, path, is_new, root, self._open, self._keeps_links)

    def _set_marker(self, names: PathParts, folder: TargetFolder) -> None:
        """
        Create the marker before a folder, in the same place.

        A copy into itself lists this place only later, and thus finds the marker.
        """
        if names not in self._marked:
            self._marked.add(names)
            marker = Descriptor()
            with contextlib.suppress(OSError):  # no files can be created, and thus no folders
                marker.open(self.marker, _MARKER_FLAGS, dir_fd=folder.fd)
                marker.close()

    def remove_markers(self) -> None:
        """Remove the markers; may be called more than once."""
        for names in list(self._marked):
            with contextlib.suppress(OSError):  # another process has removed it
                folder = self.open_folder(names)
                try:
                    files.unlink(self.marker, dir_fd=folder.fd)
                finally:
                    folder.release()
            self._marked.discard(names)
        temporary.names.release(self.marker)

    def _make_writable(self, names: PathParts, folder: TargetFolder) -> None:
        """Make an existing folder of ours writable until the copy has finished it."""
        found = folder.attributes
        mode = found.mode or 0
        if found.uid == files.geteuid() != 0 and mode & stat.S_IRWXU != stat.S_IRWXU:
            self._made_writable[names] = mode
            set_attributes(folder.fd, Attributes(mode=mode | stat.S_IRWXU))

    def finish_folder(self, names: PathParts, attributes: Attributes) -> Optional[OSError]:
        """Set the mode and times of a folder, unless None; return any refusal."""
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
        """Restore the modes of existing folders that were made writable."""
        for names in list(self._made_writable):
            self.finish_folder(names, Attributes())

    @property
    def root(self) -> TargetFolder:
        """The open root."""
        return self._root

    def close(self) -> None:
        """Close all folders, including those of tasks that never ran."""
        self.remove_markers()
        for folder in list(self._open):
            folder.close()

    def make_folder(self, names: PathParts, mode: int) -> TargetFolder:
        """Create a folder with `mode`, or use an existing one; return it open, to be released."""
        if not names:
            self._root.hold()
            return self._root
        parent = self.open_folder(names[:-1])
        try:
            self._remove_link(names, parent)
            is_inside_new = self._is_in_new_folder(names)
            if not is_inside_new and not _is_there(names[-1], parent.fd):
                self._set_marker(names[:-1], parent)
            is_new, around = _make(names[-1], mode, parent.fd), parent.attributes
            if is_new and not is_inside_new:
                self._created.add(names)
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

    def _is_in_new_folder(self, names: PathParts) -> bool:
        return any(names[:count] in self._created for count in range(len(names)))

    def _remove_link(self, names: PathParts, parent: TargetFolder) -> None:
        """Remove a link in the place of a folder, as rsync does, unless it may be followed."""
        name, path = names[-1], self._path(names)
        if _is_link(name, parent.fd) and replaces_link(path, parent):
            found = files.stat(name, dir_fd=parent.fd, follow_symlinks=False)
            check_target(path, owner_and_mode(found), parent.attributes)
            files.unlink(name, dir_fd=parent.fd)

    def open_folder(self, names: PathParts, links: int = 0) -> TargetFolder:
        """
        Open a folder of the tree step by step, so that no step leads outside; release it later.

        `links` is the number of symbolic links followed so far.
        """
        descriptor = Descriptor()
        descriptor.duplicate(self._root.fd)
        for count, name in enumerate(names, 1):
            try:
                inner = open_folder(name, descriptor.fd, files.O_NOFOLLOW)
            except OSError as error:
                if not _is_link(name, descriptor.fd):
                    raise local_error(error, self._path(names[:count])) from error
                way = self._parts_inside(names[:count], links)
                return self.open_folder(way + names[count:], links + 1)
            descriptor = inner  # the previous descriptor closes itself
        return self._held(descriptor, self._path(names), False, self._root.root)

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


def _make(path: bytes, mode: int, fd: Optional[int]) -> bool:
    """Create a folder; return False if it exists."""
    try:
        files.mkdir(path, mode | stat.S_IRWXU, dir_fd=fd)
        return True
    except FileExistsError:
        if not stat.S_ISDIR(files.stat(path, dir_fd=fd).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None
        return False


def _is_there(name: bytes, fd: int) -> bool:
    try:
        files.stat(name, dir_fd=fd, follow_symlinks=False)
    except OSError as error:
        raise_interruption(error)
        return False
    return True


def _is_link(name: bytes, fd: int) -> bool:
    try:
        return stat.S_ISLNK(files.stat(name, dir_fd=fd, follow_symlinks=False).st_mode)
    except OSError as error:
        raise_interruption(error)
        return False
