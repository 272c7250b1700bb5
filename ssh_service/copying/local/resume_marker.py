"""The marker of a tree that a download has begun: see `ssh_service.copying.resume_marker`."""

from __future__ import annotations

import time

from ssh_service.copying import temporary
from ssh_service.copying.local.descriptors import Descriptor
from ssh_service.copying.local.system import files
from ssh_service.copying.local.target_folder import TargetFolder, open_folder
from ssh_service.copying.ownership import is_our_file, owner_and_mode
from ssh_service.interruptions import raise_interruption

__all__ = ["LocalResumeMarker"]

_NEW_FILE_FLAGS = files.O_WRONLY | files.O_CREAT | files.O_EXCL | files.O_NOFOLLOW


class LocalResumeMarker:
    """The marker of one download, in the root of the local tree; its name must be released."""

    def __init__(self, source: bytes) -> None:
        self._source = temporary.tree(source)
        self.name = temporary.names.new(self._source)  # the caller releases it
        self._is_set = False

    def find(self, path: bytes) -> bool:
        """Return whether an interrupted copy of the same source has begun the tree `path`."""
        try:
            folder = TargetFolder(open_folder(path), path)
        except OSError as error:
            raise_interruption(error)
            return False
        try:
            names = folder.unfinished_names()
            other = next((name for name in names if self._is_marker(folder, name)), None)
            if other is not None:
                self._is_set = True
                files.rename(other, self.name, src_dir_fd=folder.fd, dst_dir_fd=folder.fd)
                return True
        except OSError as error:
            raise_interruption(error)  # another copy has been faster
        finally:
            folder.close()
        return False

    def _is_marker(self, folder: TargetFolder, name: bytes) -> bool:
        status = files.stat(name, dir_fd=folder.fd, follow_symlinks=False)
        if status.st_size or not is_our_file(
            owner_and_mode(status), files.geteuid(), status.st_nlink
        ):
            return False
        return temporary.names.is_resumable_for(name, self._source, time.time() - status.st_mtime)

    def begin(self, folder: TargetFolder) -> None:
        """Mark a tree that this copy has created."""
        mark = Descriptor()
        try:
            mark.open(self.name, _NEW_FILE_FLAGS, dir_fd=folder.fd)
            self._is_set = True
        except OSError as error:
            # The tree cannot be resumed then; the copy itself reports any error.
            raise_interruption(error)
        mark.close()

    def end(self, folder: TargetFolder) -> None:
        """Remove the marker: the tree is complete."""
        if self._is_set:
            try:
                files.unlink(self.name, dir_fd=folder.fd)
            except OSError as error:
                raise_interruption(error)  # stale now
