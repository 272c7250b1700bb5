"""
Many small files into a folder that is there, in one stream: unpacked inside it, and then moved.

What is there is asked about for all files at once, and each file is moved over the old one by a
rename, so it is the old or the new one at any time.  Only what is ours and nothing special is
replaced so; all else is left to be copied file by file.
"""

from __future__ import annotations

import logging
import os
import stat
from collections import deque
from typing import Deque, Dict, Iterable, List, NamedTuple, Optional, Set, Tuple

from ssh_service.copying import temporary
from ssh_service.copying.context import MANY_FILES, CopyContext
from ssh_service.copying.failures import Refused, display_path
from ssh_service.copying.local.descriptors import attributes_of
from ssh_service.copying.local.walk import Entry, walk
from ssh_service.copying.ownership import is_shared
from ssh_service.copying.paths import basename, folder_of, join
from ssh_service.copying.pipeline import ABORTS
from ssh_service.copying.remote_files import check_status, is_folder, parse_attributes
from ssh_service.copying.removal import remove_tree
from ssh_service.copying.sftp import protocol
from ssh_service.copying.sftp.protocol import Attributes
from ssh_service.copying.sftp.reply import Reply
from ssh_service.copying.upload_stream import TREE, StreamResult, UploadStream
from ssh_service.errors import SshTransferError

__all__ = ["merge_tree"]

_log = logging.getLogger("ssh_service.copying")

# Requests on their way at once: more than any line has room for.
_MAX_IN_FLIGHT = 1000
# Entries of a tree that is looked at as a whole before it is copied: they are kept in memory.
_MAX_ENTRIES = 200_000


class _NotMergeable(Exception):
    """The tree, or what is there, is better copied entry by entry."""


class _Found(NamedTuple):
    """An entry of the tree, and what is in its place."""

    entry: Entry
    below: bytes  # its path in the tree, with a slash in front
    status: os.stat_result  # of a file, too
    reply: Reply


class _Plan:
    """
    What becomes of a tree.

    Attributes
    ----------
    steps : List[Entry]
        What goes into the stream, in order.
    new_folders : List[bytes]
        The outermost folders that are not there yet, by their paths in the tree.
    files : Set[bytes]
        Files of the stream that go into folders that are there.
    rest : StreamResult
        What does not go into the stream.
    """

    def __init__(self) -> None:
        self.steps: List[Entry] = []
        self.count = 0
        self.new_folders: List[bytes] = []
        self.files: Set[bytes] = set()
        self.rest = StreamResult()


async def merge_tree(
    context: CopyContext, source: bytes, status: os.stat_result, target: bytes, there: Attributes
) -> Optional[StreamResult]:
    """
    Copy the small files of a tree into a folder that is there.

    Parameters
    ----------
    context : CopyContext
        The copy.
    source : bytes
        The local folder.
    status : os.stat_result
        Its status.
    target : bytes
        The remote folder.
    there : Attributes
        Its attributes.

    Returns
    -------
    Optional[StreamResult]
        What is still to be done; None if all is.
    """
    if not context.remote.can_replace:
        return None
    owner = context.owner
    identity = await owner.identify(target)
    if identity.uid is None or await owner.guarded_path(target) is None:
        return None
    name, reading = temporary.names.new(basename(target)), context.progress.reading
    folder = join(target, name)
    try:
        await context.remote.make_folder(folder, 0o700)
        own = await context.remote.lstat(folder)
        return await _Merge(context, source, target, folder, own, there).run(status)
    except (Refused, _NotMergeable) as reason:
        _log.debug("%r not in one stream: %s", display_path(target), reason)
    except ABORTS as abort:
        context.pipeline.record_interrupt(abort)
        await remove_tree(context, folder)
        raise
    finally:
        temporary.names.release(name)
    context.progress.go_back(reading)
    await remove_tree(context, folder)
    return None


class _PlannedUpload(UploadStream):
    """Sends what a plan says."""

    steps: List[Entry]

    def _entries(self, status: os.stat_result) -> Iterable[Entry]:
        return self.steps


