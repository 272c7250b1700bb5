"""
Whether two files are the same: by digests, of here and of there.

There, ``sha256sum`` tells where the server has a shell, and costs no line.  Where it has none, or
anything about it is odd, the file is read back: that always works.
"""

from __future__ import annotations

import hashlib
import re
from typing import Optional, Union

from ssh_service.copying.context import CopyContext
from ssh_service.copying.failures import checksum_mismatch_error
from ssh_service.copying.local.source_file import SourceFile
from ssh_service.copying.local.target_file import TargetFile
from ssh_service.copying.parts import move_parts
from ssh_service.copying.replies import parse_data
from ssh_service.copying.sftp import protocol
from ssh_service.copying.sftp.reply import Reply
from ssh_service.copying.shell_command import PRINT_READY_LINE
from ssh_service.copying.waiting import Budget

__all__ = ["digest_by_shell", "digest_by_reading", "matches_digest", "verify"]

# A smaller file is read back sooner than a shell starts.
_MIN_SIZE_FOR_SHELL = 1024 * 1024
# What every shell takes literally: for all other paths the file is read back.
_PLAIN_PATH = re.compile(rb"[A-Za-z0-9/._+@%,:=-]+")
_DIGEST = re.compile(rb"\b[0-9a-f]{64}\b")
# What is kept of a command's output.
_MAX_OUTPUT = 4096
# Bytes of one file that are read back at once.  Its own, as whoever asks may hold some of the
# copy's: if all of them waited for more, none would ever get it.
_MAX_BYTES_IN_FLIGHT = 4 * 1024 * 1024
# The line each second is the sign of life that a long silence would lack.
_COMMAND = (
    b"exec sh -c '" + PRINT_READY_LINE + b" head -c %d <%s | sha256sum & p=$!;"
    b" while kill -0 $p 2>/dev/null; do echo .; sleep 1; done; wait $p'"
)


async def verify(
    context: CopyContext, path: bytes, size: int, local_file: Union[SourceFile, TargetFile]
) -> None:
    """
    Compare a copy with its source, if that is wanted.

    Parameters
    ----------
    context : CopyContext
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
    if context.options.verify and not await matches_digest(
        context, path, size, local_file.digest(size)
    ):
        raise checksum_mismatch_error(local_file.path)


async def matches_digest(context: CopyContext, path: bytes, size: int, expected: bytes) -> bool:
    """
    Tell whether the first `size` bytes of a file on the server have a digest.

    Parameters
    ----------
    context : CopyContext
        The copy.
    path : bytes
        The file on the server.
    size : int
        How many bytes of it.
    expected : bytes
        The digest.
    """
    if size >= _MIN_SIZE_FOR_SHELL and await digest_by_shell(context, path, size) == expected:
        return True
    return await digest_by_reading(context, path, size) == expected


async def digest_by_shell(context: CopyContext, path: bytes, size: int) -> Optional[bytes]:
    """
    Ask the server's shell for the digest of the first `size` bytes of a file.

    Returns
    -------
    Optional[bytes]
        None where it cannot tell.  Another file than SFTP shows may have been looked at, so only
        a digest that is the one expected proves anything.
    """
    if not context.has_shell or not _PLAIN_PATH.fullmatch(path):
        return None
    if context.remote.facts.shell.is_missing:
        return None
    process = context.start_command(_COMMAND % (size, path))
    output = b""
    await process.wait_until_ready()
    while True:
        chunk = await process.read()
        if not chunk:
            break
        output = (output + chunk)[-_MAX_OUTPUT:]
    found = _DIGEST.search(output) if await process.end() == 0 else None
    if found is None:
        if not process.refused:
            context.remote.facts.shell.mark_missing()
        return None
    return bytes.fromhex(found.group().decode())


async def digest_by_reading(context: CopyContext, path: bytes, size: int) -> bytes:
    """Give the digest of the first `size` bytes of a file on the server, by reading it back."""
    remote, digest = context.remote, hashlib.sha256()
    handle = await remote.open(path, protocol.FOR_READING)

    def ask(offset: int, count: int) -> Reply:
        return remote.ask_read(handle, offset, count)

    def take(reply: Reply, offset: int, count: int) -> int:
        pieces = parse_data(reply, path, count)
        for piece in pieces:
            digest.update(piece)
        # At its end nothing comes: it is shorter than it should be, so the digests differ.
        return sum(map(len, pieces)) or count

    try:
        flow = Budget(context.pipeline, _MAX_BYTES_IN_FLIGHT)
        await move_parts(flow, remote.parts(0, size), ask, take, in_order=True)
    finally:
        remote.ask_close(handle)
    return digest.digest()
