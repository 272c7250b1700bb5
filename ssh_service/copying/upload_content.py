"""Uploads bytes, or what a file object returns, to one file."""

from __future__ import annotations

import errno

from ssh_service.copying.context import CopyContext
from ssh_service.copying.failures import Refused, display_path
from ssh_service.copying.local.file_objects import SourceBytes
from ssh_service.copying.paths import folder_of
from ssh_service.copying.replies import is_folder
from ssh_service.copying.stale_files import StaleFiles
from ssh_service.copying.upload_file import FileUpload, require_sync
from ssh_service.errors import transfer_error

__all__ = ["ContentUpload"]


class ContentUpload:
    """The task of one upload of bytes or of a file object."""

    def __init__(self, context: CopyContext, source: SourceBytes) -> None:
        self._context = context
        self._source = source
        self._stale_files = StaleFiles(context)

    async def run(self, target: bytes) -> None:
        """Copy the content to `target`; the pipeline's first task."""
        try:
            await self._run(target)
        except Refused as refused:
            raise await self._context.remote.to_os_error(refused) from refused
        finally:
            self._stale_files.stop()

    async def _run(self, target: bytes) -> None:
        context, source = self._context, self._source
        require_sync(context, target)
        target = await context.remote.expand_home(target)
        found = await context.remote.find(target)
        if target.endswith(b"/") or (found is not None and is_folder(found)):
            text = "is a folder; bytes and file objects have no name, so give the path of a file"
            raise transfer_error(errno.EISDIR, display_path(target), text, side="remote")
        await context.file_budget.acquire()
        source.begin(context.remote.write_size)
        if source.expected_size is not None:
            context.progress.expect(source.expected_size)
            context.progress.expect_no_more()
        await FileUpload(context, source, self._stale_files).run(target, False)
        if source.expected_size is None:
            context.progress.expect(source.size)
            context.progress.expect_no_more()
        context.progress.file_done()
        self._stale_files.start_removing(folder_of(target))
        await context.pipeline.join_others()
