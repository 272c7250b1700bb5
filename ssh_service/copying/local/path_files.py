"""
A substitute for `os` where folders cannot be opened: Windows.

It has the functions and flags that copies use, with the parameters that they have in `os`.  The
"descriptor" of a folder is a number that stands for its path.  So a folder that is exchanged
between two calls is not noticed, as it is where folders have descriptors; and a file's mode is
that of Windows, which has none.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import stat as stat_
import sys
from os import O_CREAT, O_EXCL, O_RDONLY, O_RDWR, O_WRONLY
from typing import Any, Dict, Iterator, List, Optional, Tuple

from ssh_service.copying.paths import join, with_slashes

__all__ = [
    "O_CREAT",
    "O_DIRECTORY",
    "O_EXCL",
    "O_NOFOLLOW",
    "O_NONBLOCK",
    "O_RDONLY",
    "O_RDWR",
    "O_WRONLY",
    "close",
    "comparable",
    "dup",
    "fchmod",
    "fchown",
    "fstat",
    "fsync",
    "geteuid",
    "is_usable",
    "listdir",
    "mkdir",
    "open",
    "readlink",
    "rename",
    "rmdir",
    "scandir",
    "set_blocking",
    "stat",
    "symlink",
    "unlink",
    "utime",
]

O_DIRECTORY = getattr(os, "O_DIRECTORY", 1 << 28)
O_NOFOLLOW = getattr(os, "O_NOFOLLOW", 1 << 29)
O_NONBLOCK = 0

# Junctions lead elsewhere, as symbolic links do.
_LINK_TAGS = (0xA000000C, 0xA0000003)
_ILLEGAL = frozenset(b'<>:"/\\|?*' + bytes(range(32)))
_DEVICES = frozenset(
    [b"con", b"prn", b"aux", b"nul", b"conin$", b"conout$"]
    # Windows takes a raised digit for a digit.
    + [
        (name + digit).encode()
        for name in ("com", "lpt")
        for digit in "0123456789\u00b9\u00b2\u00b3"
    ]
)

# The paths of folders by their numbers, which no real descriptor has.
_folders: Dict[int, bytes] = {}
_numbers = itertools.count(1 << 30)

if sys.platform == "win32":
    from ssh_service.copying.local.windows_handles import open_file as _open_file
    from ssh_service.copying.local.windows_handles import set_times as _set_times
else:

    def _open_file(path: bytes, flags: int) -> int:
        return os.open(path, flags, 0o600)

    def _set_times(fd: int, times: Tuple[float, float]) -> None:
        os.utime(fd, times)


def is_usable(name: bytes) -> bool:
    """Return whether a file can have a name, and nothing else is meant by it."""
    try:
        name.decode("utf-8")
    except UnicodeDecodeError:
        return False
    if _ILLEGAL.intersection(name) or name[-1:] in (b"", b" ", b"."):
        return False
    return name.partition(b".")[0].rstrip(b" ").lower() not in _DEVICES


def comparable(name: bytes) -> bytes:
    """Return what is equal for two names of one file, as case does not matter."""
    return name.decode("utf-8", "surrogateescape").lower().encode("utf-8", "surrogateescape")


def _path(name: bytes, dir_fd: Optional[int]) -> bytes:
    if dir_fd is None:
        return name
    if name == b".":
        return _folder(dir_fd)
    if not is_usable(name):
        raise OSError(errno.EINVAL, "a file cannot have this name on Windows", name)
    return join(_folder(dir_fd), name)


def _folder(fd: int) -> bytes:
    try:
        return _folders[fd]
    except KeyError:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF)) from None


def _is_link(status: os.stat_result) -> bool:
    return stat_.S_ISLNK(status.st_mode) or getattr(status, "st_reparse_tag", 0) in _LINK_TAGS


def _refuse_link(path: bytes) -> None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if _is_link(found):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)


def open(path: bytes, flags: int, mode: int = 0o777, *, dir_fd: Optional[int] = None) -> int:
    """Open a file, or a folder with `O_DIRECTORY`."""
    path = _path(path, dir_fd)
    if flags & O_NOFOLLOW:
        _refuse_link(path)
    if not flags & O_DIRECTORY:
        return _open_file(path, flags & ~O_NOFOLLOW)
    found = os.stat(path)
    if not stat_.S_ISDIR(found.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
    number = next(_numbers)
    _folders[number] = os.path.abspath(path)
    return number


def dup(fd: int) -> int:
    """Duplicate a folder's descriptor."""
    number = next(_numbers)
    _folders[number] = _folder(fd)
    return number


