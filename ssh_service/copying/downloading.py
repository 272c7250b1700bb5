"""From the server to here: what goes where, of a file or a tree of them."""

from __future__ import annotations

import errno
import functools
import os
import stat
from collections import deque
from typing import Any, Deque, List, NamedTuple, Optional, Set, Tuple

from ssh_service.copying import temporary
from ssh_service.copying.context import MANY_FILES, Job
from ssh_service.copying.download_file import FileDownload, Wanted, seems_there
from ssh_service.copying.download_stream import FileStream
from ssh_service.copying.failures import (
    Refused,
    into_itself,
    leads_back,
    local_error,
    not_a_file,
    shown,
)
from ssh_service.copying.local.begun_tree import LocalBegunTree
from ssh_service.copying.local.target_folder import (
    Names,
    TargetFolder,
    TargetTree,
    check_folder,
    follow_links,
    open_parent,
)
from ssh_service.copying.local.target_link import make_link
from ssh_service.copying.paths import LONGEST_NAME, is_within, join, last_name
from ssh_service.copying.remote_files import (
    attributes_in,
    is_file,
    is_folder,
    is_link,
    link_in,
    names_in,
)
from ssh_service.copying.sftp.protocol import Attributes, Name
from ssh_service.copying.sftp.reply import Reply
from ssh_service.copying.waiting import Signal
from ssh_service.errors import SshTransferError, transfer_error

__all__ = ["Download"]

# What one copy accepts from a server, which may be hostile: entries in all, folders among them
# (which are remembered until the end), and levels.
MOST_ENTRIES = 1_000_000
MOST_FOLDERS = 250_000
MOST_LEVELS = 1000
# Parts of a folder asked for at once.
_READ_AHEAD = 3
# Entries of a folder that are listed before any is copied, so that most are closed by then.
_LISTED_AHEAD = 1000


