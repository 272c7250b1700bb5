"""
Patterns for the entries of a tree that a copy leaves out, with the meaning they have for rsync.

A pattern without a slash, other than at its end, is compared with the name of each entry.  A
pattern that begins with a slash is compared with the path from the root of the tree; any other
pattern with a slash or ``**`` may match at the end of that path.  A slash at the end restricts a
pattern to folders.
"""

from __future__ import annotations

import itertools
import os
import re
from typing import Callable, Iterable, List, Optional, Pattern, Sequence, Tuple, Union

from ssh_service.copying.paths import to_text
from ssh_service.errors import SshConfigError

__all__ = ["Excludes", "Exclusions", "Patterns", "check_patterns"]

Patterns = Union[None, str, Iterable[str]]
# Returns whether an entry is left out, by its path in the tree and whether it is a folder.
Excludes = Callable[[bytes, bool], bool]

_WILDCARDS = frozenset("*?[")
_STAR, _ANY = "[^/]*", ".*"
_numbers = itertools.count()  # of groups, as several patterns become one expression
_CLASSES = {
    "alnum": r"a-zA-Z0-9",
    "alpha": r"a-zA-Z",
    "blank": r" \t",
    "digit": r"0-9",
    "lower": r"a-z",
    "space": r"\s",
    "upper": r"A-Z",
    "xdigit": r"0-9a-fA-F",
}


def check_patterns(patterns: Patterns) -> Tuple[str, ...]:
    """
    Return the patterns as a tuple, if they are valid.

    Raises
    ------
    SshConfigError
        A pattern is invalid, or it is not a text.
    """
    if patterns is None:
        return ()
    if isinstance(patterns, str):
        patterns = (patterns,)
    if isinstance(patterns, (bytes, os.PathLike)) or not isinstance(patterns, Iterable):
        raise SshConfigError(
            f"exclude: expected a pattern or a list of patterns, got {type(patterns).__name__}"
        )
    checked = tuple(patterns)
    for pattern in checked:
        _translate(pattern)
    return checked


