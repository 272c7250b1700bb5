"""A walk through a local tree that is copied from here."""

from __future__ import annotations

import os
from typing import Iterator, List, NamedTuple, Optional, Tuple

from ssh_service.copying import temporary
from ssh_service.copying.failures import leads_back, local_error, not_a_file
from ssh_service.copying.paths import is_within
from ssh_service.errors import SshTransferError

__all__ = ["Entry", "walk"]


class Entry(NamedTuple):
    """One step of a walk through a tree."""

    path: bytes
    name: bytes
    status: Optional[os.stat_result]  # of a folder, as it is entered; None for a file
    leaves: bool = False  # whether this is the end of a folder


def walk(root: bytes, status: os.stat_result) -> Iterator[Entry]:
    """
    Walk through a tree, in the order in which the system lists it, following symbolic links.

    Unfinished files of copies are passed over.

    Parameters
    ----------
    root : bytes
        The folder; it is not itself among the entries.
    status : os.stat_result
        Its status.

    Yields
    ------
    Entry
        A file; a folder, as it is entered; a folder, as it is left.

    Raises
    ------
    SshTransferError
        An entry cannot be followed, or leads back to a folder it lies in; names the entry.
    """
    return _walk(root, [(status.st_dev, status.st_ino)])


def _walk(folder: bytes, parents: List[Tuple[int, int]]) -> Iterator[Entry]:
    path = folder
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                path = entry.path
                if temporary.parse(entry.name) is not None:
                    continue  # another copy is writing it, or has left it
                followed = entry.is_symlink()
                if not entry.is_dir(follow_symlinks=followed):
                    # Told here, in order; and nothing but a file is ever opened.
                    if not entry.is_file(follow_symlinks=followed):
                        raise not_a_file(path, entry.stat().st_mode)
                    yield Entry(path, entry.name, None)
                    continue
                status = entry.stat()
                identity = (status.st_dev, status.st_ino)
                if followed and (identity in parents or _holds(path, folder)):
                    raise leads_back(path)
                yield Entry(path, entry.name, status)
                parents.append(identity)
                yield from _walk(path, parents)
                parents.pop()
                yield Entry(path, entry.name, status, leaves=True)
    except SshTransferError:
        raise
    except OSError as error:
        raise local_error(error, path) from error


def _holds(link: bytes, folder: bytes) -> bool:
    """Tell whether a link leads to the folder it lies in, or to one around that."""
    return is_within(os.path.realpath(folder), os.path.realpath(link))
