"""The sources of settings: the caller's values, which take precedence, and ssh_config's."""

from __future__ import annotations

import os
import re
import socket
from typing import Any, Callable, Dict, Mapping, Optional, Tuple, Union

from ssh_service import settings, ssh_config
from ssh_service.secret import Secret
from ssh_service.ssh_config import HostConfig, Value
from ssh_service.user_files import expand_home

__all__ = [
    "MISSING",
    "Sources",
    "config_number",
    "config_port",
    "error_name",
    "first_argument",
]

MISSING = object()
_HIDDEN = ("password", "passphrase")
_NUMBER = re.compile(r"\+?([0-9]{1,9})")


def first_argument(value: Value) -> str:
    """Return the argument of a keyword that takes a single one."""
    return value.arguments[0]


def error_name(value: Value, keyword: str) -> str:
    """Return the name of an ssh_config value for an error, with its file and line."""
    return f"{value.origin}: {keyword}"


def config_number(text: str) -> Optional[int]:
    """Return the whole number that ssh reads in a text; None if there is none."""
    found = _NUMBER.fullmatch(text)
    return int(found.group(1)) if found else None


def config_port(name: str, text: str) -> int:
    """
    Return a port of ssh_config: a number, or the name of a service.

    Raises
    ------
    SshConfigError
        It is neither.
    """
    number = config_number(text)
    if number is None:
        try:
            return socket.getservbyname(text, "tcp")
        except (OSError, ValueError):
            pass
    if number is None or not 1 <= number <= 65535:
        right = "a port number, 1 to 65535, or the name of a TCP service"
        raise settings.invalid_setting(name, text, right)
    return number


class Sources:
    """
    The caller's settings and, once `config` is set, those from ssh_config.

    Attributes
    ----------
    get : Callable[..., Any]
        Returns the caller's value of a name, unchecked; else None, or its second argument.
    config : HostConfig
        The settings of ssh_config for this host.
    tokens : Dict[str, str]
        The values of ``%h`` and the other tokens for this destination.
    """

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._given = dict(given)
        self._secrets = {
            name: settings.secret_value(name, given[name]) for name in _HIDDEN if name in given
        }
        self._given.update(self._secrets)
        self.get = self._given.get  # bound once: it is called about thirty times per command
        self.config = HostConfig()
        self.tokens: Dict[str, str] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._given

    def secret(self, name: str) -> Union[None, Secret, Callable[[], Any]]:
        """Return a secret of the caller's, or the callable that returns it; None if not given."""
        return self._secrets.get(name)

    def text(self, name: str, keyword: str) -> Optional[str]:
        """
        Return a text; None if it is not set anywhere.

        Raises
        ------
        SshConfigError
            The value is not a valid text.
        """
        given = self.get(name)
        if given is not None:
            return settings.text(name, given)
        value = self.config.get(keyword.lower())
        return None if value is None else first_argument(value)

    def flag(self, name: str, keyword: str) -> bool:
        """
        Return a flag whose default is False.

        Raises
        ------
        SshConfigError
            The value is not a flag.
        """
        given = self.get(name)
        if given is not None:
            return settings.flag(name, given)
        value = self.config.get(keyword.lower())
        return value is not None and settings.flag(
            error_name(value, keyword), first_argument(value)
        )

    def seconds(self, name: str, keyword: Optional[str]) -> Optional[float]:
        """
        Return a duration in seconds.

        None means that it is not set anywhere, or that ssh_config says 0 or "none".

        Raises
        ------
        SshConfigError
            The value is not a valid duration.
        """
        given = self.get(name)
        if given is not None:
            return settings.seconds(name, given)
        value = self.config.get(keyword.lower()) if keyword else None
        if value is None or first_argument(value).lower() == "none":
            return None
        return (
            settings.time_span(error_name(value, keyword or name), first_argument(value)) or None
        )

    def expand(self, value: Value, text: str) -> str:
        """
        Replace the tokens in an ssh_config value.

        Raises
        ------
        SshConfigError
            A token is unknown.
        """
        return ssh_config.expand_tokens(text, self.tokens, value.origin)

    def config_paths(self, keyword: str) -> Tuple[str, ...]:
        """
        Return the paths of a keyword; if it may be repeated, those of every occurrence.

        Raises
        ------
        SshConfigError
            A token or an environment variable is unknown.
        """
        found = []
        for value in self.config.all(keyword):
            for word in value.arguments:
                if word.lower() != "none":
                    text = ssh_config.expand_environment(word, value.origin)
                    path = expand_home(self.expand(value, text))
                    found.append(os.path.abspath(path))
        return tuple(dict.fromkeys(found))
