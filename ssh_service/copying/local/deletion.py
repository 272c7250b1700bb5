"""
Deletes what only the local target of a download has.

Everything is opened relative to the open root, step by step, and no link is followed; so nothing
outside the target is ever deleted, whatever another user exchanges in it.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from typing import Callable, Iterator, List, Tuple

from ssh_service.copying.deletions import (
    CHANGED,
    Deletions,
    Doomed,
    TargetEntry,
    link_of_another_user,
)
from ssh_service.copying.failures import display_path, local_error
from ssh_service.copying.local.source_tree import SourceTree
from ssh_service.copying.local.system import HAS_MODES, files
from ssh_service.copying.local.target_folder import TargetFolder, parts_below
from ssh_service.copying.ownership import owner_and_mode
from ssh_service.copying.path_walk import PathWalk
from ssh_service.copying.paths import is_within, join, real_path
from ssh_service.errors import SshTransferError, transfer_error

if sys.platform != "win32":
    import pwd

__all__ = ["check_deletion_target", "delete_doomed", "examine_target"]


def check_deletion_target(root: TargetFolder) -> None:
    """
    Refuse the root directory, folders around the home directory, and where others' links lead.

    Raises
    ------
    SshTransferError
        The target is such a folder.
    """
    real = root.root or b"/"
    is_top = os.path.dirname(real) == real
    if is_top or any(is_within(real_path(home), real) for home in _homes()):
        why = "this is the root directory" if is_top else "the home directory lies in it"
        raise _refusal(root, why)
    try:
        why = _why_misled(root) if HAS_MODES else ""
    except OSError as error:
        raise local_error(error, root.path) from error
    if why:
        raise _refusal(root, why)


def _why_misled(root: TargetFolder) -> str:
    """Return why a link on the way to the target may lead elsewhere; an empty text if none may."""
    path = root.path if root.path.startswith(b"/") else join(os.getcwdb(), root.path)
    walk = PathWalk(path)
    while True:
        entry = walk.next_entry()
        if entry is None:
            return "" if os.path.samestat(os.lstat(walk.real), files.fstat(root.fd)) else CHANGED
        status = os.lstat(entry)
        if not stat.S_ISLNK(status.st_mode):
            walk.enter(entry)
        elif status.st_uid not in (0, files.geteuid()):
            return link_of_another_user(display_path(entry), status.st_uid)
        else:
            walk.follow(files.readlink(entry))


def _refusal(root: TargetFolder, why: str) -> SshTransferError:
    text = f"Operation not permitted: delete=True is refused for this folder: {why}"
    return transfer_error(errno.EPERM, display_path(root.path), text, side="local")


def _homes() -> List[bytes]:
    """Return the home directory, also that of the user's entry if HOME names another one."""
    homes = [os.path.expanduser("~")]
    if sys.platform != "win32":
        try:
            homes.append(pwd.getpwuid(os.geteuid()).pw_dir)
        except KeyError:
            pass  # the user has no entry
    return [os.fsencode(home) for home in homes if home]


def examine_target(root: TargetFolder, deletions: Deletions, on_step: Callable[[], None]) -> None:
    """
    Decide about all entries of a target.

    Parameters
    ----------
    root : TargetFolder
        The open root.
    deletions : Deletions
        Makes the decisions.
    on_step : Callable[[], None]
        Called for each folder; if it raises, nothing is deleted.

    Raises
    ------
    SshTransferError
        A folder cannot be listed.
    """
    tree = SourceTree(root.path, root.fd)
    try:
        _examine_folders(tree, root, deletions, on_step)
    finally:
        tree.close()
    _protect_targets_of_links(root.root or b"/", deletions)


# Functions of their own, as Ctrl-C where such a loop turns would skip `finally` in Python 3.13.
def _examine_folders(
    tree: SourceTree, root: TargetFolder, deletions: Deletions, on_step: Callable[[], None]
) -> None:
    device = files.fstat(root.fd).st_dev
    to_examine = [b""]
    while to_examine:
        on_step()
        folder = to_examine.pop()
        entries = _list(tree, root.path, folder)
        to_examine += deletions.examine(folder, entries, device=device)


def _protect_targets_of_links(root: bytes, deletions: Deletions) -> None:
    for link in deletions.links:
        parts = parts_below(root, join(root, link))
        if parts is not None:
            deletions.protect(b"/".join(parts))


def _list(tree: SourceTree, root: bytes, folder: bytes) -> List[TargetEntry]:
    path = join(root, folder) if folder else root
    try:
        descriptor = tree.open_folder(path)
        try:
            return list(_entries(descriptor.fd))
        finally:
            descriptor.close()
    except OSError as error:
        raise local_error(error, path) from error


def _entries(fd: int) -> Iterator[TargetEntry]:
    with files.scandir(fd) as entries:
        for entry in entries:
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            name = os.fsencode(entry.name)
            yield name, owner_and_mode(status), (status.st_dev, status.st_ino)


def delete_doomed(
    root: TargetFolder, doomed: List[Doomed], on_step: Callable[[], None]
) -> List[SshTransferError]:
    """
    Delete entries of a target, and return the errors of those that cannot be deleted.

    Parameters
    ----------
    root : TargetFolder
        The open root.
    doomed : List[Doomed]
        The entries, each folder after its entries.
    on_step : Callable[[], None]
        Called for each entry; if it raises, the rest stays.
    """
    failures: List[SshTransferError] = []
    tree = SourceTree(root.path, root.fd)
    try:
        _make_writable(tree, root.path, doomed)
        for entry in doomed:
            on_step()
            path = join(root.path, entry.path)
            try:
                _delete(tree, path, entry)
            except FileNotFoundError:
                pass  # already gone
            except OSError as error:
                failures.append(local_error(error, path))
    finally:
        tree.close()
    return failures


def _make_writable(tree: SourceTree, root: bytes, doomed: List[Doomed]) -> None:
    if not files.geteuid():
        return
    for entry in reversed(doomed):
        mode = entry.attributes.mode or 0
        if entry.is_folder and mode & stat.S_IRWXU != stat.S_IRWXU:
            try:
                descriptor = tree.open_folder(join(root, entry.path))
                if _identity(files.fstat(descriptor.fd)) == entry.identity:
                    files.fchmod(descriptor.fd, stat.S_IMODE(mode) | stat.S_IRWXU)
                descriptor.close()
            except OSError:
                pass  # if this matters, the deletion fails


def _delete(tree: SourceTree, path: bytes, entry: Doomed) -> None:
    name, fd = tree.locate(path)
    if _identity(files.stat(name, dir_fd=fd, follow_symlinks=False)) != entry.identity:
        return  # exchanged since it was examined
    if entry.is_folder:
        files.rmdir(name, dir_fd=fd)
    else:
        files.unlink(name, dir_fd=fd)


def _identity(status: os.stat_result) -> Tuple[int, int]:
    return status.st_dev, status.st_ino
