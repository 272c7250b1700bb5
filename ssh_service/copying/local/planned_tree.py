"""The tree that a download with ``dry_run=True`` would write into; nothing is created."""

from __future__ import annotations

import errno
import os
import stat
from typing import Callable, Set

from ssh_service import local_paths
from ssh_service.copying.failures import local_error
from ssh_service.copying.local.descriptors import Descriptor
from ssh_service.copying.local.system import files
from ssh_service.copying.local.target_folder import (
    PathParts,
    TargetFolder,
    check_folder,
    check_target,
    follow_links,
    open_folder,
    replaces_link,
)
from ssh_service.copying.local.target_tree import TargetTree
from ssh_service.copying.ownership import owner_and_mode
from ssh_service.copying.paths import real_path

__all__ = ["PlannedTree"]


class PlannedTree(TargetTree):
    """
    A tree of folders, some of which do not exist: these are closed, and count as new.

    Parameters
    ----------
    path : bytes
        The path of the root.
    keeps_links : bool
        As in `TargetTree`.
    is_explicit : bool
        As in `TargetTree`.
    on_missing : Callable[[str, bytes], None]
        Called with ``create`` or ``replace``, and the path of a folder that does not exist.
    """

    def __init__(
        self,
        path: bytes,
        keeps_links: bool,
        is_explicit: bool,
        on_missing: Callable[[str, bytes], None],
    ) -> None:
        self._on_missing = on_missing
        self._missing: Set[PathParts] = set()
        super().__init__(path, 0, keeps_links, is_explicit)

    def _open_root(self, path: bytes, mode: int, is_explicit: bool) -> None:
        real = follow_links(path)
        if not local_paths.entry_exists(real):
            open_folder(os.path.dirname(real) or b".").close()  # fails if it does not exist
            self._root = self._as_missing((), "create", path)
            return
        if not stat.S_ISDIR(files.stat(real).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not is_explicit:
            check_folder(real)
        descriptor = open_folder(real, flags=files.O_NOFOLLOW)
        self._root = self._held(descriptor, path, False, real_path(real))

    def _as_missing(self, names: PathParts, action: str, path: bytes) -> TargetFolder:
        self._missing.add(names)
        self._on_missing(action, path)
        return self._held(Descriptor(), path, True, None)

    def make_folder(self, names: PathParts, mode: int) -> TargetFolder:
        """Return a folder to be released: open, or closed if it does not exist."""
        if not names:
            self._root.hold()
            return self._root
        path = self._path(names)
        if names[:-1] in self._missing:
            return self._as_missing(names, "create", path)
        parent = self.open_folder(names[:-1])
        try:
            try:
                found = files.stat(names[-1], dir_fd=parent.fd, follow_symlinks=False)
            except FileNotFoundError:
                return self._as_missing(names, "create", path)
            check_target(path, owner_and_mode(found), parent.attributes)
            if stat.S_ISLNK(found.st_mode) and replaces_link(path, parent):
                return self._as_missing(names, "replace", path)
            if not stat.S_ISDIR(files.stat(names[-1], dir_fd=parent.fd).st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        except OSError as error:
            raise local_error(error, path) from error
        finally:
            parent.release()
        return self.open_folder(names)
