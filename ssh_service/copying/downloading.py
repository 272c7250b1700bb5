"""From the server to here: a file, or a tree of them."""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from typing import Deque, List, NamedTuple, Optional, Set, Tuple

from ssh_service.copying import protocol
from ssh_service.copying.checksums import digest_by_shell, is_same
from ssh_service.copying.failures import Refused, local_error, shown
from ssh_service.copying.job import MANY_FILES, Job
from ssh_service.copying.local_source import not_a_file
from ssh_service.copying.local_target import (
    Names,
    TargetFile,
    TargetFolder,
    TargetTree,
    open_parent,
)
from ssh_service.copying.pipeline import STOPPED, Signal
from ssh_service.copying.protocol import Attributes, Name, Pieces, ProtocolError
from ssh_service.copying.remote_files import (
    attributes_in,
    data_in,
    is_file,
    is_folder,
    is_link,
    names_in,
)
from ssh_service.copying.session import Reply
from ssh_service.copying.stream_down import FileStream, Wanted
from ssh_service.errors import SshTransferError, transfer_error

__all__ = ["Download"]

# What one copy accepts from a server, which may be hostile: entries in all, and levels.
MOST_ENTRIES = 1_000_000
MOST_LEVELS = 128
# Bytes accepted of a file that claims to be empty and is not, such as those in /proc.
_MOST_UNANNOUNCED = 16 * 1024 * 1024
_LONGEST_NAME = 255
# Parts of a folder asked for at once.
_READ_AHEAD = 3


class _Folder(NamedTuple):
    """A folder to be copied."""

    path: bytes  # on the server
    names: Names  # from the local root
    attributes: Attributes
    real_paths: Tuple[bytes, ...]  # its own, and where the links on the way to it led


