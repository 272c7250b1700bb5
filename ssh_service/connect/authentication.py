"""
Authentication to a server whose host key has been verified.

Methods are tried in the order of the target's `preferred_auth`: by default keys, then the
password, then keyboard-interactive.  A server may require several of them
(``AuthenticationMethods publickey,password``).  A connection that breaks meanwhile is reported as
a network error, never as refused credentials.
"""

from __future__ import annotations

import time
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

import paramiko
from paramiko.ssh_exception import PartialAuthentication

from ssh_service.connect.accepted_keys import restrict_rsa_algorithms
from ssh_service.connect.credentials import Credentials, Identity
from ssh_service.connect.keyboard_interactive import ChallengeDeclined, KeyboardInteractive
from ssh_service.connect.side_calls import run_in_thread, wait_until
from ssh_service.errors import (
    SshAuthError,
    SshConnectError,
    SshConnectionLost,
    SshConnectTimeout,
    SshServiceError,
    reason_of,
)
from ssh_service.params import ConnectParams
from ssh_service.secret import Secret
from ssh_service.transport import printable
from ssh_service.transport.lock_free import LockFreeEvent

__all__ = ["authenticate"]

# The most attempts in total, for a server that answers every attempt with "partial success".
_MAX_ATTEMPTS = 64
# Seconds to wait for the reader thread of a connection that has ended.
_READER_EXIT_TIMEOUT = 2.0


class _Attempt(NamedTuple):
    label: str
    run: Callable[[], Optional[Sequence[str]]]  # raises if the server refuses
    key: Optional[paramiko.PKey] = None


def authenticate(
    transport: paramiko.Transport,
    target: ConnectParams,
    credentials: Credentials,
    deadline: float,
) -> None:
    """
    Log in with `credentials`, after the key exchange.

    `deadline` is the monotonic instant by which the login must be done.

    Raises
    ------
    SshAuthError
        The server refused every credential; the message and `tried` list the attempts.
    SshConnectTimeout
        The server did not answer in time.
    SshConnectError
        The connection broke.
    SshConfigError
        A credential could not be read.
    """
    _Authenticator(transport, target, credentials, deadline).run()


