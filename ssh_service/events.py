"""
Events about connections, commands, copies and forwards.

``SshClientCache.subscribe`` subscribes a function, which is then called with each event::

    ssh_service.default_cache().subscribe(print)

Events are small and can be pickled.  They contain no secrets, scripts or output.  File names occur
only in the messages of errors about files.
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
        When the event happened, in seconds of `time.monotonic`.
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
        How long the dial took, from the resolution of the name to authentication, including any
        wait for other dials.
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
        The phase that failed: ``resolve``, ``tcp``, ``banner``, ``kex``, ``host key``, ``auth``,
        ...; None if the error has no phase.
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
        The name of the error's class if the connection was lost; None if it was closed by this
        side, or by the server with a disconnect message.
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
        Seconds from the call until the command was sent: the time to connect and to get a session.
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
        Whether the command may have reached the server; if so, a `CommandSent` preceded this.
    outcome : str
        ``completed``, ``signalled``, ``timed out``, ``cancelled``, ``output limit``, ``lost``,
        ``not connected``, ``refused``, ``closed`` or ``failed``.
    seconds : float
        Seconds from the call to the outcome.
    queued : float
        The part of `seconds` before the command was sent; equal to `seconds` if it was not sent.
    exit_status : Optional[int]
        The exit status that the server sent; -1 if a signal ended the process, None if the server
        sent neither.
    stdout_bytes, stderr_bytes : int
        How many bytes the command wrote.
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
        Seconds from the call until the copy had its connection.
    """

    copy: int
    way: str
    queued: float


@dataclass(frozen=True)
class CopyEnded(Event):
    """
    A copy has ended; each copy has exactly one of these events.

    Attributes
    ----------
    copy : int
        The copy's number in this process.
    way : str
        ``upload`` or ``download``.
    started : bool
        Whether the copy had a connection; if so, a `CopyStarted` preceded this.
    outcome : str
        ``completed``, ``timed out``, ``cancelled``, ``lost``, ``not connected``, ``refused``,
        ``closed`` or ``failed``.
    seconds : float
        Seconds from the call to the outcome.
    queued : float
        The part of `seconds` before the copy had a connection; equal to `seconds` if it had none.
    bytes_done, files_done : int
        How many bytes were copied, and how many files were completed.
    error : Optional[str]
        The name of the error's class; None if there is no error.
    reason : Optional[str]
        The error's message if the error is one of this package.  None for other errors, such as an
        exception that a ``progress`` function raised, because their messages may contain anything.
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
    A forward started to listen.

    If the server listens for the forward, this happens again after a lost connection.

    Attributes
    ----------
    forward : int
        The forward's number in this process, the same in all of its events.
    kind : str
        ``local``, ``remote`` or ``socks``.
    address : str
        The listening address: ``host:port``, or the path of a Unix socket.
    to : str
        The target of its streams; ``*`` for SOCKS, where each client names a target.
    seconds : float
        Seconds since the call, or since the connection was lost.
    """

    forward: int
    kind: str
    address: str
    to: str
    seconds: float


@dataclass(frozen=True)
class ForwardFailed(Event):
    """
    A forward could not connect, or the server refused to listen; the forward will try again.

    Attributes
    ----------
    forward, kind
        As in `ForwardListening`.
    error : str
        The name of the error's class, such as ``SshSessionRefused``.
    reason : str
        The error's message.
    retry_in : Optional[float]
        Seconds until the next attempt; None: the next stream causes an attempt.
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
        Seconds since the call.
    streams : int
        How many streams the forward had, with any outcome.
    bytes_to_server, bytes_from_server : int
        How many bytes its streams carried in each direction.
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
    A stream of a forward reached its target, so it can carry data in both directions.

    Attributes
    ----------
    forward : int
        The number of its forward.
    stream : int
        The stream's number in this process, the same as in its `StreamEnded`.
    to : str
        The target.
    queued : float
        Seconds since the stream began: the time to connect to the server and to the target.
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
        As in `StreamOpened`; `to` is ``?`` if a SOCKS client named no target.
    opened : bool
        Whether the stream reached its target; if so, a `StreamOpened` preceded this.
    outcome : str
        ``completed`` (both sides ended it), ``reset`` (one side broke it off), ``lost`` (the
        connection was lost), ``refused`` (by the server or the target),
        ``not connected`` (no connection to the server), ``closed`` (the forward was closed) or
        ``failed``.
    seconds : float
        How long the stream lasted.
    bytes_to_server, bytes_from_server : int
        How many bytes it carried in each direction.
    error : Optional[str]
        The name of the error's class; None if there is no error.
    reason : Optional[str]
        The error's message, which includes that of the server or the system; None if there is no
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
    """Call all subscribers, on the callback thread; log the exceptions that they raise."""
    for subscriber in subscribers:
        try:
            subscriber(event)
        except BaseException:  # SystemExit too: the other subscribers get the event all the same
            _log.exception("an event subscriber raised an exception")
