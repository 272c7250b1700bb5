"""Appends a newly accepted host key to a file, safely with other processes that do so."""

from __future__ import annotations

import base64
import contextlib
import os
import stat
import time
from typing import Callable, Iterator, Optional

from ssh_service.errors import SshConfigError, SshServiceError

if os.name == "posix":
    import fcntl

__all__ = ["record"]

_LOCK_TIMEOUT = 10.0
"""Seconds after which a lock is given up that somebody else holds."""


class _Locked(Exception):
    """Somebody else holds the lock, and anybody who may read the file can."""


def record(
    path: str,
    name: str,
    key_type: str,
    blob: bytes,
    still_new: Callable[[], bool],
    deadline: Optional[float] = None,
) -> Optional[str]:
    """
    Append a line to a known_hosts file, unless another process was faster.

    The file is locked meanwhile, and the line is written in one piece at its end: owner, mode,
    links and all other lines stay as they are.

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
            written = os.write(descriptor, _separator(descriptor) + line)
            if written < len(line):
                raise OSError(f"only {written} bytes could be written")
            return None
    except _Locked:
        return "somebody keeps it locked" if still_new() else None
    except SshServiceError:  # a judgement of `still_new`, which is an OSError too
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise SshConfigError(f"known_hosts {path!r} cannot be written: {reason}") from error


def _is_special(path: str) -> bool:
    """Return whether it is a device or pipe: /dev/null keeps nothing, and anyone can lock it."""
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
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            _lock(descriptor, deadline)
            # ssh-keygen -R replaces the file: then we have locked one that no longer has a name.
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                yield descriptor
                return
        finally:
            os.close(descriptor)  # and with it the lock


def _lock(descriptor: int, deadline: float) -> None:
    if os.name != "posix":
        return
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise _Locked from None
            time.sleep(0.01)  # flock(2) has no time-out


def _separator(descriptor: int) -> bytes:
    """Return what must stand before a new line: a newline where the last one lacks its own."""
    size = os.fstat(descriptor).st_size
    if size == 0 or os.pread(descriptor, 1, size - 1) == b"\n":
        return b""
    return b"\n"
