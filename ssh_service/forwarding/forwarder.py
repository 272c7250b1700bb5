"""The common part of all kinds of forwards: opening, connecting, counting and closing."""

from __future__ import annotations

import atexit
import contextvars
import itertools
import logging
import os
import time
from typing import Optional, Set, Tuple

from ssh_service import background, events
from ssh_service.connections.cache import SshClientCache
from ssh_service.connections.promises import Promise
from ssh_service.errors import (
    SshCacheClosed,
    SshConnectionLost,
    SshServiceError,
    copy_for_raise,
    reason_of,
)
from ssh_service.forwarding.addresses import Address, TcpAddress
from ssh_service.forwarding.counts import streams_in_words
from ssh_service.forwarding.link import Link
from ssh_service.forwarding.selector_thread import SelectorThread, SelectorTimer, selector_thread
from ssh_service.forwarding.stream import Stream
from ssh_service.params import ConnectParams
from ssh_service.transport import SshTransport
from ssh_service.transport.lock_free import LockFreeEvent

_log = logging.getLogger(__name__)

# Seconds that closing may take in addition to the time for draining.
_CLOSE_TIMEOUT = 5.0
# Seconds for the server to stop listening.
_STOP_TIMEOUT = 2.0
# Seconds for streams to end when the interpreter exits.
_EXIT_TIMEOUT = 1.0

_numbers = itertools.count(1)
_live: "Set[Forwarder]" = set()  # single operations are atomic


