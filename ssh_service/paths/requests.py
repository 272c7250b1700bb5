"""What is done with single files and folders of a server."""

from __future__ import annotations

import errno
import time
from typing import List, Optional

from ssh_service.copying.context import CopyContext
from ssh_service.copying.failures import Refused, display_path
from ssh_service.copying.folder_reader import FolderReader
from ssh_service.copying.paths import basename, folder_of, join
from ssh_service.copying.replacing import replace_link
from ssh_service.copying.replies import (
    check_status,
    is_folder,
    is_link,
    parse_attributes,
    parse_path,
)
from ssh_service.copying.sftp import protocol
from ssh_service.copying.sftp.protocol import Attributes
from ssh_service.copying.upload_link import learn_order
from ssh_service.errors import transfer_error

__all__ = [
    "chmod",
    "expand",
    "find",
    "is_present",
    "make_folder",
    "make_link",
    "read_link",
    "remove_file",
    "remove_folder",
    "rename",
    "resolve",
    "stat",
    "touch",
]

# The mode of folders that are created for another one, minus the server's umask.
_PARENT_MODE = 0o777


async def stat(context: CopyContext, path: bytes, follow: bool = True) -> Attributes:
    """Return the attributes of a file or folder."""
    return await (context.remote.stat(path) if follow else context.remote.lstat(path))


async def find(context: CopyContext, path: bytes, follow: bool = True) -> Optional[Attributes]:
    """Return the attributes, or None if there is no such file or folder."""
    return await context.remote.find(path, follow)


async def is_present(context: CopyContext, path: bytes) -> Optional[Attributes]:
    """Return the attributes of the entry at a path, which may be a link; None if unknown."""
    try:
        return await context.remote.find(path, follow=False)
    except Refused:
        return None


async def make_folder(
    context: CopyContext, path: bytes, mode: int, parents: bool, exist_ok: bool
) -> None:
    """Create a folder, and with `parents` those that contain it."""
    try:
        await context.remote.make_folder(path, mode)
    except Refused as refused:
        if await is_present(context, path) is not None:
            found = await context.remote.find(path)
            if exist_ok and found is not None and is_folder(found):
                return
            raise refused.as_error(errno.EEXIST) from refused
        error = await context.remote.to_os_error(refused)
        folder = folder_of(path)
        if not parents or error.errno != errno.ENOENT or folder == path:
            raise error from refused
        await make_folder(context, folder, _PARENT_MODE, True, True)
        await make_folder(context, path, mode, False, exist_ok)


async def remove_file(context: CopyContext, path: bytes, missing_ok: bool) -> None:
    """Remove a file or a link."""
    try:
        await context.remote.remove(path)
    except Refused as refused:
        error = await context.remote.to_os_error(refused)
        if missing_ok and error.errno == errno.ENOENT:
            return
        raise error from refused


async def remove_folder(context: CopyContext, path: bytes) -> None:
    """Remove an empty folder."""
    try:
        await context.remote.remove_folder(path)
    except Refused as refused:
        found = await is_present(context, path)
        if found is not None and not is_folder(found):
            raise refused.as_error(errno.ENOTDIR) from refused
        if found is not None and await _has_entries(context, path):
            raise refused.as_error(errno.ENOTEMPTY) from refused
        raise


async def _has_entries(context: CopyContext, path: bytes) -> bool:
    remote = context.remote
    try:
        handle = await remote.open_folder(path)
    except Refused:
        return False
    try:
        return await _lists_entries(context, handle, path)
    except Refused:
        return False
    finally:
        remote.ask_close(handle)


async def _lists_entries(context: CopyContext, handle: bytes, path: bytes) -> bool:
    reader = FolderReader(context.remote, handle, path, allow_partial=True)
    while True:
        entries = await reader.read()
        names = {entry.filename for entry in entries}
        if not names or names - {b".", b".."}:
            return bool(names)


async def rename(context: CopyContext, old: bytes, new: bytes) -> None:
    """Rename a file or folder; replace a file, as in POSIX, if the server can."""
    remote = context.remote
    new = await remote.expand_home(new)
    try:
        if remote.facts.resolves_links is not False and await _is_resolved_link(context, old):
            text = "the server does not rename links, but what they lead to"
            raise transfer_error(errno.EOPNOTSUPP, display_path(old), text, side="remote")
        if remote.facts.resolves_links is not False and await _is_resolved_link(context, new):
            to = await remote.text_of_link(new)
            await replace_link(context, new, to, lambda: remote.rename(old, new))
        else:
            await remote.rename(old, new)
    except Refused as refused:
        error = await _why_not_renamed(context, old, new, refused)
        error.filename2 = display_path(new)
        raise error from refused


