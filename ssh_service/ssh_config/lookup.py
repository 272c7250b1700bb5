"""Looks up one host in ssh_config files; as in ssh, the first value of a keyword counts."""

from __future__ import annotations

import getpass
import glob
import logging
import os
from typing import Dict, List, Optional, Sequence, Tuple

from ssh_service import local_paths
from ssh_service.errors import SshConfigError
from ssh_service.patterns import is_match_list
from ssh_service.ssh_config import match_exec
from ssh_service.ssh_config.expansion import expand_command, expand_tokens
from ssh_service.ssh_config.syntax import Criterion, Line, Value, criteria, read
from ssh_service.user_files import expand_home, home, system_folder

__all__ = ["HostConfig", "default_files", "local_user", "lookup"]

_log = logging.getLogger(__name__)

_MAX_DEPTH = 16  # ssh's own limit for nested Include
_COLLECTED = frozenset(["identityfile", "certificatefile"])
_SYSTEM_FILE = os.path.join(system_folder(), "ssh_config")


class HostConfig:
    """
    The values for one host, by lower-case keyword.

    Attributes
    ----------
    get : Callable[[str], Optional[Value]]
        Returns the first value of a keyword; None if the files do not set it.

    Notes
    -----
    *Thread safety*: not changed once `lookup` has returned it.
    """

    def __init__(self) -> None:
        self._values: Dict[str, List[Value]] = {}
        self._first: Dict[str, Value] = {}
        self.get = self._first.get  # bound once: it is called about thirty times per command

    def all(self, keyword: str) -> List[Value]:
        """Return all values of a keyword, in order."""
        return list(self._values.get(keyword, ()))

    def keywords(self) -> List[str]:
        """Return the keywords that have a value."""
        return list(self._values)

    def add(self, line: Line) -> None:
        """Add the values of a line."""
        values = self._values.setdefault(line.keyword, [])
        known = [value.arguments for value in values]
        if not known or (line.keyword in _COLLECTED and line.value.arguments not in known):
            values.append(line.value)
            self._first.setdefault(line.keyword, line.value)

    def settle(self, hostname: str) -> None:
        """Fix the host name; later lines cannot change it."""
        values = self._values.get("hostname")
        origin = values[0].origin if values else ""
        self._first["hostname"] = Value((hostname.replace("%", "%%"),), origin)
        self._values["hostname"] = [self._first["hostname"]]


def local_user() -> str:
    """Return the name of the user that this process runs as."""
    try:
        import pwd

        return pwd.getpwuid(os.getuid()).pw_name
    except (ImportError, KeyError):
        try:
            return getpass.getuser()
        except Exception:  # noqa: B902  (KeyError, OSError or ImportError, by version)
            return str(os.getuid()) if hasattr(os, "getuid") else "user"


def default_files() -> Tuple[str, ...]:
    """Return the files that ssh reads by default."""
    return (expand_home("~/.ssh/config"), _SYSTEM_FILE)


def lookup(
    host: str,
    files: Optional[Sequence[str]] = None,
    *,
    user: Optional[str] = None,
    port: Optional[int] = None,
    allow_exec: bool = False,
) -> HostConfig:
    """
    Read the ssh_config settings for a host.

    Raises
    ------
    SshConfigError
        A file is missing, unreadable, unsafe (the user's own file or an included one, writable by
        others) or malformed, or the command of a ``Match exec`` does not end; the message names
        the file and line.
    """
    reader = _Reader(host, user, port, allow_exec)
    reader.read_all(files)
    if reader.wants_final:
        reader.begin_final()
        reader.read_all(files)
    return reader.config


