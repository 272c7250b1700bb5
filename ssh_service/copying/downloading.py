"""From the server to here: what goes where, of a file or a tree of them."""

from __future__ import annotations

import errno
import functools
import os
import stat
from collections import deque
from typing import Any, Deque, List, NamedTuple, Optional, Set, Tuple

from ssh_service.copying import temporary
from ssh_service.copying.context import MANY_FILES, CopyContext
from ssh_service.copying.download_file import FileDownload, FileToCopy, is_up_to_date
from ssh_service.copying.download_stream import DownloadStream
from ssh_service.copying.failures import (
    Refused,
    copy_into_itself_error,
    display_path,
    local_error,
    not_a_file_error,
    symlink_loop_error,
)
from ssh_service.copying.local.resume_marker import LocalResumeMarker
from ssh_service.copying.local.target_folder import (
    PathParts,
    TargetFolder,
    TargetTree,
    check_folder,
    follow_links,
    open_parent,
)
from ssh_service.copying.local.target_link import make_link
from ssh_service.copying.paths import MAX_NAME_LENGTH, basename, is_within, join
from ssh_service.copying.remote_files import (
    is_file,
    is_folder,
    is_link,
    parse_attributes,
    parse_link,
    parse_names,
)
from ssh_service.copying.sftp.protocol import Attributes, FolderEntry
from ssh_service.copying.sftp.reply import Reply
from ssh_service.copying.waiting import TaskEvent
from ssh_service.errors import SshTransferError, transfer_error

__all__ = ["Download"]

# What one copy accepts from a server, which may be hostile: entries in all, folders among them
# (which are remembered until the end), and levels.
MAX_ENTRIES = 1_000_000
MAX_FOLDERS = 250_000
MAX_LEVELS = 1000
# Parts of a folder asked for at once.
_READ_AHEAD = 3
# Entries of a folder that are listed before any is copied, so that most are closed by then.
_LIST_AHEAD = 1000


class _Folder(NamedTuple):
    """A folder to be copied; there may be many, so none has a path of its own in memory."""

    parent: Optional[Any]  # the _Folder it lies in
    name: bytes
    level: int
    attributes: Attributes
    real_paths: Tuple[bytes, ...]  # where the links on the way to it were, and where they led
    since: int  # how many of its names come before the end of the last of them

    @property
    def names(self) -> PathParts:
        """The names that lead to it from the root."""
        names: List[bytes] = []
        folder = self
        while folder.parent is not None:
            names.append(folder.name)
            folder = folder.parent
        return tuple(reversed(names))

    @property
    def real_path(self) -> bytes:
        """Its own path on the server, without links."""
        return functools.reduce(join, self.names[self.since :], self.real_paths[-1])


