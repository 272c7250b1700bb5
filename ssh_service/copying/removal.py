"""Removes an unfinished tree on the server, within limits: a server may list without end."""

from __future__ import annotations

import time
from collections import deque
from typing import Deque, List

from ssh_service.copying.context import CopyContext
from ssh_service.copying.failures import Refused
from ssh_service.copying.folder_reader import FolderReader
from ssh_service.copying.paths import join
from ssh_service.copying.replies import is_folder
from ssh_service.copying.sftp.protocol import FolderEntry
from ssh_service.copying.sftp.reply import Reply

__all__ = ["remove_tree"]

# The limits of one removal: seconds, and the bytes of all paths (about 300,000 entries).
_TIMEOUT = 60.0
_MAX_PATH_BYTES = 32 * 1024 * 1024
# Longer than any system allows: such paths are invented.
_MAX_PATH_LENGTH = 8 * 1024
# The maximum number of removals in flight.
_MAX_IN_FLIGHT = 1000


async def remove_tree(context: CopyContext, folder: bytes) -> None:
    """
    Remove an unfinished folder of ours with everything in it.

    The folder is kept if it is not ours, or if others may enter it and could exchange its entries.
    Entries beyond the limits are kept as well; a later copy finds them and continues.  `folder` is
    a real path in a guarded folder.
    """
    try:
        if context.owner.is_our_private_folder(await context.remote.lstat(folder)):
            await _Removal(context).run(folder)
    except Refused:
        pass  # the folder does not exist, or is not ours


class _Removal:
    def __init__(self, context: CopyContext) -> None:
        self._remote = context.remote
        self._until = time.monotonic() + _TIMEOUT
        self._left = _MAX_PATH_BYTES
        self._on_way: Deque[Reply] = deque()

    async def run(self, root: bytes) -> None:
        folders: List[bytes] = []
        to_do = [root]
        while to_do and not self._is_too_much():
            folder = to_do.pop()
            folders.append(folder)
            try:
                to_do += await self._empty(folder)
            except Refused:
                pass  # already removed, or kept together with its parents
        for folder in reversed(folders):
            await self._ask(self._remote.ask_remove_folder(folder))
        while self._on_way:
            await self._on_way.popleft()

    def _is_too_much(self) -> bool:
        return self._left < 0 or time.monotonic() > self._until

    async def _empty(self, folder: bytes) -> List[bytes]:
        """Remove the files in a folder; return the folders in it."""
        folders = []
        # Never follow a link.
        if is_folder(await self._remote.lstat(folder)):
            for entry in await self._list(folder):
                path = join(folder, entry.filename)
                if is_folder(entry.attributes):
                    folders.append(path)
                else:
                    await self._ask(self._remote.ask_remove(path))
        return folders

    async def _list(self, folder: bytes) -> List[FolderEntry]:
        handle = await self._remote.open_folder(folder)
        try:
            return await self._read(handle, folder)
        finally:
            self._remote.ask_close(handle)

    async def _read(self, handle: bytes, folder: bytes) -> List[FolderEntry]:
        found: List[FolderEntry] = []
        reader = FolderReader(self._remote, handle, folder, allow_partial=True)
        while not self._is_too_much():
            entries = await reader.read()
            if not entries:
                break
            for entry in entries:
                self._left -= len(folder) + len(entry.filename)
                if _is_inside(entry) and len(folder) < _MAX_PATH_LENGTH:
                    found.append(entry)
        return found

    async def _ask(self, reply: Reply) -> None:
        self._on_way.append(reply)
        if len(self._on_way) > _MAX_IN_FLIGHT:
            await self._on_way.popleft()  # if it cannot be removed, it is gone or is kept


def _is_inside(entry: FolderEntry) -> bool:
    return entry.filename not in (b"", b".", b"..") and b"/" not in entry.filename
