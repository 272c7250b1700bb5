"""Trackers: they record the progress of one command or copy, and publish it as events."""

from __future__ import annotations

import contextvars
import itertools
import time
from types import TracebackType
from typing import Any, Callable, Optional, Sequence, Tuple, Type

from ssh_service import background
from ssh_service.errors import (
    SshCacheClosed,
    SshCommandCancelled,
    SshConnectError,
    SshConnectionLost,
    SshOutputLimitError,
    SshServiceError,
    SshSessionRefused,
    SshSudoRefused,
)
from ssh_service.events import (
    CommandEnded,
    CommandSent,
    CopyEnded,
    CopyStarted,
    Event,
    Subscriber,
    publish,
)

# The first class that matches determines the outcome.
_OUTCOMES: Tuple[Tuple[Type[BaseException], str], ...] = (
    (TimeoutError, "timed out"),
    (SshCommandCancelled, "cancelled"),
    (KeyboardInterrupt, "cancelled"),
    (SshOutputLimitError, "output limit"),
    (SshConnectionLost, "lost"),
    (SshConnectError, "not connected"),
    (SshSessionRefused, "refused"),
    (SshSudoRefused, "refused"),
    (SshCacheClosed, "closed"),
)
_numbers = itertools.count(1)


class _Tracker:
    def __init__(self, connection_id: str, subscribers: Sequence[Subscriber]) -> None:
        self._connection_id = connection_id
        self._subscribers = subscribers
        # The caller's context variables identify the origin of the events: a span, a request id.
        self._context = contextvars.copy_context()
        self._number = next(_numbers)
        self._began = time.monotonic()


class CommandTracker(_Tracker):
    """
    Publishes the events of one command.

    Notes
    -----
    Thread safety.  `record_sent` and `record_done` each store one time, and are called at most
    once, on any thread.  All other methods run on the callback thread, so they need no lock.
    """

    def __init__(
        self,
        connection_id: str,
        subscribers: Sequence[Subscriber],
        get_sizes: Callable[[], Tuple[int, int]],
    ) -> None:
        super().__init__(connection_id, subscribers)
        self._get_sizes = get_sizes
        self._sent_at: Optional[float] = None
        self._done_at: Optional[float] = None
        self._sent_published = False

    def record_sent(self) -> None:
        """Record when the command was sent; then call `publish_sent` on the callback thread."""
        self._sent_at = time.monotonic()

    def record_done(self) -> None:
        """Record when the command got its outcome."""
        self._done_at = time.monotonic()

    def publish_sent(self) -> None:
        """Publish `CommandSent`, unless it was published or the command was not sent."""
        if self._sent_published or self._sent_at is None:
            return
        self._sent_published = True
        queued = self._sent_at - self._began
        self._publish(CommandSent(self._connection_id, self._sent_at, self._number, queued))

    def publish_ended(self, process: Any, error: Optional[BaseException]) -> None:
        """Publish the outcome; `CommandSent` always comes first."""
        self.publish_sent()  # the call that another thread submitted may run after this one
        done_at = self._done_at or time.monotonic()
        sent_at = done_at if self._sent_at is None else self._sent_at
        process = getattr(error, "process", None) if error is not None else process
        stdout, stderr = self._get_sizes()
        self._publish(
            CommandEnded(
                self._connection_id,
                done_at,
                self._number,
                self._sent_at is not None,
                _outcome_of_command(error, process),
                done_at - self._began,
                sent_at - self._began,
                None if process is None else process.exit_status,
                stdout,
                stderr,
                None if error is None else type(error).__name__,
                None if error is None else str(error),
            )
        )

    def _publish(self, event: Event) -> None:
        self._context.run(publish, self._subscribers, event)


class CopyTracker(_Tracker):
    """
    Publishes the events of one copy; the copy ends with the tracker's ``with`` block.

    Notes
    -----
    Not thread-safe: use it only on the thread that copies.  Subscribers are called on the callback
    thread.
    """

    def __init__(
        self,
        connection_id: str,
        direction: str,
        subscribers: Sequence[Subscriber],
        get_progress: Callable[[], Tuple[int, int]],
    ) -> None:
        super().__init__(connection_id, subscribers)
        self._direction = direction
        self._get_progress = get_progress
        self._started_at: Optional[float] = None

    def publish_started(self) -> None:
        """Publish `CopyStarted` at the first call; later calls, after a reconnect, do nothing."""
        if self._started_at is None:
            at = self._started_at = time.monotonic()
            queued = at - self._began
            self._publish(
                CopyStarted(self._connection_id, at, self._number, self._direction, queued)
            )

    def __enter__(self) -> "CopyTracker":
        return self

    def __exit__(
        self,
        error_class: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        done_at = time.monotonic()
        started_at = done_at if self._started_at is None else self._started_at
        self._publish(
            CopyEnded(
                self._connection_id,
                done_at,
                self._number,
                self._direction,
                self._started_at is not None,
                "completed" if error is None else _outcome_of_error(error),
                done_at - self._began,
                started_at - self._began,
                *self._get_progress(),
                None if error is None else type(error).__name__,
                str(error) if isinstance(error, SshServiceError) else None,
            )
        )

    def _publish(self, event: Event) -> None:
        if self._subscribers:
            background.run_callback(self._context.run, publish, self._subscribers, event)


def _outcome_of_command(error: Optional[BaseException], process: Any) -> str:
    if error is None:
        return "completed" if process.exit_signal is None else "signalled"
    return _outcome_of_error(error)


def _outcome_of_error(error: BaseException) -> str:
    return next(
        (outcome for error_class, outcome in _OUTCOMES if isinstance(error, error_class)), "failed"
    )
