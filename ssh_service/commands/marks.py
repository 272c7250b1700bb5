"""Marks that our scripts write into their output; they are removed before users see the output."""

from __future__ import annotations

import os
import re
from typing import List, Optional, Protocol, Tuple

_TOKEN_SIZE = 8
# The most characters of a word.  No more output than this is held back.
_MAX_WORD_LENGTH = 1000
# Matches any token: to compile an expression for each token would take longer than to send a
# command.
_MARK = re.compile(rb"<([0-9a-f]{%d}):([ -;=?-~]{1,%d})>" % (2 * _TOKEN_SIZE, _MAX_WORD_LENGTH))


class MarkFilter(Protocol):
    """Removes marks from an output stream, and acts on them; used on the reader thread."""

    def strip(self, chunk: bytes) -> bytes:
        """Remove marks from a chunk; hold back a possible beginning of a mark."""

    def flush(self) -> bytes:
        """Return the bytes that were held back; called at the end of the output."""


class Marks:
    """
    The marks in one output stream.

    A mark looks like ``<token:word>``.  The token is random, so that no other output contains it.

    Parameters
    ----------
    count : int
        How many marks the script writes.

    Notes
    -----
    Not thread-safe: use it on one thread, such as a connection's reader thread.
    """

    def __init__(self, count: int = 1) -> None:
        self._token = b""  # made at first use: most scripts need no mark
        self._left = count
        self._held = b""  # may be the beginning of a mark

    @property
    def start(self) -> str:
        """The beginning of a mark, up to its word."""
        if not self._token:
            self._token = os.urandom(_TOKEN_SIZE).hex().encode()
        return f"<{self._token.decode()}:"

    def text(self, word: str) -> str:
        """Return the mark that the script should write."""
        return f"{self.start}{word}>"

    def extract(self, chunk: bytes) -> Tuple[bytes, List[bytes]]:
        """Split a chunk into output and the words of marks; hold back an incomplete mark."""
        shown, word, rest = self.take(chunk)
        words: List[bytes] = []
        while word is not None:
            words.append(word)
            more, word, rest = self.take(rest)
            shown += more
        return shown, words

    def take(self, chunk: bytes) -> Tuple[bytes, Optional[bytes], bytes]:
        """
        Split a chunk at its first mark: the output before it, its word, and the rest.

        Without a mark, the word is None, and an incomplete mark is held back.
        """
        if not self._left:
            return chunk, None, b""
        text, self._held = self._held + chunk, b""
        found = next((mark for mark in _MARK.finditer(text) if mark.group(1) == self._token), None)
        if found is not None:
            self._left -= 1
            return text[: found.start()], found.group(2), text[found.end() :]
        keep = self._partial_mark(text)
        text, self._held = text[:keep], text[keep:]
        return text, None, b""

    def _partial_mark(self, text: bytes) -> int:
        """Return where an incomplete mark may begin in a text; the text's length if nowhere."""
        start = self.start.encode()
        at = text.rfind(b"<")
        if at < 0 or len(text) - at > len(start) + _MAX_WORD_LENGTH:
            return len(text)
        return at if start.startswith(text[at : at + len(start)]) else len(text)

    def flush(self) -> bytes:
        """Return the bytes that were held back; call this at the end of the output."""
        rest, self._held, self._left = self._held, b"", 0
        return rest
