"""The one session per destination over which all threads ask questions about jobs."""

from __future__ import annotations

import collections
import functools
import time
import weakref
from typing import Any, Callable, Deque, Optional

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
from ssh_service.jobs.questions import Garbled, Question
from ssh_service.params import ConnectParams
from ssh_service.transport.text import printable

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


def useless_error(error: BaseException, connection_id: str) -> SshJobError:
    """Return the error for a host whose shell ends every session."""
    return SshJobError(
        f"{error}, {MAX_ENDS} times in a row: the host cannot be asked about jobs",
        connection_id=connection_id,
    )


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


class QuestionSession:
    """
    Asks questions of one destination over one session, and reopens the session if it is lost.

    Notes
    -----
    Thread safety.  `ask` may be called from any thread.  Everything else runs on the strand, one
    call at a time, and needs no lock.

    Guarantees.  There is at most one session, however many threads ask.  A question that fails
    with an error for which `is_passing` is true may be repeated.
    """

    def __init__(
        self, cache: SshClientCache, target: ConnectParams, sudo: Optional[Sudo] = None
    ) -> None:
        self._cache = weakref.ref(cache)
        self._generation = cache.generation
        self._target = target
        self._sudo = sudo
        self._strand = Strand()
        # Only the strand uses the following fields.
        self._questions: Deque[Question] = collections.deque()
        self._asked: Optional[Question] = None
        self._server: Optional[_Server] = None
        self._is_ready = False
        self._data = bytearray()
        self._idle_timer: Optional[Timer] = None
        self._answer_timer: Optional[Timer] = None
        self._heard_at = 0.0
        self._ends = 0  # sessions in a row that ended by themselves

    def is_of(self, cache: SshClientCache) -> bool:
        """Return whether the cache has not been cleaned up since this watcher was created."""
        return cache.generation is self._generation

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

    # For subclasses.

    def _is_needed(self) -> bool:
        """Return whether the session is kept although nothing is asked."""
        return False

    def _on_settled(self, question: Question) -> None:
        """React to a question that has been answered, or has failed."""

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
            self._next_question()
        question = self._asked
        try:
            while question is not None and question.feed(self._data):
                self._asked = None
                self._ends = 0
                self._cancel_answer_timer()
                question.settle()
                self._on_settled(question)
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
        for question in questions:
            self._on_settled(question)
        self._schedule_idle()

    def _cancel_answer_timer(self) -> None:
        if self._answer_timer is not None:
            self._answer_timer.cancel()
            self._answer_timer = None

    def _schedule_idle(self) -> None:
        if self._server is not None and not self._is_needed() and self._idle_timer is None:
            self._idle_timer = self._call_in(_IDLE_TIMEOUT, self._close_idle)

    def _close_idle(self) -> None:
        self._idle_timer = None
        if self._asked is None and not self._questions and not self._is_needed():
            server, self._server = self._server, None
            if server is not None:
                server.stdin.close()  # the script then ends by itself

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
