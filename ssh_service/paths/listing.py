"""Lists folders of a server, and finds what matches a pattern."""

from __future__ import annotations

import errno
import fnmatch
import re
from collections import deque
from typing import Deque, Dict, List, NamedTuple, Optional, Pattern, Sequence, Set, Tuple

from ssh_service.copying.context import CopyContext
from ssh_service.copying.failures import Refused, display_path
from ssh_service.copying.folder_reader import FolderReader
from ssh_service.copying.listing import MAX_ENTRIES, MAX_LEVELS, check_name
from ssh_service.copying.paths import join, to_bytes, to_text
from ssh_service.copying.replies import is_folder, is_link, parse_attributes
from ssh_service.copying.sftp import protocol
from ssh_service.copying.sftp.protocol import Attributes, FolderEntry
from ssh_service.copying.sftp.reply import Reply
from ssh_service.errors import SshConfigError, transfer_error
from ssh_service.settings import check_encodable

__all__ = ["find_matches", "list_folder", "list_followed", "parse_pattern"]

# The number of concurrent requests for a listing; it doubles up to the maximum, as most folders
# are small.
_FIRST_REQUESTS, _MAX_REQUESTS = 2, 64

# The maximum number of concurrent requests for what links lead to.
_MAX_STATS = 1000

_MAGIC = re.compile(r"[*?\[]")


async def list_folder(
    context: CopyContext, path: bytes, with_dots: bool = False, allow_partial: bool = False
) -> List[FolderEntry]:
    """
    Return the entries of a folder; `with_dots`, also those named ``.`` and ``..``.

    `allow_partial`: even if the server may have left out others.
    """
    remote = context.remote
    await context.folder_budget.acquire()
    try:
        handle = await remote.open_folder(path)
        try:
            reader = FolderReader(remote, handle, path, _FIRST_REQUESTS, allow_partial)
            return await _read_entries(reader, path, with_dots)
        finally:
            remote.ask_close(handle)
    except Refused as refused:
        # OpenSSH says of a file that there is no such folder.
        if refused.code in (protocol.NO_SUCH_FILE, protocol.FAILURE):
            found = await remote.find(path)
            if found is not None and not is_folder(found):
                raise refused.as_error(errno.ENOTDIR) from refused
        raise
    finally:
        context.folder_budget.release()


async def _read_entries(reader: FolderReader, path: bytes, with_dots: bool) -> List[FolderEntry]:
    found: List[FolderEntry] = []
    while True:
        entries = await reader.read()
        if not entries:
            return found
        reader.read_ahead = min(_MAX_REQUESTS, reader.read_ahead + 1)
        for entry in entries:
            if entry.filename not in (b".", b".."):
                check_name(entry.filename, join(path, entry.filename))
                found.append(entry)
            elif with_dots:
                found.append(entry)
        if len(found) > MAX_ENTRIES:
            text = f"more than {MAX_ENTRIES} entries"
            raise transfer_error(errno.E2BIG, display_path(path), text, side="remote")


async def list_followed(
    context: CopyContext, path: bytes
) -> List[Tuple[FolderEntry, Optional[Attributes]]]:
    """Return the entries of a folder, and what each link leads to (None: nothing, or no link)."""
    entries = await list_folder(context, path)
    targets: Dict[bytes, Optional[Attributes]] = {}
    asked: Deque[Tuple[bytes, Reply]] = deque()
    for entry in entries:
        if is_link(entry.attributes):
            asked.append((entry.filename, context.remote.ask_stat(join(path, entry.filename))))
        if len(asked) > _MAX_STATS:
            name, reply = asked.popleft()
            targets[name] = await _target_of(reply)
    for name, reply in asked:
        targets[name] = await _target_of(reply)
    return [(entry, targets.get(entry.filename)) for entry in entries]


async def _target_of(reply: Reply) -> Optional[Attributes]:
    try:
        return parse_attributes(await reply, b"")
    except Refused:
        return None


class PatternPart(NamedTuple):
    """One part of a pattern, between two slashes."""

    text: str
    regex: Optional[Pattern[str]] = None  # None: a name, or ``**``

    @property
    def is_recursive(self) -> bool:
        """Whether it stands for any number of folders."""
        return self.text == "**"


