"""Downloads one file: a small one as a whole, a large one in parts."""

from __future__ import annotations

from typing import NamedTuple, Union

from ssh_service.copying.checksums import digest_by_shell, matches_digest, verify
from ssh_service.copying.context import CopyContext
from ssh_service.copying.failures import (
    Refused,
    changed_during_copy_error,
    display_path,
    was_rewritten,
)
from ssh_service.copying.local.file_objects import TargetObject
from ssh_service.copying.local.target_file import (
    TargetFile,
    digest_at,
    find_file,
    remove_stale_parts,
)
from ssh_service.copying.local.target_folder import PathParts, TargetFolder
from ssh_service.copying.parts import move_parts
from ssh_service.copying.pipeline import ABORTS
from ssh_service.copying.replies import parse_attributes, parse_data
from ssh_service.copying.sftp import protocol
from ssh_service.copying.sftp.protocol import Attributes
from ssh_service.copying.sftp.reply import Reply
from ssh_service.errors import SshTransferError

__all__ = [
    "FileDownload",
    "FileToCopy",
    "finish",
    "is_up_to_date",
    "read_parts",
    "read_unannounced",
    "require_unchanged",
    "was_rewritten_there",
]

# The maximum size of a file with st_size 0 that has content (such as those in /proc), in bytes.
_MAX_UNANNOUNCED = 16 * 1024 * 1024


class FileToCopy(NamedTuple):
    """A file to copy."""

    path: bytes  # on the server
    attributes: Attributes  # as listed
    folder: TargetFolder  # the open target folder
    names: PathParts  # from the root of the local tree; the last one is the name in the folder


def is_up_to_date(file: FileToCopy) -> bool:
    """Return whether the local target has the same size and time."""
    existing = find_file(file.folder, file.names[-1])
    return existing is not None and (existing.st_size, int(existing.st_mtime)) == (
        file.attributes.size or 0,
        file.attributes.mtime,
    )


class FileDownload:
    """
    The download of one file.

    Attributes
    ----------
    file : FileToCopy
        The file.
    """

    def __init__(self, context: CopyContext, file: FileToCopy) -> None:
        self._context = context
        self._remote = context.remote
        self._source = file.path
        self._size = file.attributes.size or 0
        self.file = file
        self._folder = file.folder
        self._name = file.names[-1]

    async def run(self) -> None:
        """Copy the file."""
        if self._context.skips_unchanged and await self.is_up_to_date():
            self._context.progress.advance(self._size)
            if self._context.options.resume:
                remove_stale_parts(self._folder, self._name)
            return
        if self._size >= self._remote.read_size or not await self._copy_small():
            await self._copy_large()

    async def is_up_to_date(self) -> bool:
        """Return whether the target has the same size and time (and content, with `verify`)."""
        if not is_up_to_date(self.file):
            return False
        if not self._context.options.verify:
            return True
        digest = digest_at(self._folder, self._name, self._size)
        return await matches_digest(self._context, self._source, self._size, digest)

    async def _copy_small(self) -> bool:
        """Copy a file with a single read; return False if its size is not the listed one."""
        remote, flow = self._remote, self._context.byte_budget
        handle = await remote.open(self._source, protocol.FOR_READING)
        room = self._size + 1  # one byte more than listed shows whether the file has grown
        try:
            await flow.acquire(room)
        except ABORTS:
            remote.ask_close(handle)
            raise
        try:
            describing = remote.ask_stat_open(
                handle
            )  # before the read, which changes the access time
            reading = remote.ask_read(handle, 0, room)
            remote.ask_close(handle)
            attributes = parse_attributes(await describing, self._source)
            data = parse_data(await reading, self._source, room)
            if attributes.size != sum(map(len, data)):
                return False
            target = TargetFile(self._folder, self._name, size=self._size)
            try:
                target.write(0, data)
                await self._verify(attributes.size, target)
                finish(self._context, target, attributes)
            finally:
                target.discard()
            self._context.progress.advance(attributes.size)
            return True
        finally:
            flow.release(room)

    async def _copy_large(self) -> None:
        remote, source = self._remote, self._source
        handle = await remote.open(source, protocol.FOR_READING)
        is_open = True
        try:
            before = parse_attributes(await remote.ask_stat_open(handle), source)
            size = before.size or 0
            resume = self._context.options.resume and bool(size)
            target = TargetFile(self._folder, self._name, resume, size)
            try:
                if target.has_foreign_parts:
                    self._context.warn_once(
                        "not resumed",
                        "an unfinished copy of %r is not resumed: its owner is uncertain",
                        display_path(target.path),
                    )
                if target.resumed_size:
                    await self._check_resumed(size, target)
                if size:
                    await read_parts(self._context, source, handle, size, target)
                else:
                    size = await read_unannounced(self._context, source, handle, target)
                after = parse_attributes(await remote.ask_stat_open(handle), source)
                if was_rewritten_there(before, after):
                    is_open = False
                    await remote.ask_close(handle)
                    await require_unchanged(self._context, source, before)
                await self._verify(size, target)
                finish(self._context, target, before)
            except (SshTransferError, Refused):
                target.discard()  # nothing to resume
                raise
            finally:
                target.keep()
        finally:
            if is_open:
                remote.ask_close(handle)

    async def _check_resumed(self, size: int, target: TargetFile) -> None:
        """Discard the part from an earlier copy, unless the source is proven to begin with it."""
        if target.resumed_size <= size:
            # Only a shell can verify this: reading the part back would transfer as much as
            # resuming saves.
            there = await digest_by_shell(self._context, self._source, target.resumed_size)
            if there == target.digest(target.resumed_size):
                self._context.has_resumed = True
                return
        target.restart(0)

    async def _verify(self, size: int, target: TargetFile) -> None:
        if not target.is_device:
            await verify(self._context, self._source, size, target)


