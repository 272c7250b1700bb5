"""A channel's receive buffer: a deque of chunks, which are not copied until they are read."""

from __future__ import annotations

import collections
import threading
from typing import Any, Deque, Optional, Union

from paramiko.buffered_pipe import PipeTimeout

from ssh_service.locks import Lock


class ChunkPipe:
    """
    paramiko's `BufferedPipe` in linear time: see docs/paramiko_repairs.md#quadratic-copies.

    Notes
    -----
    Thread safety.  Every method may be called from any thread.
    """

    def __init__(self) -> None:
        # Taken directly, not through the condition, whose `with` is Python code that an exception
        # of a signal handler can interrupt: see docs/paramiko_repairs.md#torn-calls
        self._lock = Lock()
        self._changed = threading.Condition(self._lock)
        self._chunks: Deque[Union[bytes, memoryview]] = collections.deque()  # guarded by _lock
        self._size = 0  # guarded by _lock
        self._closed = False  # guarded by _lock
        self._event: Optional[Any] = None  # guarded by _lock

    def __len__(self) -> int:
        return self._size

    def set_event(self, event: Any) -> None:
        """Keep `event` set while there is data, or after the end."""
        with self._lock:
            self._event = event
            self._update_event_locked()

    def _update_event_locked(self) -> None:
        if self._event is not None:
            (self._event.set if self._size or self._closed else self._event.clear)()

    def feed(self, data: bytes) -> None:
        """Append `data`."""
        with self._lock:
            if data:
                self._chunks.append(data)
                self._size += len(data)
            self._update_event_locked()
            self._changed.notify_all()

    def read_ready(self) -> bool:
        """Return whether `read` would return bytes without waiting."""
        return self._size > 0

    def read(self, nbytes: int, timeout: Optional[float] = None) -> bytes:
        """
        Take up to `nbytes` bytes, waiting until there is one.

        Raises
        ------
        PipeTimeout
            The time was up.
        """
        with self._lock:
            if not self._changed.wait_for(lambda: self._size or self._closed, timeout):
                raise PipeTimeout()
            return self._take_locked(nbytes)

    def _take_locked(self, nbytes: int) -> bytes:
        out = []
        while self._chunks and nbytes > 0:
            chunk = self._chunks.popleft()
            if len(chunk) > nbytes:
                view = memoryview(chunk)  # a view: the rest is not copied
                self._chunks.appendleft(view[nbytes:])
                chunk = view[:nbytes]
            out.append(chunk)
            nbytes -= len(chunk)
            self._size -= len(chunk)
        self._update_event_locked()
        if len(out) == 1 and isinstance(out[0], bytes):
            return out[0]
        return b"".join(out)

    def empty(self) -> bytes:
        """Return all buffered bytes, without waiting."""
        with self._lock:
            return self._take_locked(self._size)

    def close(self) -> None:
        """Let `read` return b"" once the buffer is empty."""
        with self._lock:
            self._closed = True
            self._update_event_locked()
            self._changed.notify_all()


class _ClosedPipe(ChunkPipe):
    """The buffer of every channel that has a sink: closed and empty."""

    def __init__(self) -> None:
        super().__init__()
        super().close()

    def close(self) -> None:
        """Do nothing: reader threads must not contend for the lock of this shared object."""


CLOSED_PIPE = _ClosedPipe()
