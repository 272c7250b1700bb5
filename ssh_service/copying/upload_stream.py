"""
Uploads many small files in one stream, unpacked by the server's tar, without requests per file.

This is only used for a target that does not exist: the tree is unpacked next to it under a
temporary name, and renamed when it is complete, so that the target exists completely or not at
all.  If anything fails, the copy is restarted by SFTP, which then reports the error.
"""

from __future__ import annotations

import itertools
import logging
import os
import stat
from typing import Dict, Iterable, List, Optional, Tuple

from ssh_service.copying import tar, temporary
from ssh_service.copying.context import MANY_FILES, MAX_FAILURES, CopyContext
from ssh_service.copying.failures import Refused, display_path
from ssh_service.copying.local.descriptors import attributes_of
from ssh_service.copying.local.source_file import SourceFile
from ssh_service.copying.local.walk import Entry
from ssh_service.copying.paths import basename, join, sibling
from ssh_service.copying.pipeline import ABORTS
from ssh_service.copying.remote_files import RemoteFiles
from ssh_service.copying.removal import remove_tree
from ssh_service.copying.replies import check_status
from ssh_service.copying.resume_marker import ResumeMarker
from ssh_service.copying.sftp.protocol import Attributes
from ssh_service.copying.shell_command import PRINT_READY_LINE, ShellProcess, quoted
from ssh_service.errors import SshTransferError
from ssh_service.interruptions import raise_interruption

__all__ = ["TREE", "StreamResult", "UploadStream", "should_stream", "stream_tree"]

_log = logging.getLogger("ssh_service.copying")

# The maximum number of entries examined to determine whether a tree has many small files.
_MAX_EXAMINED = 4 * MANY_FILES
# The number of bytes sent at once.
_CHUNK_SIZE = 128 * 1024
# Names in the stream, and in the unfinished folder: the tree, and a file that proves that the tree
# is complete.  The script removes an incomplete tree, even after a loss of the connection.
TREE, _END = b"tree", b"end"
# With -G, GNU tar sets the access time.  Other tars reject the options.
_SCRIPT = (
    b"exec sh -c 'unset TAR_OPTIONS; LC_ALL=C; export LC_ALL; "
    + PRINT_READY_LINE
    + b' d="$(printf "%s")";'
    b' case "$d" in *.ssh_service-????????-*) ;; *) exit 1;; esac;'  # because it may be removed
    b' (cd "$d" || exit;'
    b" tar -xG %s --no-same-owner --delay-directory-restore -f - >/dev/null 2>&1 && rm end)"
    b' && exit 0; rm -rf "$d"; exit 1'
    b"'"
)
# Preserve modes and times, or use those of new files (for root, tar preserves them by default).
_KEEPING, _NOT_KEEPING = b"-p", b"-m --no-same-permissions"
_KEEPING_TIMES = b"--no-same-permissions"  # of files on Windows, which have no modes


class StreamResult:
    """
    What a stream has copied, and what remains to be copied.

    Attributes
    ----------
    folders : List[Tuple[bytes, Attributes]]
        All folders of the tree with their remote paths, innermost first.
    sent : Dict[bytes, int]
        The files that were sent, as paths in the tree, with their sizes.
    remaining : List[Tuple[bytes, bytes]]
        The local and remote paths of files that are too large for the stream.
    links : List[Tuple[bytes, bytes]]
        The targets and remote paths of symbolic links that remain to be created.
    failures : List[SshTransferError]
        The entries that could not be copied, with ``on_error="continue"``.
    """

    def __init__(self) -> None:
        self.folders: List[Tuple[bytes, Attributes]] = []
        self.sent: Dict[bytes, int] = {}
        self.remaining: List[Tuple[bytes, bytes]] = []
        self.links: List[Tuple[bytes, bytes]] = []
        self.failures: List[SshTransferError] = []


def should_stream(context: CopyContext, source: bytes, status: os.stat_result) -> bool:
    """Return whether a tree has many small files, and the server may have a shell."""
    options = context.options
    if (
        not context.may_stream
        or options.verify
        or options.fsync
        or context.remote.facts.tar.is_missing
    ):
        return False
    small = 0
    try:
        entries = context.walk(source, status, lambda failure: None)
        for entry in itertools.islice(entries, _MAX_EXAMINED):
            if (
                entry.status is None
                and entry.link is None
                and os.stat(entry.path).st_size <= context.remote.write_size
            ):
                small += 1
                if small >= MANY_FILES:
                    return True
    except OSError as error:
        raise_interruption(error)  # the copy reports any other at its turn
    return False


async def stream_tree(
    context: CopyContext,
    source: bytes,
    status: os.stat_result,
    target: bytes,
    mark: Optional[ResumeMarker] = None,
) -> Optional[StreamResult]:
    """
    Copy a tree, except for its large files, to a target that does not exist.

    `marker`, if given, marks the tree as begun.  Returns None if the copy failed; the target does
    not exist then.
    """
    temporary_name = temporary.names.new(basename(target))
    folder, reading = sibling(target, temporary_name), context.progress.reading
    try:
        await context.remote.make_folder(folder, 0o700)
        done = await UploadStream(context, source, target, folder).run(status)
        if done is not None:
            if mark is not None:
                await mark.begin(target, join(folder, TREE))
            await _move(context.remote, folder, target)
            return done
    except Refused as refused:
        _log.debug("%r not in one stream: %s", display_path(target), refused)
    except ABORTS as abort:
        context.pipeline.record_interrupt(abort)
        await remove_tree(context, folder)
        raise
    finally:
        temporary.names.release(temporary_name)
    context.progress.go_back(reading)
    await remove_tree(context, folder)
    return None


