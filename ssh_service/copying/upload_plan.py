"""An upload with ``dry_run=True``: it asks the server the same questions, and changes nothing."""

from __future__ import annotations

import errno
import os
from typing import Optional

from ssh_service.copying.exclusions import Excludes
from ssh_service.copying.failures import Refused, display_path
from ssh_service.copying.paths import join
from ssh_service.copying.replies import is_folder, is_link
from ssh_service.copying.sftp import protocol
from ssh_service.copying.upload_file import FileUpload, UploadTarget
from ssh_service.copying.uploading import RemoteFolder, Upload
from ssh_service.errors import transfer_error

__all__ = ["PlannedUpload"]


class PlannedUpload(Upload):
    """The tasks that plan an upload."""

    async def _copy_tree(self, source: bytes, status: os.stat_result, target: bytes) -> None:
        excludes = self._context.excludes
        if excludes is not None:
            self._context.excludes = self._recording(excludes, target)
        await self._copy_entries(source, status, target)

    def _recording(self, excludes: Excludes, target: bytes) -> Excludes:
        """Return a function that also records the entries that are left out."""

        def excludes_and_records(path: bytes, is_a_folder: bool) -> bool:
            if not excludes(path, is_a_folder):
                return False
            kind = "folder" if is_a_folder else "file"
            self._context.plan("skip", join(target, path), kind, reason="excluded")
            return True

        return excludes_and_records

    async def _make_new_folder(
        self, folder: RemoteFolder, mode: int, inside: Optional[RemoteFolder]
    ) -> None:
        if inside is None or not inside.is_new:
            if await self._remote.find(folder.path, follow=False) is not None:
                raise Refused(protocol.FAILURE, "", folder.path)  # as a server does
            await self._require_folder_around(folder.path)
        self._context.plan("create", folder.path, "folder")

    async def _require_folder_around(self, path: bytes) -> None:
        try:
            await self._context.owner.is_in_shared_folder(path)  # asks once per folder
        except Refused as refused:
            refused.path = path
            raise

    async def _make_writable(self, path: bytes, mode: Optional[int]) -> None:
        """Change nothing."""

    async def _finish_folders(self) -> None:
        """Change nothing."""

    async def _transfer_file(self, file: FileUpload, target: bytes, is_new: bool) -> None:
        found = UploadTarget(target) if is_new else await file.resolve(target)
        if found.existing is None and not is_new:
            await self._require_folder_around(target)
        if self._context.skips_unchanged and await file.is_up_to_date(found):
            self._context.plan("skip", target, reason="unchanged")
            return
        action = "create" if found.existing is None else "replace"
        self._context.plan(action, target, size=file.source.size)

    async def _transfer_link(self, text: bytes, target: bytes, is_new: bool) -> None:
        found = None if is_new else await self._remote.find(target, follow=False)
        if found is None:
            self._context.plan("create", target, "link")
            return
        if is_folder(found):
            raise transfer_error(errno.EISDIR, display_path(target), side="remote")
        await self._context.owner.check_target(target, found)
        if is_link(found) and await self._remote.text_of_link(target) == text:
            self._context.plan("skip", target, "link", reason="unchanged")
        else:
            self._context.plan("replace", target, "link")
