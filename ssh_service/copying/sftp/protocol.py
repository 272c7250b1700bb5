"""
SFTP version 3 as implemented by OpenSSH: constants, and the values in packets.

See draft-ietf-secsh-filexfer-02, and the ``*@openssh.com`` extensions in OpenSSH's PROTOCOL file.
Names and paths are bytes, as on the server's disk.
"""

from __future__ import annotations

from typing import List, NamedTuple, Optional

__all__ = [
    "Attributes",
    "ServerLimits",
    "FolderEntry",
    "Pieces",
    "ProtocolError",
    "FreeSpace",
]

VERSION = 3

# Requests.
INIT, OPEN, CLOSE, READ, WRITE, LSTAT, FSTAT, SETSTAT, FSETSTAT = 1, 3, 4, 5, 6, 7, 8, 9, 10
OPENDIR, READDIR, REMOVE, MKDIR, RMDIR, REALPATH, STAT, RENAME = 11, 12, 13, 14, 15, 16, 17, 18
READLINK, SYMLINK, EXTENDED = 19, 20, 200

# Replies.
VERSION_REPLY, STATUS, HANDLE, DATA, NAME, ATTRS, EXTENDED_REPLY = 2, 101, 102, 103, 104, 105, 201

# Status codes.
OK, EOF, NO_SUCH_FILE, PERMISSION_DENIED, FAILURE, BAD_MESSAGE = 0, 1, 2, 3, 4, 5
OP_UNSUPPORTED = 8

# Flags of OPEN.
FOR_READING, FOR_WRITING, APPEND, CREATE, TRUNCATE, EXCLUSIVE = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20

# Extensions.
FSYNC = b"fsync@openssh.com"
POSIX_RENAME = b"posix-rename@openssh.com"
LIMITS = b"limits@openssh.com"
STATVFS = b"statvfs@openssh.com"
EXPAND_PATH = b"expand-path@openssh.com"

# Every server accepts 32 KiB of data; no server that we know accepts packets above 256 KiB.
SAFE_DATA_SIZE = 32 * 1024
MAX_DATA_SIZE = 255 * 1024
MAX_PACKET = 256 * 1024 + 1024

# Flags of attributes: which of them are present.
HAS_SIZE, HAS_OWNER, HAS_MODE, HAS_TIMES, HAS_EXTENDED = 1, 2, 4, 8, 0x80000000

Pieces = List[memoryview]


class ProtocolError(Exception):
    """The server violated the protocol."""


class Attributes(NamedTuple):
    """The attributes of a file, reported or to be set; None: absent."""

    size: Optional[int] = None
    uid: Optional[int] = None
    gid: Optional[int] = None
    mode: Optional[int] = None
    atime: Optional[int] = None
    mtime: Optional[int] = None


class FolderEntry(NamedTuple):
    """One entry of a folder, or one resolved path."""

    filename: bytes
    attributes: Attributes
    longname: bytes = b""  # a line like ``ls -l`` prints, for people; but see `links`

    @property
    def links(self) -> Optional[int]:
        """The number of hard links, which is missing from the attributes; None if unknown."""
        words = self.longname.split(None, 2)
        is_count = len(words) == 3 and len(words[1]) < 10 and words[1].isdigit()
        return int(words[1]) if is_count else None


class ServerLimits(NamedTuple):
    """The reply to ``limits@openssh.com``; 0: no limit, or not reported."""

    packet: int = 0
    read: int = 0
    write: int = 0
    handles: int = 0


class FreeSpace(NamedTuple):
    """The part of ``statvfs@openssh.com`` that explains why a write failed."""

    free_blocks: int
    has_inodes_left: bool  # also True if the file system has no fixed number of inodes
    read_only: bool
    block_size: int
