"""Fold hosts into ranges such as ``web[01-40]``, the opposite of `ssh_service.fleet.expand`."""

from __future__ import annotations

import re
from typing import Any, Dict, Iterable, Iterator, List, Tuple

from ssh_service.errors import SshConfigError

__all__ = ["fold"]

# More digits are not the number of a host, and no range can have them.
_NUMBER = re.compile(r"[0-9]{1,9}(?![0-9])(?<![0-9]{10})")
# The part of a destination that may have ranges: user, host, port.
_PARTS = re.compile(r"((?:[^@]*@)?)([^@:\[\]]+)((?::[0-9]+)?)\Z")

# The maximum length of a range, so that `expand` accepts the pattern, in characters.
_MAX_LENGTH = 500

# The parts of a name between its numbers, and the numbers; a number may already be a range.
_Split = Tuple[Tuple[str, ...], Tuple[str, ...]]


def fold(hosts: Iterable[str]) -> List[str]:
    """
    Fold destinations into as few patterns as possible, which `expand` expands again.

    Parameters
    ----------
    hosts : Iterable[str]
        Destinations, as ``[user@]host[:port]``.  Duplicates are folded into one.

    Returns
    -------
    List[str]
        Patterns such as ``web[01-40]`` or ``rack[1-2]-node[01-16]``, and destinations that cannot
        be folded, each where its first host was.

    Raises
    ------
    SshConfigError
        `hosts` is one text, or one of them is not a text.

    Notes
    -----
    Thread safety.  This may be called from any thread.

    Examples
    --------
    >>> fleet.fold(["web1", "web2", "web3", "db"])
    ['web[1-3]', 'db']
    """
    if isinstance(hosts, (str, bytes)):
        raise SshConfigError(
            f"fold: expected hosts as a list of texts, got a {type(hosts).__name__}"
        )
    names = list(dict.fromkeys(hosts))
    for name in names:
        if not isinstance(name, str):
            raise SshConfigError(f"fold: expected a host as a text, got a {type(name).__name__}")
    splits = [_split(name) for name in names]
    most = max((len(numbers) for _, numbers in splits), default=0)
    for from_the_end in range(1, most + 1):  # the last number varies most
        splits = _fold_one(splits, from_the_end)
    return ["".join(_interleave(texts, numbers)) for texts, numbers in splits]


def _split(name: str) -> _Split:
    parts = _PARTS.match(name)
    if parts is None:  # an IPv6 address, a range, an ssh:// URL
        return (name,), ()
    user, host, port = parts.groups()
    texts, numbers = _NUMBER.split(host), _NUMBER.findall(host)
    texts[0] = user + texts[0]
    texts[-1] += port
    return tuple(texts), tuple(numbers)


def _interleave(texts: Tuple[str, ...], numbers: Tuple[str, ...]) -> List[str]:
    pieces = list(texts)
    for at, number in reversed(list(enumerate(numbers, 1))):
        pieces.insert(at, number)
    return pieces


def _fold_one(splits: List[_Split], from_the_end: int) -> List[_Split]:
    """Fold names that differ only in one number, counted from the end."""
    groups: Dict[Tuple[Any, ...], List[str]] = {}
    for order, (texts, numbers) in enumerate(splits):
        at = len(numbers) - from_the_end
        if at < 0:
            groups[order, texts, numbers] = []
        else:
            alike = (texts, numbers[:at], numbers[at + 1 :])
            groups.setdefault(alike, []).append(numbers[at])
    return [split for alike, numbers in groups.items() for split in _folded(alike, numbers)]


def _folded(alike: Tuple[Any, ...], numbers: List[str]) -> Iterator[_Split]:
    if not numbers:
        _, texts, whole = alike
        yield texts, whole
        return
    texts, before, after = alike
    for ranges in _limited(numbers if len(numbers) == 1 else _ranges(numbers)):
        yield texts, (*before, ranges if len(numbers) == 1 else f"[{ranges}]", *after)


def _limited(ranges: List[str]) -> Iterator[str]:
    """Join ranges by commas, as far as they fit into one pattern."""
    text = ""
    for one in ranges:
        if text and len(text) + len(one) > _MAX_LENGTH:
            yield text
            text = ""
        text += f",{one}" if text else one
    yield text


def _ranges(numbers: List[str]) -> List[str]:
    """Return the ranges of numbers of which each is written as its range would write it."""
    first_of: Dict[str, str] = {}  # the first number of each range, by its next number
    last_of: Dict[str, str] = {}
    for number in sorted(numbers, key=lambda text: (int(text), len(text))):
        first = first_of.pop(number, number)
        last_of[first] = number
        width = len(first) if first.startswith("0") else 0
        first_of[str(int(number) + 1).zfill(width)] = first
    return [first if first == last else f"{first}-{last}" for first, last in last_of.items()]
