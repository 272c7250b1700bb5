"""An open file of a server, below the buffers of `io`: reads ahead, and writes behind."""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import warnings
from collections import deque
from typing import Any, Deque, Iterator, List, NamedTuple, Optional, Tuple

from ssh_service import api, background
from ssh_service.connections.entries import Lease
from ssh_service.copying.channels import get_session
from ssh_service.copying.failures import Refused, display_path
from ssh_service.copying.paths import to_bytes
from ssh_service.copying.pipeline import Pipeline
from ssh_service.copying.recoverable_lock import LockOwner, RecoverableLock
from ssh_service.copying.remote_files import RemoteFiles
from ssh_service.copying.remote_owner import RemoteOwner
from ssh_service.copying.replies import check_status, parse_attributes, parse_data
from ssh_service.copying.running import translate
from ssh_service.copying.sftp import protocol
from ssh_service.copying.sftp.client import SftpClient
from ssh_service.copying.sftp.protocol import Attributes
from ssh_service.copying.sftp.reply import Reply
from ssh_service.copying.sftp.session import SessionEnded
from ssh_service.copying.sftp.time_limits import TimeLimits
from ssh_service.copying.sftp.usage import Usage
from ssh_service.errors import SshServiceError, transfer_error
from ssh_service.params import ConnectParams
from ssh_service.paths.content import check_openable
from ssh_service.paths.running import CachedHost, with_lease

__all__ = ["OpenMode", "RemoteFile", "close_later", "open_file"]

# The maximum number of bytes that are requested ahead of the reader, and that are written without
# a confirmation.
_MAX_AHEAD = _MAX_BEHIND = 4 * 1024 * 1024
_NO_LIMITS = TimeLimits()

_log = logging.getLogger(__name__)


_strand = background.Strand()


def close_later(file: io.IOBase) -> None:
    """
    Close a file that was dropped, on a worker thread; for destructors.

    The garbage collector may run in any thread, while any lock is held.
    """
    background.submit_from_destructor(_strand, _close_dropped, file)


def _close_dropped(file: io.IOBase) -> None:
    try:
        warnings.warn(f"{file!r} was not closed", ResourceWarning, stacklevel=2)
    except ResourceWarning as warning:  # the user's filters turn it into an error
        _log.error("%s", warning)
    file.close()


class OpenMode(NamedTuple):
    """What a file is opened for."""

    flags: int  # of SFTP's OPEN
    text: str  # such as "r+b"

    @property
    def reads(self) -> bool:
        """Whether the file may be read."""
        return bool(self.flags & protocol.FOR_READING)

    @property
    def writes(self) -> bool:
        """Whether the file may be written."""
        return bool(self.flags & protocol.FOR_WRITING)

    @property
    def appends(self) -> bool:
        """Whether everything is written at the end."""
        return bool(self.flags & protocol.APPEND)


class _PartRequest(NamedTuple):
    """A read or write whose reply may be outstanding."""

    reply: Reply
    offset: int
    size: int


def open_file(host: CachedHost, path: str, mode: OpenMode) -> RemoteFile:
    """Open a file; it keeps a lease of the connection until it is closed."""

    def use(lease: Lease, target: ConnectParams) -> RemoteFile:
        try:
            return RemoteFile(lease, path, mode)
        except BaseException:
            lease.release(api.IDLE_TIMEOUT)
            raise

    return with_lease(host, use)


