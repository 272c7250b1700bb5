"""One file from here to the server: written beside its place and renamed, where that can be."""

from __future__ import annotations

import errno
import logging
import stat
from collections import deque
from typing import Deque, List, NamedTuple, Optional, Tuple

from ssh_service.copying import temporary
from ssh_service.copying.checksums import is_same, verify
from ssh_service.copying.failures import Refused, not_a_file, shown
from ssh_service.copying.job import Job
from ssh_service.copying.leftovers import claim_leftover
from ssh_service.copying.local.source_file import SourceFile
from ssh_service.copying.parts import move_parts
from ssh_service.copying.paths import beside, last_name
from ssh_service.copying.pipeline import STOPPED
from ssh_service.copying.remote_files import is_file, is_folder, is_link, succeed
from ssh_service.copying.sftp import encode, protocol
from ssh_service.copying.sftp.protocol import Attributes
from ssh_service.copying.sftp.reply import Reply
from ssh_service.errors import SshTransferError, transfer_error

__all__ = ["FileUpload"]

_log = logging.getLogger("ssh_service.copying")

_NEW_FILE = protocol.FOR_WRITING | protocol.CREATE | protocol.EXCLUSIVE
_OLD_FILE = protocol.FOR_WRITING | protocol.CREATE | protocol.TRUNCATE
# What a server says where a folder takes no new files, or not under such a name.
_NO_NEW_FILES = (protocol.PERMISSION_DENIED, protocol.BAD_MESSAGE, protocol.OP_UNSUPPORTED)
# A file is nobody else's business until it is complete; its own mode comes with the rest.
_PRIVATE = 0o600


class _Place(NamedTuple):
    """Where a file goes: symbolic links followed, and what stands there now."""

    path: bytes
    existing: Optional[Attributes] = None
    in_place: bool = False  # it cannot be replaced, only written into


