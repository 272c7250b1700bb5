"""A walk through a local tree that is copied from here."""

from __future__ import annotations

import os
from typing import Callable, Iterator, List, NamedTuple, Optional, Tuple

from ssh_service.copying import temporary
from ssh_service.copying.failures import leads_back, local_error, not_a_file
from ssh_service.copying.paths import is_within
from ssh_service.errors import SshTransferError

__all__ = ["Entry", "walk"]

# Folders in one another that are listed as the walk goes on, each of which holds a descriptor.
# Those further inside are listed as a whole when they are entered.
_OPEN_LEVELS = 16


class Entry(NamedTuple):
    """One step of a walk through a tree."""

    path: bytes
    name: bytes
    status: Optional[os.stat_result]  # of a folder, as it is entered; None for all else
    leaves: bool = False  # whether this is the end of a folder
    link: Optional[bytes] = None  # what a symbolic link says, where those are kept


class _Folder(NamedTuple):
    """A folder that the walk is in."""

    entry: Entry
    identity: Tuple[int, int]
    entries: Iterator["os.DirEntry[bytes]"]


def fail(error: SshTransferError) -> None:
    """Raise what is wrong with an entry."""
    raise error


def walk(
    root: bytes,
    status: os.stat_result,
    keeps_links: bool = False,
    on_failure: Callable[[SshTransferError], None] = fail,
) -> Iterator[Entry]:
    """
    Walk through a tree, in the order in which the system lists it.

    Unfinished files of copies are passed over.

    Parameters
    ----------
    root : bytes
        The folder; it is not itself among the entries.
    status : os.stat_result
        Its status.
    keeps_links : bool
        Whether symbolic links are entries of their own; else they are followed.
    on_failure : Callable[[SshTransferError], None]
        Called with what is wrong with an entry, which is passed over if this returns: one that
        is neither file nor folder, cannot be read, or leads back to a folder it lies in.

    Yields
    ------
    Entry
        A file; a link, if they are kept; a folder, as it is entered; a folder, as it is left.
    """
    inside = [_enter(Entry(root, b"", status), 0, on_failure)]
    try:
        while inside:
            folder = inside[-1]
            step = _next_step(inside, keeps_links, on_failure)
            if step is not None:
                yield step
                if step.status is not None:
                    inside.append(_enter(step, len(inside), on_failure))
                continue
            inside.pop()
            _close(folder)
            if inside:
                yield folder.entry._replace(leaves=True)
    finally:
        for folder in inside:
            _close(folder)


def _next_step(
    inside: List[_Folder], keeps_links: bool, on_failure: Callable[[SshTransferError], None]
) -> Optional[Entry]:
    """Give the next entry of the innermost folder; None at its end."""
    folder = inside[-1]
    while True:
        path = folder.entry.path
        try:
            for entry in folder.entries:
                path = entry.path
                if temporary.parse(entry.name) is None:  # else another copy's, unfinished
                    return _look_at(entry, inside, keeps_links)
            return None
        except SshTransferError as failure:
            on_failure(failure)
        except OSError as error:
            on_failure(local_error(error, path))
            if path == folder.entry.path:
                return None  # it can be listed no further


def _enter(entry: Entry, levels: int, on_failure: Callable[[SshTransferError], None]) -> _Folder:
    status = entry.status
    assert status is not None
    entries: Iterator["os.DirEntry[bytes]"] = iter(())
    try:
        entries = os.scandir(entry.path)
        if levels >= _OPEN_LEVELS:
            with entries:
                entries = iter(list(entries))
    except OSError as error:
        on_failure(local_error(error, entry.path))
    return _Folder(entry, (status.st_dev, status.st_ino), entries)


def _close(folder: _Folder) -> None:
    close = getattr(folder.entries, "close", None)
    if close is not None:
        close()


def _look_at(entry: "os.DirEntry[bytes]", inside: List[_Folder], keeps_links: bool) -> Entry:
    path, is_link = entry.path, entry.is_symlink()
    if is_link and keeps_links:
        return Entry(path, entry.name, None, link=os.readlink(path))
    if not entry.is_dir(follow_symlinks=is_link):
        # Told here, in order; and nothing but a file is ever opened.
        if not entry.is_file(follow_symlinks=is_link):
            raise not_a_file(path, entry.stat().st_mode, "local")
        return Entry(path, entry.name, None)
    status = entry.stat()
    if is_link:
        identity = (status.st_dev, status.st_ino)
        around = inside[-1].entry.path
        if any(folder.identity == identity for folder in inside) or _holds(path, around):
            raise leads_back(path, "local")
    return Entry(path, entry.name, status)


def _holds(link: bytes, folder: bytes) -> bool:
    """Tell whether a link leads to the folder it lies in, or to one around that."""
    return is_within(os.path.realpath(folder), os.path.realpath(link))