async def _is_resolved_link(context: CopyContext, path: bytes) -> bool:
    """Return whether there is a link that LSTAT follows, as proftpd's does, and also RENAME."""
    link, found = context.remote.ask_read_link(path), context.remote.ask_lstat(path)
    try:
        parse_path(await link, path)
        return not is_link(parse_attributes(await found, path))
    except Refused:
        return False


async def _why_not_renamed(
    context: CopyContext, old: bytes, new: bytes, refused: Refused
) -> OSError:
    source, target = await is_present(context, old), await is_present(context, new)
    refused.path = old
    if source is None or refused.code not in (protocol.FAILURE, protocol.NO_SUCH_FILE):
        return await context.remote.to_os_error(refused)
    if target is None:
        folder = await is_present(context, folder_of(new))
        if folder is None:
            text = f"the folder {display_path(folder_of(new))!r} does not exist"
            return refused.as_error(errno.ENOENT, f"No such file or directory: {text}")
        return refused.as_error()
    if not context.remote.can_replace and not is_folder(target):
        text = f"File exists, and the server cannot replace it: {display_path(new)!r}"
        return refused.as_error(errno.EEXIST, text)
    if is_folder(target) and not is_folder(source):
        return refused.as_error(errno.EISDIR)
    if is_folder(source) and not is_folder(target):
        return refused.as_error(errno.ENOTDIR)
    if is_folder(target) and await _has_entries(context, new):
        return refused.as_error(errno.ENOTEMPTY)
    return refused.as_error()


async def touch(context: CopyContext, path: bytes, mode: int, exist_ok: bool) -> None:
    """Create a file, or set the times of one that exists to the current time."""
    remote = context.remote
    how = protocol.FOR_WRITING | protocol.CREATE
    if exist_ok:
        identity = remote.facts.identity
        now = int(time.time() if identity is None or not identity.time else identity.now)
        try:
            # First, as opening a FIFO would block the server.
            await remote.set(path, Attributes(atime=now, mtime=now))
            return
        except Refused as refused:
            if refused.code != protocol.NO_SUCH_FILE:
                raise
    else:
        how |= protocol.EXCLUSIVE
    try:
        handle = await remote.open(path, how, mode)
    except Refused as refused:
        if not exist_ok and await is_present(context, path) is not None:
            raise refused.as_error(errno.EEXIST) from refused
        raise
    check_status(await remote.ask_close(handle), path)


async def chmod(context: CopyContext, path: bytes, mode: int) -> None:
    """Set the permissions of a file or folder, following links."""
    await context.remote.set(path, Attributes(mode=mode))


async def make_link(context: CopyContext, path: bytes, text: bytes) -> None:
    """Create a symbolic link with target `text`."""
    try:
        await learn_order(context, path)
        await context.remote.make_link(text, path)
    except Refused as refused:
        if await is_present(context, path) is not None:
            raise refused.as_error(errno.EEXIST) from refused
        raise


async def read_link(context: CopyContext, path: bytes) -> bytes:
    """Return the target of a symbolic link as it is stored."""
    try:
        return await context.remote.text_of_link(path)
    except Refused as refused:
        found = await is_present(context, path)
        if found is not None and not is_link(found):
            text = "Invalid argument: not a symbolic link"
            raise refused.as_error(errno.EINVAL, text) from refused
        raise


async def resolve(context: CopyContext, path: bytes, strict: bool) -> bytes:
    """Return the absolute path without links; unless `strict`, its end may be missing."""
    missing: List[bytes] = []
    while True:
        try:
            real = await context.remote.real_path(path)
            break
        except Refused as refused:
            folder = folder_of(path)
            if strict or refused.code != protocol.NO_SUCH_FILE or folder == path:
                raise
            missing.append(basename(path))
            path = folder
    if strict:
        await context.remote.stat(real)  # OpenSSH accepts a path whose last part is missing
    for name in reversed(missing):
        real = folder_of(real) if name == b".." else join(real, name)
    return real


async def expand(context: CopyContext, path: bytes) -> bytes:
    """Return the absolute path of one that is expanded already."""
    return path if path.startswith(b"/") else join(await context.remote.real_path(b"."), path)
