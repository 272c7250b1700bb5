"""The server's files, one request per method: each asks, waits for its reply and checks it."""

from __future__ import annotations

import errno
import time
from typing import Any, Callable, Iterator, Optional, Tuple

from ssh_service.copying.failures import Refused
from ssh_service.copying.paths import MAX_NAME_LENGTH, basename, folder_of, sibling
from ssh_service.copying.pipeline import Cancelled, Pipeline
from ssh_service.copying.replies import (
    check_status,
    is_folder,
    parse_attributes,
    parse_path,
    refusal,
)
from ssh_service.copying.sftp import decode, encode, protocol
from ssh_service.copying.sftp.client import SftpClient
from ssh_service.copying.sftp.handles import HandleGivenTwice
from ssh_service.copying.sftp.protocol import (
    Attributes,
    Buffer,
    FreeSpace,
    ServerLimits,
)
from ssh_service.copying.sftp.reply import Reply
from ssh_service.copying.sftp.session import SessionEnded
from ssh_service.copying.waiting import Budget

__all__ = ["RemoteFiles"]

# Seconds for which to wait until one of the open files is closed, where there may be room for few,
# and how often to try again once there was one less.
_HANDLE_WAIT_TIMEOUT, _MAX_OPEN_RETRIES = 30.0, 10


