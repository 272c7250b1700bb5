"""The options of one copy, checked before anything is sent."""

from __future__ import annotations

import os
from typing import Any, NamedTuple, Optional, Tuple, Union

from ssh_service.copying.exclusions import Patterns, check_patterns
from ssh_service.errors import SshConfigError, kind_of_path
from ssh_service.settings import check_encodable

__all__ = ["Options", "check_path", "seconds"]

_FLAGS = ("recursive", "verify", "resume", "fsync", "update", "contents", "dry_run")
_CHOICES = {"links": ("follow", "keep"), "on_error": ("stop", "continue")}


class Options(NamedTuple):
    """The options of a copy; `ssh_service.upload` explains each."""

    recursive: bool = True
    verify: bool = False
    resume: bool = False
    fsync: bool = False
    preserve: Optional[bool] = None
    links: str = "follow"
    on_error: str = "stop"
    update: bool = False
    contents: bool = False
    exclude: Patterns = ()
    delete: Union[bool, str] = False
    dry_run: bool = False
    max_rate: Optional[float] = None

    @property
    def goes_on(self) -> bool:
        """Whether the copy continues after an entry that cannot be copied."""
        return self.on_error == "continue"

    @property
    def keeps_links(self) -> bool:
        """Whether symbolic links are copied as links."""
        return self.links == "keep"

    def check(self) -> Options:
        """
        Return these options, with the patterns as a tuple, if they are valid.

        Raises
        ------
        SshConfigError
            A value is invalid, or two options contradict each other.
        """
        for name in _FLAGS:
            _choose(name, getattr(self, name), (True, False))
        _choose("preserve", self.preserve, (None, True, False))
        for name, choices in _CHOICES.items():
            _choose(name, getattr(self, name), choices)
        _choose("delete", self.delete, (False, True, "even-if-empty"))
        if self.delete and not self.contents:
            raise SshConfigError(
                "delete=True makes the target like the source, and needs contents=True; without"
                " it, a folder is copied into the target"
            )
        if self.contents and not self.recursive:
            raise SshConfigError(
                "contents=True copies the contents of a folder and needs recursive=True"
            )
        if self.update and self.preserve is False:
            raise SshConfigError(
                "update=True compares times, which preserve=False does not keep; set only one"
            )
        if self.dry_run and self.resume:
            raise SshConfigError(
                "dry_run=True does not look for the interrupted copies that resume=True continues;"
                " set only one"
            )
        rate = self.max_rate
        is_number = isinstance(rate, (int, float)) and not isinstance(rate, bool)
        if rate is not None and not (is_number and rate > 0):
            raise SshConfigError(
                f"max_rate: expected a number of bytes per second above 0, got {rate!r}"
            )
        return self._replace(exclude=check_patterns(self.exclude))

    def for_content(self, is_upload: bool) -> Options:
        """
        Return the options for a copy of bytes, or from or to a file object.

        Raises
        ------
        SshConfigError
            An option needs a path.
        """
        wrong = ["resume", "update", "contents", "delete", "dry_run"]
        wrong += [] if is_upload else ["fsync"]
        given = [name for name in wrong if getattr(self, name)]
        given += ["preserve"] if self.preserve else []
        if given:
            what = "bytes and file objects have" if is_upload else "a file object has"
            raise SshConfigError(
                f"{given[0]}={getattr(self, given[0])!r} needs a local path: {what} no name, mode"
                " or time"
            )
        return self._replace(preserve=False)


def _choose(name: str, value: Any, choices: Tuple[Any, ...]) -> None:
    if not [one for one in choices if value is one or (value == one and isinstance(value, str))]:
        shown = ", ".join(map(repr, choices))
        raise SshConfigError(f"{name}: expected one of {shown}, got {value!r}")


def check_path(name: str, value: Any) -> Union[str, bytes]:
    """
    Return a path as a str or bytes.

    Raises
    ------
    SshConfigError
        The value is not a str, bytes or `os.PathLike`, contains a NUL character, or cannot be
        encoded.
    """
    try:
        path: Union[str, bytes] = os.fspath(value)
    except TypeError:
        got = kind_of_path(value)
        if name == "local_path" and got.startswith("SshPath"):
            got = (
                "SshPath, a path on a host; between hosts, download to a local path and upload"
                " that; on one host, run cp"
            )
        text = f"{name}: expected one path, a str, bytes or os.PathLike, got {got}"
        raise SshConfigError(text) from None
    if (0 if isinstance(path, bytes) else "\0") in path:
        raise SshConfigError(f"{name}: expected a path without NUL characters, got {path!r}")
    if isinstance(path, str):
        check_encodable(name, path)
    return path


def seconds(name: str, value: Any) -> Optional[float]:
    """
    Return a number of seconds as a float; None (no limit) stays None.

    Raises
    ------
    SshConfigError
        The value is not a number of seconds >= 0.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
        raise SshConfigError(f"{name}: expected 0 or more seconds, got {value!r}")
    try:
        return float(value)
    except OverflowError:
        return float("inf")
