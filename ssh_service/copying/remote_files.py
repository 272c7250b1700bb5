"""The requests for a server's files; each method awaits the reply and checks it."""

from __future__ import annotations

import errno
import time
from typing import Any, Callable, Iterator, Optional, Tuple

from ssh_service.copying.failures import (
    NO_INODES,
    Refused,
    dangling_link,
    missing_folder,
    not_a_folder,
    not_expanded,
    sticky_folder,
)
from ssh_service.copying.paths import (
    MAX_LISTED_PATH_LENGTH,
    MAX_NAME_LENGTH,
    basename,
    folder_of,
    sibling,
)
from ssh_service.copying.pipeline import Cancelled, Pipeline
from ssh_service.copying.rate_limit import RateLimit
from ssh_service.copying.replies import (
    check_status,
    is_folder,
    is_link,
    parse_attributes,
    parse_found,
    parse_path,
    refusal,
)
from ssh_service.copying.sftp import decode, encode, protocol
from ssh_service.copying.sftp.client import SftpClient
from ssh_service.copying.sftp.handles import HandleGivenTwice
from ssh_service.copying.sftp.protocol import (
    Attributes,
    FreeSpace,
    ServerLimits,
)
from ssh_service.copying.sftp.reply import Reply
from ssh_service.copying.sftp.session import SessionEnded
from ssh_service.copying.waiting import Budget
from ssh_service.transport.wire import Buffer

__all__ = ["RemoteFiles"]

# For servers that may allow few open files: seconds to wait for a close, and the number of retries
# with fewer files open.
_HANDLE_WAIT_TIMEOUT, _MAX_OPEN_RETRIES = 30.0, 10


