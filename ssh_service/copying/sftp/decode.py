"""
Decodes SFTP's replies: each function takes the data after the request id.

The server is not trusted: a malformed packet raises `ProtocolError`, never an IndexError.
"""

from __future__ import annotations

import struct
from typing import Dict, List, Tuple

from ssh_service.copying.sftp import protocol
from ssh_service.copying.sftp.protocol import (
    Attributes,
    FolderEntry,
    FreeSpace,
    Pieces,
    ProtocolError,
    ServerLimits,
)

_INT = struct.Struct(">I")
_TWO_INTS = struct.Struct(">II")
_LONG = struct.Struct(">Q")
_LIMITS = struct.Struct(">QQQQ")
_SPACE = struct.Struct(">QQQQQQQQQQQ")


def _take_int(body: bytes, at: int) -> Tuple[int, int]:
    try:
        return _INT.unpack_from(body, at)[0], at + 4
    except struct.error:
        raise ProtocolError("packet ends inside a number") from None


def _take_string(body: bytes, at: int) -> Tuple[bytes, int]:
    size, at = _take_int(body, at)
    if size > len(body) - at:
        raise ProtocolError("packet ends inside a string")
    return bytes(body[at : at + size]), at + size


def _take_attributes(body: bytes, at: int) -> Tuple[Attributes, int]:
    flags, at = _take_int(body, at)
    size = uid = gid = mode = atime = mtime = None
    try:
        if flags & protocol.HAS_SIZE:
            (size,), at = _LONG.unpack_from(body, at), at + 8
        if flags & protocol.HAS_OWNER:
            (uid, gid), at = _TWO_INTS.unpack_from(body, at), at + 8
        if flags & protocol.HAS_MODE:
            (mode,), at = _INT.unpack_from(body, at), at + 4
        if flags & protocol.HAS_TIMES:
            (atime, mtime), at = _TWO_INTS.unpack_from(body, at), at + 8
    except struct.error:
        raise ProtocolError("packet ends inside the attributes of a file") from None
    if flags & protocol.HAS_EXTENDED:
        count, at = _take_int(body, at)
        for _ in range(2 * count):  # limited by the packet: each string takes at least 4 bytes
            _, at = _take_string(body, at)
    return Attributes(size, uid, gid, mode, atime, mtime), at


def status(body: bytes) -> Tuple[int, str]:
    """Decode a status: the code, and the server's message, which may be missing."""
    code, at = _take_int(body, 0)
    if at == len(body):
        return code, ""
    text, _ = _take_string(body, at)
    return code, text.decode("utf-8", "backslashreplace")


def handle(body: bytes) -> bytes:
    """Decode a handle."""
    handle, _ = _take_string(body, 0)
    if len(handle) > 256:
        raise ProtocolError(f"handle must have at most 256 bytes, got {len(handle)}")
    return handle


def data(pieces: Pieces) -> Pieces:
    """Decode data, without copying it."""
    # `PacketReader` never splits the number.
    size, at = _take_int(bytes(pieces[0][:4]), 0)
    found = [pieces[0][at:], *pieces[1:]]
    if size != sum(map(len, found)):
        raise ProtocolError("length of the data differs from the announced one")
    return found


def attributes(body: bytes) -> Attributes:
    """Decode the attributes of a file."""
    return _take_attributes(body, 0)[0]


def names(body: bytes) -> List[FolderEntry]:
    """Decode a part of a folder listing, or a resolved path."""
    count, at = _take_int(body, 0)
    names: List[FolderEntry] = []
    for _ in range(count):  # limited by the packet: each entry takes at least 12 bytes
        filename, at = _take_string(body, at)
        longname, at = _take_string(body, at)
        attributes, at = _take_attributes(body, at)
        names.append(FolderEntry(filename, attributes, longname))
    return names


def extensions(body: bytes) -> Dict[bytes, bytes]:
    """Decode the extensions that follow the version."""
    extensions: Dict[bytes, bytes] = {}
    at = 0
    while at < len(body):
        name, at = _take_string(body, at)
        extensions[name], at = _take_string(body, at)
    return extensions


def limits(body: bytes) -> ServerLimits:
    """Decode the reply to `encode.limits`."""
    try:
        return ServerLimits(*_LIMITS.unpack_from(body))
    except struct.error:
        raise ProtocolError("reply to limits@openssh.com is too short") from None


def space(body: bytes) -> FreeSpace:
    """Decode the reply to `encode.space`."""
    try:
        fields = _SPACE.unpack_from(body)
    except struct.error:
        raise ProtocolError("reply to statvfs@openssh.com is too short") from None
    return FreeSpace(
        free_blocks=fields[4],
        has_inodes_left=bool(fields[7]) or not fields[5],
        read_only=bool(fields[9] & 1),
        block_size=fields[1],
    )
