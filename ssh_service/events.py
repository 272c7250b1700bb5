"""
What happened, for whoever watches: connections made and ended, commands sent and done.

``SshClientCache.subscribe`` has a function called with each of these.  They are small, hold no
secret, no script and no output, and can be pickled.
"""

from __future__ import annotations

import contextvars
import itertools
import logging
import time
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Callable, Optional, Sequence, Tuple, Type

from ssh_service.errors import (
    SshCacheClosed,
    SshCommandCancelled,
    SshConnectError,
    SshConnectionLost,
    SshOutputLimitError,
    SshSessionRefused,
)

__all__ = [
    "CommandEnded",
    "CommandSent",
    "ConnectionEnded",
    "ConnectionMade",
    "DialFailed",
    "Event",
    "Subscriber",
]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Event:
    """
    Something that happened.

    Attributes
    ----------
    connection_id : str
        ``user@host:port``.
    at : float
        When, by `time.monotonic`.
    """

    connection_id: str
    at: float


Subscriber = Callable[[Event], Any]


@dataclass(frozen=True)
class ConnectionMade(Event):
    """
    A dial succeeded.

    Attributes
    ----------
    seconds : float
        What it took, from the name to authenticated, and waiting for its turn.
    """

    seconds: float


@dataclass(frozen=True)
class DialFailed(Event):
    """
    A dial did not succeed.

    Attributes
    ----------
    seconds : float
        What it took.
    error : str
        The error's class, such as ``SshAuthError``.
    reason : str
        Its message.
    phase : Optional[str]
        Where it failed: ``resolve``, ``tcp``, ``banner``, ``kex``, ``host key``, ``auth``, ...
    """

    seconds: float
    error: str
    reason: str
    phase: Optional[str]


@dataclass(frozen=True)
class ConnectionEnded(Event):
    """
    A connection has ended.

    Attributes
    ----------
    seconds : float
        How long it was there.
    error : Optional[str]
        The error's class, where it was lost; None where it was closed: by us, or by the server
        with a goodbye.
    reason : Optional[str]
        The error's message.
    """

    seconds: float
    error: Optional[str]
    reason: Optional[str]


@dataclass(frozen=True)
class CommandSent(Event):
    """
    A command was sent.

    Attributes
    ----------
    command : int
        Its number in this process, the same in its `CommandEnded`.
    queued : float
        Seconds from the call: for connecting, and for a session.
    """

    command: int
    queued: float


@dataclass(frozen=True)
class CommandEnded(Event):
    """
    A command has its outcome; exactly one of these comes for each command.

    Attributes
    ----------
    command : int
        Its number in this process.
    sent : bool
        Whether it may have reached the server; if so, its `CommandSent` came before.
    outcome : str
        ``completed``, ``signalled``, ``timed out``, ``cancelled``, ``output limit``, ``lost``,
        ``not connected``, ``refused``, ``closed`` or ``failed``.
    seconds : float
        From the call to the outcome.
    queued : float
        Those of them until it was sent; all of them where it was not.
    exit_status : Optional[int]
        As the server sent it, -1 for a signal; None where nothing was told.
    stdout_bytes, stderr_bytes : int
        How much it wrote.
    error : Optional[str]
        The error's class, where the outcome is one.
    reason : Optional[str]
        The error's message.
    """

    command: int
    sent: bool
    outcome: str
    seconds: float
    queued: float
    exit_status: Optional[int]
    stdout_bytes: int
    stderr_bytes: int
    error: Optional[str]
    reason: Optional[str]


# The first that fits.
_OUTCOMES: Tuple[Tuple[Type[BaseException], str], ...] = (
    (TimeoutError, "timed out"),
    (SshCommandCancelled, "cancelled"),
    (SshOutputLimitError, "output limit"),
    (SshConnectionLost, "lost"),
    (SshConnectError, "not connected"),
    (SshSessionRefused, "refused"),
    (SshCacheClosed, "closed"),
)
_numbers = itertools.count(1)


def tell(subscribers: Sequence[Subscriber], event: Event) -> None:
    """
    Call subscribers; on the callback thread.

    Parameters
    ----------
    subscribers : Sequence[Callable[[Event], Any]]
        What one of them raises is logged, and is no harm to the others.
    event : Event
        What happened.
    """
    for subscriber in subscribers:
        try:
            subscriber(event)
        except Exception:
            _log.exception("a subscriber to events raised")


class Watch:
    """
    Tells subscribers of one command.

    Parameters
    ----------
    connection_id : str
        The destination's.
    subscribers : Sequence[Callable[[Event], Any]]
        Those of the moment the command was submitted.
    sizes : Callable[[], Tuple[int, int]]
        How many bytes came, of stdout and of stderr.

    Notes
    -----
    Thread safety.  `note_sent` and `note_over` only note an instant, once each, wherever they are
    called; all else is for the callback thread, which needs no lock.
    """

    def __init__(
        self,
        connection_id: str,
        subscribers: Sequence[Subscriber],
        sizes: Callable[[], Tuple[int, int]],
    ) -> None:
        self._connection_id = connection_id
        self._subscribers = subscribers
        # The submitter's context variables hold where all of it belongs: a span, a request's id.
        self._context = contextvars.copy_context()
        self._sizes = sizes
        self._number = next(_numbers)
        self._began = time.monotonic()
        self._sent_at: Optional[float] = None
        self._over_at: Optional[float] = None
        self._told = False

    def note_sent(self) -> None:
        """Note that it is being sent; `tell_sent` is to follow on the callback thread."""
        self._sent_at = time.monotonic()

    def note_over(self) -> None:
        """Note that it has its outcome."""
        self._over_at = time.monotonic()

    def tell_sent(self) -> None:
        """Tell that it was sent, unless that was told."""
        if self._told or self._sent_at is None:
            return
        self._told = True
        queued = self._sent_at - self._began
        self._tell(CommandSent(self._connection_id, self._sent_at, self._number, queued))

    def tell_ended(self, future: "Future[Any]") -> None:
        """
        Tell the outcome, after `tell_sent`.

        Parameters
        ----------
        future : Future[CompletedProcess]
            The command's, done.
        """
        self.tell_sent()  # another thread may not have come to it yet
        over_at = self._over_at or time.monotonic()
        sent_at = over_at if self._sent_at is None else self._sent_at
        error = future.exception()
        process = getattr(error, "process", None) if error is not None else future.result()
        stdout, stderr = self._sizes()
        self._tell(
            CommandEnded(
                self._connection_id,
                over_at,
                self._number,
                self._sent_at is not None,
                _outcome(error, process),
                over_at - self._began,
                sent_at - self._began,
                None if process is None else process.exit_status,
                stdout,
                stderr,
                None if error is None else type(error).__name__,
                None if error is None else str(error),
            )
        )

    def _tell(self, event: Event) -> None:
        self._context.run(tell, self._subscribers, event)


def _outcome(error: Optional[BaseException], process: Any) -> str:
    if error is None:
        return "completed" if process.exit_signal is None else "signalled"
    return next((word for kind, word in _OUTCOMES if isinstance(error, kind)), "failed")