class _Reader:
    """One lookup, which reads the files once or (``Match final``) twice."""

    def __init__(
        self, host: str, user: Optional[str], port: Optional[int], allow_exec: bool
    ) -> None:
        self.config = HostConfig()
        self.wants_final = False
        self._host = host
        self._name = host  # the name that Host patterns are matched against
        self._user = user
        self._port = port
        self._allow_exec = allow_exec
        self._final = False

    def begin_final(self) -> None:
        self._final = True
        self._name = self._subject("host").lower()
        self.config.settle(self._name)

    def read_all(self, files: Optional[Sequence[str]]) -> None:
        if files is not None:
            for name in files:
                self._read(expand_home(name), True, False, True, 0)
            return
        user_file, system_file = default_files()
        for path, is_users in ((user_file, True), (system_file, False)):
            if local_paths.exists(path):
                self._read(path, is_users, is_users, True, 0)

    def _read(
        self, path: str, is_users: bool, check_owner: bool, reachable: bool, depth: int
    ) -> None:
        for block in read(path, check_owner=check_owner):
            active = self._is_for_us(block.head, reachable)
            for line in block.lines if active else block.includes:
                if line.keyword == "include":
                    self._include(line.value, is_users, active, depth)
                else:
                    self.config.add(line)

    def _include(self, value: Value, is_users: bool, active: bool, depth: int) -> None:
        if depth >= _MAX_DEPTH:
            raise SshConfigError(f"{value.origin}: Include nested deeper than {_MAX_DEPTH}")
        base = expand_home("~/.ssh") if is_users else os.path.dirname(_SYSTEM_FILE)
        for argument in value.arguments:
            if argument.startswith("~") and not is_users:  # the home directory would be ambiguous
                raise SshConfigError(
                    f"{value.origin}: Include {argument}: ~ has no meaning in the system's file"
                )
            pattern = os.path.join(base, expand_home(argument))
            for path in sorted(glob.glob(pattern)):
                self._read(
                    path, is_users, True, active, depth + 1
                )  # as in ssh, for every including file

    def _is_for_us(self, head: Optional[Line], reachable: bool) -> bool:
        if head is None:
            return reachable
        if head.keyword == "host":
            return reachable and is_match_list(self._name, head.value.arguments)
        # Parsed even if the block cannot apply, so that syntax errors are always reported.
        return self._is_match(head.value, reachable)

    def _is_match(self, value: Value, reachable: bool) -> bool:
        result = reachable
        for criterion in criteria(value):
            if criterion.name == "final" and not criterion.negated:  # as in OpenSSH 10.1
                self.wants_final = True
            if result:  # as in ssh: no further criterion is evaluated once one does not match
                result = self._holds(criterion, value.origin) != criterion.negated
        return result

    def _holds(self, criterion: Criterion, origin: str) -> bool:
        """Return whether a criterion matches, before negation."""
        name = criterion.name
        if name == "all":
            return True
        if name in ("final", "canonical"):
            return self._final
        if name == "exec":
            return self._run(criterion.value, origin)
        if name in ("host", "originalhost"):  # unlike Host patterns, ignoring case
            patterns = criterion.value.lower().split(",")
            return is_match_list(self._subject(name).lower(), patterns)
        if name in ("user", "localuser"):
            return is_match_list(self._subject(name), criterion.value.split(","))
        _log.warning("%s: Match %s is not supported: no match", origin, name)
        return criterion.negated  # neither the criterion nor its negation may match

    def _subject(self, name: str) -> str:
        if name == "originalhost":
            return self._host
        if name == "localuser":
            return local_user()
        if name == "user":
            value = self.config.get("user")
            return self._user or (value.arguments[0] if value else local_user())
        value = self.config.get("hostname")
        if value is None:
            return self._host
        return expand_tokens(value.arguments[0], {"%": "%", "h": self._host}, value.origin)

    def _run(self, command: str, origin: str) -> bool:
        if not self._allow_exec:
            _log.warning("%s: Match exec is not allowed (config_exec is off): no match", origin)
            return False
        port = self.config.get("port")
        tokens = {
            "%": "%",
            "h": self._subject("host"),
            "n": self._host,
            "p": str(self._port or (port.arguments[0] if port else 22)),
            "r": self._subject("user"),
            "u": local_user(),
            "d": home(),
        }
        return match_exec.succeeds(expand_command(command, tokens, origin), origin)
