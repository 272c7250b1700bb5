"""
Reads the entries of a server's folder, and notices if the server leaves some of them out.

OpenSSH's server omits each entry whose attributes it cannot read, without an error.
"""

from __future__ import annotations

from collections import deque
from typing import Deque, List

from ssh_service.copying.failures import Refused
from ssh_service.copying.paths import MAX_LISTED_PATH_LENGTH, join
from ssh_service.copying.remote_files import RemoteFiles
from ssh_service.copying.replies import parse_attributes, parse_names
from ssh_service.copying.sftp import protocol
from ssh_service.copying.sftp.protocol import FolderEntry
from ssh_service.copying.sftp.reply import Reply

__all__ = ["FolderReader"]


class FolderReader:
    """
    The listing of one open folder.

    Parameters
    ----------
    remote : RemoteFiles
        The server's files.
    handle : bytes
        The handle of the folder.
    path : bytes
        The path that it was opened with.
    read_ahead : int
        The number of concurrent requests; it may be changed between two calls of `read`.
    allow_partial : bool
        Whether the caller needs only what it can find, such as before a removal.
    allow_long : bool
        Whether the path may be so long that the server may leave out entries.
    """

    def __init__(
        self,
        remote: RemoteFiles,
        handle: bytes,
        path: bytes,
        read_ahead: int = 1,
        allow_partial: bool = False,
        allow_long: bool = False,
    ) -> None:
        self.read_ahead = read_ahead
        self._remote = remote
        self._handle = handle
        self._path = path
        self._replies: Deque[Reply] = deque()
        self._must_check = not allow_partial
        self._allow_long = allow_long
        self._is_empty = True

    async def read(self) -> List[FolderEntry]:
        """
        Return more entries, or an empty list at the end.

        Raises
        ------
        Refused
            The server cannot read the folder, or is known to leave out entries.
        """
        while len(self._replies) < self.read_ahead:
            self._replies.append(self._remote.ask_read_folder(self._handle))
        entries = parse_names(await self._replies.popleft(), self._path)
        if entries:
            self._is_empty = False
        elif self._must_check:
            await self._check_end()
        return entries

    async def _check_end(self) -> None:
        if not self._allow_long and len(self._path) > MAX_LISTED_PATH_LENGTH:
            raise Refused(protocol.BAD_MESSAGE, "", self._path)
        if not self._is_empty:
            return
        # Most servers list "." even then, so this costs no round trip in most cases.  If a folder
        # may be read but not entered, OpenSSH's can examine no entry, and "." neither.
        try:
            parse_attributes(await self._remote.ask_lstat(join(self._path, b".")), self._path)
        except Refused as refused:
            if refused.code == protocol.OP_UNSUPPORTED:
                return
            if refused.code == protocol.NO_SUCH_FILE:
                # Perhaps a server whose paths are only names, to which "." is one as well.
                await self._remote.lstat(self._path)
                return
            raise
