"""What all parts of one copy share: its options, its bounds, its progress."""

from __future__ import annotations

import time
from typing import Callable, NamedTuple, Optional, Tuple

from ssh_service.copying.pipeline import Budget, HandleBudget, Pipeline
from ssh_service.copying.process import Process
from ssh_service.copying.remote_files import RemoteFiles
from ssh_service.copying.session import Lane

__all__ = ["MANY_FILES", "CommandStarter", "Job", "Options", "Progress", "ProgressCallback"]

# Small files, from how many on a stream over the server's shell is worth starting it.
MANY_FILES = 64

# Files of one copy on their way at once.  Each needs about three round trips, so a hundred keep
# a line of 60 ms busy with 500 files a second.
_FILES_AT_ONCE = 100
# Folders that are being made or listed at once.
_FOLDERS_AT_ONCE = 32
# Bytes on their way, not yet confirmed: what a line of 1 Gbit/s and 60 ms holds.
_BYTES_AT_ONCE = 8 * 1024 * 1024
# Seconds between two reports of progress.
_REPORT_EVERY = 0.1


class Options(NamedTuple):
    """How to copy; see `ssh_service.copying.upload`."""

    recursive: bool = True
    verify: bool = False
    resume: bool = False
    fsync: bool = False


class Progress(NamedTuple):
    """
    How far a copy is.

    A total is None while it is not known, which is until all folders have been listed.
    """

    bytes_done: int
    bytes_total: Optional[int]
    files_done: int
    files_total: Optional[int]


ProgressCallback = Callable[[Progress], None]
# Starts a command in the server's shell, and sees to it that the process is told of the end.
CommandStarter = Callable[[bytes, Process], None]


class Job:
    """
    One copy: what its parts share.

    Attributes
    ----------
    pipeline : Pipeline
        Runs its tasks.
    remote : RemoteFiles
        The server's files.
    options : Options
        How to copy.
    files, folders, flow : Budget
        Bounds: on files open, on folders being made or listed, on bytes on their way.
    """

    def __init__(
        self,
        lane: Lane,
        options: Options,
        timeout: Optional[float] = None,
        progress: Optional[ProgressCallback] = None,
        start_command: Optional[CommandStarter] = None,
    ) -> None:
        self.options = options
        self._lane = lane
        self._start_command = start_command
        self.pipeline = Pipeline(lane, timeout, self._report if progress else None)
        self.remote = RemoteFiles(lane)
        self.files = HandleBudget(self.pipeline, _FILES_AT_ONCE)
        self.folders = HandleBudget(self.pipeline, _FOLDERS_AT_ONCE)
        self.flow = Budget(self.pipeline, _BYTES_AT_ONCE)
        self._progress = progress
        self._reported = time.monotonic()
        self._bytes_done = self._bytes_total = self._files_done = self._files_total = 0
        self._total_is_known = False

    @property
    def has_shell(self) -> bool:
        """Whether there may be a shell beside SFTP."""
        return self._start_command is not None

    def start_command(self, command: bytes) -> Process:
        """
        Run a command in the server's shell.

        Parameters
        ----------
        command : bytes
            The command line.

        Returns
        -------
        Process
            Its input, output and end.
        """
        assert self._start_command is not None
        process = Process(self._lane)
        self._start_command(command, process)
        return process

    @property
    def wants_progress(self) -> bool:
        """Whether anyone is told of the progress."""
        return self._progress is not None

    def expect(self, size: int) -> None:
        """Note that there is one more file to copy."""
        self._files_total += 1
        self._bytes_total += size

    def expect_no_more(self) -> None:
        """Note that the totals are known."""
        self._total_is_known = True

    def advance(self, size: int) -> None:
        """Note that `size` bytes have arrived."""
        self._bytes_done += size

    def file_done(self) -> None:
        """Note that one more file is in its place."""
        self._files_done += 1

    @property
    def progress(self) -> Tuple[int, int]:
        """How many bytes have arrived, and files are in their place."""
        return self._bytes_done, self._files_done

    def go_back(self, progress: Tuple[int, int]) -> None:
        """Note that what came since counts for nothing: it is copied once more."""
        self._bytes_done, self._files_done = progress

    def finish(self) -> None:
        """Report the end."""
        self._report(last=True)

    def _report(self, last: bool = False) -> None:
        now = time.monotonic()
        if self._progress is not None and (last or now - self._reported >= _REPORT_EVERY):
            self._reported = now
            known = self._total_is_known
            self._progress(
                Progress(
                    self._bytes_done,
                    self._bytes_total if known else None,
                    self._files_done,
                    self._files_total if known else None,
                )
            )
