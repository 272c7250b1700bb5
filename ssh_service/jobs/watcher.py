"""The one session per destination over which all threads query jobs."""

from __future__ import annotations

import collections
import functools
import logging
import os
import random
import threading
import time
import weakref
from typing import Any, Callable, Deque, Dict, List, Optional, Set, Tuple

from ssh_service import background, operations
from ssh_service.background import Strand, Timer
from ssh_service.commands.command import Command
from ssh_service.commands.output import CallbackOutput
from ssh_service.commands.result import CompletedProcess
from ssh_service.commands.sudo import Sudo
from ssh_service.connections.cache import SshClientCache
from ssh_service.errors import (
    SshCacheClosed,
    SshConnectionLost,
    SshJobError,
    SshServiceError,
    copy_for_raise,
)
from ssh_service.jobs import scripts
from ssh_service.jobs.questions import Garbled, Look, Poll, Question
from ssh_service.jobs.record import Seen
from ssh_service.params import ConnectKey, ConnectParams
from ssh_service.transport.lock_free import LockFreeEvent
from ssh_service.transport.text import printable

_log = logging.getLogger(__name__)

# Seconds between two polls: a fraction of the time waited so far, within bounds.
_POLL_PART, _MIN_POLL, _MAX_POLL = 0.1, 0.05, 1.0
# Seconds after which all jobs are queried again, regardless of the polls.
_LOOK_INTERVAL = 5.0
# Seconds before a lost session is reopened; doubled each time.
_MIN_RETRY, _MAX_RETRY = 0.1, 5.0
# Seconds after which an unused session is closed.
_IDLE_TIMEOUT = 30.0
# Seconds without an answer after which a session counts as lost; the connection may still work.
_ANSWER_TIMEOUT = 60.0
# How many sessions in a row the host's shell may end, within about half a minute.
MAX_ENDS = 10
_MARK = f"{scripts.MARK}\n".encode()


def is_passing(error: BaseException) -> bool:
    """Return whether a question may be repeated after an error; no question changes a job."""
    if isinstance(error, SshConnectionLost):
        return error.reason not in ("host key", "closed")
    return isinstance(error, SshServiceError) and error.retryable


def ends_by_itself(error: BaseException) -> bool:
    """Return whether the host's shell, not the connection, ended the session or garbled it."""
    return isinstance(error, SshConnectionLost) and error.phase == "job"


class Waiter:
    """
    Lets a thread wait for the end of a job.

    Attributes
    ----------
    job_id, token, supervisor
        The job; see `Seen`.
    seen : Optional[Seen]
        The host's report once the job no longer ran.
    error : Optional[BaseException]
        The reason why the job's end cannot be determined.
    settled : LockFreeEvent
        Set once `seen` or `error` is set.
    is_heard : bool
        Whether the host has reported that the job runs.
    problem : Optional[BaseException]
        The reason why the last query failed; the query is repeated.
    """

    def __init__(self, job_id: str, token: str, supervisor: int) -> None:
        self.job_id, self.token, self.supervisor = job_id, token, supervisor
        self.began = time.monotonic()
        self.is_heard = False
        self.problem: Optional[BaseException] = None
        self.seen: Optional[Seen] = None
        self.error: Optional[BaseException] = None
        self.settled = LockFreeEvent()

    def settle(self, seen: Optional[Seen] = None, error: Optional[BaseException] = None) -> None:
        """Wake the waiting thread; runs on the watcher's strand."""
        self.seen, self.error = seen, error
        self.settled.set()


class _Server(Command):
    """The script that answers requests, and runs as long as it is needed."""

    def __init__(
        self,
        connection_id: str,
        strand: Strand,
        on_data: Callable[["_Server", bytes], None],
        on_end: Callable[["_Server", BaseException], None],
        sudo: Optional[Sudo],
    ) -> None:
        # Both refer to the watcher weakly: a command of a dropped cache may still run.
        self._strand_of_watcher, self._on_end = strand, on_end
        super().__init__(
            scripts.serve(),
            None,
            "/bin/sh",
            connection_id,
            sudo=sudo,
            more_stdin=True,
            stdout=CallbackOutput(lambda data: on_data(self, data), None),
            run_callback=functools.partial(background.submit, strand),
        )

    def _publish_outcome(
        self, process: Optional[CompletedProcess], error: Optional[BaseException]
    ) -> None:
        super()._publish_outcome(process, error)
        if error is None:
            how, phase = "", None
            if process is not None and process.exit_signal is None:
                how = f" with status {process.exit_status} {printable(process.stderr)}".rstrip()
                phase = "job"
            text = f"{self.connection_id}: the session that watches the jobs ended{how}"
            error = SshConnectionLost(
                text, connection_id=self.connection_id, sent=False, reason="eof", phase=phase
            )
        background.submit(self._strand_of_watcher, self._on_end, self, error)


