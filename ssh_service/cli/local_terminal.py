"""The terminal on which this program runs: raw mode, and its size."""

from __future__ import annotations

import contextlib
import os
import termios
import tty
from typing import Any, List, Optional, Tuple

__all__ = ["EscapeFilter", "LocalTerminal"]

# Not TCSADRAIN, which waits forever if the output is stopped, by Ctrl-S or as nobody reads it.
_AT_ONCE = termios.TCSANOW


class LocalTerminal:
    """
    The terminal behind a descriptor, in raw mode from `enter_raw` until `restore`.

    Notes
    -----
    Thread safety.  None: for the main thread.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._saved: Optional[List[Any]] = None

    def enter_raw(self) -> None:
        """Let all keys pass, Ctrl-C included."""
        if self._saved is None:
            self._saved = termios.tcgetattr(self._fd)
        tty.setraw(self._fd, _AT_ONCE)

    def restore(self) -> None:
        """Undo `enter_raw`."""
        if self._saved is not None:
            with contextlib.suppress(termios.error):  # the terminal is gone
                termios.tcsetattr(self._fd, _AT_ONCE, self._saved)

    def size(self) -> Tuple[int, int]:
        """Return columns and lines; 80 and 24 if the terminal does not know them."""
        try:
            columns, lines = os.get_terminal_size(self._fd)
        except OSError:
            columns, lines = 0, 0
        return columns or 80, lines or 24


class EscapeFilter:
    """
    Finds ``~.`` at the beginning of a line in what is typed, as ssh does.

    ``~~`` there stands for one ``~``.
    """

    def __init__(self) -> None:
        self._at_line_start = True
        self._tilde = False  # was typed at the beginning of a line, and is not sent yet

    def feed(self, data: bytes) -> Tuple[bytes, bool]:
        """Return what to send, and whether the connection is to be closed."""
        found = bytearray()
        for number in data:
            if self._tilde:
                self._tilde = False
                if number == ord("."):
                    return bytes(found), True
                if number != ord("~"):
                    found += b"~"
            elif self._at_line_start and number == ord("~"):
                self._tilde = True
                continue
            found.append(number)
            self._at_line_start = number in b"\r\n"
        return bytes(found), False
