"""What a server reports about a file."""

from __future__ import annotations

from typing import NamedTuple

from ssh_service.copying.sftp.protocol import Attributes

__all__ = ["FileStatus", "status_of"]


class FileStatus(NamedTuple):
    """
    What SFTP reports about a file: a part of `os.stat_result`, with the same names.

    Inode, device, number of links and time of the last change are not reported.

    Attributes
    ----------
    st_mode : int
        The type and the permissions, for the functions of `stat`; 0 if not reported.
    st_size : int
        The size in bytes; 0 if not reported.
    st_uid, st_gid : int
        The numbers of the owner and the group; -1 if not reported.
    st_atime, st_mtime : int
        The times of the last access and the last modification, in seconds since 1970; 0 if not
        reported.
    """

    st_mode: int
    st_size: int
    st_uid: int
    st_gid: int
    st_atime: int
    st_mtime: int


def status_of(attributes: Attributes) -> FileStatus:
    """Return the public form of a file's attributes."""
    uid, gid = attributes.uid, attributes.gid
    return FileStatus(
        attributes.mode or 0,
        attributes.size or 0,
        -1 if uid is None else uid,
        -1 if gid is None else gid,
        attributes.atime or 0,
        attributes.mtime or 0,
    )
