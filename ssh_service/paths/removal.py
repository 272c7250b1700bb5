"""
Removes a folder of a server with everything in it, and nothing anywhere else.

SFTP works by path.  A user who may write to one of the folders could exchange an entry for a
symbolic link after it was examined, and so choose what is removed.  The server's `rm` is safe from
this (it opens each folder relative to the one around it, without following links), so it is used
where possible.  Otherwise, folders are removed by SFTP only if no other user can change them.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from typing import Deque, List, Optional, Tuple

from ssh_service.copying import temporary
from ssh_service.copying.context import CopyContext
from ssh_service.copying.failures import Refused, display_path
from ssh_service.copying.paths import basename, folder_of, is_within, join
from ssh_service.copying.pipeline import ABORTS
from ssh_service.copying.remote_owner import NEW_FILE_FLAGS, PRIVATE_MODE
from ssh_service.copying.replies import check_status, is_folder, is_link, parse_path
from ssh_service.copying.sftp import protocol
from ssh_service.copying.sftp.reply import Reply
from ssh_service.copying.shell_command import PRINT_READY_LINE, quoted
from ssh_service.copying.waiting import TaskEvent
from ssh_service.errors import SshTransferError, transfer_error
from ssh_service.paths.listing import list_folder
from ssh_service.paths.requests import remove_folder
from ssh_service.transport import printable

__all__ = ["remove_tree"]

# The shell may see other files than SFTP does, so the script needs a proof that the folder is the
# right one: a file that was created in it by SFTP.  When the channel is closed, `read` ends, which
# ends rm.
_SCRIPT = (
    b"exec sh -c 'LC_ALL=C; export LC_ALL; "
    + PRINT_READY_LINE
    + b' cd -P -- "$(printf "%s")" 2>/dev/null || exit %d; n="$(printf "%s")";'
    b' [ -L "$n" ] && exit %d; [ -f "$n/%s" ] || exit %d; %s'
    b' exec 3<&0; rm -rf -- "$n" 2>&1 & p=$!;'
    b" { read x; kill $p; } <&3 >/dev/null 2>&1 & w=$!;"
    b" wait $p; s=$?; kill $w 2>/dev/null; exit $s'"
)
# Other implementations of rm may find entries by path, as SFTP does.
_ONLY_GNU = b'case "$(rm --version 2>/dev/null)" in *"GNU coreutils"*) ;; *) exit %d;; esac;'
_NOT_HERE = 92  # the exit status if the script removes nothing
_MAX_OUTPUT = 4096
# The maximum number of removals in flight per folder.
_MAX_IN_FLIGHT = 1000
_SHOWN_ERRNOS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY, errno.ENOTEMPTY)


async def remove_tree(context: CopyContext, path: bytes, missing_ok: bool) -> None:
    """Remove a folder with everything in it, never following a link."""
    remote, owner = context.remote, context.owner
    name = basename(path)
    try:
        found = await remote.lstat(path)
    except Refused as refused:
        error = await remote.to_os_error(refused)
        if missing_ok and error.errno == errno.ENOENT:
            return
        raise error from refused
    if is_link(found):
        text = "Not a directory: it is a symbolic link; unlink() removes the link"
        raise transfer_error(errno.ENOTDIR, display_path(path), text, side="remote")
    if not is_folder(found):
        raise transfer_error(errno.ENOTDIR, display_path(path), side="remote")
    asked = remote.ask_real_path(b".")
    real = join(await remote.real_path(folder_of(path)), name)
    if name in (b"", b".", b"..") or is_within(parse_path(await asked, b"."), real):
        text = "Device or resource busy: the root, the home directory, and what contains them are"
        text += " not removed, nor are paths that end with '..'"
        raise transfer_error(errno.EBUSY, display_path(path), text, side="remote")
    removal = _TreeRemoval(context, path, real)
    marker = await removal.mark()
    try:
        guarded = await owner.guarded_path(folder_of(real)) is not None
        is_private = guarded and owner.is_our_private_folder(found)
        if marker is not None and await removal.by_shell(marker, only_gnu=not is_private):
            return
        if not guarded:
            raise removal.unsafe_error(folder_of(real))
        await removal.by_sftp(is_private)
    finally:
        if marker is not None:
            await removal.unmark(marker)


class _Removing:
    """The removal of a folder in the tree by a task of its own."""

    def __init__(self, done: TaskEvent) -> None:
        self.done = done
        self.failure: Optional[Exception] = None


class _TreeRemoval:
    """The removal of one folder, whose real path is `root`."""

    def __init__(self, context: CopyContext, path: bytes, root: bytes) -> None:
        self._context = context
        self._remote = context.remote
        self._path = path  # as the caller wrote it
        self._root = root

    # The marker, which also shows who we are on the server.

    async def mark(self) -> Optional[bytes]:
        """Create a file in the folder, and return its name; None if that is impossible."""
        owner, name = self._context.owner, temporary.names.new(b"")
        try:
            path = join(self._root, name)
            handle = await self._remote.open(path, NEW_FILE_FLAGS, PRIVATE_MODE)
        except Refused:
            temporary.names.release(name)
            await owner.identify(folder_of(self._root))
            return None
        owner.start_identifying(handle, PRIVATE_MODE)
        self._remote.ask_close(handle)
        await owner.wait_for_identity()
        return name

    async def unmark(self, name: bytes) -> None:
        """Remove the file, if it still exists."""
        try:
            await self._remote.remove(join(self._root, name))
        except Refused:
            pass
        finally:
            temporary.names.release(name)

    # By the shell.

    async def by_shell(self, marker: bytes, only_gnu: bool) -> bool:
        """Remove the folder by the server's rm; return False if that is impossible."""
        shell = self._remote.facts.shell
        if not self._context.has_shell or shell.is_missing:
            return False
        status, output = await self._run(marker, only_gnu)
        if status is None or status == _NOT_HERE:
            return False
        try:
            await self._remote.lstat(self._root)
        except Refused:
            return True
        raise self._error_of(output)

    async def _run(self, marker: bytes, only_gnu: bool) -> Tuple[Optional[int], bytes]:
        check = _ONLY_GNU % _NOT_HERE if only_gnu else b""
        folder, name = quoted(folder_of(self._root)), quoted(basename(self._root))
        process = self._context.start_command(
            _SCRIPT % (folder, _NOT_HERE, name, _NOT_HERE, marker, _NOT_HERE, check)
        )
        output = b""
        try:
            if not await process.wait_until_ready():
                if not process.refused:
                    self._remote.facts.shell.mark_missing()
                return None, b""
            while True:
                chunk = await process.read()
                if not chunk:
                    return await process.end(), output
                output = (output + chunk)[:_MAX_OUTPUT]
        except ABORTS as abort:
            self._context.pipeline.record_interrupt(abort)
            process.abandon()
            await process.end()
            raise

    def _error_of(self, output: bytes) -> OSError:
        line = printable(output.decode("utf-8", "backslashreplace").partition("\n")[0])
        code = next((e for e in _SHOWN_ERRNOS if line.endswith(os.strerror(e))), errno.EIO)
        text = f"{os.strerror(code)}: not removed completely ({line or 'rm failed'})"
        return transfer_error(code, display_path(self._path), text, side="remote")

    # By SFTP.

    async def by_sftp(self, is_private: bool) -> None:
        """Remove the folder; `is_private`: other users cannot reach anything in it."""
        await self._remove_folder(self._root, is_private)

    async def _remove_later(self, folder: bytes, is_private: bool, removal: _Removing) -> None:
        try:
            await self._remove_folder(folder, is_private)
        except Refused as refused:
            removal.failure = await self._remote.to_os_error(refused)
        except SshTransferError as error:
            removal.failure = error
        finally:
            removal.done.set()

    async def _remove_folder(self, folder: bytes, is_private: bool) -> None:
        found = await self._remote.find(folder, follow=False)
        if found is None:
            return  # somebody else, or a shell that we gave up, is removing the tree as well
        if not is_folder(found):
            raise transfer_error(errno.ENOTDIR, display_path(folder), side="remote")
        if not is_private and not self._context.owner.is_guarded(found):
            raise self.unsafe_error(folder)
        await self._remove_entries(folder, is_private)
        try:
            await remove_folder(self._context, folder)
        except Refused as refused:
            if refused.code != protocol.NO_SUCH_FILE:
                await list_folder(self._context, folder)  # fails if it hides its entries
                raise

    async def _remove_entries(self, folder: bytes, is_private: bool) -> None:
        pipeline = self._context.pipeline
        folders: List[_Removing] = []
        replies: Deque[Tuple[bytes, Reply]] = deque()
        for entry in await list_folder(self._context, folder, allow_partial=True):
            path = join(folder, entry.filename)
            if is_folder(entry.attributes):
                folders.append(_Removing(TaskEvent(pipeline)))
                pipeline.start(self._remove_later(path, is_private, folders[-1]))
                continue
            replies.append((path, self._remote.ask_remove(path)))
            if len(replies) > _MAX_IN_FLIGHT:
                path, reply = replies.popleft()
                _check_removed(await reply, path)
        for path, reply in replies:
            _check_removed(await reply, path)
        for removal in folders:
            await removal.done.wait()
        for removal in folders:
            if removal.failure is not None:
                raise removal.failure

    def unsafe_error(self, folder: bytes) -> OSError:
        """Return the error for a folder that cannot be removed safely."""
        text = (
            f"Operation not permitted: other users may change {display_path(folder)!r}, and could"
            " redirect a removal by SFTP; log in and remove it with rm"
        )
        return transfer_error(errno.EPERM, display_path(self._path), text, side="remote")


def _check_removed(reply: Reply, path: bytes) -> None:
    try:
        check_status(reply, path)
    except Refused as refused:
        if refused.code != protocol.NO_SUCH_FILE:
            raise
