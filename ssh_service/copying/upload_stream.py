"""
Many small files to the server in one stream, which its tar unpacks: no request for each.

Only for a folder that is not there yet: it is unpacked beside its place, under the name of an
unfinished file, and renamed when all of it has arrived.  So it is there as a whole or not at all;
and whatever goes wrong on the way, the copy begins again, by SFTP, and fails there in its own
words if it has to.
"""

from __future__ import annotations

import itertools
import logging
import os
import stat
from typing import Iterable, List, Optional, Tuple

from ssh_service.copying import tar, temporary
from ssh_service.copying.context import MANY_FILES, MAX_FAILURES, CopyContext
from ssh_service.copying.failures import Refused, display_path
from ssh_service.copying.local.descriptors import attributes_of
from ssh_service.copying.local.source_file import SourceFile
from ssh_service.copying.local.walk import Entry, walk
from ssh_service.copying.paths import basename, join, sibling
from ssh_service.copying.pipeline import ABORTS
from ssh_service.copying.removal import remove_tree
from ssh_service.copying.resume_marker import ResumeMarker
from ssh_service.copying.sftp.protocol import Attributes
from ssh_service.copying.shell_command import PRINT_READY_LINE, ShellProcess, quoted
from ssh_service.errors import SshTransferError

__all__ = ["TREE", "StreamResult", "UploadStream", "should_stream", "stream_tree"]

_log = logging.getLogger("ssh_service.copying")

# Entries that are looked at to find out what kind of tree it is.
_MAX_EXAMINED = 4 * MANY_FILES
# Bytes that are sent at once.
_PIECE = 128 * 1024
# In the stream and under the unfinished folder's name: the tree, and what tells that all of it
# came.  The script removes what is not whole, even when nobody is there any more to ask for it.
TREE, _END = b"tree", b"end"
# With -G, GNU's tar sets the time of the last access, and no other tar takes the options.
_SCRIPT = (
    b"exec sh -c 'unset TAR_OPTIONS; LC_ALL=C; export LC_ALL; "
    + PRINT_READY_LINE
    + b' d="$(printf "%s")";'
    b' case "$d" in *.ssh_service-????????-*) ;; *) exit 1;; esac;'  # as it may be removed
    b' (cd "$d" || exit;'
    b" tar -xG %s --no-same-owner --delay-directory-restore -f - >/dev/null 2>&1 && rm end)"
    b' && exit 0; rm -rf "$d"; exit 1'
    b"'"
)
# Modes and times as the stream says, or as new files have them (root's tar keeps them otherwise).
_KEEPING, _NOT_KEEPING = b"-p", b"-m --no-same-permissions"


class StreamResult:
    """
    What of a tree is on the server now.

    Attributes
    ----------
    folders : List[Tuple[bytes, Attributes]]
        All of its folders by their remote paths, innermost first.
    sent : List[bytes]
        The files that were sent, by their paths in the tree.
    remaining : List[Tuple[bytes, bytes]]
        Local and remote paths of the files that are too large for the stream.
    links : List[Tuple[bytes, bytes]]
        Texts and remote paths of symbolic links that are still to be made.
    failures : List[SshTransferError]
        What could not be copied, where the rest is all the same.
    """

    def __init__(self) -> None:
        self.folders: List[Tuple[bytes, Attributes]] = []
        self.sent: List[bytes] = []
        self.remaining: List[Tuple[bytes, bytes]] = []
        self.links: List[Tuple[bytes, bytes]] = []
        self.failures: List[SshTransferError] = []


def should_stream(context: CopyContext, source: bytes, status: os.stat_result) -> bool:
    """Tell whether a tree has many small files, and the server may have a shell."""
    options = context.options
    if (
        not context.has_shell
        or options.verify
        or options.fsync
        or context.remote.facts.tar.is_missing
    ):
        return False
    small = 0
    try:
        entries = walk(source, status, context.source_tree, on_failure=lambda failure: None)
        for entry in itertools.islice(entries, _MAX_EXAMINED):
            if (
                entry.status is None
                and entry.link is None
                and os.stat(entry.path).st_size <= context.remote.write_size
            ):
                small += 1
                if small >= MANY_FILES:
                    return True
    except OSError:
        pass  # told in its order
    return False


