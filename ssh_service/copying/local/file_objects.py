"""Bytes and file objects of the caller, in place of a local file."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
from typing import Any, Iterator, Optional, Tuple, Union

from ssh_service.copying.failures import display_path
from ssh_service.copying.sftp.protocol import Attributes, Pieces
from ssh_service.errors import SshConfigError, transfer_error

__all__ = ["Content", "SourceBytes", "SourceObject", "TargetObject", "content_of"]

_NAME = b"<file object>"


class SourceBytes:
    """
    Bytes that are uploaded; it has what `SourceFile` has.

    Attributes
    ----------
    path : bytes
        A name for errors.
    size : int
        The size in bytes.
    expected_size : Optional[int]
        The size as far as it is known before the copy; None: unknown.
    attributes : Attributes
        None: bytes have no mode and no time.
    """

    path = b"<bytes>"
    attributes = Attributes()
    is_sparse = False

    def __init__(self, data: Any = b"") -> None:
        self._data = bytes(data)
        self.size = len(self._data)
        self.expected_size: Optional[int] = self.size

    def begin(self, most: int) -> None:
        """Prepare the copy; `most` bytes can be written by one request."""

    def rewind(self) -> None:
        """Prepare to be read a second time."""

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer` with the content at `offset`."""
        buffer[:] = self._data[offset : offset + len(buffer)]

    def parts(self, start: int, step: int, holes: bool) -> Iterator[Tuple[int, int]]:
        """Yield the offset and size of each part."""
        for offset in range(start, self.size, step):
            yield offset, min(step, self.size - offset)

    def read_whole(self) -> bytes:
        """Return the content, which is small."""
        return self._data

    def digest(self, size: int) -> bytes:
        """Return the digest of the content, which has `size` bytes."""
        return hashlib.sha256(self._data).digest()

    def check_unchanged(self) -> None:
        """Do nothing: the content cannot be compared with anything."""


