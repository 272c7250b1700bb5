"""Keyboard-interactive authentication (RFC 4256)."""

from __future__ import annotations

import queue
import time
from typing import Any, Callable, Optional, Sequence, Tuple

import paramiko

from ssh_service.connect.side_calls import run_in_thread
from ssh_service.errors import PROGRAMMING_ERRORS, SshConfigError, SshConnectError, SshServiceError
from ssh_service.params import ConnectParams
from ssh_service.secret import Secret

__all__ = ["ChallengeDeclined", "KeyboardInteractive"]

# The most requests that a server may make in one authentication.  OpenSSH's client has no limit,
# because a person answers; here, a stored password would be sent thousands of times a second.
_MAX_ROUNDS = 64


class ChallengeDeclined(paramiko.AuthenticationException):  # type: ignore[misc]
    """The handler declined to answer the server's request."""


class KeyboardInteractive:
    """
    Keyboard-interactive authentication; the handler runs on the dialling thread.

    It replaces paramiko's: see docs/paramiko_repairs.md#keyboard-interactive-handlers.

    Parameters
    ----------
    transport : paramiko.Transport
        The transport, after its key exchange.
    target : ConnectParams
        The resolved destination.
    handler : Callable[..., Any]
        ``handler(name, instructions, [(prompt, echo), ...]) -> [answer, ...]``.
    deadline : float
        The monotonic instant by which the authentication must be done.
    """

    def __init__(
        self,
        transport: paramiko.Transport,
        target: ConnectParams,
        handler: Callable[..., Any],
        deadline: float,
    ) -> None:
        self._transport = transport
        self._target = target
        self._handler = handler
        self._deadline = deadline
        # ("asked", the request) or ("done", the result as a Future)
        self._events: queue.SimpleQueue[Tuple[str, Any]] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._declined: Optional[ChallengeDeclined] = None
        self._rounds = 0

    def run(self) -> Optional[Sequence[str]]:
        """
        Answer the server's requests; return the methods that it requires in addition, or None.

        Raises
        ------
        paramiko.SSHException
            The server refused, the handler declined, there was no answer in time, or the
            connection broke.
        SshConnectError
            The handler raised an exception, or the server made too many requests.
        SshConfigError
            The handler's answers do not match the prompts.
        """
        self._transport.auth_timeout = None  # only the deadline limits the time for answers
        run_in_thread(self._authenticate, f"auth-{self._target.connection_id}").add_done_callback(
            lambda outcome: self._events.put(("done", outcome))
        )
        while True:
            try:
                kind, what = self._events.get(
                    timeout=max(0.001, self._deadline - time.monotonic())
                )
            except queue.Empty:
                raise paramiko.SSHException("no answer") from None
            if kind == "asked":
                self._answer(*what)
                continue
            if self._declined is not None:
                raise self._declined
            return what.result()  # type: ignore[no-any-return]

    def _answer(self, name: str, instructions: str, prompts: Sequence[Tuple[str, bool]]) -> None:
        answers: Any = None
        try:
            answers = self._call_handler(name, instructions, prompts)
        except ChallengeDeclined as error:  # answer with empty texts, so other methods can follow
            self._declined, answers = error, [""] * len(prompts)
        finally:  # the reader thread waits for answers in any case
            self._answers.put(answers)

    def _call_handler(
        self, name: str, instructions: str, prompts: Sequence[Tuple[str, bool]]
    ) -> Any:
        where = self._target.connection_id
        self._rounds += 1
        if self._rounds > _MAX_ROUNDS:
            endless = SshConnectError(
                f"{where}: the server asked more than {_MAX_ROUNDS} times in one "
                "keyboard-interactive authentication",
                connection_id=where,
                phase="auth",
            )
            endless.permanent = True
            raise endless
        problem: Optional[str] = None
        is_mistake = False
        answers: Any = None
        try:
            answers = self._handler(name, instructions, prompts)
        except (ChallengeDeclined, SshServiceError):
            raise
        except Exception as error:  # raised by the user's code
            problem, is_mistake = type(error).__name__, isinstance(error, PROGRAMMING_ERRORS)
        if problem is not None:
            # The exception's text and frames may hold a secret, so only its class is reported.
            failed = SshConnectError(
                f"{where}: the callable given as kbdint_handler raised {problem}",
                connection_id=where,
                phase="auth",
            )
            failed.permanent = is_mistake
            raise failed
        good = isinstance(answers, (list, tuple)) and all(
            isinstance(answer, str) and Secret(answer).can_be_sent for answer in answers
        )
        if not good or len(answers) != len(prompts):
            answers = None  # a traceback with local variables must not show them
            raise SshConfigError(
                f"kbdint_handler must return {len(prompts)} strings, one for each prompt",
                connection_id=where,
                phase="auth",
            )
        return [Secret(answer).reveal_bytes() for answer in answers]

    def _authenticate(self) -> Any:
        return self._transport.auth_interactive(self._target.username, self._on_questions)

    def _on_questions(self, name: str, instructions: str, prompts: Any) -> Any:
        self._events.put(("asked", (name, instructions, [tuple(one) for one in prompts])))
        try:
            answers = self._answers.get(timeout=max(0.001, self._deadline - time.monotonic()))
        except queue.Empty:
            answers = None
        if answers is None or not self._transport.is_active():
            answers = None  # a traceback with local variables must not show them
            raise paramiko.SSHException("the questions are not answered")
        return answers
