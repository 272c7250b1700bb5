"""
What ssh_config(5) files say about one host.

Only reading: which keywords take effect, and as what, is `params`' business.  The first value
found for a keyword wins, as in ssh; ``IdentityFile`` and ``CertificateFile`` collect.
"""

from __future__ import annotations

import functools
import getpass
import glob
import logging
import os
import signal
import stat
import subprocess
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from ssh_service.errors import SshConfigError
from ssh_service.patterns import is_match_list

__all__ = ["HostConfig", "Value", "default_files", "local_user", "lookup"]

_log = logging.getLogger(__name__)

_MAX_DEPTH = 16  # ssh's own limit on nested Include
_EXEC_LIMIT = 10.0  # seconds that the command of a Match exec may take
_COLLECTED = frozenset(["identityfile", "certificatefile"])
# Everything after these keywords is one value: `#` and quotes belong to it.
_RAW = frozenset(["proxycommand", "proxyjump", "localcommand", "remotecommand"])
_SYSTEM_FILE = "/etc/ssh/ssh_config"
_MATCH_WITH_VALUE = frozenset(["host", "originalhost", "user", "localuser", "exec"])


class Value(NamedTuple):
    """The arguments of one keyword, and where they stand (``file:line``)."""

    arguments: Tuple[str, ...]
    origin: str


class _Line(NamedTuple):
    keyword: str
    arguments: Tuple[str, ...]
    origin: str


class HostConfig:
    """
    What the files say about one host, by lower-case keyword.

    Notes
    -----
    *Thread safety*: not changed once `lookup` has returned it.
    """

    def __init__(self) -> None:
        self._values: Dict[str, List[Value]] = {}

    def all(self, keyword: str) -> List[Value]:
        """
        Return every value of a keyword, in order.

        Parameters
        ----------
        keyword : str
            In lower case.

        Returns
        -------
        List[Value]
            At most one, except for keywords that collect.
        """
        return list(self._values.get(keyword, ()))

    def get(self, keyword: str) -> Optional[Value]:
        """
        Return the value of a keyword.

        Parameters
        ----------
        keyword : str
            In lower case.

        Returns
        -------
        Optional[Value]
            The first value, None where the files say nothing.
        """
        values = self._values.get(keyword)
        return values[0] if values else None

    def keywords(self) -> List[str]:
        """
        Name the keywords that have a value.

        Returns
        -------
        List[str]
            In lower case, in the order they were found.
        """
        return list(self._values)

    def _add(self, line: _Line) -> None:
        values = self._values.setdefault(line.keyword, [])
        value = Value(line.arguments, line.origin)
        if not values:
            values.append(value)
        elif line.keyword in _COLLECTED and line.arguments not in [v.arguments for v in values]:
            values.append(value)


def local_user() -> str:
    """
    Name the user this process runs as.

    Returns
    -------
    str
        The login name, or the number where the system knows no name.
    """
    try:
        import pwd

        return pwd.getpwuid(os.getuid()).pw_name
    except (ImportError, KeyError):
        try:
            return getpass.getuser()
        except Exception:  # noqa: B902  (KeyError, OSError or ImportError, by version)
            return str(os.getuid()) if hasattr(os, "getuid") else "user"


def default_files() -> Tuple[str, ...]:
    """
    Name the files ssh itself would read.

    Returns
    -------
    Tuple[str, ...]
        The user's and the system's; they need not exist.
    """
    return (os.path.expanduser("~/.ssh/config"), _SYSTEM_FILE)


def lookup(
    host: str,
    files: Optional[Sequence[str]] = None,
    *,
    user: Optional[str] = None,
    port: Optional[int] = None,
    allow_exec: bool = False,
) -> HostConfig:
    """
    Read what ssh_config files say about a host.

    Parameters
    ----------
    host : str
        As the caller typed it.
    files : Optional[Sequence[str]]
        Files that must exist; None for the user's and the system's, where they exist.
    user : Optional[str]
        The user name the caller gave, seen by ``Match user``.
    port : Optional[int]
        The port the caller gave, seen by the ``%p`` of ``Match exec``.
    allow_exec : bool
        Whether ``Match exec`` may run its command.  Where it may not, the block does not match,
        and a warning says so.

    Returns
    -------
    HostConfig
        What was found.

    Raises
    ------
    SshConfigError
        A file is missing, unreadable, not safe (the user's own, writable by others) or not in
        the format, or a ``Match exec`` does not end; the message names file and line.
    """
    reader = _Reader(host, user, port, allow_exec)
    if files is None:
        user_file, system_file = default_files()
        sources = [(user_file, True, True), (system_file, False, True)]
    else:
        sources = [(os.path.expanduser(name), True, False) for name in files]
    for final in (False, True):
        reader.begin(final)
        for path, is_users, is_default in sources:
            if is_default and not os.path.exists(path):
                continue
            reader.read(path, is_users=is_users, check_owner=is_default and is_users)
        if not reader.wants_final:
            break
    return reader.config


