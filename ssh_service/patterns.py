"""The wildcard patterns of ssh_config(5) and known_hosts files: ``*``, ``?`` and ``!``."""

from __future__ import annotations

from typing import Iterable, Optional

__all__ = ["is_match", "is_match_list"]


def is_match(text: str, pattern: str) -> bool:
    """
    Return whether a pattern matches the whole text.

    Unlike `fnmatch`, brackets are plain characters (``[host]:port``) and the time is bounded by
    the product of the lengths, whatever the pattern.
    """
    if "*" not in pattern and "?" not in pattern:
        return text == pattern
    at_text = at_pattern = 0
    star: Optional[int] = None
    resume = 0
    while at_text < len(text):
        if at_pattern < len(pattern) and pattern[at_pattern] == "*":
            star, resume = at_pattern, at_text
            at_pattern += 1
        elif at_pattern < len(pattern) and pattern[at_pattern] in ("?", text[at_text]):
            at_text += 1
            at_pattern += 1
        elif star is not None:  # let the last star swallow one more character
            resume += 1
            at_text, at_pattern = resume, star + 1
        else:
            return False
    return pattern[at_pattern:].strip("*") == ""


def is_match_list(text: str, patterns: Iterable[str]) -> bool:
    """Return whether a pattern of a list matches the text, and no negated one does."""
    found = False
    for pattern in patterns:
        if pattern.startswith("!"):
            if is_match(text, pattern[1:]):
                return False
        elif is_match(text, pattern):
            found = True
    return found
