"""Finds the names of a file's owner and group, which SFTP reports only in lines for people."""

from __future__ import annotations

import errno
import os
from typing import List, NamedTuple, Optional

from ssh_service.copying.context import CopyContext
from ssh_service.copying.failures import Refused, display_path
from ssh_service.copying.paths import basename, folder_of, to_text
from ssh_service.copying.replies import is_folder
from ssh_service.copying.sftp.protocol import FolderEntry
from ssh_service.errors import transfer_error
from ssh_service.paths.listing import list_folder

__all__ = ["Owners", "find_owners"]

# The words of a line like `ls -l` prints, without the name: mode, links, owner, group, size and
# three of the date.
_WORDS_BEFORE_NAME = 8


class Owners(NamedTuple):
    """The owner and the group of a file; numbers in digits if the server knows no names."""

    user: str
    group: str


async def find_owners(context: CopyContext, path: bytes) -> Owners:
    """Return the owner and group of a file, following links."""
    remote = context.remote
    found = await remote.stat(path)
    real = await remote.real_path(path)
    entry: Optional[FolderEntry] = None
    if is_folder(found):  # lists itself, even if the folder that contains it cannot be listed
        try:
            entry = _entry(
                await list_folder(context, real, with_dots=True, allow_partial=True), b"."
            )
        except Refused:
            pass
    if entry is None:
        entry = _entry(
            await list_folder(context, folder_of(real), allow_partial=True), basename(real)
        )
    owners = None if entry is None else _parse(entry)
    if owners is None:
        text = f"{os.strerror(errno.EOPNOTSUPP)}: the server lists no names of owners; stat() has"
        text += " their numbers"
        raise transfer_error(errno.EOPNOTSUPP, display_path(path), text, side="remote")
    return owners


def _entry(entries: List[FolderEntry], name: bytes) -> Optional[FolderEntry]:
    return next((entry for entry in entries if entry.filename == name), None)


def _parse(entry: FolderEntry) -> Optional[Owners]:
    line, name = entry.longname, entry.filename
    words = line[: -len(name)].split() if line.endswith(name) else []
    if len(words) != _WORDS_BEFORE_NAME or not words[1].isdigit():
        return None
    return Owners(to_text(words[2]), to_text(words[3]))
