"""A job that runs on a host on its own: what a program may do with it."""

from __future__ import annotations

import collections
import time
from typing import Any, Callable, Deque, Dict, List, Mapping, Optional, Tuple, Union

from ssh_service import api, params
from ssh_service.commands.command import check_seconds
from ssh_service.commands.output import check_encoding
from ssh_service.commands.process_group import check_signal
from ssh_service.commands.result import CompletedProcess
from ssh_service.connections.cache import SshClientCache, check_cache
from ssh_service.errors import (
    SshCommandTimeout,
    SshConfigError,
    SshJobError,
    SshJobNotFound,
    SshOutputLimitError,
    SshServiceError,
    copy_for_raise,
)
from ssh_service.jobs import scripts
from ssh_service.jobs.questions import Look, Piece, Question, Read
from ssh_service.jobs.record import JobState, Seen, answer, check_id, parse
from ssh_service.jobs.watcher import Waiter, Watcher, is_passing, watcher_of
from ssh_service.params import ConnectParams

Destination = Mapping[str, Any]

# Seconds until a question is asked again that a lost connection left without an answer.
_MIN_RETRY, _MAX_RETRY = 0.1, 5.0
# Seconds between two looks at output that does not grow; doubled each time.
_MIN_PAUSE, _MAX_PAUSE = 0.05, 1.0
# Seconds that a job has to end after TERM, and its processes to be gone after KILL.
_END_TIMEOUT = 5.0
_STREAMS = ("stdout", "stderr")


class Host:
    """A destination, and how it is asked about jobs."""

    def __init__(self, destination: Destination, cache: Optional[SshClientCache]) -> None:
        check_cache(cache)
        self.destination = params.conceal(destination)
        self.target: ConnectParams = params.resolve_concealed(self.destination)
        self.given_cache = cache
        self.cache = api.default_cache() if cache is None else cache

    @property
    def connection_id(self) -> str:
        """``user@host:port``."""
        return self.target.connection_id

    @property
    def watcher(self) -> Watcher:
        """The session over which it is asked; another one after a fork."""
        return watcher_of(self.cache, self.target)

    def run(self, text: str, timeout: Optional[float], stdin: bytes = b"") -> CompletedProcess:
        """Run a script of ours, once."""
        return api.run(
            self.destination, text, shell="/bin/sh", stdin=stdin, timeout=timeout, cache=self.cache
        )

    def query(self, text: str, timeout: Optional[float]) -> Dict[str, Seen]:
        """Run a script of ours that answers in lines about jobs."""
        process = self.run(text, timeout)
        lines = answer(process.stdout)
        if lines is None:
            raise SshJobError(
                f"{self.connection_id}: the host does not answer about jobs:"
                f" {(process.stderr.strip() or repr(process))!r:.200}",
                connection_id=self.connection_id,
            )
        found = [seen for seen in map(parse, lines) if seen is not None]
        return {seen.job_id: seen for seen in found}

    def ask(self, question: Callable[[], Question], deadline: Optional[float]) -> Any:
        """Ask until there is an answer; errors that may pass are waited for."""
        delay = _MIN_RETRY
        while True:
            try:
                return self.watcher.ask(question(), deadline)
            except SshServiceError as error:
                if not is_passing(error):
                    raise
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= delay:
                    raise
                time.sleep(delay)
                delay = min(2 * delay, _MAX_RETRY)


