"""Paths on a host without their files: how they are split, joined and compared."""

from __future__ import annotations

from pathlib import PurePath, PurePosixPath
from typing import Any, Optional, Sequence, Tuple, Type, TypeVar, Union

from ssh_service.errors import SshConfigError
from ssh_service.params import Resolvable
from ssh_service.paths.running import CachedHost
from ssh_service.settings import check_encodable, invalid_type

__all__ = ["PureSshPath"]

_P = TypeVar("_P", bound="PureSshPath")


class PureSshPath:
    """The part of `SshPath` that sends nothing."""

    __slots__ = ("_host", "_pure", "_has_tilde", "_hash")

    _host: CachedHost
    _pure: PurePosixPath
    _has_tilde: bool  # the first part is a home directory, not a name that starts with a tilde
    _hash: Optional[int]

    def __init__(self, host: Any, *segments: Union[str, PurePath, PureSshPath]) -> None:
        if not isinstance(host, Resolvable) or not hasattr(host, "cache"):
            raise invalid_type("host", host, "a Host, such as Host('deploy@web1')")
        texts = [_text_of(segment, host) for segment in segments]
        pure = PurePosixPath(*texts)
        first = next(
            (text for text in reversed(texts) if text.startswith("/")),
            next(filter(None, texts), ""),
        )
        if not first:
            raise SshConfigError("path: expected a path, got ''; '.' is the home directory")
        self._set(host, pure, first.startswith("~"))  # type: ignore[arg-type]

    def _set(self, host: CachedHost, pure: PurePosixPath, has_tilde: bool) -> None:
        fields = {"_host": host, "_pure": pure, "_has_tilde": has_tilde, "_hash": None}
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def _derive(self: _P, pure: PurePosixPath) -> _P:
        """Return another path of the host; it has a tilde if it begins with the same part."""
        path: _P = object.__new__(type(self))
        path._set(self._host, pure, self._has_tilde and pure.parts[:1] == self._pure.parts[:1])
        return path

    def _parse(self: _P, other: Any) -> _P:
        """Return a path of the host for a path or a text."""
        if isinstance(other, PureSshPath):
            return type(self)(self._host, other)
        return type(self)(self._host, _text_of(other, self._host))

    # Immutable.

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"a path is immutable: cannot set {name!r}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a path is immutable: cannot delete {name!r}")

    def __reduce__(self) -> Tuple[Type[PureSshPath], Tuple[Any, ...]]:
        return type(self), (self._host, str(self))

    # As a text.

    def __str__(self) -> str:
        text = str(self._pure)
        return f"./{text}" if text.startswith("~") and not self._has_tilde else text

    def as_posix(self) -> str:
        """
        Return the path as a text, like `str`.

        Returns
        -------
        str
            The path on the host, without the host.
        """
        return str(self)

    def __repr__(self) -> str:
        return f"{self._host!r}.path({str(self)!r})"

    # Comparison.

    def _key(self) -> Tuple[bool, Tuple[str, ...]]:
        return self._has_tilde, self._pure.parts

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PureSshPath):
            return NotImplemented
        return self._key() == other._key() and self._host == other._host

    def __hash__(self) -> int:
        if self._hash is None:
            object.__setattr__(self, "_hash", hash((self._host, self._key())))
        return self._hash  # type: ignore[return-value]

    def __lt__(self, other: Any) -> bool:
        if not isinstance(other, PureSshPath) or other._host != self._host:
            return NotImplemented
        return self._key() < other._key()

    def __le__(self, other: Any) -> bool:
        if not isinstance(other, PureSshPath) or other._host != self._host:
            return NotImplemented
        return self._key() <= other._key()

    def __gt__(self, other: Any) -> bool:
        if not isinstance(other, PureSshPath) or other._host != self._host:
            return NotImplemented
        return self._key() > other._key()

    def __ge__(self, other: Any) -> bool:
        if not isinstance(other, PureSshPath) or other._host != self._host:
            return NotImplemented
        return self._key() >= other._key()

    # Parts.

    @property
    def host(self) -> CachedHost:
        """The host, as it was given."""
        return self._host

    @property
    def parts(self) -> Tuple[str, ...]:
        """The parts of the path as a tuple, such as ``("/", "etc", "hosts")``."""
        return self._pure.parts

    @property
    def root(self) -> str:
        """``"/"`` if the path is absolute, otherwise ``""``."""
        return self._pure.root

    @property
    def anchor(self) -> str:
        """The same as `root`, as paths on a host have no drive."""
        return self._pure.anchor

    @property
    def drive(self) -> str:
        """Always ``""``, as in `pathlib` on POSIX."""
        return ""

    @property
    def name(self) -> str:
        """The last part, without the root."""
        return self._pure.name

    @property
    def stem(self) -> str:
        """The name without its last suffix."""
        return self._pure.stem

    @property
    def suffix(self) -> str:
        """The last suffix of the name, with its dot; ``""`` if there is none."""
        return self._pure.suffix

    @property
    def suffixes(self) -> Sequence[str]:
        """All suffixes of the name, such as ``[".tar", ".gz"]``."""
        return self._pure.suffixes

    @property
    def parent(self: _P) -> _P:
        """The folder that contains the path; the path itself if it is ``/`` or ``.``."""
        return self._derive(self._pure.parent)

    @property
    def parents(self: _P) -> Sequence[_P]:
        """The folders that contain the path, from the innermost."""
        return tuple(map(self._derive, self._pure.parents))

    def is_absolute(self) -> bool:
        """
        Return whether the path starts at the root.

        Returns
        -------
        bool
            False for a path that starts at a home directory.
        """
        return self._pure.is_absolute()

    # Other paths.

    def joinpath(self: _P, *segments: Union[str, PurePath, PureSshPath]) -> _P:
        """
        Return the path of something below this one.

        Parameters
        ----------
        *segments : Union[str, PurePath, SshPath]
            What is appended, as with `pathlib.PurePath.joinpath`; an absolute path replaces all
            that is before it.

        Returns
        -------
        SshPath
            The path on the same host.

        Raises
        ------
        SshConfigError
            A segment is not a path, or is a path of another host.
        """
        return type(self)(self._host, self, *segments)

    def __truediv__(self: _P, segment: Union[str, PurePath, PureSshPath]) -> _P:
        if not isinstance(segment, (str, PurePath, PureSshPath)):
            return NotImplemented
        return self.joinpath(segment)

    def __rtruediv__(self: _P, segment: str) -> _P:
        if not isinstance(segment, str):
            return NotImplemented  # a local path: on which side is the result?
        return type(self)(self._host, segment, self)

    def with_name(self: _P, name: str) -> _P:
        """
        Return the path with another last part.

        Parameters
        ----------
        name : str
            The name, without a slash.

        Returns
        -------
        SshPath
            The path in the same folder.

        Raises
        ------
        ValueError
            The path has no name, or `name` is not one.
        """
        return self._derive_named(self._pure.with_name(_checked(name)))

    def with_stem(self: _P, stem: str) -> _P:
        """
        Return the path with another name that has the same suffix.

        Parameters
        ----------
        stem : str
            The name without its suffix.

        Returns
        -------
        SshPath
            The path in the same folder.

        Raises
        ------
        ValueError
            The path has no name, or `stem` makes none.
        """
        return self.with_name(stem + self.suffix)

    def with_suffix(self: _P, suffix: str) -> _P:
        """
        Return the path with another suffix.

        Parameters
        ----------
        suffix : str
            The suffix with its dot; ``""`` removes it.

        Returns
        -------
        SshPath
            The path in the same folder.

        Raises
        ------
        ValueError
            The path has no name, or `suffix` is not one.
        """
        return self._derive_named(self._pure.with_suffix(_checked(suffix)))

    def _derive_named(self: _P, pure: PurePosixPath) -> _P:
        path = self._derive(pure)
        if len(pure.parts) == 1:  # a name in the home directory, even if it starts with a tilde
            path._set(self._host, pure, False)
        return path

    def relative_to(self: _P, other: Union[str, PurePath, PureSshPath]) -> _P:
        """
        Return the way from another path to this one.

        Parameters
        ----------
        other : Union[str, PurePath, SshPath]
            A path that contains this one.

        Returns
        -------
        SshPath
            The rest of this path.  It is relative: used for itself, it starts at the home
            directory.

        Raises
        ------
        ValueError
            `other` does not contain this path, or is a path of another host.
        """
        start = self._parse(other)
        if start._has_tilde != self._has_tilde and start._pure.parts:
            raise ValueError(f"{str(self)!r} is not below {str(start)!r}")
        pure = self._pure.relative_to(start._pure)
        path = self._derive(pure)
        path._set(self._host, pure, self._has_tilde and not start._pure.parts)
        return path

    def is_relative_to(self, other: Union[str, PurePath, PureSshPath]) -> bool:
        """
        Return whether another path contains this one.

        Parameters
        ----------
        other : Union[str, PurePath, SshPath]
            The other path.

        Returns
        -------
        bool
            By the names alone: links and ``..`` are not followed.
        """
        try:
            self.relative_to(other)
        except ValueError:
            return False
        return True

    def match(self, pattern: str) -> bool:
        """
        Return whether a pattern matches the path, or its end.

        Parameters
        ----------
        pattern : str
            A pattern as for `pathlib.PurePath.match`, such as ``"*.log"``.

        Returns
        -------
        bool
            Whether it matches; a relative pattern is matched from the right.
        """
        return self._pure.match(pattern)


def _text_of(segment: Any, host: Resolvable) -> str:
    """Return a part of a path as a text, in which only a home directory starts with a tilde."""
    if isinstance(segment, PureSshPath):
        if segment._host != host:
            raise SshConfigError(f"path: expected a path of {host}, got one of {segment._host}")
        return str(segment)
    if isinstance(segment, PurePath):
        segment = segment.as_posix()
    if not isinstance(segment, str):
        raise invalid_type("path", segment, "a str, such as '/etc/hosts'")
    return _checked(segment)


def _checked(text: str) -> str:
    if isinstance(text, str):
        if "\0" in text:
            raise SshConfigError(f"path: expected no NUL character, got {text!r}")
        check_encodable("path", text)
    return text
