"""A local file that is copied from here, read as it is found."""

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
from ssh_service.copying.local.source_tree import SourceTree
from ssh_service.errors import SshTransferError

__all__ = ["SourceFile"]

_PIECE = 256 * 1024
# Pieces taken of a file that claims to be empty and is not: it may never end.
_MAX_UNSIZED_CHUNKS = 64
# Without it, opening a fifo that took a file's place would wait for a writer.
_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)


class SourceFile:
    """
    A local file, open to be copied; a context manager.

    Parameters
    ----------
    path : bytes
        Its path.
    tree : Optional[SourceTree]
        The tree it lies in, where symbolic links are kept: one has taken the place of what was
        found there, and leads to what nobody asked to copy.  None: links are followed.

    Attributes
    ----------
    path : bytes
        Its path, for errors.
    size : int
        How many bytes it has.
    attributes : Attributes
        What its copy shall have.
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
                self._file.open(name, _OPEN_FLAGS | os.O_NOFOLLOW, dir_fd=folder)
        except OSError as error:
            raise local_error(error, path) from error
        self._status = os.fstat(self._file.fd)
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
        """Close it; may be called more than once."""
        self._file.close()

    def _read_unsized(self) -> None:
        """Read one that says it is empty: those in /proc have no size, but content."""
        pieces = []
        try:
            while True:
                piece = os.read(self._file.fd, _PIECE)
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

    @property
    def is_sparse(self) -> bool:
        """Whether it has holes, so that it needs less room than its size."""
        return self._status.st_blocks * 512 < self.size

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer` with what lies at `offset`."""
        if self._whole is not None:
            buffer[:] = self._whole[offset : offset + len(buffer)]
            return
        try:
            while buffer:
                count = os.preadv(self._file.fd, [buffer], offset)
                if not count:
                    raise changed_during_copy_error(self.path, "local")
                buffer, offset = buffer[count:], offset + count
        except SshTransferError:
            raise
        except OSError as error:
            raise local_error(error, self.path) from error

    def parts(self, start: int, step: int, holes: bool) -> Iterator[Tuple[int, int]]:
        """
        Give what there is to copy from `start` on.

        Parameters
        ----------
        start : int
            An offset.
        step : int
            The size of a part, at most.
        holes : bool
            Whether holes may be passed over: they are zeros already where nothing was written.

        Yields
        ------
        Tuple[int, int]
            Offset and size of a part; the last one ends where the file does.
        """
        holes = holes and hasattr(os, "SEEK_DATA") and self.is_sparse
        if self._file.fd < 0:  # was read as a whole
            holes = False
        while start < self.size:
            end = self.size
            if holes:
                try:
                    start = os.lseek(self._file.fd, start, os.SEEK_DATA)
                    end = min(end, os.lseek(self._file.fd, start, os.SEEK_HOLE))
                except OSError as error:
                    if error.errno == errno.ENXIO:  # nothing but a hole follows
                        yield self.size - 1, 1
                        return
                    holes = False  # a file system that cannot tell
            for offset in range(start, end, step):
                yield offset, min(step, end - offset)
            start = max(end, start)

    def read_whole(self) -> bytes:
        """Read all of a small file, check that it stood still, and close it."""
        if self._whole is None:
            data = bytearray(self.size)
            self.read_into(memoryview(data), 0)
            self.check_unchanged()
            self._whole = bytes(data)
            self.close()
        return self._whole

    def digest(self, size: int) -> bytes:
        """Give the digest of the first `size` bytes."""
        if self._whole is not None:
            return hashlib.sha256(memoryview(self._whole)[:size]).digest()
        return digest_of(self._file.fd, size)

    def check_unchanged(self) -> None:
        """
        Raise an error if what the file had when it was opened was written to since.

        One that only grew is no error, as a log may at any time: what it had is copied.
        """
        if self._file.fd < 0:
            return
        now, then = os.fstat(self._file.fd), self._status
        if was_rewritten(then.st_size, then.st_mtime_ns, now.st_size, now.st_mtime_ns):
            raise changed_during_copy_error(self.path, "local")
