"""The unfinished files of copies that died: found and removed on the server."""

from __future__ import annotations

import math
from typing import Callable, List, Optional

from ssh_service.copying import temporary
from ssh_service.copying.failures import Refused
from ssh_service.copying.job import Job
from ssh_service.copying.paths import beside, folder_of, join, last_name
from ssh_service.copying.remote_files import is_folder, names_in
from ssh_service.copying.sftp.protocol import Name

__all__ = ["claim_leftover", "remove_tree", "sweep"]

# Entries of one folder that are looked at: a folder may be huge, and this must cost little.
_MOST_ENTRIES = 50_000
_MOST_FOLDERS = 10_000
# How deep an unfinished tree is removed.
_MOST_LEVELS = 128


async def sweep(job: Job, folder: bytes) -> None:
    """
    Remove what dead copies left in a folder of the server's, once per session and folder.

    Parameters
    ----------
    job : Job
        The copy that found the folder.
    folder : bytes
        Its path.
    """
    swept = job.remote.facts.setdefault("swept folders", set())
    if folder in swept or len(swept) >= _MOST_FOLDERS:
        return
    swept.add(folder)
    await job.folders.take()
    try:
        await _sweep(job, folder)
    except Refused:
        pass  # nothing the copy depends on: if it does, it finds out itself
    finally:
        job.folders.give()


async def _sweep(job: Job, folder: bytes) -> None:
    now: Optional[int] = None
    for name, attributes in await _unfinished(job, folder):
        if now is None:
            now = await _server_time(job, folder)
        age = 0 if attributes.mtime is None else now - attributes.mtime
        if is_folder(attributes):  # never gone on with
            if temporary.names.is_litter(name, age):
                await remove_tree(job, join(folder, name))
        elif temporary.names.is_litter(name, age, job.options.resume):
            await _remove(job, join(folder, name))


async def _unfinished(job: Job, folder: bytes) -> List[Name]:
    """List the unfinished files in a folder."""
    return await _list(
        job,
        folder,
        lambda entry: temporary.parse(entry.filename) is not None,
        _MOST_ENTRIES,
    )


async def _list(
    job: Job, folder: bytes, which: Callable[[Name], bool], most: float = math.inf
) -> List[Name]:
    """List those entries of a folder, of the first ones that come, which the caller wants."""
    handle = await job.remote.open_folder(folder)
    found: List[Name] = []
    seen = 0
    try:
        while seen < most:
            entries = names_in(await job.remote.ask_read_folder(handle), folder)
            if not entries:
                break
            seen += len(entries)
            found += filter(which, entries)
    finally:
        job.remote.ask_close(handle)
    return found


async def claim_leftover(job: Job, target: bytes, path: bytes, most: int) -> Optional[int]:
    """
    Take over what an earlier, interrupted copy to the same target left, by renaming it.

    Parameters
    ----------
    job : Job
        The copy.
    target : bytes
        What the unfinished file was to become.
    path : bytes
        What it is called from now on.
    most : int
        The size of the source: what is larger is no part of it.

    Returns
    -------
    Optional[int]
        Its size; None if there is none.
    """
    name = last_name(target)
    best: Optional[Name] = None
    try:
        for entry in await _unfinished(job, folder_of(target)):
            size = entry.attributes.size or 0
            if size > most or not temporary.names.is_left_of(entry.filename, name):
                continue
            if best is None or size > (best.attributes.size or 0):
                best = entry
    except Refused:
        return None
    if best is None:
        return None
    try:
        await job.remote.rename(beside(target, best.filename), path)
    except Refused:
        return None  # somebody else was faster
    return best.attributes.size or 0


async def remove_tree(job: Job, folder: bytes, levels: int = 0) -> None:
    """Remove a folder that an upload has not finished, and all in it; what cannot be, stays."""
    try:
        removing = []
        for name, attributes in await _list(job, folder, _is_inside):
            path = join(folder, name)
            if is_folder(attributes):
                if levels < _MOST_LEVELS:
                    await remove_tree(job, path, levels + 1)
            else:
                removing.append(job.remote.ask_remove(path))
        for reply in removing:
            await reply
        await job.remote.remove_folder(folder)
    except Refused:
        pass  # it is not there, or not ours to remove


def _is_inside(entry: Name) -> bool:
    return entry.filename not in (b".", b"..") and b"/" not in entry.filename


async def _remove(job: Job, path: bytes) -> None:
    try:
        await job.remote.remove(path)
    except Refused:
        pass  # one of ours that has got its name since it was listed; or it is not ours to remove


async def _server_time(job: Job, folder: bytes) -> int:
    # The server's clock, never ours: they may differ by days.  A folder's own time is never later
    # than now, so at worst a file seems younger than it is, and stays until the next run.
    return (await job.remote.stat(folder)).mtime or 0
