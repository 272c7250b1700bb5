"""Validate single settings: each function returns a normalized value, or raises an error."""

from __future__ import annotations

import math
import os
import re
from typing import Any, Callable, Optional, Tuple, Union

from ssh_service.errors import SshConfigError
from ssh_service.secret import Secret
from ssh_service.user_files import expand_home

__all__ = [
    "check_encodable",
    "choice",
    "command",
    "flag",
    "secret_value",
    "path",
    "paths",
    "port",
    "positive_int",
    "seconds",
    "sendable",
    "text",
    "time_span",
    "invalid_setting",
    "invalid_type",
]

_TIME = re.compile(r"(\d+)([smhdw]?)", re.IGNORECASE)
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def invalid_setting(name: str, value: Any, right: str) -> SshConfigError:
    """Return the error for an invalid setting; `right` describes a valid value."""
    shown = repr(value)
    if len(shown) > 80:
        shown = shown[:77] + "..."
    return SshConfigError(f"{name}: expected {right}, got {shown} ({type(value).__name__})")


def invalid_type(name: str, value: Any, right: str) -> SshConfigError:
    """Return the error for a setting that may hold a secret: it shows only the value's type."""
    return SshConfigError(f"{name}: expected {right}, got {type(value).__name__}")


def text(name: str, value: Any) -> str:
    """Validate a name: a non-empty text on one line."""
    # Not only C0: C1 and bidirectional control characters also corrupt the line that shows them.
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise invalid_setting(name, value, "a non-empty text without control characters")
    return value


def command(name: str, value: Any) -> str:
    """Validate a command for the shell."""
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise invalid_setting(name, value, "a command, not empty and without NUL characters")
    return value


def port(name: str, value: Any) -> int:
    """Validate a TCP port."""
    right = "a port number, 1 to 65535"
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        number = int(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        number = value
    else:
        raise invalid_setting(name, value, right)
    if not 1 <= number <= 65535:
        raise invalid_setting(name, value, right)
    return number


def positive_int(name: str, value: Any) -> int:
    """Validate a positive integer."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise invalid_setting(name, value, "a whole number, 1 or more")
    return int(value)


def seconds(name: str, value: Any, *, zero_is_off: bool = False) -> Optional[float]:
    """Validate a duration in seconds; with `zero_is_off`, 0 becomes None."""
    right = "seconds, a number above 0" + (" (0 or None: off)" if zero_is_off else "")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise invalid_setting(name, value, right)
    try:
        number = float(value)
    except OverflowError:
        raise invalid_setting(name, value, right) from None
    if number == 0 and zero_is_off:
        return None
    if not math.isfinite(number) or number <= 0:
        raise invalid_setting(name, value, right)
    return number


def time_span(name: str, value: str) -> float:
    """Parse a duration in the format of ssh_config, such as ``1h30m``; return seconds."""
    parts = _TIME.findall(value)
    if not parts or "".join(number + unit for number, unit in parts) != value:
        raise invalid_setting(name, value, "a time such as 90 or 1m30s")
    return float(sum(int(number) * _UNITS[unit.lower()] for number, unit in parts))


def flag(name: str, value: Any) -> bool:
    """Validate a boolean, or the text yes, no, true or false."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("yes", "true", "no", "false"):
        return value.lower() in ("yes", "true")
    raise invalid_setting(name, value, "True or False")


def choice(name: str, value: Any, choices: Tuple[str, ...]) -> str:
    """Validate that a value is one of `choices`."""
    if not isinstance(value, str) or value not in choices:
        raise invalid_setting(name, value, "one of " + ", ".join(choices))
    return value


def path(name: str, value: Any) -> str:
    """Validate a path and make it absolute; ``~`` at its start is the home directory."""
    if not isinstance(value, (str, os.PathLike)):
        raise invalid_setting(name, value, "a path")
    path_text = os.fspath(value)
    if not isinstance(path_text, str):
        raise invalid_setting(name, value, "a path of str, not of bytes")
    if not path_text or "\0" in path_text:
        raise invalid_setting(name, value, "a path, not empty and without NUL characters")
    check_encodable(name, path_text)
    return os.path.abspath(expand_home(path_text))


def paths(name: str, value: Any) -> Tuple[str, ...]:
    """Validate a path, or a list of paths."""
    if isinstance(value, (list, tuple)):
        return tuple(path(name, one) for one in value)
    return (path(name, value),)


def check_encodable(name: str, path_text: str) -> None:
    """
    Refuse a path that cannot be the name of a file.

    Raises
    ------
    SshConfigError
        The path contains a lone surrogate that does not stand for a byte.
    """
    try:
        os.fsencode(path_text)
    except UnicodeEncodeError as error:
        raise SshConfigError(
            f"{name}: expected a path that can be encoded, got {path_text!r}: {error.reason}"
        ) from None


def secret_value(name: str, value: Any) -> Union[None, Secret, Callable[[], Any]]:
    """Validate a secret, or a callable that returns one; the error never shows it."""
    if isinstance(value, (str, bytes)):
        value = Secret(value)
    if isinstance(value, Secret):
        return sendable(name, value)
    if value is None:
        return None
    if callable(value):
        return value  # type: ignore[no-any-return]
    raise invalid_type(name, value, "a text or a callable that returns one")


def sendable(name: str, value: Secret) -> Secret:
    """Check that a secret can be encoded as UTF-8."""
    if not value.can_be_sent:
        raise SshConfigError(f"{name}: a lone surrogate cannot be encoded in UTF-8")
    return value
