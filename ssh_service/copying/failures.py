"""The errors of copies, with the path and the errno."""

from __future__ import annotations

import errno
import os
import stat
from typing import Any, Optional, Union

from ssh_service import local_paths
from ssh_service.copying.ownership import owner_and_mode
from ssh_service.copying.paths import to_text
from ssh_service.copying.sftp import protocol
from ssh_service.copying.sftp.protocol import Attributes
from ssh_service.copying.sftp.session import SessionEnded
from ssh_service.copying.sftp.time_limits import Stalled, TimeLimits, TimeUp
from ssh_service.errors import (
    SshConnectionLost,
    SshServiceError,
    SshSessionRefused,
    SshTransferError,
    SshTransferTimeout,
    describe_transfer,
    name_connection,
    transfer_error,
)
from ssh_service.transport import printable

__all__ = [
    "NO_INODES",
    "Refused",
    "changed_during_copy_error",
    "copy_error",
    "dangling_link",
    "empty_source_error",
    "exchanged_error",
    "copy_into_itself_error",
    "symlink_loop_error",
    "local_error",
    "missing_folder",
    "not_a_folder",
    "not_a_file_error",
    "not_expanded",
    "checksum_mismatch_error",
    "display_path",
    "sticky_folder",
    "was_rewritten",
]

# The text for ENOSPC if there may be space for data.
NO_INODES = "No space left on device: the file system has no inode left for another file"
_HOME_NOT_EXPANDED = (
    "No such file or directory: a ~ is not expanded in a local path; os.path.expanduser does that"
)
_ERRNOS = {
    protocol.NO_SUCH_FILE: errno.ENOENT,
    protocol.PERMISSION_DENIED: errno.EACCES,
    protocol.BAD_MESSAGE: errno.EINVAL,
    protocol.OP_UNSUPPORTED: errno.EOPNOTSUPP,
}


class Refused(Exception):
    """
    The server refused a request: an SFTP status other than OK.

    Attributes
    ----------
    code : int
        The SFTP status code.
    text : str
        The server's message.
    path : bytes
        The path of the request.
    size : int
        The number of bytes to write; 0 for other requests.
    """

    size = 0

    def __init__(self, code: int, text: str, path: bytes) -> None:
        super().__init__(f"{printable(text) or 'status'} ({code}): {path!r}")
        self.code = code
        self.text = text
        self.path = path

    @property
    def errno(self) -> int:
        """The errno for the status code; EIO if there is no specific one."""
        return _ERRNOS.get(self.code, errno.EIO)

    def as_error(self, code: Optional[int] = None, detail: Optional[str] = None) -> OSError:
        """Return the error for the caller; `code` and `detail` override those of the status."""
        code = code or self.errno
        if detail is None and code == errno.EIO:
            words = f": {printable(self.text)}" if self.text else ""
            detail = f"the server failed (status {self.code}{words})"
        return transfer_error(code, display_path(self.path), detail, side="remote")


def display_path(path: Union[str, bytes]) -> str:
    """Return a path as text, with undecodable bytes as surrogates."""
    return to_text(path) if isinstance(path, bytes) else path


def local_error(error: OSError, path: Union[str, bytes]) -> SshTransferError:
    """Return the transfer error for an error of the local system."""
    text = _explain_local(error, os.fsencode(path)) or error.strerror
    return transfer_error(error.errno or errno.EIO, display_path(path), text, side="local")


def _explain_local(error: OSError, path: bytes) -> Optional[str]:
    """Return the reason why a path cannot be used, if it can be determined."""
    path = path.rstrip(b"/") or b"/"
    folder = os.path.dirname(path) or b"."
    try:
        if error.errno == errno.ENOSPC:
            return None if _has_inodes_left(path) else NO_INODES
        if error.errno == errno.ENOENT:
            if local_paths.is_link(path):
                return None if local_paths.exists(path) else dangling_link(os.readlink(path))
            if path.startswith(b"~"):
                return _HOME_NOT_EXPANDED
            missing = None if local_paths.exists(folder) else missing_folder(folder)
            return not_expanded(path) or missing
        if (
            error.errno == errno.ENOTDIR
            and local_paths.exists(folder)
            and not local_paths.is_folder(folder)
        ):
            return not_a_folder(folder)
        if error.errno in (errno.EACCES, errno.EPERM):
            entry, parent = os.lstat(path), os.stat(folder)
            return sticky_folder(owner_and_mode(entry), owner_and_mode(parent), os.geteuid())
    except (OSError, AttributeError):  # Windows has neither `statvfs` nor `geteuid`
        pass
    return None


def _has_inodes_left(path: bytes) -> bool:
    space = os.statvfs(os.path.dirname(os.path.abspath(path)))
    return bool(space.f_favail) or not space.f_files


def dangling_link(text: bytes) -> str:
    """Return the error text for a dangling link with the target `text`."""
    return (
        f"No such file or directory: it is a symbolic link to {display_path(text)!r}, which does"
        " not exist"
    )


def not_expanded(path: bytes) -> Optional[str]:
    """Return the error text for a missing path that is a pattern, otherwise None."""
    if any(character in path for character in b"*?["):
        return "No such file or directory: patterns are not expanded; name one file or folder"
    return None


def missing_folder(folder: bytes) -> str:
    """Return the error text for a path in a folder that does not exist."""
    return f"No such file or directory: the folder {display_path(folder)!r} does not exist"


