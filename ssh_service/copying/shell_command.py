"""A command in the server's shell, as a copy uses one: what it reads, writes and ends with."""

from __future__ import annotations

import threading
from collections import deque
from typing import Deque, List, Optional

from ssh_service.copying.sftp.client import SftpClient
from ssh_service.copying.sftp.protocol import Buffer
from ssh_service.copying.sftp.reply import Reply
from ssh_service.copying.sftp.session import SftpChannel

__all__ = ["READY_LINE", "PRINT_READY_LINE", "ProcessChannel", "ShellProcess", "quoted"]

# What every script says first, so that a login shell that hangs, or is none, is noticed.
READY_LINE = b"ssh_service is ready\n"
PRINT_READY_LINE = b"echo ssh_service is ready;"
# Bytes that a profile may print before it.
_MAX_NOISE = 64 * 1024


class ProcessChannel(SftpChannel):
    """What a process needs of the channel under it."""

    def send_eof(self) -> None:
        """Let the command find the end of its input."""
        raise NotImplementedError

    def adjust_window(self, size: int) -> None:
        """Let the command write as much again."""
        raise NotImplementedError


class ShellProcess:
    """
    A command on the server, for one copy.

    Parameters
    ----------
    client : SftpClient
        The copy's: what comes wakes it as its replies do.

    Attributes
    ----------
    channel : Optional[ProcessChannel]
        The channel; set by who starts the command.
    refused : bool
        Whether it never began as the server admits no more sessions at the moment.

    Notes
    -----
    Thread safety.  `feed`, `on_writable` and `ended` are for the connection's reader thread; all
    else belongs to the copy's own thread.
    """

    def __init__(self, client: SftpClient) -> None:
        self._client = client
        self.channel: Optional[ProcessChannel] = None
        self.refused = False
        self._lock = threading.Lock()
        self._chunks: Deque[bytes] = deque()  # guarded by _lock
        self._waiting: List[Reply] = []  # guarded by _lock
        self._taken_before = 0  # guarded by _lock: of the chunks, bytes given back already
        self._changes = 0  # guarded by _lock
        self._has_ended = False  # guarded by _lock
        self._is_ready = False  # guarded by _lock
        self._status: Optional[int] = None  # guarded by _lock

    # The reader thread's side. ------------------------------------------------------------------

    def feed(self, chunk: bytes) -> None:
        """Take in what the command wrote."""
        with self._lock:
            self._chunks.append(chunk)
            woken = self._wake_locked()
        self._tell(woken)

    def on_writable(self) -> None:
        """Note that more can be written."""
        with self._lock:
            woken = self._wake_locked()
        self._tell(woken)

    def on_exit(self, status: Optional[int]) -> None:
        """Note the end; None: it never began, or nobody knows how it ended."""
        with self._lock:
            self._has_ended, self._status = True, status
            woken = self._wake_locked()
        self._tell(woken)

    def fail_unless_ready(self) -> None:
        """Note the end, and close the channel, if the script has not said yet that it runs."""
        with self._lock:
            if self._is_ready or self._has_ended:
                return
        self.on_exit(None)
        self.abandon()

    def _wake_locked(self) -> List[Reply]:
        self._changes += 1
        woken, self._waiting = self._waiting, []
        return woken

    def _tell(self, woken: List[Reply]) -> None:
        self._client.activity += 1
        if woken:
            self._client.deliver(woken)

    # The copy's side. ---------------------------------------------------------------------------

    async def _wait_for_change(self, seen: int) -> None:
        """Wait until something has happened since, and give all other tasks a turn."""
        reply = self._client.expect_external()
        with self._lock:
            happened = self._changes != seen
            if not happened:
                self._waiting.append(reply)
        if happened:
            self._client.deliver([reply])
        await reply

    async def wait_until_ready(self) -> bool:
        """
        Wait until the script says that it runs; what comes before is its profile's.

        Returns
        -------
        bool
            False where it does not: there is no shell, or it hangs, or is none that we know.
        """
        noise = b""
        while len(noise) <= _MAX_NOISE:
            chunk = await self.read()
            noise += chunk
            _, greeting, rest = noise.partition(READY_LINE)
            if greeting:
                with self._lock:
                    self._is_ready = True
                    if rest:
                        self._chunks.appendleft(rest)
                        self._taken_before = len(rest)
                return True
            if not chunk:
                break
        return False

    async def write(self, data: Buffer) -> bool:
        """Write all of `data` to the command's input; False: it takes no more."""
        left = memoryview(data)
        while left:
            with self._lock:
                seen, has_ended = self._changes, self._has_ended
            if has_ended:
                return False
            count = self.channel.send_some(left) if self.channel is not None else 0
            left = left[count:]
            if not count:
                await self._wait_for_change(seen)
        return True

    def end_input(self) -> None:
        """Let the command find the end of its input."""
        if self.channel is not None:
            self.channel.send_eof()

    async def read(self) -> bytes:
        """Read what the command wrote since; b"" at the end of its output."""
        while True:
            with self._lock:
                seen, has_ended = self._changes, self._has_ended
                chunk = b"".join(self._chunks)
                self._chunks.clear()
                taken_before, self._taken_before = self._taken_before, 0
            if len(chunk) > taken_before and self.channel is not None:
                self.channel.adjust_window(len(chunk) - taken_before)
            if chunk or has_ended:
                return chunk
            await self._wait_for_change(seen)

    async def end(self) -> Optional[int]:
        """Wait for its end; give its exit status, None if it has none."""
        while await self.read():
            pass
        with self._lock:
            return self._status

    def abandon(self) -> None:
        """End it; the reader thread tells of the end."""
        if self.channel is not None:
            self.channel.close()


def quoted(path: bytes) -> bytes:
    """
    Give a path, for ``$(printf "...")`` in a script between apostrophes, whatever is in it.

    No login shell finds anything in there that it would take for its own: only digits and
    backslashes.
    """
    if not path.startswith(b"/"):
        path = b"./" + path  # neither an option nor looked for elsewhere
    return b"".join(b"\\%03o" % byte for byte in path)
