"""What all parts of one copy share: its options, its bounds, its progress."""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
from typing import Callable, List, Optional, Set

from ssh_service.copying.failures import display_path
from ssh_service.copying.local.descriptors import current_umask
from ssh_service.copying.local.source_tree import SourceTree
from ssh_service.copying.new_trees import NewTrees
from ssh_service.copying.options import Options
from ssh_service.copying.pipeline import Pipeline
from ssh_service.copying.progress import Meter, ProgressTo
from ssh_service.copying.remote_files import RemoteFiles
from ssh_service.copying.remote_owner import RemoteOwner
from ssh_service.copying.sftp.client import SftpClient
from ssh_service.copying.sftp.protocol import Attributes
from ssh_service.copying.shell_command import ShellProcess
from ssh_service.copying.waiting import Budget, HandleBudget
from ssh_service.errors import SshTransferError, transfer_error, tree_error

__all__ = ["MANY_FILES", "CommandStarter", "CopyContext"]

_log = logging.getLogger("ssh_service.copying")

# Entries of one tree that may fail where the copy goes on: their errors are kept.
MAX_FAILURES = 10_000

# Small files, from how many on a stream over the server's shell is worth starting it.
MANY_FILES = 64

# Files of one copy on their way at once.  Each needs about three round trips, so a hundred keep
# a line of 60 ms busy with 500 files a second.
_MAX_OPEN_FILES = 100
# Folders that are being made or listed at once.
_MAX_OPEN_FOLDERS = 32
# Bytes on their way, not yet confirmed: what a line of 1 Gbit/s and 60 ms holds.
_BYTES_AT_ONCE = 8 * 1024 * 1024


# Starts a command in the server's shell, and sees to it that the process is told of the end.
CommandStarter = Callable[[bytes, ShellProcess], None]


class CopyContext:
    """
    One copy: what its parts share.

    Attributes
    ----------
    options : Options
        How to copy.
    new_trees : NewTrees
        The trees that the call makes.
    progress : Meter
        How far it is.
    pipeline : Pipeline
        Runs its tasks.
    remote : RemoteFiles
        The server's files.
    owner : RemoteOwner
        Which of them are ours.
    has_resumed : bool
        Whether anything was found that an earlier copy had begun.
    resumes_tree : bool
        Whether the whole tree was begun by an earlier copy.
    source_tree : Optional[SourceTree]
        The local tree that goes up, where symbolic links are kept.
    failures : List[SshTransferError]
        What of a tree could not be copied, where the rest of it is all the same.
    file_budget, folder_budget, byte_budget : Budget
        Bounds: on files open, on folders being made or listed, on bytes on their way.
    closing : contextlib.ExitStack
        What is to be closed once all tasks have ended, those that go on after a failure too.
    """

    def __init__(
        self,
        client: SftpClient,
        options: Options,
        stall_timeout: Optional[float] = None,
        progress: Optional[ProgressTo] = None,
        start_command: Optional[CommandStarter] = None,
        new_trees: Optional[NewTrees] = None,
    ) -> None:
        self._client = client
        self._start_command = start_command
        self.options = options
        self.new_trees = NewTrees() if new_trees is None else new_trees
        self.progress = progress if isinstance(progress, Meter) else Meter(progress)
        report = self.progress.report if self.progress.is_observed else None
        self.pipeline = Pipeline(client, stall_timeout, report)
        self.remote = RemoteFiles(client, self.pipeline)
        self.owner = RemoteOwner(self.remote, self.pipeline)
        self.has_resumed = self.resumes_tree = False
        self.source_tree: Optional[SourceTree] = None
        self._warned: Set[str] = set()
        alone = client.session.copy_lock is not None
        files, folders = (1, 1) if alone else (_MAX_OPEN_FILES, _MAX_OPEN_FOLDERS)
        self.file_budget = HandleBudget(self.pipeline, client.session, files)
        self.folder_budget = HandleBudget(self.pipeline, client.session, folders)
        self.byte_budget = Budget(self.pipeline, _BYTES_AT_ONCE)
        self._modes_refused = False
        self.failures: List[SshTransferError] = []
        self.closing = contextlib.ExitStack()
        if new_trees is None:
            self.closing.callback(self.new_trees.release)
        self.closing.callback(self.file_budget.release_all)
        self.closing.callback(self.folder_budget.release_all)

    @functools.cached_property
    def _umask(self) -> int:
        return current_umask()

    def local_attributes(self, attributes: Attributes) -> Attributes:
        """
        Give what a local copy gets of the modes and times that a server tells.

        Parameters
        ----------
        attributes : Attributes
            As the server tells them.
        """
        if self.options.preserve is False:
            return Attributes()
        mode = attributes.mode
        if mode is not None:
            mode &= 0o777  # nothing that a server says makes a program run as somebody else
            if self.options.preserve is None:
                mode &= ~(self._umask & 0o022)
        return attributes._replace(mode=mode)

    def on_entry_failed(self, error: SshTransferError) -> None:
        """
        Note that an entry of a tree could not be copied.

        Parameters
        ----------
        error : SshTransferError
            Why; raised unless the rest of the tree is to be copied, or too much could not be.
        """
        if not self.options.goes_on:
            raise error
        if len(self.failures) >= MAX_FAILURES:
            text = f"and {MAX_FAILURES} other entries: {error.strerror}"
            raise transfer_error(error.errno or errno.EIO, error.filename, text, side=error.side)
        self.failures.append(error)

    def raise_if_incomplete(self, path: bytes, side: str) -> None:
        """
        Raise what could not be copied, all of it, at the end of a copy.

        Parameters
        ----------
        path : bytes
            The source.
        side : str
            ``local`` or ``remote``: where that is.
        """
        if self.failures:
            raise tree_error(self.failures, display_path(path), side)

    def on_modes_refused(self, path: bytes, error: Exception) -> None:
        """
        Note that modes or times could not be set: an error if they must be, else logged once.

        Parameters
        ----------
        path : bytes
            Of the first file or folder concerned.
        error : Exception
            What was said; raised with ``preserve=True``.
        """
        if self.options.preserve:
            raise error
        if not self._modes_refused:
            self._modes_refused = True
            _log.warning(
                "modes and times could not be set, as for %r, and are left as they are: %s",
                display_path(path),
                error,
            )

    @property
    def skips_unchanged(self) -> bool:
        """Whether files that are there, with the same size and time, are not copied again."""
        return self.options.update or self.resumes_tree

    def log_if_not_resumed(self, path: bytes) -> None:
        """Say so if there was nothing to resume, though that was wanted."""
        if self.options.resume and not self.has_resumed:
            _log.info("%r: nothing to resume, all of it is copied", display_path(path))

    def warn_once(self, kind: str, text: str, *args: object) -> None:
        """
        Log a warning, the first time in this copy that there is one of this kind.

        Parameters
        ----------
        kind : str
            Distinguishes it from other warnings.
        text : str
            The message, as for a logger.
        args : object
            Its arguments.
        """
        if kind not in self._warned:
            self._warned.add(kind)
            _log.warning(text, *args)

    @property
    def has_shell(self) -> bool:
        """Whether there may be a shell beside SFTP."""
        return self._start_command is not None

    def start_command(self, command: bytes) -> ShellProcess:
        """
        Run a command in the server's shell.

        Parameters
        ----------
        command : bytes
            The command line.

        Returns
        -------
        ShellProcess
            Its input, output and end.
        """
        assert self._start_command is not None
        process = ShellProcess(self._client)
        self._start_command(command, process)
        return process
