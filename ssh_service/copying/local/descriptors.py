"""Open local files: their descriptors, attributes and digests."""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import stat
import time
from collections import deque
from typing import List, Optional

from ssh_service.copying.local.positions import read_at
from ssh_service.copying.local.system import HAS_MODES, files
from ssh_service.copying.sftp.protocol import Attributes

__all__ = ["Descriptor", "attributes_of", "current_umask", "digest_of", "set_attributes"]

_CHUNK_SIZE = 256 * 1024
_CLOEXEC = getattr(os, "O_CLOEXEC", 0)
# SFTP times are unsigned, so those before 1970 arrive as times of the next century.
_TIMES, _HALF_A_CENTURY = 2**32, 50 * 365 * 24 * 3600


class Descriptor:
    """
    The descriptor of an open file or folder, which no exception can leak.

    A signal handler may raise between any two steps of the interpreter, such as the system call
    and the assignment of its result.  Here, both are a single step.
    """

    def __init__(self) -> None:
        self._open: List[int] = []

    def __del__(self) -> None:
        if getattr(self, "_open", None):  # no attribute if __init__ was interrupted
            self.close()

    @property
    def fd(self) -> int:
        """The descriptor; -1 when closed."""
        return self._open[0] if self._open else -1

    def open(
        self, path: bytes, flags: int, mode: int = 0o600, dir_fd: Optional[int] = None
    ) -> None:
        """Open a file or folder, like `os.open`."""
        opening = functools.partial(files.open, flags=flags | _CLOEXEC, mode=mode, dir_fd=dir_fd)
        self._open.extend(map(opening, [path]))

    def duplicate(self, fd: int) -> None:
        """Duplicate the descriptor `fd`."""
        self._open.extend(map(files.dup, [fd]))

    def close(self) -> None:
        """Close the descriptor; may be called more than once."""
        deque(map(files.close, map(list.pop, [self._open] * len(self._open))), maxlen=0)


def _time(seconds: int) -> int:
    is_early = time.time() + _HALF_A_CENTURY < seconds < _TIMES
    return seconds - _TIMES if is_early else seconds


def attributes_of(status: os.stat_result) -> Attributes:
    """Return the mode and times for the copy of a local file."""
    return Attributes(
        mode=stat.S_IMODE(status.st_mode) if HAS_MODES else None,
        atime=int(status.st_atime),
        mtime=int(status.st_mtime),
    )


def current_umask() -> int:
    """Return the umask of this process."""
    try:
        with open("/proc/self/status", "rb") as file:
            fields = dict(line.split(b":", 1) for line in file)
        return int(fields[b"Umask"], 8)
    except (OSError, ValueError, KeyError):
        pass
    # On other systems, the umask can only be read by setting it; until it is restored, other
    # threads create private files.
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


def set_attributes(fd: int, attributes: Attributes) -> Optional[OSError]:
    """Set the mode and times of an open file or folder, unless None; return any refusal."""
    refused: Optional[OSError] = None
    if attributes.mode is not None:
        try:
            files.fchmod(fd, attributes.mode & 0o777)
        except OSError as error:
            refused = error
    if attributes.atime is not None and attributes.mtime is not None:
        try:
            files.utime(fd, (_time(attributes.atime), _time(attributes.mtime)))
        except (OSError, OverflowError) as error:
            refused = error if isinstance(error, OSError) else OSError(str(error))
    if refused is not None and refused.errno == errno.EBADF:  # opened by O_PATH
        return PermissionError(errno.EACCES, "the folder cannot be opened for reading")
    return refused


def digest_of(fd: int, size: int) -> bytes:
    """Return the digest of the first `size` bytes of an open file."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_CHUNK_SIZE))
    offset = 0
    while offset < size:
        count = read_at(fd, buffer[: min(_CHUNK_SIZE, size - offset)], offset)
        if not count:
            break
        digest.update(buffer[:count])
        offset += count
    return digest.digest()
