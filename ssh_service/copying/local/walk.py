"""Walks through a local tree for an upload."""

from __future__ import annotations

import os
from typing import (
    Any,
    Callable,
    ContextManager,
    Generator,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Tuple,
    Union,
)

from ssh_service.copying import temporary
from ssh_service.copying.exclusions import Excludes
from ssh_service.copying.failures import local_error, not_a_file_error, symlink_loop_error
from ssh_service.copying.local.descriptors import Descriptor
from ssh_service.copying.local.source_tree import SourceTree
from ssh_service.copying.local.system import files
from ssh_service.copying.paths import is_within, real_path
from ssh_service.errors import SshTransferError
from ssh_service.interruptions import is_interruption

__all__ = ["Entry", "walk"]

# The number of nested folders that are listed lazily, each of which holds descriptors.  Folders
# inside these are listed completely when they are entered.
_OPEN_LEVELS = 16


class Entry(NamedTuple):
    """One step of a walk through a tree."""

    path: bytes
    name: bytes
    status: Optional[os.stat_result]  # the status of a folder; None for all others
    is_folder_end: bool = False  # whether the walk leaves the folder
    link: Optional[bytes] = None  # the target of a symbolic link that is kept


_ListedEntry = Union[Entry, SshTransferError]
_Identity = Tuple[int, int]


class _Rules(NamedTuple):
    """The rules for the entries of a tree; `prefix` is the path of its root, with a slash."""

    prefix: bytes
    tree: Optional[SourceTree]
    excludes: Optional[Excludes]

    def is_left_out(self, path: bytes, entry: "os.DirEntry[Any]", excludes: Excludes) -> bool:
        is_folder = entry.is_dir(follow_symlinks=self.tree is None)
        return excludes(path[len(self.prefix) :], is_folder)


class _Folder(NamedTuple):
    """A folder that the walk is in."""

    entry: Entry
    identity: _Identity
    listing: Generator[_ListedEntry, None, None]
    found: Iterator[_ListedEntry]


def fail(error: SshTransferError) -> None:
    """Raise the error."""
    raise error


def walk(
    root: bytes,
    status: os.stat_result,
    tree: Optional[SourceTree] = None,
    on_failure: Callable[[SshTransferError], None] = fail,
    excludes: Optional[Excludes] = None,
) -> Iterator[Entry]:
    """
    Yield the entries of a tree, in the order in which the system lists them.

    A folder is yielded twice, when it is entered and when it is left; the root is not yielded.
    Unfinished files of copies are skipped.

    Parameters
    ----------
    root : bytes
        The folder.
    status : os.stat_result
        Its status.
    tree : Optional[SourceTree]
        The tree, if symbolic links are kept as entries; None: they are followed.
    on_failure : Callable[[SshTransferError], None]
        Called with the error for an entry that is neither a file nor a folder, cannot be read, or
        leads back to one of its parents; if it returns, the entry is skipped.
    excludes : Optional[Callable[[bytes, bool], bool]]
        Called with the path of each entry from the root, and whether it is a folder; if it returns
        True, the entry is skipped with all that it contains.
    """
    rules = _Rules(_with_slash(root), tree, excludes)
    ancestors: List[_Folder] = []
    try:
        _enter(Entry(root, b"", status), status, ancestors, rules)
        yield from _walk_on(ancestors, rules, on_failure)
    finally:
        for folder in ancestors:
            folder.listing.close()


def _walk_on(
    ancestors: List[_Folder],
    rules: _Rules,
    on_failure: Callable[[SshTransferError], None],
) -> Iterator[Entry]:
    while ancestors:
        folder = ancestors[-1]
        step = next(folder.found, None)
        if isinstance(step, Entry):
            yield step
            if step.status is not None:
                _enter(step, step.status, ancestors, rules)
        elif step is not None:
            on_failure(step)
        else:
            ancestors.pop()
            if ancestors:
                yield folder.entry._replace(is_folder_end=True)


def _enter(entry: Entry, status: os.stat_result, ancestors: List[_Folder], rules: _Rules) -> None:
    identity = (status.st_dev, status.st_ino)
    listing = _list(entry.path, [*(folder.identity for folder in ancestors), identity], rules)
    found = iter(list(listing)) if len(ancestors) >= _OPEN_LEVELS else listing
    ancestors.append(_Folder(entry, identity, listing, found))


def _list(
    path: bytes, ancestors: List[_Identity], rules: _Rules
) -> Generator[_ListedEntry, None, None]:
    """Yield the entries of a folder, and the errors of those that cannot be copied."""
    prefix, tree, excludes = _with_slash(path), rules.tree, rules.excludes
    descriptor = Descriptor()
    try:
        if tree is not None:
            descriptor = tree.open_folder(path)
        with _scan(path if tree is None else descriptor.fd) as entries:
            for entry in entries:
                name = entry.name if tree is None else os.fsencode(entry.name)
                if temporary.parse(name) is not None:
                    continue  # an unfinished file of another copy
                try:
                    if excludes is not None and rules.is_left_out(prefix + name, entry, excludes):
                        continue
                    yield _make_entry(entry, prefix + name, name, ancestors, descriptor)
                except SshTransferError as failure:
                    yield failure
                except OSError as error:
                    yield _failure(error, prefix + name)
    except OSError as error:
        yield _failure(error, path)  # the rest cannot be listed
    finally:
        descriptor.close()


def _with_slash(path: bytes) -> bytes:
    return path if path.endswith(b"/") else path + b"/"


def _failure(error: OSError, path: bytes) -> SshTransferError:
    if is_interruption(error):  # a signal handler's, such as TimeoutError
        raise error
    return local_error(error, path)


def _scan(folder: Any) -> ContextManager[Iterator["os.DirEntry[Any]"]]:
    return files.scandir(folder)


def _make_entry(
    entry: "os.DirEntry[Any]",
    path: bytes,
    name: bytes,
    ancestors: List[_Identity],
    folder: Descriptor,
) -> Entry:
    is_link = entry.is_symlink()
    if is_link and folder.fd >= 0:
        return Entry(path, name, None, link=files.readlink(name, dir_fd=folder.fd))
    if not entry.is_dir(follow_symlinks=is_link):
        # Reported in order; only regular files are ever opened.
        if not entry.is_file(follow_symlinks=is_link):
            raise not_a_file_error(path, entry.stat(follow_symlinks=is_link).st_mode, "local")
        return Entry(path, name, None)
    status = entry.stat(follow_symlinks=is_link)
    if is_link and ((status.st_dev, status.st_ino) in ancestors or _leads_back(path)):
        raise symlink_loop_error(path, "local")
    return Entry(path, name, status)


def _leads_back(link: bytes) -> bool:
    """Return whether a link leads to the folder that contains it, or to a parent of that."""
    return is_within(real_path(os.path.dirname(link)), real_path(link))