async def stream_tree(
    context: CopyContext,
    source: bytes,
    status: os.stat_result,
    target: bytes,
    mark: Optional[ResumeMarker] = None,
) -> Optional[StreamResult]:
    """
    Copy a tree, but for its large files, to where nothing is.

    Parameters
    ----------
    context : CopyContext
        The copy.
    source : bytes
        The local folder.
    status : os.stat_result
        Its status.
    target : bytes
        The remote path.
    mark : Optional[ResumeMarker]
        Marks the tree as begun; None if it is not going to be resumed.

    Returns
    -------
    Optional[StreamResult]
        None if it could not be: nothing is at `target` then.
    """
    temporary_name = temporary.names.new(basename(target))
    folder, reading = sibling(target, temporary_name), context.progress.reading
    try:
        await context.remote.make_folder(folder, 0o700)
        done = await UploadStream(context, source, target, folder).run(status)
        if done is not None:
            if mark is not None:
                await mark.begin(target, join(folder, TREE))
            await context.remote.rename(join(folder, TREE), target)
            await context.remote.remove_folder(folder)
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


class UploadStream:
    """
    Sends a tree, but for its large files, to the server's tar.

    Parameters
    ----------
    context : CopyContext
        The copy.
    source : bytes
        The local folder.
    target : bytes
        What the remote folder is going to be.
    folder : bytes
        Where it is unpacked: an unfinished folder of this copy's, on the server.
    """

    def __init__(self, context: CopyContext, source: bytes, target: bytes, folder: bytes) -> None:
        self._context = context
        self._source = source
        self._target = target
        self._done = StreamResult()
        self._keeps = context.options.preserve is not False
        script = _SCRIPT % (quoted(folder), _KEEPING if self._keeps else _NOT_KEEPING)
        self._process: ShellProcess = context.start_command(script)
        self._pieces: List[bytes] = []
        self._size = 0

    async def run(self, status: os.stat_result) -> Optional[StreamResult]:
        """
        Send it.

        Parameters
        ----------
        status : os.stat_result
            The local folder's.

        Returns
        -------
        Optional[StreamResult]
            None if the server could not unpack it, or something here is not as it should be.
        """
        process = self._process
        try:
            bad = await self._send_all(status) if await process.wait_until_ready() else None
            process.end_input()  # without its end, the script removes it
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
        """Send the tree; give what is not as it should be here."""
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
        await self._process.write(b"".join(self._pieces))
        return None

    def _entries(self, status: os.stat_result) -> Iterable[Entry]:
        return walk(self._source, status, self._context.source_tree, self._note_failure)

    def _note_failure(self, failure: SshTransferError) -> None:
        # Where it ends the copy, that is done by SFTP, which first copies what comes before.
        if not self._context.options.goes_on or len(self._done.failures) >= MAX_FAILURES:
            raise failure
        self._done.failures.append(failure)

    async def _send_entry(self, entry: Entry) -> None:
        relative = entry.path[len(self._source.rstrip(b"/")) :]
        if entry.link is not None:
            # Its mode is what every link has, and nobody asks for its time.
            name = TREE + relative
            await self._send(tar.header(name, tar.LINK, Attributes(mode=0o777), entry.link))
        elif entry.status is None:
            await self._send_file(entry.path, relative)
        elif entry.is_folder_end:
            self._done.folders.append((self._target + relative, attributes_of(entry.status)))
        else:
            await self._send_folder(TREE + relative, entry.status)

    async def _send_folder(self, name: bytes, status: os.stat_result) -> None:
        # Ours to write into; its own attributes are set last, as with SFTP.
        mode = stat.S_IMODE(status.st_mode) | stat.S_IRWXU if self._keeps else 0o777
        await self._send(tar.header(name + b"/", tar.FOLDER, Attributes(mode=mode)))

    async def _send_file(self, path: bytes, relative: bytes) -> None:
        with SourceFile(path, self._context.source_tree) as source:
            size = source.size
            if size > self._context.remote.write_size:
                self._done.remaining.append((path, self._target + relative))
                return
            content = source.read_whole()
        attributes = source.attributes._replace(size=size)
        if not self._keeps:
            attributes = attributes._replace(mode=0o666)
        header = tar.header(TREE + relative, tar.FILE, attributes)
        await self._send(header, content, tar.padding(size))
        self._done.sent.append(relative)
        self._context.progress.advance(size)
        self._context.progress.file_done()

    async def _send(self, *pieces: bytes) -> None:
        self._pieces += pieces
        self._size += sum(map(len, pieces))
        if self._size >= _PIECE:
            data, self._pieces, self._size = b"".join(self._pieces), [], 0
            await self._process.write(data)  # what comes of it, its end tells
