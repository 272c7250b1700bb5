"""A local tree whose files are opened step by step, so that no link leads out of it."""

from __future__ import annotations

import os
from typing import Tuple

from ssh_service.copying.failures import local_error
from ssh_service.copying.local.descriptors import Descriptor

__all__ = ["SourceTree"]

_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY


class SourceTree:
    """
    A local tree that is copied with its symbolic links as such.

    Whoever may write into the tree may put a link in the place of a folder after that was listed,
    and have another user's copy read what lies elsewhere.  So nothing in it is opened by its
    path: each folder on the way is opened in the one around it, and none may be a link.

    Parameters
    ----------
    root : bytes
        Its path, as the user gave it: what that leads to is the tree.
    """

    def __init__(self, root: bytes) -> None:
        self._root = Descriptor()
        self._prefix = root if root.endswith(b"/") else root + b"/"
        self._around = self._root  # the folder that was needed last
        self._path = self._prefix[:-1]  # of that
        try:
            self._root.open(root, _FOLDER_FLAGS)
        except OSError as error:
            raise local_error(error, root) from error

    def locate(self, path: bytes) -> Tuple[bytes, int]:
        """
        Find an entry of the tree.

        Parameters
        ----------
        path : bytes
            Its path, which begins as that of the tree.

        Returns
        -------
        Tuple[bytes, int]
            Its name, and the descriptor of the folder it lies in, until the next call.
        """
        folder, _, name = path.rpartition(b"/")
        if folder != self._path:
            self._around = self._step_into(folder)
            self._path = folder
        return name, self._around.fd

    def _step_into(self, folder: bytes) -> Descriptor:
        around = self._root
        for name in filter(None, folder[len(self._prefix) :].split(b"/")):
            inner = Descriptor()
            inner.open(name, _FOLDER_FLAGS | os.O_NOFOLLOW, dir_fd=around.fd)
            around = inner  # the one before is closed with it
        return around

    def open_folder(self, path: bytes) -> Descriptor:
        """
        Open a folder of the tree to list it.

        Parameters
        ----------
        path : bytes
            Its path; that of the tree is its root's.
        """
        descriptor = Descriptor()
        if len(path) <= len(self._prefix):
            descriptor.open(b".", _FOLDER_FLAGS, dir_fd=self._root.fd)
        else:
            name, around = self.locate(path)
            descriptor.open(name, _FOLDER_FLAGS | os.O_NOFOLLOW, dir_fd=around)
        return descriptor

    def close(self) -> None:
        """Close it; may be called more than once."""
        self._around.close()
        self._root.close()
