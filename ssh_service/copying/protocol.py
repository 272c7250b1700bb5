"""
The SFTP protocol, version 3, as pure functions: values to packets and packets to values.

What OpenSSH speaks (draft-ietf-secsh-filexfer-02 and the ``*@openssh.com`` extensions of its
PROTOCOL file).  Nothing in here does any I/O.  Names and paths are bytes, as on the server's disk.
Whatever comes from a server is checked, for it may lie: a packet that does not hold what it
promises is a `ProtocolError`, never an IndexError.
"""

from __future__ import annotations

import struct
from typing import Dict, List, NamedTuple, Optional, Tuple, Union

__all__ = [
    "Attributes",
    "Limits",
    "Name",
    "Packet",
    "PacketReader",
    "ProtocolError",
    "Space",
]

VERSION = 3

# Requests.
INIT, OPEN, CLOSE, READ, WRITE, LSTAT, FSTAT, SETSTAT, FSETSTAT = 1, 3, 4, 5, 6, 7, 8, 9, 10
OPENDIR, READDIR, REMOVE, MKDIR, RMDIR, REALPATH, STAT, RENAME = 11, 12, 13, 14, 15, 16, 17, 18
READLINK, EXTENDED = 19, 200

# Replies.
VERSION_REPLY, STATUS, HANDLE, DATA, NAME, ATTRS, EXTENDED_REPLY = 2, 101, 102, 103, 104, 105, 201

# Status codes.
OK, EOF, NO_SUCH_FILE, PERMISSION_DENIED, FAILURE, BAD_MESSAGE = 0, 1, 2, 3, 4, 5
NO_CONNECTION, CONNECTION_LOST, OP_UNSUPPORTED = 6, 7, 8

# How to open.
FOR_READING, FOR_WRITING, CREATE, TRUNCATE, EXCLUSIVE = 0x01, 0x02, 0x08, 0x10, 0x20

# Extensions, by the names OpenSSH announces them under.
FSYNC = b"fsync@openssh.com"
POSIX_RENAME = b"posix-rename@openssh.com"
LIMITS = b"limits@openssh.com"
STATVFS = b"statvfs@openssh.com"
EXPAND_PATH = b"expand-path@openssh.com"

# Every server takes 32 KiB at a time; none that we know takes a packet over 256 KiB.
SAFE_DATA_SIZE = 32 * 1024
LARGEST_DATA_SIZE = 255 * 1024
LARGEST_PACKET = 256 * 1024 + 1024

# The first piece of a packet has at least its head and the number after that, if there is one.
_BEGINNING = 13
# Far below what one call of the system takes (IOV_MAX).
_MOST_PIECES = 256

_HAS_SIZE, _HAS_OWNER, _HAS_MODE, _HAS_TIMES, _HAS_EXTENDED = 1, 2, 4, 8, 0x80000000

_HEAD = struct.Struct(">IBI")
_INT = struct.Struct(">I")
_TWO_INTS = struct.Struct(">II")
_OFFSET_AND_SIZE = struct.Struct(">QI")
_LONG = struct.Struct(">Q")
_LIMITS = struct.Struct(">QQQQ")
_SPACE = struct.Struct(">QQQQQQQQQQQ")


Buffer = Union[bytes, memoryview]
Pieces = List[memoryview]


class ProtocolError(Exception):
    """A peer sent what SFTP does not allow."""


class Attributes(NamedTuple):
    """What a server says of a file, or is asked to set; None where it says nothing."""

    size: Optional[int] = None
    uid: Optional[int] = None
    gid: Optional[int] = None
    mode: Optional[int] = None
    atime: Optional[int] = None
    mtime: Optional[int] = None


class Name(NamedTuple):
    """One entry of a folder, or one resolved path."""

    filename: bytes
    attributes: Attributes


class Limits(NamedTuple):
    """What ``limits@openssh.com`` tells; 0 where the server has no limit or does not say."""

    packet: int = 0
    read: int = 0
    write: int = 0
    handles: int = 0


class Space(NamedTuple):
    """The part of ``statvfs@openssh.com`` that says why a write failed."""

    free_blocks: int
    free_files: int
    read_only: bool


