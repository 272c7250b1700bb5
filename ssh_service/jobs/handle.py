"""A job on a host: its state, and the queries about it."""

from __future__ import annotations

import time
from typing import Any, Callable, Dict, Mapping, Optional, Tuple

from ssh_service import api, params
from ssh_service.commands.result import CompletedProcess
from ssh_service.commands.sudo import Sudo
from ssh_service.commands.sudo_input import HINT_AT_ARGS
from ssh_service.connections.cache import SshClientCache, check_cache
from ssh_service.errors import (
    SshCommandTimeout,
    SshJobError,
    SshJobNotFound,
    SshJobTimeout,
    SshServiceError,
    SshSudoRefused,
    copy_for_raise,
)
from ssh_service.jobs.questions import Question
from ssh_service.jobs.record import JobState, Seen, answer, parse
from ssh_service.jobs.session import MAX_ENDS, ends_by_itself, is_passing, useless_error
from ssh_service.jobs.watcher import Waiter, Watcher, watcher_of
from ssh_service.params import ConnectParams

# Seconds before a query is repeated whose answer was lost with the connection; doubled each time.
_MIN_RETRY, _MAX_RETRY = 0.1, 5.0
# The message for a job whose record or status cannot be read.
DAMAGED = (
    "has a damaged record or status, and may run or not. Look on the host: pgrep -f"
    """ 'ssh_service job {0}', and ls -R"""
    ' "${{XDG_STATE_HOME:-$HOME/.local/state}}/ssh_service/jobs/{0}"; remove that'
    " folder with rm -r, and the id is free again"
)
# The message for a job of another host, or of this one before it was both renamed and rebooted.
ELSEWHERE = (
    "belongs to the host {1}, which shares the home directory; ask that host. If that is an"
    " earlier name of this one, remove the folder"
    ' "${{XDG_STATE_HOME:-$HOME/.local/state}}/ssh_service/jobs/{0}" with rm -r'
)


class JobDestination:
    """A destination, with the means to query its jobs; with `sudo`, the jobs of another user."""

    def __init__(
        self,
        destination: params.Destination,
        cache: Optional[SshClientCache],
        sudo: Optional[Sudo] = None,
    ) -> None:
        check_cache(cache)
        self.destination = params.conceal(destination)
        self.target: ConnectParams = params.resolve_concealed(self.destination)
        self.given_cache = cache
        self.sudo = sudo
        self._options: Dict[str, Any] = {}
        if sudo is not None:
            self._options = {"sudo": sudo.user or True, "sudo_password": sudo.password}
        self.cache = api.default_cache() if cache is None else cache

    @property
    def connection_id(self) -> str:
        """``user@host:port``."""
        return self.target.connection_id

    @property
    def watcher(self) -> Watcher:
        """The watcher of this destination; a new one after a fork."""
        return watcher_of(self.cache, self.target, self.sudo)

    def run(self, text: str, timeout: Optional[float], stdin: bytes = b"") -> CompletedProcess:
        """Run one of our scripts, once."""
        try:
            return api.run(
                self.destination,
                text,
                shell="/bin/sh",
                stdin=stdin,
                timeout=timeout,
                cache=self.cache,
                **self._options,
            )
        except SshSudoRefused as error:
            refused = copy_for_raise(error)
            text = str(error).replace(HINT_AT_ARGS, "; jobs need a rule that allows /bin/sh")
            refused.args = (text,)
            raise refused from error

    def query(
        self, text: str, timeout: Optional[float], job_id: Optional[str] = None
    ) -> Dict[str, Seen]:
        """Run one of our scripts that prints lines about jobs, or an error about this job."""
        where = self.connection_id if job_id is None else f"{self.connection_id}: job {job_id}"
        try:
            process = self.run(text, timeout)
        except SshCommandTimeout as error:
            late = copy_for_raise(error)
            late.args = (f"{where}: the host did not answer within {timeout or 0:g} s",)
            late.ended = None
            raise late from error
        lines = answer(process.stdout)
        if lines is None:
            raise SshJobError(
                f"{self.connection_id}: the host does not answer about jobs:"
                f" {(process.stderr.strip() or process.stdout.strip() or repr(process))!r:.200}",
                connection_id=self.connection_id,
            )
        for line in lines:
            if line.startswith("! "):
                raise SshJobError(
                    f"{where}: {line[2:]}", connection_id=self.connection_id, job_id=job_id
                )
        found = [seen for seen in map(parse, lines) if seen is not None]
        return {seen.job_id: seen for seen in found}

    def ask(self, question: Callable[[], Question], deadline: Optional[float]) -> Any:
        """
        Repeat a question until it is answered, also after errors that may be temporary.

        Raises
        ------
        TimeoutError
            There was no answer by the deadline; its cause, if any, is the last error.
        SshServiceError
            An error that is not temporary.
        """
        delay, ends = _MIN_RETRY, 0
        last: Optional[BaseException] = None
        while True:
            try:
                return self.watcher.ask(question(), deadline)
            except TimeoutError as error:
                if isinstance(error, SshServiceError) and not is_passing(error):
                    raise
                last = error if isinstance(error, SshServiceError) else last
            except SshServiceError as error:
                if not is_passing(error):
                    raise
                ends = ends + 1 if ends_by_itself(error) else 0
                if ends >= MAX_ENDS:
                    raise useless_error(error, self.connection_id) from error
                last = error
            left = delay if deadline is None else deadline - time.monotonic()
            if left < delay:
                raise TimeoutError from last
            time.sleep(delay)
            delay = min(2 * delay, _MAX_RETRY)


