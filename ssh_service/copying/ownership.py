"""
Rules for both sides of a copy: which files are ours, and which folders only our user can change.

They are checked before an unfinished file is removed or resumed, a target is replaced, or a link
is followed.  They are the rules of Linux's fs.protected_symlinks and fs.protected_regular, and
apply whether or not these are set.
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
    "may_delete",
    "may_use",
    "not_ours_error",
]


def owner_and_mode(status: os.stat_result) -> Attributes:
    """Return a local file's size, owner and mode, in the form in which a server reports them."""
    return Attributes(status.st_size, status.st_uid, status.st_gid, status.st_mode)


def is_shared(folder: Attributes) -> bool:
    """Return whether other users may create files in a folder: it is sticky, or world-writable."""
    return bool((folder.mode or 0) & (stat.S_ISVTX | stat.S_IWOTH))


def is_guarded(folder: Attributes, uid: int) -> bool:
    """Return whether only this user (and root) can rename or remove this user's files in it."""
    mode = folder.mode
    if mode is None or not stat.S_ISDIR(mode) or folder.uid not in (0, uid):
        return False
    if mode & stat.S_ISVTX:
        return True
    # By convention, a group with the same number as the user has no other members.
    private_group = folder.gid == uid
    return not mode & stat.S_IWOTH and (private_group or not mode & stat.S_IWGRP)


def is_our_file(file: Attributes, uid: int, links: Optional[int] = None) -> bool:
    """Return whether it is a regular file of this user, with a single link if `links` is known."""
    return file.uid == uid and stat.S_ISREG(file.mode or 0) and links in (None, 1)


def is_our_stale_file(file: Attributes, uid: int, links: Optional[int] = None) -> bool:
    """Return whether a file is ours as in `is_our_file`, or a symbolic link of ours."""
    is_our_link = file.uid == uid and stat.S_ISLNK(file.mode or 0)
    return is_our_link or is_our_file(file, uid, links)


def may_delete(file: Attributes, uid: int) -> bool:
    """Return whether ``delete=True`` may delete a file, link or folder; `uid` is ours."""
    return file.uid == uid


def may_use(file: Attributes, folder: Attributes, uid: Optional[int]) -> bool:
    """Return whether a file may be replaced, or a link followed; `uid` is None if unknown."""
    if not is_shared(folder):
        return True
    return file.uid is not None and file.uid in (uid, folder.uid)


def not_ours_error(path: str, file: Attributes, side: str) -> SshTransferError:
    """Return the error for another user's file in a folder that others may write to."""
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
