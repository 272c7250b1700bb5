"""The arguments of ``-L``, ``-R`` and ``-D``, in ssh's syntax."""

from __future__ import annotations

import re
from typing import List, NamedTuple, Optional, Union

import click

__all__ = ["Spec", "parse"]

# A host in brackets, a path, or any text without a colon; followed by a colon or the end.
_PART = re.compile(r"(\[[^\]]*\]|/[^:]*|[^:\[\]]*)(:|\Z)")
_TWO_SIDES = "[BIND:]PORT:HOST:PORT, where a path of a Unix socket may stand for either side"
_FORMS = {"-L": _TWO_SIDES, "-R": _TWO_SIDES, "-D": "[BIND:]PORT or the path of a Unix socket"}


class Spec(NamedTuple):
    """
    One forward of a command line.

    Attributes
    ----------
    option : str
        ``-L``, ``-R`` or ``-D``.
    listen, to : Union[int, str], Optional[str]
        In the form that `ssh_service.forwarding` accepts; `to` is None for ``-D``.
    text : str
        The argument as given.
    """

    option: str
    listen: Union[int, str]
    to: Optional[str]
    text: str


def parse(option: str, text: str) -> Spec:
    """
    Parse an argument of ``-L``, ``-R`` or ``-D``.

    Raises
    ------
    click.UsageError
        The argument is malformed.
    """
    parts = _split(text)
    if parts is not None and option == "-D":
        listen = _listen(parts)
        if listen is not None:
            return Spec(option, listen, None, text)
    elif parts is not None:
        for size in (1, 2):  # a path, or a host and a port
            to = _to(parts[len(parts) - size :]) if len(parts) > size else None
            listen = _listen(parts[: len(parts) - size])
            if to is not None and listen is not None:
                return Spec(option, listen, to, text)
        if option == "-R" and _listen(parts) is not None:
            raise click.UsageError(
                f"{option} {text}: a SOCKS proxy on the server's side is not offered; expected"
                f" {_FORMS[option]}"
            )
    raise click.UsageError(f"{option} {text}: expected {_FORMS[option]}")


def _split(text: str) -> Optional[List[str]]:
    parts: List[str] = []
    at = 0
    while True:
        found = _PART.match(text, at)
        if found is None:
            return None
        parts.append(found.group(1))
        at = found.end()
        if not found.group(2):
            return parts


def _to(parts: List[str]) -> Optional[str]:
    if len(parts) == 1:
        return parts[0] if parts[0].startswith("/") else None
    host, port = parts
    return f"{host}:{port}" if host and host[0] not in "/*" and _is_number(port) else None


def _listen(parts: List[str]) -> Optional[Union[int, str]]:
    if len(parts) == 1 and parts[0].startswith("/"):
        return parts[0]
    if not parts or len(parts) > 2 or not _is_number(parts[-1]):
        return None
    if len(parts) == 1:
        return int(parts[0])
    host = parts[0] or "*"  # as in ssh, an empty address means all addresses
    return None if host.startswith("/") else f"{host}:{parts[1]}"


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()
