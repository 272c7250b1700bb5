"""Uploads one file, under a temporary name and a rename if the server supports that."""

from __future__ import annotations

import errno
import stat
from collections import deque
from typing import Deque, List, NamedTuple, Optional, Tuple, Union

from ssh_service.copying import temporary
from ssh_service.copying.checksums import matches_digest, verify
from ssh_service.copying.context import CopyContext
from ssh_service.copying.failures import (
    Refused,
    dangling_link,
    display_path,
    exchanged_error,
    not_a_file_error,
)
from ssh_service.copying.local.file_objects import SourceBytes
from ssh_service.copying.local.source_file import SourceFile
from ssh_service.copying.local.system import HAS_MODES
from ssh_service.copying.parts import move_parts
from ssh_service.copying.path_walk import MAX_SYMLINKS
from ssh_service.copying.paths import basename, folder_of, sibling
from ssh_service.copying.pipeline import ABORTS
from ssh_service.copying.remote_owner import NEW_FILE_FLAGS, PRIVATE_MODE
from ssh_service.copying.replies import check_status, is_file, is_folder, is_link, parse_attributes
from ssh_service.copying.sftp import encode, protocol
from ssh_service.copying.sftp.protocol import Attributes
from ssh_service.copying.sftp.reply import Reply
from ssh_service.copying.stale_files import ClaimedFile, StaleFiles
from ssh_service.errors import SshTransferError, transfer_error

__all__ = ["FileUpload", "UploadTarget", "require_sync"]

_OLD_FILE = protocol.FOR_WRITING | protocol.CREATE | protocol.TRUNCATE
# The status codes of servers on which no file, or none with such a name, can be created.
_NO_NEW_FILES = (protocol.PERMISSION_DENIED, protocol.BAD_MESSAGE, protocol.OP_UNSUPPORTED)


class UploadTarget(NamedTuple):
    """The path that a file is copied to, with symbolic links resolved, and what exists there."""

    path: bytes
    existing: Optional[Attributes] = None
    in_place: bool = False  # the file cannot be replaced, only overwritten
    is_in_new_folder: bool = False  # if so, there are no unfinished files


class _ModesNotSettable(Exception):
    """The server cannot set modes: the file must be created with its final mode."""


def require_sync(context: CopyContext, target: bytes) -> None:
    """Raise an error if ``fsync=True`` is given, and the server cannot do that."""
    if context.options.fsync and not context.remote.can_sync:
        text = "fsync=True is not possible: the server does not support fsync@openssh.com"
        raise transfer_error(errno.EOPNOTSUPP, display_path(target), text, side="remote")