class Job:
    """
    A job on a host; `start_job`, `find_job` and `list_jobs` return it.

    It can be pickled, with its destination, the secrets of that excepted: where the destination
    holds a password, use `find_job` in the other process instead.  Two jobs are equal if they are
    the same run of the same job.

    Attributes
    ----------
    id : str
        Its name on the host.
    connection_id : str
        ``user@host:port`` of the host.

    Notes
    -----
    Thread safety.  Every method may be called from any thread.  All threads that wait for jobs of
    one destination, or read their output, share one session and no thread of ours.

    Guarantees.  The job does not depend on this object, this process, or a connection.  `wait`,
    `lines` and `result` go on over a new connection when theirs is lost, until their time is up.
    No method acts on a job that was started later with the same id.
    """

    def __init__(self, host: Host, seen: Seen) -> None:
        self.id = seen.job_id
        self._host = host
        self._seen = seen
        self.connection_id = host.connection_id

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} at {self.connection_id} ({self._seen.state})>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Job):
            return NotImplemented
        return self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    @property
    def _identity(self) -> Tuple[str, str, str]:
        return self.connection_id, self.id, self._seen.token

    def __reduce__(self) -> Tuple[Any, ...]:
        return _unpickle, (self._host.destination, self._seen)

    @property
    def state(self) -> JobState:
        """
        What was last heard of it; `poll` asks the host.

        Returns
        -------
        JobState
            The state.
        """
        return self._seen.state

    def poll(self, timeout: Optional[float] = None) -> JobState:
        """
        Ask the host what the job is doing.

        Parameters
        ----------
        timeout : Optional[float]
            Seconds to wait for the answer; None: no limit, except that of connecting.

        Returns
        -------
        JobState
            Its state; ``missing`` if it was removed.

        Raises
        ------
        SshServiceError
            The host cannot be asked, as with `run`.
        TimeoutError
            There was no answer in time.
        """
        check_seconds("timeout", timeout)
        deadline = None if timeout is None else time.monotonic() + timeout
        found = self._host.watcher.ask(Look([self.id]), deadline)
        return self._take({seen.job_id: seen for seen in found})

    def wait(self, timeout: Optional[float] = None) -> JobState:
        """
        Wait until the job does not run any more.

        Parameters
        ----------
        timeout : Optional[float]
            Seconds to wait; None: no limit.  The job continues when they are over.

        Returns
        -------
        JobState
            Its state, which is not ``running``.

        Raises
        ------
        TimeoutError
            It still ran, or the host could not be asked, when the time was over.
        SshServiceError
            An error that does not pass: a refused login, another host key, a closed cache.
        """
        check_seconds("timeout", timeout)
        if self.state.is_over:
            return self.state
        waiter, watcher = self._waiter(), self._host.watcher
        try:
            watcher.add(waiter)
            if not waiter.settled.wait(timeout):
                raise TimeoutError(
                    f"{self.connection_id}: job {self.id} still runs after a wait of {timeout:g} s,"
                    " or cannot be asked; it goes on"
                )
        finally:
            watcher.remove(waiter)
        return self._take_waiter(waiter)

    def _waiter(self) -> Waiter:
        return Waiter(self.id, self._seen.token, self._seen.supervisor)

    def _take_waiter(self, waiter: Waiter) -> JobState:
        if waiter.error is not None:
            raise copy_for_raise(waiter.error) from waiter.error
        return self._take({} if waiter.seen is None else {self.id: waiter.seen})

    def _take(self, found: Mapping[str, Seen]) -> JobState:
        """Remember what was seen of this job, and not of a later one with its id."""
        seen = found.get(self.id)
        if seen is None:
            raise SshJobError(
                f"{self.connection_id}: the host does not answer about job {self.id}",
                connection_id=self.connection_id,
                job_id=self.id,
            )
        if self.state.is_over and seen.token == self._seen.token:
            return self.state
        state = seen.state
        if seen.state.name != "missing" and seen.token != self._seen.token:
            state = JobState("missing")
        self._seen = self._seen._replace(state=state)
        return state

    def lines(
        self,
        start: int = 0,
        *,
        stream: str = "stdout",
        encoding: Optional[str] = "utf-8",
        timeout: Optional[float] = None,
    ) -> "JobLines":
        """
        Follow the job's output line by line, until the job is over.

        Parameters
        ----------
        start : int
            The offset in bytes of the first line, such as `JobLines.offset` of an earlier call.
        stream : str
            ``"stdout"`` or ``"stderr"``.
        encoding : Optional[str]
            The encoding of the lines; bytes that it cannot decode become backslash escapes.
            None: the lines are bytes.
        timeout : Optional[float]
            Seconds from the call for the whole; None: no limit.

        Returns
        -------
        JobLines
            An iterator over the lines with their newlines.  Each byte comes once, through any
            number of lost connections.

        Raises
        ------
        SshConfigError
            A parameter is invalid (a `ValueError`).
        """
        if isinstance(start, bool) or not isinstance(start, int) or start < 0:
            raise SshConfigError(f"start: expected 0 or more bytes, got {start!r:.40}")
        if stream not in _STREAMS:
            raise SshConfigError(f"stream: expected 'stdout' or 'stderr', got {stream!r:.40}")
        check_encoding(encoding)
        if encoding is not None and "\n".encode(encoding) != b"\n":
            raise SshConfigError(
                f"encoding: lines cannot be separated in {encoding}; use encoding=None"
            )
        check_seconds("timeout", timeout)
        return JobLines(self, start, stream, encoding, _deadline(timeout))

    def result(
        self, timeout: Optional[float] = None, *, max_output: Optional[int] = None
    ) -> CompletedProcess:
        """
        Wait until the job is over, and return its outcome.

        Parameters
        ----------
        timeout : Optional[float]
            Seconds for the job to end, and its output to arrive; None: no limit.
        max_output : Optional[int]
            The most bytes that stdout and stderr may each have; None: no limit.

        Returns
        -------
        CompletedProcess
            As from `run`, but ``command`` and ``env`` are None: the host does not keep them.

        Raises
        ------
        SshJobError
            The job was killed, the host was rebooted, or its disk was full; `process` has the
            output so far, `state` the state.  `SshJobNotFound` if it was removed.
        SshCommandTimeout
            The job was ended after its ``run_timeout``; `process` has its output.
        SshOutputLimitError
            It wrote more than `max_output`; `process` has the output up to the limit.
        TimeoutError
            The time was up.
        SshServiceError
            See `wait`.
        """
        check_seconds("timeout", timeout)
        if max_output is not None and not (isinstance(max_output, int) and max_output >= 0):
            raise SshConfigError(f"max_output: expected a number of bytes, got {max_output!r}")
        deadline = _deadline(timeout)
        state = self.wait(timeout)
        if not state.is_over:
            raise self._missing(state)
        outputs, limited = [], ""
        for stream in _STREAMS:
            kept, reader = bytearray(), _Reader(self, 0, stream, deadline)
            while not reader.is_at_end:
                kept += reader.read()
                if max_output is not None and len(kept) > max_output:
                    del kept[max_output:]
                    limited = limited or stream
                    break
            outputs.append(bytes(kept))
        return self._outcome(state, outputs[0], outputs[1], limited, max_output)

    def _outcome(
        self,
        state: JobState,
        stdout: bytes,
        stderr: bytes,
        limited: str,
        max_output: Optional[int],
    ) -> CompletedProcess:
        exit_signal = None if state.signal is None else (state.signal, False, "", "")
        status = -1 if exit_signal else state.exit_status
        process = CompletedProcess(None, None, stdout, stderr, status, exit_signal)
        where = f"{self.connection_id}: job {self.id}"
        if limited:
            raise SshOutputLimitError(
                f"{where} wrote more than {max_output} bytes to {limited}",
                process=process,
                ended=True,
                connection_id=self.connection_id,
            )
        if state.timed_out:
            raise SshCommandTimeout(
                f"{where} was ended, as its run_timeout was over",
                process=process,
                ended=True,
                connection_id=self.connection_id,
            )
        problem = {
            "killed": "was killed: its shell is gone and left no status",
            "rebooted": "did not end: the host was rebooted while it ran",
        }.get(state.name)
        if state.disk_full:
            problem = f"ended as {state}, but the disk with its output was full: some may be lost"
        if problem is not None:
            raise self._error(f"{where} {problem}", state, process)
        return process

    def _error(
        self, text: str, state: JobState, process: Optional[CompletedProcess] = None
    ) -> SshJobError:
        cls = SshJobNotFound if state.name == "missing" else SshJobError
        return cls(
            text, connection_id=self.connection_id, job_id=self.id, state=state, process=process
        )

    def _missing(self, state: JobState) -> SshJobError:
        what = (
            f"belongs to the host {state.host}, which shares the home directory"
            if state.name == "elsewhere"
            else "is not there any more"
        )
        return self._error(f"{self.connection_id}: job {self.id} {what}", state)

    def kill(self, signal: Optional[str] = None, *, timeout: Optional[float] = 60.0) -> JobState:
        """
        End the job with all its processes, or send them a signal.

        Parameters
        ----------
        signal : Optional[str]
            A signal to send, such as ``INT``, without waiting for its effect.  None: TERM, and
            after five seconds KILL, until they are gone.
        timeout : Optional[float]
            Seconds for the whole; None: no limit, except that of connecting.

        Returns
        -------
        JobState
            The state afterwards; the same as before if the job was over.

        Raises
        ------
        SshConfigError
            `signal` is not the name of a signal (a `ValueError`).
        SshServiceError
            As with `run`; the call may be repeated.
        """
        if signal is not None:
            check_signal(signal)
        signals, wait = (["TERM", "KILL"], _END_TIMEOUT) if signal is None else ([signal], 0.0)
        text = scripts.kill(self.id, self._seen.token, signals, wait)
        return self._take(self._host.query(text, timeout))

    def remove(self, *, timeout: Optional[float] = 60.0) -> None:
        """
        Remove the job's output and record from the host; nothing happens if it was removed.

        Parameters
        ----------
        timeout : Optional[float]
            Seconds for the whole; None: no limit, except that of connecting.

        Raises
        ------
        SshJobError
            It still runs, is another host's, or its folder cannot be removed.
        SshServiceError
            As with `run`; the call may be repeated.
        """
        found = self._host.query(scripts.remove(self.id, self._seen.token), timeout)
        seen = found.get(self.id)
        if seen is not None and seen.state.name == "stuck":
            raise self._error(
                f"{self.connection_id}: the folder of job {self.id} cannot be removed", self.state
            )
        state = self._take(found)
        if state.name == "running":
            raise self._error(f"{self.connection_id}: job {self.id} runs; end it first", state)
        if state.name == "elsewhere":
            raise self._missing(state)


