"""What local files have, read or written: attributes, and a digest."""

from __future__ import annotations

import hashlib
import os
import stat

from ssh_service.copying.sftp.protocol import Attributes

__all__ = ["attributes_of", "current_umask", "digest_of", "set_attributes"]

_PIECE = 256 * 1024


def attributes_of(status: os.stat_result) -> Attributes:
    """Give the attributes a copy shall have."""
    return Attributes(
        mode=stat.S_IMODE(status.st_mode),
        atime=int(status.st_atime),
        mtime=int(status.st_mtime),
    )


def current_umask() -> int:
    """Tell this process's umask."""
    try:
        with open("/proc/self/status", "rb") as file:
            for line in file:
                if line.startswith(b"Umask:"):
                    return int(line.split()[1], 8)
    except (OSError, ValueError, IndexError):
        pass
    # It can only be read by setting it: for a moment, other threads' files are private.
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


def set_attributes(fd: int, attributes: Attributes) -> None:
    """Set mode and times of an open file or folder; what is None is left alone."""
    if attributes.mode is not None:
        os.fchmod(fd, stat.S_IMODE(attributes.mode))
    if attributes.atime is not None and attributes.mtime is not None:
        os.utime(fd, (attributes.atime, attributes.mtime))


def digest_of(fd: int, size: int) -> bytes:
    """Give the digest of the first `size` bytes of an open file."""
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