class JobHandle:
    """
    The part of `Job` that holds its state; see `Job`.

    Attributes
    ----------
    id, connection_id
        See `Job`.
    host : JobDestination
        The host that the job runs on.
    token : str
        The attempt that started the job.
    """

    def __init__(self, host: JobDestination, seen: Seen) -> None:
        self.id = seen.job_id
        self.host = host
        self._seen = seen
        self.token = seen.token
        self.connection_id = host.connection_id

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} at {self.connection_id} ({self._seen.state})>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, JobHandle):
            return NotImplemented
        return self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    @property
    def _identity(self) -> Tuple[str, str, str]:
        return self.connection_id, self.id, self._seen.token

    @property
    def state(self) -> JobState:
        """The state in the host's last answer."""
        return self._seen.state

    def make_waiter(self) -> Waiter:
        """Return a new waiter, for `Watcher.add`."""
        return Waiter(self.id, self._seen.token, self._seen.supervisor)

    def take_waiter(self, waiter: Waiter) -> JobState:
        """Store and return the state that a waiter has received."""
        if waiter.error is not None:
            raise copy_for_raise(waiter.error) from waiter.error
        return self.take({} if waiter.seen is None else {self.id: waiter.seen})

    def take(self, found: Mapping[str, Seen]) -> JobState:
        """Store what was found of this job; a later job with the same id is ignored."""
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
        if seen.state.name not in ("missing", "damaged") and seen.token != self._seen.token:
            state = JobState("missing")
        self._seen = self._seen._replace(state=state)
        return state

    def error(
        self, text: str, state: JobState, process: Optional[CompletedProcess] = None
    ) -> SshJobError:
        """Return the error of a job in this state."""
        cls = SshJobNotFound if state.name == "missing" else SshJobError
        return cls(
            text, connection_id=self.connection_id, job_id=self.id, state=state, process=process
        )

    def unanswered(self, timeout: float, reason: Optional[BaseException]) -> SshJobTimeout:
        """Return the error for a host that did not answer in time."""
        what = "did not answer" if reason is None else "could not be asked"
        why = ": asking takes some time" if not timeout else ""
        text = (
            f"{self.connection_id}: the host {what} about job {self.id} within {timeout:g} s"
            f"{why if reason is None else f': {reason}'}"
        )
        return SshJobTimeout(
            text, connection_id=self.connection_id, job_id=self.id, state=self.state
        )

    def still_runs(self, timeout: float, what: str) -> SshJobTimeout:
        """Return the error for a job that still runs when the time is up."""
        return self.late(f"{what} {timeout:g} s, and keeps running")

    def late(self, what: str) -> SshJobTimeout:
        """Return the error for a timeout although the host answers."""
        return SshJobTimeout(
            f"{self.connection_id}: job {self.id} {what}",
            connection_id=self.connection_id,
            job_id=self.id,
            state=self.state,
            answered=True,
        )

    def missing_error(self, state: JobState) -> SshJobError:
        """Return the error for a job that no longer exists on this host."""
        what = {
            "elsewhere": ELSEWHERE.format(self.id, state.host),
            "damaged": DAMAGED.format(self.id),
        }.get(state.name, "is not there any more")
        return self.error(f"{self.connection_id}: job {self.id} {what}", state)
