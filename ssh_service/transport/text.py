"""Text from servers, for people."""

from __future__ import annotations


def printable(text: str, limit: int = 300) -> str:
    """
    Make text from a server fit for a log or a message.

    Parameters
    ----------
    text : str
        What the server sent.
    limit : int
        Characters to keep.

    Returns
    -------
    str
        One line, cut, without control characters.
    """
    cut = text if len(text) <= limit else text[:limit] + "..."
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in cut.strip())