class Exclusions:
    """
    The compiled patterns of one copy.

    Parameters
    ----------
    patterns : Sequence[str]
        The patterns; they must have been checked.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        translated = [_translate(pattern) for pattern in patterns]
        self._any_name = _either(t for t in translated if t.is_name and not t.folders_only)
        self._folder_name = _either(t for t in translated if t.is_name)
        self._any_path = _either(t for t in translated if not t.is_name and not t.folders_only)
        self._folder_path = _either(t for t in translated if not t.is_name)

    def matches(self, path: bytes, is_folder: bool) -> bool:
        """Return whether a pattern matches an entry; `path` is relative to the root."""
        text = to_text(path)
        by_name = self._folder_name if is_folder else self._any_name
        if by_name is not None and by_name.match(text.rpartition("/")[2]):
            return True
        by_path = self._folder_path if is_folder else self._any_path
        return by_path is not None and by_path.match(text) is not None


class _Translation:
    """One pattern as a regular expression, for a name or for a path from the root."""

    def __init__(self, regex: str, is_name: bool, folders_only: bool) -> None:
        self.regex = regex
        self.is_name = is_name
        self.folders_only = folders_only


def _either(translations: Iterable[_Translation]) -> Optional[Pattern[str]]:
    """Return an expression that matches where one of them matches; None for none."""
    expressions = [translation.regex for translation in translations]
    return re.compile(f"(?:{'|'.join(expressions)})\\Z", re.DOTALL) if expressions else None


def _invalid(pattern: object, why: str) -> SshConfigError:
    return SshConfigError(f"exclude: {pattern!r} {why}")


def _translate(pattern: str) -> _Translation:
    if not isinstance(pattern, str):
        raise _invalid(pattern, f"is not a pattern: expected a str, got {type(pattern).__name__}")
    _check_words(pattern)
    body = pattern[:-1] if pattern.endswith("/") else pattern
    is_anchored = body.startswith("/")
    body = body[1:] if is_anchored else body
    _check_components(pattern, body)
    regex = _expression(pattern, body)
    has_path = is_anchored or "/" in body or "**" in body
    if has_path and not is_anchored:
        # After any folder; "**/" also matches nothing at the root.
        if body.startswith("**/"):
            regex = f"(?:{regex}|{_expression(pattern, body[3:])})"
        regex = f"(?:.*/)?{regex}"
    return _Translation(regex, not has_path, pattern.endswith("/"))


def _check_words(pattern: str) -> None:
    if not pattern:
        raise _invalid(pattern, "is empty; expected a pattern such as '*.pyc' or '/build/'")
    if "\0" in pattern:
        raise _invalid(pattern, "has a NUL character, which no name contains")
    if pattern[:2] in ("+ ", "- ") or pattern == "!":
        raise _invalid(
            pattern, "is a rule of rsync's filter files; only patterns to exclude are supported"
        )
    if "***" in pattern:
        raise _invalid(pattern, "has '***'; a folder with all it contains is excluded as 'name/'")


def _check_components(pattern: str, body: str) -> None:
    names = body.split("/")
    if not body or "" in names:
        raise _invalid(pattern, "has an empty name next to a slash")
    if "." in names or ".." in names:
        raise _invalid(
            pattern,
            "has '.' or '..', which match no entry; a slash at the start stands for the folder"
            " that is copied",
        )


def _expression(pattern: str, body: str) -> str:
    """Return the regular expression for the part of a pattern between its outer slashes."""
    if not _WILDCARDS & set(body):
        return re.escape(body)  # a backslash is literal where there is nothing to escape
    parts = _parts(pattern, body)
    stars = [at for at, part in enumerate(parts) if part == _STAR]
    if _ANY in parts or len(stars) < 2:
        return "".join(parts)
    # The shortest match is right for each star but the last.  A lookahead with a group keeps the
    # regular expression from trying others, as many as a name that somebody has made up may have.
    expression = "".join(parts[: stars[0]])
    for start, end in zip(stars, stars[1:]):
        group = f"star{next(_numbers)}"
        text = "".join(parts[start + 1 : end])
        expression += f"(?=(?P<{group}>{_STAR}?{text}))(?P={group})"
    return expression + "".join(parts[stars[-1] :])


def _parts(pattern: str, body: str) -> List[str]:
    parts: List[str] = []
    at = 0
    while at < len(body):
        char = body[at]
        if char == "[":
            part, at = _character_class(pattern, body, at)
        elif char == "\\":
            if at + 1 == len(body):
                raise _invalid(pattern, "ends with a backslash that escapes nothing")
            part, at = re.escape(body[at + 1]), at + 2
        elif body.startswith("**", at):
            part, at = _ANY, at + 2
        else:
            part = {"*": _STAR, "?": "[^/]"}.get(char) or re.escape(char)
            at += 1
        parts.append(part)
    return parts


def _character_class(pattern: str, body: str, start: int) -> Tuple[str, int]:
    """Return the expression for ``[...]`` at `start`, and the position after it."""
    at = start + 1
    is_negated = body[at : at + 1] in ("!", "^")
    at += is_negated
    members: List[str] = []
    first = at
    while at < len(body) and (body[at] != "]" or at == first):
        if body.startswith("[:", at):
            name, closed, _ = body[at + 2 :].partition(":]")
            if not closed or name not in _CLASSES:
                raise _invalid(pattern, f"has an unknown class of characters: [:{name}:]")
            members.append(_CLASSES[name])
            at += len(name) + 4
            continue
        low, at = _member(pattern, body, at)
        if body.startswith("-", at) and body[at + 1 : at + 2] not in ("]", ""):
            high, at = _member(pattern, body, at + 1)
            if high < low:
                raise _invalid(pattern, f"has a range whose end is before its start: {low}-{high}")
            members.append(f"{re.escape(low)}-{re.escape(high)}")
        else:
            members.append(re.escape(low))
    if at >= len(body):
        raise _invalid(pattern, "has '[' without ']'; a bracket of a name is written '[[]'")
    if is_negated:
        return f"[^/{''.join(members)}]", at + 1
    return f"(?!/)[{''.join(members)}]", at + 1


def _member(pattern: str, body: str, at: int) -> Tuple[str, int]:
    if body[at] == "\\":
        at += 1
    if at >= len(body):
        raise _invalid(pattern, "has '[' without ']'; a bracket of a name is written '[[]'")
    if body[at] == "/":
        raise _invalid(pattern, "has a slash between brackets, which matches no name")
    return body[at], at + 1
