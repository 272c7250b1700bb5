"""`SshPath.open`: its modes, and the buffers around a file."""

from __future__ import annotations

import io
from typing import IO, Any, Optional, Set

from ssh_service.copying.sftp import protocol
from ssh_service.errors import SshConfigError
from ssh_service.paths.remote_file import OpenMode, RemoteFile, close_later, open_file
from ssh_service.paths.running import CachedHost

__all__ = ["open_path", "parse_mode"]

# The size of a buffer in bytes: about that of the largest request.
_BUFFER_SIZE = 256 * 1024
_FLAGS = {
    "r": protocol.FOR_READING,
    "w": protocol.FOR_WRITING | protocol.CREATE | protocol.TRUNCATE,
    "a": protocol.FOR_WRITING | protocol.CREATE | protocol.APPEND,
    "x": protocol.FOR_WRITING | protocol.CREATE | protocol.EXCLUSIVE,
}


class _ReadBuffer(io.BufferedReader):
    def __del__(self) -> None:
        _close_if_open(self)


class _WriteBuffer(io.BufferedWriter):
    def flush(self) -> None:
        super().flush()
        self.raw.flush()

    def __del__(self) -> None:
        _close_if_open(self)


class _ReadWriteBuffer(io.BufferedRandom):
    def flush(self) -> None:
        super().flush()
        self.raw.flush()

    def __del__(self) -> None:
        _close_if_open(self)


class _TextBuffer(io.TextIOWrapper):
    def __del__(self) -> None:
        _close_if_open(self)


def _close_if_open(file: Any) -> None:
    try:
        is_closed = file.closed
    except ValueError:  # detached from its buffer, or never complete
        return
    if not is_closed:
        close_later(file)


def parse_mode(mode: str) -> OpenMode:
    """
    Parse a mode of `open`.

    Raises
    ------
    SshConfigError
        The mode is invalid.
    """
    letters: Set[str] = set(mode) if isinstance(mode, str) else set()
    kinds = letters & set(_FLAGS)
    is_valid = len(letters) == len(mode) if letters else False
    if not is_valid or len(kinds) != 1 or letters - {*_FLAGS, "b", "t", "+"}:
        expected = "one of 'r', 'w', 'a' and 'x', with '+', and with 'b' or 't'"
        raise SshConfigError(f"mode: expected {expected}, got {mode!r}")
    if {"b", "t"} <= letters:
        raise SshConfigError(f"mode: expected 'b' or 't', not both, got {mode!r}")
    flags = _FLAGS[kinds.pop()]
    if "+" in letters:
        flags |= protocol.FOR_READING | protocol.FOR_WRITING
    return OpenMode(flags, mode.replace("t", ""))


def open_path(
    host: CachedHost,
    path: str,
    mode: str,
    buffering: int,
    encoding: Optional[str],
    errors: Optional[str],
    newline: Optional[str],
) -> IO[Any]:
    """Open a file; see `SshPath.open`."""
    how = parse_mode(mode)
    is_binary = "b" in mode
    for name, value in (("encoding", encoding), ("errors", errors), ("newline", newline)):
        if is_binary and value is not None:
            raise SshConfigError(
                f"{name}: expected None in the binary mode {mode!r}, got {value!r}"
            )
    if not isinstance(buffering, int) or buffering < -1 or (buffering == 0 and not is_binary):
        expected = "-1, 1 or a number of bytes" + (", or 0" if is_binary else " for text")
        raise SshConfigError(f"buffering: expected {expected}, got {buffering!r}")
    if not is_binary:
        encoding = "utf-8" if encoding is None else encoding
        # Checks the arguments before a file is created.
        io.TextIOWrapper(io.BytesIO(), encoding, errors, newline)
    raw = open_file(host, path, how)
    try:
        return _with_buffers(raw, is_binary, buffering, encoding, errors, newline)
    except BaseException:
        raw.close()
        raise


def _with_buffers(
    raw: RemoteFile,
    is_binary: bool,
    buffering: int,
    encoding: Optional[str],
    errors: Optional[str],
    newline: Optional[str],
) -> IO[Any]:
    if buffering == 0:
        raw.is_unbuffered = True
        return raw  # type: ignore[return-value]
    size = buffering if buffering > 1 else _BUFFER_SIZE
    if raw.readable() and raw.writable():
        kind: Any = _ReadWriteBuffer
    else:
        kind = _ReadBuffer if raw.readable() else _WriteBuffer
    buffer = kind(raw, size)
    raw.has_buffer = True
    if is_binary:
        return buffer  # type: ignore[no-any-return]
    return _TextBuffer(buffer, encoding, errors, newline, line_buffering=buffering == 1)