class _Reader:
    """One lookup: walks the files, once or (``Match final``) twice."""

    def __init__(
        self, host: str, user: Optional[str], port: Optional[int], allow_exec: bool
    ) -> None:
        self.config = HostConfig()
        self.wants_final = False
        self._host = host
        self._name = host  # what Host patterns are compared with
        self._user = user
        self._port = port
        self._allow_exec = allow_exec
        self._final = False

    def begin(self, final: bool) -> None:
        self._final = final
        if final:  # the host name is settled now, whatever else is still said about it
            self._name = self._subject("host").lower()
            hostname = self._name.replace("%", "%%")
            origin = self.config.all("hostname")[0].origin if self.config.get("hostname") else ""
            self.config._values["hostname"] = [Value((hostname,), origin)]

    def read(self, path: str, *, is_users: bool, check_owner: bool) -> None:
        self._read(path, is_users, check_owner, True, 0)

    def _read(
        self, path: str, is_users: bool, check_owner: bool, reachable: bool, depth: int
    ) -> None:
        active = reachable
        for line in _parse_file(path, check_owner):
            if line.keyword == "host":
                active = reachable and is_match_list(self._name, line.arguments)
            elif line.keyword == "match":
                # Evaluated even where unreachable is known: a syntax error stays an error.
                active = self._is_match(line, reachable)
            elif line.keyword == "include":
                self._include(line, is_users, active, depth)
            elif active:
                self.config._add(line)

    def _include(self, line: _Line, is_users: bool, active: bool, depth: int) -> None:
        if depth >= _MAX_DEPTH:
            raise SshConfigError(f"{line.origin}: Include nested deeper than {_MAX_DEPTH}")
        base = os.path.expanduser("~/.ssh") if is_users else os.path.dirname(_SYSTEM_FILE)
        for argument in line.arguments:
            pattern = os.path.join(base, os.path.expanduser(argument))
            for path in sorted(glob.glob(pattern)):
                self._read(path, is_users, False, active, depth + 1)

    def _is_match(self, line: _Line, reachable: bool) -> bool:
        words = list(_match_words(line))
        if not words:
            raise SshConfigError(f"{line.origin}: Match needs a criterion, such as host or all")
        result = reachable
        for index, (negated, name, value) in enumerate(words):
            if name == "all":
                before = {word for _, word, _ in words[:index]}
                if negated or index != len(words) - 1 or before - {"final", "canonical"}:
                    raise SshConfigError(f"{line.origin}: 'all' cannot be combined in Match")
                found = True
            elif name in ("final", "canonical"):
                if name == "final":
                    self.wants_final = True
                found = self._final
            elif not result:
                continue  # as ssh: nothing is run or compared once the block is out
            elif name == "exec":
                found = self._run(value, line.origin)
            elif name in _MATCH_WITH_VALUE:
                subject = self._subject(name)
                if name in ("host", "originalhost"):  # unlike those of Host, in any case
                    subject, value = subject.lower(), value.lower()
                found = is_match_list(subject, value.split(","))
            else:
                _log.warning("%s: Match %s is not supported: no match", line.origin, name)
                return False
            result = result and found != negated
        return result

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
        return value.arguments[0].replace("%h", self._host).replace("%%", "%")

    def _run(self, command: str, origin: str) -> bool:
        if not self._allow_exec:
            _log.warning("%s: Match exec is not allowed (config_exec is off): no match", origin)
            return False
        port = self.config.get("port")
        expanded = expand_tokens(
            command,
            {
                "%": "%",
                "h": self._subject("host"),
                "n": self._host,
                "p": str(self._port or (port.arguments[0] if port else 22)),
                "r": self._subject("user"),
                "u": local_user(),
                "d": os.path.expanduser("~"),
            },
            origin,
        )
        return _succeeds(expanded, origin)


