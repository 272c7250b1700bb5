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


def make_printable(error: BaseException, limit: int = 2000) -> None:
    """
    Make the text of an exception fit for a traceback: servers' words may be in it.

    Parameters
    ----------
    error : BaseException
        The exception, which is changed.
    limit : int
        Characters to keep.
    """
    if any(isinstance(arg, str) and not arg.isprintable() for arg in error.args):
        error.args = tuple(
            printable(arg, limit) if isinstance(arg, str) else arg for arg in error.args
        )