class RemoteFile(io.RawIOBase):
    """
    A file on a server, without a buffer.

    Notes
    -----
    Thread safety.  Every method may be called from any thread; calls wait for each other.
    """

    def __init__(self, lease: Lease, path: str, mode: OpenMode) -> None:
        super().__init__()
        self._is_open = False  # on the server
        self.has_buffer = False  # which closes this file
        self.is_unbuffered = False  # each write is confirmed at once
        self._lease = lease
        self._transport = lease.connection.result()[0]
        self.name = path
        self.mode = mode.text
        self._how = mode
        self._path = to_bytes(path)
        self._turn = RecoverableLock()
        self._at = 0
        self._size = 0  # as far as it is known
        self._ahead: Deque[_PartRequest] = deque()
        self._window = 0  # how many bytes are requested ahead
        self._current: Tuple[int, bytes] = (0, b"")  # what has arrived, and its offset
        self._behind: Deque[_PartRequest] = deque()
        self._behind_size = 0
        self._failure: Optional[Exception] = None  # of a write
        with self._translated():
            self._session = get_session(self._transport, _NO_LIMITS)
            self._client = SftpClient(self._session)
            self._usage = Usage()
            self._session.attach(self._client)
            try:
                self._open()
            except BaseException:
                self._session.detach(self._client, clean=not self._client.outstanding)
                raise
        self._is_open = True
        self._usage.used = 1
        self._session.handles.usage.add(self._usage)

    def _open(self) -> None:
        pipeline = Pipeline(self._client)
        self._remote = RemoteFiles(self._client, pipeline)
        self._handle = b""
        pipeline.run(self._open_it(RemoteOwner(self._remote, pipeline)))

    async def _open_it(self, owner: RemoteOwner) -> None:
        remote, how = self._remote, self._how
        try:
            path = await remote.expand_home(self._path)
            found = await remote.find(path)
            if found is not None:
                check_openable(found, path)
                self._size = found.size or 0
            if how.writes:
                await owner.check_folder(path)
            try:
                self._handle = await remote.open(path, how.flags)
            except Refused as refused:
                if how.flags & protocol.EXCLUSIVE and await remote.find(path, follow=False):
                    raise refused.as_error(errno.EEXIST) from refused
                raise
            if how.flags & protocol.TRUNCATE:
                self._size = 0
            if how.appends:
                self._at = self._size
        except Refused as refused:
            raise await remote.to_os_error(refused) from refused

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        with translate(self._transport, self._path, _NO_LIMITS, phase="file"):
            try:
                yield
            except Refused as refused:
                raise refused.as_error() from refused

    @contextlib.contextmanager
    def _in_turn(self) -> Iterator[None]:
        """Exclude other threads; forget the requests in flight if the block is interrupted."""
        owner, done = LockOwner(), False
        try:
            self._turn.acquire(owner, None)
            self._check_open()
            with self._translated():
                yield
            done = True
        except SshServiceError:
            done = True
            raise
        finally:
            if not done:
                self._renew()
            self._turn.release(owner)

    def _renew(self) -> None:
        """Replace the client: an interruption may have torn its batch."""
        if not self._is_open:
            return
        if self._behind:
            text = "a write was interrupted, and parts of it may be missing"
            self._failure = transfer_error(errno.EIO, self.name, text, side="remote")
        self._forget_behind()
        self._forget_ahead()
        old, self._client = self._client, SftpClient(self._session)
        self._session.attach(self._client)
        self._session.detach(old, clean=False)
        self._remote = RemoteFiles(self._client, Pipeline(self._client))

    def _wait_for(self, reply: Reply) -> Reply:
        while not reply.kind:
            self._client.flush()
            self._client.collect(None)
        return reply

    # Reading.

    def readable(self) -> bool:
        """Return whether the file may be read."""
        return self._how.reads

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer; return the number of bytes, 0 at the end of the file."""
        self._check(self._how.reads, "not readable")
        view = memoryview(buffer).cast("B")
        with self._in_turn():
            self._confirm()
            data = self._next_data(len(view)) if view else b""
            count = len(data)
            view[:count] = data
            self._at += count
            return count

    def readall(self) -> bytes:
        """Read to the end of the file."""
        self._check(self._how.reads, "not readable")
        pieces: List[bytes] = []
        self._window = _MAX_AHEAD
        while True:
            with self._in_turn():
                self._confirm()
                data = bytes(self._next_data(_MAX_AHEAD))
                self._at += len(data)
            if not data:
                return b"".join(pieces)
            pieces.append(data)

    def _next_data(self, size: int) -> memoryview:
        """Return 1 to `size` bytes at the current offset; none at the end of the file."""
        offset, data = self._current
        if not offset <= self._at < offset + len(data):
            data = self._take_reply(size)
            offset = self._at
            self._current = (offset, data)
        start = self._at - offset
        return memoryview(data)[start : start + size]

    def _take_reply(self, size: int) -> bytes:
        if self._ahead and self._ahead[0].offset != self._at:
            self._forget_ahead()
        self._ask_ahead(size)
        request = self._ahead[0]
        data = parse_data(self._wait_for(request.reply), self._path, request.size)
        self._ahead.popleft()
        count = sum(map(len, data))
        if not count:
            self._forget_ahead()
        elif count < request.size:
            self._ask_rest(request, count)
        self._window = min(_MAX_AHEAD, 2 * max(self._window, request.size))
        return b"".join(data)

    def _ask_ahead(self, size: int) -> None:
        """Request what the reader will need next: more of it the longer it reads on."""
        part = self._remote.read_size
        if not self._ahead:
            self._ask_read(self._at, max(1, min(part, max(size, protocol.SAFE_DATA_SIZE))))
        while True:
            last = self._ahead[-1]
            offset = last.offset + last.size
            if offset >= min(self._size, self._at + self._window):
                return
            self._ask_read(offset, part)

    def _ask_read(self, offset: int, size: int) -> None:
        reply = self._remote.ask_read(self._handle, offset, size)
        self._ahead.append(_PartRequest(reply, offset, size))

    def _ask_rest(self, request: _PartRequest, count: int) -> None:
        """Request again what a server has left out, or learn that the file ends there."""
        offset, size = request.offset + count, request.size - count
        if self._ahead or offset < self._size:
            reply = self._remote.ask_read(self._handle, offset, size)
            self._ahead.appendleft(_PartRequest(reply, offset, size))

    def _forget_ahead(self) -> None:
        self._ahead.clear()
        self._window = 0

    # Writing.

    def writable(self) -> bool:
        """Return whether the file may be written."""
        return self._how.writes

    def write(self, data: Any) -> int:
        """Write all of `data`; errors may be raised by a later call, at the latest by `close`."""
        self._check(self._how.writes, "not writable")
        view = memoryview(data).cast("B")
        with self._in_turn():
            self._raise_failure()
            self._forget_ahead()
            self._current = (0, b"")
            step = self._remote.write_size
            for start in range(0, len(view), step):
                self._ask_write(bytes(view[start : start + step]))
            if self.is_unbuffered:
                self._confirm()
            return len(view)

    def _ask_write(self, data: bytes) -> None:
        if self._how.appends:
            self._at = self._size  # wherever the position was
        reply = self._remote.ask_write(self._handle, self._at, data)
        self._behind.append(_PartRequest(reply, self._at, len(data)))
        self._behind_size += len(data)
        self._at += len(data)
        self._size = max(self._size, self._at)
        while self._behind_size > _MAX_BEHIND:
            self._confirm_first()

    def _confirm_first(self) -> None:
        request = self._behind[0]
        self._wait_for(request.reply)
        self._behind.popleft()
        self._behind_size -= request.size
        try:
            check_status(request.reply, self._path)
        except Refused as refused:
            refused.size = request.size
            self._failure = self._failure or self._why_refused(refused)

    def _forget_behind(self) -> None:
        self._behind.clear()
        self._behind_size = 0

    def _why_refused(self, refused: Refused) -> Exception:
        self._client.flush()
        pipeline = Pipeline(self._client)
        return pipeline.run(RemoteFiles(self._client, pipeline).to_os_error(refused))

    def _confirm(self) -> None:
        """Wait until everything has been written."""
        while self._behind:
            self._confirm_first()
        self._raise_failure()

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def flush(self) -> None:
        """Wait until the server has confirmed everything that was written."""
        if self._behind or self._failure is not None:
            with self._in_turn():
                self._confirm()
        else:
            self._check_open()

    def truncate(self, size: Optional[int] = None) -> int:
        """Set the size of the file, by default to the current offset; return it."""
        self._check(self._how.writes, "not writable")
        with self._in_turn():
            self._confirm()
            self._forget_ahead()
            self._current = (0, b"")
            size = self._at if size is None else size
            if size < 0:
                raise transfer_error(errno.EINVAL, self.name, side="remote")
            reply = self._remote.ask_set_open(self._handle, Attributes(size=size))
            check_status(self._wait_for(reply), self._path)
            self._size = size
            return size

    # Position.

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the offset of the next read or write, in bytes."""
        self._check_open()
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the offset, from the start (0), the current one (1) or the end of the file (2)."""
        if whence not in (os.SEEK_SET, os.SEEK_CUR, os.SEEK_END):
            raise ValueError(f"whence: expected 0, 1 or 2, got {whence!r}")
        with self._in_turn():
            if whence == os.SEEK_CUR:
                offset += self._at
            elif whence == os.SEEK_END:
                self._confirm()
                reply = self._wait_for(self._remote.ask_stat_open(self._handle))
                self._size = parse_attributes(reply, self._path).size or 0
                offset += self._size
            if offset < 0:
                raise transfer_error(errno.EINVAL, self.name, side="remote")
            self._at = offset
            return offset

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file.")

    def _check(self, allowed: bool, text: str) -> None:
        self._check_open()
        if not allowed:
            raise io.UnsupportedOperation(text)

    # The end.

    def close(self) -> None:
        """Close the file; raise the error of a write that failed."""
        if self.closed:
            return
        try:
            if self._is_open:
                self._close()
        finally:
            super().close()

    def _close(self) -> None:
        try:
            with self._in_turn():
                try:
                    self._confirm()
                finally:
                    self._close_handle()
        finally:
            self._is_open = False
            self._usage.used = 0
            self._forget_behind()
            self._failure = None
            self._settle()
            self._lease.release(api.IDLE_TIMEOUT)

    def _close_handle(self) -> None:
        try:
            closing = self._remote.ask_close(self._handle)
            self._client.flush()
            if self._how.writes:
                check_status(self._wait_for(closing), self._path)
        except SessionEnded:
            if self._how.writes:
                raise

    def _settle(self) -> None:
        """Wait for the replies to what was read ahead in vain, so that the session stays."""
        try:
            self._collect_all()
        except SessionEnded:
            pass  # nothing was to be written any more
        finally:
            self._session.detach(self._client, clean=not self._client.outstanding)

    def _collect_all(self) -> None:
        while self._client.outstanding:
            self._client.collect(None)

    def __del__(self) -> None:
        if self._is_open and not self.has_buffer:
            close_later(self)

    def __repr__(self) -> str:
        state = "closed" if self.closed else "open"
        return f"<{state} file {display_path(self._path)!r} on {self._transport.connection_id}>"
