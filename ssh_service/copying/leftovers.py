"""
The unfinished files of copies that died: found and removed on the server.
"""

from __future__ import annotations

from typing import Optional

from ssh_service.copying import temporary
from ssh_service.copying.failures import Refused
from ssh_service.copying.job import Job
from ssh_service.copying.remote_files import names_in

__all__ = ["sweep"]

# Entries of one folder that are looked at: a folder may be huge, and this must cost little.
_MOST_ENTRIES = 50_000
_MOST_FOLDERS = 10_000


async def sweep(job: Job, folder: bytes) -> None:
    """
    Remove what dead copies left in a folder of the server's, once per session and folder.

    Parameters
    ----------
    job : Job
        The copy that found the folder.
    folder : bytes
        Its path; empty for the folder the session began in.
    """
    folder = folder.rstrip(b"/") or (b"/" if folder else b".")
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
    remote = job.remote
    handle = await remote.open_folder(folder)
    now: Optional[int] = None
    seen = 0
    try:
        while seen < _MOST_ENTRIES:
            entries = names_in(await remote.ask_read_folder(handle), folder)
            if not entries:
                break
            seen += len(entries)
            for name, attributes in entries:
                if temporary.parse(name) is None:
                    continue
                if now is None:
                    now = await _server_time(job, folder)
                age = 0 if attributes.mtime is None else now - attributes.mtime
                if temporary.names.is_litter(name, age):
                    await _remove(job, folder + b"/" + name)
    finally:
        remote.ask_close(handle)


async def _remove(job: Job, path: bytes) -> None:
    try:
        await job.remote.remove(path)
    except Refused:
        pass  # one of ours that has got its name since it was listed; or it is not ours to remove


async def _server_time(job: Job, folder: bytes) -> int:
    # The server's clock, never ours: they may differ by days.  A folder's own time is never later
    # than now, so at worst a file seems younger than it is, and stays until the next run.
    return (await job.remote.stat(folder)).mtime or 0
