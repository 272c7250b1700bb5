"""Parse hosts: ``[user@]host[:port]``, with ranges such as ``web[01-40]``."""

from __future__ import annotations

import itertools
import math
import re
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Sequence, Tuple

from ssh_service.errors import SshConfigError
from ssh_service.params import Destination, Resolvable, conceal, settings_of
from ssh_service.params.address import RANGE, address_error
from ssh_service.params.address import parse_address as parse

__all__ = [
    "Destination",
    "concealed",
    "connect_params",
    "expand",
    "folder_name",
    "name_of",
    "parse",
    "unique",
]

# A pattern for more hosts than this is regarded as a typing error.
_MAX_HOSTS = 100_000
_MAX_DIGITS = 9
# The maximum length of a pattern, in characters; a host name has at most 253.
_MAX_PATTERN_LENGTH = 2000


def expand(pattern: str) -> List[str]:
    """
    Expand a pattern to a list of destinations.

    Parameters
    ----------
    pattern : str
        A destination that may contain ranges: ``web[01-40]``, ``db[1,3,7-9].example.org``,
        ``rack[1-2]-node[01-16]``.  A leading zero sets the width of the numbers.

    Returns
    -------
    List[str]
        The destinations, in order.

    Raises
    ------
    SshConfigError
        The pattern is not a str, a range is malformed or descending, or the pattern stands for
        more than 100,000 hosts.
    """
    if not isinstance(pattern, str):
        kind = type(pattern).__name__
        raise SshConfigError(f"expand: expected a pattern as a str, got a {kind}")
    if len(pattern) > _MAX_PATTERN_LENGTH:
        raise address_error(pattern, f"it has more than {_MAX_PATTERN_LENGTH} characters")
    pieces: List[Sequence[str]] = []
    ranges: List[List[_Range]] = []
    at = 0
    for found in RANGE.finditer(pattern):
        ranges.append(_ranges(found.group(1), pattern))
        pieces += [(pattern[at : found.start()],), ()]
        at = found.end()
    # Count before expanding: a short pattern can stand for more hosts than fit into memory.
    if math.prod(sum(one.size for one in part) for part in ranges) > _MAX_HOSTS:
        raise address_error(pattern, f"it stands for more than {_MAX_HOSTS} hosts")
    pieces[1::2] = [[text for one in part for text in one.texts()] for part in ranges]
    pieces.append((pattern[at:],))
    if ranges and any("," in text for (text,) in pieces[::2]):
        raise address_error(pattern, "hosts cannot be joined by commas; give them one by one")
    texts = ["".join(parts) for parts in itertools.product(*pieces)]
    parse(texts[0])  # an error in one is an error in all of them
    return texts


class _Range(NamedTuple):
    start: int
    end: int
    width: int

    @property
    def size(self) -> int:
        return self.end - self.start + 1

    def texts(self) -> Iterator[str]:
        for number in range(self.start, self.end + 1):
            yield str(number).zfill(self.width)


def _ranges(text: str, pattern: str) -> List[_Range]:
    found = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise address_error(pattern, f"[{text}] is not a range; write [01-40] or [1,3,7-9]")
        if len(first) > _MAX_DIGITS or len(last) > _MAX_DIGITS:
            raise address_error(pattern, f"a number has more than {_MAX_DIGITS} digits")
        start, end = int(first), int(last or first)
        if end < start:
            raise address_error(pattern, f"the range {part} goes backwards")
        found.append(_Range(start, end, len(first) if first.startswith("0") else 0))
    return found


def name_of(host: Any) -> str:
    """Return a host's name as the caller wrote it."""
    if isinstance(host, Mapping):
        if "host" in host:
            return str(host["host"])
        return f"({', '.join(map(str, host))}: no host)"  # never a value, which may be a secret
    return str(host)


def concealed(host: Any) -> Any:
    """Return a host, or its settings, as given, with secrets concealed."""
    return conceal(host.settings if isinstance(host, Resolvable) else host)


def connect_params(host: Any, common: Mapping[str, Any]) -> Dict[str, Any]:
    """
    Return the connect parameters of one host: its own, merged over the common ones.

    Raises
    ------
    SshConfigError
        The host is not a str or mapping, or is not a valid destination.
    """
    if not isinstance(host, (str, Mapping, Resolvable)):
        kind = type(host).__name__
        raise SshConfigError(f"host: expected a str, a mapping or a Host, got a {kind}")
    return {**common, **settings_of(host)}


def folder_name(host: str) -> str:
    """
    Return a host's name in a form that is safe for the name of a folder or file.

    Different hosts get different names: characters that file names must not contain are
    percent-encoded, and so is a percent sign that looks like the start of such a code.
    """
    code = r"^(?=\.*$)\.|[/\\\0]|%(?=00|25|2E|2F|5C)"
    return re.sub(code, lambda match: f"%{ord(match[0]):02X}", host) or "%25"


def unique(hosts: List[str]) -> Tuple[List[str], int]:
    """Return each host once, in order, and the number of duplicates."""
    once = list(dict.fromkeys(hosts))
    return once, len(hosts) - len(once)
