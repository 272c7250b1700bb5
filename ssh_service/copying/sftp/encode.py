"""
Encodes SFTP's requests: each function returns one complete packet, including its length.

The first argument is the request id, except for `init`, which has none.
"""

from __future__ import annotations

import struct
from typing import Optional

from ssh_service.copying.sftp import protocol
from ssh_service.copying.sftp.protocol import Attributes

_HEAD = struct.Struct(">IBI")
_INT = struct.Struct(">I")
_TWO_INTS = struct.Struct(">II")
_OFFSET_AND_SIZE = struct.Struct(">QI")
_LONG = struct.Struct(">Q")


def init() -> bytes:
    """Start the session with the protocol version that we use."""
    return _INT.pack(5) + bytes((protocol.INIT,)) + _INT.pack(protocol.VERSION)


def _frame(request_id: int, kind: int, payload: bytes) -> bytes:
    return _HEAD.pack(5 + len(payload), kind, request_id) + payload


def _string(value: bytes) -> bytes:
    return _INT.pack(len(value)) + value


def _attributes(attributes: Attributes) -> bytes:
    size, uid, gid, mode, atime, mtime = attributes
    flags, fields = 0, b""
    if size is not None:
        flags, fields = flags | protocol.HAS_SIZE, fields + _LONG.pack(size)
    if uid is not None and gid is not None:
        flags, fields = flags | protocol.HAS_OWNER, fields + _TWO_INTS.pack(uid, gid)
    if mode is not None:
        flags, fields = flags | protocol.HAS_MODE, fields + _INT.pack(mode)
    if atime is not None and mtime is not None:
        # SFTP has unsigned 32-bit seconds: clamp to that range.
        low, high = 0, 0xFFFFFFFF
        times = (min(max(atime, low), high), min(max(mtime, low), high))
        flags, fields = flags | protocol.HAS_TIMES, fields + _TWO_INTS.pack(*times)
    return _INT.pack(flags) + fields


def open_file(request_id: int, path: bytes, how: int, mode: Optional[int] = None) -> bytes:
    """Open a file; `mode` is used if the file is created."""
    attributes = _attributes(Attributes(mode=mode))
    return _frame(request_id, protocol.OPEN, _string(path) + _INT.pack(how) + attributes)


def close(request_id: int, handle: bytes) -> bytes:
    """Close a file or a folder."""
    return _frame(request_id, protocol.CLOSE, _string(handle))


def read(request_id: int, handle: bytes, offset: int, size: int) -> bytes:
    """Read at most `size` bytes."""
    payload = _string(handle) + _OFFSET_AND_SIZE.pack(offset, size)
    return _frame(request_id, protocol.READ, payload)


def write(request_id: int, handle: bytes, offset: int, data: bytes) -> bytes:
    """Write `data`."""
    payload = b"".join((_string(handle), _OFFSET_AND_SIZE.pack(offset, len(data)), data))
    return _frame(request_id, protocol.WRITE, payload)


def write_room(handle: bytes) -> int:
    """Return the size of a write request without its data."""
    return 25 + len(handle)


def write_in(
    request_id: int, handle: bytes, offset: int, size: int, buffer: bytearray
) -> memoryview:
    """
    Write `size` bytes of `buffer`, after the first `write_room` bytes, without copying them.

    The buffer must not change until the reply arrives.
    """
    room = write_room(handle)
    _HEAD.pack_into(buffer, 0, room - 4 + size, protocol.WRITE, request_id)
    _INT.pack_into(buffer, 9, len(handle))
    buffer[13 : 13 + len(handle)] = handle
    _OFFSET_AND_SIZE.pack_into(buffer, 13 + len(handle), offset, size)
    return memoryview(buffer)[: room + size]


def stat(request_id: int, path: bytes) -> bytes:
    """Request the attributes of a path, following symbolic links."""
    return _frame(request_id, protocol.STAT, _string(path))


def lstat(request_id: int, path: bytes) -> bytes:
    """Request the attributes of a path, not following symbolic links."""
    return _frame(request_id, protocol.LSTAT, _string(path))


def fstat(request_id: int, handle: bytes) -> bytes:
    """Request the attributes of an open file."""
    return _frame(request_id, protocol.FSTAT, _string(handle))


def setstat(request_id: int, path: bytes, attributes: Attributes) -> bytes:
    """Set attributes by path."""
    return _frame(request_id, protocol.SETSTAT, _string(path) + _attributes(attributes))


def fsetstat(request_id: int, handle: bytes, attributes: Attributes) -> bytes:
    """Set attributes of an open file."""
    return _frame(request_id, protocol.FSETSTAT, _string(handle) + _attributes(attributes))


def open_folder(request_id: int, path: bytes) -> bytes:
    """Open a folder to list it."""
    return _frame(request_id, protocol.OPENDIR, _string(path))


def read_folder(request_id: int, handle: bytes) -> bytes:
    """Request more entries of a folder."""
    return _frame(request_id, protocol.READDIR, _string(handle))


def remove(request_id: int, path: bytes) -> bytes:
    """Remove a file."""
    return _frame(request_id, protocol.REMOVE, _string(path))


def make_folder(request_id: int, path: bytes, mode: int) -> bytes:
    """Create a folder."""
    return _frame(request_id, protocol.MKDIR, _string(path) + _attributes(Attributes(mode=mode)))


def remove_folder(request_id: int, path: bytes) -> bytes:
    """Remove an empty folder."""
    return _frame(request_id, protocol.RMDIR, _string(path))


def real_path(request_id: int, path: bytes) -> bytes:
    """Request the absolute path without symbolic links."""
    return _frame(request_id, protocol.REALPATH, _string(path))


def read_link(request_id: int, path: bytes) -> bytes:
    """Request the target of a symbolic link."""
    return _frame(request_id, protocol.READLINK, _string(path))


def make_link(request_id: int, first: bytes, second: bytes) -> bytes:
    """Create a symbolic link from a target and a path, in the order that the server expects."""
    return _frame(request_id, protocol.SYMLINK, _string(first) + _string(second))


def rename(request_id: int, old: bytes, new: bytes) -> bytes:
    """Rename; most servers refuse if `new` exists."""
    return _frame(request_id, protocol.RENAME, _string(old) + _string(new))


def posix_rename(request_id: int, old: bytes, new: bytes) -> bytes:
    """Rename as in POSIX: replace `new` atomically."""
    return _frame(
        request_id, protocol.EXTENDED, _string(protocol.POSIX_RENAME) + _string(old) + _string(new)
    )


def fsync(request_id: int, handle: bytes) -> bytes:
    """Flush an open file to the disk."""
    return _frame(request_id, protocol.EXTENDED, _string(protocol.FSYNC) + _string(handle))


def limits(request_id: int) -> bytes:
    """Request the server's limits on sizes."""
    return _frame(request_id, protocol.EXTENDED, _string(protocol.LIMITS))


def space(request_id: int, path: bytes) -> bytes:
    """Request the free space of the file system that contains a path."""
    return _frame(request_id, protocol.EXTENDED, _string(protocol.STATVFS) + _string(path))


def expand_path(request_id: int, path: bytes) -> bytes:
    """Request the absolute path for a path that begins with ``~``."""
    return _frame(request_id, protocol.EXTENDED, _string(protocol.EXPAND_PATH) + _string(path))