class Packet(NamedTuple):
    """One packet from the server, taken out of the stream."""

    kind: int
    request_id: int  # of a hello, which has none: the version
    pieces: Pieces

    @property
    def body(self) -> bytes:
        """All that comes after the request id, in one piece."""
        return b"".join(self.pieces)


class PacketReader:
    """
    Cuts a stream, which comes in chunks of any size, into packets.

    Data that spans chunks is never put together: it is going to be written to a file, and that
    takes pieces as well.
    """

    def __init__(self) -> None:
        self._head = b""  # the first bytes of a packet, while they are too few to tell its size
        self._unfinished: Optional[Packet] = None  # of which there are some pieces
        self._missing = 0  # bytes of that

    @property
    def unfinished(self) -> Optional[int]:
        """The request id of the packet of which a part has come, if there is one."""
        return None if self._unfinished is None else self._unfinished.request_id

    def feed(self, chunk: bytes) -> List[Packet]:
        """Take a chunk in; give the packets that it completes, in order."""
        packets: List[Packet] = []
        at = 0
        if self._unfinished is not None:
            at = min(self._missing, len(chunk))
            pieces = self._unfinished.pieces
            pieces.append(memoryview(chunk)[:at])
            if len(pieces) > _MOST_PIECES:  # from a server that sends crumbs
                pieces[:] = [memoryview(b"".join(pieces))]
            self._missing -= at
            if self._missing:
                return packets
            packets.append(self._unfinished)
            self._unfinished = None
        elif self._head:
            chunk, self._head = self._head + chunk, b""
        end = len(chunk)
        while end - at >= 9:
            size, kind, request_id = _HEAD.unpack_from(chunk, at)
            if not 5 <= size <= LARGEST_PACKET:
                raise ProtocolError(f"a packet of {size} bytes, 5 to {LARGEST_PACKET} are allowed")
            stop = at + 4 + size
            if stop > end and end - at < _BEGINNING:
                break
            packet = Packet(kind, request_id, [memoryview(chunk)[at + 9 : stop]])
            if stop > end:
                self._unfinished, self._missing = packet, stop - end
                return packets
            packets.append(packet)
            at = stop
        self._head = bytes(memoryview(chunk)[at:])
        return packets


# Encoding: the whole packet, its length in front. ---------------------------------------------


def init() -> bytes:
    """Open the conversation: the version we speak."""
    return _INT.pack(5) + bytes((INIT,)) + _INT.pack(VERSION)


def _frame(request_id: int, kind: int, payload: bytes) -> bytes:
    return _HEAD.pack(5 + len(payload), kind, request_id) + payload


def _string(value: bytes) -> bytes:
    return _INT.pack(len(value)) + value


def _attributes(attributes: Attributes) -> bytes:
    size, uid, gid, mode, atime, mtime = attributes
    flags, fields = 0, b""
    if size is not None:
        flags, fields = flags | _HAS_SIZE, fields + _LONG.pack(size)
    if uid is not None and gid is not None:
        flags, fields = flags | _HAS_OWNER, fields + _TWO_INTS.pack(uid, gid)
    if mode is not None:
        flags, fields = flags | _HAS_MODE, fields + _INT.pack(mode)
    if atime is not None and mtime is not None:
        # Times are unsigned 32-bit seconds here: what lies outside is moved to the nearest end.
        low, high = 0, 0xFFFFFFFF
        times = (min(max(atime, low), high), min(max(mtime, low), high))
        flags, fields = flags | _HAS_TIMES, fields + _TWO_INTS.pack(*times)
    return _INT.pack(flags) + fields


def open_file(request_id: int, path: bytes, how: int, mode: Optional[int] = None) -> bytes:
    """Open a file; `mode` is for one that gets created."""
    attributes = _attributes(Attributes(mode=mode))
    return _frame(request_id, OPEN, _string(path) + _INT.pack(how) + attributes)


def close(request_id: int, handle: bytes) -> bytes:
    """Close a file or a folder."""
    return _frame(request_id, CLOSE, _string(handle))


def read(request_id: int, handle: bytes, offset: int, size: int) -> bytes:
    """Read at most `size` bytes."""
    payload = _string(handle) + _OFFSET_AND_SIZE.pack(offset, size)
    return _frame(request_id, READ, payload)


