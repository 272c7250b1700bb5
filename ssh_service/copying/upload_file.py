"""One file from here to the server: written beside its place and renamed, where that can be."""

from __future__ import annotations

import errno
import stat
from collections import deque
from typing import Deque, List, NamedTuple, Optional, Tuple

from ssh_service.copying import temporary
from ssh_service.copying.checksums import is_same, verify
from ssh_service.copying.context import Job
from ssh_service.copying.failures import Refused, exchanged, not_a_file, shown
from ssh_service.copying.local.source_file import SourceFile
from ssh_service.copying.parts import move_parts
from ssh_service.copying.paths import beside, folder_of, last_name
from ssh_service.copying.pipeline import STOPPED
from ssh_service.copying.remote_files import attributes_in, is_file, is_folder, is_link, succeed
from ssh_service.copying.remote_owner import MOST_LINKS, NEW_FILE, PRIVATE
from ssh_service.copying.sftp import encode, protocol
from ssh_service.copying.sftp.protocol import Attributes
from ssh_service.copying.sftp.reply import Reply
from ssh_service.copying.stale_files import Claimed, Leftovers
from ssh_service.errors import SshTransferError, transfer_error

__all__ = ["FileUpload"]

_OLD_FILE = protocol.FOR_WRITING | protocol.CREATE | protocol.TRUNCATE
# What a server says where a folder takes no new files, or not under such a name.
_NO_NEW_FILES = (protocol.PERMISSION_DENIED, protocol.BAD_MESSAGE, protocol.OP_UNSUPPORTED)


class _Place(NamedTuple):
    """Where a file goes: symbolic links followed, and what stands there now."""

    path: bytes
    existing: Optional[Attributes] = None
    in_place: bool = False  # it cannot be replaced, only written into
    is_in_new_folder: bool = False  # so nothing unfinished is in there


class _ModesRefused(Exception):
    """The server turns out to set no modes: the file has to be created with its own."""