class Forwarder:
    """
    The implementation of one `Forward`.

    Attributes
    ----------
    kind : str
        ``local``, ``remote`` or ``socks``.
    connection_id : str
        ``user@host:port``, for messages.
    last_error : Optional[Exception]
        See `Forward`.
    is_closing : bool
        Whether the forward accepts no more streams.

    Notes
    -----
    Thread safety.  Properties, `open` and `close` may be used from any thread; everything else
    runs on the selector thread, unless its docstring names another one.
    """

    kind = ""

    def __init__(
        self,
        cache: SshClientCache,
        target: ConnectParams,
        to: Optional[Address],
        listen: Address,
        *,
        keep: bool,
        max_streams: int,
        idle_timeout: Optional[float],
    ) -> None:
        self.last_error: Optional[Exception] = None
        self.thread: SelectorThread
        self._number = next(_numbers)
        self.connection_id = target.connection_id
        self._to, self._listen = to, listen
        self._address = listen
        self._keep = keep
        self._max_streams = max_streams
        self._cache = cache
        self._context = contextvars.copy_context()  # of the caller, for subscribers
        self._strand = background.Strand()
        self._link = Link(self, cache, target, idle_timeout)
        self._ready: Promise[None] = Promise()
        self._ended = LockFreeEvent()
        self._pid = os.getpid()
        self._began = time.monotonic()
        # Modified only by the selector thread; other threads may read these.
        self._streams: Set[Stream] = set()
        self._stream_count = 0  # since the forward was opened
        self._to_server = self._from_server = 0  # of streams that have ended
        self.is_closing = False
        self._is_ending = False  # `_ended` is set once nothing is left
        self._is_stopping = False  # the server has been asked to stop listening
        self._stop_by = 0.0  # the deadline for the server's answer
        self._was_lost_at: Optional[float] = None
        self._drain_timer: Optional[SelectorTimer] = None

    # Callable from any thread.

    @property
    def to(self) -> str:
        """The target; ``*`` for SOCKS."""
        return "*" if self._to is None else str(self._to)

    @property
    def address(self) -> str:
        """The address that the forward listens on."""
        return str(self._address)

    @property
    def port(self) -> Optional[int]:
        """The port that the forward listens on; None for a Unix socket."""
        return self._address.port if isinstance(self._address, TcpAddress) else None

    @property
    def streams(self) -> int:
        """The number of streams, including those that have not reached their target yet."""
        return len(self._streams)

    @property
    def carried(self) -> Tuple[int, int]:
        """The number of bytes carried to and from the server."""
        streams = list(self._streams)  # a stream that ends now may briefly count twice
        return (
            self._to_server + sum(stream.bytes_to_server for stream in streams),
            self._from_server + sum(stream.bytes_from_server for stream in streams),
        )

    @property
    def has_ended(self) -> bool:
        """Whether the forward has ended completely."""
        return self._ended.is_set()

    def close(self, drain: float) -> None:
        """Stop listening, and wait until all streams end or, after `drain` seconds, are reset."""
        if self.has_ended or self._pid != os.getpid():
            return
        try:
            self.thread.call_soon(self._close, drain)
            if not self.thread.is_current():
                self._ended.wait(drain + _CLOSE_TIMEOUT)
        except BaseException:
            self.thread.call_soon(self._close, 0.0)
            raise

    # Opening.

    def open(self) -> None:
        """
        Wait until the forward listens and is connected; on an exception, call `give_up`.

        Raises
        ------
        SshServiceError
            The forward cannot listen, or cannot connect.
        """
        background.require_threads()
        if not background.ensure_threads():
            raise SshServiceError("cannot forward: the system gives no more threads")
        background.submit(self._strand, self._begin)
        self._ready.wait()
        error = self._ready.exception()
        if error is not None:
            raise copy_for_raise(error) from error

    def _begin(self) -> None:
        """Prepare and connect; on a worker thread, which no signal handler interrupts."""
        try:
            self.thread = selector_thread()
            self._prepare()
        except SshServiceError as error:
            self._ready.settle(error=error)
        except Exception as error:
            self._ready.settle(error=SshServiceError(f"cannot forward: {reason_of(error)}"))
        else:
            _live.add(self)
            self.thread.call_soon(self._link.connect)

    def give_up(self) -> None:
        """Reset the streams and close the forward without waiting; a destructor may call this."""
        background.submit_from_destructor(self._strand, self._close_if_begun)

    def _close_if_begun(self) -> None:
        """Close a forward that `_begin` has opened; on a worker thread."""
        if self in _live:
            self.thread.call_soon(self._close, 0.0)

    def _prepare(self) -> None:
        """Do what is needed before connecting; on a worker thread."""

    def _settle_ready(self) -> None:
        """Let `open` return, as the forward listens."""
        if self._ready.settle():
            _log.info("%s: %s forward of %s", self.connection_id, self.kind, self._describe())

    def _describe(self) -> str:
        return f"{self.address} to {self.to}"

    # Events of the connection.

    def on_connected(self, transport: SshTransport) -> None:
        """Handle a new connection; on the selector thread."""
        raise NotImplementedError

    def on_connect_failed(self, error: SshServiceError) -> None:
        """Handle a failed attempt to connect; on the selector thread."""
        if not self._ready.done() or isinstance(error, SshCacheClosed):
            self._end(error)
            return
        pause = self._link.pause(error) if self._keep else None
        self._report(error, pause)
        if pause is not None:
            self._link.connect_later(pause)

    def on_disconnected(self, error: Optional[SshConnectionLost], cache_closed: bool) -> None:
        """Handle the end of the connection; on the selector thread."""
        if cache_closed:
            self._end(SshCacheClosed(f"{self.connection_id}: the connection cache was closed"))
            return
        if not self._ready.done():
            text = f"{self.connection_id}: the connection has ended before the forward listened"
            self._end(error or SshConnectionLost(text, connection_id=self.connection_id))
            return
        self._was_lost_at = self._was_lost_at or time.monotonic()
        if error is not None:
            self.last_error = error
            _log.info("%s: the forward of %s was cut off", self.connection_id, self._describe())
        if self._keep or self._needs_connection():
            self._link.connect()

    def _needs_connection(self) -> bool:
        return False

    def _report(self, error: SshServiceError, retry_in: Optional[float]) -> None:
        """Publish that the connection failed, or that the server does not listen."""
        self.last_error = error
        _log.info("%s", error)
        self._publish(
            events.ForwardFailed(
                self.connection_id,
                time.monotonic(),
                self._number,
                self.kind,
                type(error).__name__,
                str(error),
                retry_in,
            )
        )

    # Streams; on the selector thread.

    def wait_for_network(self, stream: Stream) -> bool:
        """Return whether a stream must wait until the connection has sent other messages."""
        return self._link.wait_for_network(stream)

    def _add_stream(self, stream: Stream) -> None:
        self._streams.add(stream)
        self._stream_count += 1

    def on_stream_opened(self, stream: Stream) -> None:
        """Publish that a stream is open."""
        now = time.monotonic()
        self._publish(
            events.StreamOpened(
                self.connection_id,
                now,
                self._number,
                stream.number,
                stream.to,
                now - stream.began,
            )
        )

    def on_stream_failed(self, error: Exception) -> None:
        """Keep the error, before the local program notices the failure."""
        self.last_error = error
        if not isinstance(error, SshConnectionLost):  # `on_disconnected` reports that
            _log.info("%s", error)

    def on_stream_ended(
        self, stream: Stream, outcome: str, error: Optional[BaseException]
    ) -> None:
        """Count a stream that has ended, and publish its end."""
        self._streams.discard(stream)
        self._link.forget(stream)
        self._to_server += stream.bytes_to_server
        self._from_server += stream.bytes_from_server
        now = time.monotonic()
        self._publish(
            events.StreamEnded(
                self.connection_id,
                now,
                self._number,
                stream.number,
                stream.to,
                stream.has_opened,
                outcome,
                now - stream.began,
                stream.bytes_to_server,
                stream.bytes_from_server,
                None if error is None else type(error).__name__,
                None if error is None else reason_of(error),
            )
        )
        self._end_if_drained()

    def _publish(self, event: events.Event) -> None:
        subscribers = self._cache.subscribers
        if subscribers:
            background.run_callback(self._context.run, events.publish, subscribers, event)

    def _publish_listening(self) -> None:
        now = time.monotonic()
        since = self._began if self._was_lost_at is None else self._was_lost_at
        self._was_lost_at = None
        self._publish(
            events.ForwardListening(
                self.connection_id,
                now,
                self._number,
                self.kind,
                self.address,
                self.to,
                now - since,
            )
        )

    # Closing; on the selector thread.

    def _close(self, drain: float) -> None:
        if self._is_ending:
            return
        if not self.is_closing:
            self.is_closing = True
            self._keep = False
            self._stop_by = time.monotonic() + _STOP_TIMEOUT
            self._stop_listening()
        if self._drain_timer is not None:
            self._drain_timer.cancel()
        if not self._ready.done():
            self._end()
            return
        if drain:
            self._drain_timer = self.thread.call_later(drain, self._on_drain_over)
            self._end_if_drained()
        else:
            self._on_drain_over()

    def _on_drain_over(self) -> None:
        self._reset_streams()
        self._end_if_drained()
        if not self._is_ending:  # the server has not confirmed yet that it stopped listening
            left = max(0.0, self._stop_by - time.monotonic())
            self._drain_timer = self.thread.call_later(left, self._end)

    def _end_if_drained(self) -> None:
        if self.is_closing and not self._is_stopping and not self.streams:
            self._end()

    def _on_stopped(self) -> None:
        self._is_stopping = False
        self._end_if_drained()

    def _reset_streams(self) -> None:
        for stream in list(self._streams):
            stream.abort("closed")

    def _end(self, error: Optional[SshServiceError] = None) -> None:
        """End the forward, and reset the remaining streams."""
        if self._is_ending:
            return
        self._is_ending = True
        listened = self._ready.done() and self._ready.exception() is None
        if error is not None:
            self.last_error = error
        try:
            if not self.is_closing:
                self.is_closing = True
                self._stop_listening()
            if self._drain_timer is not None:
                self._drain_timer.cancel()
            self._reset_streams()
            self._link.close()
        finally:
            self._ended.set()
            _live.discard(self)
        if listened:
            self._publish_ended(error)
        self._ready.settle(
            error=error or SshServiceError(f"{self.connection_id}: the forward was closed")
        )

    def _publish_ended(self, error: Optional[SshServiceError]) -> None:
        now = time.monotonic()
        self._publish(
            events.ForwardEnded(
                self.connection_id,
                now,
                self._number,
                self.kind,
                now - self._began,
                self._stream_count,
                self._to_server,
                self._from_server,
                None if error is None else type(error).__name__,
                None if error is None else str(error),
            )
        )

    def _stop_listening(self) -> None:
        """Accept no more streams."""

    def abandon(self) -> None:
        """End the forward in a forked child, which has neither its thread nor its connection."""
        self._streams = set()
        self._ended = LockFreeEvent()
        self._ended.set()
        self.last_error = SshServiceError(
            f"{self.connection_id}: this forward belongs to the parent process"
        )


def _close_at_exit() -> None:
    """Close the forwards that the program left open; this removes their Unix sockets."""
    deadline = time.monotonic() + _EXIT_TIMEOUT
    left = list(_live)
    for forward in left:
        if forward.streams and not forward.is_closing:
            _log.warning(
                "the program has ended, and reset %s of the forward of %s",
                streams_in_words(forward.streams),
                forward._describe(),
            )
        forward.thread.call_soon(forward._close, 0.0)
    for forward in left:
        forward._ended.wait(max(0.0, deadline - time.monotonic()))


def _after_fork_in_child() -> None:
    inherited = list(_live)
    _live.clear()
    for forward in inherited:
        forward.abandon()


atexit.register(_close_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
