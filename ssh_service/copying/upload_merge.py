"""
Uploads many small files into an existing folder in one stream: unpacked inside it, then moved.

The existing files are examined concurrently, and each is replaced by a rename, so that it is the
old or the new file at any time.  Only ordinary files of ours are replaced in this way; all other
entries are copied one by one.  Where few files have to be copied, nothing is unpacked.
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
from ssh_service.copying.local.walk import Entry
from ssh_service.copying.ownership import is_shared
from ssh_service.copying.paths import basename, folder_of, join
from ssh_service.copying.pipeline import ABORTS
from ssh_service.copying.removal import remove_tree
from ssh_service.copying.replies import check_status, is_folder, parse_found
from ssh_service.copying.sftp.protocol import Attributes
from ssh_service.copying.sftp.reply import Reply
from ssh_service.copying.upload_stream import TREE, StreamResult, UploadStream
from ssh_service.errors import SshTransferError

__all__ = ["merge_tree"]

_log = logging.getLogger("ssh_service.copying")

# The maximum number of requests in flight: more than any link has capacity for.
_MAX_IN_FLIGHT = 1000
# The maximum number of entries of a tree that is examined completely, in memory, before the copy.
_MAX_ENTRIES = 200_000


class _NotMergeable(Exception):
    """The tree, or the target, should be copied entry by entry."""


class _Asked(NamedTuple):
    """An entry of the tree, and the reply about the existing entry in its place."""

    entry: Entry
    relative: bytes  # its path in the tree, with a leading slash
    status: os.stat_result  # also for a file
    reply: Reply


class _Found(NamedTuple):
    """An entry of the tree that is not certainly the same on the server."""

    entry: Entry
    relative: bytes
    status: os.stat_result
    existing: Optional[Attributes]


class _Plan:
    """
    The decision for each entry of a tree.

    Attributes
    ----------
    steps : List[Entry]
        The entries for the stream, in order.
    new_folders : List[bytes]
        The outermost folders that do not exist yet, by their paths in the tree.
    files : Set[bytes]
        The files in the stream whose target folders exist.
    left : List[_Found]
        The files that are not part of the stream.
    rest : StreamResult
        What is copied one by one.
    """

    def __init__(self) -> None:
        self.steps: List[Entry] = []
        self.count = 0
        self.new_folders: List[bytes] = []
        self.files: Set[bytes] = set()
        self.left: List[_Found] = []
        self.rest = StreamResult()


async def merge_tree(
    context: CopyContext,
    source: bytes,
    status: os.stat_result,
    target: bytes,
    existing: Attributes,
) -> Optional[StreamResult]:
    """Copy the small files of a tree into an existing folder; None if nothing was copied."""
    if not context.remote.can_replace:
        return None
    owner = context.owner
    identity = await owner.identify(target)
    if identity.uid is None or await owner.guarded_path(target) is None:
        return None
    name, reading = temporary.names.new(basename(target)), context.progress.reading
    merge = _Merge(context, source, target, join(target, name), identity.uid, existing)
    try:
        return await merge.run(status)
    except (Refused, _NotMergeable) as reason:
        _log.debug("%r not in one stream: %s", display_path(target), reason)
    except ABORTS as abort:
        context.pipeline.record_interrupt(abort)
        await merge.clean_up()
        raise
    finally:
        temporary.names.release(name)
    context.progress.go_back(reading)
    await merge.clean_up()
    return None


class _PlannedUpload(UploadStream):
    """Sends the entries of a plan."""

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
        uid: int,
        existing: Attributes,
    ) -> None:
        self._context = context
        self._remote = context.remote
        self._source = source
        self._target = target
        self._target_attributes = existing
        self._uid = uid
        self._folder = folder
        self._has_folder = False  # whether the unfinished folder may exist
        self._staging = Attributes()  # of the unfinished folder: unpacked files have its owner
        self._plan = _Plan()
        self._found: List[_Found] = []
        # By target folder: whether a file that is moved there has the same group as one created
        # there.
        self._group_fits: Dict[bytes, bool] = {}
        # Target folders that other users may write to: other users' entries there are left to
        # SFTP.
        self._shared: Set[bytes] = {b""} if is_shared(existing) else set()

    async def run(self, status: os.stat_result) -> StreamResult:
        await self._examine_all(status)
        plan, rest = self._plan, self._plan.rest
        if sum(map(self._may_stream, self._found)) >= MANY_FILES:
            await self._make_folder()
            for found in self._found:
                self._decide(found)
        if plan.count >= MANY_FILES:
            await self._stream(status)
        else:
            self._leave_all()
            if self._has_folder:
                await self._remote.remove_folder(self._folder)
        rest.folders.append((self._target, attributes_of(status)))
        return rest

    async def clean_up(self) -> None:
        """Remove the unfinished folder after a failure."""
        if self._has_folder:
            await remove_tree(self._context, self._folder)

    async def _make_folder(self) -> None:
        self._has_folder = True
        await self._remote.make_folder(self._folder, 0o700)
        self._staging = await self._remote.lstat(self._folder)
        self._group_fits[b""] = self._keeps_group(self._target_attributes)

    async def _stream(self, status: os.stat_result) -> None:
        plan, rest = self._plan, self._plan.rest
        stream = _PlannedUpload(self._context, self._source, self._target, self._folder)
        stream.steps = plan.steps
        done = await stream.run(status)
        if done is None:
            raise _NotMergeable("its stream failed")
        await self._move(done.sent)
        await self._remove_folders()
        for found in plan.left:
            self._leave(found)
        rest.remaining += done.remaining
        rest.failures += done.failures

    def _leave_all(self) -> None:
        """Leave the files to be copied one by one, as they are few."""
        rest = self._plan.rest
        for found in self._found:
            if found.entry.status is None:
                self._leave(found)
            elif found.existing is None:
                raise _NotMergeable(f"{display_path(found.relative)!r} is new, with few files")
        if (rest.remaining or rest.links) and not _takes_files(self._target_attributes):
            raise _NotMergeable("the target takes no files")

    def _leave(self, found: _Found) -> None:
        self._plan.rest.remaining.append((found.entry.path, self._target + found.relative))

    # The existing files.

    async def _examine_all(self, status: os.stat_result) -> None:
        in_flight: Deque[_Asked] = deque()
        count = 0
        for entry in self._context.walk(self._source, status, self._note_failure):
            relative = self._relative(entry)
            if entry.is_folder_end and entry.status is not None:
                self._plan.rest.folders.append(
                    (self._target + relative, attributes_of(entry.status))
                )
                continue
            count += 1
            if count > _MAX_ENTRIES:
                raise _NotMergeable("too many entries")
            if entry.link is not None:
                self._plan.rest.links.append((entry.link, self._target + relative))
                continue
            try:
                own = entry.status or os.stat(entry.path)
            except OSError as error:
                raise _NotMergeable(str(error)) from error
            reply = self._remote.ask_lstat(self._target + relative)
            in_flight.append(_Asked(entry, relative, own, reply))
            if len(in_flight) >= _MAX_IN_FLIGHT:
                await self._examine(in_flight.popleft())
        while in_flight:
            await self._examine(in_flight.popleft())

    def _relative(self, entry: Entry) -> bytes:
        return entry.path[len(self._source.rstrip(b"/")) :]

    def _note_failure(self, failure: SshTransferError) -> None:
        if not self._context.options.goes_on:
            raise _NotMergeable(str(failure))
        self._plan.rest.failures.append(failure)

    async def _examine(self, asked: _Asked) -> None:
        relative = asked.relative
        existing = parse_found(await asked.reply, self._target + relative)
        found = _Found(asked.entry, relative, asked.status, existing)
        is_foreign = (
            existing is not None
            and existing.uid != self._uid
            and folder_of(relative).rstrip(b"/") in self._shared
        )
        if found.entry.status is not None:
            if is_foreign:
                raise _NotMergeable(f"{display_path(relative)!r} belongs to another user")
            if existing is not None and not _takes_files(existing):
                raise _NotMergeable(
                    f"{display_path(relative)!r} is not a folder on the server, or takes no files"
                )
            if existing is not None and is_shared(existing):
                self._shared.add(relative)
            self._found.append(found)
        elif is_foreign:
            self._leave(found)
        elif self._context.skips_unchanged and _is_unchanged(existing, found.status):
            self._context.progress.advance(found.status.st_size)
            self._context.progress.file_done()
        else:
            self._found.append(found)

    def _may_stream(self, found: _Found) -> bool:
        """Return whether an entry is a small file whose mode may be the source's."""
        is_small = found.entry.status is None and found.status.st_size <= self._remote.write_size
        return is_small and (found.existing is None or self._context.keeps_modes)

    def _decide(self, found: _Found) -> None:
        """Decide whether an entry becomes part of the stream."""
        plan, relative, existing = self._plan, found.relative, found.existing
        # None: in a new folder
        group_fits = self._group_fits.get(folder_of(relative).rstrip(b"/"))
        if found.entry.status is not None:
            if existing is not None:
                self._group_fits[relative] = self._keeps_group(existing)
            elif group_fits is False:
                raise _NotMergeable(f"{display_path(relative)!r} would get another group")
            elif group_fits:
                plan.new_folders.append(relative)
            plan.steps.append(found.entry)
        elif self._may_stream(found) and self._may_replace(existing, group_fits):
            plan.steps.append(found.entry)
            plan.count += 1
            if group_fits:
                plan.files.add(relative)
        else:
            plan.left.append(found)

    def _keeps_group(self, folder: Attributes) -> bool:
        """Return whether new files in a folder get the same group as in the unfinished folder."""
        mode = folder.mode or 0
        own_is_group_folder = bool((self._staging.mode or 0) & stat.S_ISGID)
        if bool(mode & stat.S_ISGID) != own_is_group_folder:
            return False
        return not mode & stat.S_ISGID or folder.gid == self._staging.gid

    def _may_replace(self, existing: Optional[Attributes], group_fits: Optional[bool]) -> bool:
        if group_fits is False:
            return False
        if existing is None:
            return True
        owner = (self._staging.uid, self._staging.gid)
        return stat.S_ISREG(existing.mode or 0) and (existing.uid, existing.gid) == owner

    # The unpacked files.

    async def _move(self, sent: Dict[bytes, int]) -> None:
        in_flight: Deque[Tuple[bytes, Reply]] = deque()
        for relative in (*self._plan.new_folders, *self._plan.files & sent.keys()):
            in_flight.append((relative, self._ask_rename(relative)))
            if len(in_flight) >= _MAX_IN_FLIGHT:
                await self._check_move(sent, *in_flight.popleft())
        while in_flight:
            await self._check_move(sent, *in_flight.popleft())

    def _ask_rename(self, relative: bytes) -> Reply:
        return self._remote.ask_rename(
            join(self._folder, TREE) + relative, self._target + relative
        )

    async def _check_move(self, sent: Dict[bytes, int], relative: bytes, reply: Reply) -> None:
        path = self._target + relative
        try:
            check_status(await reply, path)
        except Refused as refused:
            if relative not in self._plan.files:
                raise  # an entry was created there in the meantime
            _log.debug("%r not moved, but copied: %s", display_path(path), refused)
            self._context.progress.take_back(sent[relative])
            self._plan.rest.remaining.append((self._source.rstrip(b"/") + relative, path))

    async def _remove_folders(self) -> None:
        """Remove the rest of the unfinished folder: folders that existed in the target."""
        paths = [join(self._folder, TREE) + relative for relative in self._group_fits]
        replies = [self._remote.ask_remove_folder(path) for path in reversed(paths)]
        replies.append(self._remote.ask_remove_folder(self._folder))
        for reply in replies:
            await reply
        try:
            check_status(replies[-1], self._folder)
        except Refused:
            await remove_tree(self._context, self._folder)


def _takes_files(folder: Attributes) -> bool:
    return is_folder(folder) and (folder.mode or 0) & stat.S_IRWXU == stat.S_IRWXU


def _is_unchanged(existing: Optional[Attributes], status: os.stat_result) -> bool:
    return (
        existing is not None
        and (existing.size, existing.mtime) == (status.st_size, int(status.st_mtime))
        and stat.S_ISREG(existing.mode or 0)
    )
