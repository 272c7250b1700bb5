"""Expands tokens such as ``%h``, and ``${NAME}``, in values."""

from __future__ import annotations

import os
import re
from typing import Mapping, Match

from ssh_service.errors import SshConfigError

__all__ = ["expand_command", "expand_environment", "expand_tokens"]

_TOKEN = re.compile(r"%(.?)", re.DOTALL)
# Tokens for the host as typed, the host to dial, the user and the host key alias.  Values from the
# caller are checked in `params.destination`; values from files, and user names with "$", which ssh
# allows, are checked here.
_NAMES = "nhrk"
_MORE_THAN_A_NAME = re.compile(r"""['`"$;&<>|(){}\x00-\x1f\x7f]|\s-|^-|\\\Z""")
_VARIABLE = re.compile(r"\$\{([^}]*)(\}?)")


def expand_tokens(text: str, tokens: Mapping[str, str], origin: str) -> str:
    """
    Replace ``%h`` and other tokens.

    Raises
    ------
    SshConfigError
        A token is not supported here.
    """

    def meaning(found: Match[str]) -> str:
        letter = found.group(1)
        if letter in tokens:
            return tokens[letter]
        known = " ".join(f"%{letter}" for letter in tokens)
        token = found.group() if letter.isprintable() else repr(found.group())
        raise SshConfigError(f"{origin}: unknown token {token}; known: {known}")

    return _TOKEN.sub(meaning, text)


def expand_command(text: str, tokens: Mapping[str, str], origin: str) -> str:
    """
    Replace ``%h`` and other tokens in a command for the shell.

    Raises
    ------
    SshConfigError
        A token is not supported, or a host or user name contains shell syntax.
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
    Replace ``${NAME}`` by the value of the environment variable.

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