async def _move(remote: RemoteFiles, folder: bytes, target: bytes) -> None:
    """Move the tree out of its unfinished folder to the target, and remove the folder."""
    renamed = remote.ask_rename(join(folder, TREE), target)
    removed = remote.ask_remove_folder(folder)  # sent without waiting, which saves a round trip
    check_status(await renamed, target)
    try:
        check_status(await removed, folder)
    except Refused:  # refused by a server that executed both concurrently
        await remote.remove_folder(folder)


class UploadStream:
    """Sends a tree, except for its large files, to the server's tar, which unpacks it."""

    def __init__(self, context: CopyContext, source: bytes, target: bytes, folder: bytes) -> None:
        self._context = context
        self._source = source
        self._target = target
        self._done = StreamResult()
        self._keeps_modes = context.keeps_modes
        how = _NOT_KEEPING
        if context.options.preserve is not False:
            how = _KEEPING if self._keeps_modes else _KEEPING_TIMES
        script = _SCRIPT % (quoted(folder), how)
        self._process: ShellProcess = context.start_command(script)
        self._chunks: List[bytes] = []
        self._size = 0

    async def run(self, status: os.stat_result) -> Optional[StreamResult]:
        """Send the tree; return None if sending or unpacking it failed."""
        process = self._process
        try:
            bad = await self._send_all(status) if await process.wait_until_ready() else None
            process.end_input()  # if the end is missing, the script removes the tree
            if await process.end() == 0:
                return self._done
        except ABORTS as abort:
            self._context.pipeline.record_interrupt(abort)
            process.abandon()
            await process.end()
            raise
        if bad is None and not process.refused:
            self._context.remote.facts.tar.mark_missing()
        _log.debug(
            "%r not in one stream: %s",
            display_path(self._target),
            bad or "the server's tar failed",
        )
        return None

    async def _send_all(self, status: os.stat_result) -> Optional[SshTransferError]:
        """Send the tree; return the error of a local file that ends the stream, if any."""
        try:
            await self._send_folder(TREE, status)
            for entry in self._entries(status):
                try:
                    await self._send_entry(entry)
                except SshTransferError as failure:
                    self._note_failure(failure)
        except SshTransferError as error:
            return error
        self._done.folders.append((self._target, attributes_of(status)))
        await self._send(tar.header(_END, tar.FILE, Attributes(mode=0o600)), tar.END)
        await self._process.write(b"".join(self._chunks))
        return None

    def _entries(self, status: os.stat_result) -> Iterable[Entry]:
        return self._context.walk(self._source, status, self._note_failure)

    def _note_failure(self, failure: SshTransferError) -> None:
        # An error that ends the copy is left to SFTP, which first copies the earlier entries.
        if not self._context.options.goes_on or len(self._done.failures) >= MAX_FAILURES:
            raise failure
        self._done.failures.append(failure)

    async def _send_entry(self, entry: Entry) -> None:
        relative = entry.path[len(self._source.rstrip(b"/")) :]
        if entry.link is not None:
            # All links have this mode; their times are not preserved.
            name = TREE + relative
            await self._send(tar.header(name, tar.LINK, Attributes(mode=0o777), entry.link))
        elif entry.status is None:
            await self._send_file(entry.path, relative)
        elif entry.is_folder_end:
            self._done.folders.append((self._target + relative, attributes_of(entry.status)))
        else:
            await self._send_folder(TREE + relative, entry.status)

    async def _send_folder(self, name: bytes, status: os.stat_result) -> None:
        # Writable by us; its own attributes are set at the end, as with SFTP.
        mode = stat.S_IMODE(status.st_mode) | stat.S_IRWXU if self._keeps_modes else 0o777
        await self._send(tar.header(name + b"/", tar.FOLDER, Attributes(mode=mode)))

    async def _send_file(self, path: bytes, relative: bytes) -> None:
        with SourceFile(path, self._context.source_tree) as source:
            size = source.size
            if size > self._context.remote.write_size:
                self._done.remaining.append((path, self._target + relative))
                return
            content = source.read_whole()
        attributes = source.attributes._replace(size=size)
        if not self._keeps_modes:
            attributes = attributes._replace(mode=0o666)
        header = tar.header(TREE + relative, tar.FILE, attributes)
        await self._send(header, content, tar.padding(size))
        self._done.sent[relative] = size
        self._context.progress.advance(size)
        self._context.progress.file_done()

    async def _send(self, *pieces: bytes) -> None:
        self._chunks += pieces
        self._size += sum(map(len, pieces))
        if self._size >= _CHUNK_SIZE:
            data, self._chunks, self._size = b"".join(self._chunks), [], 0
            await self._process.write(data)  # errors show in the exit status
