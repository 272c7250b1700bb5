"""
Events about connections, commands, copies and forwards.

Subscribe a hook to them with ``SshClientCache.subscribe``, which calls it with each event::

    ssh_service.default_cache().subscribe(print)

Events are small and can be pickled.  They contain no secret, script or output, and no file names,
except in the message of an error about a file.
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
    "ForwardEnded",
    "ForwardFailed",
    "ForwardListening",
    "StreamEnded",
    "StreamOpened",
    "Subscriber",
]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Event:
    """
    The base class of all events.

    Attributes
    ----------
    connection_id : str
        ``user@host:port``.
    at : float
        When it happened, by `time.monotonic` (seconds).
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
        How long the dial took, from resolving the name to authentication, including any wait for
        other dials.
    """

    seconds: float


@dataclass(frozen=True)
class DialFailed(Event):
    """
    A dial failed.

    Attributes
    ----------
    seconds : float
        How long the dial took.
    error : str
        The name of the error's class, such as ``SshAuthError``.
    reason : str
        The error's message.
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
        How long the connection lasted.
    error : Optional[str]
        The name of the error's class if the connection was lost; None if it was closed, by this
        side or by the server with a disconnect message.
    reason : Optional[str]
        The error's message; None if there is no error.
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
        The command's number in this process, the same as in its `CommandEnded`.
    queued : float
        Seconds from the call until it was sent: for connecting, and for a session.
    """

    command: int
    queued: float


@dataclass(frozen=True)
class CommandEnded(Event):
    """
    A command has its outcome; each command has exactly one of these events.

    Attributes
    ----------
    command : int
        The command's number in this process.
    sent : bool
        Whether it may have reached the server; if so, a `CommandSent` came before.
    outcome : str
        ``completed``, ``signalled``, ``timed out``, ``cancelled``, ``output limit``, ``lost``,
        ``not connected``, ``refused``, ``closed`` or ``failed``.
    seconds : float
        From the call to the outcome.
    queued : float
        The part of `seconds` before it was sent; all of it if it was not sent.
    exit_status : Optional[int]
        As the server sent it, -1 for a signal; None if the server sent none.
    stdout_bytes, stderr_bytes : int
        How many bytes it wrote.
    error : Optional[str]
        The name of the error's class; None if there is no error.
    reason : Optional[str]
        The error's message; None if there is no error.
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
        The copy's number in this process, the same as in its `CopyEnded`.
    way : str
        ``upload`` or ``download``.
    queued : float
        Seconds from the call until it had its connection.
    """

    copy: int
    way: str
    queued: float


@dataclass(frozen=True)
class CopyEnded(Event):
    """
    A copy is over; each copy has exactly one of these events.

    Attributes
    ----------
    copy : int
        The copy's number in this process.
    way : str
        ``upload`` or ``download``.
    started : bool
        Whether it had a connection; if so, a `CopyStarted` came before.
    outcome : str
        ``completed``, ``timed out``, ``cancelled``, ``lost``, ``not connected``, ``refused``,
        ``closed`` or ``failed``.
    seconds : float
        From the call to the outcome.
    queued : float
        The part of `seconds` before it had a connection; all of it if it had none.
    bytes_done, files_done : int
        How many bytes were copied, and how many files are complete.
    error : Optional[str]
        The name of the error's class; None if there is no error.
    reason : Optional[str]
        The error's message if it is an error of this package; None for other errors, such as one
        that a ``progress`` function raised, because their messages may contain anything.
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


@dataclass(frozen=True)
class ForwardListening(Event):
    """
    A forward listens: at first, and again after its connection was lost if the server listens.

    Attributes
    ----------
    forward : int
        The forward's number in this process, the same in all of its events.
    kind : str
        ``local``, ``remote`` or ``socks``.
    address : str
        Where it listens: ``host:port``, or the path of a Unix socket.
    to : str
        What it leads to; ``*`` for SOCKS, whose clients choose.
    seconds : float
        From the call, or from the loss of the connection.
    """

    forward: int
    kind: str
    address: str
    to: str
    seconds: float


@dataclass(frozen=True)
class ForwardFailed(Event):
    """
    A forward has no connection, or the server does not let it listen; it goes on trying.

    Attributes
    ----------
    forward, kind
        As in `ForwardListening`.
    error : str
        The name of the error's class, such as ``SshSessionRefused``.
    reason : str
        The error's message.
    retry_in : Optional[float]
        Seconds until the next attempt; None: the next stream makes one.
    """

    forward: int
    kind: str
    error: str
    reason: str
    retry_in: Optional[float]


@dataclass(frozen=True)
class ForwardEnded(Event):
    """
    A forward has ended; each forward that listened has exactly one of these events.

    Attributes
    ----------
    forward, kind
        As in `ForwardListening`.
    seconds : float
        From the call.
    streams : int
        How many streams it had, whatever became of them.
    bytes_to_server, bytes_from_server : int
        What its streams carried.
    error : Optional[str]
        The name of the error's class; None if the program closed it.
    reason : Optional[str]
        The error's message; None if there is no error.
    """

    forward: int
    kind: str
    seconds: float
    streams: int
    bytes_to_server: int
    bytes_from_server: int
    error: Optional[str]
    reason: Optional[str]


@dataclass(frozen=True)
class StreamOpened(Event):
    """
    A stream of a forward reaches its target: bytes can pass in both directions.

    Attributes
    ----------
    forward : int
        The number of its forward.
    stream : int
        The stream's number in this process, the same as in its `StreamEnded`.
    to : str
        Its target.
    queued : float
        Seconds from its beginning: for a connection to the server, and for the target.
    """

    forward: int
    stream: int
    to: str
    queued: float


@dataclass(frozen=True)
class StreamEnded(Event):
    """
    A stream of a forward has ended; each stream has exactly one of these events.

    Attributes
    ----------
    forward, stream, to
        As in `StreamOpened`; the target of a SOCKS client that named none is ``?``.
    opened : bool
        Whether it reached its target; if so, a `StreamOpened` came before.
    outcome : str
        ``completed`` (both sides ended it), ``reset`` (one side broke it off), ``lost`` (the
        connection was lost), ``refused`` (the server or the target did not let it in),
        ``not connected`` (no connection to the server), ``closed`` (the forward was closed) or
        ``failed``.
    seconds : float
        How long it lasted.
    bytes_to_server, bytes_from_server : int
        What it carried.
    error : Optional[str]
        The name of the error's class; None if there is no error.
    reason : Optional[str]
        The error's message, with the words of the server or the system; None without an
        error.
    """

    forward: int
    stream: int
    to: str
    opened: bool
    outcome: str
    seconds: float
    bytes_to_server: int
    bytes_from_server: int
    error: Optional[str]
    reason: Optional[str]


def publish(subscribers: Sequence[Subscriber], event: Event) -> None:
    """Call all subscribers, on the callback thread; an exception that one raises is logged."""
    for subscriber in subscribers:
        try:
            subscriber(event)
        except Exception:
            _log.exception("an event subscriber raised an exception")
