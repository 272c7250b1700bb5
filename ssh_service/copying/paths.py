"""Splits and joins paths, as bytes with slashes, for the local system and for servers."""

from __future__ import annotations

import os
from typing import Union

__all__ = [
    "MAX_LISTED_PATH_LENGTH",
    "MAX_NAME_LENGTH",
    "basename",
    "folder_of",
    "is_within",
    "join",
    "real_path",
    "sibling",
    "to_bytes",
    "to_text",
    "with_slashes",
]

_IS_WINDOWS = os.name == "nt"
# The maximum length of a name in bytes, on all file systems that we know.
MAX_NAME_LENGTH = 255
# The longest path of a folder whose entries OpenSSH's server lists for certain: with the longest
# name, it still fits into PATH_MAX (4096) bytes.  The server leaves out longer ones.
MAX_LISTED_PATH_LENGTH = 4096 - len(b"/\0") - MAX_NAME_LENGTH


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


def to_text(path: bytes) -> str:
    """Return a remote path as text, with undecodable bytes as surrogates, on Windows too."""
    return path.decode("utf-8", "surrogateescape") if _IS_WINDOWS else os.fsdecode(path)


def to_bytes(path: Union[str, bytes, "os.PathLike[str]", "os.PathLike[bytes]"]) -> bytes:
    """Return a remote path, perhaps a text with surrogates, as bytes."""
    plain = os.fspath(path)
    if _IS_WINDOWS and isinstance(plain, str):
        return plain.encode("utf-8", "surrogateescape")
    return os.fsencode(plain)


def with_slashes(path: bytes) -> bytes:
    """Return a local path with slashes, which Windows takes as well as its own separator."""
    if not _IS_WINDOWS:
        return path
    for prefix, plain in ((b"\\\\?\\UNC\\", b"\\\\"), (b"\\\\?\\", b"")):
        if path.startswith(prefix):
            path = plain + path[len(prefix) :]
    return path.replace(b"\\", b"/")


def real_path(path: bytes) -> bytes:
    """Return the real path of a local file or folder, with slashes."""
    return with_slashes(os.path.realpath(path))
