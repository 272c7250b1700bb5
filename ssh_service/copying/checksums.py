"""
Whether two files are the same: by digests, of here and of there.

There, ``sha256sum`` tells where the server has a shell, and costs no line.  Where it has none, or
anything about it is odd, the file is read back: that always works.
"""

from __future__ import annotations

import hashlib
import re
from typing import Optional, Union

from ssh_service.copying.context import Job
from ssh_service.copying.failures import not_the_same
from ssh_service.copying.local.source_file import SourceFile
from ssh_service.copying.local.target_file import TargetFile
from ssh_service.copying.parts import move_parts
from ssh_service.copying.remote_files import data_in
from ssh_service.copying.sftp import protocol
from ssh_service.copying.sftp.reply import Reply
from ssh_service.copying.shell_command import SAY_GREETING
from ssh_service.copying.waiting import Budget

__all__ = ["digest_by_shell", "digest_there", "is_same", "verify"]

# A smaller file is read back sooner than a shell starts.
_WORTH_A_SHELL = 1024 * 1024
# What every shell takes literally: for all other paths the file is read back.
_PLAIN_PATH = re.compile(rb"[A-Za-z0-9/._+@%,:=-]+")
_DIGEST = re.compile(rb"\b[0-9a-f]{64}\b")
# What is kept of a command's output.
_MOST_OUTPUT = 4096
# Bytes of one file that are read back at once.  Its own, as whoever asks may hold some of the
# copy's: if all of them waited for more, none would ever get it.
_BYTES_AT_ONCE = 4 * 1024 * 1024
# The line each second is the sign of life that a long silence would lack.
_COMMAND = (
    b"exec sh -c '" + SAY_GREETING + b" head -c %d <%s | sha256sum & p=$!;"
    b" while kill -0 $p 2>/dev/null; do echo .; sleep 1; done; wait $p'"
)


async def verify(job: Job, path: bytes, size: int, here: Union[SourceFile, TargetFile]) -> None:
    """
    Compare a copy with its source, if that is wanted.

    Parameters
    ----------
    job : Job
        The copy.
    path : bytes
        The file on the server.
    size : int
        How many bytes it should have.
    here : Union[SourceFile, TargetFile]
        The local file.

    Raises
    ------
    SshTransferError
        They are not the same.
    """
    if job.options.verify and not await is_same(job, path, size, here.digest(size)):
        raise not_the_same(here.path)


async def is_same(job: Job, path: bytes, size: int, expected: bytes) -> bool:
    """
    Tell whether the first `size` bytes of a file on the server have a digest.

    Parameters
    ----------
    job : Job
        The copy.
    path : bytes
        The file on the server.
    size : int
        How many bytes of it.
    expected : bytes
        The digest.
    """
    if size >= _WORTH_A_SHELL and await digest_by_shell(job, path, size) == expected:
        return True
    return await digest_there(job, path, size) == expected


async def digest_by_shell(job: Job, path: bytes, size: int) -> Optional[bytes]:
    """
    Ask the server's shell for the digest of the first `size` bytes of a file.

    Returns
    -------
    Optional[bytes]
        None where it cannot tell.  Another file than SFTP shows may have been looked at, so only
        a digest that is the one expected proves anything.
    """
    if not job.has_shell or not _PLAIN_PATH.fullmatch(path):
        return None
    if job.remote.lacks("shell"):
        return None
    process = job.start_command(_COMMAND % (size, path))
    output = b""
    await process.is_greeted()
    while True:
        chunk = await process.read()
        if not chunk:
            break
        output = (output + chunk)[-_MOST_OUTPUT:]
    found = _DIGEST.search(output) if await process.end() == 0 else None
    if found is None:
        if not process.refused:
            job.remote.note_lack("shell")
        return None
    return bytes.fromhex(found.group().decode())


async def digest_there(job: Job, path: bytes, size: int) -> bytes:
    """Give the digest of the first `size` bytes of a file on the server, by reading it back."""
    remote, digest = job.remote, hashlib.sha256()
    handle = await remote.open(path, protocol.FOR_READING)

    def ask(offset: int, count: int) -> Reply:
        return remote.ask_read(handle, offset, count)

    def take(reply: Reply, offset: int, count: int) -> int:
        pieces = data_in(reply, path, count)
        for piece in pieces:
            digest.update(piece)
        # At its end nothing comes: it is shorter than it should be, so the digests differ.
        return sum(map(len, pieces)) or count

    try:
        flow = Budget(job.pipeline, _BYTES_AT_ONCE)
        await move_parts(flow, remote.parts(0, size), ask, take, in_order=True)
    finally:
        remote.ask_close(handle)
    return digest.digest()
