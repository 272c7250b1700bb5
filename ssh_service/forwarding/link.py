"""
The connection of a forward: leased from the cache, and dialled again after a loss.

It also keeps the streams that wait because the connection is congested.
"""

from __future__ import annotations

import random
from typing import Dict, Optional, Protocol

from ssh_service import background
from ssh_service.connections.cache import SshClientCache
from ssh_service.connections.entries import Lease
from ssh_service.errors import (
    SshCacheClosed,
    SshConnectionLost,
    SshServiceError,
    copy_for_raise,
    reason_of,
)
from ssh_service.forwarding.selector_thread import SelectorThread, SelectorTimer
from ssh_service.forwarding.stream import Stream
from ssh_service.params import ConnectParams
from ssh_service.transport import SshTransport

# Seconds before the next attempt after a failed one; doubled each time, with jitter.
_MIN_PAUSE = 0.5
_MAX_PAUSE = 30.0
# Seconds before the next attempt if a user must act first: servers punish repeated logins.
_LONG_PAUSE = 300.0
# Seconds between attempts to send to a congested network; doubled each time.
_MIN_POLL = 0.002
_MAX_POLL = 0.032


class LinkOwner(Protocol):
    """The methods that a `Link` calls when its connection changes; all on the selector thread."""

    thread: SelectorThread

    def on_connected(self, transport: SshTransport) -> None:
        """Handle a new connection."""

    def on_connect_failed(self, error: SshServiceError) -> None:
        """Handle a failed attempt to connect."""

    def on_disconnected(self, error: Optional[SshConnectionLost], cache_closed: bool) -> None:
        """Handle the end of the connection."""


class Link:
    """
    The connection of one forward.

    Parameters
    ----------
    owner : LinkOwner
        The forward.
    cache : SshClientCache
        The cache that connections are leased from.
    target : ConnectParams
        The server to connect to.
    idle_timeout : Optional[float]
        Seconds after which the unused connection is closed; None: the cache's default.

    Attributes
    ----------
    transport : Optional[SshTransport]
        The current connection; None if there is none.

    Notes
    -----
    Thread safety.  Methods run on the selector thread.  Leases are taken and released on worker
    threads, as the cache has locks, and connect keys may depend on files.
    """

    def __init__(
        self,
        owner: LinkOwner,
        cache: SshClientCache,
        target: ConnectParams,
        idle_timeout: Optional[float],
    ) -> None:
        self.transport: Optional[SshTransport] = None
        self._owner = owner
        self._cache = cache
        self._target = target
        self._idle_timeout = idle_timeout
        self._strand = background.Strand()
        self._generation = cache.lender.slots.generation
        self._lease: Optional[Lease] = None  # worker threads only
        self._is_connecting = False
        self._is_closed = False
        self._failures = 0  # in a row
        self._retry: Optional[SelectorTimer] = None
        self._waiting: Dict[Stream, None] = {}  # in order
        self._poll: Optional[SelectorTimer] = None
        self._poll_interval = _MIN_POLL

    # Connecting.

    def connect(self) -> None:
        """Start to connect, unless an attempt is under way."""
        self._cancel_retry()
        if not self._is_connecting and self.transport is None and not self._is_closed:
            self._is_connecting = True
            background.submit(self._strand, self._request)

    def connect_later(self, seconds: float) -> None:
        """Connect after some seconds, or with the next call of `connect`, whichever is first."""
        self._cancel_retry()
        self._retry = self._owner.thread.call_later(seconds, self.connect)

    def _cancel_retry(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    def pause(self, error: SshServiceError) -> float:
        """Return the number of seconds before the next attempt, after a failed one."""
        self._failures += 1
        if not (error.retryable or isinstance(error, SshConnectionLost)):
            return _LONG_PAUSE
        pause = min(_MAX_PAUSE, _MIN_PAUSE * 2.0 ** min(self._failures - 1, 10))
        return pause * (0.5 + random.random() / 2)

    def on_success(self) -> None:
        """Reset the delay between attempts."""
        self._failures = 0

    def close(self) -> None:
        """Release the connection, and stop connecting."""
        self._is_closed = True
        self._cancel_retry()
        self.transport = None
        background.submit(self._strand, self._release)

    # On worker threads.

    def _request(self) -> None:
        try:
            if self._is_closed:
                return
            lease = self._lease = self._cache.lender.request(
                self._target, 0, self._idle_timeout, generation=self._generation
            )
            lease.connection.add_done_callback(
                lambda _: background.submit(self._strand, self._on_dialled, lease)
            )
        except SshCacheClosed:
            self._owner.thread.call_soon(self._on_ended, None, None, True)
        except Exception as error:  # a key file, for example; the forward waits for the result
            self._owner.thread.call_soon(self._on_failed, _to_ssh_error(error))

    def _on_dialled(self, lease: Lease) -> None:
        error = lease.connection.exception()
        if error is not None:
            self._release()
            self._owner.thread.call_soon(self._on_failed, copy_for_raise(_to_ssh_error(error)))
            return
        transport = lease.connection.result()[0]
        self._owner.thread.call_soon(self._on_connected, transport)
        transport.add_done_callback(
            lambda _, loss: self._owner.thread.call_soon(
                self._on_ended, transport, loss, lease.slot.is_retired
            )
        )

    def _release(self) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            lease.release(self._idle_timeout)

    # On the selector thread.

    def _on_failed(self, error: SshServiceError) -> None:
        self._is_connecting = False
        if not self._is_closed:
            self._owner.on_connect_failed(error)

    def _on_connected(self, transport: SshTransport) -> None:
        self._is_connecting = False
        if not self._is_closed:
            self.transport = transport
            self._owner.on_connected(transport)

    def _on_ended(
        self,
        transport: Optional[SshTransport],
        loss: Optional[SshConnectionLost],
        cache_closed: bool,
    ) -> None:
        if self._is_closed or transport is not self.transport:
            return
        self._is_connecting = False
        self.transport = None
        background.submit(self._strand, self._release)
        self._owner.on_disconnected(loss, cache_closed)

    # Congestion.

    def wait_for_network(self, stream: Stream) -> bool:
        """Return whether the connection is congested; if so, the stream is resumed later."""
        if self.transport is None or not self.transport.is_congested:
            return False
        self._waiting[stream] = None
        if self._poll is None:
            self._poll_interval = _MIN_POLL
            self._poll = self._owner.thread.call_later(_MIN_POLL, self._check_network)
        return True

    def forget(self, stream: Stream) -> None:
        """Do not resume a stream any more; it has ended."""
        self._waiting.pop(stream, None)

    def _check_network(self) -> None:
        self._poll = None
        transport = self.transport
        if transport is not None:
            transport.flush()
        if transport is None or not transport.is_congested:
            waiting, self._waiting = self._waiting, {}
            for stream in waiting:
                stream.resume()
        elif self._waiting:
            self._poll_interval = min(_MAX_POLL, 2 * self._poll_interval)
            self._poll = self._owner.thread.call_later(self._poll_interval, self._check_network)


def _to_ssh_error(error: BaseException) -> SshServiceError:
    return error if isinstance(error, SshServiceError) else SshServiceError(reason_of(error))
