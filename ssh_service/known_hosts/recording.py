"""Writing down a host key that is believed for the first time, beside others who do so too."""

from __future__ import annotations

import base64
import contextlib
import os
import time
from typing import Callable, Iterator

from ssh_service.errors import SshConfigError, SshServiceError

if os.name == "posix":
    import fcntl

__all__ = ["record"]

_LOCK_LIMIT = 10.0
"""Seconds for which somebody else may hold a file's lock."""


def record(
    path: str, name: str, key_type: str, blob: bytes, still_new: Callable[[], bool]
) -> None:
    """
    Append a line to a known_hosts file, unless somebody else was faster.

    The file is locked meanwhile, and the line is written in one piece at its end: owner, mode,
    links and all other lines stay as they are.

    Parameters
    ----------
    path : str
        The file; it is made (mode 0600), and its folder too (0700), where they do not exist.
    name : str
        The host, as a known_hosts file has it, perhaps hashed.
    key_type : str
        Such as ``ssh-ed25519``.
    blob : bytes
        The public key in wire format.
    still_new : Callable[[], bool]
        Asked under the lock; False: there is nothing left to write.  May raise.

    Raises
    ------
    SshConfigError
        The file cannot be written.
    """
    line = f"{name} {key_type} {base64.b64encode(blob).decode('ascii')}\n".encode(
        "utf-8", "surrogateescape"
    )
    try:
        os.makedirs(os.path.dirname(path) or ".", mode=0o700, exist_ok=True)
        with _locked(path) as descriptor:
            if not still_new():
                return
            written = os.write(descriptor, _separator(descriptor) + line)
            if written < len(line):
                raise OSError(f"only {written} bytes could be written")
    except SshServiceError:  # a judgement of `still_new`, which is an OSError too
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise SshConfigError(f"known_hosts {path!r} cannot be written: {reason}") from error


@contextlib.contextmanager
def _locked(path: str) -> Iterator[int]:
    deadline = time.monotonic() + _LOCK_LIMIT
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            _lock(descriptor, deadline)
            # ssh-keygen -R replaces the file: then the one we locked is nobody's any more.
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
                raise OSError(f"somebody has kept it locked for {_LOCK_LIMIT:g} s") from None
            time.sleep(0.01)  # flock(2) has no time-out


def _separator(descriptor: int) -> bytes:
    """Return what must stand before a new line: a newline where the last one lacks its own."""
    size = os.fstat(descriptor).st_size
    if size == 0 or os.pread(descriptor, 1, size - 1) == b"\n":
        return b""
    return b"\n"