def close(fd: int) -> None:
    """Close a file or folder."""
    if _folders.pop(fd, None) is None:
        os.close(fd)


def stat(
    path: bytes, *, dir_fd: Optional[int] = None, follow_symlinks: bool = True
) -> os.stat_result:
    """Return the status of an entry."""
    return os.stat(_path(path, dir_fd), follow_symlinks=follow_symlinks)


def fstat(fd: int) -> os.stat_result:
    """Return the status of an open file or folder."""
    return os.stat(_folders[fd]) if fd in _folders else os.fstat(fd)


def fsync(fd: int) -> None:
    """Flush a file; folders need no flush."""
    if fd not in _folders:
        os.fsync(fd)


def fchmod(fd: int, mode: int) -> None:
    """Do nothing: there are no modes."""


def fchown(fd: int, uid: int, gid: int) -> None:
    """Do nothing: all files seem to have one owner."""


def utime(
    fd: int,
    times: Optional[Tuple[float, float]] = None,
    *,
    ns: Optional[Tuple[int, int]] = None,
) -> None:
    """Set the times of access and of the last change."""
    if times is None:
        times = (0.0, 0.0) if ns is None else (ns[0] / 1e9, ns[1] / 1e9)
    if fd in _folders:
        os.utime(_folders[fd], times)
    else:
        _set_times(fd, times)


def geteuid() -> int:
    """Return the uid that `stat` reports for all files."""
    return 0


def set_blocking(fd: int, blocking: bool) -> None:
    """Do nothing: files are never opened as non-blocking."""


def listdir(fd: int) -> List[str]:
    """Return the names in a folder."""
    return os.listdir(os.fsdecode(_folder(fd)))


class _CompleteEntry:
    """An entry of a folder, whose status is complete, unlike that of `os.DirEntry` on Windows."""

    def __init__(self, entry: "os.DirEntry[Any]") -> None:
        self._entry = entry
        self.name = entry.name

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        return os.stat(self._entry.path, follow_symlinks=follow_symlinks)

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        return self._entry.is_dir(follow_symlinks=follow_symlinks)

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        return self._entry.is_file(follow_symlinks=follow_symlinks)

    def is_symlink(self) -> bool:
        return _is_link(self._entry.stat(follow_symlinks=False))


@contextlib.contextmanager
def scandir(folder: Any) -> Iterator[Iterator[Any]]:
    """List a folder: names are text for a descriptor, and bytes for a path."""
    path = os.fsdecode(_folder(folder)) if isinstance(folder, int) else folder
    with os.scandir(path) as entries:
        yield map(_CompleteEntry, entries)


def mkdir(path: bytes, mode: int = 0o777, *, dir_fd: Optional[int] = None) -> None:
    """Create a folder."""
    os.mkdir(_path(path, dir_fd), mode)


def rmdir(path: bytes, *, dir_fd: Optional[int] = None) -> None:
    """Remove an empty folder."""
    os.rmdir(_path(path, dir_fd))


def unlink(path: bytes, *, dir_fd: Optional[int] = None) -> None:
    """Remove a file or link."""
    os.unlink(_path(path, dir_fd))


def rename(
    src: bytes, dst: bytes, *, src_dir_fd: Optional[int] = None, dst_dir_fd: Optional[int] = None
) -> None:
    """Rename an entry; a file at the new name is replaced."""
    os.replace(_path(src, src_dir_fd), _path(dst, dst_dir_fd))


def symlink(src: bytes, dst: bytes, *, dir_fd: Optional[int] = None) -> None:
    """Create a symbolic link, which Windows allows to some users only."""
    os.symlink(src, _path(dst, dir_fd))


def readlink(path: bytes, *, dir_fd: Optional[int] = None) -> bytes:
    """Return the target of a symbolic link."""
    return with_slashes(os.readlink(_path(path, dir_fd)))
