"""Reads and writes files of a server as a whole."""

from __future__ import annotations

import stat
from typing import List, Optional, Tuple

from ssh_service.copying.context import CopyContext
from ssh_service.copying.failures import not_a_file_error
from ssh_service.copying.local.descriptors import Descriptor
from ssh_service.copying.local.source_file import SourceFile
from ssh_service.copying.parts import move_parts
from ssh_service.copying.paths import folder_of
from ssh_service.copying.replies import is_file, parse_data
from ssh_service.copying.sftp import protocol
from ssh_service.copying.sftp.protocol import Attributes
from ssh_service.copying.sftp.reply import Reply
from ssh_service.copying.stale_files import StaleFiles
from ssh_service.copying.upload_file import FileUpload

__all__ = ["check_openable", "read_range", "read_whole", "write_whole"]


def check_openable(found: Attributes, path: bytes) -> None:
    """Refuse what is neither a file nor a device: opening a FIFO would block the server."""
    if not is_file(found) and not stat.S_ISCHR(found.mode or 0):
        raise not_a_file_error(path, found.mode or 0, "remote")


async def read_whole(context: CopyContext, path: bytes) -> bytes:
    """Return the content of a file."""
    found = await context.remote.stat(path)
    check_openable(found, path)
    await context.file_budget.acquire()
    try:
        handle = await context.remote.open(path, protocol.FOR_READING)
        try:
            size = found.size or 0
            # One byte more than reported shows whether that is the end.
            data = await _read_parts(context, handle, path, 0, size + 1)
            if len(data) <= size:
                return data
            return data + await _read_to_end(context, handle, path, len(data))
        finally:
            context.remote.ask_close(handle)
    finally:
        context.file_budget.release()


async def read_range(
    context: CopyContext, path: bytes, start: Optional[int], end: Optional[int]
) -> bytes:
    """Return a part of a file; negative offsets count from its end."""
    found = await context.remote.stat(path)
    check_openable(found, path)
    first, last, _ = slice(start, end).indices(found.size or 0)
    await context.file_budget.acquire()
    try:
        handle = await context.remote.open(path, protocol.FOR_READING)
        try:
            return await _read_parts(context, handle, path, first, last)
        finally:
            context.remote.ask_close(handle)
    finally:
        context.file_budget.release()


async def _read_parts(
    context: CopyContext, handle: bytes, path: bytes, start: int, end: int
) -> bytes:
    """Read a range, in parts that are requested at once; it ends early at the end of the file."""
    parts: List[Tuple[int, List[memoryview]]] = []

    def ask(offset: int, size: int) -> Reply:
        return context.remote.ask_read(handle, offset, size)

    def take(reply: Reply, offset: int, size: int) -> int:
        data = parse_data(reply, path, size)
        parts.append((offset, data))
        return sum(map(len, data)) or size  # no data: the file has become shorter

    await move_parts(context.byte_budget, context.remote.parts(start, end), ask, take)
    pieces: List[memoryview] = []
    for offset, data in sorted(parts, key=lambda part: part[0]):
        if offset != start:
            break
        pieces += data
        start += sum(map(len, data))
    return b"".join(pieces)


async def _read_to_end(context: CopyContext, handle: bytes, path: bytes, offset: int) -> bytes:
    """Read what a file has beyond its size, such as one of /proc."""
    pieces: List[memoryview] = []
    while True:
        size = context.remote.read_size
        data = parse_data(await context.remote.ask_read(handle, offset, size), path, size)
        if not any(data):
            return b"".join(pieces)
        pieces += data
        offset += sum(map(len, data))


class _Content(SourceFile):
    """Content in memory, in place of a local file that is uploaded."""

    def __init__(self, data: bytes, mode: Optional[int]) -> None:
        self.path = b""
        self.size = len(data)
        self.attributes = Attributes(mode=mode)
        self._whole = data
        self._file = Descriptor()

    @property
    def is_sparse(self) -> bool:
        """Whether the content has holes."""
        return False


async def write_whole(context: CopyContext, path: bytes, data: bytes, mode: Optional[int]) -> None:
    """Write a file under a temporary name, and rename it."""
    stale_files = StaleFiles(context)
    await context.file_budget.acquire()
    try:
        stale_files.start_removing(folder_of(path))
        await FileUpload(context, _Content(data, mode), stale_files).run(path, is_new=False)
    finally:
        stale_files.stop()
        context.file_budget.release()
