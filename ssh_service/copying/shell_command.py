"""A command in the server's shell, for copies: its input, output and exit status."""

from __future__ import annotations

from collections import deque
from typing import Deque, List, Optional

from ssh_service.copying.sftp.client import SftpClient
from ssh_service.copying.sftp.reply import Reply
from ssh_service.copying.sftp.session import SftpChannel
from ssh_service.locks import Lock
from ssh_service.transport.wire import Buffer

__all__ = ["READY_LINE", "PRINT_READY_LINE", "ProcessChannel", "ShellProcess", "quoted"]

# The first output of every script; shows that the login shell is a shell, and does not hang.
READY_LINE = b"ssh_service is ready\n"
PRINT_READY_LINE = b"echo ssh_service is ready;"
# The maximum size of a profile's output that is skipped, in bytes.
_MAX_NOISE = 64 * 1024


class ProcessChannel(SftpChannel):
    """The channel under a command."""

    def send_eof(self) -> None:
        """Close the command's stdin."""
        raise NotImplementedError

    def adjust_window(self, size: int) -> None:
        """Allow the command to write `size` more bytes."""
        raise NotImplementedError


class ShellProcess:
    """
    A command on the server, for one copy.

    Attributes
    ----------
    channel : Optional[ProcessChannel]
        The channel; set when the command is started.
    refused : bool
        Whether the command was not started because the server's session limit is reached.

    Notes
    -----
    Thread safety.  `feed`, `on_writable` and `on_exit` are called by the connection's reader
    thread; everything else belongs to the thread of the copy.
    """

    def __init__(self, client: SftpClient) -> None:
        self._client = client
        self.channel: Optional[ProcessChannel] = None
        self.refused = False
        self._lock = Lock()
        self._chunks: Deque[bytes] = deque()  # guarded by _lock
        self._waiting: List[Reply] = []  # guarded by _lock
        self._taken_before = (
            0  # guarded by _lock: bytes of the chunks already returned to the window
        )
        self._changes = 0  # guarded by _lock
        self._has_ended = False  # guarded by _lock
        self._is_ready = False  # guarded by _lock
        self._status: Optional[int] = None  # guarded by _lock

    # Called by the reader thread.

    def feed(self, chunk: bytes) -> None:
        """Receive output of the command."""
        with self._lock:
            self._chunks.append(chunk)
            woken = self._wake_locked()
        self._deliver(woken)

    def on_writable(self) -> None:
        """Handle a window adjustment: more data can be written."""
        with self._lock:
            woken = self._wake_locked()
        self._deliver(woken)

    def on_exit(self, status: Optional[int]) -> None:
        """Handle the end; `status` is None if it never started, or the exit status is unknown."""
        with self._lock:
            self._has_ended, self._status = True, status
            woken = self._wake_locked()
        self._deliver(woken)

    def fail_unless_ready(self) -> None:
        """End the command if the script has not printed its first line yet."""
        with self._lock:
            if self._is_ready or self._has_ended:
                return
        self.on_exit(None)
        self.abandon()

    def _wake_locked(self) -> List[Reply]:
        self._changes += 1
        woken, self._waiting = self._waiting, []
        return woken

    def _deliver(self, woken: List[Reply]) -> None:
        self._client.activity += 1
        if woken:
            self._client.deliver(woken)

    # Called by the copy.

    async def _wait_for_change(self, seen: int) -> None:
        """Wait for a change since `seen`, and let all other tasks run."""
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
        Wait for the first line of the script, and skip the output of a profile before it.

        Return False if the line does not arrive: there is no shell, it hangs, or it is not
        supported.
        """
        noise = b""
        while len(noise) <= _MAX_NOISE:
            chunk = await self.read()
            noise += chunk
            _, ready, rest = noise.partition(READY_LINE)
            if ready:
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
        """Write all of `data` to the command's stdin; return False if the command has ended."""
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
        """Close the command's stdin."""
        if self.channel is not None:
            self.channel.send_eof()

    async def read(self) -> bytes:
        """Return the output since the last call; b"" at the end of the output."""
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
        """Wait for the end; return the exit status, or None if it is unknown."""
        while await self.read():
            pass
        with self._lock:
            return self._status

    def abandon(self) -> None:
        """Close the channel; the reader thread reports the end."""
        if self.channel is not None:
            self.channel.close()


def quoted(path: bytes) -> bytes:
    """
    Return a path for ``$(printf "...")`` in a script between apostrophes.

    The result consists only of digits and backslashes, which have no special meaning in any shell.
    """
    if not path.startswith(b"/"):
        path = b"./" + path  # so that it is not an option, and not searched in CDPATH
    return b"".join(b"\\%03o" % byte for byte in path)
