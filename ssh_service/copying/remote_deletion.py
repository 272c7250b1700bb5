"""
Deletes what only the target of an upload has, on the server.

SFTP works by path, so another user who can exchange a folder for a link could make us delete files
elsewhere.  Therefore, a folder is only entered if no other user can change where its path leads.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from typing import Callable, Deque, List, Tuple

from ssh_service.copying.context import CopyContext
from ssh_service.copying.deletions import (
    CHANGED,
    Deletions,
    Doomed,
    SourceNames,
    TargetEntry,
    link_of_another_user,
)
from ssh_service.copying.failures import (
    Refused,
    display_path,
    empty_source_error,
    local_error,
)
from ssh_service.copying.folder_reader import FolderReader
from ssh_service.copying.local.walk import walk
from ssh_service.copying.path_walk import PathWalk
from ssh_service.copying.paths import basename, is_within, join
from ssh_service.copying.remote_owner import ResolvedFolder
from ssh_service.copying.replies import (
    check_status,
    is_folder,
    is_link,
    parse_attributes,
)
from ssh_service.copying.sftp import protocol
from ssh_service.copying.sftp.protocol import Attributes, FolderEntry
from ssh_service.copying.sftp.reply import Reply
from ssh_service.copying.waiting import TaskEvent
from ssh_service.errors import SshTransferError, transfer_error

__all__ = ["RemoteDeletion"]

# The maximum numbers of requests in flight, of parts of a listing that are requested at once, and
# of entries of one target, as a server may list without end.
_MAX_IN_FLIGHT = 500
_READ_AHEAD = 3
MAX_ENTRIES = 1_000_000
# The errors for a local path that does not exist, also because this system has no such names:
# Windows no colons, macOS only UTF-8.
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.EINVAL, errno.EILSEQ, errno.ENAMETOOLONG)


class RemoteDeletion:
    """
    The deletion after one upload; it lists the source before the upload.

    Parameters
    ----------
    context : CopyContext
        The copy.
    source : bytes
        The local folder.
    status : os.stat_result
        Its status.

    Raises
    ------
    SshTransferError
        The source is empty, unless that is expected.
    """

    def __init__(self, context: CopyContext, source: bytes, status: os.stat_result) -> None:
        self._context = context
        self._remote = context.remote
        self._source = source
        self._names = SourceNames()
        self._unlisted: List[SshTransferError] = []  # entries of the source
        self._list_source(status)
        if self._names.is_empty and context.options.delete is True and not self._unlisted:
            raise empty_source_error(source, "local")
        self._target = b""  # unless the target is new
        self._root = b""  # its real path
        self._pending: List[Tuple[bytes, bytes]] = []
        self._active = 0
        self._changed = TaskEvent(context.pipeline)
        self._count = 0
        self._failures: List[SshTransferError] = []

    def _list_source(self, status: os.stat_result) -> None:
        names, exclusions = self._names, self._context.exclusions
        start = len(self._source.rstrip(b"/")) + 1
        names.add_folder(b"")

        def excludes(path: bytes, is_a_folder: bool) -> bool:
            is_excluded = exclusions is not None and exclusions(path, is_a_folder)
            if is_excluded:
                names.add(path.rpartition(b"/")[0], basename(path), is_excluded=True)
            return is_excluded

        tree, on_failure = self._context.source_tree, self._unlisted.append
        for entry in walk(self._source, status, tree, on_failure, excludes):
            path = entry.path[start:]
            names.add(path.rpartition(b"/")[0], entry.name, entry.link is not None)
            if entry.status is not None:
                names.add_folder(path)

    async def check(self, target: bytes) -> None:
        """
        Refuse an existing target in which nothing may be deleted, before anything is copied.

        Raises
        ------
        SshTransferError
            The server does not report owners, other users can exchange the target or a link to
            it, or it is our home directory.
        """
        context, self._target = self._context, target
        identity = await context.owner.identify(self._target)
        way = await context.owner.resolve(self._target)
        if identity.uid is None or way.path is None:
            raise self._refusal("the server does not report who owns the files")
        self._root = way.path
        if not context.owner.is_stable(way):
            raise self._refusal(self._why_unstable(way, identity.uid))
        home = await self._remote.real_path(b".")
        await self._check_links(home, identity.uid)
        if way.path == b"/" and identity.uid == 0:
            raise self._refusal("this is the root directory")
        # A session that starts in the root directory is usually in a chroot without a home.
        is_home = way.path != b"/" or await self._remote.find(join(home, b".ssh")) is not None
        if is_within(home, way.path) and is_home:
            raise self._refusal("the home directory lies in it")

    async def _check_links(self, home: bytes, uid: int) -> None:
        """Refuse a target that another user's link leads to, perhaps to a folder of ours."""
        path = self._target if self._target.startswith(b"/") else join(home, self._target)
        if path.rstrip(b"/") == self._root.rstrip(b"/"):
            return  # no links
        walk = PathWalk(path)
        entry = walk.next_entry()
        while entry is not None:
            found = await self._remote.lstat(entry)
            if not is_link(found):
                walk.enter(entry)
            elif found.uid not in (0, uid):
                raise self._refusal(link_of_another_user(display_path(entry), found.uid))
            else:
                walk.follow(await self._remote.text_of_link(entry))
            entry = walk.next_entry()
        if walk.real != self._root:
            raise self._refusal(f"{CHANGED}: its real path is {display_path(self._root)!r}")

    def _why_unstable(self, way: ResolvedFolder, uid: int) -> str:
        """Return why other users can exchange the target, or may delete in it themselves."""
        target, names = way.folders[-1], [name for name in self._root.split(b"/") if name]
        if target.uid not in (0, uid):
            return f"it belongs to another user (uid {target.uid})"
        for count, folder in enumerate(way.folders[:-1]):
            if self._context.owner.is_guarded(folder):
                continue
            path = display_path(b"/" + b"/".join(names[:count]))
            if folder.uid not in (0, uid):
                who = f"uid {folder.uid}, who owns {path!r},"
            elif (folder.mode or 0) & (stat.S_IWOTH | stat.S_ISVTX):
                who = f"other users may write to {path!r}, and"
            else:
                who = f"the group {folder.gid} may write to {path!r}, and"
            return f"{who} could put a link in its place"
        return "other users can exchange this folder"

    def _refusal(self, why: str) -> SshTransferError:
        text = f"Operation not permitted: delete=True is refused for this folder: {why}"
        return transfer_error(errno.EPERM, display_path(self._target), text, side="remote")

    async def run(self) -> None:
        """Delete what the source does not have, unless an entry could not be copied."""
        if not self._target:
            return  # new
        if self._unlisted and not self._context.failures:
            self._context.on_entry_failed(self._unlisted[0])
        if self._context.failures:
            self._context.log_that_nothing_is_deleted(self._target)
            return
        identity = await self._context.owner.identify(self._target)
        excludes, uid = self._context.exclusions, identity.uid or 0
        is_planned = self._context.options.dry_run
        deletions = Deletions(self._names, excludes, uid, self._is_in_source, is_planned)
        self._pending.append((b"", self._root))
        await self._examine_all(deletions)
        for link in deletions.links:
            await self._protect(deletions, link)
        for kept in deletions.kept:
            path = join(self._target, kept.path)
            self._context.on_kept(path, kept.is_folder, kept.reason)
        doomed = deletions.doomed()
        if self._context.options.dry_run:
            for entry in doomed:
                kind = "folder" if entry.is_folder else "file"
                self._context.plan("delete", join(self._target, entry.path), kind)
            return
        await self._delete_all(doomed)
        self._context.log_deleted(self._target, len(doomed) - len(self._failures))

    def report_failures(self) -> None:
        """Raise or record the errors of entries that could not be deleted."""
        for failure in self._failures:
            self._context.on_entry_failed(failure)

    def _is_in_source(self, path: bytes) -> bool:
        # An entry that was created since the names were listed may have been copied.
        try:
            os.lstat(join(self._source, path))
        except OSError as error:
            if error.errno in _ABSENT:
                return False
            # Unknown: so it must not be deleted.
            raise local_error(error, join(self._source, path)) from error
        return True

    # Examining.

    async def _examine_all(self, deletions: Deletions) -> None:
        while self._pending or self._active:
            if self._pending:
                self._active += 1
                relative, path = self._pending.pop()
                await self._context.folder_budget.start(self._examine(deletions, relative, path))
            else:
                self._changed = TaskEvent(self._context.pipeline)
                await self._changed.wait()

    async def _examine(self, deletions: Deletions, relative: bytes, path: bytes) -> None:
        try:
            asked = self._remote.ask_lstat(path)
            entries = await self._list(path)
            found = parse_attributes(await asked, path)
            if not is_folder(found):
                return  # replaced in the meantime
            is_safe = self._context.owner.is_guarded(found)
            for inner in deletions.examine(relative, entries, is_safe):
                self._pending.append((inner, join(self._root, inner)))
        except Refused as refused:
            await self._fail(refused)
        finally:
            self._context.folder_budget.release()
            self._active -= 1
            self._changed.set()

    async def _list(self, path: bytes) -> List[TargetEntry]:
        handle = await self._remote.open_folder(path)
        try:
            return [(e.filename, e.attributes, (0, 0)) for e in await self._read(handle, path)]
        finally:
            self._remote.ask_close(handle)

    async def _read(self, handle: bytes, path: bytes) -> List[FolderEntry]:
        found: List[FolderEntry] = []
        # What the server leaves out is not deleted, nor is the folder that has it.
        reader = FolderReader(self._remote, handle, path, _READ_AHEAD, allow_long=True)
        while True:
            part = await reader.read()
            if not part:
                return found
            found += part
            self._count += len(part)
            if self._count > MAX_ENTRIES:
                text = f"more than {MAX_ENTRIES} entries in the target"
                raise transfer_error(errno.E2BIG, display_path(path), text, side="remote")

    async def _protect(self, deletions: Deletions, link: bytes) -> None:
        """Keep what a link in the target leads to."""
        try:
            real = await self._remote.real_path(join(self._root, link))
        except Refused:
            return  # a dangling link
        if is_within(real, self._root):
            deletions.protect(real[len(self._root) :].strip(b"/"))

    # Deleting.

    async def _delete_all(self, doomed: List[Doomed]) -> None:
        folders = [entry for entry in doomed if entry.is_folder]
        for entry in folders:
            if (entry.attributes.mode or 0) & stat.S_IRWXU != stat.S_IRWXU:
                await self._make_writable(entry)
        files = [entry for entry in doomed if not entry.is_folder]
        await self._delete_each(files, self._remote.ask_remove)
        # A server may handle requests concurrently: each level waits for the one below it.
        depths = sorted({entry.path.count(b"/") for entry in folders}, reverse=True)
        for depth in depths:
            level = [entry for entry in folders if entry.path.count(b"/") == depth]
            await self._delete_each(level, self._remote.ask_remove_folder)

    async def _make_writable(self, entry: Doomed) -> None:
        mode = stat.S_IMODE(entry.attributes.mode or 0) | stat.S_IRWXU
        try:
            await self._remote.set(join(self._root, entry.path), Attributes(mode=mode))
        except Refused:
            pass  # if this matters, the deletion fails

    async def _delete_each(self, entries: List[Doomed], ask: Callable[[bytes], Reply]) -> None:
        in_flight: Deque[Tuple[bytes, Reply]] = deque()
        for entry in entries:
            path = join(self._root, entry.path)
            in_flight.append((path, ask(path)))
            if len(in_flight) >= _MAX_IN_FLIGHT:
                await self._check(*in_flight.popleft())
        while in_flight:
            await self._check(*in_flight.popleft())

    async def _check(self, path: bytes, reply: Reply) -> None:
        try:
            check_status(await reply, path)
        except Refused as refused:
            await self._fail(refused)

    async def _fail(self, refused: Refused) -> None:
        if refused.code == protocol.NO_SUCH_FILE:
            return  # already gone
        error = await self._remote.to_os_error(refused)
        if not isinstance(error, SshTransferError):
            raise error from refused
        self._failures.append(error)