def write(request_id: int, handle: bytes, offset: int, data: bytes) -> bytes:
    """Write `data`."""
    payload = b"".join((_string(handle), _OFFSET_AND_SIZE.pack(offset, len(data)), data))
    return _frame(request_id, WRITE, payload)


def write_room(handle: bytes) -> int:
    """Tell how many bytes a write takes before its data."""
    return 25 + len(handle)


def write_in(
    request_id: int, handle: bytes, offset: int, size: int, buffer: bytearray
) -> memoryview:
    """
    Write `size` bytes that lie in `buffer` already, after `write_room` bytes: large ones uncopied.

    The buffer must stay as it is until the reply comes.
    """
    room = write_room(handle)
    _HEAD.pack_into(buffer, 0, room - 4 + size, WRITE, request_id)
    _INT.pack_into(buffer, 9, len(handle))
    buffer[13 : 13 + len(handle)] = handle
    _OFFSET_AND_SIZE.pack_into(buffer, 13 + len(handle), offset, size)
    return memoryview(buffer)[: room + size]


def stat(request_id: int, path: bytes) -> bytes:
    """Ask for the attributes of what a path leads to."""
    return _frame(request_id, STAT, _string(path))


def lstat(request_id: int, path: bytes) -> bytes:
    """Ask for the attributes of a path itself, symbolic link or not."""
    return _frame(request_id, LSTAT, _string(path))


def fstat(request_id: int, handle: bytes) -> bytes:
    """Ask for the attributes of an open file."""
    return _frame(request_id, FSTAT, _string(handle))


def setstat(request_id: int, path: bytes, attributes: Attributes) -> bytes:
    """Set attributes by path."""
    return _frame(request_id, SETSTAT, _string(path) + _attributes(attributes))


def fsetstat(request_id: int, handle: bytes, attributes: Attributes) -> bytes:
    """Set attributes of an open file."""
    return _frame(request_id, FSETSTAT, _string(handle) + _attributes(attributes))


def open_folder(request_id: int, path: bytes) -> bytes:
    """Open a folder, to list it."""
    return _frame(request_id, OPENDIR, _string(path))


def read_folder(request_id: int, handle: bytes) -> bytes:
    """Ask for some more entries of a folder."""
    return _frame(request_id, READDIR, _string(handle))


def remove(request_id: int, path: bytes) -> bytes:
    """Remove a file."""
    return _frame(request_id, REMOVE, _string(path))


def make_folder(request_id: int, path: bytes, mode: int) -> bytes:
    """Create a folder."""
    return _frame(request_id, MKDIR, _string(path) + _attributes(Attributes(mode=mode)))


def remove_folder(request_id: int, path: bytes) -> bytes:
    """Remove an empty folder."""
    return _frame(request_id, RMDIR, _string(path))


def real_path(request_id: int, path: bytes) -> bytes:
    """Ask for the absolute path without symbolic links."""
    return _frame(request_id, REALPATH, _string(path))


def read_link(request_id: int, path: bytes) -> bytes:
    """Ask where a symbolic link points."""
    return _frame(request_id, READLINK, _string(path))


def rename(request_id: int, old: bytes, new: bytes) -> bytes:
    """Rename by version 3's rules: most servers refuse if `new` exists."""
    return _frame(request_id, RENAME, _string(old) + _string(new))


def posix_rename(request_id: int, old: bytes, new: bytes) -> bytes:
    """Rename by POSIX's rules: `new` is replaced in one step."""
    return _frame(request_id, EXTENDED, _string(POSIX_RENAME) + _string(old) + _string(new))


def fsync(request_id: int, handle: bytes) -> bytes:
    """Have an open file written to the disk."""
    return _frame(request_id, EXTENDED, _string(FSYNC) + _string(handle))


def limits(request_id: int) -> bytes:
    """Ask for the sizes the server can take."""
    return _frame(request_id, EXTENDED, _string(LIMITS))


def space(request_id: int, path: bytes) -> bytes:
    """Ask about the file system that holds a path."""
    return _frame(request_id, EXTENDED, _string(STATVFS) + _string(path))


