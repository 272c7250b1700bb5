"""Paths as bytes, with slashes, as they are here and on servers: taken apart and put together."""

from __future__ import annotations

__all__ = ["MAX_NAME_LENGTH", "sibling", "folder_of", "is_within", "join", "basename"]

# What every file system we know allows.
MAX_NAME_LENGTH = 255


def join(folder: bytes, name: bytes) -> bytes:
    """Give the path of an entry of a folder."""
    return folder + name if folder.endswith(b"/") else folder + b"/" + name


def sibling(path: bytes, name: bytes) -> bytes:
    """Give the path of another entry of the folder that a path lies in."""
    return path[: path.rfind(b"/") + 1] + name


def folder_of(path: bytes) -> bytes:
    """Give the folder that a path lies in; ``.`` where the path does not name it."""
    around = sibling(path, b"")
    return around.rstrip(b"/") or (b"/" if around else b".")


def basename(path: bytes) -> bytes:
    """Give the last name of a path, whether or not slashes follow it."""
    return path.rstrip(b"/").rpartition(b"/")[2]


def is_within(path: bytes, folder: bytes) -> bool:
    """Tell whether a path is a folder's own, or leads into it; of real paths, both."""
    return path == folder or path.startswith(folder.rstrip(b"/") + b"/")
