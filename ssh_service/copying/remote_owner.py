"""
Our user on a server, as the server reports it, and thus which of its files are ours.

SFTP has no request for the user.  A file that was just created exclusively is certainly ours, so
the owner that the server reports for it is our uid, and its time is the server's time.
"""

from __future__ import annotations

import stat
import time
from typing import Dict, List, NamedTuple, Optional, Set, Tuple

from ssh_service.copying import temporary
from ssh_service.copying.failures import Refused, display_path
from ssh_service.copying.ownership import (
    is_guarded,
    is_our_file,
    is_our_stale_file,
    is_shared,
    may_use,
    not_ours_error,
)
from ssh_service.copying.path_walk import MAX_SYMLINKS
from ssh_service.copying.paths import basename, folder_of, join
from ssh_service.copying.pipeline import Pipeline
from ssh_service.copying.remote_files import RemoteFiles
from ssh_service.copying.replies import (
    check_status,
    is_link,
    parse_attributes,
    parse_found,
    parse_path,
)
from ssh_service.copying.sftp import protocol
from ssh_service.copying.sftp.protocol import Attributes
from ssh_service.copying.sftp.reply import Reply
from ssh_service.copying.sftp.server_facts import RemoteIdentity
from ssh_service.copying.waiting import Budget, TaskEvent

__all__ = [
    "NEW_FILE_FLAGS",
    "PRIVATE_MODE",
    "EntryReplies",
    "RemoteOwner",
    "ResolvedFolder",
]

# The mode of an unfinished file; its final mode is set at the end.
PRIVATE_MODE = 0o600
NEW_FILE_FLAGS = protocol.FOR_WRITING | protocol.CREATE | protocol.EXCLUSIVE


class ResolvedFolder:
    """
    The real path of a folder, and the folders on it.

    Attributes
    ----------
    complete : TaskEvent
        Set once the other attributes are known.
    path : Optional[bytes]
        The real path; None if it cannot be determined.
    folders : List[Attributes]
        The folders on this path, from the root to the folder itself.
    """

    def __init__(self, complete: TaskEvent) -> None:
        self.complete = complete
        self.path: Optional[bytes] = None
        self.folders: List[Attributes] = []


class EntryReplies(NamedTuple):
    """
    The outstanding replies about an entry.

    Attributes
    ----------
    around : Optional[Reply]
        The attributes of its folder; None if they are known.
    own : Reply
        Its own attributes; of a link, not of where it leads.
    """

    around: Optional[Reply]
    own: Reply

    async def found(self, path: bytes) -> Optional[Attributes]:
        """Return the attributes of the entry, or None if it does not exist."""
        return parse_found(await self.own, path)


class _IdentityReplies:
    """The outstanding replies that are needed for an identity."""

    def __init__(self, file: Reply, setting: Reply, root: Reply, done: TaskEvent) -> None:
        self._file = file
        self._setting = setting
        self._root = root
        self.done = done
        self.is_awaited = False

    async def identity(self) -> RemoteIdentity:
        file = await _described(self._file)
        sets_modes = True
        try:
            check_status(await self._setting, b"")
        except Refused as refused:
            sets_modes = refused.code == protocol.OP_UNSUPPORTED  # setting by path may work
        root = await _described(self._root)
        return RemoteIdentity(
            uid=file.uid,
            # Some servers report the same invented owner for all files; "/" belongs to root.
            is_proven=file.uid == 0 or root.uid not in (None, file.uid),
            sets_modes=sets_modes,
            time=file.mtime or 0,
            at=time.monotonic(),
        )


