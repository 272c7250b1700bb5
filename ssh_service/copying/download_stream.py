"""
Many small files from the server in one stream, which its tar packs: no requests for each.

SFTP lists the folders all the same, and decides what is copied; tar is only asked, by name, for
files that were listed.  What it sends has to be just that, in that order: no name is taken from
the stream.  Whatever is missing in there, or looks odd, is copied by SFTP.
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

# POSIX's format tells the time of the last access; no other tar than GNU's takes the options.
_SCRIPT = (
    b"exec sh -c 'unset TAR_OPTIONS; LC_ALL=C; export LC_ALL; "
    + PRINT_READY_LINE
    + b' cd "$(printf "%s")" || exit 1;'
    b" exec tar -cb 64 --format=posix --pax-option=delete=ctime,delete=mtime"
    b" --hard-dereference --no-recursion --null -T - -f -'"
)
# What a file costs in the stream and in memory beside its content, roughly.
_OVERHEAD = 1024
# How many folders with files asked for are held open.  Their files, one in each at least, are more
# than the bytes (64 blocks) that tar keeps to itself until it has more: so it never comes to a
# stand while we wait for a folder to be done.
_MAX_HELD_FOLDERS = 64
# What is told of an entry beside its header is a time, and a path at most.
_MAX_RECORDS = 8 * 1024
# Names are sent in pieces of this size, or when nothing more is known of.
_PIECE = 8 * 1024


class _Request(NamedTuple):
    """A file that tar was asked for."""

    file: FileToCopy
    name: bytes  # as tar is asked for it: from the root of the tree
    starts_folder: bool  # whether it is the first of a row that lies in one folder


class _Member(NamedTuple):
    """An entry of the archive."""

    header: tar.Header
    data: bytes  # up to the end of a block; none where there was more than expected


class DownloadStream:
    """
    Reads files of one tree.

    Parameters
    ----------
    context : CopyContext
        The copy.
    root : bytes
        The folder on the server that the tree is.
    copy_by_sftp : Callable[[FileToCopy], Awaitable[None]]
        Copies a file by SFTP.
    """

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
        self.has_ended = False  # nothing comes any more: all else is for SFTP

    # The tasks that list.

    async def request(self, file: FileToCopy) -> None:
        """Have a file copied, sooner or later; its folder is held here."""
        await self._take(self._flow, _cost(file))
        starts_folder = file.folder is not self._last_folder
        if starts_folder:
            await self._take(self._folders, 1)
        self._last_folder = file.folder
        file.folder.hold()
        name = b"/".join((b".", *file.names))
        self._queue.append(_Request(file, name, starts_folder))
        if self.has_ended:  # meanwhile
            await self._copy_next_by_sftp()
            return
        self._names.append(name)
        self._names_size += len(name)
        if self._names_size >= _PIECE:
            await self.flush()

    async def _take(self, budget: Budget, amount: int) -> None:
        if not budget.try_acquire(amount):
            await self.flush()  # else we might wait for what nobody has been asked for
            await budget.acquire(amount)

    async def flush(self) -> None:
        """Send the names that were not sent yet."""
        if self._names:
            names, self._names, self._names_size = b"\0".join(self._names), [], 0
            await self._process.write(names + b"\0")  # what comes of it, the other task finds out

    def end(self) -> None:
        """Note that no more will be asked for: what tar keeps to itself may come."""
        self._process.end_input()

    # The task that receives.

    async def receive(self) -> None:
        """Write what comes, until all is here that was asked for."""
        try:
            try:
                member = await self._first_member()
                while member is not None:
                    await self._accept(member)
                    member = await self._next_member()
            except ProtocolError as error:
                _log.debug("%r not in one stream: %s", display_path(self._root), error)
                self._process.abandon()
            self.has_ended = True
            if not self._useful and not self._process.refused:
                self._context.remote.facts.tar.mark_missing()
            while self._queue:
                await self._copy_next_by_sftp()
        except ABORTS:
            self._process.abandon()
            raise
        finally:
            self.has_ended = True
            while self._queue:
                self._next_file().folder.release()

    async def _accept(self, member: _Member) -> None:
        header, data = member
        while self._queue and self._queue[0].name != header.name:
            await self._copy_next_by_sftp()  # tar passed it over
        if not self._queue:
            raise ProtocolError("an archive with more than was asked for")
        # Where a file became shorter while tar read it, tar fills it up with zeros: so what ends
        # with a zero is looked at again, as is what seems empty (files in /proc do).
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
        """Have the next one copied by SFTP."""
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
        """Read the next entry; None at the end of the archive, or of the stream."""
        block, more = await self._read(tar.BLOCK), b""
        if block[156:157] == tar.MORE:
            size = tar.read_size(block)
            if size > _MAX_RECORDS:
                raise ProtocolError(f"{size} bytes about one entry of an archive")
            blocks = await self._read(size + -size % tar.BLOCK + tar.BLOCK)
            more, block = blocks[:size], blocks[-tar.BLOCK :]
        header = tar.read_header(block, more) if block else None
        if header is None:
            return None
        size = header.size + -header.size % tar.BLOCK
        if header.size < self._context.remote.read_size:
            return _Member(header, await self._read(size))
        while size:  # it has grown
            if not await self._read(tar.BLOCK):
                raise ProtocolError("an archive that ends in the middle")
            size -= tar.BLOCK
        return _Member(header, b"")

    async def _read(self, size: int) -> bytes:
        """Read that many bytes; none where the stream ends before them, between two entries."""
        start, end = self._position, self._position + size
        while len(self._buffer) < end:
            chunk = await self._process.read()
            if not chunk:
                if start < len(self._buffer) or size != tar.BLOCK:
                    raise ProtocolError("an archive that ends in the middle")
                return b""
            self._buffer = self._buffer[start:] + chunk
            start, end = 0, size
        self._position = end
        return self._buffer[start:end]


def _cost(file: FileToCopy) -> int:
    return _OVERHEAD + (file.attributes.size or 0)
