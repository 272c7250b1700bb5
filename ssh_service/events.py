"""
What happened, for whoever watches: connections made and ended, commands and copies begun and done.

``SshClientCache.subscribe`` has a function called with each of these.  They are small, hold no
secret, no script, no output and no file's name (but in the message of an error about that file),
and can be pickled.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Callable, Optional, Sequence

__all__ = [
    "CommandEnded",
    "CommandSent",
    "ConnectionEnded",
    "ConnectionMade",
    "CopyEnded",
    "CopyStarted",
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


@dataclass(frozen=True)
class CopyStarted(Event):
    """
    A copy has its connection.

    Attributes
    ----------
    copy : int
        Its number in this process, the same in its `CopyEnded`.
    way : str
        ``upload`` or ``download``.
    queued : float
        Seconds from the call, for connecting.
    """

    copy: int
    way: str
    queued: float


@dataclass(frozen=True)
class CopyEnded(Event):
    """
    A copy is over; exactly one of these comes for each copy.

    Attributes
    ----------
    copy : int
        Its number in this process.
    way : str
        ``upload`` or ``download``.
    started : bool
        Whether it had a connection; if so, its `CopyStarted` came before.
    outcome : str
        ``completed``, ``timed out``, ``cancelled``, ``lost``, ``not connected``, ``refused``,
        ``closed`` or ``failed``.
    seconds : float
        From the call to the outcome.
    queued : float
        Those of them until there was a connection; all of them where there was none.
    bytes_done, files_done : int
        How many bytes had arrived, and how many files were in their place.
    error : Optional[str]
        The error's class, where the outcome is one.
    reason : Optional[str]
        The error's message, where it is one of this package's; a message of others, such as a
        ``progress`` function that raised, may hold anything.
    """

    copy: int
    way: str
    started: bool
    outcome: str
    seconds: float
    queued: float
    bytes_done: int
    files_done: int
    error: Optional[str]
    reason: Optional[str]


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
