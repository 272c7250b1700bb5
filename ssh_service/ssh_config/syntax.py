"""Parses the lines of an ssh_config file: keywords, arguments, the criteria of a ``Match``."""

from __future__ import annotations

import functools
import os
import stat
from typing import Iterator, List, NamedTuple, Optional, Tuple

from ssh_service.errors import SshConfigError
from ssh_service.user_files import file_version, read_file

__all__ = ["Block", "Criterion", "Line", "Value", "criteria", "read"]

# The rest of the line after these keywords is one value, including `#` and quotes.
_RAW = frozenset(["proxycommand", "proxyjump", "localcommand", "remotecommand"])
_ALONE = frozenset(["all", "final", "canonical"])
_MAX_SHOWN_CHARS = 60
_BLANK = " \t\r\n\f"  # ssh's blanks; `str.strip` removes more characters


class Value(NamedTuple):
    """The arguments of one keyword, and their position (``file:line``)."""

    arguments: Tuple[str, ...]
    origin: str


class Line(NamedTuple):
    """A keyword in lower case, and its value."""

    keyword: str
    value: Value


class Block(NamedTuple):
    """The lines of a ``Host`` or ``Match`` block, or those before the first block."""

    head: Optional[Line]
    lines: Tuple[Line, ...]
    includes: Tuple[Line, ...]  # the Include lines, which must always be followed


class Criterion(NamedTuple):
    """One criterion of a ``Match``."""

    negated: bool
    name: str
    value: str


def read(path: str, *, check_owner: bool) -> Tuple[Block, ...]:
    """
    Read and parse a file; it is parsed again only if it has changed.

    Raises
    ------
    SshConfigError
        The file cannot be read, is unsafe, or is malformed.
    """
    try:
        facts = os.stat(path)
        if stat.S_ISDIR(facts.st_mode):
            return ()
        if check_owner and os.name == "posix":
            _refuse_open(path, facts)
        return _parse(path, file_version(facts))
    except OSError as error:
        raise SshConfigError(f"config {path!r} cannot be read: {error.strerror}") from error


def _refuse_open(path: str, facts: os.stat_result) -> None:
    if facts.st_uid not in (0, os.getuid()) or facts.st_mode & 0o022:
        mode = oct(stat.S_IMODE(facts.st_mode))
        raise SshConfigError(
            f"{path}: owner {facts.st_uid}, mode {mode}: others could change it; "
            f"chmod 600 it, or name the files to read with 'config'"
        )


@functools.lru_cache(maxsize=1024)  # clusters may have one included file per host
def _parse(path: str, version: Tuple[int, ...]) -> Tuple[Block, ...]:
    # Windows editors write a byte order mark, which must not hide the first keyword.
    text = read_file(path).decode("utf-8-sig", "surrogateescape")
    blocks: List[Tuple[Optional[Line], List[Line]]] = [(None, [])]
    for number, raw in enumerate(text.split("\n"), 1):
        plain = raw.strip(_BLANK)
        if plain and not plain.startswith("#"):
            line = _parse_line(plain, f"{path}:{number}")
            if line.keyword in ("host", "match"):
                blocks.append((line, []))
            else:
                blocks[-1][1].append(line)
    return tuple(
        Block(head, tuple(lines), tuple(line for line in lines if line.keyword == "include"))
        for head, lines in blocks
    )


def _parse_line(text: str, origin: str) -> Line:
    keyword, rest = _keyword(text, origin)
    rest = rest.lstrip(_BLANK)
    if rest.startswith("="):
        rest = rest[1:].lstrip(_BLANK)
    if keyword == "proxyjump":  # the only one of these that may be followed by a comment
        rest = rest.partition("#")[0].rstrip(_BLANK)
    arguments = (rest,) if keyword in _RAW else tuple(_split(rest, origin))
    if not arguments or not arguments[0]:
        raise SshConfigError(f"{origin}: {_shown(keyword)} needs a value")
    return Line(keyword, Value(arguments, origin))


def _shown(word: str) -> str:
    """Return a word of the file for an error; it may be of any length and hold any bytes."""
    cut = word if len(word) <= _MAX_SHOWN_CHARS else word[:_MAX_SHOWN_CHARS] + "..."
    return cut if cut.isprintable() else repr(cut)


def _keyword(text: str, origin: str) -> Tuple[str, str]:
    if text.startswith('"'):
        keyword, quote, rest = text[1:].partition('"')
        if not quote:
            raise SshConfigError(f"{origin}: a quote is not closed")
        return keyword.lower(), rest
    end = 0
    while end < len(text) and text[end] not in _BLANK + "=":
        end += 1
    return text[:end].lower(), text[end:]


def _split(text: str, origin: str) -> Iterator[str]:
    """Split into arguments as ssh does: with quotes, backslashes and comments."""
    index = 0
    while index < len(text):
        if text[index] in " \t":
            index += 1
        elif text[index] == "#":
            return
        else:
            word, index = _word(text, index, origin)
            yield word


def _word(text: str, index: int, origin: str) -> Tuple[str, int]:
    word: List[str] = []
    quote = ""
    while index < len(text):
        char, following = text[index], text[index + 1 : index + 2]
        if char == "\\" and following and following in "'\"\\" + ("" if quote else " "):
            word.append(following)
            index += 1
        elif not quote and char in " \t":
            break
        elif not quote and char in "'\"":
            quote = char
        elif quote and char == quote:
            quote = ""
        else:
            word.append(char)
        index += 1
    if quote:
        raise SshConfigError(f"{origin}: a quote is not closed")
    return "".join(word), index


def criteria(value: Value) -> Tuple[Criterion, ...]:
    """
    Parse the criteria of a ``Match``.

    Raises
    ------
    SshConfigError
        A value is missing, or ``all`` is combined with other criteria.
    """
    found = list(_criteria(value))
    for index, one in enumerate(found):
        before = {other.name for other in found[:index]} - {"final", "canonical"}
        if one.name == "all" and (before or index != len(found) - 1):
            raise SshConfigError(f"{value.origin}: 'all' cannot be combined in Match")
    return tuple(found)


def _criteria(value: Value) -> Iterator[Criterion]:
    # As in OpenSSH 10: an equals sign has no blanks around it; otherwise it is part of the value.
    rest = list(value.arguments)
    while rest:
        name, equals, argument = rest.pop(0).partition("=")
        negated = name.startswith("!")
        name = name.lstrip("!").lower()
        if name in _ALONE:
            if equals:
                raise SshConfigError(f"{value.origin}: Match {_shown(name)} has no value")
        else:
            if not equals and rest:
                argument = rest.pop(0)
            if not argument:
                raise SshConfigError(f"{value.origin}: Match {_shown(name)} needs a value")
        yield Criterion(negated, name, argument)