class Watcher:
    """
    Queries the jobs of one destination over one session, and reopens the session if it is lost.

    Notes
    -----
    Thread safety.  `ask`, `add` and `remove` may be called from any thread.  Everything else runs
    on the watcher's strand, one call at a time, and needs no lock.

    Guarantees.  There is at most one session, however many threads ask and wait, and none while no
    thread does.  A question that fails with an error for which `is_passing` is true may be
    repeated.
    """

    def __init__(
        self, cache: SshClientCache, target: ConnectParams, sudo: Optional[Sudo] = None
    ) -> None:
        self._cache = weakref.ref(cache)
        self._sudo = sudo
        self._generation = cache.generation
        self._target = target
        self._strand = Strand()
        # Only the strand uses the following fields.
        self._questions: Deque[Question] = collections.deque()
        self._asked: Optional[Question] = None
        self._server: Optional[_Server] = None
        self._is_ready = False
        self._data = bytearray()
        # A waiting thread holds its waiter; if the thread is interrupted, its waiter disappears.
        # (Not a WeakSet: an exception from a signal handler would be lost in its callbacks.)
        self._waiter_refs: "Set[weakref.ref[Waiter]]" = set()
        self._poll: Optional[Look] = None
        self._poll_timer: Optional[Timer] = None
        self._idle_timer: Optional[Timer] = None
        self._answer_timer: Optional[Timer] = None
        self._heard_at = 0.0
        self._new_ids: Set[str] = set()  # of waiters that may have been added after the end
        self._looked_at = 0.0
        self._retry_delay = _MIN_RETRY
        self._ends = 0  # sessions in a row that ended by themselves

    def is_of(self, cache: SshClientCache) -> bool:
        """Return whether the cache has not been cleaned up since this watcher was created."""
        return cache.generation is self._generation

    # Called by users' threads.

    def ask(self, question: Question, deadline: Optional[float]) -> Any:
        """
        Ask a question once, and return the answer.

        Raises
        ------
        TimeoutError
            There was no answer before the deadline.
        SshServiceError
            The session or its connection could not be opened, or was lost.
        """
        background.submit(self._strand, self._add_question, question)
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not question.settled.wait(left):
            raise TimeoutError
        if question.error is not None:
            raise copy_for_raise(question.error) from question.error
        return question.answer

    def add(self, waiter: Waiter) -> None:
        """Settle a waiter once its job no longer runs; only its thread keeps it alive."""
        background.submit(self._strand, self._add_waiter, waiter)

    def remove(self, waiter: Waiter) -> None:
        """Remove a waiter."""
        background.submit(self._strand, self._remove_waiter, waiter)

    # Questions.

    def _add_question(self, question: Question) -> None:
        self._questions.append(question)
        self._next_question()

    def _next_question(self) -> None:
        if self._asked is not None:
            return
        if not self._questions:
            self._schedule_idle()
            return
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        if self._server is None:
            self._open()
        elif self._is_ready:
            self._asked = self._questions.popleft()
            self._answer_timer = self._call_in(_ANSWER_TIMEOUT, self._on_silence, self._asked)
            self._write(self._server, self._asked.line)

    def _write(self, server: _Server, line: str) -> None:
        try:
            server.stdin.write(line.encode("ascii"), timeout=0.0)
        except (BrokenPipeError, TimeoutError):
            pass  # the session has ended and reports so, or did not answer and is given up

    def _open(self) -> None:
        cache = self._cache()
        where = self._target.connection_id
        if cache is None or not self.is_of(cache):
            self._fail_all(SshCacheClosed(f"{where}: the cache was closed"))
            return
        this = weakref.WeakMethod(self._on_data), weakref.WeakMethod(self._on_end)
        self._server = _Server(
            where,
            self._strand,
            lambda server, data: _call(this[0], server, data),
            lambda server, error: _call(this[1], server, error),
            self._sudo,
        )
        self._is_ready, self._data = False, bytearray()
        self._answer_timer = self._call_in(_ANSWER_TIMEOUT, self._on_silence, None)
        try:
            operations.submit_command(cache, self._target, self._server)
        except Exception as error:  # the waiting threads must receive it
            self._give_up(error)

    def _on_silence(self, question: Optional[Question]) -> None:
        """Give up a session that does not answer."""
        if (
            self._server is None
            or self._asked is not question
            or (self._is_ready and not question)
        ):
            return
        left = self._heard_at + _ANSWER_TIMEOUT - time.monotonic()
        if left > 0:  # a long answer is arriving
            self._answer_timer = self._call_in(left, self._on_silence, question)
            return
        text = f"{self._target.connection_id}: no answer about a job in {_ANSWER_TIMEOUT:g} s"
        self._give_up(SshConnectionLost(text, sent=False, reason="silence"))

    def _give_up(self, error: BaseException) -> None:
        server, self._server = self._server, None
        self._fail_all(error)
        if server is not None:
            server.cancel()

    def _on_data(self, server: _Server, data: bytes) -> None:
        if server is not self._server:
            return
        self._data += data
        self._heard_at = time.monotonic()
        if not self._is_ready:
            _, mark, rest = self._data.partition(_MARK)
            if not mark:
                return
            self._is_ready, self._data = True, bytearray(rest)
            self._cancel_answer_timer()
            self._retry_delay = _MIN_RETRY
            self._next_question()
        question = self._asked
        try:
            while question is not None and question.feed(self._data):
                self._asked = None
                self._ends = 0
                self._cancel_answer_timer()
                question.settle()
                if question is self._poll:
                    self._on_poll(self._poll)
                self._next_question()
                question = self._asked if self._data else None
        except Garbled as error:
            where = self._target.connection_id
            lost = SshConnectionLost(
                f"{where}: unexpected answer about a job: {error}",
                connection_id=where,
                sent=False,
                reason="protocol",
                phase="job",
            )
            self._give_up(self._count_end(lost))

    def _on_end(self, server: _Server, error: BaseException) -> None:
        if server is not self._server:
            return
        self._server = None
        self._fail_all(self._count_end(error))

    def _count_end(self, error: BaseException) -> BaseException:
        """Return the error of a session, or that of a host whose sessions are all useless."""
        if ends_by_itself(error):
            self._ends += 1
            if self._ends >= MAX_ENDS:
                self._ends = 0
                return useless_error(error, self._target.connection_id)
        return error

    def _fail_all(self, error: BaseException) -> None:
        self._cancel_answer_timer()
        questions = [question for question in (self._asked, *self._questions) if question]
        self._asked = None
        self._questions.clear()
        for question in questions:
            question.settle(error)
        if self._poll is not None:
            self._on_poll(self._poll)
        self._schedule_idle()

    def _cancel_answer_timer(self) -> None:
        if self._answer_timer is not None:
            self._answer_timer.cancel()
            self._answer_timer = None

    def _schedule_idle(self) -> None:
        if self._server is not None and not self._waiters() and self._idle_timer is None:
            self._idle_timer = self._call_in(_IDLE_TIMEOUT, self._close_idle)

    def _close_idle(self) -> None:
        self._idle_timer = None
        if self._asked is None and not self._questions and not self._waiters():
            server, self._server = self._server, None
            if server is not None:
                server.stdin.close()  # the script then ends by itself

    # Waiters.

    def _waiters(self) -> List[Waiter]:
        """Return the waiters whose threads are still waiting."""
        found = {ref: ref() for ref in self._waiter_refs}
        self._waiter_refs.difference_update([ref for ref, one in found.items() if one is None])
        return [one for one in found.values() if one is not None]

    def _add_waiter(self, waiter: Waiter) -> None:
        self._waiter_refs.add(weakref.ref(waiter))
        self._new_ids.add(waiter.job_id)
        self._poll_in(0.0)

    def _remove_waiter(self, waiter: Waiter) -> None:
        self._waiter_refs.discard(weakref.ref(waiter))
        if self._asked is None:
            self._schedule_idle()

    def _poll_in(self, delay: float) -> None:
        if self._poll is None:
            if self._poll_timer is not None:
                self._poll_timer.cancel()
            self._poll_timer = self._call_in(delay, self._ask_poll)

    def _ask_poll(self) -> None:
        self._poll_timer = None
        if self._poll is not None:
            return
        waiters = self._waiters()
        if not waiters:
            if self._asked is None:
                self._schedule_idle()
            return
        now = time.monotonic()
        if self._new_ids:
            self._poll = Look(sorted(self._new_ids))
            self._new_ids.clear()
        elif now - self._looked_at >= _LOOK_INTERVAL:
            self._looked_at = now
            self._poll = Look(sorted({waiter.job_id for waiter in waiters}))
        else:
            jobs = {(one.job_id, one.token, one.supervisor) for one in waiters}
            self._poll = Poll(sorted(jobs))
        self._add_question(self._poll)

    def _on_poll(self, poll: Look) -> None:
        self._poll = None
        error, waiters = poll.error, self._waiters()
        if error is not None and not is_passing(error):
            for waiter in waiters:
                waiter.settle(error=error)
            self._waiter_refs.clear()
        elif error is not None:
            if waiters:
                _log.info("%s; asking again about %d jobs", error, len(waiters))
            for waiter in waiters:
                waiter.problem = error
            self._looked_at = 0.0
            self._poll_in(self._retry_delay * random.uniform(0.5, 1.0))
            self._retry_delay = min(2 * self._retry_delay, _MAX_RETRY)
        else:
            problem = self._refusal(poll.refusal) if poll.refusal else None
            self._settle(waiters, {seen.job_id: seen for seen in poll.answer}, problem)
            now, waiters = time.monotonic(), self._waiters()
            waited = min((now - waiter.began for waiter in waiters), default=0.0)
            if waiters:
                due = min(max(waited * _POLL_PART, _MIN_POLL), _MAX_POLL)
                self._poll_in(0.0 if self._new_ids else due)

    def _refusal(self, text: str) -> SshJobError:
        where = self._target.connection_id
        return SshJobError(f"{where}: {printable(text)}", connection_id=where)

    def _settle(
        self, waiters: List[Waiter], found: Dict[str, Seen], problem: Optional[SshJobError]
    ) -> None:
        for waiter in waiters:
            seen = found.get(waiter.job_id)
            waiter.problem = problem if seen is None else None
            if seen is None:
                continue
            if seen.state.name == "running" and seen.token == waiter.token:
                waiter.is_heard = True
                continue
            waiter.settle(seen)
            self._waiter_refs.discard(weakref.ref(waiter))

    def _call_in(self, delay: float, method: Callable[..., None], *args: Any) -> Timer:
        """Call a method on the strand later, unless this object has been collected by then."""
        strand, this = self._strand, weakref.WeakMethod(method)
        return background.call_at(
            time.monotonic() + delay, lambda: background.submit(strand, _call, this, *args)
        )


