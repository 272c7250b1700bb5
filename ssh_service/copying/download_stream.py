"""
Downloads many small files in one stream, packed by the server's tar, without requests per file.

SFTP still lists the folders and decides what is copied; tar is only given the names of files that
were listed, and must send exactly these files, in this order: no name is taken from the stream.  A
file that is missing from the stream, or looks suspicious, is copied by SFTP.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import Awaitable, Callable, Deque, List, NamedTuple, Optional

from ssh_service.copying import tar
from ssh_service.copying.context import CopyContext
from ssh_service.copying.download_file import FileToCopy, finish
from ssh_service.copying.failures import display_path
from ssh_service.copying.local.target_file import TargetFile
from ssh_service.copying.local.target_folder import TargetFolder
from ssh_service.copying.pipeline import ABORTS
from ssh_service.copying.sftp.protocol import ProtocolError
from ssh_service.copying.shell_command import PRINT_READY_LINE, ShellProcess, quoted
from ssh_service.copying.waiting import Budget
from ssh_service.errors import SshTransferError

__all__ = ["DownloadStream"]

_log = logging.getLogger("ssh_service.copying")

# The POSIX format includes the access time.  Only GNU tar supports these options.
_SCRIPT = (
    b"exec sh -c 'unset TAR_OPTIONS; LC_ALL=C; export LC_ALL; "
    + PRINT_READY_LINE
    + b' cd "$(printf "%s")" || exit 1;'
    b" exec tar -cb 64 --format=posix --pax-option=delete=ctime,delete=mtime"
    b" --hard-dereference --no-recursion --null -T - -f -'"
)
# The approximate cost of a file in the stream and in memory, without its content.
_OVERHEAD = 1024
# The number of folders with requested files that are held open.  Their files, at least one in
# each, need more than the 64 blocks that tar buffers, so that tar does not stop sending while we
# wait for a folder.
_MAX_HELD_FOLDERS = 64
# The maximum size of an extended header in bytes; it has a time and at most a path.
_MAX_RECORDS = 8 * 1024
# Names are sent in chunks of this size, or earlier if no more are known.
_CHUNK_SIZE = 8 * 1024


class _Request(NamedTuple):
    """A file that was requested from tar."""

    file: FileToCopy
    name: bytes  # as sent to tar: relative to the root of the tree
    starts_folder: bool  # whether it is the first of successive files in one folder


class _Member(NamedTuple):
    """An entry of the archive."""

    header: tar.Header
    data: bytes  # padded to whole blocks; empty if it is larger than expected


class DownloadStream:
    """Receives the small files of one tree from tar."""

    def __init__(
        self,
        context: CopyContext,
        root: bytes,
        copy_by_sftp: Callable[[FileToCopy], Awaitable[None]],
    ) -> None:
        self._context = context
        self._copy_by_sftp = copy_by_sftp
        self._flow = Budget(context.pipeline, 8 * 1024 * 1024)
        self._folders = Budget(context.pipeline, _MAX_HELD_FOLDERS)
        self._queue: Deque[_Request] = deque()
        self._names: List[bytes] = []
        self._names_size = 0
        self._last_folder: Optional[TargetFolder] = None
        self._buffer = b""
        self._position = 0
        self._useful = False
        self._root = root
        self._process: ShellProcess = context.start_command(_SCRIPT % quoted(root + b"/."))
        self.has_ended = False  # nothing more will arrive: the remaining files are copied by SFTP

    # Called by the tasks that list folders.

    async def request(self, file: FileToCopy) -> None:
        """Copy a file, now or later; its folder is held open until then."""
        await self._take(self._flow, _cost(file))
        starts_folder = file.folder is not self._last_folder
        if starts_folder:
            await self._take(self._folders, 1)
        self._last_folder = file.folder
        file.folder.hold()
        name = b"/".join((b".", *file.names))
        self._queue.append(_Request(file, name, starts_folder))
        if self.has_ended:  # in the meantime
            await self._copy_next_by_sftp()
            return
        self._names.append(name)
        self._names_size += len(name)
        if self._names_size >= _CHUNK_SIZE:
            await self.flush()

    async def _take(self, budget: Budget, amount: int) -> None:
        if not budget.try_acquire(amount):
            await self.flush()  # otherwise we might wait for files that were not requested yet
            await budget.acquire(amount)

    async def flush(self) -> None:
        """Send the names that have not been sent yet."""
        if self._names:
            names, self._names, self._names_size = b"\0".join(self._names), [], 0
            await self._process.write(names + b"\0")  # `receive` notices errors

    def end(self) -> None:
        """Declare that no more files will be requested, so that tar sends its buffered data."""
        self._process.end_input()

    # The receiving task.

    async def receive(self) -> None:
        """Write the files as they arrive, until all requested files are copied."""
        try:
            try:
                await self._accept_all()
            except ProtocolError as error:
                _log.debug("%r not in one stream: %s", display_path(self._root), error)
                self._process.abandon()
            self.has_ended = True
            if not self._useful and not self._process.refused:
                self._context.remote.facts.tar.mark_missing()
            await self._copy_rest_by_sftp()
        except ABORTS:
            self._process.abandon()
            raise
        finally:
            self.has_ended = True
            while self._queue:
                self._next_file().folder.release()

    async def _accept_all(self) -> None:
        member = await self._first_member()
        while member is not None:
            await self._accept(member)
            member = await self._next_member()

    async def _copy_rest_by_sftp(self) -> None:
        while self._queue:
            await self._copy_next_by_sftp()

    async def _accept(self, member: _Member) -> None:
        header, data = member
        while self._queue and self._queue[0].name != header.name:
            await self._copy_next_by_sftp()  # tar skipped it
        if not self._queue:
            raise ProtocolError("tar sent an entry that was not requested")
        # If a file is truncated while tar reads it, tar pads it with zeros.  Therefore, a file
        # that ends with a zero is copied again by SFTP, and so is one that seems empty (like files
        # in /proc).
        size = header.size
        no_time = header.attributes.atime is None
        if header.kind != tar.FILE or no_time or not data or not data[size - 1]:
            await self._copy_next_by_sftp()
            return
        file = self._next_file()
        try:
            self._write(file, header, memoryview(data)[:size])
        except SshTransferError as error:
            self._context.on_entry_failed(error)
        finally:
            file.folder.release()
        self._useful = True

    def _write(self, file: FileToCopy, header: tar.Header, data: memoryview) -> None:
        target = TargetFile(file.folder, file.names[-1])
        try:
            target.write(0, [data])
            finish(self._context, target, header.attributes)
        finally:
            target.discard()
        self._context.progress.advance(len(data))
        self._context.progress.file_done()

    async def _copy_next_by_sftp(self) -> None:
        """Copy the next file by SFTP."""
        file = self._next_file()
        try:
            await self._copy_by_sftp(file)
        finally:
            file.folder.release()

    def _next_file(self) -> FileToCopy:
        file, _, starts_folder = self._queue.popleft()
        self._flow.release(_cost(file))
        if starts_folder:
            self._folders.release()
        return file

    # The archive.

    async def _first_member(self) -> Optional[_Member]:
        return await self._next_member() if await self._process.wait_until_ready() else None

    async def _next_member(self) -> Optional[_Member]:
        """Read the next entry; None at the end of the archive or of the stream."""
        block, more = await self._read(tar.BLOCK), b""
        if block[156:157] == tar.MORE:
            size = tar.read_size(block)
            if size > _MAX_RECORDS:
                raise ProtocolError(
                    f"extended tar header must have at most {_MAX_RECORDS} bytes, got {size}"
                )
            blocks = await self._read(size + -size % tar.BLOCK + tar.BLOCK)
            more, block = blocks[:size], blocks[-tar.BLOCK :]
        header = tar.read_header(block, more) if block else None
        if header is None:
            return None
        size = header.size + -header.size % tar.BLOCK
        if header.size < self._context.remote.read_size:
            return _Member(header, await self._read(size))
        while size:  # the file has grown
            if not await self._read(tar.BLOCK):
                raise ProtocolError("tar stream ends inside an entry")
            size -= tar.BLOCK
        return _Member(header, b"")

    async def _read(self, size: int) -> bytes:
        """Read `size` bytes; empty if the stream ends before them, between two entries."""
        start, end = self._position, self._position + size
        while len(self._buffer) < end:
            chunk = await self._process.read()
            if not chunk:
                if start < len(self._buffer) or size != tar.BLOCK:
                    raise ProtocolError("tar stream ends inside an entry")
                return b""
            self._buffer = self._buffer[start:] + chunk
            start, end = 0, size
        self._position = end
        return self._buffer[start:end]


def _cost(file: FileToCopy) -> int:
    return _OVERHEAD + (file.attributes.size or 0)
