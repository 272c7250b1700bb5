"""How a copy is to be done: the options of one copy, checked before anything is sent."""

from __future__ import annotations

from typing import Any, NamedTuple, Optional, Tuple

from ssh_service.errors import SshConfigError

__all__ = ["Options", "seconds"]

_FLAGS = ("recursive", "verify", "resume", "fsync", "update", "contents")
_CHOICES = {"links": ("follow", "keep"), "on_error": ("stop", "continue")}


class Options(NamedTuple):
    """How to copy; `ssh_service.copying.upload` explains each."""

    recursive: bool = True
    verify: bool = False
    resume: bool = False
    fsync: bool = False
    preserve: Optional[bool] = None
    links: str = "follow"
    on_error: str = "stop"
    update: bool = False
    contents: bool = False

    @property
    def goes_on(self) -> bool:
        """Whether the rest of a tree is copied after an entry that cannot be."""
        return self.on_error == "continue"

    @property
    def keeps_links(self) -> bool:
        """Whether symbolic links are copied as links."""
        return self.links == "keep"

    def check(self) -> Options:
        """
        Give these options, if they are what they may be.

        Raises
        ------
        SshConfigError
            One is not, or two of them contradict each other.
        """
        for name in _FLAGS:
            _choose(name, getattr(self, name), (True, False))
        _choose("preserve", self.preserve, (None, True, False))
        for name, choices in _CHOICES.items():
            _choose(name, getattr(self, name), choices)
        if self.contents and not self.recursive:
            raise SshConfigError("contents=True copies what is in a folder: not recursive=False")
        if self.update and self.preserve is False:
            raise SshConfigError(
                "update=True compares times, and preserve=False keeps none: give one of them"
            )
        return self


def _choose(name: str, value: Any, choices: Tuple[Any, ...]) -> None:
    if not any(
        value is choice or (value == choice and isinstance(value, str)) for choice in choices
    ):
        shown = ", ".join(map(repr, choices))
        raise SshConfigError(f"{name}: expected one of {shown}, got {value!r}")


def seconds(name: str, value: Any) -> Optional[float]:
    """
    Read a number of seconds.

    Parameters
    ----------
    name : str
        The option's name.
    value : Any
        What the caller gave; None is no limit.

    Raises
    ------
    SshConfigError
        It is no number from 0 on.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
        raise SshConfigError(f"{name}: expected seconds, got {value!r}")
    try:
        return float(value)
    except OverflowError:
        return float("inf")