def _succeeds(command: str, origin: str) -> bool:
    """Run the command of a ``Match exec``: the file asks for it, and the caller allowed it."""
    shell = os.environ.get("SHELL") or "/bin/sh"
    try:
        process = subprocess.Popen(
            [shell, "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # so that it can be ended with all that it started
        )
    except OSError as error:
        raise SshConfigError(
            f"{origin}: Match exec cannot be run by {shell!r}: {error.strerror}"
        ) from error
    try:
        return process.wait(_EXEC_LIMIT) == 0
    except subprocess.TimeoutExpired:
        raise SshConfigError(
            f"{origin}: Match exec did not end within {_EXEC_LIMIT:g} s"
        ) from None
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _match_words(line: _Line) -> Iterator[Tuple[bool, str, str]]:
    rest = list(line.arguments)
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        negated = name.startswith("!")
        name = name.lstrip("!").lower()
        if name in _MATCH_WITH_VALUE and not equals:
            if not rest:
                raise SshConfigError(f"{line.origin}: Match {name} needs a value")
            value = rest.pop(0)
        elif name not in _MATCH_WITH_VALUE and name not in ("all", "final", "canonical"):
            value = rest.pop(0) if rest and not equals else value
        yield negated, name, value


def expand_tokens(text: str, tokens: Dict[str, str], origin: str) -> str:
    """
    Replace ``%h`` and the like.

    Parameters
    ----------
    text : str
        The value as written.
    tokens : Dict[str, str]
        What each letter stands for.
    origin : str
        Where the value stands, for the error.

    Returns
    -------
    str
        The value meant.

    Raises
    ------
    SshConfigError
        A letter that has no meaning here.
    """
    out, rest = [], text
    while True:
        before, percent, rest = rest.partition("%")
        out.append(before)
        if not percent:
            return "".join(out)
        if rest[:1] not in tokens or not rest:
            known = " ".join(f"%{letter}" for letter in tokens)
            raise SshConfigError(
                f"{origin}: unknown token %{rest[:1]} in {text!r}; known: {known}"
            )
        out.append(tokens[rest[0]])
        rest = rest[1:]


def expand_environment(text: str, origin: str) -> str:
    """
    Replace ``${NAME}`` by the environment variable.

    Parameters
    ----------
    text : str
        The value as written.
    origin : str
        Where the value stands, for the error.

    Returns
    -------
    str
        The value meant.

    Raises
    ------
    SshConfigError
        The variable is not set, or a brace is missing.
    """
    out, rest = [], text
    while True:
        before, found, rest = rest.partition("${")
        out.append(before)
        if not found:
            return "".join(out)
        name, brace, rest = rest.partition("}")
        if not brace or name not in os.environ:
            raise SshConfigError(f"{origin}: environment variable {name!r} of {text!r} is not set")
        out.append(os.environ[name])


def _parse_file(path: str, check_owner: bool) -> Tuple[_Line, ...]:
    try:
        facts = os.stat(path)
        if check_owner and os.name == "posix":
            if facts.st_uid not in (0, os.getuid()) or facts.st_mode & 0o022:
                mode = oct(stat.S_IMODE(facts.st_mode))
                raise SshConfigError(
                    f"{path}: owner {facts.st_uid}, mode {mode}: others could change it; "
                    f"chmod 600 it, or name the files to read with 'config'"
                )
        return _parse_cached(path, facts.st_mtime_ns, facts.st_size, facts.st_ino)
    except OSError as error:
        raise SshConfigError(f"config {path!r} cannot be read: {error.strerror}") from error


@functools.lru_cache(maxsize=64)
def _parse_cached(path: str, mtime_ns: int, size: int, inode: int) -> Tuple[_Line, ...]:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        text = file.read()
    lines = []
    for number, raw in enumerate(text.split("\n"), 1):
        line = _parse_line(raw.strip(), f"{path}:{number}")
        if line is not None:
            lines.append(line)
    return tuple(lines)


def _parse_line(text: str, origin: str) -> Optional[_Line]:
    if not text or text.startswith("#"):
        return None
    end = 0
    if text.startswith('"'):
        end = text.find('"', 1)
        keyword, rest = text[1:end], text[end + 1 :]
    else:
        while end < len(text) and not (text[end].isspace() or text[end] == "="):
            end += 1
        keyword, rest = text[:end], text[end:]
    keyword = keyword.lower()
    rest = rest.lstrip()
    if rest.startswith("="):
        rest = rest[1:].lstrip()
    arguments = (rest,) if keyword in _RAW and rest else tuple(_split(rest, origin))
    if not arguments:
        raise SshConfigError(f"{origin}: {keyword} needs a value")
    return _Line(keyword, arguments, origin)


def _split(text: str, origin: str) -> Iterator[str]:
    """Split into arguments as ssh does: quotes, backslashes, a comment ends the line."""
    index = 0
    while index < len(text):
        if text[index] in " \t":
            index += 1
            continue
        if text[index] == "#":
            return
        word, quote = [], ""
        while index < len(text):
            char = text[index]
            following = text[index + 1 : index + 2]
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
        yield "".join(word)
