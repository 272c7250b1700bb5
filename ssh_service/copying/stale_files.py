"""Unfinished files that dead copies have left on the server: removed, or resumed."""

from __future__ import annotations

import math
from typing import Dict, List, NamedTuple, Optional, Tuple

from ssh_service.copying import temporary
from ssh_service.copying.context import CopyContext
from ssh_service.copying.failures import Refused, display_path
from ssh_service.copying.folder_reader import FolderReader
from ssh_service.copying.paths import join
from ssh_service.copying.pipeline import PipelineTask
from ssh_service.copying.removal import remove_tree
from ssh_service.copying.replies import is_folder, parse_attributes
from ssh_service.copying.sftp import protocol
from ssh_service.copying.sftp.protocol import Attributes, FolderEntry
from ssh_service.copying.sftp.server_facts import RemoteIdentity
from ssh_service.copying.waiting import Budget, TaskEvent

__all__ = ["ClaimedFile", "StaleFiles"]

# The maximum number of entries examined per folder: a folder may be huge, and this must be cheap.
_MAX_ENTRIES = 50_000
_MAX_FOLDERS = 10_000
# The number of folders cleaned concurrently, and of concurrent requests for a listing.
_MAX_REMOVALS = 4
_READ_AHEAD = 8


class _Listing:
    """The unfinished files in one folder, listed once per copy."""

    def __init__(self, complete: TaskEvent) -> None:
        self.complete = complete
        self.found: List[FolderEntry] = []


class ClaimedFile(NamedTuple):
    """An open unfinished file that is resumed."""

    path: bytes
    handle: bytes
    size: int