class _Reader:
    """Reads a job's output piece by piece; what interrupts a call is as if it was not made."""

    def __init__(self, job: Job, start: int, stream: str, deadline: Optional[float]) -> None:
        self._job, self._stream, self._deadline = job, stream, deadline
        self._offset, self._pause = start, _MIN_PAUSE
        self._waiter: Optional[Waiter] = None
        self.is_at_end = False  # of what was there when it was read last

    def read(self) -> bytes:
        """Return what comes next; empty at the end of what is there."""
        job = self._job
        piece: Piece = job._host.ask(
            lambda: Read(job.id, job._seen.token, self._stream, self._offset), self._deadline
        )
        if piece.size < 0:
            raise job._missing(JobState("missing"))
        if piece.size < self._offset:
            raise job._error(
                f"{job.connection_id}: {self._stream} of job {job.id} has {piece.size} bytes,"
                f" expected {self._offset}; does the job truncate /dev/{self._stream}?",
                job.state,
            )
        self._offset += len(piece.data)
        self.is_at_end = self._offset >= piece.size
        return piece.data

    def follow(self) -> bytes:
        """Return what comes next, and wait for it; empty when the job is over."""
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
                raise TimeoutError(f"{self._job.connection_id}: job {self._job.id} still runs")
            seconds = min(seconds, left)
        if self._waiter is None:
            self._waiter = self._job._waiter()
            self._job._host.watcher.add(self._waiter)
        if not self._waiter.settled.wait(seconds):
            return False
        waiter, self._waiter = self._waiter, None
        state = self._job._take_waiter(waiter)
        if not state.is_over:
            raise self._job._missing(state)
        return True


