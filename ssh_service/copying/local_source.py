"""What is copied from here: local files and trees, read as they are found."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from typing import Iterator, List, NamedTuple, Optional, Tuple

from ssh_service.copying.failures import local_error, shown
from ssh_service.copying.protocol import Attributes
from ssh_service.errors import SshTransferError, transfer_error

__all__ = ["Entry", "SourceFile", "attributes_of", "digest_here", "not_a_file", "walk"]

_PIECE = 256 * 1024
# Pieces taken of a file that claims to be empty and is not: it may never end.
_MOST_UNSIZED = 64
# Without it, opening a fifo that took a file's place would wait for a writer.
_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)


def attributes_of(status: os.stat_result) -> Attributes:
    """Give the attributes a copy shall have."""
    return Attributes(
        mode=stat.S_IMODE(status.st_mode),
        atime=int(status.st_atime),
        mtime=int(status.st_mtime),
    )


def digest_here(fd: int, size: int) -> bytes:
    """Give the digest of the first `size` bytes of an open local file."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_PIECE))
    offset = 0
    while offset < size:
        count = os.preadv(fd, [buffer[: min(_PIECE, size - offset)]], offset)
        if not count:
            break
        digest.update(buffer[:count])
        offset += count
    return digest.digest()


class SourceFile:
    """
    A local file, open to be copied; a context manager.

    Attributes
    ----------
    path : bytes
        Its path, for errors.
    size : int
        How many bytes it has.
    attributes : Attributes
        What its copy shall have.
    """

    def __init__(self, path: bytes) -> None:
        self.path = path
        self._whole: Optional[bytes] = None
        try:
            self._fd: Optional[int] = os.open(path, _OPEN_FLAGS)
        except OSError as error:
            raise local_error(error, path) from error
        self._status = os.fstat(self._fd)
        if not stat.S_ISREG(self._status.st_mode):
            self.close()
            raise not_a_file(path, self._status.st_mode)
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
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _read_unsized(self) -> None:
        """Read one that says it is empty: those in /proc have no size, but content."""
        assert self._fd is not None
        pieces = []
        try:
            while True:
                piece = os.read(self._fd, _PIECE)
                if not piece:
                    break
                pieces.append(piece)
                if len(pieces) > _MOST_UNSIZED:
                    raise self._changed()
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

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer` with what lies at `offset`."""
        if self._whole is not None:
            buffer[:] = self._whole[offset : offset + len(buffer)]
            return
        assert self._fd is not None
        try:
            while buffer:
                count = os.preadv(self._fd, [buffer], offset)
                if not count:
                    raise self._changed()
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
        holes = holes and hasattr(os, "SEEK_DATA") and self._status.st_blocks * 512 < self.size
        if self._fd is None:  # was read as a whole
            holes = False
        while start < self.size:
            end = self.size
            if holes:
                assert self._fd is not None
                try:
                    start = os.lseek(self._fd, start, os.SEEK_DATA)
                    end = min(end, os.lseek(self._fd, start, os.SEEK_HOLE))
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
        assert self._fd is not None
        return digest_here(self._fd, size)

    def check_unchanged(self) -> None:
        """Raise an error if the file was written to since it was opened."""
        if self._fd is None:
            return
        now = os.fstat(self._fd)
        if (now.st_size, now.st_mtime_ns) != (self._status.st_size, self._status.st_mtime_ns):
            raise self._changed()

    def _changed(self) -> SshTransferError:
        return transfer_error(errno.EIO, shown(self.path), "changed while it was being copied")


def not_a_file(path: bytes, mode: int) -> SshTransferError:
    """Build the error for what is no regular file, though one is needed."""
    if stat.S_ISDIR(mode):
        return transfer_error(errno.EISDIR, shown(path))
    kinds = (
        (stat.S_ISFIFO, "a fifo"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a character device"),
        (stat.S_ISBLK, "a block device"),
        (stat.S_ISLNK, "a symbolic link"),
    )
    kind = next((text for test, text in kinds if test(mode)), "of an unknown kind")
    return transfer_error(errno.EINVAL, shown(path), f"not a regular file but {kind}")


class Entry(NamedTuple):
    """One step of a walk through a tree."""

    path: bytes
    name: bytes
    status: Optional[os.stat_result]  # of a folder, as it is entered; None for a file
    leaves: bool = False  # whether this is the end of a folder


def walk(root: bytes, status: os.stat_result) -> Iterator[Entry]:
    """
    Walk through a tree, in the order in which the system lists it, following symbolic links.

    Parameters
    ----------
    root : bytes
        The folder; it is not itself among the entries.
    status : os.stat_result
        Its status.

    Yields
    ------
    Entry
        A file; a folder, as it is entered; a folder, as it is left.

    Raises
    ------
    SshTransferError
        An entry cannot be followed, or leads back to a folder it lies in; names the entry.
    """
    return _walk(root, [(status.st_dev, status.st_ino)])


def _walk(folder: bytes, parents: List[Tuple[int, int]]) -> Iterator[Entry]:
    path = folder
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                path = entry.path
                followed = entry.is_symlink()
                if not entry.is_dir(follow_symlinks=followed):
                    # Told here, in order; and nothing but a file is ever opened.
                    if not entry.is_file(follow_symlinks=followed):
                        raise not_a_file(path, entry.stat().st_mode)
                    yield Entry(path, entry.name, None)
                    continue
                status = entry.stat()
                identity = (status.st_dev, status.st_ino)
                if followed and (identity in parents or _holds(path, folder)):
                    raise transfer_error(
                        errno.ELOOP, shown(path), "a symbolic link to a folder it lies in"
                    )
                yield Entry(path, entry.name, status)
                parents.append(identity)
                yield from _walk(path, parents)
                parents.pop()
                yield Entry(path, entry.name, status, leaves=True)
    except SshTransferError:
        raise
    except OSError as error:
        raise local_error(error, path) from error


def _holds(link: bytes, folder: bytes) -> bool:
    """Tell whether a link leads to the folder it lies in, or to one around that."""
    target, here = os.path.realpath(link), os.path.realpath(folder)
    return here == target or here.startswith(target.rstrip(b"/") + b"/")