def _call(method: "weakref.WeakMethod[Callable[..., None]]", *args: Any) -> None:
    function = method()
    if function is not None:
        function(*args)


def useless_error(error: BaseException, connection_id: str) -> SshJobError:
    """Return the error for a host whose shell ends every session."""
    return SshJobError(
        f"{error}, {MAX_ENDS} times in a row: the host cannot be asked about jobs",
        connection_id=connection_id,
    )


_lock = threading.Lock()
# (Not a WeakKeyDictionary: an exception from a signal handler would be lost in its callbacks.)
_watchers: "Dict[weakref.ref[SshClientCache], Dict[Tuple[ConnectKey, Optional[Sudo]], Watcher]]"
_watchers = {}  # guarded by _lock


def watcher_of(
    cache: SshClientCache, target: ConnectParams, sudo: Optional[Sudo] = None
) -> Watcher:
    """
    Return the watcher of a destination, which asks by sudo, if at all, with these options.

    Raises
    ------
    SshConfigError
        A key file cannot be used.
    """
    key, of = (target.key, sudo), weakref.ref(cache)
    made = Watcher(cache, target, sudo)
    with _lock:
        found = _watchers.get(of, {}).get(key)
        if found is None or not found.is_of(cache):
            _forget_dead_locked()
            _watchers.setdefault(of, {})[key] = found = made
        return found


def _forget_dead_locked() -> None:
    for of in [one for one in _watchers if one() is None]:
        del _watchers[of]


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.Lock()  # a thread that does not exist in the child may have held it
    _watchers.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