class JobLines:
    """
    The lines of a job's output, as they come; `Job.lines` returns it.

    Attributes
    ----------
    offset : int
        The offset in bytes behind the last line that was taken, for `Job.lines`.

    Notes
    -----
    Thread safety.  For one thread at a time.  An error or an interruption loses nothing: the next
    line is the one that would have come.
    """

    def __init__(
        self,
        job: Job,
        start: int,
        stream: str,
        encoding: Optional[str],
        deadline: Optional[float],
    ) -> None:
        self.offset = start
        self._encoding = encoding
        self._reader = _Reader(job, start, stream, deadline)
        self._lines: Deque[bytes] = collections.deque()
        self._begun: List[bytes] = []  # the pieces of a line whose end has not come
        self._is_complete = False

    def __iter__(self) -> "JobLines":
        return self

    def __next__(self) -> Union[str, bytes]:
        """
        Wait for the next line.

        Returns
        -------
        Union[str, bytes]
            The line with its newline; the last one may have none.

        Raises
        ------
        StopIteration
            The job is over, and all of its output was taken.
        SshJobError
            The job was removed, or truncated its output.
        TimeoutError
            The time was up.
        SshServiceError
            See `Job.wait`.
        """
        while not self._lines and not self._is_complete:
            data = self._reader.follow()
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


def _deadline(timeout: Optional[float]) -> Optional[float]:
    return None if timeout is None else time.monotonic() + timeout


def _unpickle(destination: Destination, seen: Seen) -> Job:
    return Job(Host(destination, None), seen)
