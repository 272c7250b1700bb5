"""
Compares a local and a remote file by their digests.

The remote digest comes from ``sha256sum``, if the server has a shell; this transfers no data.
Otherwise, or if its output is not as expected, the file is read back, which always works.
"""

from __future__ import annotations

import hashlib
import re
from typing import Optional, Union

from ssh_service.copying.context import CopyContext
from ssh_service.copying.failures import checksum_mismatch_error
from ssh_service.copying.local.file_objects import SourceBytes
from ssh_service.copying.local.source_file import SourceFile
from ssh_service.copying.local.target_file import TargetFile
from ssh_service.copying.parts import move_parts
from ssh_service.copying.replies import parse_data
from ssh_service.copying.sftp import protocol
from ssh_service.copying.sftp.reply import Reply
from ssh_service.copying.shell_command import PRINT_READY_LINE
from ssh_service.copying.waiting import Budget

__all__ = ["digest_by_shell", "digest_by_reading", "matches_digest", "verify"]

# Smaller files are read back, which is faster than starting a shell.
_MIN_SIZE_FOR_SHELL = 1024 * 1024
# Paths without special meaning in any shell; files with other paths are read back.
_PLAIN_PATH = re.compile(rb"[A-Za-z0-9/._+@%,:=-]+")
_DIGEST = re.compile(rb"\b[0-9a-f]{64}\b")
# The maximum size of a command's output that is kept, in bytes.
_MAX_OUTPUT = 4096
# How much of one file is read back at once, in bytes.  This is not acquired from the copy's
# budget, of which the caller may hold a part: if all tasks waited for more, they would deadlock.
_MAX_BYTES_IN_FLIGHT = 4 * 1024 * 1024
# A line per second shows progress, so that a long computation does not count as a stall.
_COMMAND = (
    b"exec sh -c '" + PRINT_READY_LINE + b" head -c %d <%s | sha256sum & p=$!;"
    b" while kill -0 $p 2>/dev/null; do echo .; sleep 1; done; wait $p'"
)


async def verify(
    context: CopyContext,
    path: bytes,
    size: int,
    local_file: Union[SourceFile, SourceBytes, TargetFile],
) -> None:
    """
    Compare a copy with its source, for ``verify=True``.

    Raises
    ------
    SshTransferError
        The two differ.
    """
    if context.options.verify and not await matches_digest(
        context, path, size, local_file.digest(size)
    ):
        raise checksum_mismatch_error(local_file.path)


async def matches_digest(context: CopyContext, path: bytes, size: int, expected: bytes) -> bool:
    """Return whether the first `size` bytes of a remote file have the digest `expected`."""
    if size >= _MIN_SIZE_FOR_SHELL and await digest_by_shell(context, path, size) == expected:
        return True
    return await digest_by_reading(context, path, size) == expected


async def digest_by_shell(context: CopyContext, path: bytes, size: int) -> Optional[bytes]:
    """
    Return the digest of the first `size` bytes of a remote file, computed by the server's shell.

    Returns None if that fails.  The shell may see another file than SFTP does, so a digest proves
    something only if it is the expected one.
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
    """Return the digest of the first `size` bytes of a remote file, by reading it back."""
    remote, digest = context.remote, hashlib.sha256()
    handle = await remote.open(path, protocol.FOR_READING)

    def ask(offset: int, count: int) -> Reply:
        return remote.ask_read(handle, offset, count)

    def take(reply: Reply, offset: int, count: int) -> int:
        pieces = parse_data(reply, path, count)
        for piece in pieces:
            digest.update(piece)
        # No data: the file is shorter than expected, so the digests will differ.
        return sum(map(len, pieces)) or count

    try:
        flow = Budget(context.pipeline, _MAX_BYTES_IN_FLIGHT)
        await move_parts(flow, remote.parts(0, size), ask, take, in_order=True)
    finally:
        remote.ask_close(handle)
    return digest.digest()
