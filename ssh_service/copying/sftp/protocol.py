"""
The SFTP protocol, version 3: its numbers, and the values that travel.

What OpenSSH speaks (draft-ietf-secsh-filexfer-02 and the ``*@openssh.com`` extensions of its
PROTOCOL file).  Names and paths are bytes, as on the server's disk.
"""

from __future__ import annotations

from typing import List, NamedTuple, Optional, Union

__all__ = [
    "Attributes",
    "Buffer",
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
MAX_DATA_SIZE = 255 * 1024
MAX_PACKET = 256 * 1024 + 1024

# What a packet of attributes says of itself: which of them follow.
HAS_SIZE, HAS_OWNER, HAS_MODE, HAS_TIMES, HAS_EXTENDED = 1, 2, 4, 8, 0x80000000

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


class FolderEntry(NamedTuple):
    """One entry of a folder, or one resolved path."""

    filename: bytes
    attributes: Attributes
    longname: bytes = b""  # as ``ls -l`` would show it: for people, but see `links`

    @property
    def links(self) -> Optional[int]:
        """How many names the file has, which attributes lack; None where it is not shown."""
        words = self.longname.split(None, 2)
        is_count = len(words) == 3 and len(words[1]) < 10 and words[1].isdigit()
        return int(words[1]) if is_count else None


class ServerLimits(NamedTuple):
    """What ``limits@openssh.com`` tells; 0 where the server has no limit or does not say."""

    packet: int = 0
    read: int = 0
    write: int = 0
    handles: int = 0


class FreeSpace(NamedTuple):
    """The part of ``statvfs@openssh.com`` that says why a write failed."""

    free_blocks: int
    free_files: int
    read_only: bool
    block_size: int
