"""The input of a command with a terminal: a script too long for the exec request, then stdin."""

from __future__ import annotations

from typing import Optional

from ssh_service.commands.marks import Marks
from ssh_service.commands.stdin import Stdin
from ssh_service.transport import SshChannel

# Turns off what the terminal would do with our bytes: echo them, end lines at 4,095 bytes, treat
# some as signals or flow control, turn CR into LF.
_RAW = "-echo -icanon -isig -ixon -icrnl -iexten min 1 time 0"


class TerminalInput:
    """
    Sends a script, and then the caller's stdin, so that the terminal echoes nothing of the script.

    The remote shell first makes the terminal raw, and only then asks for the script: values of the
    environment never leave before the echo is known to be off.  The script's first act is to
    restore the terminal, and only then is the caller's input sent.  Marks in the output report
    both moments.  The server needs a POSIX shell and ``stty`` for it.

    Attributes
    ----------
    before : str
        The shell's commands before it reads the script; it has no single quote, backslash or
        exclamation mark, see `ssh_service.commands.script`.
    prologue : str
        The first commands of the script.

    Notes
    -----
    Thread safety.  `strip` and `flush` are for the reader thread, all else for any.

    """

    def __init__(self, stdin: Stdin, connection_id: str) -> None:
        self._marks = Marks(2)
        ready, restored = self._marks.text("ready"), self._marks.text("restored")
        self.before = f'_ssh_t=$(stty -g)&&stty {_RAW}&&printf "{ready}"||exit 126;'
        self.prologue = f'stty "$_ssh_t";unset _ssh_t;printf "{restored}";'
        self._stdin, self._connection_id = stdin, connection_id
        self._channel: Optional[SshChannel] = None
        self._script = Stdin(b"", True, connection_id)
        self._text = b""

    def start(self, channel: SshChannel, preamble: bytes) -> None:
        """Begin to send, as soon as the terminal is ready."""
        if not preamble:
            self._stdin.start(channel)
            return
        self._channel, self._text = channel, preamble

    def strip(self, chunk: bytes) -> bytes:
        """Take out what the script's beginning writes for us, and act on it."""
        if self._channel is None:
            return chunk
        shown, words = self._marks.extract(chunk)
        for word in words:
            if word == b"ready":
                self._script.start(self._channel, self._text)
            else:
                self._stdin.start(self._channel)
        return shown

    def flush(self) -> bytes:
        """Return what was held back, at the end of the output."""
        return self._marks.flush()

    def pump(self) -> None:
        """Send what the peer's window takes."""
        self._script.pump()
        self._stdin.pump()

    def end(self) -> None:
        """Drop the unsent rest: nothing will read it."""
        self._script.end()
        self._stdin.end()
