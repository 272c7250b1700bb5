"""
Which files are ours, and which folders only we can change: the rules, for both sides of a copy.

An unfinished file is removed or continued, a target replaced and a link followed only after one of
these rules was asked.  They mirror what the kernel does with fs.protected_symlinks and
fs.protected_regular, whether or not it is set.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Optional

from ssh_service.copying.sftp.protocol import Attributes
from ssh_service.errors import SshTransferError, transfer_error

__all__ = [
    "owner_and_mode",
    "is_guarded",
    "is_our_file",
    "is_our_stale_file",
    "is_shared",
    "may_use",
    "not_ours_error",
]


def owner_and_mode(status: os.stat_result) -> Attributes:
    """Return a local file's owner and mode as the attributes that a server would report."""
    return Attributes(status.st_size, status.st_uid, status.st_gid, status.st_mode)


def is_shared(folder: Attributes) -> bool:
    """Return whether strangers may create files in a folder: it is sticky, or others may write."""
    return bool((folder.mode or 0) & (stat.S_ISVTX | stat.S_IWOTH))


def is_guarded(folder: Attributes, uid: int) -> bool:
    """Return whether only this user (and root) can rename, remove or replace the user's files."""
    mode = folder.mode
    if mode is None or not stat.S_ISDIR(mode) or folder.uid not in (0, uid):
        return False
    if mode & stat.S_ISVTX:
        return True
    # By convention, a group with the number of its user has no other members.
    private_group = folder.gid == uid
    return not mode & stat.S_IWOTH and (private_group or not mode & stat.S_IWGRP)


def is_our_file(file: Attributes, uid: int, links: Optional[int] = None) -> bool:
    """
    Return whether a file is a regular one of this user, without other names.

    Parameters
    ----------
    file : Attributes
        The file itself, links not followed.
    uid : int
        The user.
    links : Optional[int]
        The number of its names; None where it is not known.
    """
    return file.uid == uid and stat.S_ISREG(file.mode or 0) and links in (None, 1)


def is_our_stale_file(file: Attributes, uid: int, links: Optional[int] = None) -> bool:
    """Return whether a file is ours as in `is_our_file`, or a symbolic link of ours."""
    is_our_link = file.uid == uid and stat.S_ISLNK(file.mode or 0)
    return is_our_link or is_our_file(file, uid, links)


def may_use(file: Attributes, folder: Attributes, uid: Optional[int]) -> bool:
    """
    Return whether a file may be replaced, or a link followed, in the folder where it lies.

    Parameters
    ----------
    file : Attributes
        The file or the link itself.
    folder : Attributes
        Its folder.
    uid : Optional[int]
        The user; None where it is not known.
    """
    if not is_shared(folder):
        return True
    return file.uid is not None and file.uid in (uid, folder.uid)


def not_ours_error(path: str, file: Attributes, side: str) -> SshTransferError:
    """Return the error for what a stranger made in a folder that strangers may write to."""
    mode, kind, hint = file.mode or 0, "a file", ""
    if stat.S_ISLNK(mode):
        kind = "a symbolic link"
    elif stat.S_ISDIR(mode):
        kind, hint = (
            "a folder",
            "; to use it all the same, write the target with a slash at its end",
        )
    owner = "an unknown user" if file.uid is None else f"uid {file.uid}"
    detail = (
        f"Permission denied: {kind} of {owner}, in a folder that other users may write to{hint}"
    )
    return transfer_error(errno.EACCES, path, detail, side=side)
