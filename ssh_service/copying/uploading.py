"""From here to the server: a file, or a tree of them."""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections import deque
from typing import Deque, List, NamedTuple, Optional, Tuple

from ssh_service.copying import protocol, temporary
from ssh_service.copying.checksums import is_same
from ssh_service.copying.failures import Refused, local_error, shown
from ssh_service.copying.job import Job
from ssh_service.copying.leftovers import claim_leftover, sweep
from ssh_service.copying.local_source import SourceFile, attributes_of, not_a_file, walk
from ssh_service.copying.pipeline import STOPPED, Signal
from ssh_service.copying.protocol import Attributes
from ssh_service.copying.remote_files import is_file, is_folder, is_link, succeed
from ssh_service.copying.session import Reply
from ssh_service.copying.stream_up import StreamedTree, is_worth_a_stream, stream_tree
from ssh_service.errors import SshTransferError, transfer_error

__all__ = ["Upload"]

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


class _Folder:
    """
    A folder of the server's.

    Attributes
    ----------
    path : bytes
        Its path.
    is_new : bool
        Whether this copy made it, so that nothing can stand in the way in there.
    made : Signal
        Set once it exists.
    """

    def __init__(self, path: bytes, made: Signal) -> None:
        self.path = path
        self.is_new = False
        self.made = made

    def below(self, name: bytes) -> bytes:
        """Give the path of an entry."""
        return self.path + name if self.path.endswith(b"/") else self.path + b"/" + name