class _Authenticator:
    def __init__(
        self,
        transport: paramiko.Transport,
        target: ConnectParams,
        credentials: Credentials,
        deadline: float,
    ) -> None:
        self._transport = transport
        self._target = target
        self._credentials = credentials
        self._deadline = deadline
        self._started = time.monotonic()
        self._tried: List[str] = []
        self._methods: Set[str] = set()
        self._allowed: Optional[Sequence[str]] = None
        self._count = 0
        self._password_shown = False

    def run(self) -> None:
        attempts: Dict[str, Iterator[_Attempt]] = {
            "publickey": self._public_keys(),
            "password": self._passwords(),
            "keyboard-interactive": self._interactive(),
        }
        while True:
            progressed = False
            for method in self._target.preferred_auth:
                if self._allowed is not None and method not in self._allowed:
                    continue
                outcome = self._run_method(attempts[method])
                if outcome == "done":
                    return
                if outcome == "partial":
                    attempts["keyboard-interactive"] = self._interactive()
                    progressed = True
                    break
            if not progressed:
                break
        if self._count == 0 and self._try_none():
            return
        raise self._auth_error()

    def _run_method(self, attempts: Iterator[_Attempt]) -> str:
        for attempt in attempts:
            self._count += 1
            if self._count > _MAX_ATTEMPTS:
                break
            outcome = self._try(attempt)
            if outcome != "refused":
                return outcome
        return "refused"

    def _try(self, attempt: _Attempt) -> str:
        label = attempt.label
        self._methods.add(label.split()[0])
        try:
            further = attempt.run()
        except paramiko.BadAuthenticationType as error:
            self._password_shown = False
            self._allowed = error.allowed_types
            self._tried.append(f"{label}: method not offered")
            return "not offered"
        except (EOFError, OSError, paramiko.SSHException) as error:
            is_lost = isinstance(error, SshConnectionLost)
            if isinstance(error, SshServiceError) and not is_lost:
                raise  # for example the failure of a user's callable, not of the network
            if is_lost or not isinstance(error, paramiko.SSHException):
                self._tried.append(f"{label}: connection lost")
                raise self._connection_lost_error(error) from error
            self._tried.append(f"{label}: {_reason(attempt, error)}")
            self._check_alive(error)
            return "refused"
        if further:
            self._allowed = further
            self._tried.append(f"{label}: accepted, more is required")
            return "partial"
        return "done"

    # --- methods

    def _public_keys(self) -> Iterator[_Attempt]:
        for identity in self._credentials.identities():
            yield self._public_key(identity)

    def _public_key(self, identity: Identity) -> _Attempt:
        def run() -> Optional[Sequence[str]]:
            event = LockFreeEvent()
            restrict_rsa_algorithms(self._transport, self._target, identity.key)
            self._transport.auth_publickey(self._target.username, identity.key, event)
            return self._wait_for_answer(event)

        return _Attempt(f"publickey {identity.label}", run, identity.key)

    def _passwords(self) -> Iterator[_Attempt]:
        password = self._credentials.password()
        if password is None:
            return

        def run() -> Optional[Sequence[str]]:
            self._password_shown = True
            event, user = LockFreeEvent(), self._target.username
            try:
                self._transport.auth_password(user, password.reveal_bytes(), event)
            except Exception as error:  # paramiko's frames hold the password
                raise error.with_traceback(None) from None
            return self._wait_for_answer(event)

        yield _Attempt("password", run)

    def _interactive(self) -> Iterator[_Attempt]:
        handler = self._target.kbdint_handler
        if handler is None:
            # Do not send a refused password again by this method: servers count failures.
            password = None if self._password_shown else self._credentials.password()
            if password is None:
                return
            handler = _password_answers(password)
        chosen = handler

        def run() -> Optional[Sequence[str]]:
            return KeyboardInteractive(self._transport, self._target, chosen, self._deadline).run()

        yield _Attempt("keyboard-interactive", run)

    def _try_none(self) -> bool:
        """Try the method "none": a server accepts it, or replies with the methods it accepts."""
        answer = run_in_thread(
            lambda: self._transport.auth_none(self._target.username),
            f"auth-{self._target.connection_id}",
        )

        def run() -> Optional[Sequence[str]]:
            if not wait_until(answer, self._deadline):
                raise paramiko.SSHException("no answer")
            return answer.result()  # type: ignore[no-any-return]

        return self._try(_Attempt("none", run)) == "done"

    def _wait_for_answer(self, event: LockFreeEvent) -> Optional[Sequence[str]]:
        """Wait for the server's answer; see docs/paramiko_repairs.md#wall-clock."""
        answered = event.wait(max(0.0, self._deadline - time.monotonic()))
        if answered and self._transport.is_authenticated():
            return None
        error = self._transport.get_exception()
        if isinstance(error, PartialAuthentication):
            return list(error.allowed_types)
        if not answered:
            raise paramiko.SSHException("no answer")
        raise error or paramiko.AuthenticationException("refused")

    # --- what failed

    def _check_alive(self, error: BaseException) -> None:
        if time.monotonic() >= self._deadline:
            waited = time.monotonic() - self._started
            raise SshConnectTimeout(
                f"{self._target.connection_id}: not authenticated within {waited:.1f} s",
                connection_id=self._target.connection_id,
                phase="auth",
            ) from error
        if not self._transport.is_active():
            raise self._connection_lost_error(error) from error

    def _connection_lost_error(self, error: BaseException) -> SshConnectError:
        # The reason is known once the reader thread has ended, which happens soon.
        self._transport.join(_READER_EXIT_TIMEOUT)
        loss = getattr(self._transport, "loss", None)
        if getattr(loss, "reason", None) == "disconnect":
            # The server sent DISCONNECT, as sshd does after MaxAuthTries.
            return self._auth_error(f"; the server ended the connection: {loss}")
        return SshConnectError(
            f"{self._target.connection_id}: connection lost during authentication: "
            f"{loss or printable(reason_of(error))}",
            connection_id=self._target.connection_id,
            phase="auth",
        )

    def _auth_error(self, more: str = "") -> SshAuthError:
        tried = "; ".join(self._tried) if self._count else "nothing"
        for note in (", ".join(self._missing_credentials()), *self._target.auth_notes):
            if note:
                tried += f"; {note}"
        skipped = self._credentials.skipped
        if skipped:
            tried += f" (passed over: {'; '.join(skipped)})"
        if self._allowed is not None:
            methods = printable(", ".join(self._allowed)) or "no further method"
            more = f"; the server takes {methods}{more}"
        return SshAuthError(
            f"{self._target.connection_id}: authentication refused; tried {tried}{more}",
            tried=tuple(self._tried),
            connection_id=self._target.connection_id,
        )

    def _missing_credentials(self) -> Iterator[str]:
        """Yield the credentials that might have helped but were not available."""
        untried = set(self._target.preferred_auth) - self._methods
        if "publickey" in untried and (self._allowed is None or "publickey" in self._allowed):
            yield f"no private key found ({self._credentials.searched_places()})"
        if "password" in untried and self._allowed is not None and "password" in self._allowed:
            yield "no password was given"


def _reason(attempt: _Attempt, error: BaseException) -> str:
    failure = getattr(attempt.key, "failure", None)
    if failure is not None:
        return str(failure)
    if isinstance(error, paramiko.AuthenticationException) and not isinstance(
        error, ChallengeDeclined
    ):
        return "refused"
    return printable(reason_of(error))


def _password_answers(password: Secret) -> Callable[..., List[str]]:
    def answer(name: str, instructions: str, prompts: Sequence[Tuple[str, bool]]) -> List[str]:
        """Answer a single hidden prompt; anything else is not a password prompt."""
        if not prompts:
            return []
        if len(prompts) > 1 or prompts[0][1]:
            raise ChallengeDeclined("the server asks for more than a password")
        return [password.reveal()]

    return answer