class FileUpload:
    """
    The upload of one file.

    Attributes
    ----------
    source : Union[SourceFile, SourceBytes]
        The file, or the content.
    """

    def __init__(
        self,
        context: CopyContext,
        source: Union[SourceFile, SourceBytes],
        stale_files: StaleFiles,
    ) -> None:
        self._context = context
        self._remote = context.remote
        self.source = source
        self._stale_files = stale_files
        self._is_private = False  # the file was created with PRIVATE_MODE

    async def run(self, path: bytes, is_new: bool) -> None:
        """Copy the file to `path`; `is_new`: this copy has created the folder that contains it."""
        target = UploadTarget(path, None, False, True) if is_new else await self.resolve(path)
        if self._context.skips_unchanged and await self.is_up_to_date(target):
            self._context.progress.advance(self.source.size)
            if self._may_resume:
                await self._stale_files.remove_parts_of(
                    folder_of(target.path), basename(target.path)
                )
            return
        if target.in_place:
            await self._write_in_place(target)
            return
        try:
            is_done = await self._replace(target)
        except _ModesNotSettable:  # from now on, this is known for all files
            is_done = await self._replace(target)
        if not is_done:
            self.source.rewind()
            await self._write_in_place(target)

    async def resolve(self, path: bytes) -> UploadTarget:
        """Return the target for a path in an existing folder, and refuse one of a stranger's."""
        remote, owner = self._remote, self._context.owner
        folder = owner.ask_folder(path)  # sent concurrently, as it is needed if the target exists
        found = await remote.find(path, follow=False)
        given, links = path, 0
        while found is not None and is_link(found):
            await owner.check_target(path, found, folder)
            folder = None
            real = await remote.read_link(path) if links < MAX_SYMLINKS else None
            if real is None:  # the target can only be written through
                return UploadTarget(path, await remote.find(path), in_place=True)
            path, links = real, links + 1
            found = await remote.find(path, follow=False)
        if found is None:
            if links and await remote.find(folder_of(path)) is None:
                raise transfer_error(
                    errno.ENOENT, display_path(given), dangling_link(path), side="remote"
                )
            return UploadTarget(path)
        if is_folder(found):
            raise transfer_error(errno.EISDIR, display_path(path), side="remote")
        if not is_file(found) and not stat.S_ISCHR(found.mode or 0):
            # Opening a FIFO would block the server.
            raise not_a_file_error(path, found.mode or 0, "remote")
        await owner.check_target(path, found, folder)
        replaces = remote.can_replace or remote.facts.rename_replaces
        return UploadTarget(path, found, in_place=not (replaces and is_file(found)))

    async def is_up_to_date(self, target: UploadTarget) -> bool:
        """Return whether the target has the same size and time (and content, with `verify`)."""
        source, existing = self.source, target.existing
        if existing is None or not is_file(existing):
            return False
        if (existing.size, existing.mtime) != (source.size, source.attributes.mtime):
            return False
        if not self._context.options.verify:
            return True
        return await matches_digest(
            self._context, target.path, source.size, source.digest(source.size)
        )

    def _attributes_for(self, target: UploadTarget) -> Attributes:
        """Return the attributes of the copy; None: keep the existing value."""
        if target.existing is not None and not is_file(target.existing):
            return Attributes()  # a device
        if self._context.options.preserve is not False:
            attributes = self.source.attributes
            if not HAS_MODES and target.existing is not None:
                attributes = attributes._replace(mode=_mode(target.existing))
            return attributes
        return Attributes() if target.existing is None else Attributes(mode=_mode(target.existing))

    def _mode_for_new(self, target: UploadTarget) -> Optional[int]:
        """Return the mode to create the file with; None: private, and the mode is set later."""
        identity = self._context.owner.identity
        mode = self._attributes_for(target).mode
        if mode is None:
            return 0o666
        return None if identity is None or identity.sets_modes else mode & 0o777

    # Under a temporary name.

    async def _replace(self, target: UploadTarget) -> bool:
        """Write a temporary file and rename it; return False if that is impossible."""
        name = temporary.names.new(basename(target.path))
        try:
            opened = await self._open_temporary(target, name)
            return opened is not None and await self._complete(target, opened)
        finally:
            temporary.names.release(name)

    async def _open_temporary(self, target: UploadTarget, name: bytes) -> Optional[ClaimedFile]:
        """Open the temporary file; None if that is impossible."""
        path = sibling(target.path, name)
        try:
            if self._may_resume and not target.is_in_new_folder:
                claimed = await self._resume(target, name)
                if claimed is not None:
                    return claimed
            mode = self._mode_for_new(target)
            self._is_private = mode is None
            handle = await self._remote.open(
                path, NEW_FILE_FLAGS, PRIVATE_MODE if mode is None else mode
            )
            self._context.owner.start_identifying(handle, PRIVATE_MODE if mode is None else None)
            return ClaimedFile(path, handle, 0)
        except Refused as refused:
            if target.existing is not None and refused.code in _NO_NEW_FILES:
                return None  # the existing file may be writable
            refused.path = target.path
            raise
        except ABORTS as abort:
            self._context.pipeline.record_interrupt(abort)
            await self._discard(path)  # the server may have created it anyway
            raise

    async def _resume(self, target: UploadTarget, name: bytes) -> Optional[ClaimedFile]:
        """Open the unfinished file of an earlier copy; None unless the source starts with it."""
        source = self.source
        folder, last = folder_of(target.path), basename(target.path)
        claimed = await self._stale_files.claim(folder, last, name, source.size)
        if claimed is None:
            return None
        path, handle, size = claimed
        try:
            if size and await matches_digest(self._context, path, size, source.digest(size)):
                self._context.has_resumed = True
                return claimed
        except BaseException:
            self._remote.ask_close(handle)
            raise
        self._remote.ask_close(handle)
        await self._discard(path)
        return None

    @property
    def _may_resume(self) -> bool:
        return self._context.options.resume and not self._is_small

    @property
    def _is_small(self) -> bool:
        """Whether a single write request is sufficient."""
        return self.source.size <= self._remote.write_size

    async def _complete(self, target: UploadTarget, unfinished: ClaimedFile) -> bool:
        """Complete the temporary file and rename it; return False if only the rename fails."""
        source, path = self.source, unfinished.path
        try:
            if not await self._keep_owner(unfinished.handle, target):
                await self._remote.ask_close(unfinished.handle)
                await self._discard(path)
                return False
            await self._fill(unfinished, self._attributes_for(target))
            await verify(self._context, path, source.size, source)
            await self._context.owner.wait_for_identity()  # to remove stale files
            await self._remote.rename(path, target.path)
        except Refused as refused:
            await self._discard_after(target, path, refused)
            self._context.progress.advance(-source.size)  # it is written again, in place
            return False
        except (SshTransferError, _ModesNotSettable):
            await self._discard(path)  # an error of the source: there is nothing to resume
            raise
        except ABORTS as abort:
            self._context.pipeline.record_interrupt(abort)
            if not self._may_resume:
                await self._discard(path)
            raise
        return True

    async def _discard_after(self, target: UploadTarget, path: bytes, refused: Refused) -> None:
        """Discard the temporary file; raise the error, unless only the rename was refused."""
        only_the_rename = refused.path == target.path
        refused.path = target.path
        try:
            error = await self._remote.to_os_error(
                refused
            )  # before the removal, which would free space on a full disk
        except ABORTS as abort:
            self._context.pipeline.record_interrupt(abort)
            await self._discard(path)
            raise
        await self._discard(path)
        if not only_the_rename or target.existing is None:
            raise error from refused
        # The cause is a mount point, a sticky folder, or the rename of SFTP version 3.
        if not self._remote.can_replace:
            self._remote.facts.rename_replaces = False

    async def _discard(self, path: bytes) -> None:
        try:
            await self._remote.remove(path)
        except Refused:
            pass  # it is stale now: a later copy removes it

    async def _keep_owner(self, handle: bytes, target: UploadTarget) -> bool:
        old = target.existing
        if old is None or old.uid is None:
            return True
        reply = await self._remote.ask_set_open(handle, Attributes(uid=old.uid, gid=old.gid))
        try:
            check_status(reply, target.path)
        except Refused as refused:
            if refused.code == protocol.OP_UNSUPPORTED:
                return True
            identity = await self._context.owner.wait_for_identity()
            return (
                identity is not None and identity.uid == old.uid
            )  # the owner is right, even if the group is not
        return True

    # In place.

    async def _write_in_place(self, target: UploadTarget) -> None:
        """Overwrite the existing file: unsafe if interrupted, but there is no other way."""
        is_device = target.existing is not None and not is_file(target.existing)
        if not is_device:
            await self._check_room(target)
        unfinished = ClaimedFile(target.path, await self._open_existing(target), 0)
        keeps_its_mode = self._context.options.preserve is False
        attributes = Attributes() if keeps_its_mode else self._attributes_for(target)
        await self._fill(unfinished, attributes, is_device, is_ours=False)
        if not is_device:
            await verify(self._context, target.path, self.source.size, self.source)

    async def _open_existing(self, target: UploadTarget) -> bytes:
        """Open the existing file, and truncate it."""
        remote, path, existing = self._remote, target.path, target.existing
        if not await self._context.owner.is_in_shared_folder(path):
            return await remote.open(path, _OLD_FILE, PRIVATE_MODE)
        # Another user may have created a link there in the meantime, which SFTP follows: nothing
        # is created or truncated before the open file is known to be the right one.
        handle = await remote.open(path, protocol.FOR_WRITING)
        try:
            found = parse_attributes(await remote.ask_stat_open(handle), path)
            if existing is None or _unchanging_part(found) != _unchanging_part(existing):
                raise exchanged_error(path)
            if is_file(found):
                check_status(await remote.ask_set_open(handle, Attributes(size=0)), path)
        except BaseException:
            remote.ask_close(handle)
            raise
        return handle

    async def _check_room(self, target: UploadTarget) -> None:
        """Raise an error if the disk is too small, before the old content is lost in vain."""
        space = await self._remote.space(folder_of(target.path))
        old_size = 0 if target.existing is None else target.existing.size or 0
        if space is None or self.source.is_sparse:
            return
        if self.source.size - old_size > space.free_blocks * space.block_size:
            raise transfer_error(errno.ENOSPC, display_path(target.path), side="remote")

    # Content and attributes.

    async def _fill(
        self,
        unfinished: ClaimedFile,
        attributes: Attributes,
        is_device: bool = False,
        is_ours: bool = True,
    ) -> None:
        """Write the missing content and the attributes; close the file."""
        remote, source = self._remote, self.source
        path, handle, present = unfinished
        room = source.size if self._is_small else 0
        closing = None
        try:
            await self._context.byte_budget.acquire(room)
            try:
                replies = []
                if not self._is_small:
                    if is_ours:
                        await self._check_modes(attributes)
                    # On a device, skipped holes would not become zeros.
                    await self._write_parts(handle, path, present, not is_device)
                    source.check_unchanged()
                elif source.size:
                    replies.append(remote.ask_write(handle, 0, source.read_whole()))
                setting = None
                if attributes != Attributes():
                    setting = remote.ask_set_open(handle, attributes)
                if self._context.options.fsync:
                    replies.append(remote.ask_sync(handle))
                closing = remote.ask_close(handle)
                for reply in (*replies, closing):
                    _check_write(await reply, path, room)
            finally:
                self._context.byte_budget.release(room)
        finally:
            if closing is None:
                remote.ask_close(handle)
        if setting is not None:
            await self._check_attributes(await setting, path, attributes, is_ours)
        self._context.progress.advance(room)

    async def _check_modes(self, attributes: Attributes) -> None:
        """Start again if the file was created private, and its mode cannot be set."""
        if self._is_private and attributes.mode is not None:
            identity = await self._context.owner.wait_for_identity()
            if identity is not None and not identity.sets_modes:
                raise _ModesNotSettable()

    async def _check_attributes(
        self, reply: Reply, path: bytes, attributes: Attributes, is_ours: bool
    ) -> None:
        try:
            try:
                check_status(reply, path)
            except Refused as refused:
                if refused.code != protocol.OP_UNSUPPORTED:
                    raise
                await self._remote.set(
                    path, attributes
                )  # the server cannot set attributes of open files
        except Refused as refused:
            if is_ours:
                await self._check_modes(attributes)
                self._context.on_modes_refused(path, refused)
            else:
                self._context.warn_once(
                    "attributes", "mode and times of %r: %s", display_path(path), refused
                )

    async def _write_parts(self, handle: bytes, path: bytes, start: int, holes: bool) -> None:
        source, remote, progress = self.source, self._remote, self._context.progress
        room, most = encode.write_room(handle), remote.write_size
        # Parts are written from buffers, which are reused after the reply.
        in_use: Deque[bytearray] = deque()
        spare: List[bytearray] = []
        done = start
        progress.advance(start)

        def ask(offset: int, size: int) -> Reply:
            nonlocal done
            progress.advance(offset - done)  # a hole
            done = offset + size
            buffer = spare.pop() if spare else bytearray(room + most)
            source.read_into(memoryview(buffer)[room : room + size], offset)
            in_use.append(buffer)
            return remote.ask_write_in(handle, offset, size, buffer)

        def take(reply: Reply, offset: int, size: int) -> int:
            spare.append(in_use.popleft())
            _check_write(reply, path, size)
            progress.advance(size)
            return size

        await move_parts(self._context.byte_budget, source.parts(start, most, holes), ask, take)


def _unchanging_part(file: Attributes) -> Tuple[Optional[int], ...]:
    """Return the attributes that do not change when a file is read."""
    written = (file.size, file.mtime) if is_file(file) else ()
    return (file.uid, file.gid, file.mode, *written)


def _mode(existing: Attributes) -> Optional[int]:
    return None if existing.mode is None else existing.mode & 0o777


def _check_write(reply: Reply, path: bytes, size: int) -> None:
    try:
        check_status(reply, path)
    except Refused as refused:
        refused.size = size
        raise