def not_a_folder(path: bytes) -> str:
    """Return the error text for a path below something that is not a folder."""
    return f"Not a directory: {display_path(path)!r} is not a folder"


def sticky_folder(entry: Attributes, folder: Attributes, uid: Optional[int]) -> Optional[str]:
    """Return the error text for another user's file in a sticky folder; None for other files."""
    if not (folder.mode or 0) & stat.S_ISVTX or uid in (entry.uid, folder.uid):
        return None
    return (
        f"Permission denied: it belongs to uid {entry.uid}, and lies in a sticky folder, where"
        " only its owner may replace it"
    )


def not_a_file_error(path: bytes, mode: int, side: str) -> SshTransferError:
    """Return the error for something that is not a regular file."""
    if stat.S_ISDIR(mode):
        return transfer_error(errno.EISDIR, display_path(path), side=side)
    kinds = (
        (stat.S_ISFIFO, "a fifo"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a character device"),
        (stat.S_ISBLK, "a block device"),
        (stat.S_ISLNK, "a symbolic link"),
    )
    kind = next((text for test, text in kinds if test(mode)), "of an unknown kind")
    return transfer_error(
        errno.EINVAL, display_path(path), f"not a regular file but {kind}", side=side
    )


def changed_during_copy_error(path: bytes, side: str) -> SshTransferError:
    """Return the error for a file that changed during the copy."""
    return transfer_error(
        errno.EIO, display_path(path), "changed while it was being copied", side=side
    )


def copy_into_itself_error(path: bytes, side: str) -> SshTransferError:
    """Return the error for a folder in the source that is the target itself."""
    text = "a folder cannot be copied into itself: this is the target"
    return transfer_error(errno.EINVAL, display_path(path), text, side=side)


def empty_source_error(path: bytes, side: str) -> SshTransferError:
    """Return the error for a source without entries, such as a disk that is not mounted."""
    text = (
        "is empty, or all of it is excluded, so that delete=True would delete the whole target;"
        " delete='even-if-empty' allows that"
    )
    return transfer_error(errno.EINVAL, display_path(path), text, side=side)


def exchanged_error(path: bytes) -> SshTransferError:
    """Return the error for a file that another user may have replaced after it was checked."""
    text = (
        "Permission denied: replaced while it was being opened, in a folder that other users may"
        " write to"
    )
    return transfer_error(errno.EACCES, display_path(path), text, side="remote")


def was_rewritten(size: int, time: int, size_now: int, time_now: int) -> bool:
    """
    Return whether a file seems to have been overwritten or truncated.

    Appending changes the time as well, so while a file grows nothing else can be detected.
    """
    return size_now < size or (size_now == size and time_now != time)


def symlink_loop_error(path: bytes, side: str) -> SshTransferError:
    """Return the error for a link that would make a tree endless."""
    text = "a symbolic link to a folder that contains it"
    return transfer_error(errno.ELOOP, display_path(path), text, side=side)


def checksum_mismatch_error(path: bytes) -> SshTransferError:
    """Return the error for a copy that differs from its source."""
    return transfer_error(
        errno.EIO,
        display_path(path),
        "the copy differs from the source (verify=True)",
        side="remote",
    )


def copy_error(
    error: Exception, path: str, connection_id: str, limits: TimeLimits, phase: str = "copy"
) -> Exception:
    """
    Return the error for the caller of a copy, or another use of a file, that `error` has ended.

    This is `error` itself if it needs no translation.
    """
    where = {"connection_id": connection_id, "phase": phase}
    if isinstance(error, Refused):
        error = error.as_error()
    if isinstance(error, (Stalled, TimeUp)):
        text = _time_limit_reached(error, limits)
        error = describe_transfer(SshTransferTimeout, errno.ETIMEDOUT, path, text, "remote")
    elif isinstance(error, (SessionEnded, protocol.ProtocolError)):
        error = _session_error(error, path, where)
    if isinstance(error, SshTransferError):
        error.phase = phase
        return name_connection(error, connection_id)
    return error


def _time_limit_reached(error: Exception, limits: TimeLimits) -> str:
    if isinstance(error, Stalled):
        return f"no progress for {limits.stall_timeout or 0:g} s (stall_timeout)"
    return (
        f"not complete within {limits.timeout or 0:g} s, the timeout of the whole copy"
        " (stall_timeout limits the time without progress instead)"
    )


def _session_error(error: Exception, path: str, where: Any) -> SshServiceError:
    reason = error.reason if isinstance(error, SessionEnded) else error
    if isinstance(reason, SshConnectionLost):
        doing = "copying" if where["phase"] == "copy" else "using"
        lost = SshConnectionLost(
            f"{reason} (while {doing} {path!r})", reason=reason.reason, **where
        )
        lost.sent = reason.sent
        return lost
    if isinstance(reason, SshSessionRefused):
        do = "copy" if where["phase"] == "copy" else "use"
        return SshSessionRefused(f"{reason} (to {do} {path!r})", code=reason.code, **where)
    if isinstance(reason, protocol.ProtocolError):
        text = f"the server broke the SFTP protocol: {reason}"
        return transfer_error(
            errno.EPROTO, path, text, side="remote", connection_id=where["connection_id"]
        )
    text = "the server ended the SFTP session"
    if reason is not None:
        text = str(reason) or f"the SFTP session was broken off: {type(reason).__name__}"
    return transfer_error(
        errno.EPIPE, path, text, side="remote", connection_id=where["connection_id"]
    )
