"""Parse and check destinations: ``[user@]host[:port]``, or the same as an ``ssh://`` URL."""

from __future__ import annotations

import re
from typing import Any, Dict, Tuple
from urllib.parse import unquote

from ssh_service.errors import SshConfigError

__all__ = ["address_error", "conceal_password", "parse_address", "split_address"]

_BRACKETS = re.compile(r"\[[^]]*\]")
_COMMAS_IN_BRACKETS = re.compile(r"\[[^]]*,[^]]*\]")
# Only digits, commas and dashes in brackets; an IPv6 address in brackets has colons.
RANGE = re.compile(r"\[([0-9][0-9,-]*)\]")
_UNCLOSED_RANGE = re.compile(r"\[[0-9][0-9,-]*\Z")
_LIKE_IPV6 = re.compile(r"[0-9A-Fa-f:.]+(%.+)?\Z")
_NAME = re.compile(r"[^\s@\[\]{}*?\"'`$;&|<>()\\/,]+\Z")


def conceal_password(text: str) -> str:
    """
    Hide the password of ``user:password@host``, for use in messages.

    Parameters
    ----------
    text : str
        A destination as the user wrote it.

    Returns
    -------
    str
        The same text, with everything between the colon and the last ``@`` replaced by ``***``.
    """
    user, at, rest = text.rpartition("@")
    scheme, slashes, name = user.rpartition("//")
    name, colon, _ = name.partition(":")
    return f"{scheme}{slashes}{name}:***@{rest}" if at and colon else text


def split_address(text: str) -> Tuple[str, str, str]:
    """
    Split a destination into user, host and port.

    Parameters
    ----------
    text : str
        ``[user@]host[:port]`` or ``ssh://[user@]host[:port]``; an IPv6 address needs brackets if a
        port follows.  In a URL, the user may be percent-encoded.

    Returns
    -------
    Tuple[str, str, str]
        User, host (without its brackets) and port, unchecked; user and port are empty if the text
        has none.

    Raises
    ------
    ValueError
        The text cannot be a destination; the message says why.
    """
    scheme, is_url, address = text.partition("://")
    if is_url:
        text = _address_of_url(scheme, address)
    user, at, rest = text.rpartition("@")
    if at and not user:
        raise ValueError("no user before the @")
    if ":" in user:
        raise ValueError(
            "a password cannot be part of it, as logs and lists of processes would show it: give"
            " the setting 'password'"
        )
    colon = port = ""
    if rest.startswith("["):
        host, bracket, more = rest[1:].partition("]")
        before, colon, port = more.partition(":")
        if not bracket or before:
            raise ValueError("a bracket is not closed")
    elif rest.count(":") == 1:
        host, colon, port = rest.partition(":")
    else:  # no port, or the colons of an IPv6 address
        host = rest
        if ":" in rest and not _LIKE_IPV6.match(rest):
            raise ValueError("it has too many colons; an IPv6 address with a port is [::1]:22")
    if not host:
        raise ValueError("no host")
    if colon and not port:
        raise ValueError("no port after the colon")
    return (unquote(user), host.replace("%25", "%"), port) if is_url else (user, host, port)


def _address_of_url(scheme: str, address: str) -> str:
    if scheme.lower() != "ssh":
        raise ValueError(f"{scheme[:20]}:// is not ssh://")
    address = address[:-1] if address.endswith("/") else address
    if "/" in address:
        raise ValueError("a path cannot be part of it")
    if ";" in address.rpartition("@")[0]:
        raise ValueError("parameters after a semicolon cannot be part of it")
    return address


def parse_address(text: str) -> Dict[str, Any]:
    """
    Convert a destination to connect parameters.

    Parameters
    ----------
    text : str
        The destination, in the forms that `split_address` accepts.

    Returns
    -------
    Dict[str, Any]
        ``host`` and, if the text has them, ``username`` and ``port``.

    Raises
    ------
    SshConfigError
        The text is not a destination.
    """
    try:
        user, host, port = split_address(text.strip())
    except ValueError as error:
        if _UNCLOSED_RANGE.search(text):
            raise address_error(text, "a bracket is not closed; a range is [01-40]") from None
        raise address_error(text, str(error)) from None
    malformed = _COMMAS_IN_BRACKETS.search(host)
    if malformed and not RANGE.search(host):
        reason = f"{malformed.group()} is not a range; write [01-40] or [1,3,7-9]"
        raise address_error(text, reason)
    if "," in host:
        raise address_error(
            text, "hosts cannot be joined by commas; write 'web[1,3]', or give them one by one"
        )
    if "[" in host and RANGE.search(host):
        raise address_error(
            text, "a range stands for several hosts; list them with ssh_service.fleet.expand"
        )
    if _UNCLOSED_RANGE.search(host):
        closed = _BRACKETS.search(text)  # around a colon: web[01:40]
        reason = f"{closed.group()} is not a range" if closed else "a bracket is not closed"
        raise address_error(text, f"{reason}; a range is [01-40]")
    if host.startswith("-") or not _NAME.match(host) or not text.strip().isprintable():
        nor = ", nor a range such as web[01-40]" if re.search(r"[\[{*?]", host) else ""
        raise address_error(text, f"{host!r} is not a host name{nor}")
    found: Dict[str, Any] = {"host": host}
    if user:
        found["username"] = user
    if port:
        if not (port.isascii() and port.isdigit() and len(port) < 10 and 0 < int(port) < 65536):
            raise address_error(text, f"{port[:20]!r} is not a port number")
        found["port"] = int(port)
    return found


def address_error(text: str, reason: str) -> SshConfigError:
    """Return the error for a text that is not a destination; a password in it is hidden."""
    text = conceal_password(text)
    shown, reason = (one if len(one) <= 200 else one[:197] + "..." for one in (text, reason))
    return SshConfigError(f"host {shown!r}: {reason}; expected [user@]host[:port]")
