"""Whether a tree is copied into itself, as far as its upload can see: servers may be local."""

from __future__ import annotations

import os
import time
from typing import Optional

from ssh_service.copying import temporary
from ssh_service.copying.context import Job
from ssh_service.copying.failures import Refused, into_itself
from ssh_service.copying.paths import folder_of, is_within, join
from ssh_service.copying.remote_owner import NEW_FILE, PRIVATE

__all__ = ["OwnTarget"]

# Seconds by which the clocks of files may be behind.
_INACCURACY = 2.0


class OwnTarget:
    """
    Recognises the target of an upload in its source.

    Folders that this copy makes have changed since it began.  Where the walk through the source
    meets one that has, a file is made in the target, and looked for around that folder.

    Parameters
    ----------
    job : Job
        The copy.
    source : bytes
        The local folder.
    target : bytes
        The remote folder.
    """

    def __init__(self, job: Job, source: bytes, target: bytes) -> None:
        self._job = job
        self._source = source.rstrip(b"/") or b"/"
        self._target = target
        self._since = time.time() - _INACCURACY
        self._name: Optional[bytes] = None
        self._is_made = False
        self._clear = b""  # a folder that is not in the target, nor is any around it

    async def check(self, path: bytes, status: os.stat_result) -> None:
        """
        Refuse a folder that lies in the target, or is it.

        Parameters
        ----------
        path : bytes
            A folder in the source.
        status : os.stat_result
            Its status.
        """
        if status.st_ctime < self._since:
            return
        if self._name is None:
            await self._make_file()
        if self._name is None or not self._is_made:
            return
        around = path
        while not is_within(self._clear, around):
            if os.path.lexists(join(around, self._name)):
                raise into_itself(around, "local")
            if len(around) <= len(self._source):
                break
            around = folder_of(around)
        self._clear = path

    async def _make_file(self) -> None:
        self._name = temporary.names.new(b"")
        try:
            path = join(self._target, self._name)
            handle = await self._job.remote.open(path, NEW_FILE, PRIVATE)
            self._is_made = True
            self._job.owner.learn(handle, PRIVATE)
            self._job.remote.ask_close(handle)
        except Refused:
            pass  # nothing is made in there, or what is wrong is found out soon

    async def end(self) -> None:
        """Remove the file."""
        if self._name is not None and self._is_made:
            self._is_made = False
            try:
                await self._job.remote.remove(join(self._target, self._name))
            except Refused:
                pass  # litter now

    def release(self) -> None:
        """Leave the file, if it is still there, to the next copy."""
        if self._name is not None:
            temporary.names.release(self._name)