class RemoteFiles:
    """
    A server's files, over one client, for the tasks of one pipeline.

    Every method is a coroutine for the client's pipeline and raises `Refused` when the server
    would not.  Paths are bytes, taken literally.
    """

    def __init__(self, client: SftpClient, pipeline: Pipeline) -> None:
        self._client = client
        self._waiting_to_open = Budget(pipeline, 1)
        session = client.session
        self._extensions = session.extensions
        self.facts = session.facts
        self.can_replace = protocol.POSIX_RENAME in session.extensions
        self.can_sync = protocol.FSYNC in session.extensions
        self.read_size = _data_size(session.limits, session.limits.read)
        self.write_size = _data_size(session.limits, session.limits.write)

    def parts(self, start: int, end: int) -> Iterator[Tuple[int, int]]:
        """Give offset and size of the parts in which a file is read."""
        for offset in range(start, end, self.read_size):
            yield offset, min(self.read_size, end - offset)

    # Requests whose replies the caller waits for when it likes.

    def ask_close(self, handle: bytes) -> Reply:
        """Begin to close a file or folder."""
        reply = self._client.ask(encode.close, handle)
        self._client.session.handles.on_closing(handle, reply)
        return reply

    def ask_read(self, handle: bytes, offset: int, size: int) -> Reply:
        """Begin to read."""
        return self._client.ask(encode.read, handle, offset, size)

    def ask_write(self, handle: bytes, offset: int, data: bytes) -> Reply:
        """Begin to write."""
        return self._client.ask(encode.write, handle, offset, data)

    def ask_write_in(self, handle: bytes, offset: int, size: int, buffer: bytearray) -> Reply:
        """Begin to write what lies in `buffer`, see `encode.write_in`."""
        return self._client.ask(encode.write_in, handle, offset, size, buffer)

    def ask_stat_open(self, handle: bytes) -> Reply:
        """Begin to ask for the attributes of an open file."""
        return self._client.ask(encode.fstat, handle)

    def ask_set_open(self, handle: bytes, attributes: Attributes) -> Reply:
        """Begin to set attributes of an open file."""
        return self._client.ask(encode.fsetstat, handle, attributes)

    def ask_stat(self, path: bytes) -> Reply:
        """Begin to ask what a path leads to."""
        return self._client.ask(encode.stat, path)

    def ask_lstat(self, path: bytes) -> Reply:
        """Begin to ask what a path itself is."""
        return self._client.ask(encode.lstat, path)

    def ask_set(self, path: bytes, attributes: Attributes) -> Reply:
        """Begin to set attributes by path."""
        return self._client.ask(encode.setstat, path, attributes)

    def ask_sync(self, handle: bytes) -> Reply:
        """Begin to have an open file written to the disk."""
        return self._client.ask(encode.fsync, handle)

    def ask_remove(self, path: bytes) -> Reply:
        """Begin to remove a file."""
        return self._client.ask(encode.remove, path)

    def ask_rename(self, old: bytes, new: bytes) -> Reply:
        """Begin to rename; see `rename`."""
        request = encode.posix_rename if self.can_replace else encode.rename
        return self._client.ask(request, old, new)

    def ask_remove_folder(self, path: bytes) -> Reply:
        """Begin to remove an empty folder."""
        return self._client.ask(encode.remove_folder, path)

    def ask_read_link(self, path: bytes) -> Reply:
        """Begin to ask what a symbolic link says."""
        return self._client.ask(encode.read_link, path)

    def ask_read_folder(self, handle: bytes) -> Reply:
        """Begin to list some more."""
        return self._client.ask(encode.read_folder, handle)

    # Files and folders.

    async def open(self, path: bytes, how: int, mode: Optional[int] = None) -> bytes:
        """Open a file; give its handle."""
        return await self._open(path, encode.open_file, path, how, mode)

    async def open_folder(self, path: bytes) -> bytes:
        """Open a folder; give its handle."""
        return await self._open(path, encode.open_folder, path)

    async def _open(self, path: bytes, request: Callable[..., Buffer], *args: Any) -> bytes:
        if self._waiting_to_open.used:  # they come first
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
            # It may have room for so many open files, and not say so.
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
        """Open what was refused, perhaps for want of room, when something else was closed."""
        session, until, tries = self._client.session, time.monotonic() + _HANDLE_WAIT_TIMEOUT, 0
        while True:
            while session.handles.count() and not session.handles.has_closed_since(reply):
                if time.monotonic() > until:
                    raise refused
                await self._client.ask(encode.lstat, b".")  # nothing but a moment
            reply = self._client.ask(request, *args)
            try:
                return await self._handle(reply, refused.path)
            except Refused as again:
                refused = again
                if session.handles.has_closed_since(reply) and time.monotonic() < until:
                    continue  # it was full, and is no more
                count = session.handles.count()
                # With room, it was something else; unless another copy was faster.
                if count < most:
                    most, tries = count, tries + 1
                if tries >= _MAX_OPEN_RETRIES or not count:
                    raise

    async def _handle(self, reply: Reply, path: bytes) -> bytes:
        try:
            await reply
        except Cancelled:
            await reply  # the server may open it all the same: it must not stay open
            if reply.kind == protocol.HANDLE:
                await self.ask_close(decode.handle(reply.body))
            raise
        if reply.kind != protocol.HANDLE:
            raise refusal(reply, path)
        handle = decode.handle(reply.body)
        session = self._client.session
        try:
            session.handles.on_opened(handle, path, reply)
        except HandleGivenTwice as error:
            # A write may reach either of the two files: end the session for all copies.
            session.close(error)
            raise SessionEnded(error) from error
        return handle

    async def stat(self, path: bytes) -> Attributes:
        """Tell what a path leads to."""
        return parse_attributes(await self._client.ask(encode.stat, path), path)

    async def lstat(self, path: bytes) -> Attributes:
        """Tell what a path itself is."""
        return parse_attributes(await self._client.ask(encode.lstat, path), path)

    async def find(self, path: bytes, follow: bool = True) -> Optional[Attributes]:
        """Tell what a path leads to (or, not following, is), None if there is nothing."""
        try:
            return await (self.stat(path) if follow else self.lstat(path))
        except Refused as refused:
            if refused.code == protocol.NO_SUCH_FILE:
                return None
            raise

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
        """Make a symbolic link that says `text`."""
        paths = (path, text) if self.facts.symlink_path_first else (text, path)
        check_status(await self._client.ask(encode.make_link, *paths), path)

    async def text_of_link(self, path: bytes) -> bytes:
        """Tell what a symbolic link says, to the letter."""
        return parse_path(await self.ask_read_link(path), path)

    async def make_folder(self, path: bytes, mode: int) -> None:
        """Create a folder."""
        check_status(await self._client.ask(encode.make_folder, path, mode), path)

    async def rename(self, old: bytes, new: bytes) -> None:
        """Rename; replaces `new` in one step where the server can (see `can_replace`)."""
        check_status(await self.ask_rename(old, new), new)

    async def sync(self, handle: bytes, path: bytes) -> None:
        """Have an open file written to the disk."""
        check_status(await self._client.ask(encode.fsync, handle), path)

    # Paths.

    async def real_path(self, path: bytes) -> bytes:
        """Give the absolute path, without symbolic links."""
        return parse_path(await self._client.ask(encode.real_path, path), path)

    async def expand_home(self, path: bytes) -> bytes:
        """
        Give a literal path for one that may begin with ``~`` or ``~user``.

        The session begins in the home directory, so ``~/x`` is ``x`` even where the server cannot
        expand; for somebody else's home it must.
        """
        if not path.startswith(b"~"):
            return path
        if protocol.EXPAND_PATH in self._extensions:
            head, slash, rest = path.partition(b"/")
            home = parse_path(await self._client.ask(encode.expand_path, head), path)
            return home + slash + rest
        if path == b"~" or path.startswith(b"~/"):
            return path[2:].lstrip(b"/") or b"."
        raise Refused(protocol.NO_SUCH_FILE, "", path)

    async def read_link(self, path: bytes) -> Optional[bytes]:
        """Return the path that a symbolic link names; None where the server cannot tell."""
        try:
            target = parse_path(await self._client.ask(encode.read_link, path), path)
        except Refused:
            return None
        return target if target[:1] == b"/" else sibling(path, target)

    async def space(self, path: bytes) -> Optional[FreeSpace]:
        """Tell about the file system that holds `path`; None where the server cannot."""
        if protocol.STATVFS not in self._extensions:
            return None
        reply = await self._client.ask(encode.space, path)
        return decode.space(reply.body) if reply.kind == protocol.EXTENDED_REPLY else None

    # What a refusal meant.

    async def to_os_error(self, refused: Refused) -> OSError:
        """
        Find out what the server's "failure" was, which one status code stands for.

        Parameters
        ----------
        refused : Refused
            What it said.

        Returns
        -------
        OSError
            The error for the caller of the copy, not raised yet.
        """
        if refused.code == protocol.BAD_MESSAGE and len(basename(refused.path)) > MAX_NAME_LENGTH:
            return refused.as_error(errno.ENAMETOOLONG)
        if refused.code != protocol.FAILURE:
            return refused.as_error()
        space = await self.space(folder_of(refused.path))
        if space is not None and space.read_only:
            return refused.as_error(errno.EROFS)
        if space is not None and not (space.free_blocks and space.free_files):
            return refused.as_error(errno.ENOSPC)
        if space is not None and space.free_blocks * space.block_size < refused.size:
            return refused.as_error(errno.ENOSPC)  # some is left, but not enough for that write
        try:
            found = await self.find(refused.path)
        except Refused:
            return refused.as_error()
        if found is not None and is_folder(found):
            return refused.as_error(errno.EISDIR)
        return refused.as_error()


def _data_size(limits: ServerLimits, size: int) -> int:
    """Give how much one request may carry: what the server says, within reason."""
    if not size:
        return protocol.SAFE_DATA_SIZE
    if limits.packet:
        size = min(size, limits.packet - 1024)
    return max(1024, min(size, protocol.MAX_DATA_SIZE))