class FileUpload:
    """
    The upload of one file.

    Parameters
    ----------
    job : Job
        The copy.
    source : SourceFile
        The local file, open.
    leftovers : Leftovers
        What earlier copies left.
    """

    def __init__(self, job: Job, source: SourceFile, leftovers: Leftovers) -> None:
        self._job = job
        self._remote = job.remote
        self._source = source
        self._leftovers = leftovers
        self._is_private = False  # the file was created with another mode than it shall have

    async def run(self, target: bytes, is_new: bool) -> None:
        """
        Copy it.

        Parameters
        ----------
        target : bytes
            The remote path.
        is_new : bool
            Whether it lies in a folder that this copy made, so that nothing is there.
        """
        place = _Place(target, None, False, True) if is_new else await self._find_place(target)
        if self._job.passes_over and await self._is_there(place):
            self._job.progress.advance(self._source.size)
            if self._may_resume:
                await self._leftovers.drop(folder_of(place.path), last_name(place.path))
            return
        if place.in_place:
            await self._write_into(place)
            return
        try:
            is_done = await self._replace(place)
        except _ModesRefused:  # known from now on, for all files
            is_done = await self._replace(place)
        if not is_done:
            await self._write_into(place)

    async def _find_place(self, target: bytes) -> _Place:
        remote, owner = self._remote, self._job.owner
        folder = owner.ask_folder(target)  # at the same time: it is needed if there is something
        found = await remote.find(target, follow=False)
        links = 0
        while found is not None and is_link(found):
            await owner.check_target(target, found, folder)
            folder = None
            real = await remote.read_link(target) if links < MOST_LINKS else None
            if real is None:  # all we can do is write through it
                return _Place(target, await remote.find(target), in_place=True)
            target, links = real, links + 1
            found = await remote.find(target, follow=False)
        if found is None:
            return _Place(target)
        if is_folder(found):
            raise transfer_error(errno.EISDIR, shown(target), side="remote")
        if not is_file(found) and not stat.S_ISCHR(found.mode or 0):
            # Opening a fifo would block the server.
            raise not_a_file(target, found.mode or 0, "remote")
        await owner.check_target(target, found, folder)
        replaces = remote.can_replace or remote.facts.get("rename replaces", True)
        return _Place(target, found, in_place=not (replaces and is_file(found)))

    async def _is_there(self, place: _Place) -> bool:
        """Return whether a file of the same size and time is there, verified if wanted."""
        source, existing = self._source, place.existing
        if existing is None or not is_file(existing):
            return False
        if (existing.size, existing.mtime) != (source.size, source.attributes.mtime):
            return False
        if not self._job.options.verify:
            return True
        return await is_same(self._job, place.path, source.size, source.digest(source.size))

    def _attributes_for(self, place: _Place) -> Attributes:
        """Return what the file shall have; what is None is left alone."""
        if place.existing is not None and not is_file(place.existing):
            return Attributes()  # a device
        if self._job.options.preserve is not False:
            return self._source.attributes
        return Attributes() if place.existing is None else Attributes(mode=_mode(place.existing))

    def _mode_for_new(self, place: _Place) -> Optional[int]:
        """Return the mode to create the file with; None: private, and another is set later."""
        identity = self._job.owner.identity
        mode = self._attributes_for(place).mode
        if mode is None:
            return 0o666
        return None if identity is None or identity.sets_modes else mode & 0o777

    # Beside its place.

    async def _replace(self, place: _Place) -> bool:
        """Write beside the target and rename over it; False if it can only be written into."""
        name = temporary.names.new(last_name(place.path))
        try:
            opened = await self._open_beside(place, name)
            return opened is not None and await self._complete(place, opened)
        finally:
            temporary.names.release(name)

    async def _open_beside(self, place: _Place, name: bytes) -> Optional[Claimed]:
        """Open the unfinished file; None if it cannot be."""
        path = beside(place.path, name)
        try:
            if self._may_resume and not place.is_in_new_folder:
                claimed = await self._continue(place, name)
                if claimed is not None:
                    return claimed
            mode = self._mode_for_new(place)
            self._is_private = mode is None
            handle = await self._remote.open(path, NEW_FILE, PRIVATE if mode is None else mode)
            self._job.owner.learn(handle, PRIVATE if mode is None else None)
            return Claimed(path, handle, 0)
        except Refused as refused:
            if place.existing is not None and refused.code in _NO_NEW_FILES:
                return None  # but the old one may be writable
            refused.path = place.path
            raise
        except STOPPED as stopped:
            self._job.pipeline.note(stopped)
            await self._discard(path)  # the server may have made it all the same
            raise

    async def _continue(self, place: _Place, name: bytes) -> Optional[Claimed]:
        """Open what an earlier copy left; None unless it is the beginning of the source."""
        source = self._source
        folder, last = folder_of(place.path), last_name(place.path)
        claimed = await self._leftovers.claim(folder, last, name, source.size)
        if claimed is None:
            return None
        path, handle, size = claimed
        try:
            if size and await is_same(self._job, path, size, source.digest(size)):
                self._job.has_resumed = True
                return claimed
        except BaseException:
            self._remote.ask_close(handle)
            raise
        self._remote.ask_close(handle)
        await self._discard(path)
        return None

    @property
    def _may_resume(self) -> bool:
        return self._job.options.resume and not self._is_small

    @property
    def _is_small(self) -> bool:
        """Whether all of it goes in one piece."""
        return self._source.size <= self._remote.write_size

    async def _complete(self, place: _Place, unfinished: Claimed) -> bool:
        """Fill the unfinished file and give it its name; False if it cannot have that."""
        source, path = self._source, unfinished.path
        try:
            if not await self._keep_owner(unfinished.handle, place):
                await self._remote.ask_close(unfinished.handle)
                await self._discard(path)
                return False
            await self._fill(unfinished, self._attributes_for(place))
            await verify(self._job, path, source.size, source)
            await self._job.owner.known()  # for the sweep; asked for long since
            await self._remote.rename(path, place.path)
        except Refused as refused:
            await self._give_up(place, path, refused)
            return False
        except (SshTransferError, _ModesRefused):
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
            if refused.code == protocol.OP_UNSUPPORTED:
                return True
            identity = await self._job.owner.known()
            return identity is not None and identity.uid == old.uid  # all but the group
        return True

    # In its place.

    async def _write_into(self, place: _Place) -> None:
        """Write into what stands there: not safe against a cut, but the only way."""
        is_device = place.existing is not None and not is_file(place.existing)
        if not is_device:
            await self._check_room(place)
        unfinished = Claimed(place.path, await self._open_existing(place), 0)
        keeps_its_mode = self._job.options.preserve is False
        attributes = Attributes() if keeps_its_mode else self._attributes_for(place)
        await self._fill(unfinished, attributes, is_device, is_ours=False)
        if not is_device:
            await verify(self._job, place.path, self._source.size, self._source)

    async def _open_existing(self, place: _Place) -> bytes:
        """Open what stands there, and empty it."""
        remote, path, existing = self._remote, place.path, place.existing
        if not await self._job.owner.is_in_shared_folder(path):
            return await remote.open(path, _OLD_FILE, PRIVATE)
        # A stranger may have put a link in its place meanwhile, which SFTP follows: so nothing is
        # made, or lost, before it is seen what was opened.
        handle = await remote.open(path, protocol.FOR_WRITING)
        try:
            found = attributes_in(await remote.ask_stat_open(handle), path)
            if existing is None or _traits(found) != _traits(existing):
                raise exchanged(path)
            if is_file(found):
                succeed(await remote.ask_set_open(handle, Attributes(size=0)), path)
        except BaseException:
            remote.ask_close(handle)
            raise
        return handle

    async def _check_room(self, place: _Place) -> None:
        """Refuse to begin where the disk is too small: the old content would be lost for that."""
        space = await self._remote.space(folder_of(place.path))
        old_size = 0 if place.existing is None else place.existing.size or 0
        if space is None or self._source.is_sparse:
            return
        if self._source.size - old_size > space.free_blocks * space.block_size:
            raise transfer_error(errno.ENOSPC, shown(place.path), side="remote")

    # Content and attributes.

    async def _fill(
        self,
        unfinished: Claimed,
        attributes: Attributes,
        is_device: bool = False,
        is_ours: bool = True,
    ) -> None:
        """Write the content that is not there yet, and attributes, and close."""
        remote, source = self._remote, self._source
        path, handle, present = unfinished
        room = source.size if self._is_small else 0
        closing = None
        try:
            await self._job.flow.take(room)
            try:
                replies = []
                if not self._is_small:
                    if is_ours:
                        await self._check_modes(attributes)
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
                    _succeed_in_writing(await reply, path, room)
            finally:
                self._job.flow.give(room)
        finally:
            if closing is None:
                remote.ask_close(handle)
        if setting is not None:
            await self._check_attributes(await setting, path, attributes, is_ours)
        self._job.progress.advance(room)

    async def _check_modes(self, attributes: Attributes) -> None:
        """Begin again if the file was created private, and turns out to have to stay so."""
        if self._is_private and attributes.mode is not None:
            identity = await self._job.owner.known()
            if identity is not None and not identity.sets_modes:
                raise _ModesRefused()

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
                await self._check_modes(attributes)
                self._job.modes_refused(path, refused)
            else:
                self._job.warn_once("attributes", "mode and times of %r: %s", shown(path), refused)

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
            _succeed_in_writing(reply, path, size)
            progress.advance(size)
            return size

        await move_parts(self._job.flow, source.parts(start, most, holes), ask, take)


def _traits(file: Attributes) -> Tuple[Optional[int], ...]:
    """Give what does not change while a file is only looked at."""
    written = (file.size, file.mtime) if is_file(file) else ()
    return (file.uid, file.gid, file.mode, *written)


def _mode(existing: Attributes) -> Optional[int]:
    return None if existing.mode is None else existing.mode & 0o777


def _succeed_in_writing(reply: Reply, path: bytes, size: int) -> None:
    try:
        succeed(reply, path)
    except Refused as refused:
        refused.size = size
        raise
