"""Where the user's own files are, what is in them, and whether one of them has changed."""

from __future__ import annotations

import errno
import os
import select
import stat
import sys
import time
from typing import Dict, List, Optional, Tuple

from ssh_service import local_paths

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

__all__ = [
    "default_agent",
    "expand_home",
    "file_version",
    "home",
    "lock",
    "read_file",
    "system_folder",
]

# Where the agent of OpenSSH for Windows listens.
_AGENT_PIPE = "\\\\.\\pipe\\openssh-ssh-agent"
# The byte that stands for the file in Windows' locks, which also keep others from reading it.
_LOCKED_BYTE = 0x7FFFFFF0

# Seconds within which somebody must write to a pipe.
_WRITER_TIMEOUT = 0.5
# Seconds for which a pipe's writer may write nothing.
_SILENCE_TIMEOUT = 30.0
# How many pipes' contents are kept.
_MAX_PIPES = 64
# By device and inode: the content of a pipe, and its version after it was read.
_pipes: Dict[Tuple[int, int], Tuple[Tuple[int, ...], bytes]] = {}


def home() -> str:
    """Return the home directory of the user this process runs as."""
    given = os.environ.get("HOME")
    if os.name != "posix":
        return os.path.expanduser("~")
    if given:
        return given.rstrip("/") or "/"
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_dir or "/"
    except KeyError:  # a user without an entry, as in some containers
        return "/"


def system_folder() -> str:
    """Return the folder of OpenSSH's files for all users."""
    if os.name != "nt":
        return "/etc/ssh"
    return os.path.join(os.environ.get("PROGRAMDATA") or "C:\\ProgramData", "ssh")


def default_agent() -> Optional[str]:
    """Return where the user's SSH agent listens; None: there is none."""
    given = os.environ.get("SSH_AUTH_SOCK")
    if not given and os.name == "nt" and local_paths.exists(_AGENT_PIPE):
        return _AGENT_PIPE
    return given or None


def expand_home(path: str) -> str:
    """Replace ``~`` and ``~user`` at the start of a path."""
    if path == "~" or path.startswith("~/"):
        return home().rstrip("/") + path[1:] or "/"
    return os.path.expanduser(path)


def file_version(facts: os.stat_result) -> Tuple[int, ...]:
    """Return what changes whenever a file is replaced or written to."""
    return (
        facts.st_dev,
        facts.st_ino,
        facts.st_size,
        facts.st_mtime_ns,
        facts.st_ctime_ns,
    )


def read_file(path: str) -> bytes:
    """
    Read a regular file, a pipe or ``/dev/null``.

    A pipe gives its content once: it is kept, for all threads, until somebody writes again.

    Raises
    ------
    OSError
        It cannot be read; `strerror` says why.

    """
    with open(path, "rb", opener=_open_nonblocking) as file:
        facts = os.fstat(file.fileno())
        if stat.S_ISFIFO(facts.st_mode):
            return _read_pipe(file.fileno())
        if not stat.S_ISREG(facts.st_mode) and not _is_null(facts):
            raise OSError(errno.EINVAL, "it is not a regular file, a pipe or /dev/null")
        return file.read()


def _open_nonblocking(path: str, flags: int) -> int:
    """Open a file; without `O_NONBLOCK`, a pipe would block until there is a writer."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _is_null(facts: os.stat_result) -> bool:
    null = os.stat(os.devnull)
    device = getattr(facts, "st_rdev", 0)  # Windows has none
    return stat.S_ISCHR(facts.st_mode) and device == getattr(null, "st_rdev", 0)


def _read_pipe(descriptor: int) -> bytes:
    # Otherwise two threads would get a part each.
    if not lock(descriptor, time.monotonic() + _SILENCE_TIMEOUT):
        raise OSError(errno.EAGAIN, "another reader keeps the pipe locked")
    facts = os.fstat(descriptor)
    where = (facts.st_dev, facts.st_ino)
    version, content = _pipes.get(where, ((), b""))
    if version != file_version(facts):
        content = _read_to_end(descriptor)
        if len(_pipes) >= _MAX_PIPES:
            _pipes.clear()
        _pipes[where] = (file_version(os.fstat(descriptor)), content)
    return content


def lock(descriptor: int, deadline: float) -> bool:
    """
    Lock an open file; return False if it stays locked until the monotonic `deadline`.

    The position of the descriptor may change.
    """
    while not _try_lock(descriptor):
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.01)  # flock(2) has no timeout
    return True


if sys.platform == "win32":

    def _try_lock(descriptor: int) -> bool:
        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            if error.errno in (errno.EBADF, errno.EINVAL):
                raise
            return False  # by release, "permission denied", "deadlock" or no reason
        return True

else:

    def _try_lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def _read_to_end(descriptor: int) -> bytes:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    parts: List[bytes] = []
    has_writer = has_waited = False
    while True:
        try:
            part = os.read(descriptor, 1 << 16)
        except BlockingIOError:
            has_writer = True
            if not poll.poll(_SILENCE_TIMEOUT * 1000):
                text = f"it is a pipe whose writer wrote nothing for {_SILENCE_TIMEOUT:g} s"
                raise OSError(errno.ETIMEDOUT, text) from None
            continue
        if part:
            parts.append(part)
        elif parts or has_writer:
            return b"".join(parts)
        elif has_waited:
            text = "it is a pipe to which nobody writes, or whose content another process has read"
            raise OSError(errno.ENXIO, text)
        else:  # no writer, or not yet; `poll` also notices one that comes and goes
            has_writer, has_waited = bool(poll.poll(_WRITER_TIMEOUT * 1000)), True