class Download:
    """
    The tasks of one download.

    Parameters
    ----------
    job : Job
        What they share.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._remote = job.remote
        self._pipeline = job.pipeline
        self._tree: Optional[TargetTree] = None
        self._to_do: List[_Folder] = []  # the last one first, so that few are waiting
        self._listing = 0
        self._change = Signal(self._pipeline)
        self._entries = 0
        self._finished_folders: List[Tuple[Names, Attributes]] = []
        self._source = b""  # the root of the tree on the server
        self._small_files = 0
        self._small: Optional[FileStream] = None

    async def run(self, source: bytes, target: bytes) -> None:
        """
        Copy; the pipeline's first task.

        Parameters
        ----------
        source : bytes
            The remote path.
        target : bytes
            The local path.
        """
        try:
            source = await self._remote.expand_home(source or b".")
            found = await self._remote.stat(source)
        except Refused as refused:
            raise await self._remote.explain(refused) from refused
        if is_folder(found):
            if not self._job.options.recursive:
                raise transfer_error(errno.EISDIR, shown(source), "a folder, and not recursive")
            await self._run_tree(source, found, target)
        elif not is_file(found):
            raise not_a_file(source, found.mode or 0)
        else:
            if source.endswith(b"/"):
                raise transfer_error(errno.ENOTDIR, shown(source))
            await self._run_file(source, found, target)
        await self._pipeline.others_done()
        self._finish_folders()

    async def _run_file(self, source: bytes, found: Attributes, target: bytes) -> None:
        if os.path.isdir(target):
            target = os.path.join(target, await self._basename(source))
        elif target.endswith(b"/"):
            code = errno.ENOTDIR if os.path.exists(target.rstrip(b"/")) else errno.EISDIR
            raise transfer_error(code, shown(target))
        folder, name = open_parent(target)
        self._job.expect(found.size or 0)
        self._job.expect_no_more()
        try:
            folder.sweep(self._job.options.resume)
            await self._start_file(source, found, folder, name)
        finally:
            folder.release()

    async def _basename(self, source: bytes) -> bytes:
        name = source.rstrip(b"/").rpartition(b"/")[2]
        if name in (b"", b".", b".."):
            name = (await self._remote.real_path(source)).rpartition(b"/")[2]
        check_name(name, source)
        return name

    # Folders.

    async def _run_tree(self, source: bytes, found: Attributes, target: bytes) -> None:
        try:
            status: Optional[os.stat_result] = os.stat(target)
        except FileNotFoundError:
            status = None
        except OSError as error:
            raise local_error(error, target) from error
        if status is not None and not stat.S_ISDIR(status.st_mode):
            raise transfer_error(errno.ENOTDIR, shown(target))
        if status is not None:
            target = os.path.join(target, await self._basename(source))
        real = await self._remote.real_path(source)
        source = source.rstrip(b"/") or b"/"
        self._source = source
        self._tree = TargetTree(target.rstrip(b"/") or b"/", (found.mode or 0o700) & 0o7777)
        try:
            self._to_do.append(_Folder(source, (), found, (real,)))
            while self._to_do or self._listing:
                if self._to_do:
                    await self._job.folders.take()
                    self._listing += 1
                    self._pipeline.start(self._copy_folder(self._to_do.pop()))
                else:
                    self._change = Signal(self._pipeline)
                    await self._change.wait()
            self._job.expect_no_more()
            if self._small is not None:
                self._small.end()
            await self._pipeline.others_done()
        except STOPPED:
            if self._small is not None:
                self._small.end()  # what was asked for before still comes
            self._tree.close()
            self._tree = None
            raise

    def _finish_folders(self) -> None:
        if self._tree is None:
            return
        try:
            for names, attributes in reversed(self._finished_folders):
                folder = self._tree.open_folder(names)
                try:
                    if attributes.mode is not None:
                        os.fchmod(folder.fd, stat.S_IMODE(attributes.mode))
                    if attributes.atime is not None and attributes.mtime is not None:
                        os.utime(folder.fd, (attributes.atime, attributes.mtime))
                except OSError as error:
                    raise local_error(error, folder.path) from error
                finally:
                    folder.release()
        finally:
            self._tree.close()

    async def _copy_folder(self, folder: _Folder) -> None:
        assert self._tree is not None
        try:
            mode = 0o700 if folder.attributes.mode is None else folder.attributes.mode & 0o7777
            target = self._tree.make_folder(folder.names, mode)
            # Noted before anything in it: so a folder comes after those around it.
            self._finished_folders.append((folder.names, folder.attributes))
            try:
                if not target.is_new:
                    target.sweep(self._job.options.resume)
                await self._list_folder(folder, target)
            finally:
                target.release()
        except Refused as refused:
            raise await self._remote.explain(refused) from refused
        finally:
            self._job.folders.give()
            self._listing -= 1
            self._change.set()

    async def _list_folder(self, folder: _Folder, target: TargetFolder) -> None:
        remote = self._remote
        handle = await remote.open_folder(folder.path)
        try:
            parts: Deque[Reply] = deque()
            seen: Set[int] = set()
            while True:
                while len(parts) < _READ_AHEAD:
                    parts.append(remote.ask_read_folder(handle))
                entries = names_in(await parts.popleft(), folder.path)
                if not entries:
                    break
                await self._take_entries(folder, target, entries, seen)
        finally:
            remote.ask_close(handle)

    async def _take_entries(
        self, folder: _Folder, target: TargetFolder, entries: List[Name], seen: Set[int]
    ) -> None:
        # What links lead to is asked for all of them at once.
        asked = [
            self._remote.ask_stat(join(folder.path, name)) if is_link(attributes) else None
            for name, attributes in entries
        ]
        for (name, attributes), leads_to in zip(entries, asked):
            if name in (b".", b".."):
                continue
            path = join(folder.path, name)
            try:
                self._check_entry(name, path, seen)
                real_paths = folder.real_paths
                if leads_to is not None:
                    attributes = attributes_in(await leads_to, path)
                    if is_folder(attributes):
                        real_paths = await self._follow_folder(path, real_paths)
                elif is_folder(attributes):
                    real_paths = (*real_paths[:-1], join(real_paths[-1], name))
                if is_folder(attributes):
                    if len(folder.names) >= MOST_LEVELS:
                        raise transfer_error(errno.ELOOP, shown(path), "too many levels")
                    names = (*folder.names, name)
                    self._to_do.append(_Folder(path, names, attributes, real_paths))
                    self._change.set()
                    continue
                if not is_file(attributes):
                    raise not_a_file(path, attributes.mode or 0)
            except Refused as refused:
                self._pipeline.fail(await self._remote.explain(refused))
            except SshTransferError as error:
                self._pipeline.fail(error)
            self._job.expect(attributes.size or 0)
            stream = self._stream_for(attributes) if leads_to is None else None
            if stream is None:
                await self._start_file(path, attributes, target, name)
            else:
                below = b"/".join((b".", *folder.names, name))
                await stream.ask(Wanted(path, below, attributes, target, name))
        if self._small is not None:
            await self._small.flush()

    def _stream_for(self, attributes: Attributes) -> Optional[FileStream]:
        """Give the stream for small files, once there are enough of them."""
        if not 0 < (attributes.size or 0) < self._remote.read_size or not self._may_stream:
            return None
        self._small_files += 1
        if self._small is None and self._small_files > MANY_FILES:
            self._small = FileStream(self._job, self._source, self._copy_otherwise)
            self._pipeline.start(self._small.receive())
        return None if self._small is None or self._small.is_over else self._small

    @property
    def _may_stream(self) -> bool:
        job = self._job
        return job.has_shell and not job.options.verify and not job.remote.facts.get("no tar")

    async def _copy_otherwise(self, wanted: Wanted) -> None:
        await self._start_file(wanted.path, wanted.attributes, wanted.folder, wanted.name)

    def _check_entry(self, name: bytes, path: bytes, seen: Set[int]) -> None:
        self._entries += 1
        if self._entries > MOST_ENTRIES:
            raise transfer_error(errno.E2BIG, shown(path), f"more than {MOST_ENTRIES} entries")
        check_name(name, path)
        digest = hash(name)  # keyed, and 64 bits: small, and no server can make two collide
        if digest in seen:
            raise transfer_error(errno.EPROTO, shown(path), "the server lists this name twice")
        seen.add(digest)

    async def _follow_folder(
        self, path: bytes, real_paths: Tuple[bytes, ...]
    ) -> Tuple[bytes, ...]:
        real = await self._remote.real_path(path)
        around = real.rstrip(b"/") + b"/"
        for other in real_paths:
            if other == real or other.startswith(around):
                raise transfer_error(
                    errno.ELOOP, shown(path), "a symbolic link to a folder it lies in"
                )
        return (*real_paths, real)

    # Files.

    async def _start_file(
        self, source: bytes, attributes: Attributes, folder: TargetFolder, name: bytes
    ) -> None:
        await self._job.files.take()
        folder.hold()
        self._pipeline.start(self._copy_file(source, attributes, folder, name))

    async def _copy_file(
        self, source: bytes, attributes: Attributes, folder: TargetFolder, name: bytes
    ) -> None:
        try:
            size = attributes.size or 0
            if size < self._remote.read_size:
                if await self._copy_small(source, size, folder, name):
                    self._job.file_done()
                    return
            await self._copy_large(source, folder, name)
            self._job.file_done()
        except Refused as refused:
            raise await self._remote.explain(refused) from refused
        finally:
            self._job.files.give()
            folder.release()

    async def _copy_small(
        self, source: bytes, size: int, folder: TargetFolder, name: bytes
    ) -> bool:
        """Copy a file in one piece; False if it is not what was announced."""
        remote = self._remote
        handle = await remote.open(source, protocol.FOR_READING)
        room = size + 1  # one byte more than announced tells whether it has grown
        try:
            await self._job.flow.take(room)
        except STOPPED:
            remote.ask_close(handle)
            raise
        try:
            describing = remote.ask_stat_open(handle)  # first, for reading changes the atime
            reading = remote.ask_read(handle, 0, room)
            remote.ask_close(handle)
            attributes = attributes_in(await describing, source)
            data = data_in(await reading, source)
            if attributes.size != length(data, room):
                return False
            target = TargetFile(folder, name)
            try:
                target.write(0, data)
                await self._verify(source, attributes.size, target)
                target.finish(attributes, self._job.options.fsync)
            finally:
                target.discard()
            self._job.advance(attributes.size)
            return True
        finally:
            self._job.flow.give(room)

    async def _copy_large(self, source: bytes, folder: TargetFolder, name: bytes) -> None:
        remote = self._remote
        handle = await remote.open(source, protocol.FOR_READING)
        try:
            before = attributes_in(await remote.ask_stat_open(handle), source)
            size = before.size or 0
            target = TargetFile(folder, name, self._job.options.resume and bool(size))
            try:
                if target.present:
                    await self._check_present(source, size, target)
                if size:
                    await self._stream(source, handle, size, target)
                else:
                    size = await self._read_unannounced(source, handle, target)
                after = attributes_in(await remote.ask_stat_open(handle), source)
                if (before.size, before.mtime) != (after.size, after.mtime):
                    raise changed(source)
                await self._verify(source, size, target)
                target.finish(before, self._job.options.fsync)
            except (SshTransferError, Refused):
                target.discard()  # of no use later
                raise
            finally:
                target.keep()
        finally:
            remote.ask_close(handle)

    async def _check_present(self, source: bytes, size: int, target: TargetFile) -> None:
        """Drop what an earlier copy left unless it is proven to be the beginning of the source."""
        if target.present <= size:
            # Only a shell can tell: reading it over the line is what would be saved.
            there = await digest_by_shell(self._job, source, target.present)
            if there == target.digest(target.present):
                return
        target.restart(0)

    async def _verify(self, source: bytes, size: int, target: TargetFile) -> None:
        if self._job.options.verify and not target.is_device:
            if not await is_same(self._job, source, size, target.digest(size)):
                raise transfer_error(
                    errno.EIO, shown(target.path), "what arrived is not what was sent"
                )

    async def _stream(self, source: bytes, handle: bytes, size: int, target: TargetFile) -> None:
        flow, step = self._job.flow, self._remote.read_size
        on_way: Deque[Tuple[Reply, int, int]] = deque()

        async def receive() -> None:
            reply, offset, count = on_way[0]
            await reply
            on_way.popleft()
            flow.give(count)
            data = data_in(reply, source)
            received = length(data, count)
            if not received:
                raise changed(source)
            target.write(offset, data)
            self._job.advance(received)
            missing = count - received
            if missing:  # some servers give less than asked for, at any place
                flow.take_anyway(missing)
                offset += received
                on_way.append((remote_read(handle, offset, missing), offset, missing))

        remote_read = self._remote.ask_read
        self._job.advance(target.present)
        try:
            for offset in range(target.present, size, step):
                count = min(step, size - offset)
                while not flow.try_take(count):
                    if on_way:
                        await receive()
                    else:
                        await flow.take(count)
                        break
                on_way.append((remote_read(handle, offset, count), offset, count))
                while on_way and on_way[0][0].kind:
                    await receive()
            while on_way:
                await receive()
        finally:
            flow.give(sum(count for _, _, count in on_way))

    async def _read_unannounced(self, source: bytes, handle: bytes, target: TargetFile) -> int:
        """Read a file that claims to be empty to its end; tell its size."""
        offset = 0
        while True:
            reply = await self._remote.ask_read(handle, offset, protocol.SAFE_DATA_SIZE)
            data = data_in(reply, source)
            received = length(data, protocol.SAFE_DATA_SIZE)
            if not received:
                return offset
            if offset > _MOST_UNANNOUNCED:
                raise changed(source)
            target.write(offset, data)
            offset += received
            self._job.advance(received)


def length(pieces: Pieces, most: int) -> int:
    """Tell how many bytes came, which must not be more than were asked for."""
    size = sum(map(len, pieces))
    if size > most:
        raise ProtocolError(f"{size} bytes of data where {most} were asked for")
    return size


def changed(source: bytes) -> SshTransferError:
    """Build the error for a file that did not stand still."""
    return transfer_error(errno.EIO, shown(source), "changed while it was being copied")


def join(folder: bytes, name: bytes) -> bytes:
    """Give the path of an entry."""
    return folder + name if folder.endswith(b"/") else folder + b"/" + name


def check_name(name: bytes, path: bytes) -> None:
    """Refuse what is no name: a server may be hostile."""
    if len(name) > _LONGEST_NAME:
        raise transfer_error(errno.ENAMETOOLONG, shown(path))
    if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
        raise transfer_error(errno.EPROTO, shown(path), "the server lists a name that is none")
