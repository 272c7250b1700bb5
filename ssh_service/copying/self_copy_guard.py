"""Detects a tree that is copied into itself, as the server may be the local machine."""

from __future__ import annotations

import os
import time
from typing import Optional

from ssh_service import local_paths
from ssh_service.copying import temporary
from ssh_service.copying.context import CopyContext
from ssh_service.copying.failures import Refused, copy_into_itself_error
from ssh_service.copying.paths import folder_of, is_within, join
from ssh_service.copying.remote_owner import NEW_FILE_FLAGS, PRIVATE_MODE

__all__ = ["SelfCopyGuard"]

# Seconds by which the time of a file may lag behind the clock.
_CLOCK_TOLERANCE = 2.0


class SelfCopyGuard:
    """
    Recognises the target of an upload in its source.

    Folders that this copy creates have changed since it began.  If the walk through the source
    finds a changed folder, a marker file is created in the target, and searched for in and around
    that folder.
    """

    def __init__(self, context: CopyContext, source: bytes, target: bytes) -> None:
        self._context = context
        self._source = source.rstrip(b"/") or b"/"
        self._target = target
        self._since = time.time() - _CLOCK_TOLERANCE
        self._name: Optional[bytes] = None
        self._is_made = False
        self._clear = b""  # a folder outside the target, like all of its parents

    async def check(self, path: bytes, status: os.stat_result) -> None:
        """
        Refuse a folder of the source that is the target, or lies in it.

        Raises
        ------
        SshTransferError
            The tree would be copied into itself.
        """
        if status.st_ctime < self._since or self._context.options.dry_run:
            return
        if self._name is None:
            await self._make_file()
        if self._name is None or not self._is_made:
            return
        around = path
        while not is_within(self._clear, around):
            if local_paths.entry_exists(join(around, self._name)):
                raise copy_into_itself_error(around, "local")
            if len(around) <= len(self._source):
                break
            around = folder_of(around)
        self._clear = path

    async def _make_file(self) -> None:
        self._name = temporary.names.new(b"")
        try:
            path = join(self._target, self._name)
            handle = await self._context.remote.open(path, NEW_FILE_FLAGS, PRIVATE_MODE)
            self._is_made = True
            self._context.owner.start_identifying(handle, PRIVATE_MODE)
            self._context.remote.ask_close(handle)
        except Refused:
            pass  # the copy cannot create files there either, and reports that

    async def end(self) -> None:
        """Remove the marker file."""
        if self._name is not None and self._is_made:
            self._is_made = False
            try:
                await self._context.remote.remove(join(self._target, self._name))
            except Refused:
                pass  # stale now

    def release(self) -> None:
        """Keep the marker file, if it still exists, for the next copy."""
        if self._name is not None:
            temporary.names.release(self._name)
