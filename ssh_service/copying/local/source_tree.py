"""A local tree whose entries are found step by step, so that no link leads out of it."""

from __future__ import annotations

from typing import Optional, Tuple

from ssh_service.copying.failures import local_error
from ssh_service.copying.local.descriptors import Descriptor
from ssh_service.copying.local.system import files

__all__ = ["SourceTree"]

_FOLDER_FLAGS = files.O_RDONLY | files.O_DIRECTORY


class SourceTree:
    """
    A local tree that is uploaded with its symbolic links kept, or whose entries are deleted.

    Another user who may write into the tree could replace a folder by a link after it was listed,
    so that files elsewhere would be read or deleted.  Therefore, nothing is opened by its path:
    each folder is opened relative to its parent, and must not be a link.  The root is the folder
    that the user's path leads to.

    Parameters
    ----------
    root : bytes
        The path of the root.
    fd : Optional[int]
        The descriptor of the root, if it is open already.
    """

    def __init__(self, root: bytes, fd: Optional[int] = None) -> None:
        self._root = Descriptor()
        self._prefix = root if root.endswith(b"/") else root + b"/"
        self._around = self._root  # the most recently used folder
        self._path = self._prefix[:-1]  # its path
        try:
            if fd is None:
                self._root.open(root, _FOLDER_FLAGS)
            else:
                self._root.open(b".", _FOLDER_FLAGS, dir_fd=fd)
        except OSError as error:
            raise local_error(error, root) from error

    def locate(self, path: bytes) -> Tuple[bytes, int]:
        """Return the name of an entry and its folder's descriptor, valid until the next call."""
        folder, _, name = path.rpartition(b"/")
        if folder != self._path:
            self._around = self._step_into(folder)
            self._path = folder
        return name, self._around.fd

    def _step_into(self, folder: bytes) -> Descriptor:
        around = self._root
        for name in filter(None, folder[len(self._prefix) :].split(b"/")):
            inner = Descriptor()
            inner.open(name, _FOLDER_FLAGS | files.O_NOFOLLOW, dir_fd=around.fd)
            around = inner  # the previous descriptor closes itself
        return around

    def open_folder(self, path: bytes) -> Descriptor:
        """Open a folder of the tree, or its root, for listing."""
        descriptor = Descriptor()
        if len(path) <= len(self._prefix):
            descriptor.open(b".", _FOLDER_FLAGS, dir_fd=self._root.fd)
        else:
            name, around = self.locate(path)
            descriptor.open(name, _FOLDER_FLAGS | files.O_NOFOLLOW, dir_fd=around)
        return descriptor

    def close(self) -> None:
        """Close the tree; may be called more than once."""
        self._around.close()
        self._root.close()