def expand_path(request_id: int, path: bytes) -> bytes:
    """Ask for the absolute path of one that begins with ``~``."""
    return _frame(request_id, EXTENDED, _string(EXPAND_PATH) + _string(path))


# Decoding: what comes after the request id. ---------------------------------------------------


def _take_int(body: bytes, at: int) -> Tuple[int, int]:
    try:
        return _INT.unpack_from(body, at)[0], at + 4
    except struct.error:
        raise ProtocolError("a packet ends inside a number") from None


def _take_string(body: bytes, at: int) -> Tuple[bytes, int]:
    size, at = _take_int(body, at)
    if size > len(body) - at:
        raise ProtocolError("a packet ends inside a string")
    return bytes(body[at : at + size]), at + size


def _take_attributes(body: bytes, at: int) -> Tuple[Attributes, int]:
    flags, at = _take_int(body, at)
    size = uid = gid = mode = atime = mtime = None
    try:
        if flags & _HAS_SIZE:
            (size,), at = _LONG.unpack_from(body, at), at + 8
        if flags & _HAS_OWNER:
            (uid, gid), at = _TWO_INTS.unpack_from(body, at), at + 8
        if flags & _HAS_MODE:
            (mode,), at = _INT.unpack_from(body, at), at + 4
        if flags & _HAS_TIMES:
            (atime, mtime), at = _TWO_INTS.unpack_from(body, at), at + 8
    except struct.error:
        raise ProtocolError("a packet ends inside a file's attributes") from None
    if flags & _HAS_EXTENDED:
        count, at = _take_int(body, at)
        for _ in range(2 * count):  # ends with the packet at the latest: each string takes 4 bytes
            _, at = _take_string(body, at)
    return Attributes(size, uid, gid, mode, atime, mtime), at


def read_status(body: bytes) -> Tuple[int, str]:
    """Decode a status: its code, and the server's words (which some servers leave out)."""
    code, at = _take_int(body, 0)
    if at == len(body):
        return code, ""
    text, _ = _take_string(body, at)
    return code, text.decode("utf-8", "backslashreplace")


def read_handle(body: bytes) -> bytes:
    """Decode a handle."""
    handle, _ = _take_string(body, 0)
    if len(handle) > 256:
        raise ProtocolError(f"a handle of {len(handle)} bytes, 256 are allowed")
    return handle


def read_data(pieces: Pieces) -> Pieces:
    """Decode data, without copying it."""
    # The number is never cut in two: see `PacketReader`.
    size, at = _take_int(bytes(pieces[0][:4]), 0)
    found = [pieces[0][at:], *pieces[1:]]
    if size != sum(map(len, found)):
        raise ProtocolError("data of another length than announced")
    return found


def read_attributes(body: bytes) -> Attributes:
    """Decode the attributes of a file."""
    return _take_attributes(body, 0)[0]


def read_names(body: bytes) -> List[Name]:
    """Decode a part of a folder, or a resolved path."""
    count, at = _take_int(body, 0)
    names: List[Name] = []
    for _ in range(count):  # ends with the packet at the latest: each entry takes 12 bytes
        filename, at = _take_string(body, at)
        _, at = _take_string(body, at)  # what ``ls -l`` would show: for people
        attributes, at = _take_attributes(body, at)
        names.append(Name(filename, attributes))
    return names


def read_extensions(body: bytes) -> Dict[bytes, bytes]:
    """Decode what the server announces in its hello, after the version."""
    extensions: Dict[bytes, bytes] = {}
    at = 0
    while at < len(body):
        name, at = _take_string(body, at)
        extensions[name], at = _take_string(body, at)
    return extensions


def read_limits(body: bytes) -> Limits:
    """Decode the reply to `limits`."""
    try:
        return Limits(*_LIMITS.unpack_from(body))
    except struct.error:
        raise ProtocolError("a reply about limits that is too short") from None


def read_space(body: bytes) -> Space:
    """Decode the reply to `space`."""
    try:
        fields = _SPACE.unpack_from(body)
    except struct.error:
        raise ProtocolError("a reply about free space that is too short") from None
    return Space(free_blocks=fields[4], free_files=fields[7], read_only=bool(fields[9] & 1))