class SourceObject(SourceBytes):
    """
    A binary file object that is uploaded, from its current position to its end.

    It is read in order, on the thread of the copy, and never closed.

    Parameters
    ----------
    file : Any
        The object; it has a method ``read``.
    """

    path = _NAME

    def __init__(self, file: Any) -> None:
        super().__init__()  # `_data` has the first bytes
        self._file = file
        self._start = _position(file)
        self.expected_size = _remaining_size(file)
        self._has_begun = self._is_streaming = False
        self._part = b""
        self._digest = hashlib.sha256()

    def begin(self, most: int) -> None:
        """Read the first bytes, to find out whether one request is sufficient."""
        if self._has_begun:
            self.rewind()
            return
        self._has_begun = True
        self._data = self._read(most + 1)
        self.size = len(self._data)

    def rewind(self) -> None:
        """
        Prepare to be read a second time.

        Raises
        ------
        SshTransferError
            The object has been read, and has no positions.
        """
        if not self._is_streaming:
            return
        if self._start is None:
            text = "the file object would have to be read a second time, and cannot seek"
            raise transfer_error(errno.ESPIPE, display_path(self.path), text, side="local")
        self._file.seek(self._start)
        self._data, self._is_streaming = b"", False

    def parts(self, start: int, step: int, holes: bool) -> Iterator[Tuple[int, int]]:
        """Read part after part; yield the offset and size of each."""
        self._is_streaming, self._digest = True, hashlib.sha256()
        offset, rest = 0, self._data
        while True:
            if len(rest) < step:
                rest += self._read(step - len(rest))
            self._part, rest = rest[:step], rest[step:]
            if not self._part:
                break
            self._digest.update(self._part)
            self.size = max(self.size, offset + len(self._part))
            yield offset, len(self._part)
            offset += len(self._part)
        self.size = offset

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer` with the part that was read last."""
        buffer[:] = self._part

    def digest(self, size: int) -> bytes:
        """Return the digest of the content, which was read completely."""
        return self._digest.digest() if self._is_streaming else super().digest(size)

    def _read(self, size: int) -> bytes:
        """Read `size` bytes; fewer at the end."""
        pieces = []
        while size > 0:
            piece = self._file.read(size)
            if isinstance(piece, str):
                raise _text_error("local_path")
            if piece is None:
                text = "the file object has no data at the moment, and does not wait for it"
                raise transfer_error(errno.EAGAIN, display_path(self.path), text, side="local")
            if not piece:
                break
            if isinstance(piece, int):
                raise _result_error(self._file, "read", piece, "bytes")
            try:
                pieces.append(bytes(piece))
            except (TypeError, ValueError) as error:
                raise _result_error(self._file, "read", piece, "bytes") from error
            size -= len(pieces[-1])
        return b"".join(pieces)


class TargetObject:
    """
    A binary file object that a download writes to, at its current position.

    It is written in order, on the thread of the copy, and never closed.

    Parameters
    ----------
    file : Any
        The object; it has a method ``write``.

    Attributes
    ----------
    path : bytes
        A name for errors.
    resumed_size : int
        0: nothing is resumed.
    """

    path = _NAME
    resumed_size = 0
    is_device = False

    def __init__(self, file: Any) -> None:
        self._file = file
        self._digest = hashlib.sha256()

    def write(self, offset: int, pieces: Pieces) -> None:
        """Write `pieces`, which follow what was written before."""
        for piece in pieces:
            data = bytes(piece)
            self._digest.update(data)
            while data:
                data = data[self._write(data) :]

    def _write(self, data: bytes) -> int:
        try:
            count = self._file.write(data)
        except TypeError as error:
            raise _text_error("local_path") from error
        if count is None and not isinstance(self._file, io.RawIOBase):
            return len(data)  # an object that does not count
        if count is not None and not hasattr(count, "__index__"):
            raise _result_error(self._file, "write", count, "the number of bytes written")
        if not count:
            text = "the file object takes no data at the moment, and does not wait"
            raise transfer_error(errno.EAGAIN, display_path(self.path), text, side="local")
        if count < 0:
            text = f"the file object says that it has written {count} of {len(data)} bytes"
            raise transfer_error(errno.EIO, display_path(self.path), text, side="local")
        return int(count)

    def digest(self, size: int) -> bytes:
        """Return the digest of what was written."""
        return self._digest.digest()


# What a caller may give in place of a local path.
Content = Union[SourceBytes, TargetObject]


def content_of(name: str, value: Any, is_upload: bool) -> Optional[Content]:
    """
    Return the bytes or the file object that takes the place of a path; None for anything else.

    Raises
    ------
    SshConfigError
        A file object is closed, is a text file, or cannot be read or written.
    """
    if isinstance(value, (str, os.PathLike)):
        return None
    if is_upload and isinstance(value, (bytes, bytearray, memoryview)):
        return SourceBytes(value)
    if not callable(getattr(value, "read" if is_upload else "write", None)):
        return None
    _check_file(name, value, "readable" if is_upload else "writable")
    return SourceObject(value) if is_upload else TargetObject(value)


def _check_file(name: str, value: Any, ability: str) -> None:
    if getattr(value, "closed", False) is True:
        raise SshConfigError(f"{name}: the file object is closed")
    if any(isinstance(f, io.TextIOBase) for f in (value, getattr(value, "file", None))):
        raise _text_error(name)
    is_able = getattr(value, ability, None)
    if callable(is_able) and not is_able():
        raise SshConfigError(f"{name}: the file object is not {ability}")
    if ability == "readable" and isinstance(value.read(0), str):
        raise _text_error(name)


def _text_error(name: str) -> SshConfigError:
    return SshConfigError(
        f"{name}: expected a binary file object, got a text file; open it in binary mode, such as"
        " 'rb' or 'wb'"
    )


def _result_error(file: Any, method: str, result: Any, right: str) -> SshConfigError:
    return SshConfigError(
        f"local_path: expected a binary file object whose {method}() returns {right}, but that of "
        f"{type(file).__name__} returned {type(result).__name__}"
    )


def _position(file: Any) -> Optional[int]:
    """Return the position of a file object; None if it has none."""
    try:
        return int(file.tell()) if file.seekable() else None
    except (AttributeError, OSError, TypeError, ValueError):
        return None


def _remaining_size(file: Any) -> Optional[int]:
    """Return the number of bytes that can be read; None if that is unknown."""
    try:
        if isinstance(file, io.BytesIO):
            return max(0, len(file.getbuffer()) - file.tell())
        if isinstance(file, (io.FileIO, io.BufferedReader, io.BufferedRandom)):
            status = os.fstat(file.fileno())
            if stat.S_ISREG(status.st_mode):
                return max(0, status.st_size - file.tell())
    except (OSError, ValueError):
        pass  # an object of the same type, without a file
    return None