class StaleFiles:
    """
    The unfinished files of dead copies on the server, as seen by one copy.

    Only files of ours in folders that no other user can change are removed or resumed: SFTP works
    by path, so other files could be exchanged for a link at the wrong moment.
    """

    def __init__(self, context: CopyContext) -> None:
        self._context = context
        self._owner = context.owner
        self._listings: Dict[bytes, _Listing] = {}
        self._removals: List[PipelineTask] = []
        self._room = Budget(context.pipeline, _MAX_REMOVALS)

    # Removing.

    def start_removing(self, folder: bytes) -> None:
        """
        Start to remove the stale files in a folder, once per session and folder.

        The copy does not wait for this: files that are left when `stop` is called remain for the
        next copy.
        """
        if self._context.options.dry_run:
            return
        cleaned = self._context.remote.facts.cleaned_folders
        if folder in cleaned or len(cleaned) >= _MAX_FOLDERS:
            return
        self._removals.append(
            self._context.pipeline.start(self._remove_stale(folder), background=True)
        )
        cleaned.add(folder)

    def stop(self) -> None:
        """Stop removing, because the copy has ended."""
        self._context.pipeline.cancel(self._removals)

    async def _remove_stale(self, folder: bytes) -> None:
        done = False
        try:
            await self._room.acquire()
            try:
                # Concurrently: it is needed soon if there are any.
                self._removals.append(
                    self._context.pipeline.start(self._owner.resolve(folder), background=True)
                )
                listing = await self._list(folder)
                if listing.found:
                    await self._owner.resolve(folder)
                    await self._owner.identified.wait()
                    await self._remove_all(folder, listing)
                done = True
            finally:
                self._room.release()
        except Refused:
            done = True  # the copy does not depend on this, or reports the error itself
        finally:
            if not done:
                self._context.remote.facts.cleaned_folders.discard(folder)

    async def _remove_all(self, folder: bytes, listing: _Listing) -> None:
        context, owner = self._context, self._owner
        identity, real = owner.identity, await owner.guarded_path(folder)
        if identity is None or real is None:
            return
        removing = []

        def may_resume(attributes: Attributes) -> bool:
            # A file that is written by a single request is never resumed.
            return context.options.resume and (attributes.size or 0) > context.remote.write_size

        for entry in listing.found:
            name, attributes, _ = entry
            age = _age(entry, identity)
            path = join(real, name)
            if is_folder(attributes):  # folders are never resumed
                if temporary.names.is_stale(name, age):
                    await self._remove_folder(real, path)
            elif temporary.names.is_stale(name, age, may_resume(attributes)):
                if owner.is_our_stale_file(attributes, entry.links):
                    removing.append(context.remote.ask_remove(path))
        for reply in removing:
            await reply  # a file that cannot be removed is gone, or has been renamed

    async def _remove_folder(self, around: bytes, path: bytes) -> None:
        # Renamed to a name of this process: if the removal is not completed, the next copy of this
        # process continues it, although the folder has just changed.
        name = temporary.names.new(b"")
        renamed = join(around, name)
        try:
            if self._owner.is_our_private_folder(await self._context.remote.lstat(path)):
                await self._context.remote.rename(path, renamed)
                await remove_tree(self._context, renamed)
        except Refused:
            pass  # another copy has been faster
        finally:
            temporary.names.release(name)

    # Resuming.

    async def claim(
        self, folder: bytes, target_name: bytes, new_name: bytes, max_size: int
    ) -> Optional[ClaimedFile]:
        """
        Take over an unfinished file of an earlier copy to the same target, by renaming it.

        Return the open file; None if no file is certainly ours and at most `max_size` bytes large,
        which is the size of the source.
        """
        try:
            left = await self._stale_parts(folder, target_name)
            return (
                await self._claim(folder, target_name, new_name, left, max_size) if left else None
            )
        except Refused:
            return None  # another copy has been faster

    async def remove_parts_of(self, folder: bytes, target_name: bytes) -> None:
        """Remove the unfinished files of a target that is complete."""
        try:
            left = await self._stale_parts(folder, target_name)
            real, ours = await self._ours(folder, target_name, left) if left else (None, [])
            if real is not None:
                for reply in [
                    self._context.remote.ask_remove(join(real, e.filename)) for e in ours
                ]:
                    await reply
        except Refused:
            pass  # left to the next copy

    async def _stale_parts(self, folder: bytes, target_name: bytes) -> List[FolderEntry]:
        return [
            entry
            for entry in (await self._list(folder)).found
            if temporary.names.is_resumable_for(entry.filename, target_name, math.inf)
        ]

    async def _ours(
        self, folder: bytes, target_name: bytes, left: List[FolderEntry]
    ) -> Tuple[Optional[bytes], List[FolderEntry]]:
        """Return the real path of a guarded folder (or None), and our files in it."""
        owner = self._owner
        identity = await owner.identify(folder)
        real = await owner.guarded_path(folder)
        return real, [
            entry
            for entry in left
            if real is not None
            and owner.is_ours(entry.attributes, entry.links)
            and temporary.names.is_resumable_for(
                entry.filename, target_name, _age(entry, identity)
            )
        ]

    async def _claim(
        self,
        folder: bytes,
        target_name: bytes,
        new_name: bytes,
        left: List[FolderEntry],
        max_size: int,
    ) -> Optional[ClaimedFile]:
        remote, owner = self._context.remote, self._owner
        real, ours = await self._ours(folder, target_name, left)
        if real is None or not ours:
            self._context.warn_once(
                "not resumed",
                "an unfinished copy in %r is not resumed: its owner is uncertain",
                display_path(folder),
            )
            return None
        usable = [entry for entry in ours if (entry.attributes.size or 0) <= max_size]
        if not usable:
            return None
        best = max(usable, key=lambda entry: entry.attributes.size or 0)
        path = join(real, new_name)
        await remote.rename(join(real, best.filename), path)
        handle = await remote.open(path, protocol.FOR_READING | protocol.FOR_WRITING)
        found = parse_attributes(await remote.ask_stat_open(handle), path)
        if not owner.is_ours(found) or (found.size or 0) > max_size:
            remote.ask_close(handle)
            return None
        return ClaimedFile(path, handle, found.size or 0)

    # Listing.

    async def _list(self, folder: bytes) -> _Listing:
        """List the unfinished files in a folder, once per copy."""
        listing = self._listings.get(folder)
        if listing is None:
            listing = self._listings[folder] = _Listing(TaskEvent(self._context.pipeline))
            try:
                await self._read_folder(folder, listing)
            finally:
                listing.complete.set()
        await listing.complete.wait()
        return listing

    async def _read_folder(self, folder: bytes, listing: _Listing) -> None:
        remote, folders = self._context.remote, self._context.folder_budget
        await folders.acquire()
        try:
            handle = await remote.open_folder(folder)
            try:
                await self._read_entries(handle, folder, listing)
            finally:
                remote.ask_close(handle)
        finally:
            folders.release()

    async def _read_entries(self, handle: bytes, folder: bytes, listing: _Listing) -> None:
        remote = self._context.remote
        reader = FolderReader(remote, handle, folder, _READ_AHEAD, allow_partial=True)
        seen = 0
        while seen < _MAX_ENTRIES:
            entries = await reader.read()
            if not entries:
                break
            seen += len(entries)
            listing.found += [e for e in entries if temporary.parse(e.filename)]


def _age(entry: FolderEntry, identity: RemoteIdentity) -> float:
    mtime = entry.attributes.mtime
    return 0 if mtime is None else identity.now - mtime
