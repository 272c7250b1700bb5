"""Marks that our scripts write into their output; they are removed before users see it."""

from __future__ import annotations

import os
import re
from typing import List, Tuple

_TOKEN_SIZE = 8
# Characters of a word at most; other output is held back no longer than this.
_MAX_WORD_LENGTH = 1000
# Of any token: compiling an expression for each would take longer than sending a command.
_MARK = re.compile(rb"<([0-9a-f]{%d}):([ -;=?-~]{1,%d})>" % (2 * _TOKEN_SIZE, _MAX_WORD_LENGTH))


class Marks:
    """
    The marks of one output.

    A mark looks like ``<token:word>``.  The token is random, so that no other output has one.

    Notes
    -----
    Thread safety.  None of its own: one thread at a time, such as a connection's reader.

    """

    def __init__(self, count: int = 1) -> None:
        self._token = b""  # made when it is needed first: most scripts go without
        self._left = count
        self._held = b""  # may be the beginning of a mark

    @property
    def start(self) -> str:
        """How a mark begins."""
        if not self._token:
            self._token = os.urandom(_TOKEN_SIZE).hex().encode()
        return f"<{self._token.decode()}:"

    def text(self, word: str) -> str:
        """Return a mark, as the script is to write it."""
        return f"{self.start}{word}>"

    def extract(self, chunk: bytes) -> Tuple[bytes, List[bytes]]:
        """Split a chunk into output and the words of marks; hold back the start of a mark."""
        if not self._left:
            return chunk, []
        text, self._held = self._held + chunk, b""
        words: List[bytes] = []
        while self._left:
            marks = _MARK.finditer(text)
            found = next((mark for mark in marks if mark.group(1) == self._token), None)
            if found is None:
                break
            words.append(found.group(2))
            text = text[: found.start()] + text[found.end() :]
            self._left -= 1
        if self._left:
            keep = self._partial_mark(text)
            text, self._held = text[:keep], text[keep:]
        return text, words

    def _partial_mark(self, text: bytes) -> int:
        """Return where a mark may begin whose end has not come; the length if nowhere."""
        start = self.start.encode()
        at = text.rfind(b"<")
        if at < 0 or len(text) - at > len(start) + _MAX_WORD_LENGTH:
            return len(text)
        return at if start.startswith(text[at : at + len(start)]) else len(text)

    def flush(self) -> bytes:
        """Return what was held back, at the end of the output."""
        rest, self._held, self._left = self._held, b"", 0
        return rest
