"""Text from servers, made safe for logs and messages."""

from __future__ import annotations


def printable(text: str, limit: int = 300) -> str:
    """Return text from a server as one line, cut, with control characters escaped."""
    cut = text if len(text) <= limit else text[:limit] + "..."
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in cut.strip())


def make_printable(error: BaseException, limit: int = 2000) -> None:
    """Escape and cut the text of an exception, which may quote a server."""
    if any(isinstance(arg, str) and not arg.isprintable() for arg in error.args):
        error.args = tuple(
            printable(arg, limit) if isinstance(arg, str) else arg for arg in error.args
        )
