"""Destinations as people write them: ``[user@]host[:port]``."""

from __future__ import annotations

from typing import Tuple

__all__ = ["conceal_password", "split_address"]


def conceal_password(text: str) -> str:
    """
    Hide the password of ``user:password@host``, for messages.

    Parameters
    ----------
    text : str
        A destination as somebody wrote it.

    Returns
    -------
    str
        The same, with ``***`` in place of what stands between a colon and the last ``@``.
    """
    user, at, rest = text.rpartition("@")
    scheme, slashes, name = user.rpartition("//")
    name, colon, _ = name.partition(":")
    return f"{scheme}{slashes}{name}:***@{rest}" if at and colon else text


def split_address(text: str) -> Tuple[str, str, str]:
    """
    Take a destination apart.

    Parameters
    ----------
    text : str
        ``[user@]host[:port]``; an IPv6 address needs brackets where a port follows.

    Returns
    -------
    Tuple[str, str, str]
        User, host (without its brackets) and port, unchecked; the first and the last are empty
        where they are not given.

    Raises
    ------
    ValueError
        It cannot be one; the message says why.
    """
    user, at, rest = text.rpartition("@")
    if at and not user:
        raise ValueError("no user before the @")
    if ":" in user:
        raise ValueError("a password cannot be part of it: give the setting 'password'")
    colon = port = ""
    if rest.startswith("["):
        host, bracket, more = rest[1:].partition("]")
        before, colon, port = more.partition(":")
        if not bracket or before:
            raise ValueError("a bracket is not closed")
    elif rest.count(":") == 1:
        host, colon, port = rest.partition(":")
    else:  # none, or the colons of an IPv6 address
        host = rest
    if not host:
        raise ValueError("no host")
    if colon and not port:
        raise ValueError("no port after the colon")
    return user, host, port
