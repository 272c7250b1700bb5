"""What happens to one command or one copy, noted where it happens and told where that may wait."""

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
)
from ssh_service.events import (
    CommandEnded,
    CommandSent,
    CopyEnded,
    CopyStarted,
    Event,
    Subscriber,
    tell,
)

# The first that fits.
_OUTCOMES: Tuple[Tuple[Type[BaseException], str], ...] = (
    (TimeoutError, "timed out"),
    (SshCommandCancelled, "cancelled"),
    (KeyboardInterrupt, "cancelled"),
    (SshOutputLimitError, "output limit"),
    (SshConnectionLost, "lost"),
    (SshConnectError, "not connected"),
    (SshSessionRefused, "refused"),
    (SshCacheClosed, "closed"),
)
_numbers = itertools.count(1)


class _Watch:
    def __init__(self, connection_id: str, subscribers: Sequence[Subscriber]) -> None:
        self._connection_id = connection_id
        self._subscribers = subscribers
        # The caller's context variables hold where all of it belongs: a span, a request's id.
        self._context = contextvars.copy_context()
        self._number = next(_numbers)
        self._began = time.monotonic()


class CommandWatch(_Watch):
    """
    Tells subscribers of one command.

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
        super().__init__(connection_id, subscribers)
        self._sizes = sizes
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

    def tell_ended(self, process: Any, error: Optional[BaseException]) -> None:
        """Tell the outcome, after `tell_sent`."""
        self.tell_sent()  # another thread may not have come to it yet
        over_at = self._over_at or time.monotonic()
        sent_at = over_at if self._sent_at is None else self._sent_at
        process = getattr(error, "process", None) if error is not None else process
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


class CopyWatch(_Watch):
    """
    Tells subscribers of one copy, which begins with it and is over at the end of its `with` block.

    Notes
    -----
    Thread safety.  For the thread that copies alone; subscribers are called on the callback
    thread.
    """

    def __init__(
        self,
        connection_id: str,
        way: str,
        subscribers: Sequence[Subscriber],
        done: Callable[[], Tuple[int, int]],
    ) -> None:
        super().__init__(connection_id, subscribers)
        self._way = way
        self._done = done
        self._started_at: Optional[float] = None

    def started(self) -> None:
        """Tell that there is a connection; it may be the second, where the first was lost."""
        if self._started_at is None:
            at = self._started_at = time.monotonic()
            queued = at - self._began
            self._tell(CopyStarted(self._connection_id, at, self._number, self._way, queued))

    def __enter__(self) -> "CopyWatch":
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        over_at = time.monotonic()
        started_at = over_at if self._started_at is None else self._started_at
        self._tell(
            CopyEnded(
                self._connection_id,
                over_at,
                self._number,
                self._way,
                self._started_at is not None,
                "completed" if error is None else _word(error),
                over_at - self._began,
                started_at - self._began,
                *self._done(),
                None if error is None else type(error).__name__,
                str(error) if isinstance(error, SshServiceError) else None,
            )
        )

    def _tell(self, event: Event) -> None:
        if self._subscribers:
            background.run_callback(self._context.run, tell, self._subscribers, event)


def _outcome(error: Optional[BaseException], process: Any) -> str:
    if error is None:
        return "completed" if process.exit_signal is None else "signalled"
    return _word(error)


def _word(error: BaseException) -> str:
    return next((word for kind, word in _OUTCOMES if isinstance(error, kind)), "failed")
