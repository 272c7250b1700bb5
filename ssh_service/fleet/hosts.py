"""Hosts as people write them: ``[user@]host[:port]``, with ranges such as ``web[01-40]``."""

from __future__ import annotations

import itertools
import math
import re
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Sequence, Tuple, Union

from ssh_service.errors import SshConfigError
from ssh_service.params import conceal_password, split_address

__all__ = ["Host", "connect_params", "expand", "folder_name", "name_of", "parse", "unique"]

Host = Union[str, Mapping[str, Any]]

# More hosts than this in one pattern are a slip of the finger.
_MOST = 100_000
_MOST_DIGITS = 9
# Characters of a pattern; a host name has 253 at most.
_LONGEST = 2000
# Brackets with digits, commas and dashes alone; those around an IPv6 address have colons.
_RANGE = re.compile(r"\[([0-9][0-9,-]*)\]")
_NAME = re.compile(r"[^\s@\[\]{}*?\"'`$;&|<>()\\/,]+\Z")


def parse(text: str) -> Dict[str, Any]:
    """
    Read one destination.

    Parameters
    ----------
    text : str
        ``[user@]host[:port]``; an IPv6 address needs brackets where a port follows.

    Returns
    -------
    Dict[str, Any]
        ``host`` and, where given, ``username`` and ``port``.

    Raises
    ------
    SshConfigError
        It cannot be one.
    """
    if "://" in text:
        raise _wrong(text, "URLs are not supported; leave out the scheme")
    try:
        user, host, port = split_address(text.strip())
    except ValueError as error:
        raise _wrong(text, str(error)) from None
    if "," in host:
        raise _wrong(
            text, "hosts cannot be joined by commas; write 'web[1,3]', or give them one by one"
        )
    if "[" in host and _RANGE.search(host):
        raise _wrong(
            text, "a range stands for several hosts; list them with ssh_service.fleet.expand"
        )
    if host.startswith("-") or not _NAME.match(host) or not text.strip().isprintable():
        nor = ", nor a range such as web[01-40]" if re.search(r"[\[{*?]", host) else ""
        raise _wrong(text, f"{host!r} is not a host name{nor}")
    found: Dict[str, Any] = {"host": host}
    if user:
        found["username"] = user
    if port:
        if not (port.isascii() and port.isdigit() and len(port) < 10 and 0 < int(port) < 65536):
            raise _wrong(text, f"{port[:20]!r} is not a port number")
        found["port"] = int(port)
    return found


def expand(pattern: str) -> List[str]:
    """
    Write a pattern out.

    Parameters
    ----------
    pattern : str
        A destination that may have ranges in it: ``web[01-40]``, ``db[1,3,7-9].example.org``,
        ``rack[1-2]-node[01-16]``.  A leading zero sets the width.

    Returns
    -------
    List[str]
        The destinations, in order.

    Raises
    ------
    SshConfigError
        It is no text, or a range in it goes backwards, is no range, or gives too many hosts.
    """
    if not isinstance(pattern, str):
        kind = type(pattern).__name__
        raise SshConfigError(f"expand: expected one pattern, a str, got a {kind}")
    if len(pattern) > _LONGEST:
        raise _wrong(pattern, f"it has more than {_LONGEST} characters")
    pieces: List[Sequence[str]] = []
    ranges: List[List[_Range]] = []
    at = 0
    for found in _RANGE.finditer(pattern):
        ranges.append(_ranges(found.group(1), pattern))
        pieces += [(pattern[at : found.start()],), ()]
        at = found.end()
    # Counted before anything is listed: a line of text can stand for more than fits into memory.
    if math.prod(sum(one.size for one in part) for part in ranges) > _MOST:
        raise _wrong(pattern, f"it stands for more than {_MOST} hosts")
    pieces[1::2] = [[text for one in part for text in one.texts()] for part in ranges]
    pieces.append((pattern[at:],))
    texts = ["".join(parts) for parts in itertools.product(*pieces)]
    parse(texts[0])  # what is wrong with one is wrong with all
    return texts


class _Range(NamedTuple):
    begin: int
    end: int
    width: int

    @property
    def size(self) -> int:
        return self.end - self.begin + 1

    def texts(self) -> Iterator[str]:
        for number in range(self.begin, self.end + 1):
            yield str(number).zfill(self.width)


def _ranges(text: str, pattern: str) -> List[_Range]:
    found = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise _wrong(pattern, f"[{text}] is not a range; write [01-40] or [1,3,7-9]")
        if len(first) > _MOST_DIGITS or len(last) > _MOST_DIGITS:
            raise _wrong(pattern, f"a number has more than {_MOST_DIGITS} digits")
        begin, end = int(first), int(last or first)
        if end < begin:
            raise _wrong(pattern, f"the range {part} goes backwards")
        found.append(_Range(begin, end, len(first) if first.startswith("0") else 0))
    return found


def _wrong(text: str, reason: str) -> SshConfigError:
    text = conceal_password(text)
    shown, reason = (one if len(one) <= 200 else one[:197] + "..." for one in (text, reason))
    return SshConfigError(f"host {shown!r}: {reason}; expected [user@]host[:port]")


def name_of(host: Any) -> str:
    """Name a host as the caller wrote it."""
    if isinstance(host, Mapping):
        return str(host.get("host"))
    return str(host)


def connect_params(host: Any, common: Mapping[str, Any]) -> Dict[str, Any]:
    """
    Join what is said of one host with what is said of all.

    Raises
    ------
    SshConfigError
        The host is of another type, or cannot be one.
    """
    if isinstance(host, Mapping):
        return {**common, **host}
    if isinstance(host, str):
        return {**common, **parse(host)}
    raise SshConfigError(f"host: expected a str or a mapping, got a {type(host).__name__}")


def folder_name(host: str) -> str:
    """Give the name of the folder, or the beginning of the file, that belongs to a host."""
    name = re.sub(r"[/\\\0]", "_", host)
    return name if name.strip(".") else f"_{name}"


def unique(hosts: List[str]) -> Tuple[List[str], int]:
    """Drop hosts that are named twice."""
    once = list(dict.fromkeys(hosts))
    return once, len(hosts) - len(once)
