"""Appends newly accepted host keys to a file, with a lock against other processes."""

from __future__ import annotations

import base64
import contextlib
import os
import stat
import time
from typing import Callable, Iterator, Optional

from ssh_service.errors import SshConfigError, SshServiceError
from ssh_service.user_files import lock

__all__ = ["record"]

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
_LOCK_TIMEOUT = 10.0
"""Seconds to wait for a lock that another process holds."""


class _Locked(Exception):
    """Another process holds the lock; any process that may read the file can hold it."""


def record(
    path: str,
    name: str,
    key_type: str,
    blob: bytes,
    still_new: Callable[[], bool],
    deadline: Optional[float] = None,
) -> Optional[str]:
    """
    Append a line to a known_hosts file, unless another process has recorded the host meanwhile.

    The file is locked, and the line is appended with a single write: owner, mode, links and all
    other lines are preserved.  If the disk is full, no part of the line is left.

    Raises
    ------
    SshConfigError
        The file cannot be written.
    """
    if _is_special(path):
        return "it is not a regular file"
    line = f"{name} {key_type} {base64.b64encode(blob).decode('ascii')}\n".encode(
        "utf-8", "surrogateescape"
    )
    try:
        os.makedirs(os.path.dirname(path) or ".", mode=0o700, exist_ok=True)
        with _locked(path, _lock_deadline(deadline)) as descriptor:
            if not still_new():
                return None
            _append(descriptor, _separator(descriptor) + line)
            return None
    except _Locked:
        return "somebody keeps it locked" if still_new() else None
    except SshServiceError:  # raised by `still_new`; it is also an OSError
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise SshConfigError(f"known_hosts {path!r} cannot be written: {reason}") from error


def _is_special(path: str) -> bool:
    """Return whether it is a device or pipe: /dev/null stores nothing, and anyone can lock it."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _lock_deadline(deadline: Optional[float]) -> float:
    now = time.monotonic()
    return now + (_LOCK_TIMEOUT if deadline is None else min(_LOCK_TIMEOUT, (deadline - now) / 2))


@contextlib.contextmanager
def _locked(path: str, deadline: float) -> Iterator[int]:
    while True:
        descriptor = os.open(path, _FLAGS, 0o600)
        try:
            _lock(descriptor, deadline)
            # ssh-keygen -R replaces the file: in that case, we have locked a file without a name.
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                yield descriptor
                return
        finally:
            os.close(descriptor)  # this also releases the lock


def _append(descriptor: int, data: bytes) -> None:
    """Write all of `data`, or nothing: a part of a key could count as another key."""
    start = os.fstat(descriptor).st_size
    is_whole = False
    try:
        _write_all(descriptor, data)
        is_whole = True
    finally:
        if not is_whole:
            _take_back(descriptor, start, data)


def _write_all(descriptor: int, data: bytes) -> None:
    while data:  # a second write gives the reason if the first one is short
        data = data[os.write(descriptor, data) :]


def _take_back(descriptor: int, start: int, data: bytes) -> None:
    """Remove what was written, unless ssh, which takes no lock, has appended to the file too."""
    os.lseek(descriptor, start, os.SEEK_SET)
    found = os.read(descriptor, len(data) + 1)
    if found and data.startswith(found):
        os.ftruncate(descriptor, start)


def _separator(descriptor: int) -> bytes:
    """Return a newline if the file's last line does not end with one, else nothing."""
    size = os.fstat(descriptor).st_size
    if size == 0:
        return b""
    os.lseek(descriptor, size - 1, os.SEEK_SET)  # where `O_APPEND` writes does not depend on it
    return b"" if os.read(descriptor, 1) == b"\n" else b"\n"


def _lock(descriptor: int, deadline: float) -> None:
    if not lock(descriptor, deadline):
        raise _Locked