class _Folder(NamedTuple):
    """A folder to be copied; there may be many, so none has a path of its own in memory."""

    parent: Optional[Any]  # the _Folder it lies in
    name: bytes
    level: int
    attributes: Attributes
    real_paths: Tuple[bytes, ...]  # where the links on the way to it were, and where they led
    since: int  # how many of its names come before the end of the last of them

    @property
    def names(self) -> Names:
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
        self._folders = 0
        self._finished_folders: List[_Folder] = []
        self._source = b""  # the root of the tree on the server
        self._small_files = 0
        self._small: Optional[FileStream] = None
        self._mark: Optional[LocalBegunTree] = None  # with resume

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
        try:
            follow_links(target.rstrip(b"/") or b"/")
            if os.path.isdir(target) and not target.endswith(b"/"):
                check_folder(target)
        except OSError as error:
            raise local_error(error, target) from error
        if is_folder(found):
            if not self._job.options.recursive:
                raise transfer_error(
                    errno.EISDIR, shown(source), "is a folder (recursive=False)", side="remote"
                )
            await self._run_tree(source, found, target)
        elif not is_file(found):
            raise not_a_file(source, found.mode or 0, "remote")
        elif self._job.options.contents:
            text = "not a folder, so it has no contents to copy"
            raise transfer_error(errno.ENOTDIR, shown(source), text, side="remote")
        else:
            if source.endswith(b"/"):
                raise transfer_error(errno.ENOTDIR, shown(source), side="remote")
            await self._run_file(source, found, target)
        await self._pipeline.others_done()
        self._job.log_resumed(source)
        self._finish_folders()
        self._job.check_complete(source, "remote")

    async def _run_file(self, source: bytes, found: Attributes, target: bytes) -> None:
        if os.path.isdir(target):
            target = os.path.join(target, await self._basename(source))
        elif target.endswith(b"/"):
            if os.path.exists(target.rstrip(b"/")):
                raise transfer_error(errno.ENOTDIR, shown(target), side="local")
            text = "there is no such folder, and the slash at its end asks for one"
            raise transfer_error(errno.EISDIR, shown(target), text, side="local")
        folder, name = open_parent(target)
        self._job.closing.callback(folder.close)
        self._job.progress.expect(found.size or 0)
        self._job.progress.expect_no_more()
        folder.sweep(self._job.options.resume)
        await self._start_file(Wanted(source, found, folder, (name,)))

    async def _basename(self, source: bytes) -> bytes:
        name = last_name(source)
        if name in (b"", b".", b".."):
            name = last_name(await self._remote.real_path(source))
        check_name(name, source)
        return name

    # Folders.

    async def _run_tree(self, source: bytes, found: Attributes, target: bytes) -> None:
        real = await self._remote.real_path(source)
        if self._job.options.resume:
            server = str(self._remote.facts.get("connection", "")).encode()
            self._mark = LocalBegunTree(server + b" " + real)
            self._job.closing.callback(temporary.names.release, self._mark.name)
        place = await self._place_of_tree(source, target)
        is_named, target = place == target and target.endswith(b"/"), place
        source = source.rstrip(b"/") or b"/"
        self._source = source
        self._tree = TargetTree(
            target.rstrip(b"/") or b"/",
            self._mode_of(found),
            self._job.options.keeps_links,
            is_named,
        )
        self._job.closing.callback(self._tree.close)
        if self._mark is not None and not self._job.resumes_tree:
            if self._tree.root.is_new:
                self._mark.begin(self._tree.root)
            else:
                self._find_mark(self._tree.root.path)
        try:
            self._to_do.append(_Folder(None, b"", 0, found, (real,), 0))
            while self._to_do or self._listing:
                if self._to_do:
                    self._listing += 1
                    await self._job.folders.start(self._copy_folder(self._to_do.pop()))
                else:
                    self._change = Signal(self._pipeline)
                    await self._change.wait()
            self._job.progress.expect_no_more()
        finally:
            if self._small is not None:
                self._small.end()  # what was asked for before comes, also after a failure

    def _find_mark(self, path: bytes) -> bool:
        """Return whether a folder is the tree that an interrupted call like this one began."""
        if self._mark is None or not self._mark.find(path):
            return False
        self._job.has_resumed = self._job.resumes_tree = True
        return True

    async def _place_of_tree(self, source: bytes, target: bytes) -> bytes:
        """Give the path of the folder that the tree becomes."""
        try:
            status = os.stat(target)
        except FileNotFoundError:
            self._job.new_trees.add(source, os.path.realpath(target))
            return target
        except OSError as error:
            raise local_error(error, target) from error
        if not stat.S_ISDIR(status.st_mode):
            raise transfer_error(errno.ENOTDIR, shown(target), side="local")
        if self._job.options.contents or self._find_mark(target):
            return target
        if self._job.new_trees.join(source, os.path.realpath(target)):
            return target
        return os.path.join(target, await self._basename(source))

    def _finish_folders(self) -> None:
        if self._tree is None:
            return
        self._tree.remove_mark()
        if self._mark is not None:
            self._mark.end(self._tree.root)
        for done in reversed(self._finished_folders):
            names = done.names
            refused = self._tree.finish_folder(names, self._job.attributes_here(done.attributes))
            if refused is not None:
                self._job.modes_refused(b"/".join(names) or b".", refused)
        self._tree.restore()

    def _mode_of(self, attributes: Attributes) -> int:
        """Give the mode to make a folder with; its own is set when all is in it."""
        if self._job.options.preserve is False:
            return 0o777  # less what the umask takes away
        return self._job.attributes_here(attributes).mode or 0o700

    async def _copy_folder(self, folder: _Folder) -> None:
        assert self._tree is not None
        names = folder.names
        path = functools.reduce(join, names, self._source)
        try:
            target = self._tree.make_folder(names, self._mode_of(folder.attributes))
            # Noted before anything in it: so a folder comes after those around it.  A target that
            # was there is the user's, whatever is copied into it.
            if names or target.is_new or not self._job.options.contents:
                self._finished_folders.append(folder)
            try:
                if not target.is_new:
                    target.sweep(self._job.options.resume)
                await self._list_folder(folder, path, target)
            finally:
                target.release()
        except (Refused, SshTransferError) as error:
            await self._folder_failed(folder, error)
        finally:
            self._job.folders.give()
            self._listing -= 1
            self._change.set()

    async def _folder_failed(self, folder: _Folder, error: Exception) -> None:
        failure = await self._remote.explain(error) if isinstance(error, Refused) else error
        if folder.parent is None or not isinstance(failure, SshTransferError):
            raise failure from error  # nothing can be copied
        self._job.entry_failed(failure)

    async def _list_folder(self, folder: _Folder, path: bytes, target: TargetFolder) -> None:
        remote = self._remote
        handle = await remote.open_folder(path)
        entries: List[Name] = []
        seen: Set[int] = set()
        try:
            parts: Deque[Reply] = deque()
            while True:
                while len(parts) < _READ_AHEAD:
                    parts.append(remote.ask_read_folder(handle))
                part = names_in(await parts.popleft(), path)
                if not part:
                    break
                entries += part
                if len(entries) >= _LISTED_AHEAD:
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
        entries: List[Name],
        seen: Set[int],
    ) -> None:
        names = folder.names
        # What links lead to, or say, is asked for all of them at once.
        keeps_links = self._job.options.keeps_links
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
                    if self._tree is not None and entry.filename == self._tree.mark:
                        await self._end(into_itself(folder_path, "remote"))
                    continue  # another copy is writing it, or has left it
                if leads_to is not None and keeps_links:
                    make_link(target, entry.filename, link_in(await leads_to, path))
                    continue
                attributes = await self._look_at(folder, entry, path, leads_to)
            except Refused as refused:
                await self._entry_failed(await self._remote.explain(refused))
                continue
            except SshTransferError as error:
                await self._entry_failed(error)
                continue
            if attributes is not None:
                self._job.progress.expect(attributes.size or 0)
                wanted = Wanted(path, attributes, target, (*names, entry.filename))
                stream = None
                if leads_to is None and not (self._job.passes_over and seems_there(wanted)):
                    stream = self._stream_for(attributes)
                await (self._start_file(wanted) if stream is None else stream.ask(wanted))
        if self._small is not None:
            await self._small.flush()

    async def _entry_failed(self, error: Exception) -> None:
        """Note an entry that cannot be copied; if that ends the copy, what came before it is."""
        try:
            if not isinstance(error, SshTransferError) or error.errno == errno.E2BIG:
                raise error
            self._job.entry_failed(error)
        except OSError as final:
            await self._end(final)

    async def _end(self, error: Exception) -> None:
        if self._small is not None:
            await self._small.flush()
        self._pipeline.fail(error)

    async def _look_at(
        self, folder: _Folder, entry: Name, path: bytes, leads_to: Optional[Reply]
    ) -> Optional[Attributes]:
        """Give the attributes of an entry that is a file; None for a folder, noted for later."""
        name, attributes, _ = entry
        real_paths, since, level = folder.real_paths, folder.since, folder.level + 1
        if leads_to is not None:
            attributes = attributes_in(await leads_to, path)
            if is_folder(attributes):
                real_paths, since = await self._follow_folder(path, folder), level
        if is_folder(attributes):
            self._folders += 1
            if self._folders > MOST_FOLDERS:
                text = f"more than {MOST_FOLDERS} folders"
                raise transfer_error(errno.E2BIG, shown(path), text, side="remote")
            if level > MOST_LEVELS:
                raise transfer_error(errno.ELOOP, shown(path), "too many levels", side="remote")
            self._to_do.append(_Folder(folder, name, level, attributes, real_paths, since))
            self._change.set()
            return None
        if not is_file(attributes):
            raise not_a_file(path, attributes.mode or 0, "remote")
        return attributes

    def _stream_for(self, attributes: Attributes) -> Optional[FileStream]:
        """Give the stream for small files, once there are enough of them."""
        if not 0 < (attributes.size or 0) < self._remote.read_size or not self._may_stream:
            return None
        self._small_files += 1
        if self._small is None and self._small_files > MANY_FILES:
            self._small = FileStream(self._job, self._source, self._start_file)
            self._pipeline.start(self._small.receive())
        return None if self._small is None or self._small.is_over else self._small

    @property
    def _may_stream(self) -> bool:
        job = self._job
        return job.has_shell and not job.options.verify and not job.remote.lacks("tar")

    def _check_entry(self, name: bytes, path: bytes, seen: Set[int]) -> None:
        self._entries += 1
        if self._entries > MOST_ENTRIES:
            raise transfer_error(
                errno.E2BIG, shown(path), f"more than {MOST_ENTRIES} entries", side="remote"
            )
        if name not in (b".", b".."):
            check_name(name, path)
        digest = hash(name)  # keyed, and 64 bits: small, and no server can make two collide
        if digest in seen:
            raise transfer_error(
                errno.EPROTO, shown(path), "the server lists this name twice", side="remote"
            )
        seen.add(digest)

    async def _follow_folder(self, path: bytes, folder: _Folder) -> Tuple[bytes, ...]:
        real = await self._remote.real_path(path)
        if any(is_within(other, real) for other in (*folder.real_paths[:-1], folder.real_path)):
            raise leads_back(path, "remote")
        return (*folder.real_paths[:-1], folder.real_path, real)

    # Files.

    async def _start_file(self, wanted: Wanted) -> None:
        wanted.folder.hold()
        try:
            await self._job.files.start(self._copy_file(wanted))
        except BaseException:
            wanted.folder.release()
            raise

    async def _copy_file(self, wanted: Wanted) -> None:
        try:
            try:
                await FileDownload(self._job, wanted).run()
            except Refused as refused:
                raise await self._remote.explain(refused) from refused
            self._job.progress.file_done()
        except SshTransferError as error:
            if self._tree is None:
                raise
            self._job.entry_failed(error)
        finally:
            self._job.files.give()
            wanted.folder.release()


def check_name(name: bytes, path: bytes) -> None:
    """Refuse what is no name: a server may be hostile."""
    if len(name) > LONGEST_NAME:
        raise transfer_error(errno.ENAMETOOLONG, shown(path), side="remote")
    if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
        raise transfer_error(
            errno.EPROTO, shown(path), "the server sent an invalid file name", side="remote"
        )