class _Merge:
    def __init__(
        self,
        context: CopyContext,
        source: bytes,
        target: bytes,
        folder: bytes,
        own: Attributes,
        there: Attributes,
    ) -> None:
        self._context = context
        self._remote = context.remote
        self._source = source
        self._target = target
        self._folder = folder
        self._own = own  # attributes of the unfinished folder: what is unpacked has its owner
        self._plan = _Plan()
        self._fit: Dict[bytes, bool] = {b"": self._is_fit(there)}  # of the folders that are there
        # Those of them that strangers may write to; what strangers made there is left to others.
        self._shared: Set[bytes] = {b""} if is_shared(there) else set()

    async def run(self, status: os.stat_result) -> StreamResult:
        await self._examine_all(status)
        plan = self._plan
        rest = plan.rest
        if plan.count < MANY_FILES:
            if plan.new_folders:
                raise _NotMergeable(f"{plan.count} small files only")
            rest.left += [
                (step.path, self._target + self._below(step))
                for step in plan.steps
                if step.status is None
            ]
            await self._remote.remove_folder(self._folder)
            rest.folders.append((self._target, attributes_of(status)))
            return rest
        stream = _PlannedUpload(self._context, self._source, self._target, self._folder)
        stream.steps = plan.steps
        done = await stream.run(status)
        if done is None:
            raise _NotMergeable("its stream failed")
        await self._move(set(done.sent))
        await self._remove_folders()
        rest.left += done.left
        rest.failures += done.failures
        rest.folders.append((self._target, attributes_of(status)))
        return rest

    # What is there.

    async def _examine_all(self, status: os.stat_result) -> None:
        on_way: Deque[_Found] = deque()
        count = 0
        for entry in walk(self._source, status, self._context.source_tree, self._note_failure):
            below = self._below(entry)
            if entry.leaves and entry.status is not None:
                self._plan.rest.folders.append((self._target + below, attributes_of(entry.status)))
                continue
            count += 1
            if count > _MAX_ENTRIES:
                raise _NotMergeable("too many entries")
            if entry.link is not None:
                self._plan.rest.links.append((entry.link, self._target + below))
                continue
            try:
                own = entry.status or os.stat(entry.path)
            except OSError as error:
                raise _NotMergeable(str(error)) from error
            reply = self._remote.ask_lstat(self._target + below)
            on_way.append(_Found(entry, below, own, reply))
            if len(on_way) >= _MAX_IN_FLIGHT:
                await self._decide(on_way.popleft())
        while on_way:
            await self._decide(on_way.popleft())

    def _below(self, entry: Entry) -> bytes:
        return entry.path[len(self._source.rstrip(b"/")) :]

    def _note_failure(self, failure: SshTransferError) -> None:
        if not self._context.options.goes_on:
            raise _NotMergeable(str(failure))
        self._plan.rest.failures.append(failure)

    async def _decide(self, found: _Found) -> None:
        plan, below = self._plan, found.below
        there = await self._attributes(found)
        around = folder_of(below).rstrip(b"/")
        fit = self._fit.get(around)  # None: that is a new folder
        is_a_strangers = (
            there is not None and there.uid != self._own.uid and around in self._shared
        )
        if found.entry.status is not None:
            if there is None:
                if fit is False:
                    raise _NotMergeable(f"{display_path(below)!r} would get another group")
                if fit:
                    plan.new_folders.append(below)
            elif is_a_strangers:
                raise _NotMergeable(f"{display_path(below)!r} is a stranger's")
            elif is_folder(there) and (there.mode or 0) & stat.S_IRWXU == stat.S_IRWXU:
                self._fit[below] = self._is_fit(there)
                if is_shared(there):
                    self._shared.add(below)
            else:
                raise _NotMergeable(
                    f"{display_path(below)!r} is no folder there, or takes no files"
                )
            plan.steps.append(found.entry)
            return
        size = found.status.st_size
        if is_a_strangers:
            plan.rest.left.append((found.entry.path, self._target + below))
        elif (
            there is not None and self._context.passes_over and _is_unchanged(there, found.status)
        ):
            self._context.progress.advance(size)
            self._context.progress.file_done()
        elif size > self._remote.write_size or not self._may_replace(there, fit):
            plan.rest.left.append((found.entry.path, self._target + below))
        else:
            plan.steps.append(found.entry)
            plan.count += 1
            if fit:
                plan.files.add(below)

    async def _attributes(self, found: _Found) -> Optional[Attributes]:
        try:
            return parse_attributes(await found.reply, self._target + found.below)
        except Refused as refused:
            if refused.code == protocol.NO_SUCH_FILE:
                return None
            raise

    def _is_fit(self, folder: Attributes) -> bool:
        """Tell whether new files in a folder have the same group as in the unfinished one."""
        mode = folder.mode or 0
        own_is_group_folder = bool((self._own.mode or 0) & stat.S_ISGID)
        if bool(mode & stat.S_ISGID) != own_is_group_folder:
            return False
        return not mode & stat.S_ISGID or folder.gid == self._own.gid

    def _may_replace(self, there: Optional[Attributes], fit: Optional[bool]) -> bool:
        if fit is False:
            return False
        if there is None:
            return True
        if self._context.options.preserve is False:
            return False  # it keeps the mode of what it replaces
        owner = (self._own.uid, self._own.gid)
        return stat.S_ISREG(there.mode or 0) and (there.uid, there.gid) == owner

    # What was unpacked.

    async def _move(self, sent: Set[bytes]) -> None:
        on_way: Deque[Tuple[bytes, Reply]] = deque()
        for below in (*self._plan.new_folders, *self._plan.files & sent):
            on_way.append((below, self._ask_rename(below)))
            if len(on_way) >= _MAX_IN_FLIGHT:
                await self._check_move(*on_way.popleft())
        while on_way:
            await self._check_move(*on_way.popleft())

    def _ask_rename(self, below: bytes) -> Reply:
        return self._remote.ask_rename(join(self._folder, TREE) + below, self._target + below)

    async def _check_move(self, below: bytes, reply: Reply) -> None:
        path = self._target + below
        try:
            check_status(await reply, path)
        except Refused as refused:
            if below not in self._plan.files:
                raise  # something has appeared where nothing was
            _log.debug("%r not moved, but copied: %s", display_path(path), refused)
            self._plan.rest.left.append((self._source.rstrip(b"/") + below, path))

    async def _remove_folders(self) -> None:
        """Remove what is left of the unfinished folder: folders that were there already."""
        paths = [join(self._folder, TREE) + below for below in self._fit]
        replies = [self._remote.ask_remove_folder(path) for path in reversed(paths)]
        replies.append(self._remote.ask_remove_folder(self._folder))
        for reply in replies:
            await reply
        try:
            check_status(replies[-1], self._folder)
        except Refused:
            await remove_tree(self._context, self._folder)


def _is_unchanged(there: Attributes, status: os.stat_result) -> bool:
    return (there.size, there.mtime) == (status.st_size, int(status.st_mtime)) and stat.S_ISREG(
        there.mode or 0
    )
