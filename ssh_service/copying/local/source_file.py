"""A local file that is uploaded."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from typing import Iterator, Optional, Tuple

from ssh_service.copying.failures import (
    changed_during_copy_error,
    local_error,
    not_a_file_error,
    was_rewritten,
)
from ssh_service.copying.local.descriptors import Descriptor, attributes_of, digest_of
from ssh_service.copying.local.positions import read_at
from ssh_service.copying.local.source_tree import SourceTree
from ssh_service.copying.local.system import files
from ssh_service.errors import SshTransferError

__all__ = ["SourceFile"]

_CHUNK_SIZE = 256 * 1024
# The maximum number of chunks read from a file of size 0, which may never end.
_MAX_UNSIZED_CHUNKS = 64
# Without O_NONBLOCK, opening a FIFO that has replaced the file would block until it has a writer.
_OPEN_FLAGS = files.O_RDONLY | files.O_NONBLOCK


class SourceFile:
    """
    A local file, open for an upload; a context manager.

    Parameters
    ----------
    path : bytes
        The path.
    tree : Optional[SourceTree]
        The tree that contains the file, if symbolic links are kept: then a link that has replaced
        the file is not followed, as it may lead anywhere.  None: links are followed.

    Attributes
    ----------
    size : int
        The size in bytes.
    attributes : Attributes
        The attributes for the copy.
    """

    def __init__(self, path: bytes, tree: Optional[SourceTree] = None) -> None:
        self.path = path
        self._whole: Optional[bytes] = None
        self._file = Descriptor()
        try:
            if tree is None:
                self._file.open(path, _OPEN_FLAGS)
            else:
                name, folder = tree.locate(path)
                self._file.open(name, _OPEN_FLAGS | files.O_NOFOLLOW, dir_fd=folder)
        except OSError as error:
            raise local_error(error, path) from error
        self._status = files.fstat(self._file.fd)
        if not stat.S_ISREG(self._status.st_mode):
            self.close()
            raise not_a_file_error(path, self._status.st_mode, "local")
        self.size = self._status.st_size
        self.attributes = attributes_of(self._status)
        if not self.size:
            self._read_unsized()

    def __enter__(self) -> SourceFile:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; may be called more than once."""
        self._file.close()

    def _read_unsized(self) -> None:
        """Read a file of size 0 that may have content, such as those in /proc."""
        pieces = []
        try:
            while True:
                piece = os.read(self._file.fd, _CHUNK_SIZE)
                if not piece:
                    break
                pieces.append(piece)
                if len(pieces) > _MAX_UNSIZED_CHUNKS:
                    raise changed_during_copy_error(self.path, "local")
        except SshTransferError:
            self.close()
            raise
        except OSError as error:
            self.close()
            raise local_error(error, self.path) from error
        if pieces:
            self._whole = b"".join(pieces)
            self.size = len(self._whole)
            self.close()

    def rewind(self) -> None:
        """Do nothing: a file can be read a second time."""

    @property
    def is_sparse(self) -> bool:
        """Whether the file has holes, so that it needs less space than its size."""
        blocks: Optional[int] = getattr(self._status, "st_blocks", None)  # not on Windows
        return blocks is not None and blocks * 512 < self.size

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer` with the content at `offset`."""
        if self._whole is not None:
            buffer[:] = self._whole[offset : offset + len(buffer)]
            return
        try:
            while buffer:
                count = read_at(self._file.fd, buffer, offset)
                if not count:
                    raise changed_during_copy_error(self.path, "local")
                buffer, offset = buffer[count:], offset + count
        except SshTransferError:
            raise
        except OSError as error:
            raise local_error(error, self.path) from error

    def parts(self, start: int, step: int, holes: bool) -> Iterator[Tuple[int, int]]:
        """
        Yield the offset and size of each part from `start` to the end of the file.

        With `holes`, holes are skipped: unwritten parts of the copy read as zeros.
        """
        holes = holes and hasattr(os, "SEEK_DATA") and self.is_sparse
        if self._file.fd < 0:  # the file was read as a whole
            holes = False
        while start < self.size:
            end = self.size
            if holes:
                try:
                    start = os.lseek(self._file.fd, start, os.SEEK_DATA)
                    end = min(end, os.lseek(self._file.fd, start, os.SEEK_HOLE))
                except OSError as error:
                    if error.errno == errno.ENXIO:  # only a hole follows
                        yield self.size - 1, 1
                        return
                    holes = False  # the file system does not support this
            for offset in range(start, end, step):
                yield offset, min(step, end - offset)
            start = max(end, start)

    def read_whole(self) -> bytes:
        """Read a small file, check that it has not changed, and close it."""
        if self._whole is None:
            data = bytearray(self.size)
            self.read_into(memoryview(data), 0)
            self.check_unchanged()
            self._whole = bytes(data)
            self.close()
        return self._whole

    def digest(self, size: int) -> bytes:
        """Return the digest of the first `size` bytes."""
        if self._whole is not None:
            return hashlib.sha256(memoryview(self._whole)[:size]).digest()
        return digest_of(self._file.fd, size)

    def check_unchanged(self) -> None:
        """
        Raise an error if the file was overwritten since it was opened.

        A file that only grew, such as a log, is accepted: its content at the time of opening is
        copied.
        """
        if self._file.fd < 0:
            return
        now, then = files.fstat(self._file.fd), self._status
        if was_rewritten(then.st_size, then.st_mtime_ns, now.st_size, now.st_mtime_ns):
            raise changed_during_copy_error(self.path, "local")
