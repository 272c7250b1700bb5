"""Downloads one file into a file object."""

from __future__ import annotations

import errno

from ssh_service.copying.checksums import matches_digest
from ssh_service.copying.context import CopyContext
from ssh_service.copying.download_file import (
    read_parts,
    read_unannounced,
    require_unchanged,
    was_rewritten_there,
)
from ssh_service.copying.failures import (
    Refused,
    checksum_mismatch_error,
    display_path,
    not_a_file_error,
)
from ssh_service.copying.local.file_objects import TargetObject
from ssh_service.copying.replies import is_file, is_folder, parse_attributes
from ssh_service.copying.sftp import protocol
from ssh_service.errors import transfer_error

__all__ = ["ObjectDownload"]


class ObjectDownload:
    """The task of one download into a file object."""

    def __init__(self, context: CopyContext, target: TargetObject) -> None:
        self._context = context
        self._target = target

    async def run(self, source: bytes) -> None:
        """Copy `source` to the object; the pipeline's first task."""
        try:
            await self._run(source)
        except Refused as refused:
            raise await self._context.remote.to_os_error(refused) from refused

    async def _run(self, source: bytes) -> None:
        context, remote = self._context, self._context.remote
        source = await remote.expand_home(source)
        found = await remote.stat(source)
        if is_folder(found):
            text = "is a folder; a file object takes a single file"
            raise transfer_error(errno.EISDIR, display_path(source), text, side="remote")
        if not is_file(found):
            raise not_a_file_error(source, found.mode or 0, "remote")
        await context.file_budget.acquire()
        handle = await remote.open(source, protocol.FOR_READING)
        is_open = True
        try:
            before = parse_attributes(await remote.ask_stat_open(handle), source)
            size = before.size or 0
            context.progress.expect(size)
            context.progress.expect_no_more()
            if size:
                await read_parts(context, source, handle, size, self._target, in_order=True)
            else:
                size = await read_unannounced(context, source, handle, self._target)
            after = parse_attributes(await remote.ask_stat_open(handle), source)
            if was_rewritten_there(before, after):
                is_open = False
                await remote.ask_close(handle)
                await require_unchanged(context, source, before)
        finally:
            if is_open:
                remote.ask_close(handle)
        if context.options.verify:
            digest = self._target.digest(size)
            if not await matches_digest(context, source, size, digest):
                raise checksum_mismatch_error(source)
        context.progress.file_done()
