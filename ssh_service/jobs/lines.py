"""Read the output of a job in pieces and in lines."""

from __future__ import annotations

import collections
import time
from typing import Any, Deque, List, Optional

from ssh_service.errors import SshJobTimeout, SshServiceError
from ssh_service.jobs.handle import JobHandle
from ssh_service.jobs.questions import Piece, Read
from ssh_service.jobs.record import JobState
from ssh_service.jobs.watcher import Waiter

# Seconds between two reads of output that does not grow; doubled each time.
_MIN_PAUSE, _MAX_PAUSE = 0.05, 1.0
# Seconds for which a host counts as answering after an answer.
_ANSWER_TIMEOUT = 5.0


class OutputReader:
    """Reads a job's output in pieces; an interrupted call has no effect."""

    def __init__(
        self,
        job: JobHandle,
        start: int,
        stream: str,
        timeout: Optional[float],
        deadline: Optional[float],
    ) -> None:
        self._job, self._stream = job, stream
        self._timeout, self._deadline = timeout or 0.0, deadline
        self._start = self._offset = start
        self._pause, self._heard_at = _MIN_PAUSE, 0.0
        self._waiter: Optional[Waiter] = None
        self.is_at_end = False  # of the output that existed at the last read

    def read(self) -> bytes:
        """Return the next piece; empty at the current end of the output."""
        job = self._job
        try:
            piece: Piece = job.host.ask(
                lambda: Read(job.id, job.token, self._stream, self._offset), self._deadline
            )
        except TimeoutError as error:
            if isinstance(error, SshServiceError):
                raise
            raise self._late_error(error.__cause__) from error.__cause__
        self._heard_at = time.monotonic()
        if piece.size < -1:
            raise job.error(
                f"{job.connection_id}: job {job.id}: the folder of jobs cannot be read",
                job.state,
            )
        if piece.size < 0:
            raise job.missing_error(JobState("missing"))
        if piece.size < self._offset:
            what = f"{job.connection_id}: {self._stream} of job {job.id} has {piece.size} bytes"
            if self._offset == self._start:
                raise job.error(f"{what}: the offset {self._start} is behind its end", job.state)
            raise job.error(
                f"{what}, after {self._offset} were read: the job has truncated it, perhaps by"
                f" opening /dev/{self._stream} with '>'",
                job.state,
            )
        self._offset += len(piece.data)
        self.is_at_end = self._offset >= piece.size
        return piece.data

    def _late_error(self, reason: Optional[BaseException]) -> SshJobTimeout:
        if reason is not None or time.monotonic() - self._heard_at > _ANSWER_TIMEOUT:
            return self._job.unanswered(self._timeout, reason)
        if self.is_at_end:
            return self._job.still_runs(self._timeout, "wrote nothing more within")
        return self._job.late(f"did not have all of its output read within {self._timeout:g} s")

    def follow(self) -> bytes:
        """Wait for the next piece and return it; empty once the job is over."""
        while True:
            was_over = self._job.state.is_over
            data = self.read()
            if data:
                self._pause = _MIN_PAUSE
                return data
            if was_over:
                return b""
            if not self._wait_for_end():
                self._pause = min(2 * self._pause, _MAX_PAUSE)

    def _wait_for_end(self) -> bool:
        seconds = self._pause
        if self._deadline is not None:
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise self._late_error(None)
            seconds = min(seconds, left)
        if self._waiter is None:
            self._waiter = self._job.make_waiter()
            self._job.host.watcher.add(self._waiter)
        if not self._waiter.settled.wait(seconds):
            return False
        waiter, self._waiter = self._waiter, None
        state = self._job.take_waiter(waiter)
        if not state.is_over:
            raise self._job.missing_error(state)
        return True


class JobLines:
    """
    Iterator over the lines of a job's output; `Job.lines` returns it.

    Attributes
    ----------
    offset : int
        The offset in bytes after the last line returned, for `Job.lines`.

    Notes
    -----
    Thread safety.  Only one thread at a time may use this object.  An error or an interruption
    loses no line: the next call returns the line that would have come.
    """

    def __init__(
        self,
        job: JobHandle,
        start: int,
        stream: str,
        encoding: Optional[str],
        timeout: Optional[float],
        follow: bool = True,
    ) -> None:
        deadline = None if timeout is None else time.monotonic() + timeout
        self.offset = start
        self._follow = follow
        self._encoding = encoding
        self._reader = OutputReader(job, start, stream, timeout, deadline)
        self._lines: Deque[bytes] = collections.deque()
        self._begun: List[bytes] = []  # the pieces of a line whose end has not arrived
        self._is_complete = False

    def __iter__(self) -> "JobLines":
        return self

    def __next__(self) -> Any:
        """
        Wait for the next line.

        Returns
        -------
        Union[str, bytes]
            The line with its newline; the last line may have none.

        Raises
        ------
        StopIteration
            The job is over, and all of its output was returned.
        SshJobError
            The job was removed, or truncated its output.
        SshJobTimeout
            The timeout expired (a `TimeoutError`).
        SshServiceError
            A permanent error; see `Job.wait`.
        """
        while not self._lines and not self._is_complete:
            data = self._reader.follow() if self._follow else self._reader.read()
            *ends, rest = data.split(b"\n")
            if ends:
                ends[0], self._begun = b"".join([*self._begun, ends[0]]), []
            self._lines.extend(end + b"\n" for end in ends)
            if rest:
                self._begun.append(rest)
            if not data:
                self._is_complete = True
                self._lines.append(b"".join(self._begun))
        line = self._lines.popleft() if self._lines else b""
        if not line:
            raise StopIteration
        self.offset += len(line)
        return line if self._encoding is None else line.decode(self._encoding, "backslashreplace")