class FileUpload:
    """
    The upload of one file.

    Parameters
    ----------
    job : Job
        The copy.
    source : SourceFile
        The local file, open.
    """

    def __init__(self, job: Job, source: SourceFile) -> None:
        self._job = job
        self._remote = job.remote
        self._source = source

    async def run(self, target: bytes, is_new: bool) -> None:
        """
        Copy it.

        Parameters
        ----------
        target : bytes
            The remote path.
        is_new : bool
            Whether it is known that nothing is there.
        """
        place = _Place(target) if is_new else await self._find_place(target)
        if place.in_place or not await self._replace(place):
            await self._write_into(place)

    async def _find_place(self, target: bytes) -> _Place:
        found = await self._remote.find(target, follow=False)
        if found is not None and is_link(found):
            real = await self._remote.follow(target)
            if real is None:  # all we can do is write through it
                return _Place(target, await self._remote.find(target), in_place=True)
            target = real
            found = await self._remote.find(target, follow=False)
        if found is None:
            return _Place(target)
        if is_folder(found):
            raise transfer_error(errno.EISDIR, shown(target))
        if not is_file(found) and not stat.S_ISCHR(found.mode or 0):
            raise not_a_file(target, found.mode or 0)  # opening a fifo would block the server
        replaces = self._remote.can_replace or self._remote.facts.get("rename replaces", True)
        return _Place(target, found, in_place=not (replaces and is_file(found)))

    # Beside its place.

    async def _replace(self, place: _Place) -> bool:
        """Write beside the target and rename over it; False if it can only be written into."""
        name = temporary.names.new(last_name(place.path))
        path = beside(place.path, name)
        try:
            opened = await self._open_beside(place, path)
            return opened is not None and await self._complete(place, path, *opened)
        finally:
            temporary.names.release(name)

    async def _open_beside(self, place: _Place, path: bytes) -> Optional[Tuple[bytes, int]]:
        """Open the unfinished file, and tell how much is right in it; None if it cannot be."""
        try:
            return await self._open_unfinished(place, path)
        except Refused as refused:
            if place.existing is not None and refused.code in _NO_NEW_FILES:
                return None  # but the old one may be writable
            refused.path = place.path
            raise
        except STOPPED as stopped:
            self._job.pipeline.note(stopped)
            await self._discard(path)  # the server may have made it all the same
            raise

    async def _open_unfinished(self, place: _Place, path: bytes) -> Tuple[bytes, int]:
        if self._may_resume:
            source = self._source
            size = await claim_leftover(self._job, place.path, path, source.size)
            if size and await is_same(self._job, path, size, source.digest(size)):
                return await self._remote.open(path, protocol.FOR_WRITING), size
            if size is not None:
                await self._discard(path)
        plain = self._job.options.preserve is False and place.existing is None
        return await self._remote.open(path, _NEW_FILE, None if plain else _PRIVATE), 0

    def _attributes(self, existing: Optional[Attributes]) -> Attributes:
        """Give what the copy shall have of modes and times; of what it replaces, if not ours."""
        if self._job.options.preserve is not False:
            return self._source.attributes
        if existing is None or existing.mode is None:
            return Attributes()
        return Attributes(mode=stat.S_IMODE(existing.mode))

    @property
    def _may_resume(self) -> bool:
        return self._job.options.resume and not self._is_small

    @property
    def _is_small(self) -> bool:
        """Whether all of it goes in one piece."""
        return self._source.size <= self._remote.write_size

    async def _complete(self, place: _Place, path: bytes, handle: bytes, present: int) -> bool:
        """Fill the unfinished file and give it its name; False if it cannot have that."""
        source = self._source
        try:
            if not await self._keep_owner(handle, place):
                await self._remote.ask_close(handle)
                await self._discard(path)
                return False
            await self._fill(handle, path, self._attributes(place.existing), False, present)
            await verify(self._job, path, source.size, source)
            await self._remote.rename(path, place.path)
        except Refused as refused:
            await self._give_up(place, path, refused)
            return False
        except SshTransferError:
            await self._discard(path)  # what the source is to blame for is of no use later
            raise
        except STOPPED as stopped:
            self._job.pipeline.note(stopped)
            if not self._may_resume:
                await self._discard(path)
            raise
        return True

    async def _give_up(self, place: _Place, path: bytes, refused: Refused) -> None:
        """Discard the unfinished file; raise what was wrong, unless it was the rename alone."""
        only_the_rename = refused.path == place.path
        refused.path = place.path
        try:
            error = await self._remote.explain(refused)  # first: a full disk is, with it, full
        except STOPPED as stopped:
            self._job.pipeline.note(stopped)
            await self._discard(path)
            raise
        await self._discard(path)
        if not only_the_rename or place.existing is None:
            raise error from refused
        # A mount point, a sticky folder, or version 3's rule.
        if not self._remote.can_replace:
            self._remote.facts["rename replaces"] = False

    async def _discard(self, path: bytes) -> None:
        try:
            await self._remote.remove(path)
        except Refused:
            pass  # it is litter now: the next run removes it

    async def _keep_owner(self, handle: bytes, place: _Place) -> bool:
        old = place.existing
        if old is None or old.uid is None:
            return True
        reply = await self._remote.ask_set_open(handle, Attributes(uid=old.uid, gid=old.gid))
        try:
            succeed(reply, place.path)
        except Refused as refused:
            return refused.code == protocol.OP_UNSUPPORTED
        return True

    # In its place.

    async def _write_into(self, place: _Place) -> None:
        """Write into what stands there: not safe against a cut, but the only way."""
        handle = await self._remote.open(place.path, _OLD_FILE, _PRIVATE)
        is_device = place.existing is not None and not is_file(place.existing)
        attributes = Attributes() if is_device else self._attributes(None)
        await self._fill(handle, place.path, attributes, is_device, is_ours=False)
        if not is_device:
            await verify(self._job, place.path, self._source.size, self._source)

    # Content and attributes.

    async def _fill(
        self,
        handle: bytes,
        path: bytes,
        attributes: Attributes,
        is_device: bool,
        present: int = 0,
        is_ours: bool = True,
    ) -> None:
        """Write content, but for what is `present`, and attributes, and close."""
        remote, source = self._remote, self._source
        room = source.size if self._is_small else 0
        closing = None
        try:
            await self._job.flow.take(room)
            try:
                replies = []
                if not self._is_small:
                    # A device, which gets no mode, would not notice a hole.
                    await self._write_parts(handle, path, present, not is_device)
                    source.check_unchanged()
                elif source.size:
                    replies.append(remote.ask_write(handle, 0, source.read_whole()))
                setting = None
                if attributes != Attributes():
                    setting = remote.ask_set_open(handle, attributes)
                if self._job.options.fsync:
                    replies.append(remote.ask_sync(handle))
                closing = remote.ask_close(handle)
                for reply in (*replies, closing):
                    succeed(await reply, path)
            finally:
                self._job.flow.give(room)
        finally:
            if closing is None:
                remote.ask_close(handle)
        self._job.progress.advance(room)
        if setting is not None:
            await self._check_attributes(await setting, path, attributes, is_ours)

    async def _check_attributes(
        self, reply: Reply, path: bytes, attributes: Attributes, is_ours: bool
    ) -> None:
        try:
            try:
                succeed(reply, path)
            except Refused as refused:
                if refused.code != protocol.OP_UNSUPPORTED:
                    raise
                await self._remote.set(path, attributes)  # a server that knows no open files'
        except Refused as refused:
            if is_ours:
                self._job.modes_refused(path, refused)
            else:
                _log.warning("mode and times of %r could not be set: %s", shown(path), refused)

    async def _write_parts(self, handle: bytes, path: bytes, start: int, holes: bool) -> None:
        source, remote, progress = self._source, self._remote, self._job.progress
        room, most = encode.write_room(handle), remote.write_size
        # A part is written from a buffer, which is used again once the reply has come.
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
            succeed(reply, path)
            progress.advance(size)
            return size

        await move_parts(self._job.flow, source.parts(start, most, holes), ask, take)
