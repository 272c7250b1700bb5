"""Downloads a file or a tree: decides which entries are copied where, and how."""

from __future__ import annotations

import errno
import functools
import os
import stat
from typing import List, Optional, Set, Tuple

from ssh_service import local_paths
from ssh_service.copying import temporary
from ssh_service.copying.context import MANY_FILES, CopyContext
from ssh_service.copying.deletions import Deletions, SourceNames
from ssh_service.copying.download_file import FileDownload, FileToCopy, is_up_to_date
from ssh_service.copying.download_stream import DownloadStream
from ssh_service.copying.exclusions import Excludes
from ssh_service.copying.failures import (
    Refused,
    copy_into_itself_error,
    display_path,
    empty_source_error,
    local_error,
    not_a_file_error,
    symlink_loop_error,
)
from ssh_service.copying.folder_reader import FolderReader
from ssh_service.copying.listing import ListingBounds, SourceFolder, check_local_name
from ssh_service.copying.local.deletion import (
    check_deletion_target,
    delete_doomed,
    examine_target,
)
from ssh_service.copying.local.resume_marker import LocalResumeMarker
from ssh_service.copying.local.system import files
from ssh_service.copying.local.target_folder import (
    TargetFolder,
    check_folder,
    follow_links,
    open_parent,
)
from ssh_service.copying.local.target_link import make_link
from ssh_service.copying.local.target_tree import TargetTree
from ssh_service.copying.paths import basename, is_within, join, real_path
from ssh_service.copying.replies import (
    is_file,
    is_folder,
    is_link,
    parse_attributes,
    parse_path,
)
from ssh_service.copying.sftp.protocol import Attributes, FolderEntry
from ssh_service.copying.sftp.reply import Reply
from ssh_service.copying.waiting import TaskEvent
from ssh_service.errors import SshTransferError, transfer_error

__all__ = ["Download"]

# The number of parts of a folder listing that are requested at once.
_READ_AHEAD = 3
# The number of entries listed before any is copied, so that most folders are closed by then.
_LIST_AHEAD = 1000


