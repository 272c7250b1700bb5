"""An unfinished tree on the server, removed; but not for as long as a hostile server may like."""

from __future__ import annotations

import time
from collections import deque
from typing import Deque, List

from ssh_service.copying.context import CopyContext
from ssh_service.copying.failures import Refused
from ssh_service.copying.paths import join
from ssh_service.copying.replies import is_folder, parse_names
from ssh_service.copying.sftp.protocol import FolderEntry
from ssh_service.copying.sftp.reply import Reply

__all__ = ["remove_tree"]

# What one removal may take: seconds, and bytes of paths in all, about 300,000 entries.
_TIMEOUT = 60.0
_MAX_PATH_BYTES = 32 * 1024 * 1024
# Longer paths than any system takes: what lies there was made up.
_MAX_PATH_LENGTH = 8 * 1024
# Removals on their way at once.
_MAX_IN_FLIGHT = 1000


async def remove_tree(context: CopyContext, folder: bytes) -> None:
    """
    Remove a folder of ours that an upload has not finished, and all in it.

    It stays if it is not ours, or if others may enter it and could exchange what is in there.
    What is too much is left: a later copy finds it, and goes on.

    Parameters
    ----------
    context : CopyContext
        The copy.
    folder : bytes
        Its real path, in a folder that no stranger can change.
    """
    try:
        if context.owner.is_our_private_folder(await context.remote.lstat(folder)):
            await _Removal(context).run(folder)
    except Refused:
        pass  # it is not there, or not ours to remove


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
                pass  # it is not there any more; or it stays, with those around it
        for folder in reversed(folders):
            await self._ask(self._remote.ask_remove_folder(folder))
        while self._on_way:
            await self._on_way.popleft()

    def _is_too_much(self) -> bool:
        return self._left < 0 or time.monotonic() > self._until

    async def _empty(self, folder: bytes) -> List[bytes]:
        """Remove the files in a folder; return the folders in it."""
        folders = []
        # Never through a link.
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
        found: List[FolderEntry] = []
        try:
            while not self._is_too_much():
                entries = parse_names(await self._remote.ask_read_folder(handle), folder)
                if not entries:
                    break
                for entry in entries:
                    self._left -= len(folder) + len(entry.filename)
                    if _is_inside(entry) and len(folder) < _MAX_PATH_LENGTH:
                        found.append(entry)
        finally:
            self._remote.ask_close(handle)
        return found

    async def _ask(self, reply: Reply) -> None:
        self._on_way.append(reply)
        if len(self._on_way) > _MAX_IN_FLIGHT:
            await self._on_way.popleft()  # what is not removed was not there, or stays


def _is_inside(entry: FolderEntry) -> bool:
    return entry.filename not in (b"", b".", b"..") and b"/" not in entry.filename
