"""Uploads a file or a tree: decides which entries are copied where, and how."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections import deque
from typing import Any, Coroutine, Deque, Dict, List, Optional, Set, Tuple

from ssh_service.copying.context import CopyContext
from ssh_service.copying.failures import Refused, display_path, local_error, not_a_file_error
from ssh_service.copying.local.descriptors import attributes_of
from ssh_service.copying.local.source_file import SourceFile
from ssh_service.copying.local.source_tree import SourceTree
from ssh_service.copying.paths import basename, folder_of, join, real_path
from ssh_service.copying.pipeline import ABORTS
from ssh_service.copying.remote_deletion import RemoteDeletion
from ssh_service.copying.remote_owner import EntryReplies
from ssh_service.copying.replies import check_status, is_folder
from ssh_service.copying.resume_marker import ResumeMarker
from ssh_service.copying.self_copy_guard import SelfCopyGuard
from ssh_service.copying.sftp import protocol
from ssh_service.copying.sftp.protocol import Attributes
from ssh_service.copying.sftp.reply import Reply
from ssh_service.copying.stale_files import StaleFiles
from ssh_service.copying.upload_file import FileUpload, require_sync
from ssh_service.copying.upload_link import upload_link
from ssh_service.copying.upload_merge import merge_tree
from ssh_service.copying.upload_stream import StreamResult, should_stream, stream_tree
from ssh_service.copying.waiting import TaskEvent
from ssh_service.errors import SshTransferError, transfer_error

__all__ = ["RemoteFolder", "Upload", "local_basename"]

# The maximum number of requests in flight that set attributes of folders.
_MAX_IN_FLIGHT = 500


class RemoteFolder:
    """
    A folder on the server.

    Attributes
    ----------
    is_new : bool
        Whether this copy created the folder, so that it was empty.
    failed : bool
        Whether the folder could not be created, so that nothing in it can be copied; the failure
        has been recorded.
    made : TaskEvent
        Set once the folder exists or has failed.
    """

    def __init__(self, path: bytes, made: TaskEvent) -> None:
        self.path = path
        self.is_new = False
        self.failed = False
        self.made = made


class Upload:
    """The tasks of one upload."""

    def __init__(self, context: CopyContext) -> None:
        self._context = context
        self._remote = context.remote
        self._pipeline = context.pipeline
        self._stale_files = StaleFiles(context)
        self._marker: Optional[ResumeMarker] = None  # with resume
        self._self_copy_guard: Optional[SelfCopyGuard] = None
        # Attributes of folders, innermost first.  They are set at the end, as each new entry
        # changes the times of its folder, and a folder's mode may not allow writing.
        self._made_writable: Dict[bytes, int] = {}  # paths with their old modes
        self._finished_folders: List[Tuple[bytes, Attributes]] = []
        self._failed_folders: Set[bytes] = set()
        self._accepted_folder = b""  # a folder that the caller named, and that was checked

    async def run(self, source: bytes, target: bytes) -> None:
        """Copy `source` to `target`; the pipeline's first task."""
        try:
            status = os.stat(source)
        except OSError as error:
            raise local_error(error, source) from error
        is_tree = stat.S_ISDIR(status.st_mode)
        require_sync(self._context, target)
        if is_tree and not self._context.options.recursive:
            raise transfer_error(
                errno.EISDIR, display_path(source), "is a folder (recursive=False)", side="local"
            )
        if not is_tree and not stat.S_ISREG(status.st_mode):
            raise not_a_file_error(source, status.st_mode, "local")
        try:
            await self._run(source, status, target)
        except ABORTS as abort:
            self._pipeline.record_interrupt(abort)
            if self._self_copy_guard is not None:
                await self._self_copy_guard.end()
            if isinstance(abort, Refused):
                raise await self._remote.to_os_error(abort) from abort
            raise
        finally:
            self._stale_files.stop()

    async def _run(self, source: bytes, status: os.stat_result, target: bytes) -> None:
        is_tree = stat.S_ISDIR(status.st_mode)
        if is_tree and self._context.options.resume:
            self._marker = ResumeMarker(self._context, self._stale_files, real_path(source))
            self._context.closing.callback(self._marker.release)
        if is_tree and self._context.options.keeps_links:
            self._context.source_tree = SourceTree(source)
            self._context.closing.callback(self._context.source_tree.close)
        deletion: Optional[RemoteDeletion] = None
        if is_tree and self._context.options.delete:
            deletion = RemoteDeletion(self._context, source, status)
        target = await self._remote.expand_home(target or b".")
        # Concurrently, as most targets are folders.
        asked = self._context.owner.ask_about(target.rstrip(b"/") or b"/")
        found = await self._remote.find(target)
        if found is not None and is_folder(found):
            self._accepted_folder = target.rstrip(b"/") or b"/"
            await self._check_folder(target, target.endswith(b"/"), asked)
            self._context.owner.note_folder(self._accepted_folder, found)
        if self._context.options.contents:
            if not is_tree:
                text = "contents=True needs a folder"
                raise transfer_error(errno.ENOTDIR, display_path(source), text, side="local")
            if found is not None and not is_folder(found):
                raise transfer_error(errno.ENOTDIR, display_path(target), side="remote")
            if deletion is not None and found is not None:
                await deletion.check(target)
        elif found is not None and is_folder(found):
            if not is_tree or not await self._is_this_tree(source, target):
                target = join(target.rstrip(b"/") or b"/", local_basename(source))
                found = None  # unknown
                self._accepted_folder = b""
        elif found is None and is_tree:
            if not self._context.options.dry_run:
                self._context.new_trees.add(real_path(source), target)
        elif found is not None and is_tree:
            raise transfer_error(errno.ENOTDIR, display_path(target), side="remote")
        elif target.endswith(b"/") and not is_tree:
            code = errno.ENOENT if found is None else errno.ENOTDIR
            raise transfer_error(code, display_path(target), side="remote")
        if not is_tree:
            self._context.progress.expect(status.st_size)
            self._context.progress.expect_no_more()
            await self._context.file_budget.start(self._copy_file(source, target, None))
            self._stale_files.start_removing(folder_of(target))
        else:
            await self._copy_tree(source, status, target.rstrip(b"/") or b"/")
        await self._pipeline.join_others()
        self._context.log_if_not_resumed(target)
        if self._marker is not None:
            await self._marker.end()
        if self._self_copy_guard is not None:
            await self._self_copy_guard.end()
        if deletion is not None:
            await deletion.run()
        await self._finish_folders()
        if deletion is not None:
            deletion.report_failures()
        self._context.raise_if_incomplete(source, "local")

    async def _is_this_tree(self, source: bytes, target: bytes) -> bool:
        """Return whether the folder `target` is this tree, begun by another call or attempt."""
        if self._context.new_trees.join(real_path(source), target):
            return True
        return self._marker is not None and await self._marker.find(target)

    def _count_source(self, source: bytes, status: os.stat_result) -> None:
        """Count the files for the progress totals; errors are reported when they are copied."""
        for entry in self._context.walk(source, status, lambda failure: None):
            if entry.status is None and entry.link is None:
                with contextlib.suppress(OSError):
                    self._context.progress.expect(os.stat(entry.path).st_size)
        self._context.progress.expect_no_more()

    async def _copy_tree(self, source: bytes, status: os.stat_result, target: bytes) -> None:
        if self._context.progress.is_observed:
            self._count_source(source, status)
        self._stale_files.start_removing(folder_of(target))
        if not await self._copy_in_stream(source, status, target):
            await self._copy_entries(source, status, target)

    async def _copy_in_stream(self, source: bytes, status: os.stat_result, target: bytes) -> bool:
        """Copy a tree with many small files in one stream; return False if nothing is copied."""
        if not should_stream(self._context, source, status):
            return False
        streamed: Optional[StreamResult] = None
        # Concurrently: needed to decide whether the tree may be unpacked there.
        self._pipeline.start(self._context.owner.resolve(folder_of(target)))
        asked = self._context.owner.ask_about(target)
        existing = await asked.found(target)
        if existing is None:
            if await self._may_unpack(target):
                streamed = await stream_tree(self._context, source, status, target, self._marker)
        elif is_folder(existing) and not self._context.options.resume:
            if target != self._accepted_folder:
                await self._check_folder(target, asked=asked)
            self._stale_files.start_removing(target)
            streamed = await merge_tree(self._context, source, status, target, existing)
        if streamed is None:
            return False
        await self._copy_rest(streamed, target, is_new=existing is None)
        return True

    async def _may_unpack(self, target: bytes) -> bool:
        """Return whether a tree may be unpacked next to its target."""
        # Otherwise, another user could exchange entries that are unpacked, or removed after a
        # failure.
        folder = folder_of(target)
        await self._context.owner.identify(folder)
        return await self._context.owner.guarded_path(folder) is not None

    async def _copy_entries(self, source: bytes, status: os.stat_result, target: bytes) -> None:
        folder = await self._start_folder(target, status, None)
        # Before the first entry is read, so that a copy that cannot start has no effect.
        await folder.made.wait()
        if self._marker is not None and not self._context.resumes_tree:
            await (self._marker.begin(target) if folder.is_new else self._marker.find(target))
        folders = [folder]
        await self._start_entries(source, status, folders)
        # An existing folder keeps its attributes.
        if folder.is_new or not self._context.options.contents:
            self._finished_folders.append((target, attributes_of(status)))

    async def _start_entries(
        self, source: bytes, status: os.stat_result, folders: List[RemoteFolder]
    ) -> None:
        """Start a task for each entry of the tree; `folders` has the open root only."""
        context = self._context
        guard = self._self_copy_guard = SelfCopyGuard(context, source, folders[0].path)
        context.closing.callback(guard.release)
        try:
            for entry in context.walk(source, status, context.on_entry_failed):
                path = join(folders[-1].path, entry.name)
                if entry.link is not None:
                    await context.file_budget.start(self._copy_link(entry.link, path, folders[-1]))
                elif entry.status is None:
                    await self._context.file_budget.start(
                        self._copy_file(entry.path, path, folders[-1])
                    )
                elif entry.is_folder_end:
                    path = folders.pop().path
                    self._finished_folders.append((path, attributes_of(entry.status)))
                else:
                    await guard.check(entry.path, entry.status)
                    folders.append(await self._start_folder(path, entry.status, folders[-1]))
        except OSError as error:
            self._pipeline.fail(error)

    async def _copy_rest(self, streamed: StreamResult, target: bytes, is_new: bool) -> None:
        folder = RemoteFolder(target, TaskEvent(self._pipeline))
        folder.is_new = is_new
        folder.made.set()
        if not is_new and self._context.options.contents:
            streamed.folders.pop()  # the target itself, which existed before
        self._finished_folders += streamed.folders
        for text, existing in streamed.links:
            await self._context.file_budget.start(self._copy_link(text, existing, folder))
        for failure in streamed.failures:
            self._context.on_entry_failed(failure)
        for path, existing in streamed.remaining:
            await self._context.file_budget.start(self._copy_file(path, existing, folder))

    # Folders.

    async def _start_folder(
        self, path: bytes, status: os.stat_result, inside: Optional[RemoteFolder]
    ) -> RemoteFolder:
        folder = RemoteFolder(path, TaskEvent(self._pipeline))
        mode = stat.S_IMODE(status.st_mode)
        if not self._context.keeps_modes:
            mode = 0o777  # minus the server's umask
        await self._context.folder_budget.start(self._make_folder(folder, mode, inside))
        return folder

    async def _make_folder(
        self, folder: RemoteFolder, mode: int, inside: Optional[RemoteFolder]
    ) -> None:
        try:
            if inside is not None:
                await inside.made.wait()
                folder.failed = inside.failed
            try:
                # Writable by us until the copy has finished it.
                if not folder.failed:
                    await self._make_new_folder(folder, mode | stat.S_IRWXU, inside)
                    folder.is_new = True
            except Refused as refused:
                await self._accept_folder(folder, refused)
        except SshTransferError as error:
            if inside is None:
                raise  # nothing can be copied
            self._context.on_entry_failed(error)
            folder.failed = True
        finally:
            self._context.folder_budget.release()
        if folder.failed:
            self._failed_folders.add(folder.path)
        folder.made.set()  # before a task is started, which another failure may prevent
        if not folder.is_new and not folder.failed:
            self._stale_files.start_removing(folder.path)

    async def _make_new_folder(
        self, folder: RemoteFolder, mode: int, inside: Optional[RemoteFolder]
    ) -> None:
        """Create a folder; raise `Refused` if it exists, or cannot be created."""
        await self._remote.make_folder(folder.path, mode)

    async def _accept_folder(self, folder: RemoteFolder, refused: Refused) -> None:
        """Use an existing folder, or raise the error why it cannot be created."""
        found = await self._remote.find(folder.path)
        if found is None:
            raise await self._remote.to_os_error(refused) from refused
        if not is_folder(found):
            raise transfer_error(
                errno.ENOTDIR, display_path(folder.path), side="remote"
            ) from refused
        if folder.path != self._accepted_folder:
            await self._check_folder(folder.path)
        await self._make_writable(folder.path, found.mode)

    async def _check_folder(
        self, path: bytes, is_explicit: bool = False, asked: Optional[EntryReplies] = None
    ) -> None:
        """Check a folder that was found a moment ago; what came and went was not checked."""
        for replies in (asked, None):  # asked before it was found: it may have been created since
            if await self._context.owner.check_folder(path, is_explicit, replies):
                return
        raise await self._remote.to_os_error(Refused(protocol.NO_SUCH_FILE, "", path))

    async def _make_writable(self, path: bytes, mode: Optional[int]) -> None:
        """Make an existing folder of ours writable until the copy has finished it."""
        identity = self._context.owner.identity
        is_root = identity is not None and identity.uid == 0
        if mode is None or mode & stat.S_IRWXU == stat.S_IRWXU or is_root:
            return
        try:
            await self._remote.set(path, Attributes(mode=stat.S_IMODE(mode) | stat.S_IRWXU))
        except Refused:
            return  # if this matters, creating a file reports it
        self._made_writable[path] = stat.S_IMODE(mode)

    async def _finish_folders(self) -> None:
        folders = [] if self._context.options.preserve is False else self._finished_folders
        for path, _ in folders:
            self._made_writable.pop(path, None)
        restored = [(path, Attributes(mode=mode)) for path, mode in self._made_writable.items()]
        in_flight: Deque[Tuple[bytes, Reply]] = deque()
        for path, attributes in (*folders, *restored):
            if path in self._failed_folders:
                continue
            in_flight.append((path, self._remote.ask_set(path, attributes)))
            if len(in_flight) > _MAX_IN_FLIGHT:
                await self._check_set(*in_flight.popleft())
        while in_flight:
            await self._check_set(*in_flight.popleft())

    async def _check_set(self, path: bytes, reply: Reply) -> None:
        try:
            check_status(await reply, path)
        except Refused as refused:
            self._context.on_modes_refused(path, refused)

    # Files.

    async def _copy_file(self, path: bytes, target: bytes, folder: Optional[RemoteFolder]) -> None:
        try:
            with SourceFile(path, self._context.source_tree) as source:
                if folder is not None:
                    await folder.made.wait()
                    if folder.failed:
                        return
                is_new = folder is not None and folder.is_new
                copying = FileUpload(self._context, source, self._stale_files)
                await self._with_os_errors(self._transfer_file(copying, target, is_new))
            self._context.progress.file_done()
        except SshTransferError as error:
            if folder is None:
                raise
            self._context.on_entry_failed(error)
        finally:
            self._context.file_budget.release()

    async def _copy_link(self, text: bytes, target: bytes, folder: RemoteFolder) -> None:
        try:
            await folder.made.wait()
            if not folder.failed:
                await self._with_os_errors(self._transfer_link(text, target, folder.is_new))
        except SshTransferError as error:
            self._context.on_entry_failed(error)
        finally:
            self._context.file_budget.release()

    async def _transfer_file(self, file: FileUpload, target: bytes, is_new: bool) -> None:
        await file.run(target, is_new)

    async def _transfer_link(self, text: bytes, target: bytes, is_new: bool) -> None:
        await upload_link(self._context, text, target, is_new)

    async def _with_os_errors(self, copying: Coroutine[Any, Any, None]) -> None:
        """Await `copying`, and convert refusals to errors for the caller."""
        try:
            await copying
        except Refused as refused:
            raise await self._remote.to_os_error(refused) from refused


def local_basename(path: bytes) -> bytes:
    """Return the name of a local file or folder; the real name for ``.`` and similar paths."""
    name = basename(path)
    return basename(real_path(path)) if name in (b"", b".", b"..") else name