class Download:
    """The tasks of one download."""

    def __init__(self, context: CopyContext) -> None:
        self._context = context
        self._remote = context.remote
        self._pipeline = context.pipeline
        self._tree: Optional[TargetTree] = None
        self._pending: List[SourceFolder] = []  # a stack, so that few folders wait
        self._active_listings = 0
        self._changed = TaskEvent(self._pipeline)
        self._bounds = ListingBounds()
        self._finished_folders: List[SourceFolder] = []
        self._source = b""  # the root of the tree on the server
        self._small_files = 0
        self._stream: Optional[DownloadStream] = None
        self._marker: Optional[LocalResumeMarker] = None  # with resume
        self._names = SourceNames() if context.options.delete else None

    async def run(self, source: bytes, target: bytes) -> None:
        """Copy `source` to `target`; the pipeline's first task."""
        try:
            source = await self._remote.expand_home(source or b".")
            found = await self._remote.stat(source)
        except Refused as refused:
            raise await self._remote.to_os_error(refused) from refused
        try:
            follow_links(target.rstrip(b"/") or b"/")
            if local_paths.is_folder(target) and not target.endswith(b"/"):
                check_folder(target)
        except OSError as error:
            raise local_error(error, target) from error
        if is_folder(found):
            if not self._context.options.recursive:
                raise transfer_error(
                    errno.EISDIR,
                    display_path(source),
                    "is a folder (recursive=False)",
                    side="remote",
                )
            await self._run_tree(source, found, target)
        elif not is_file(found):
            raise not_a_file_error(source, found.mode or 0, "remote")
        elif self._context.options.contents:
            text = "contents=True needs a folder"
            raise transfer_error(errno.ENOTDIR, display_path(source), text, side="remote")
        else:
            if source.endswith(b"/"):
                raise transfer_error(errno.ENOTDIR, display_path(source), side="remote")
            await self._run_file(source, found, target)
        await self._pipeline.join_others()
        self._context.log_if_not_resumed(source)
        failures: List[SshTransferError] = []
        is_refused = self._finds_empty_source()
        if self._names is not None and self._tree is not None and not is_refused:
            failures = self._delete(self._names, self._tree.root)
        self._finish_folders()
        if is_refused:
            raise empty_source_error(source, "remote")
        for failure in failures:
            self._context.on_entry_failed(failure)
        self._context.raise_if_incomplete(source, "remote")

    async def _run_file(self, source: bytes, found: Attributes, target: bytes) -> None:
        if local_paths.is_folder(target):
            target = os.path.join(target, await self._basename(source))
        elif target.endswith(b"/"):
            if local_paths.exists(target.rstrip(b"/")):
                raise transfer_error(errno.ENOTDIR, display_path(target), side="local")
            text = "no such folder (the path ends with a slash)"
            raise transfer_error(errno.EISDIR, display_path(target), text, side="local")
        folder, name = open_parent(target)
        self._context.closing.callback(folder.close)
        self._context.progress.expect(found.size or 0)
        self._context.progress.expect_no_more()
        self._remove_stale_files(folder)
        await self._start_file(FileToCopy(source, found, folder, (name,)))

    def _remove_stale_files(self, folder: TargetFolder) -> None:
        folder.remove_stale_files(self._context.options.resume)

    async def _basename(self, source: bytes) -> bytes:
        name = basename(source)
        if name in (b"", b".", b".."):
            name = basename(await self._remote.real_path(source))
        check_local_name(name, source)
        return name

    # Folders.

    async def _run_tree(self, source: bytes, found: Attributes, target: bytes) -> None:
        real = await self._remote.real_path(source)
        if self._context.options.resume:
            server = self._remote.facts.connection_id.encode()
            self._marker = LocalResumeMarker(server + b" " + real)
            self._context.closing.callback(temporary.names.release, self._marker.name)
        resolved = await self._resolve_target(source, target)
        is_explicit, target = resolved == target and target.endswith(b"/"), resolved
        source = source.rstrip(b"/") or b"/"
        self._source = source
        root = target.rstrip(b"/") or b"/"
        tree = self._tree = self._open_tree(root, self._mode_of(found), is_explicit)
        self._context.closing.callback(tree.close)
        if self._marker is not None and not self._context.resumes_tree:
            if tree.root.is_new:
                self._marker.begin(tree.root)
            else:
                self._find_marker(tree.root.path)
        if self._names is not None and not tree.root.is_new:
            check_deletion_target(tree.root)
        try:
            self._pending.append(SourceFolder(None, b"", 0, found, (real,), 0))
            await self._copy_pending_folders(tree)
            self._context.progress.expect_no_more()
        finally:
            if self._stream is not None:
                self._stream.end()  # files requested earlier still arrive after a failure

    def _finds_empty_source(self) -> bool:
        """Return whether nothing is copied, so that `delete` must not delete everything."""
        if self._names is None or not self._names.is_empty or self._context.failures:
            return False
        return self._context.options.delete is True

    def _delete(self, names: SourceNames, root: TargetFolder) -> List[SshTransferError]:
        """Delete what the server does not have; return what could not be deleted."""
        context = self._context
        if context.failures:
            context.log_that_nothing_is_deleted(root.path)
            return []
        if root.is_new:
            return []
        is_planned = context.options.dry_run
        uid = files.geteuid()
        deletions = Deletions(names, context.exclusions, uid, is_planned=is_planned)
        try:
            examine_target(root, deletions, self._pipeline.raise_if_late)
        except SshTransferError as failure:
            return [failure]
        for kept in deletions.kept:
            context.on_kept(join(root.path, kept.path), kept.is_folder, kept.reason)
        doomed = deletions.doomed()
        if context.options.dry_run:
            for entry in doomed:
                kind = "folder" if entry.is_folder else "file"
                context.plan("delete", join(root.path, entry.path), kind)
            return []
        failures = delete_doomed(root, doomed, self._pipeline.raise_if_late)
        context.log_deleted(root.path, len(doomed) - len(failures))
        return failures

    def _open_tree(self, target: bytes, mode: int, is_explicit: bool) -> TargetTree:
        return TargetTree(target, mode, self._context.options.keeps_links, is_explicit)

    async def _copy_pending_folders(self, tree: TargetTree) -> None:
        while self._pending or self._active_listings:
            if self._pending:
                self._active_listings += 1
                folder = self._pending.pop()
                await self._context.folder_budget.start(self._copy_folder(folder, tree))
            else:
                self._changed = TaskEvent(self._pipeline)
                await self._changed.wait()

    def _find_marker(self, path: bytes) -> bool:
        """Return whether a folder is the tree that an interrupted call like this one began."""
        if self._marker is None or not self._marker.find(path):
            return False
        self._context.has_resumed = self._context.resumes_tree = True
        return True

    async def _resolve_target(self, source: bytes, target: bytes) -> bytes:
        """Return the path that the folder is copied to."""
        try:
            status = os.stat(target)
        except FileNotFoundError:
            if not self._context.options.dry_run:
                self._context.new_trees.add(source, real_path(target))
            return target
        except OSError as error:
            raise local_error(error, target) from error
        if not stat.S_ISDIR(status.st_mode):
            raise transfer_error(errno.ENOTDIR, display_path(target), side="local")
        if self._context.options.contents or self._find_marker(target):
            return target
        if self._context.new_trees.join(source, real_path(target)):
            return target
        return os.path.join(target, await self._basename(source))

    def _finish_folders(self) -> None:
        if self._tree is None:
            return
        self._tree.remove_markers()
        if self._marker is not None:
            self._marker.end(self._tree.root)
        for done in reversed(self._finished_folders):
            names = done.names
            refused = self._tree.finish_folder(
                names, self._context.local_attributes(done.attributes)
            )
            if refused is not None:
                self._context.on_modes_refused(b"/".join(names) or b".", refused)
        self._tree.restore()

    def _mode_of(self, attributes: Attributes) -> int:
        """Return the mode to create a folder with; the final mode is set at the end."""
        if self._context.options.preserve is False:
            return 0o777  # minus the umask
        return self._context.local_attributes(attributes).mode or 0o700

    async def _copy_folder(self, folder: SourceFolder, tree: TargetTree) -> None:
        names = folder.names
        path = functools.reduce(join, names, self._source)
        try:
            target = tree.make_folder(names, self._mode_of(folder.attributes))
            # Recorded before its entries, so that a folder comes after its parents.  An existing
            # target keeps its attributes.
            if names or target.is_new or not self._context.options.contents:
                self._finished_folders.append(folder)
            try:
                if not target.is_new:
                    self._remove_stale_files(target)
                await self._list_folder(folder, path, target)
            finally:
                target.release()
        except (Refused, SshTransferError) as error:
            await self._folder_failed(folder, error)
        finally:
            self._context.folder_budget.release()
            self._active_listings -= 1
            self._changed.set()

    async def _folder_failed(self, folder: SourceFolder, error: Exception) -> None:
        failure = await self._remote.to_os_error(error) if isinstance(error, Refused) else error
        if folder.parent is None or not isinstance(failure, SshTransferError):
            raise failure from error  # nothing can be copied
        self._context.on_entry_failed(failure)

    async def _list_folder(self, folder: SourceFolder, path: bytes, target: TargetFolder) -> None:
        seen: Set[int] = set()
        if self._names is not None:
            self._names.add_folder(b"/".join(folder.names))
        handle = await self._remote.open_folder(path)
        try:
            entries = await self._read_folder(handle, folder, path, target, seen)
        finally:
            self._remote.ask_close(handle)
        # After the folder is closed, as the server may allow only few open files.
        await self._take_entries(folder, path, target, entries, seen)

    async def _read_folder(
        self,
        handle: bytes,
        folder: SourceFolder,
        path: bytes,
        target: TargetFolder,
        seen: Set[int],
    ) -> List[FolderEntry]:
        """Process the entries while there are many; return the last ones."""
        entries: List[FolderEntry] = []
        reader = FolderReader(self._remote, handle, path, _READ_AHEAD)
        while True:
            part = await reader.read()
            if not part:
                return entries
            entries += part
            if len(entries) >= _LIST_AHEAD:
                await self._take_entries(folder, path, target, entries, seen)
                entries = []

    async def _take_entries(
        self,
        folder: SourceFolder,
        folder_path: bytes,
        target: TargetFolder,
        entries: List[FolderEntry],
        seen: Set[int],
    ) -> None:
        names = folder.names
        # Request the targets of all links at once.
        keeps_links = self._context.options.keeps_links
        ask = self._remote.ask_read_link if keeps_links else self._remote.ask_stat
        asked = [
            ask(join(folder_path, name)) if is_link(attributes) else None
            for name, attributes, _ in entries
        ]
        for entry, link_reply in zip(entries, asked):
            path = join(folder_path, entry.filename)
            try:
                self._bounds.check_entry(entry.filename, path, seen)
                if entry.filename in (b".", b".."):
                    continue
                if temporary.parse(entry.filename) is not None:
                    if self._tree is not None and entry.filename == self._tree.marker:
                        await self._fail(copy_into_itself_error(folder_path, "remote"))
                    continue  # an unfinished file of another copy
                excludes = self._context.excludes
                if excludes is not None and await self._is_left_out(
                    folder, entry, path, link_reply, excludes
                ):
                    if self._names is not None:
                        self._names.add(b"/".join(names), entry.filename, is_excluded=True)
                    continue
                if self._names is not None:
                    is_kept_link = link_reply is not None and keeps_links
                    self._names.add(b"/".join(names), entry.filename, is_kept_link)
                if link_reply is not None and keeps_links:
                    self._make_link(target, entry.filename, parse_path(await link_reply, path))
                    continue
                attributes = await self._classify(folder, entry, path, link_reply)
            except Refused as refused:
                await self._entry_failed(await self._remote.to_os_error(refused))
                continue
            except SshTransferError as error:
                await self._entry_failed(error)
                continue
            if attributes is not None:
                self._context.progress.expect(attributes.size or 0)
                file = FileToCopy(path, attributes, target, (*names, entry.filename))
                stream = None
                if link_reply is None and not (
                    self._context.skips_unchanged and is_up_to_date(file)
                ):
                    stream = self._stream_for(attributes)
                await (self._start_file(file) if stream is None else stream.request(file))
        if self._stream is not None:
            await self._stream.flush()

    async def _is_left_out(
        self,
        folder: SourceFolder,
        entry: FolderEntry,
        path: bytes,
        link_reply: Optional[Reply],
        excludes: Excludes,
    ) -> bool:
        attributes = entry.attributes
        relative = b"/".join((*folder.names, entry.filename))
        if link_reply is None or self._context.options.keeps_links:
            return excludes(relative, is_folder(attributes))
        if excludes(relative, False):
            return True  # even if the link is dangling
        try:
            attributes = parse_attributes(await link_reply, path)
        except Refused:
            return False
        return is_folder(attributes) and excludes(relative, True)

    def _make_link(self, folder: TargetFolder, name: bytes, text: bytes) -> None:
        make_link(folder, name, text)

    async def _entry_failed(self, error: Exception) -> None:
        """Record a failed entry; if that ends the copy, finish the earlier entries first."""
        try:
            if not isinstance(error, SshTransferError) or error.errno == errno.E2BIG:
                raise error
            self._context.on_entry_failed(error)
        except OSError as final:
            await self._fail(final)

    async def _fail(self, error: Exception) -> None:
        if self._stream is not None:
            await self._stream.flush()
        self._pipeline.fail(error)

    async def _classify(
        self, folder: SourceFolder, entry: FolderEntry, path: bytes, link_reply: Optional[Reply]
    ) -> Optional[Attributes]:
        """Return the attributes of a file; None for a folder, which is queued."""
        name, attributes, _ = entry
        real_paths, since, level = folder.real_paths, folder.since, folder.level + 1
        if link_reply is not None:
            attributes = parse_attributes(await link_reply, path)
            if is_folder(attributes):
                real_paths, since = await self._follow_folder(path, folder), level
        if is_folder(attributes):
            self._bounds.check_folder(path, level)
            self._pending.append(SourceFolder(folder, name, level, attributes, real_paths, since))
            self._changed.set()
            return None
        if not is_file(attributes):
            raise not_a_file_error(path, attributes.mode or 0, "remote")
        return attributes

    def _stream_for(self, attributes: Attributes) -> Optional[DownloadStream]:
        """Return the stream for small files, once there are enough of them."""
        if not 0 < (attributes.size or 0) < self._remote.read_size or not self._may_stream:
            return None
        self._small_files += 1
        if self._stream is None and self._small_files > MANY_FILES:
            self._stream = DownloadStream(self._context, self._source, self._start_file)
            self._pipeline.start(self._stream.receive())
        return None if self._stream is None or self._stream.has_ended else self._stream

    @property
    def _may_stream(self) -> bool:
        context = self._context
        return (
            context.may_stream
            and not context.options.verify
            and not context.remote.facts.tar.is_missing
        )

    async def _follow_folder(self, path: bytes, folder: SourceFolder) -> Tuple[bytes, ...]:
        real = await self._remote.real_path(path)
        if any(is_within(other, real) for other in (*folder.real_paths[:-1], folder.real_path)):
            raise symlink_loop_error(path, "remote")
        return (*folder.real_paths[:-1], folder.real_path, real)

    # Files.

    async def _start_file(self, file: FileToCopy) -> None:
        file.folder.hold()
        try:
            await self._context.file_budget.start(self._copy_file(file))
        except BaseException:
            file.folder.release()
            raise

    async def _copy_file(self, file: FileToCopy) -> None:
        try:
            try:
                await self._transfer_file(FileDownload(self._context, file))
            except Refused as refused:
                raise await self._remote.to_os_error(refused) from refused
            self._context.progress.file_done()
        except SshTransferError as error:
            if self._tree is None:
                raise
            self._context.on_entry_failed(error)
        finally:
            self._context.file_budget.release()
            file.folder.release()

    async def _transfer_file(self, file: FileDownload) -> None:
        await file.run()