def parse_pattern(pattern: str, recursive: bool = False) -> Tuple[PatternPart, ...]:
    """
    Parse a pattern of `pathlib.Path.glob`; the last part is empty if only folders match.

    Raises
    ------
    SshConfigError
        The pattern is empty, absolute or not a text.
    """
    names = [] if not isinstance(pattern, str) else pattern.split("/")
    names = [name for name in names if name not in ("", ".")]
    if not names or "\0" in pattern:
        raise SshConfigError(f"pattern: expected a text such as '*.log', got {pattern!r}")
    check_encodable("pattern", pattern)
    if pattern.startswith("/"):
        text = "expected a pattern relative to the path, without a slash at its start"
        raise SshConfigError(f"pattern: {text}, got {pattern!r}")
    if recursive:
        names.insert(0, "**")
    if pattern.endswith("/"):
        names.append("")
    return tuple(map(_parse_part, names))


def _parse_part(name: str) -> PatternPart:
    if name == "**" or not _MAGIC.search(name):
        return PatternPart(name)
    return PatternPart(name, re.compile(fnmatch.translate(name)))


async def find_matches(
    context: CopyContext, folder: bytes, pattern: Sequence[PatternPart]
) -> List[Tuple[str, ...]]:
    """Return the paths below a folder that match a pattern, as sorted tuples of names."""
    search = _Search(context, pattern)
    await search.run(folder)
    await context.pipeline.join_others()
    return sorted(search.found)


class _Search:
    """
    One search.

    A folder that cannot be listed has no matches, as in `pathlib`.
    """

    def __init__(self, context: CopyContext, pattern: Sequence[PatternPart]) -> None:
        self._context = context
        self._pattern = pattern
        self._seen: Set[Tuple[Tuple[str, ...], int]] = set()
        self._listed = 0
        self.found: Dict[Tuple[str, ...], None] = {}

    async def run(self, folder: bytes) -> None:
        await self._search(folder, (), 0, None)

    def _start(self, path: bytes, names: Tuple[str, ...], at: int) -> None:
        """Search a folder in a task of its own."""
        if len(names) > MAX_LEVELS:
            raise transfer_error(errno.ELOOP, display_path(path), "too many levels", side="remote")
        self._context.pipeline.start(self._search(path, names, at, None))

    async def _search(
        self,
        path: bytes,
        names: Tuple[str, ...],
        at: int,
        entries: Optional[List[FolderEntry]],
    ) -> None:
        """Match the pattern from its part `at` on below a folder, whose entries may be known."""
        if (names, at) in self._seen:
            return
        self._seen.add((names, at))
        if at == len(self._pattern) or not self._pattern[at].text:
            if names or self._pattern[0].is_recursive:
                await self._add_if_present(path, names, only_folders=at < len(self._pattern))
            return
        part, is_last = self._pattern[at], at + 1 == len(self._pattern)
        if part.regex is None and not part.is_recursive:
            inside = join(path, to_bytes(part.text))
            await self._search(inside, (*names, part.text), at + 1, None)
            return
        if entries is None:
            entries = await self._list(path)
            if entries is None:
                return
        if part.is_recursive:
            if is_last:
                self.found[names] = None
            else:
                await self._search(path, names, at + 1, entries)
        for entry in entries:
            await self._match(path, names, at, entry)

    async def _match(
        self, path: bytes, names: Tuple[str, ...], at: int, entry: FolderEntry
    ) -> None:
        part, is_last = self._pattern[at], at + 1 == len(self._pattern)
        name = to_text(entry.filename)
        inside, deeper = join(path, entry.filename), (*names, name)
        if part.is_recursive:
            if is_last:
                self.found[deeper] = None
            if is_folder(entry.attributes):  # not behind links, which may lead back
                self._start(inside, deeper, at)
        elif part.regex is not None and part.regex.match(name):
            if is_last:
                self.found[deeper] = None
            elif is_folder(entry.attributes) or is_link(entry.attributes):
                self._start(inside, deeper, at + 1)

    async def _list(self, path: bytes) -> Optional[List[FolderEntry]]:
        try:
            entries = await list_folder(self._context, path)
        except (Refused, NotADirectoryError):
            return None
        self._listed += len(entries)
        if self._listed > MAX_ENTRIES:
            text = f"more than {MAX_ENTRIES} entries below it"
            raise transfer_error(errno.E2BIG, display_path(path), text, side="remote")
        return entries

    async def _add_if_present(
        self, path: bytes, names: Tuple[str, ...], only_folders: bool
    ) -> None:
        try:
            found = await self._context.remote.find(path, follow=only_folders)
        except Refused:
            return
        if found is not None and (is_folder(found) or not only_folders):
            self.found[names] = None
