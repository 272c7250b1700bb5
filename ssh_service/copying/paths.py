"""Splits and joins paths, as bytes with slashes, for the local system and for servers."""

from __future__ import annotations

__all__ = ["MAX_NAME_LENGTH", "sibling", "folder_of", "is_within", "join", "basename"]

# The maximum length of a name in bytes, on all file systems that we know.
MAX_NAME_LENGTH = 255


def join(folder: bytes, name: bytes) -> bytes:
    """Return the path of an entry of a folder."""
    return folder + name if folder.endswith(b"/") else folder + b"/" + name


def sibling(path: bytes, name: bytes) -> bytes:
    """Return the path of another entry of the folder that contains `path`."""
    return path[: path.rfind(b"/") + 1] + name


def folder_of(path: bytes) -> bytes:
    """Return the folder that contains `path`; ``.`` if `path` is only a name."""
    around = sibling(path, b"")
    return around.rstrip(b"/") or (b"/" if around else b".")


def basename(path: bytes) -> bytes:
    """Return the last component of a path, with or without trailing slashes."""
    return path.rstrip(b"/").rpartition(b"/")[2]


def is_within(path: bytes, folder: bytes) -> bool:
    """Return whether a real path is `folder` itself, or lies in it (also a real path)."""
    return path == folder or path.startswith(folder.rstrip(b"/") + b"/")
