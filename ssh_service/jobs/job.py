"""`Job`: a script that runs on a host independently of the connection."""

from __future__ import annotations

import re
import time
from typing import Any, Optional, Tuple, Union

from ssh_service.commands.command import check_seconds
from ssh_service.commands.output import check_encoding
from ssh_service.commands.result import CompletedProcess
from ssh_service.commands.sudo import Sudo
from ssh_service.errors import (
    SshCommandTimeout,
    SshConfigError,
    SshOutputLimitError,
    SshServiceError,
)
from ssh_service.jobs import scripts
from ssh_service.jobs.handle import JobDestination, JobHandle
from ssh_service.jobs.lines import JobLines, OutputReader
from ssh_service.jobs.questions import Look
from ssh_service.jobs.record import JobState, Seen
from ssh_service.params import Destination
from ssh_service.transport.text import printable

# Seconds for a job to end after TERM, and for its processes to disappear after KILL.
_END_TIMEOUT = 5.0
_STREAMS = ("stdout", "stderr")
_SIGNAL = re.compile(r"([A-Z][A-Z0-9+-]{1,15}|[1-9]|[1-5][0-9]|6[0-4])\Z")


class Job(JobHandle):
    """
    A job on a host; `start_job`, `find_job` and `list_jobs` return it.

    A job can be pickled together with its destination, unless that contains a secret, such as a
    password, which raises `TypeError`: call `find_job` in the other process instead.  Two jobs are
    equal if they are the same run of the same job.

    Attributes
    ----------
    id : str
        The job's name on the host.
    connection_id : str
        ``user@host:port`` of the host.
    state : JobState
        The state in the host's last answer; `poll` asks the host again.

    Notes
    -----
    Thread safety.  Every method may be called from any thread.  All threads that wait for jobs of
    one destination, or read their output, share one session; no additional thread is started for
    them.

    Guarantees.  The job does not depend on this object, this process or a connection.  `wait`,
    `lines` and `result` continue over a new connection if theirs is lost, until their timeout.  No
    method acts on a job that was started later with the same id.
    """

    def __reduce__(self) -> Tuple[Any, ...]:
        return _unpickle, (self.host.destination, self._seen, self.host.sudo)

    def poll(self, timeout: Optional[float] = None) -> JobState:
        """
        Ask the host what the job is doing.

        Parameters
        ----------
        timeout : Optional[float]
            Seconds to wait for the answer; None: no limit except that of connecting.

        Returns
        -------
        JobState
            The job's state; ``missing`` if the job was removed.

        Raises
        ------
        SshJobTimeout
            There was no answer in time (a `TimeoutError`).
        SshJobError
            The folder of jobs on the host cannot be read.
        SshServiceError
            The host could not be queried; the errors are those of `run`.
        """
        check_seconds("timeout", timeout)
        look = Look([self.id])
        try:
            found = self.host.watcher.ask(look, _deadline(timeout))
        except TimeoutError as error:
            if timeout is None or isinstance(error, SshServiceError):
                raise
            raise self.unanswered(timeout, None) from None
        if not found and look.refusal:
            raise self.error(
                f"{self.connection_id}: job {self.id}: {printable(look.refusal)}", self.state
            )
        return self.take({seen.job_id: seen for seen in found})

    def wait(self, timeout: Optional[float] = None) -> JobState:
        """
        Wait until the job no longer runs.

        Parameters
        ----------
        timeout : Optional[float]
            Seconds to wait; None: no limit.  The job continues after a timeout.

        Returns
        -------
        JobState
            The job's final state, which is never ``running``.

        Raises
        ------
        SshJobTimeout
            The timeout expired (a `TimeoutError`).  Its attribute `answered` says whether the host
            answered, so that the job still ran, or could not be queried; the message has the
            reason.
        SshServiceError
            A permanent error: a rejected login, a changed host key, a closed cache.
        """
        check_seconds("timeout", timeout)
        if self.state.is_over:
            return self.state
        waiter, watcher = self.make_waiter(), self.host.watcher
        try:
            watcher.add(waiter)
            if not waiter.settled.wait(timeout) and timeout is not None:
                problem = waiter.problem
                if waiter.is_heard and problem is None:
                    raise self.still_runs(timeout, "did not end within")
                raise self.unanswered(timeout, problem) from problem
        finally:
            watcher.remove(waiter)
        return self.take_waiter(waiter)

    def lines(
        self,
        start: int = 0,
        *,
        stream: str = "stdout",
        encoding: Optional[str] = "utf-8",
        follow: bool = True,
        timeout: Optional[float] = None,
    ) -> JobLines:
        """
        Iterate over the lines of the job's output as they are written, until the job is over.

        Parameters
        ----------
        start : int
            The offset of the first line, in bytes, such as `JobLines.offset` of an earlier call.
        stream : str
            ``"stdout"`` or ``"stderr"``.
        encoding : Optional[str]
            The encoding of the lines; bytes that cannot be decoded become backslash escapes.
            None: the lines are bytes.
        follow : bool
            Whether to wait for more output until the job is over; False: stop at the end of the
            existing output.  If the job is in the middle of a line then, the last line is the part
            that exists, without a newline, and its rest comes from `JobLines.offset` on.
        timeout : Optional[float]
            Seconds from this call to the last line; None: no limit.

        Returns
        -------
        JobLines
            An iterator over the lines, including their newlines.  Each byte is returned once, even
            if connections are lost.

        Raises
        ------
        SshConfigError
            A parameter is invalid (a `ValueError`).
        """
        if isinstance(start, bool) or not isinstance(start, int) or not 0 <= start < 2**63:
            raise SshConfigError(f"start: expected 0 to 2**63 - 1 bytes, got {start!r:.40}")
        if stream not in _STREAMS:
            raise SshConfigError(f"stream: expected 'stdout' or 'stderr', got {stream!r:.40}")
        check_encoding(encoding)
        if encoding is not None and "\n".encode(encoding) != b"\n":
            raise SshConfigError(
                f"encoding: lines cannot be separated in {encoding}; use encoding=None"
            )
        check_seconds("timeout", timeout)
        return JobLines(self, start, stream, encoding, timeout, bool(follow))

    def result(
        self, timeout: Optional[float] = None, *, max_output: Optional[int] = None
    ) -> CompletedProcess:
        """
        Wait until the job is over, and return its result.

        Parameters
        ----------
        timeout : Optional[float]
            Seconds for the job to end and for its output to arrive; None: no limit.
        max_output : Optional[int]
            The maximum size of stdout and of stderr, in bytes each; None: no limit.

        Returns
        -------
        CompletedProcess
            The result as from `run`, but ``command`` and ``env`` are None: the host does not store
            them.

        Raises
        ------
        SshJobError
            The job was killed, the host was rebooted, or its disk was full; `process` has the
            output so far, `state` the state.  `SshJobNotFound` if the job was removed.
        SshCommandTimeout
            The host ended the job after its ``run_timeout``; `process` has its output.
        SshOutputLimitError
            The job wrote more than `max_output` bytes; `process` has the output up to the limit.
        SshJobTimeout
            The timeout expired; see `wait`.
        SshServiceError
            A permanent error; see `wait`.
        """
        check_seconds("timeout", timeout)
        if max_output is not None and (
            isinstance(max_output, bool) or not isinstance(max_output, int) or max_output < 0
        ):
            raise SshConfigError(f"max_output: expected a number of bytes, got {max_output!r}")
        deadline = _deadline(timeout)
        state = self.wait(timeout)
        if not state.is_over:
            raise self.missing_error(state)
        outputs, limited = [], ""
        for stream in _STREAMS:
            kept, reader = bytearray(), OutputReader(self, 0, stream, timeout, deadline)
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
        process = CompletedProcess(
            None, None, stdout, stderr, status, exit_signal, connection_id=self.connection_id
        )
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
            problem = f"{state}: some of its output may be lost"
        if problem is not None:
            raise self.error(f"{where} {problem}", state, process)
        return process

    def kill(
        self, signal: Union[str, int, None] = None, *, timeout: Optional[float] = 60.0
    ) -> JobState:
        """
        End the job with all processes of its session, or send them a signal.

        That includes what a job that is over left running, unless its state is ``killed`` or the
        host has no ``/proc``.  A daemon that made a session of its own is not reached.

        Parameters
        ----------
        signal : Union[str, int, None]
            A signal to send, without waiting for its effect: its name, such as ``INT`` or
            ``SIGINT``, or its number on the host.  None: send TERM, send KILL after five seconds,
            and wait until all processes are gone.
        timeout : Optional[float]
            Seconds for the whole call; None: no limit except that of connecting.

        Returns
        -------
        JobState
            The state afterwards; unchanged if the job was already over.

        Raises
        ------
        SshConfigError
            `signal` is not a valid signal, or `timeout` not a number of seconds (a `ValueError`).
        SshJobError
            The host does not have this signal, or does not allow this user to send it; or the job
            belongs to another host, or its record is damaged.
        SshServiceError
            The host could not be reached; the errors are those of `run`.  The call may be
            repeated.
        """
        check_seconds("timeout", timeout, zero=False)
        signals, wait = ["TERM", "KILL"], _END_TIMEOUT
        if signal is not None:
            signals, wait = [signal_name(signal)], 0.0
        text = scripts.kill(self.id, self.token, signals, wait)
        state = self.take(self.host.query(text, timeout, self.id))
        if state.name in ("elsewhere", "damaged"):
            raise self.missing_error(state)
        return state

    def remove(self, *, timeout: Optional[float] = 60.0) -> None:
        """
        Remove the job's output and record from the host; do nothing if it was already removed.

        A removal that was interrupted is finished by the next one.

        Parameters
        ----------
        timeout : Optional[float]
            Seconds for the whole call; None: no limit except that of connecting.

        Raises
        ------
        SshConfigError
            `timeout` is not a number of seconds (a `ValueError`).
        SshJobError
            The job still runs or belongs to another host, its record is damaged, or its folder
            cannot be removed.
        SshServiceError
            The host could not be reached; the errors are those of `run`.  The call may be
            repeated.
        """
        check_seconds("timeout", timeout, zero=False)
        text = scripts.remove(self.id, self.token)
        state = self.take(self.host.query(text, timeout, self.id))
        if state.name == "running":
            raise self.error(
                f"{self.connection_id}: job {self.id} is still running: kill it first", state
            )
        if state.name in ("elsewhere", "damaged"):
            raise self.missing_error(state)


def signal_name(signal: Union[str, int]) -> str:
    """
    Return a signal as ``kill`` on a host accepts it: the name without ``SIG``, or the number.

    Raises
    ------
    SshConfigError
        The value cannot be a signal.
    """
    if isinstance(signal, int) and not isinstance(signal, bool):
        signal = str(signal)
    name = signal.upper() if isinstance(signal, str) else ""
    name = name[3:] if name.startswith("SIG") else name
    if not _SIGNAL.match(name):
        raise SshConfigError(
            f"signal: expected a name such as TERM, or a number from 1 to 64, got {signal!r:.40}"
        )
    return name


def _deadline(timeout: Optional[float]) -> Optional[float]:
    return None if timeout is None else time.monotonic() + timeout


def _unpickle(destination: Destination, seen: Seen, sudo: Optional[Sudo] = None) -> Job:
    return Job(JobDestination(destination, None, sudo), seen)