class RemoteOwner:
    """Determines which files of the server are ours, for one copy."""

    def __init__(self, remote: RemoteFiles, pipeline: Pipeline, may_create: bool = True) -> None:
        self._remote = remote
        self._may_create = may_create
        self._guess: Optional[RemoteIdentity] = None  # unless files may be created
        self._pipeline = pipeline
        self._asked: Optional[_IdentityReplies] = None
        self._probing = Budget(pipeline, 1)
        self._no_probe: Set[bytes] = set()  # folders in which we cannot create files
        self.identified = TaskEvent(pipeline)
        if self.identity is not None:
            self.identified.set()
        self._folders: Dict[bytes, Attributes] = {}
        self._resolved: Dict[bytes, ResolvedFolder] = {}

    @property
    def identity(self) -> Optional[RemoteIdentity]:
        """The identity; None if it is unknown.  It is kept for all copies on the session."""
        return self._remote.facts.identity or self._guess

    def start_identifying(self, handle: bytes, mode: Optional[int] = None) -> None:
        """
        Start to determine the identity from an open file, unless it is known.

        The copy must have just created the file exclusively, with `mode`; it may close the file at
        once.  Setting the same mode again shows whether modes can be set.
        """
        if self.identity is None and self._asked is None:
            self._asked = _IdentityReplies(
                self._remote.ask_stat_open(handle),
                self._remote.ask_set_open(handle, Attributes(mode=mode)),
                self._remote.ask_lstat(b"/"),
                TaskEvent(self._pipeline),
            )

    async def wait_for_identity(self) -> Optional[RemoteIdentity]:
        """Return the identity; wait for it if it is being determined."""
        asked = self._asked
        if asked is not None and asked.is_awaited:
            await asked.done.wait()
        elif asked is not None:
            asked.is_awaited = True
            try:
                self._remote.facts.identity = await asked.identity()
                self.identified.set()
            finally:
                self._asked = None
                asked.done.set()
        return self.identity

    async def identify(self, folder: bytes) -> RemoteIdentity:
        """Return the identity; create a file to determine it if necessary."""
        await self._probing.acquire()
        try:
            if not self._may_create and self.identity is None:
                self._guess = await self._guess_identity()
            return await self._find_identity(folder)
        finally:
            self._probing.release()

    async def _guess_identity(self) -> RemoteIdentity:
        """Return the identity if the home directory belongs to our user."""
        asked, asked_root = self._remote.ask_stat(b"."), self._remote.ask_stat(b"/")
        home, root = await _described(asked), await _described(asked_root)
        is_proven = home.uid == 0 or root.uid not in (None, home.uid)
        return RemoteIdentity(uid=home.uid, is_proven=is_proven, at=time.monotonic())

    async def _find_identity(self, folder: bytes) -> RemoteIdentity:
        for where in (folder, b"."):  # in that folder, or in the home directory
            identity = await self.wait_for_identity()
            if identity is not None:
                return identity
            if where not in self._no_probe:
                await self._probe(where)
        return self.identity or RemoteIdentity()

    async def _probe(self, folder: bytes) -> None:
        remote, name = self._remote, temporary.names.new(b"")
        path = join(folder, name)
        try:
            handle = await remote.open(path, NEW_FILE_FLAGS, PRIVATE_MODE)
            self.start_identifying(handle, PRIVATE_MODE)
            remote.ask_close(handle)
            remote.ask_remove(path)
            await self.wait_for_identity()
        except Refused:
            self._no_probe.add(folder)
        finally:
            temporary.names.release(name)

    # Checks.

    def ask_folder(self, path: bytes) -> Optional[Reply]:
        """Request the attributes of a target's folder, unless known, for `check_target`."""
        where = folder_of(path)
        return None if where in self._folders else self._remote.ask_stat(where)

    async def check_target(
        self, path: bytes, found: Attributes, asked: Optional[Reply] = None
    ) -> None:
        """
        Refuse a target that another user created in a folder that others may write to.

        Raises
        ------
        SshTransferError
            A permission error with the path and the owner.
        """
        folder = await self._folder_around(path, asked)
        if may_use(found, folder, None):
            return
        identity = await self.identify(folder_of(path))
        if not may_use(found, folder, identity.uid if identity.is_proven else None):
            raise not_ours_error(display_path(path), found, "remote")

    def note_folder(self, path: bytes, found: Attributes) -> None:
        """Remember the attributes of a folder, at the end of its links, for `check_target`."""
        self._folders.setdefault(path, found)

    async def is_in_shared_folder(self, path: bytes) -> bool:
        """Return whether other users may write to the folder that contains `path`."""
        return is_shared(await self._folder_around(path))

    async def _folder_around(self, path: bytes, asked: Optional[Reply] = None) -> Attributes:
        where = folder_of(path)
        folder = self._folders.get(where)
        if folder is None:
            asked = asked or self._remote.ask_stat(where)
            folder = self._folders[where] = parse_attributes(await asked, where)
        return folder

    def ask_about(self, path: bytes) -> EntryReplies:
        """Request what `check_folder` needs to know of a folder, before it is called."""
        return EntryReplies(self.ask_folder(path), self._remote.ask_lstat(path))

    async def check_folder(
        self, path: bytes, is_explicit: bool = False, asked: Optional[EntryReplies] = None
    ) -> bool:
        """
        Check a folder, and each link that leads to it, as `check_target` does; False if missing.

        With `is_explicit`, the caller named it as a folder, so that any owner is accepted and only
        links are checked.
        """
        path = path.rstrip(b"/") or b"/"
        for _ in range(MAX_SYMLINKS):
            asked = asked or self.ask_about(path)
            try:
                found = await asked.found(path)
            except Refused:
                return True  # the request that needs the folder reports this
            if found is None:
                return False
            if is_explicit and not is_link(found):
                return True
            if basename(path) not in (b".", b".."):
                await self.check_target(path, found, asked.around)
            leads_to = await self._remote.read_link(path) if is_link(found) else None
            if leads_to is None:
                return True
            path, asked = leads_to.rstrip(b"/") or b"/", None
        return True

    async def guarded_path(self, folder: bytes) -> Optional[bytes]:
        """
        Return the real path of a folder if no other user can change where the path leads.

        Also return None if the server does not report enough about owners.
        """
        identity, way = self.identity, await self.resolve(folder)
        if identity is None or identity.uid is None or way.path is None:
            return None
        return way.path if all(self._is_guarded(f, identity) for f in way.folders) else None

    async def resolve(self, folder: bytes) -> ResolvedFolder:
        """Determine the real path of a folder and the folders on it, once per copy."""
        way = self._resolved.get(folder)
        if way is None:
            way = self._resolved[folder] = ResolvedFolder(TaskEvent(self._pipeline))
            try:
                await self._resolve(folder, way)
            except Refused:
                way.path = None
            finally:
                way.complete.set()
        await way.complete.wait()
        return way

    async def _resolve(self, folder: bytes, way: ResolvedFolder) -> None:
        around = self._resolved.get(folder_of(folder))
        if around is not None and around.path is not None and folder.strip(b"/"):
            path = join(around.path, basename(folder))
            found = await self._remote.lstat(path)
            if not is_link(found) and basename(folder) not in (b".", b".."):
                way.path, way.folders = path, [*around.folders, found]
                return
        # Most paths have no links, so the folders are requested at once, which saves a round trip.
        guess = folder if folder.startswith(b"/") else b""
        asked, guessed = self._remote.ask_real_path(folder), self._ask_folders(guess)
        real = parse_path(await asked, folder)
        replies = guessed if real == guess else self._ask_folders(real)
        way.folders = [parse_attributes(await reply, path) for path, reply in replies]
        way.path = real

    def _ask_folders(self, path: bytes) -> List[Tuple[bytes, Reply]]:
        """Request the folders on an absolute path, from the root to the path itself."""
        names = [name for name in path.split(b"/") if name]
        paths = [b"/" + b"/".join(names[:count]) for count in range(len(names) + 1)]
        return [(each, self._remote.ask_lstat(each)) for each in paths] if path else []

    def is_stable(self, way: ResolvedFolder) -> bool:
        """Return whether no other user can exchange a folder, which belongs to us or root."""
        identity = self.identity
        if identity is None or identity.uid is None or not way.folders:
            return False
        *around, folder = way.folders
        return folder.uid in (0, identity.uid) and all(map(self.is_guarded, around))

    @staticmethod
    def _is_guarded(folder: Attributes, identity: RemoteIdentity) -> bool:
        if identity.uid is None or not is_guarded(folder, identity.uid):
            return False
        return identity.is_proven or not is_shared(folder)

    def is_guarded(self, folder: Attributes) -> bool:
        """Return whether no other user can exchange our files in a folder."""
        return self.identity is not None and self._is_guarded(folder, self.identity)

    def is_ours(self, file: Attributes, links: Optional[int] = None) -> bool:
        """Return whether a file in a guarded folder is ours, regular, and has a single link."""
        identity = self.identity
        return (
            identity is not None
            and identity.uid is not None
            and is_our_file(file, identity.uid, links)
        )

    def is_our_stale_file(self, file: Attributes, links: Optional[int] = None) -> bool:
        """Return whether a file in a guarded folder is ours, and may be removed."""
        identity = self.identity
        return (
            identity is not None
            and identity.uid is not None
            and is_our_stale_file(file, identity.uid, links)
        )

    def is_our_private_folder(self, folder: Attributes) -> bool:
        """Return whether a folder in a guarded folder is ours, and closed to other users."""
        identity, mode = self.identity, folder.mode or 0
        if identity is None or identity.uid is None or folder.uid != identity.uid:
            return False
        return stat.S_ISDIR(mode) and not mode & 0o077


async def _described(reply: Reply) -> Attributes:
    try:
        return parse_attributes(await reply, b"")
    except Refused:
        return Attributes()
