"""Expansion of tokens such as ``%h``, and of ``${NAME}``, in values."""

from __future__ import annotations

import os
import re
from typing import Mapping, Match

from ssh_service.errors import SshConfigError

__all__ = ["expand_command", "expand_environment", "expand_tokens"]

_TOKEN = re.compile(r"%(.?)", re.DOTALL)
# Host as typed, host to dial, user, host key alias.  What a caller gives for them is checked where
# the destination is made; here, what the file says and what ssh lets users be called ($).
_NAMES = "nhrk"
_MORE_THAN_A_NAME = re.compile(r"""['`"$;&<>|(){}\x00-\x1f\x7f]|\s-|^-|\\\Z""")
_VARIABLE = re.compile(r"\$\{([^}]*)(\}?)")


def expand_tokens(text: str, tokens: Mapping[str, str], origin: str) -> str:
    """
    Replace ``%h`` and the like.

    Raises
    ------
    SshConfigError
        A letter that has no meaning here.
    """

    def meaning(found: Match[str]) -> str:
        letter = found.group(1)
        if letter in tokens:
            return tokens[letter]
        known = " ".join(f"%{letter}" for letter in tokens)
        raise SshConfigError(f"{origin}: unknown token {found.group()}; known: {known}")

    return _TOKEN.sub(meaning, text)


def expand_command(text: str, tokens: Mapping[str, str], origin: str) -> str:
    """
    Replace ``%h`` and the like in a command for the shell.

    Raises
    ------
    SshConfigError
        As for `expand_tokens`; or a host or user name contains shell syntax.
    """
    for letter in _NAMES:
        if letter in tokens and f"%{letter}" in text and _MORE_THAN_A_NAME.search(tokens[letter]):
            raise SshConfigError(
                f"{origin}: {tokens[letter]!r} cannot stand for %{letter} in a command: "
                f"the shell would take it for more than a name"
            )
    return expand_tokens(text, tokens, origin)


def expand_environment(text: str, origin: str) -> str:
    """
    Replace ``${NAME}`` by the environment variable.

    Raises
    ------
    SshConfigError
        The variable is not set, or a brace is missing.
    """

    def meaning(found: Match[str]) -> str:
        name, brace = found.groups()
        if brace and name in os.environ:
            return os.environ[name]
        raise SshConfigError(f"{origin}: environment variable {name!r} of {text!r} is not set")

    return _VARIABLE.sub(meaning, text)
