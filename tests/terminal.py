"""A terminal on which a program runs in a session of its own, as in a terminal's window."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import termios
import time
from typing import Any, Dict, List, Mapping, Optional, Tuple

from tests.common import PATIENCE, require_part

__all__ = ["Terminal"]


class Terminal:
    """
    Runs a program on a terminal of its own; a context manager.

    Attributes
    ----------
    shown : bytes
        All that was written to the terminal so far.
    process : subprocess.Popen
        The program; it is the leader of its session.
    """

    def __init__(
        self,
        command: List[str],
        env: Optional[Mapping[str, str]] = None,
        *,
        size: Tuple[int, int] = (24, 80),
        **options: Any,
    ) -> None:
        require_part(shutil.which("setsid"), "setsid of util-linux")
        inherited = {k: v for k, v in os.environ.items() if not k.endswith("_COLOR")}
        self.shown = b""
        self._ours, theirs = pty.openpty()
        self.resize(*size)
        streams: Dict[str, Any] = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
        self.process = subprocess.Popen(
            # In the background, SIGINT may be ignored, which children inherit.
            ["env", "--default-signal=INT", "setsid", "--ctty", *command],
            env={**inherited, "TERM": "xterm", **(env or {})},
            **{**streams, **options},
        )
        # Kept open: the settings can be read also after the program's end.
        self._theirs = theirs

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE)
        os.close(self._ours)
        os.close(self._theirs)

    def resize(self, rows: int, columns: int) -> None:
        """Change the size, of which the kernel notifies the program."""
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: bytes) -> None:
        os.write(self._ours, text)

    def settings(self) -> List[Any]:
        return termios.tcgetattr(self._theirs)

    def wait_for(self, pattern: bytes, timeout: float = PATIENCE) -> "re.Match[bytes]":
        """Wait until the pattern was shown, and forget what was shown up to it."""
        deadline = time.monotonic() + timeout
        while True:
            found = re.search(pattern, self.shown, re.DOTALL)
            if found:
                self.shown = self.shown[found.end() :]
                return found
            left = deadline - time.monotonic()
            assert left > 0, f"{pattern!r} was not shown: {self.shown!r}"
            self._read(left)

    def _read(self, timeout: float) -> bool:
        if not select.select([self._ours], [], [], timeout)[0]:
            return False
        self.shown += os.read(self._ours, 65536)
        return True

    def end(self, number: Optional[int] = None) -> int:
        """Send a signal, wait for the program's end, and return its status."""
        if number is not None:
            self.process.send_signal(number)
        deadline = time.monotonic() + PATIENCE
        while self.process.poll() is None and time.monotonic() < deadline:
            self._read(0.05)  # a full terminal would block the program
        status = self.process.wait(0)
        while self._read(0):
            pass
        return status if status >= 0 else 128 + signal.Signals(-status)
