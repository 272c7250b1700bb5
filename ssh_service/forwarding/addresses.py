"""The addresses that a forward listens on and leads to: a port, host and port, or Unix socket."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import sys
from typing import Any, NamedTuple, Union

from ssh_service.errors import SshConfigError

# The maximum length of a Unix socket's path on this machine, without the terminating NUL.
_MAX_LOCAL_PATH = 107 if sys.platform.startswith("linux") else 103
_ALL = "*"
_HOST_AND_PORT = re.compile(r"(?:\[(?P<v6>[^\]]*)\]|(?P<host>[^:\[\]]*)):(?P<port>[0-9]{1,5})")


class TcpAddress(NamedTuple):
    """A host, as a name or an address, and a port; the host ``*`` means all addresses."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether the address, judged by its text, is reachable only from the same machine."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


class UnixAddress(NamedTuple):
    """The path of a Unix domain socket."""

    path: str

    def __str__(self) -> str:
        return self.path

    @property
    def is_loopback(self) -> bool:
        """Return True: a Unix socket is reachable only from the same machine."""
        return True


Address = Union[TcpAddress, UnixAddress]


def parse_target(value: Any, *, is_local: bool, name: str = "to") -> Address:
    """
    Parse the target of a forward; a port is on the loopback of the side that connects to it.

    Raises
    ------
    SshConfigError
        The value is not a port, ``host:port`` or a path.
    """
    address = _parse(value, name, 1, is_local)
    if isinstance(address, TcpAddress) and address.host == _ALL:
        raise SshConfigError(
            f"{name} must name one host; '*' is for listening only, got {value!r}"
        )
    return address


def parse_listen(value: Any, *, is_local: bool, name: str = "listen") -> Address:
    """
    Parse the address to listen on; a port is on 127.0.0.1, and port 0 is any free one.

    The default is not ``localhost``: for that name, sshd is satisfied with one of its addresses,
    so that connections to a port that another program uses on 127.0.0.1 would go to that program.

    Raises
    ------
    SshConfigError
        The value is not a port, ``host:port`` or a path.
    """
    address = _parse(value, name, 0, is_local)
    if isinstance(value, int) or (isinstance(value, str) and value.isdigit()):
        return TcpAddress("127.0.0.1", address[1])  # type: ignore[misc]
    return address


def _parse(value: Any, name: str, least: int, is_local: bool) -> Address:
    wanted = f"{name}: expected a port, 'host:port', '[IPv6 address]:port' or the path of a socket"
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
        if isinstance(value, str) and "/" not in value:
            value = f"./{value}"
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return TcpAddress("localhost", _port(value, value, name, least))
    if not isinstance(value, str) or not value:
        hint = ""
        if isinstance(value, (tuple, list)) and len(value) == 2:  # the form of sshtunnel
            hint = f" (write '{value[0]}:{value[1]}')"
        raise SshConfigError(f"{wanted}, got {value!r}{hint}")
    if "://" in value:
        raise SshConfigError(f"{wanted}, not a URL, got {value!r}")
    if "/" in value:
        return _unix_address(value, name, is_local)
    found = _HOST_AND_PORT.fullmatch(value)
    if found is None:
        raise SshConfigError(f"{wanted}, got {value!r}{_hint(value)}")
    host = found["v6"] if found["v6"] is not None else found["host"]
    if not host:
        hint = "the port alone is on loopback"
        hint += "; '*:port' is all addresses" if least == 0 else ""
        raise SshConfigError(f"{name}: expected a host before the colon ({hint}), got {value!r}")
    if "@" in host:
        raise SshConfigError(f"{name}: expected a host without a user, got {value!r}")
    if any(character.isspace() or not character.isprintable() for character in host):
        raise SshConfigError(f"{wanted}, got {value!r}")
    return TcpAddress(host, _port(int(found["port"]), value, name, least))


def _hint(value: str) -> str:
    if ":" not in value:
        return " (a path must contain a slash, and a host needs a port)"
    if value.startswith("[") and value.endswith("]"):
        return " (the port is missing)"
    return " (an IPv6 address must be in brackets)" if value.count(":") > 1 else ""


def _port(port: int, value: Any, name: str, least: int) -> int:
    if not least <= port <= 65535:
        zero = " (0 for any free port)" if least == 0 else ""
        raise SshConfigError(f"{name}: expected a port from 1 to 65535{zero}, got {value!r}")
    return port


def _unix_address(path: str, name: str, is_local: bool) -> UnixAddress:
    if is_local and not hasattr(socket, "AF_UNIX"):
        raise SshConfigError(
            f"{name}: expected a port or an address with one, as Python has no Unix sockets on"
            f" this system (such as Windows), got {path!r}"
        )
    if "\0" in path:
        raise SshConfigError(f"{name}: expected a path without NUL characters, got {path!r}")
    try:
        if is_local and not os.path.isabs(path):  # the program may change its working directory
            path = os.path.join(os.getcwd(), path[2:] if path.startswith("./") else path)
        size = len(os.fsencode(path))
    except UnicodeEncodeError:
        raise SshConfigError(
            f"{name}: expected a path that can be encoded, got {path!r}"
        ) from None
    except OSError as error:
        raise SshConfigError(
            f"{name}: expected an absolute path, as the current folder is gone"
            f" ({error.strerror}), got {path!r}"
        ) from error
    if is_local and size > _MAX_LOCAL_PATH:
        raise SshConfigError(
            f"{name}: expected a path of at most {_MAX_LOCAL_PATH} bytes, which is the system's"
            f" limit for Unix sockets, got one of {size}: {path!r}"
        )
    return UnixAddress(path)
