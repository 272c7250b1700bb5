"""Wakes a thread that waits in a selector."""

from __future__ import annotations

import os
import socket
import sys
from typing import Union

__all__ = ["Wakeup", "make_wakeup"]


class _PipeWakeup:
    # A pipe, not a socket: if a signal handler interrupts `write`, it either wrote or did not.

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)

    def fileno(self) -> int:
        """Return the descriptor that is readable after `wake`."""
        return self._reader

    def wake(self) -> None:
        """Wake the thread; never blocks."""
        try:
            os.write(self._writer, b"\0")
        except BlockingIOError:
            pass  # the pipe is full, so the thread will wake up

    def drain(self) -> None:
        """Prepare the next wait."""
        try:
            os.read(self._reader, 4096)
        except BlockingIOError:
            pass

    def close(self) -> None:
        """Close both ends."""
        os.close(self._reader)
        os.close(self._writer)


class _SocketWakeup:
    """The same with sockets: those are all that a selector can wait for on Windows."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def fileno(self) -> int:
        """Return the descriptor that is readable after `wake`."""
        return self._reader.fileno()

    def wake(self) -> None:
        """Wake the thread; never blocks."""
        try:
            self._writer.send(b"\0")
        except BlockingIOError:
            pass  # the buffer is full, so the thread will wake up

    def drain(self) -> None:
        """Prepare the next wait."""
        try:
            self._reader.recv(4096)
        except BlockingIOError:
            pass

    def close(self) -> None:
        """Close both ends."""
        self._reader.close()
        self._writer.close()


Wakeup = Union[_PipeWakeup, _SocketWakeup]


def make_wakeup() -> Wakeup:
    """Return a wakeup of the kind that selectors of this system can wait for."""
    return _SocketWakeup() if sys.platform == "win32" else _PipeWakeup()
