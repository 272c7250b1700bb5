"""
The marker of a tree that an upload has begun, by which a repeated call finds the tree.

Without it, a second ``upload(tree, "new", resume=True)`` would find the folder ``new`` and copy
the tree to ``new/tree``.  The marker is an empty file with a temporary name.
"""

from __future__ import annotations

from typing import Optional

from ssh_service.copying import temporary
from ssh_service.copying.context import CopyContext
from ssh_service.copying.failures import Refused
from ssh_service.copying.paths import join
from ssh_service.copying.remote_owner import NEW_FILE_FLAGS, PRIVATE_MODE
from ssh_service.copying.stale_files import StaleFiles

__all__ = ["ResumeMarker"]


class ResumeMarker:
    """The marker of one upload, in the root of the tree on the server; `source` is a real path."""

    def __init__(self, context: CopyContext, stale_files: StaleFiles, source: bytes) -> None:
        self._context = context
        self._stale_files = stale_files
        self._source = temporary.tree(source)
        self._name = temporary.names.new(self._source)
        self._path: Optional[bytes] = None

    async def find(self, folder: bytes) -> bool:
        """Return whether an interrupted copy of the same source has begun the tree `folder`."""
        claimed = await self._stale_files.claim(folder, self._source, self._name, max_size=0)
        if claimed is None:
            return False
        self._context.remote.ask_close(claimed.handle)
        self._path = claimed.path
        self._context.has_resumed = self._context.resumes_tree = True
        return True

    async def begin(self, folder: bytes, root: Optional[bytes] = None) -> None:
        """Mark the tree `folder` that this copy has created; for now at `root`, if given."""
        path = join(root or folder, self._name)
        try:
            handle = await self._context.remote.open(path, NEW_FILE_FLAGS, PRIVATE_MODE)
        except Refused:
            return  # the tree cannot be resumed then; the copy itself reports any error
        self._context.owner.start_identifying(handle, PRIVATE_MODE)
        self._context.remote.ask_close(handle)
        self._path = join(folder, self._name)

    async def end(self) -> None:
        """Remove the marker: the tree is complete."""
        if self._path is not None:
            try:
                await self._context.remote.remove(self._path)
            except Refused:
                pass  # stale now

    def release(self) -> None:
        """Keep the marker for the next copy, unless it was removed."""
        temporary.names.release(self._name)
