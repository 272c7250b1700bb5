"""The input of a command with a terminal: a script too long for the exec request, then stdin."""

from __future__ import annotations

from typing import Optional

from ssh_service.commands.marks import Marks
from ssh_service.commands.stdin import InputSource, Stdin
from ssh_service.transport import SshChannel

# Makes the terminal raw.  Otherwise it would echo our bytes, end lines at 4,095 bytes, treat some
# bytes as signals or flow control, and turn CR into LF.
_RAW = "-echo -icanon -isig -ixon -icrnl -iexten min 1 time 0"


class TerminalInput:
    """
    Sends a script and then the caller's stdin; the terminal does not echo the script.

    The remote shell makes the terminal raw, and then writes the mark ``ready``.  Only then is the
    script sent, so values of the environment are never sent before the echo is off.  The script
    first restores the terminal, and then writes the mark ``restored``.  Only then is the caller's
    input sent.  The server needs a POSIX shell and ``stty``.

    Attributes
    ----------
    before : str
        The shell's commands before it reads the script.  They contain no single quote, backslash
        or exclamation mark, see `ssh_service.commands.script`.
    prologue : str
        The first commands of the script.

    Notes
    -----
    Thread safety.  `strip` and `flush` must be called on the reader thread, all other methods may
    be called from any thread.
    """

    def __init__(self, stdin: InputSource, connection_id: str) -> None:
        self._marks = Marks(2)
        ready, restored = self._marks.text("ready"), self._marks.text("restored")
        self.before = f'_ssh_t=$(stty -g)&&stty {_RAW}&&printf "{ready}"||exit 126;'
        self.prologue = f'stty "$_ssh_t";unset _ssh_t;printf "{restored}";'
        self._stdin, self._connection_id = stdin, connection_id
        self._channel: Optional[SshChannel] = None
        self._script = Stdin(b"", True, connection_id)
        self._text = b""

    def start(self, channel: SshChannel, preamble: bytes = b"") -> None:
        """Send stdin now; or with a preamble, send both as soon as the terminal is ready."""
        if not preamble:
            self._stdin.start(channel)
            return
        self._channel, self._text = channel, preamble

    def strip(self, chunk: bytes) -> bytes:
        """Remove the marks from a chunk of output; send the script or stdin when one arrives."""
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
        """Return the bytes that were held back; call this at the end of the output."""
        return self._marks.flush()

    def pump(self) -> None:
        """Send as much as the peer's window allows."""
        self._script.pump()
        self._stdin.pump()

    def end(self) -> None:
        """Drop unsent data: the command has ended and will not read it."""
        self._script.end()
        self._stdin.end()
