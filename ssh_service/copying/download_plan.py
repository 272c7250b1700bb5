"""A download with ``dry_run=True``: it lists the same folders, and changes nothing."""

from __future__ import annotations

import errno
import os
import stat
from typing import Optional

from ssh_service.copying.download_file import FileDownload
from ssh_service.copying.download_stream import DownloadStream
from ssh_service.copying.downloading import Download
from ssh_service.copying.exclusions import Excludes
from ssh_service.copying.failures import local_error
from ssh_service.copying.listing import SourceFolder
from ssh_service.copying.local.planned_tree import PlannedTree
from ssh_service.copying.local.system import files
from ssh_service.copying.local.target_file import TargetFile
from ssh_service.copying.local.target_folder import TargetFolder, check_target
from ssh_service.copying.local.target_tree import TargetTree
from ssh_service.copying.ownership import owner_and_mode
from ssh_service.copying.replies import is_folder
from ssh_service.copying.sftp.protocol import Attributes, FolderEntry
from ssh_service.copying.sftp.reply import Reply

__all__ = ["PlannedDownload"]


class PlannedDownload(Download):
    """The tasks that plan a download."""

    def _open_tree(self, target: bytes, mode: int, is_explicit: bool) -> TargetTree:
        def on_missing(action: str, path: bytes) -> None:
            self._context.plan(action, path, "folder")

        return PlannedTree(target, self._context.options.keeps_links, is_explicit, on_missing)

    def _remove_stale_files(self, folder: TargetFolder) -> None:
        """Change nothing."""

    def _finish_folders(self) -> None:
        """Change nothing."""

    def _stream_for(self, attributes: Attributes) -> Optional[DownloadStream]:
        return None

    async def _is_left_out(
        self,
        folder: SourceFolder,
        entry: FolderEntry,
        path: bytes,
        link_reply: Optional[Reply],
        excludes: Excludes,
    ) -> bool:
        if not await super()._is_left_out(folder, entry, path, link_reply, excludes):
            return False
        kind = "folder" if is_folder(entry.attributes) else "file"
        root = b"" if self._tree is None else self._tree.root.path
        target = os.path.join(root, *folder.names, entry.filename)
        self._context.plan("skip", target, kind, reason="excluded")
        return True

    def _make_link(self, folder: TargetFolder, name: bytes, text: bytes) -> None:
        path = os.path.join(folder.path, name)
        try:
            if folder.is_new:
                raise FileNotFoundError
            found = files.stat(name, dir_fd=folder.fd, follow_symlinks=False)
        except FileNotFoundError:
            self._context.plan("create", path, "link")
            return
        if stat.S_ISDIR(found.st_mode):
            error = IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            raise local_error(error, path)
        check_target(path, owner_and_mode(found), folder.attributes)
        if stat.S_ISLNK(found.st_mode) and files.readlink(name, dir_fd=folder.fd) == text:
            self._context.plan("skip", path, "link", reason="unchanged")
        else:
            self._context.plan("replace", path, "link")

    async def _transfer_file(self, file: FileDownload) -> None:
        folder, name = file.file.folder, file.file.names[-1]
        path = os.path.join(folder.path, name)
        if folder.is_new:
            self._context.plan("create", path, size=file.file.attributes.size)
            return
        target = TargetFile(folder, name, is_planned=True)
        exists = target.exists
        target.discard()
        if self._context.skips_unchanged and await file.is_up_to_date():
            self._context.plan("skip", path, reason="unchanged")
        else:
            action = "replace" if exists else "create"
            self._context.plan(action, path, size=file.file.attributes.size)
