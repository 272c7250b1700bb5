"""The state that all parts of one copy share: its options, budgets and progress."""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import sys
from typing import Callable, Iterator, List, Optional, Set

from ssh_service.copying.deletions import EXCLUDED
from ssh_service.copying.exclusions import Excludes, Exclusions, check_patterns
from ssh_service.copying.failures import display_path
from ssh_service.copying.local.descriptors import current_umask
from ssh_service.copying.local.source_tree import SourceTree
from ssh_service.copying.local.system import HAS_MODES
from ssh_service.copying.local.walk import Entry, walk
from ssh_service.copying.new_trees import NewTrees
from ssh_service.copying.options import Options
from ssh_service.copying.paths import to_bytes
from ssh_service.copying.pipeline import Pipeline
from ssh_service.copying.plan import PlannedAction
from ssh_service.copying.progress import Meter, ProgressTo
from ssh_service.copying.rate_limit import RateLimit
from ssh_service.copying.remote_files import RemoteFiles
from ssh_service.copying.remote_owner import RemoteOwner
from ssh_service.copying.sftp.client import SftpClient
from ssh_service.copying.sftp.protocol import Attributes
from ssh_service.copying.shell_command import ShellProcess
from ssh_service.copying.waiting import Budget, HandleBudget
from ssh_service.errors import SshTransferError, transfer_error, tree_error
from ssh_service.interruptions import find_interruption

__all__ = ["MANY_FILES", "CommandStarter", "CopyContext"]

_log = logging.getLogger("ssh_service.copying")

# The maximum number of errors kept for one tree with on_error="continue".
MAX_FAILURES = 10_000

# The number of small files above which a tar stream is worth starting a shell.
MANY_FILES = 64

# The maximum number of open files of one copy.  Each file needs about three round trips, so a
# hundred at once copy 500 files per second at a latency of 60 ms.
_MAX_OPEN_FILES = 100
# The maximum number of folders that are created or listed at once.
_MAX_OPEN_FOLDERS = 32
# The maximum number of unconfirmed bytes in flight: the capacity of a link with 1 Gbit/s, 60 ms.
_MAX_BYTES_IN_FLIGHT = 8 * 1024 * 1024


# Starts a command in the server's shell, and reports its end to the process.
CommandStarter = Callable[[bytes, ShellProcess], None]


def _no_shell(command: bytes, process: ShellProcess) -> None:
    process.on_exit(None)  # the command never started


