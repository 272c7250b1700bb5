"""Creates a symbolic link for a download."""

from __future__ import annotations

import errno
import os
import stat

from ssh_service.copying import temporary
from ssh_service.copying.failures import display_path, local_error
from ssh_service.copying.local.system import files
from ssh_service.copying.local.target_folder import TargetFolder, check_target
from ssh_service.copying.ownership import owner_and_mode
from ssh_service.errors import transfer_error

__all__ = ["make_link"]


def make_link(folder: TargetFolder, name: bytes, text: bytes) -> None:
    """
    Create a symbolic link with the target `text`; replace any entry in its place except a folder.

    The target may be any text, as nothing is ever written through the link: see `TargetTree`.

    Raises
    ------
    SshTransferError
        The link cannot be created.
    """
    path = os.path.join(folder.path, name)
    if not text or b"\0" in text:
        raise transfer_error(
            errno.EPROTO,
            display_path(path),
            "the server sent an invalid link target",
            side="local",
        )
    unfinished = temporary.names.new(name)
    try:
        try:
            files.symlink(text, name, dir_fd=folder.fd)
            return
        except FileExistsError:
            pass
        found = files.stat(name, dir_fd=folder.fd, follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        check_target(path, owner_and_mode(found), folder.attributes)
        if stat.S_ISLNK(found.st_mode) and files.readlink(name, dir_fd=folder.fd) == text:
            return
        files.symlink(text, unfinished, dir_fd=folder.fd)
        try:
            files.rename(unfinished, name, src_dir_fd=folder.fd, dst_dir_fd=folder.fd)
        except BaseException:
            files.unlink(unfinished, dir_fd=folder.fd)
            raise
    except OSError as error:
        raise local_error(error, path) from error
    finally:
        temporary.names.release(unfinished)