async def read_parts(
    context: CopyContext,
    source: bytes,
    handle: bytes,
    size: int,
    target: Union[TargetFile, TargetObject],
    in_order: bool = False,
) -> None:
    """Read an open file, except what was resumed, into the target."""
    progress, ask_read = context.progress, context.remote.ask_read

    def ask(offset: int, count: int) -> Reply:
        return ask_read(handle, offset, count)

    def take(reply: Reply, offset: int, count: int) -> int:
        data = parse_data(reply, source, count)
        received = sum(map(len, data))  # some servers return less than requested, anywhere
        if not received:
            raise changed_during_copy_error(source, "remote")
        target.write(offset, data)
        progress.advance(received)
        return received

    progress.advance(target.resumed_size)
    parts = context.remote.parts(target.resumed_size, size)
    await move_parts(context.byte_budget, parts, ask, take, in_order)


async def read_unannounced(
    context: CopyContext, source: bytes, handle: bytes, target: Union[TargetFile, TargetObject]
) -> int:
    """Read a file of size 0, which may have content, to its end; return its size."""
    offset, count = 0, protocol.SAFE_DATA_SIZE
    while True:
        data = parse_data(await context.remote.ask_read(handle, offset, count), source, count)
        received = sum(map(len, data))
        if not received:  # some servers report end-of-file, others send empty data
            return offset
        if offset > _MAX_UNANNOUNCED:
            raise changed_during_copy_error(source, "remote")
        target.write(offset, data)
        offset += received
        context.progress.advance(received)


async def require_unchanged(context: CopyContext, source: bytes, before: Attributes) -> None:
    """Raise an error if a file, which is closed by now, has changed."""
    # rclone reports the time of its cache from the first read until the close.
    if not _is_unchanged(before, await context.remote.stat(source)):
        raise changed_during_copy_error(source, "remote")


def was_rewritten_there(before: Attributes, after: Attributes) -> bool:
    """Return whether a file on the server seems to have been overwritten or truncated."""
    times = (before.mtime or 0, after.mtime or 0)
    return was_rewritten(before.size or 0, times[0], after.size or 0, times[1])


def _is_unchanged(before: Attributes, after: Attributes) -> bool:
    return (before.size, before.mtime) == (after.size, after.mtime)


def finish(context: CopyContext, target: TargetFile, attributes: Attributes) -> None:
    """Set the attributes of a complete local file, and rename it."""
    target.finish(
        context.local_attributes(attributes), context.options.fsync, context.on_modes_refused
    )