class Upload:
    """
    The tasks of one upload.

    Parameters
    ----------
    job : Job
        What they share.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._remote = job.remote
        self._pipeline = job.pipeline
        # Folders' own attributes, innermost first: set last, as each new entry changes the times
        # of its folder, and a folder's mode may forbid us to write into it.
        self._finished_folders: List[Tuple[bytes, Attributes]] = []

    async def run(self, source: bytes, target: bytes) -> None:
        """
        Copy; the pipeline's first task.

        Parameters
        ----------
        source : bytes
            The local path.
        target : bytes
            The remote path.
        """
        try:
            status = os.stat(source)
        except OSError as error:
            raise local_error(error, source) from error
        is_tree = stat.S_ISDIR(status.st_mode)
        if is_tree and not self._job.options.recursive:
            raise transfer_error(errno.EISDIR, shown(source), "a folder, and not recursive")
        if not is_tree and not stat.S_ISREG(status.st_mode):
            raise not_a_file(source, status.st_mode)
        try:
            await self._run(source, status, target)
        except Refused as refused:
            raise await self._remote.explain(refused) from refused

    async def _run(self, source: bytes, status: os.stat_result, target: bytes) -> None:
        is_tree = stat.S_ISDIR(status.st_mode)
        target = await self._remote.expand_home(target or b".")
        found = await self._remote.find(target)
        if found is not None and is_folder(found):
            target = target.rstrip(b"/") + b"/" + basename(source)
            found = None  # not looked at yet
        elif found is not None and is_tree:
            raise transfer_error(errno.ENOTDIR, shown(target))
        elif target.endswith(b"/") and not is_tree:
            code = errno.ENOENT if found is None else errno.ENOTDIR
            raise transfer_error(code, shown(target))
        if not is_tree:
            self._job.expect(status.st_size)
            self._job.expect_no_more()
            await self._job.files.take()
            self._pipeline.start(self._copy_file(source, target, None))
            self._pipeline.start(sweep(self._job, parent(target)))
        else:
            await self._copy_tree(source, status, target.rstrip(b"/") or b"/")
        await self._pipeline.others_done()
        await self._finish_folders()

    async def _copy_tree(self, source: bytes, status: os.stat_result, target: bytes) -> None:
        if self._job.wants_progress:
            for entry in walk(source, status):
                if entry.status is None:
                    self._job.expect(os.stat(entry.path).st_size)
            self._job.expect_no_more()
        self._pipeline.start(sweep(self._job, parent(target)))
        if is_worth_a_stream(self._job, source, status):
            if await self._remote.find(target) is None:
                streamed = await stream_tree(self._job, source, status, target)
                if streamed is not None:
                    await self._copy_rest(streamed, target)
                    return
        folder = await self._start_folder(target, status, None)
        # Before the first entry is read: what cannot be begun must not be half done.
        await folder.made.wait()
        folders = [folder]
        try:
            for entry in walk(source, status):
                path = folders[-1].below(entry.name)
                if entry.status is None:
                    await self._job.files.take()
                    self._pipeline.start(self._copy_file(entry.path, path, folders[-1]))
                elif entry.leaves:
                    path = folders.pop().path
                    self._finished_folders.append((path, attributes_of(entry.status)))
                else:
                    folders.append(await self._start_folder(path, entry.status, folders[-1]))
        except OSError as error:
            self._pipeline.fail(error)
        self._finished_folders.append((target, attributes_of(status)))

    async def _copy_rest(self, streamed: StreamedTree, target: bytes) -> None:
        folder = _Folder(target, Signal(self._pipeline))
        folder.is_new = True
        folder.made.set()
        self._finished_folders += streamed.folders
        for path, there in streamed.left:
            await self._job.files.take()
            self._pipeline.start(self._copy_file(path, there, folder))

    # Folders.

    async def _start_folder(
        self, path: bytes, status: os.stat_result, inside: Optional[_Folder]
    ) -> _Folder:
        folder = _Folder(path, Signal(self._pipeline))
        await self._job.folders.take()
        self._pipeline.start(self._make_folder(folder, stat.S_IMODE(status.st_mode), inside))
        return folder

    async def _make_folder(self, folder: _Folder, mode: int, inside: Optional[_Folder]) -> None:
        try:
            if inside is not None:
                await inside.made.wait()
            try:
                # Ours to write into, until all is in it.
                await self._remote.make_folder(folder.path, mode | stat.S_IRWXU)
                folder.is_new = True
            except Refused as refused:
                await self._accept_folder(folder, refused)
        finally:
            self._job.folders.give()
        folder.made.set()

    async def _accept_folder(self, folder: _Folder, refused: Refused) -> None:
        """Take a folder that exists already, else tell why there cannot be one."""
        found = await self._remote.find(folder.path)
        if found is None:
            raise await self._remote.explain(refused) from refused
        if not is_folder(found):
            raise transfer_error(errno.ENOTDIR, shown(folder.path)) from refused
        self._pipeline.start(sweep(self._job, folder.path))

    async def _finish_folders(self) -> None:
        replies: Deque[Tuple[bytes, Reply]] = deque()
        for path, attributes in self._finished_folders:
            replies.append((path, self._remote.ask_set(path, attributes)))
            while len(replies) > 500:
                self._check_set(*replies.popleft())
        while replies:
            path, reply = replies.popleft()
            await reply
            self._check_set(path, reply)

    def _check_set(self, path: bytes, reply: Reply) -> None:
        try:
            succeed(reply, path)
        except Refused as refused:
            if refused.code != protocol.OP_UNSUPPORTED:
                raise

    # Files.

    async def _copy_file(self, path: bytes, target: bytes, folder: Optional[_Folder]) -> None:
        try:
            with SourceFile(path) as source:
                is_new = False
                if folder is not None:
                    await folder.made.wait()
                    is_new = folder.is_new
                place = _Place(target) if is_new else await self._find_place(target)
                if place.in_place or not await self._replace(source, place):
                    await self._write_into(source, place)
            self._job.file_done()
        except Refused as refused:
            raise await self._remote.explain(refused) from refused
        finally:
            self._job.files.give()

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

    async def _replace(self, source: SourceFile, place: _Place) -> bool:
        """Write beside the target and rename over it; False if it can only be written into."""
        name = temporary.names.new(basename(place.path))
        path = parent(place.path) + name
        try:
            try:
                handle, present = await self._open_unfinished(source, place, path)
            except Refused as refused:
                if place.existing is not None and refused.code in _NO_NEW_FILES:
                    return False  # but the old one may be writable
                refused.path = place.path
                raise
            except STOPPED as stopped:
                self._pipeline.note(stopped)
                await self._discard(path)  # the server may have made it all the same
                raise
            try:
                if not await self._keep_owner(handle, place):
                    await self._remote.ask_close(handle)
                    await self._discard(path)
                    return False
                await self._fill(source, source.attributes, handle, path, present)
                await self._verify(source, path)
                await self._remote.rename(path, place.path)
            except Refused as refused:
                only_the_rename = refused.path == place.path
                refused.path = place.path
                try:
                    error = await self._remote.explain(
                        refused
                    )  # a full disk is full only until...
                except STOPPED as stopped:
                    self._pipeline.note(stopped)
                    await self._discard(path)
                    raise
                await self._discard(path)
                if not only_the_rename or place.existing is None:
                    raise error from refused
                # A mount point, a sticky folder, or version 3's rule.
                if not self._remote.can_replace:
                    self._remote.facts["rename replaces"] = False
                return False
            except SshTransferError:
                await self._discard(path)  # what the source is to blame for is of no use later
                raise
            except STOPPED as stopped:
                self._pipeline.note(stopped)
                if not self._may_resume(source):
                    await self._discard(path)
                raise
        finally:
            temporary.names.release(name)
        return True

    def _may_resume(self, source: SourceFile) -> bool:
        return self._job.options.resume and source.size > self._remote.write_size

    async def _open_unfinished(
        self, source: SourceFile, place: _Place, path: bytes
    ) -> Tuple[bytes, int]:
        """Open the unfinished file; tell how much of it is there already, proven to be right."""
        if self._may_resume(source):
            size = await claim_leftover(self._job, place.path, path, source.size)
            if size and await is_same(self._job, path, size, source.digest(size)):
                return await self._remote.open(path, protocol.FOR_WRITING), size
            if size is not None:
                await self._discard(path)
        return await self._remote.open(path, _NEW_FILE, _PRIVATE), 0

    async def _verify(self, source: SourceFile, path: bytes) -> None:
        if self._job.options.verify:
            if not await is_same(self._job, path, source.size, source.digest(source.size)):
                raise transfer_error(
                    errno.EIO, shown(source.path), "what arrived is not what was sent"
                )

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

    async def _write_into(self, source: SourceFile, place: _Place) -> None:
        """Write into what stands there: not safe against a cut, but the only way."""
        handle = await self._remote.open(place.path, _OLD_FILE, _PRIVATE)
        is_device = place.existing is not None and not is_file(place.existing)
        attributes = Attributes() if is_device else source.attributes
        await self._fill(source, attributes, handle, place.path, is_ours=False)
        if not is_device:
            await self._verify(source, place.path)

    async def _fill(
        self,
        source: SourceFile,
        attributes: Attributes,
        handle: bytes,
        path: bytes,
        present: int = 0,
        is_ours: bool = True,
    ) -> None:
        """Write content, but for what is `present`, and attributes, and close."""
        holes = attributes.mode is not None  # a device, which gets no mode, would not notice
        is_small = source.size <= self._remote.write_size
        room = source.size if is_small else 0
        closing = None
        try:
            await self._job.flow.take(room)
            try:
                replies = []
                if not is_small:
                    await self._stream(source, handle, path, present, holes)
                    source.check_unchanged()
                elif source.size:
                    replies.append(self._remote.ask_write(handle, 0, source.read_whole()))
                setting = self._remote.ask_set_open(handle, attributes)
                if self._job.options.fsync:
                    replies.append(self._remote.ask_sync(handle))
                closing = self._remote.ask_close(handle)
                for reply in (*replies, closing):
                    succeed(await reply, path)
            finally:
                self._job.flow.give(room)
        finally:
            if closing is None:
                self._remote.ask_close(handle)
        self._job.advance(room)
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
            if is_ours and refused.code != protocol.OP_UNSUPPORTED:
                raise
            _log.warning("mode and times of %r could not be set: %s", shown(path), refused)

    async def _stream(
        self, source: SourceFile, handle: bytes, path: bytes, start: int, holes: bool
    ) -> None:
        done = start
        flow, size, room = self._job.flow, self._remote.write_size, protocol.write_room(handle)
        # Written, not confirmed: reply, size, and the buffer, which is used again after that.
        on_way: Deque[Tuple[Reply, int, bytearray]] = deque()
        spare: List[bytearray] = []
        self._job.advance(start)

        async def confirm() -> None:
            reply, count, buffer = on_way[0]
            await reply
            on_way.popleft()
            flow.give(count)
            spare.append(buffer)
            succeed(reply, path)
            self._job.advance(count)

        try:
            for offset, count in source.parts(start, size, holes):
                self._job.advance(offset - done)  # a hole
                done = offset + count
                while not flow.try_take(count):
                    if on_way:
                        await confirm()
                    else:
                        await flow.take(count)
                        break
                buffer = spare.pop() if spare else bytearray(room + size)
                try:
                    source.read_into(memoryview(buffer)[room : room + count], offset)
                except BaseException:
                    flow.give(count)
                    raise
                reply = self._remote.ask_write_in(handle, offset, count, buffer)
                on_way.append((reply, count, buffer))
                while on_way and on_way[0][0].kind:
                    await confirm()
            while on_way:
                await confirm()
        finally:
            flow.give(sum(count for _, count, _ in on_way))


def basename(path: bytes) -> bytes:
    """Give the last name of a path, whether or not slashes follow it; ``.`` is a folder's own."""
    name = path.rstrip(b"/").rpartition(b"/")[2]
    if name in (b"", b".", b".."):
        name = os.path.basename(os.path.realpath(path))
    return name


def parent(path: bytes) -> bytes:
    """Give what stands before the last name of a path, its slash included."""
    return path[: path.rfind(b"/") + 1]