class Download:
    """
    The tasks of one download.

    Parameters
    ----------
    context : CopyContext
        What they share.
    """

    def __init__(self, context: CopyContext) -> None:
        self._context = context
        self._remote = context.remote
        self._pipeline = context.pipeline
        self._tree: Optional[TargetTree] = None
        self._to_do: List[_Folder] = []  # the last one first, so that few are waiting
        self._listing = 0
        self._change = TaskEvent(self._pipeline)
        self._entries = 0
        self._folders = 0
        self._finished_folders: List[_Folder] = []
        self._source = b""  # the root of the tree on the server
        self._small_files = 0
        self._small: Optional[DownloadStream] = None
        self._marker: Optional[LocalResumeMarker] = None  # with resume

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
            raise await self._remote.to_os_error(refused) from refused
        try:
            follow_links(target.rstrip(b"/") or b"/")
            if os.path.isdir(target) and not target.endswith(b"/"):
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
            text = "not a folder, so it has no contents to copy"
            raise transfer_error(errno.ENOTDIR, display_path(source), text, side="remote")
        else:
            if source.endswith(b"/"):
                raise transfer_error(errno.ENOTDIR, display_path(source), side="remote")
            await self._run_file(source, found, target)
        await self._pipeline.join_others()
        self._context.log_resumed(source)
        self._finish_folders()
        self._context.check_complete(source, "remote")

    async def _run_file(self, source: bytes, found: Attributes, target: bytes) -> None:
        if os.path.isdir(target):
            target = os.path.join(target, await self._basename(source))
        elif target.endswith(b"/"):
            if os.path.exists(target.rstrip(b"/")):
                raise transfer_error(errno.ENOTDIR, display_path(target), side="local")
            text = "there is no such folder, and the slash at its end asks for one"
            raise transfer_error(errno.EISDIR, display_path(target), text, side="local")
        folder, name = open_parent(target)
        self._context.closing.callback(folder.close)
        self._context.progress.expect(found.size or 0)
        self._context.progress.expect_no_more()
        folder.remove_stale_files(self._context.options.resume)
        await self._start_file(FileToCopy(source, found, folder, (name,)))

    async def _basename(self, source: bytes) -> bytes:
        name = basename(source)
        if name in (b"", b".", b".."):
            name = basename(await self._remote.real_path(source))
        check_name(name, source)
        return name

    # Folders.

    async def _run_tree(self, source: bytes, found: Attributes, target: bytes) -> None:
        real = await self._remote.real_path(source)
        if self._context.options.resume:
            server = self._remote.facts.connection_id.encode()
            self._marker = LocalResumeMarker(server + b" " + real)
            self._context.closing.callback(temporary.names.release, self._marker.name)
        place = await self._place_of_tree(source, target)
        is_explicit, target = place == target and target.endswith(b"/"), place
        source = source.rstrip(b"/") or b"/"
        self._source = source
        self._tree = TargetTree(
            target.rstrip(b"/") or b"/",
            self._mode_of(found),
            self._context.options.keeps_links,
            is_explicit,
        )
        self._context.closing.callback(self._tree.close)
        if self._marker is not None and not self._context.resumes_tree:
            if self._tree.root.is_new:
                self._marker.begin(self._tree.root)
            else:
                self._find_marker(self._tree.root.path)
        try:
            self._to_do.append(_Folder(None, b"", 0, found, (real,), 0))
            while self._to_do or self._listing:
                if self._to_do:
                    self._listing += 1
                    await self._context.folders.start(self._copy_folder(self._to_do.pop()))
                else:
                    self._change = TaskEvent(self._pipeline)
                    await self._change.wait()
            self._context.progress.expect_no_more()
        finally:
            if self._small is not None:
                self._small.end()  # what was asked for before comes, also after a failure

    def _find_marker(self, path: bytes) -> bool:
        """Return whether a folder is the tree that an interrupted call like this one began."""
        if self._marker is None or not self._marker.find(path):
            return False
        self._context.has_resumed = self._context.resumes_tree = True
        return True

    async def _place_of_tree(self, source: bytes, target: bytes) -> bytes:
        """Give the path of the folder that the tree becomes."""
        try:
            status = os.stat(target)
        except FileNotFoundError:
            self._context.new_trees.add(source, os.path.realpath(target))
            return target
        except OSError as error:
            raise local_error(error, target) from error
        if not stat.S_ISDIR(status.st_mode):
            raise transfer_error(errno.ENOTDIR, display_path(target), side="local")
        if self._context.options.contents or self._find_marker(target):
            return target
        if self._context.new_trees.join(source, os.path.realpath(target)):
            return target
        return os.path.join(target, await self._basename(source))

    def _finish_folders(self) -> None:
        if self._tree is None:
            return
        self._tree.remove_marker()
        if self._marker is not None:
            self._marker.end(self._tree.root)
        for done in reversed(self._finished_folders):
            names = done.names
            refused = self._tree.finish_folder(
                names, self._context.attributes_here(done.attributes)
            )
            if refused is not None:
                self._context.modes_refused(b"/".join(names) or b".", refused)
        self._tree.restore()

    def _mode_of(self, attributes: Attributes) -> int:
        """Give the mode to make a folder with; its own is set when all is in it."""
        if self._context.options.preserve is False:
            return 0o777  # less what the umask takes away
        return self._context.attributes_here(attributes).mode or 0o700

    async def _copy_folder(self, folder: _Folder) -> None:
        assert self._tree is not None
        names = folder.names
        path = functools.reduce(join, names, self._source)
        try:
            target = self._tree.make_folder(names, self._mode_of(folder.attributes))
            # Noted before anything in it: so a folder comes after those around it.  A target that
            # was there is the user's, whatever is copied into it.
            if names or target.is_new or not self._context.options.contents:
                self._finished_folders.append(folder)
            try:
                if not target.is_new:
                    target.remove_stale_files(self._context.options.resume)
                await self._list_folder(folder, path, target)
            finally:
                target.release()
        except (Refused, SshTransferError) as error:
            await self._folder_failed(folder, error)
        finally:
            self._context.folders.release()
            self._listing -= 1
            self._change.set()

    async def _folder_failed(self, folder: _Folder, error: Exception) -> None:
        failure = await self._remote.to_os_error(error) if isinstance(error, Refused) else error
        if folder.parent is None or not isinstance(failure, SshTransferError):
            raise failure from error  # nothing can be copied
        self._context.entry_failed(failure)

    async def _list_folder(self, folder: _Folder, path: bytes, target: TargetFolder) -> None:
        remote = self._remote
        handle = await remote.open_folder(path)
        entries: List[FolderEntry] = []
        seen: Set[int] = set()
        try:
            parts: Deque[Reply] = deque()
            while True:
                while len(parts) < _READ_AHEAD:
                    parts.append(remote.ask_read_folder(handle))
                part = parse_names(await parts.popleft(), path)
                if not part:
                    break
                entries += part
                if len(entries) >= _LIST_AHEAD:
                    await self._take_entries(folder, path, target, entries, seen)
                    entries = []
        finally:
            remote.ask_close(handle)
        # With the folder closed: where a server has room for few open files, they need it.
        await self._take_entries(folder, path, target, entries, seen)

    async def _take_entries(
        self,
        folder: _Folder,
        folder_path: bytes,
        target: TargetFolder,
        entries: List[FolderEntry],
        seen: Set[int],
    ) -> None:
        names = folder.names
        # What links lead to, or say, is asked for all of them at once.
        keeps_links = self._context.options.keeps_links
        ask = self._remote.ask_read_link if keeps_links else self._remote.ask_stat
        asked = [
            ask(join(folder_path, name)) if is_link(attributes) else None
            for name, attributes, _ in entries
        ]
        for entry, leads_to in zip(entries, asked):
            path = join(folder_path, entry.filename)
            try:
                self._check_entry(entry.filename, path, seen)
                if entry.filename in (b".", b".."):
                    continue
                if temporary.parse(entry.filename) is not None:
                    if self._tree is not None and entry.filename == self._tree.marker:
                        await self._end(copy_into_itself_error(folder_path, "remote"))
                    continue  # another copy is writing it, or has left it
                if leads_to is not None and keeps_links:
                    make_link(target, entry.filename, parse_link(await leads_to, path))
                    continue
                attributes = await self._classify(folder, entry, path, leads_to)
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
                if leads_to is None and not (self._context.passes_over and is_up_to_date(file)):
                    stream = self._stream_for(attributes)
                await (self._start_file(file) if stream is None else stream.ask(file))
        if self._small is not None:
            await self._small.flush()

    async def _entry_failed(self, error: Exception) -> None:
        """Note an entry that cannot be copied; if that ends the copy, what came before it is."""
        try:
            if not isinstance(error, SshTransferError) or error.errno == errno.E2BIG:
                raise error
            self._context.entry_failed(error)
        except OSError as final:
            await self._end(final)

    async def _end(self, error: Exception) -> None:
        if self._small is not None:
            await self._small.flush()
        self._pipeline.fail(error)

    async def _classify(
        self, folder: _Folder, entry: FolderEntry, path: bytes, leads_to: Optional[Reply]
    ) -> Optional[Attributes]:
        """Give the attributes of an entry that is a file; None for a folder, noted for later."""
        name, attributes, _ = entry
        real_paths, since, level = folder.real_paths, folder.since, folder.level + 1
        if leads_to is not None:
            attributes = parse_attributes(await leads_to, path)
            if is_folder(attributes):
                real_paths, since = await self._follow_folder(path, folder), level
        if is_folder(attributes):
            self._folders += 1
            if self._folders > MAX_FOLDERS:
                text = f"more than {MAX_FOLDERS} folders"
                raise transfer_error(errno.E2BIG, display_path(path), text, side="remote")
            if level > MAX_LEVELS:
                raise transfer_error(
                    errno.ELOOP, display_path(path), "too many levels", side="remote"
                )
            self._to_do.append(_Folder(folder, name, level, attributes, real_paths, since))
            self._change.set()
            return None
        if not is_file(attributes):
            raise not_a_file_error(path, attributes.mode or 0, "remote")
        return attributes

    def _stream_for(self, attributes: Attributes) -> Optional[DownloadStream]:
        """Give the stream for small files, once there are enough of them."""
        if not 0 < (attributes.size or 0) < self._remote.read_size or not self._may_stream:
            return None
        self._small_files += 1
        if self._small is None and self._small_files > MANY_FILES:
            self._small = DownloadStream(self._context, self._source, self._start_file)
            self._pipeline.start(self._small.receive())
        return None if self._small is None or self._small.is_over else self._small

    @property
    def _may_stream(self) -> bool:
        context = self._context
        return (
            context.has_shell
            and not context.options.verify
            and not context.remote.facts.tar.is_missing
        )

    def _check_entry(self, name: bytes, path: bytes, seen: Set[int]) -> None:
        self._entries += 1
        if self._entries > MAX_ENTRIES:
            raise transfer_error(
                errno.E2BIG, display_path(path), f"more than {MAX_ENTRIES} entries", side="remote"
            )
        if name not in (b".", b".."):
            check_name(name, path)
        digest = hash(name)  # keyed, and 64 bits: small, and no server can make two collide
        if digest in seen:
            raise transfer_error(
                errno.EPROTO, display_path(path), "the server lists this name twice", side="remote"
            )
        seen.add(digest)

    async def _follow_folder(self, path: bytes, folder: _Folder) -> Tuple[bytes, ...]:
        real = await self._remote.real_path(path)
        if any(is_within(other, real) for other in (*folder.real_paths[:-1], folder.real_path)):
            raise symlink_loop_error(path, "remote")
        return (*folder.real_paths[:-1], folder.real_path, real)

    # Files.

    async def _start_file(self, file: FileToCopy) -> None:
        file.folder.hold()
        try:
            await self._context.files.start(self._copy_file(file))
        except BaseException:
            file.folder.release()
            raise

    async def _copy_file(self, file: FileToCopy) -> None:
        try:
            try:
                await FileDownload(self._context, file).run()
            except Refused as refused:
                raise await self._remote.to_os_error(refused) from refused
            self._context.progress.file_done()
        except SshTransferError as error:
            if self._tree is None:
                raise
            self._context.entry_failed(error)
        finally:
            self._context.files.release()
            file.folder.release()


def check_name(name: bytes, path: bytes) -> None:
    """Refuse what is no name: a server may be hostile."""
    if len(name) > MAX_NAME_LENGTH:
        raise transfer_error(errno.ENAMETOOLONG, display_path(path), side="remote")
    if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
        raise transfer_error(
            errno.EPROTO, display_path(path), "the server sent an invalid file name", side="remote"
        )
