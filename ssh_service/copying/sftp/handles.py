"""The handles of the files and folders that one session has open on the server."""

from __future__ import annotations

from collections import deque
from typing import Deque, Dict, Optional

from ssh_service.copying.sftp.protocol import ProtocolError
from ssh_service.copying.sftp.reply import Reply
from ssh_service.copying.sftp.usage import UsageTotal
from ssh_service.locks import Lock

__all__ = ["HandleGivenTwice", "OpenHandles"]

# The maximum number of handles per session if the server does not report a limit.
_DEFAULT_LIMIT = 100
# The number of handles that are stored before closed ones are removed.
_MAX_KNOWN = 4096


class HandleGivenTwice(ProtocolError):
    """
    A server gave two open files the same handle.

    Erlang/OTP 25 does this if more than two files are open concurrently.
    """


class _OpenFile:
    """A file or folder that may be open."""

    __slots__ = ("path", "closing")

    def __init__(self, path: bytes) -> None:
        self.path = path
        self.closing: Optional[Reply] = None  # the reply that will confirm the close

    def was_open_at(self, reply: Optional[Reply]) -> bool:
        """Return whether it was still open when `reply` arrived; None: whether it is open now."""
        if self.closing is None or not self.closing.arrival:
            return True
        return reply is not None and self.closing.arrival > reply.arrival


def _still_open(files: Dict[bytes, _OpenFile]) -> Dict[bytes, _OpenFile]:
    return {handle: file for handle, file in files.items() if file.was_open_at(None)}


class OpenHandles:
    """
    The handles that are open, and the limit of their number.

    Notes
    -----
    Thread safety.  Every method may be called from any thread.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._files: Dict[bytes, _OpenFile] = {}  # guarded by _lock: by handle
        # guarded by _lock: an upper bound, as replies to closes may have arrived in the meantime
        self._count = 0
        self._closing: Deque[Reply] = deque()  # guarded by _lock
        self._last_closed = 0  # guarded by _lock: the arrival of the latest confirmed close
        self._limit = _DEFAULT_LIMIT  # guarded by _lock
        self.usage = UsageTotal()  # the budgets of all copies on the session

    def has_room(self, announced: int) -> bool:
        """Return whether copies may open one more; `announced` is the server's limit, or 0."""
        with self._lock:
            allowed = announced // 2 or self._limit
        return self.usage.used < allowed

    def on_granted(self, count: int) -> None:
        """
        Count handles that have just arrived, on the reader thread.

        Not in `on_opened`: a copy may see that the server opens no more files before others see
        that theirs are open.
        """
        with self._lock:
            self._count += count

    def on_opened(self, handle: bytes, path: bytes, reply: Reply) -> None:
        """
        Record that `reply` contained the handle of `path`.

        Raises
        ------
        HandleGivenTwice
            Another file with this handle is still open.
        """
        with self._lock:
            other = self._files.get(handle)
            given_twice = other is not None and other.path != path and other.was_open_at(reply)
            self._files[handle] = _OpenFile(path)
            if len(self._files) > _MAX_KNOWN:
                self._files = _still_open(self._files)
        if given_twice:
            raise HandleGivenTwice("the server gave the handle of one open file to another")

    def on_closing(self, handle: bytes, reply: Reply) -> None:
        """Record that a handle is being closed; the server may reuse it after `reply`."""
        with self._lock:
            file = self._files.get(handle)
            if file is None or file.closing is not None and file.closing.arrival:
                return
            if file.closing is None:
                self._closing.append(reply)
            else:  # an exception prevented the first request from being sent
                self._closing[self._closing.index(file.closing)] = reply
            file.closing = reply

    def count(self) -> int:
        """Return the number of files and folders that are open now."""
        with self._lock:
            self._count_closes_locked()
            return self._count

    def _count_closes_locked(self) -> None:
        while self._closing and self._closing[0].arrival:
            self._last_closed = max(self._last_closed, self._closing.popleft().arrival)
            self._count -= 1

    def has_closed_since(self, reply: Reply) -> bool:
        """Return whether a file or folder was closed after `reply`."""
        self.count()
        with self._lock:
            return self._last_closed > reply.arrival

    def limit_to(self, count: int) -> None:
        """Record that the server refused to open more than `count`."""
        with self._lock:
            self._limit = min(self._limit, max(1, count))