class RemoteFiles:
    """
    The files of a server, for the tasks of one pipeline.

    Every coroutine method raises `Refused` if the server refuses the request.  The methods
    ``ask_...`` send a request and return the reply, which the caller awaits later.  Patterns in
    paths are not expanded.
    """

    def __init__(
        self, client: SftpClient, pipeline: Pipeline, limit: Optional[RateLimit] = None
    ) -> None:
        self._client = client
        self._limit = limit
        self._waiting_to_open = Budget(pipeline, 1)
        session = client.session
        self._extensions = session.extensions
        self.facts = session.facts
        self.can_replace = protocol.POSIX_RENAME in session.extensions
        self.can_sync = protocol.FSYNC in session.extensions
        self.read_size = _data_size(session.limits, session.limits.read)
        self.write_size = _data_size(session.limits, session.limits.write)
        if limit is not None:
            self.read_size = limit.part_size(self.read_size)
            self.write_size = limit.part_size(self.write_size)

    def parts(self, start: int, end: int) -> Iterator[Tuple[int, int]]:
        """Yield the offset and size of each part in which to read a file."""
        for offset in range(start, end, self.read_size):
            yield offset, min(self.read_size, end - offset)

    # Requests whose replies the caller awaits later.

    def ask_close(self, handle: bytes) -> Reply:
        """Close a file or folder."""
        reply = self._client.new_reply()
        # Recorded before it is sent, as a signal handler's exception may occur in between: a
        # handle that the server has closed, and may reuse, must not count as open.
        self._client.session.handles.on_closing(handle, reply)
        self._client.submit(reply, encode.close(reply.request_id, handle))
        return reply

    def ask_read(self, handle: bytes, offset: int, size: int) -> Reply:
        """Read from a file."""
        if self._limit is not None:
            self._limit.spend(size)
        return self._client.ask(encode.read, handle, offset, size)

    def ask_write(self, handle: bytes, offset: int, data: bytes) -> Reply:
        """Write to a file."""
        if self._limit is not None:
            self._limit.spend(len(data))
        return self._client.ask(encode.write, handle, offset, data)

    def ask_write_in(self, handle: bytes, offset: int, size: int, buffer: bytearray) -> Reply:
        """Write data that is already in `buffer`; see `encode.write_in`."""
        if self._limit is not None:
            self._limit.spend(size)
        return self._client.ask(encode.write_in, handle, offset, size, buffer)

    def ask_stat_open(self, handle: bytes) -> Reply:
        """Request the attributes of an open file."""
        return self._client.ask(encode.fstat, handle)

    def ask_set_open(self, handle: bytes, attributes: Attributes) -> Reply:
        """Set attributes of an open file."""
        return self._client.ask(encode.fsetstat, handle, attributes)

    def ask_stat(self, path: bytes) -> Reply:
        """Request the attributes of a path, following links."""
        return self._client.ask(encode.stat, path)

    def ask_lstat(self, path: bytes) -> Reply:
        """Request the attributes of a path, not following links."""
        return self._client.ask(encode.lstat, path)

    def ask_set(self, path: bytes, attributes: Attributes) -> Reply:
        """Set attributes by path."""
        return self._client.ask(encode.setstat, path, attributes)

    def ask_sync(self, handle: bytes) -> Reply:
        """Flush an open file to the disk."""
        return self._client.ask(encode.fsync, handle)

    def ask_remove(self, path: bytes) -> Reply:
        """Remove a file."""
        return self._client.ask(encode.remove, path)

    def ask_rename(self, old: bytes, new: bytes) -> Reply:
        """Rename a file or folder; see `rename`."""
        request = encode.posix_rename if self.can_replace else encode.rename
        return self._client.ask(request, old, new)

    def ask_remove_folder(self, path: bytes) -> Reply:
        """Remove an empty folder."""
        return self._client.ask(encode.remove_folder, path)

    def ask_real_path(self, path: bytes) -> Reply:
        """Request the absolute path without symbolic links."""
        return self._client.ask(encode.real_path, path)

    def ask_read_link(self, path: bytes) -> Reply:
        """Request the target of a symbolic link."""
        return self._client.ask(encode.read_link, path)

    def ask_read_folder(self, handle: bytes) -> Reply:
        """Request more entries of a folder."""
        return self._client.ask(encode.read_folder, handle)

    # Files and folders.

    async def open(self, path: bytes, how: int, mode: Optional[int] = None) -> bytes:
        """Open a file; return its handle."""
        return await self._open(path, encode.open_file, path, how, mode)

    async def open_folder(self, path: bytes) -> bytes:
        """Open a folder; return its handle."""
        return await self._open(path, encode.open_folder, path)

    async def _open(self, path: bytes, request: Callable[..., Buffer], *args: Any) -> bytes:
        if self._waiting_to_open.used:  # earlier tasks that wait come first
            await self._waiting_to_open.acquire()
            self._waiting_to_open.release()
        session, reply = self._client.session, self._client.ask(request, *args)
        try:
            return await self._handle(reply, path)
        except Refused as refused:
            most = session.handles.count()
            were_open = most or session.handles.has_closed_since(reply)
            if refused.code != protocol.FAILURE or session.limits.handles or not were_open:
                raise
            # The server may limit the number of open files without announcing it.
            await self._waiting_to_open.acquire()
            try:
                handle = await self._open_later(most, reply, refused, request, args)
            finally:
                self._waiting_to_open.release()
            session.handles.limit_to(max(most, session.handles.count()))
            return handle

    async def _open_later(
        self,
        most: int,
        reply: Reply,
        refused: Refused,
        request: Callable[..., Buffer],
        args: Tuple[Any, ...],
    ) -> bytes:
        """Retry an open after each close: it may have failed because too many files are open."""
        session, until, tries = self._client.session, time.monotonic() + _HANDLE_WAIT_TIMEOUT, 0
        while True:
            while session.handles.count() and not session.handles.has_closed_since(reply):
                if time.monotonic() > until:
                    raise refused
                await self._client.ask(
                    encode.lstat, b"."
                )  # a request whose only purpose is to let time pass
            reply = self._client.ask(request, *args)
            try:
                return await self._handle(reply, refused.path)
            except Refused as again:
                refused = again
                if session.handles.has_closed_since(reply) and time.monotonic() < until:
                    continue  # the limit was reached, but no longer is
                count = session.handles.count()
                # Refused although the limit was not reached: for another reason, or another copy
                # was faster.
                if count < most:
                    most, tries = count, tries + 1
                if tries >= _MAX_OPEN_RETRIES or not count:
                    raise

    async def _handle(self, reply: Reply, path: bytes) -> bytes:
        try:
            await reply
        except Cancelled:
            await reply  # the server may have opened the file, which must not stay open
            if reply.kind == protocol.HANDLE:
                await self.ask_close(self._opened(reply, path))
            raise
        if reply.kind != protocol.HANDLE:
            raise refusal(reply, path)
        return self._opened(reply, path)

    def _opened(self, reply: Reply, path: bytes) -> bytes:
        """Record that a file or folder is open; return its handle."""
        handle = decode.handle(reply.body)
        session = self._client.session
        try:
            session.handles.on_opened(handle, path, reply)
        except HandleGivenTwice as error:
            # Writes may reach either of the two files: end the session for all copies.
            session.close(error)
            raise SessionEnded(error) from error
        return handle

    async def stat(self, path: bytes) -> Attributes:
        """Return the attributes of a path, following links."""
        return parse_attributes(await self._client.ask(encode.stat, path), path)

    async def lstat(self, path: bytes) -> Attributes:
        """Return the attributes of a path, not following links."""
        return parse_attributes(await self._client.ask(encode.lstat, path), path)

    async def find(self, path: bytes, follow: bool = True) -> Optional[Attributes]:
        """Return the attributes of a path, or None if it does not exist."""
        return parse_found(await (self.ask_stat if follow else self.ask_lstat)(path), path)

    async def set(self, path: bytes, attributes: Attributes) -> None:
        """Set attributes."""
        check_status(await self._client.ask(encode.setstat, path, attributes), path)

    async def remove(self, path: bytes) -> None:
        """Remove a file."""
        check_status(await self._client.ask(encode.remove, path), path)

    async def remove_folder(self, path: bytes) -> None:
        """Remove an empty folder."""
        check_status(await self.ask_remove_folder(path), path)

    async def make_link(self, text: bytes, path: bytes) -> None:
        """Create a symbolic link with target `text`."""
        paths = (path, text) if self.facts.symlink_path_first else (text, path)
        check_status(await self._client.ask(encode.make_link, *paths), path)

    async def text_of_link(self, path: bytes) -> bytes:
        """Return the target of a symbolic link as it is stored."""
        return parse_path(await self.ask_read_link(path), path)

    async def make_folder(self, path: bytes, mode: int) -> None:
        """Create a folder."""
        check_status(await self._client.ask(encode.make_folder, path, mode), path)

    async def rename(self, old: bytes, new: bytes) -> None:
        """Rename; replace `new` atomically if the server can (see `can_replace`)."""
        check_status(await self.ask_rename(old, new), new)

    async def sync(self, handle: bytes, path: bytes) -> None:
        """Flush an open file to the disk."""
        check_status(await self._client.ask(encode.fsync, handle), path)

    # Paths.

    async def real_path(self, path: bytes) -> bytes:
        """Return the absolute path, without symbolic links."""
        return parse_path(await self.ask_real_path(path), path)

    async def expand_home(self, path: bytes) -> bytes:
        """
        Expand a path that may begin with ``~`` or ``~user``.

        The session starts in the home directory, so ``~/x`` is ``x`` even if the server cannot
        expand paths; the home directory of another user needs the server's support.
        """
        if not path.startswith(b"~"):
            return path
        if protocol.EXPAND_PATH in self._extensions:
            head, slash, rest = path.partition(b"/")
            home = parse_path(await self._client.ask(encode.expand_path, head), path)
            return home + slash + rest
        if path == b"~" or path.startswith(b"~/"):
            return path[2:].lstrip(b"/") or b"."
        raise Refused(protocol.OP_UNSUPPORTED, "", path)

    async def read_link(self, path: bytes) -> Optional[bytes]:
        """Return the path that a symbolic link points to; None if the server cannot report it."""
        try:
            target = parse_path(await self._client.ask(encode.read_link, path), path)
        except Refused:
            return None
        return target if target[:1] == b"/" else sibling(path, target)

    async def space(self, path: bytes) -> Optional[FreeSpace]:
        """Return the free space of the file system of `path`; None if it is not reported."""
        if protocol.STATVFS not in self._extensions:
            return None
        reply = await self._client.ask(encode.space, path)
        return decode.space(reply.body) if reply.kind == protocol.EXTENDED_REPLY else None

    # Errors.

    async def to_os_error(self, refused: Refused) -> OSError:
        """Return the error for the caller; query the server for the cause if necessary."""
        if refused.code == protocol.BAD_MESSAGE and (
            len(basename(refused.path)) > MAX_NAME_LENGTH
            or len(refused.path) > MAX_LISTED_PATH_LENGTH
        ):
            return refused.as_error(errno.ENAMETOOLONG)
        if refused.code == protocol.NO_SUCH_FILE:
            return await self._why_missing(refused) or refused.as_error()
        if refused.code == protocol.PERMISSION_DENIED:
            return await self._why_denied(refused) or refused.as_error()
        if refused.code != protocol.FAILURE:
            return refused.as_error()
        space = await self.space(folder_of(refused.path))
        if space is not None and space.read_only:
            return refused.as_error(errno.EROFS)
        if space is not None and not space.has_inodes_left and not refused.size:
            return refused.as_error(errno.ENOSPC, NO_INODES)
        if space is not None and (
            not space.free_blocks or space.free_blocks * space.block_size < refused.size
        ):
            return refused.as_error(errno.ENOSPC)  # too little space for this write
        try:
            found = await self.find(refused.path)
        except Refused:
            return refused.as_error()
        if found is not None and is_folder(found):
            return refused.as_error(errno.EISDIR)
        missing = await self._why_missing(refused) if found is None else None
        return missing or refused.as_error()

    async def _why_missing(self, refused: Refused) -> Optional[OSError]:
        path = refused.path.rstrip(b"/") or b"/"
        folder = folder_of(path)
        try:
            entry, parent = await self.find(path, follow=False), await self.find(folder)
            if entry is not None and is_link(entry) and await self.find(path) is None:
                text = dangling_link(parse_path(await self.ask_read_link(path), path))
                return refused.as_error(errno.ENOENT, text)
        except Refused:  # one of these paths may not be accessible
            return None
        if parent is None:
            file = await self._file_on_way(folder)
            if file is not None:
                return refused.as_error(errno.ENOTDIR, not_a_folder(file))
            text = not_expanded(path) or missing_folder(folder)
            return refused.as_error(errno.ENOENT, text)
        if not is_folder(parent):
            return refused.as_error(errno.ENOTDIR, not_a_folder(folder))
        pattern = not_expanded(path) if refused.errno == errno.ENOENT else None
        return refused.as_error(errno.ENOENT, pattern) if pattern else None

    async def _file_on_way(self, path: bytes) -> Optional[bytes]:
        """Return the part of a missing path that is not a folder, if that is why it is missing."""
        while folder_of(path) != path:
            path = folder_of(path)
            try:
                found = await self.find(path)
            except Refused:
                return None
            if found is not None:
                return None if is_folder(found) else path
        return None

    async def _why_denied(self, refused: Refused) -> Optional[OSError]:
        path, identity = refused.path.rstrip(b"/") or b"/", self.facts.identity
        try:
            entry, parent = await self.lstat(path), await self.stat(folder_of(path))
        except Refused:
            return None
        text = sticky_folder(entry, parent, None if identity is None else identity.uid)
        return None if text is None else refused.as_error(detail=text)


def _data_size(limits: ServerLimits, size: int) -> int:
    """Return the maximum amount of data per request: the server's limit, within bounds."""
    if not size:
        return protocol.SAFE_DATA_SIZE
    if limits.packet:
        size = min(size, limits.packet - 1024)
    return max(1024, min(size, protocol.MAX_DATA_SIZE))
