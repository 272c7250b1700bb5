"""One file from the server to here: small ones in one piece, large ones part by part."""

from __future__ import annotations

from typing import NamedTuple

from ssh_service.copying.checksums import digest_by_shell, is_same, verify
from ssh_service.copying.context import Job
from ssh_service.copying.failures import Refused, changed_meanwhile, shown, was_rewritten
from ssh_service.copying.local.target_file import (
    TargetFile,
    digest_at,
    drop_left,
    find_file,
)
from ssh_service.copying.local.target_folder import Names, TargetFolder
from ssh_service.copying.parts import move_parts
from ssh_service.copying.pipeline import STOPPED
from ssh_service.copying.remote_files import attributes_in, data_in
from ssh_service.copying.sftp import protocol
from ssh_service.copying.sftp.protocol import Attributes
from ssh_service.copying.sftp.reply import Reply
from ssh_service.errors import SshTransferError

__all__ = ["FileDownload", "Wanted", "finish", "seems_there"]

# Bytes accepted of a file that claims to be empty and is not, such as those in /proc.
_MOST_UNANNOUNCED = 16 * 1024 * 1024


class Wanted(NamedTuple):
    """A file that is to be copied."""

    path: bytes  # on the server
    attributes: Attributes  # as they were listed
    folder: TargetFolder  # where it goes; held open for it
    names: Names  # from the local root; the last is its own in that folder


def seems_there(wanted: Wanted) -> bool:
    """Return whether a local file of the same size and time stands in the place of a copy."""
    existing = find_file(wanted.folder, wanted.names[-1])
    return existing is not None and (existing.st_size, int(existing.st_mtime)) == (
        wanted.attributes.size or 0,
        wanted.attributes.mtime,
    )


class FileDownload:
    """
    The download of one file.

    Parameters
    ----------
    job : Job
        The copy.
    wanted : Wanted
        The file.
    """

    def __init__(self, job: Job, wanted: Wanted) -> None:
        self._job = job
        self._remote = job.remote
        self._source = wanted.path
        self._size = wanted.attributes.size or 0
        self._wanted = wanted
        self._folder = wanted.folder
        self._name = wanted.names[-1]

    async def run(self) -> None:
        """Copy it."""
        if self._job.passes_over and await self._is_there():
            self._job.progress.advance(self._size)
            if self._job.options.resume:
                drop_left(self._folder, self._name)
            return
        if self._size >= self._remote.read_size or not await self._copy_small():
            await self._copy_large()

    async def _is_there(self) -> bool:
        """Return whether a file of the same size and time is there, verified if wanted."""
        if not seems_there(self._wanted):
            return False
        if not self._job.options.verify:
            return True
        digest = digest_at(self._folder, self._name, self._size)
        return await is_same(self._job, self._source, self._size, digest)

    async def _copy_small(self) -> bool:
        """Copy a file in one piece; False if it is not what was announced."""
        remote, flow = self._remote, self._job.flow
        handle = await remote.open(self._source, protocol.FOR_READING)
        room = self._size + 1  # one byte more than announced tells whether it has grown
        try:
            await flow.take(room)
        except STOPPED:
            remote.ask_close(handle)
            raise
        try:
            describing = remote.ask_stat_open(handle)  # first, for reading changes the atime
            reading = remote.ask_read(handle, 0, room)
            remote.ask_close(handle)
            attributes = attributes_in(await describing, self._source)
            data = data_in(await reading, self._source, room)
            if attributes.size != sum(map(len, data)):
                return False
            target = TargetFile(self._folder, self._name, size=self._size)
            try:
                target.write(0, data)
                await self._verify(attributes.size, target)
                finish(self._job, target, attributes)
            finally:
                target.discard()
            self._job.progress.advance(attributes.size)
            return True
        finally:
            flow.give(room)

    async def _copy_large(self) -> None:
        remote, source = self._remote, self._source
        handle = await remote.open(source, protocol.FOR_READING)
        try:
            before = attributes_in(await remote.ask_stat_open(handle), source)
            size = before.size or 0
            resume = self._job.options.resume and bool(size)
            target = TargetFile(self._folder, self._name, resume, size)
            try:
                if target.left_to_strangers:
                    self._job.warn_once(
                        "not resumed",
                        "an unfinished copy of %r is not continued: it is not certainly ours",
                        shown(target.path),
                    )
                if target.present:
                    await self._check_present(size, target)
                if size:
                    await self._read_parts(handle, size, target)
                else:
                    size = await self._read_unannounced(handle, target)
                after = attributes_in(await remote.ask_stat_open(handle), source)
                times = (before.mtime or 0, after.mtime or 0)
                if was_rewritten(before.size or 0, times[0], after.size or 0, times[1]):
                    raise changed_meanwhile(source, "remote")
                await self._verify(size, target)
                finish(self._job, target, before)
            except (SshTransferError, Refused):
                target.discard()  # of no use later
                raise
            finally:
                target.keep()
        finally:
            remote.ask_close(handle)

    async def _check_present(self, size: int, target: TargetFile) -> None:
        """Drop what an earlier copy left unless it is proven to be the beginning of the source."""
        if target.present <= size:
            # Only a shell can tell: reading it over the line is what would be saved.
            there = await digest_by_shell(self._job, self._source, target.present)
            if there == target.digest(target.present):
                self._job.has_resumed = True
                return
        target.restart(0)

    async def _verify(self, size: int, target: TargetFile) -> None:
        if not target.is_device:
            await verify(self._job, self._source, size, target)

    async def _read_parts(self, handle: bytes, size: int, target: TargetFile) -> None:
        source, progress, ask_read = self._source, self._job.progress, self._remote.ask_read

        def ask(offset: int, count: int) -> Reply:
            return ask_read(handle, offset, count)

        def take(reply: Reply, offset: int, count: int) -> int:
            data = data_in(reply, source, count)
            received = sum(map(len, data))  # some servers give less than asked for, at any place
            if not received:
                raise changed_meanwhile(source, "remote")
            target.write(offset, data)
            progress.advance(received)
            return received

        progress.advance(target.present)
        await move_parts(self._job.flow, self._remote.parts(target.present, size), ask, take)

    async def _read_unannounced(self, handle: bytes, target: TargetFile) -> int:
        """Read a file that claims to be empty to its end; tell its size."""
        offset, count = 0, protocol.SAFE_DATA_SIZE
        while True:
            data = data_in(await self._remote.ask_read(handle, offset, count), self._source, count)
            received = sum(map(len, data))
            if not received:  # some servers say so, others send data of no length
                return offset
            if offset > _MOST_UNANNOUNCED:
                raise changed_meanwhile(self._source, "remote")
            target.write(offset, data)
            offset += received
            self._job.progress.advance(received)


def finish(job: Job, target: TargetFile, attributes: Attributes) -> None:
    """
    Give a local file its attributes, as far as they are wanted and can be set, and its name.

    Parameters
    ----------
    job : Job
        The copy.
    target : TargetFile
        The file, complete.
    attributes : Attributes
        Those of the source.
    """
    target.finish(job.attributes_here(attributes), job.options.fsync, job.modes_refused)