class CopyContext:
    """
    The state of one copy.

    Attributes
    ----------
    has_resumed : bool
        Whether anything from an earlier copy was resumed.
    resumes_tree : bool
        Whether an earlier copy began the whole tree.
    has_shell : bool
        Whether commands can be run in the server's shell.
    may_stream : bool
        Whether small files may be copied in one stream by commands in that shell.
    source_tree : Optional[SourceTree]
        The local tree of an upload that keeps symbolic links.
    failures : List[SshTransferError]
        The entries that could not be copied, with ``on_error="continue"`` or ``dry_run=True``.
    exclusions, excludes : Optional[Excludes]
        Returns whether an entry is left out; None if nothing is.  A dry run changes `excludes`, so
        that it also records the entries of the source.
    planned : List[PlannedAction]
        The actions that are not done, with ``dry_run=True``.
    closing : contextlib.ExitStack
        Closed after all tasks have ended, including those that continue after a failure.
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
        self.has_shell = start_command is not None
        # A stream sends as much as the window allows, whatever the limit.
        self.may_stream = self.has_shell and options.max_rate is None
        self._start_command = start_command or _no_shell
        self.options = options
        self.new_trees = NewTrees() if new_trees is None else new_trees
        self.progress = progress if isinstance(progress, Meter) else Meter(progress)
        report = self.progress.report if self.progress.is_observed else None
        self.pipeline = Pipeline(client, stall_timeout, report)
        rate = options.max_rate
        limit = None if rate is None else RateLimit(rate, client, report)
        self.remote = RemoteFiles(client, self.pipeline, limit)
        self.owner = RemoteOwner(self.remote, self.pipeline, may_create=not options.dry_run)
        self.has_resumed = self.resumes_tree = False
        self.source_tree: Optional[SourceTree] = None
        patterns = check_patterns(options.exclude)
        self.exclusions: Optional[Excludes] = Exclusions(patterns).matches if patterns else None
        self.excludes: Optional[Excludes] = self.exclusions
        self.planned: List[PlannedAction] = []
        self._warned: Set[str] = set()
        alone = client.session.copy_lock is not None
        files, folders = (1, 1) if alone else (_MAX_OPEN_FILES, _MAX_OPEN_FOLDERS)
        self.file_budget = HandleBudget(self.pipeline, client.session, files)
        self.folder_budget = HandleBudget(self.pipeline, client.session, folders)
        in_flight = _MAX_BYTES_IN_FLIGHT
        if limit is not None:
            in_flight = min(in_flight, limit.bytes_in_flight)
        self.byte_budget = Budget(self.pipeline, in_flight)
        self._modes_refused = False
        self.failures: List[SshTransferError] = []
        self._outer = sys.exc_info()[1]  # the exception that our caller is handling
        self.closing = contextlib.ExitStack()
        if new_trees is None:
            self.closing.callback(self.new_trees.release)
        self.closing.callback(self.file_budget.release_all)
        self.closing.callback(self.folder_budget.release_all)

    @functools.cached_property
    def _umask(self) -> int:
        return current_umask()

    @property
    def keeps_modes(self) -> bool:
        """Whether an upload gives its copies the modes of the local files."""
        return HAS_MODES and self.options.preserve is not False

    def local_attributes(self, attributes: Attributes) -> Attributes:
        """Return the mode and times for a local copy of a file with these attributes."""
        if self.options.preserve is False:
            return Attributes()
        mode = attributes.mode
        if mode is not None:
            mode &= 0o777  # not setuid: a server must not make programs run as other users
            if self.options.preserve is None:
                mode &= ~(self._umask & 0o022)
        return attributes._replace(mode=mode)

    def walk(
        self,
        root: bytes,
        status: os.stat_result,
        on_failure: Callable[[SshTransferError], None],
    ) -> Iterator[Entry]:
        """Walk through a local tree, without the entries that are left out; see `walk`."""
        return walk(root, status, self.source_tree, on_failure, self.excludes)

    def plan(
        self,
        action: str,
        path: bytes,
        kind: str = "file",
        size: Optional[int] = None,
        reason: str = "",
    ) -> None:
        """Record an action that ``dry_run=True`` leaves out; see `PlannedAction`."""
        text = display_path(path[2:] if path.startswith(b"./") else path)
        self.planned.append(PlannedAction(action, text, kind, size, reason))

    def on_entry_failed(self, error: SshTransferError) -> None:
        """
        Record that an entry of a tree could not be copied.

        Raises
        ------
        SshTransferError
            The same error, unless the copy continues after failures; or an error for too many
            failures.
        """
        if not (self.options.goes_on or self.options.dry_run):
            raise error
        interruption = find_interruption(error, self._outer)
        if interruption is not None:  # raised by a signal handler, not by the entry
            raise interruption from error
        if len(self.failures) >= MAX_FAILURES:
            text = f"and {MAX_FAILURES} other entries: {error.strerror}"
            raise transfer_error(error.errno or errno.EIO, error.filename, text, side=error.side)
        self.failures.append(error)
        if self.options.dry_run:
            self.plan("fail", to_bytes(error.filename or ""), reason=error.strerror or "")

    def raise_if_incomplete(self, path: bytes, side: str) -> None:
        """Raise one error for all entries that failed, at the end of a copy."""
        if self.failures and not self.options.dry_run:
            raise tree_error(self.failures, display_path(path), side)

    def on_modes_refused(self, path: bytes, error: Exception) -> None:
        """Raise `error` with ``preserve=True``; otherwise log it, once per copy."""
        if self.options.preserve:
            raise error
        if not self._modes_refused:
            self._modes_refused = True
            self._log(
                logging.WARNING,
                "modes and times cannot be set, first for %r, and are left unchanged: %s",
                display_path(path),
                error,
            )

    @property
    def skips_unchanged(self) -> bool:
        """Whether files that exist with the same size and time are skipped."""
        return self.options.update or self.resumes_tree

    def on_kept(self, path: bytes, is_a_folder: bool, reason: str) -> None:
        """Report an entry that `delete` does not delete: in the plan, or once per reason."""
        if self.options.dry_run:
            self.plan("keep", path, "folder" if is_a_folder else "file", reason=reason)
        elif reason != EXCLUDED:
            self.warn_once(f"kept: {reason}", "%r is not deleted: %s", display_path(path), reason)

    def log_deleted(self, path: bytes, count: int) -> None:
        """Log how many entries of a target were deleted."""
        self._log(logging.INFO, "%r: %d entries deleted", display_path(path), count)

    def log_that_nothing_is_deleted(self, path: bytes) -> None:
        """Log a warning, after failures of a copy with `delete`."""
        count = len(self.failures)
        entries = "1 entry" if count == 1 else f"{count} entries"
        if self.options.dry_run:
            text = "%r: nothing would be deleted, because %s cannot be copied"
        else:
            text = "%r: nothing was deleted, because %s could not be copied"
        self._log(logging.WARNING, text, display_path(path), entries)

    def log_if_not_resumed(self, path: bytes) -> None:
        """Log a message if a copy with ``resume=True`` found nothing to resume."""
        if self.options.resume and not self.has_resumed:
            text = "%r: nothing to resume; copying everything"
            self._log(logging.INFO, text, display_path(path))

    def warn_once(self, kind: str, text: str, *args: object) -> None:
        """Log a warning, once per copy and `kind`."""
        if kind not in self._warned:
            self._warned.add(kind)
            self._log(logging.WARNING, text, *args)

    def _log(self, level: int, text: str, *args: object) -> None:
        """Log a message that begins with the connection."""
        _log.log(level, f"%s: {text}", self.remote.facts.connection_id or "a server", *args)

    def start_command(self, command: bytes) -> ShellProcess:
        """Run a command in the server's shell."""
        process = ShellProcess(self._client)
        self._start_command(command, process)
        return process
