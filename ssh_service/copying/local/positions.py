"""Reads and writes at an offset of an open file, on systems with and without `os.preadv`."""

from __future__ import annotations

import os

from ssh_service.copying.sftp.protocol import Pieces

__all__ = ["read_at", "write_at"]


def _read_vector(fd: int, buffer: memoryview, offset: int) -> int:
    return os.preadv(fd, [buffer], offset)


def _read_copy(fd: int, buffer: memoryview, offset: int) -> int:
    data = os.pread(fd, len(buffer), offset)
    buffer[: len(data)] = data
    return len(data)


def _seek_and_read(fd: int, buffer: memoryview, offset: int) -> int:
    os.lseek(fd, offset, os.SEEK_SET)
    data = os.read(fd, len(buffer))
    buffer[: len(data)] = data
    return len(data)


def _write_vector(fd: int, pieces: Pieces, offset: int) -> int:
    return os.pwritev(fd, pieces, offset)


def _write_piece(fd: int, pieces: Pieces, offset: int) -> int:
    return os.pwrite(fd, pieces[0], offset)


def _seek_and_write(fd: int, pieces: Pieces, offset: int) -> int:
    os.lseek(fd, offset, os.SEEK_SET)
    return os.write(fd, pieces[0])


# PyPy and old releases of macOS have no vectors; Windows only has a position of the descriptor.
# One thread at a time uses a descriptor of a copy, so moving it is safe.
_has_position = hasattr(os, "pread")
if hasattr(os, "preadv"):
    _read, _write = _read_vector, _write_vector
else:
    _read = _read_copy if _has_position else _seek_and_read
    _write = _write_piece if _has_position else _seek_and_write


def read_at(fd: int, buffer: memoryview, offset: int) -> int:
    """Read into `buffer` from an offset; return how many bytes, 0 at the end of the file."""
    return _read(fd, buffer, offset)


def write_at(fd: int, pieces: Pieces, offset: int) -> int:
    """Write the beginning of `pieces`, which are not empty, at an offset; return its size."""
    return _write(fd, pieces, offset)
