"""
The life of a slot: the dial, the connection, and its end.

Each change happens in this order: first the cache is updated, then hooks and subscribers are
called on the callback thread, and last the threads that wait for the connection continue.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from typing import Any, Callable, List, Optional

from ssh_service import background, events
from ssh_service.connect.routes import OpenTunnel
from ssh_service.connections import pacing
from ssh_service.connections.client import SshClient
from ssh_service.connections.entries import Slot
from ssh_service.connections.slots import Slots
from ssh_service.errors import (
    PROGRAMMING_ERRORS,
    SshCacheClosed,
    SshConfigError,
    SshConnectError,
    SshConnectTimeout,
    SshServiceError,
)
from ssh_service.transport import SshTransport

_log = logging.getLogger(__name__)

# A timeout error mentions the wait for the dial's turn if it took at least this many seconds.
_REPORT_WAIT_ABOVE = 0.1

Dialer = Callable[..., SshTransport]


class Dial:
    """
    Dials the connection of one slot.

    Notes
    -----
    Thread safety.  `start` must be called only once.  Everything else runs on the dial's own
    thread or, after the end of the connection, on its reader thread.

    Guarantees.  The slot's promise is always settled, even if the dialer or the client raises any
    exception.  If the slot leaves the cache during the dial, the connection is closed.
    """

    def __init__(
        self,
        slot: Slot,
        slots: Slots,
        *,
        client_factory: Callable[[], SshClient],
        dialer: Dialer,
        open_tunnel: OpenTunnel,
        publish: Callable[[events.Event], None],
    ) -> None:
        self._slot = slot
        self._slots = slots
        self._client_factory = client_factory
        self._dialer = dialer
        self._open_tunnel = open_tunnel
        self._publish = publish
        self._client: Optional[SshClient] = None
        self._began = self._made_at = time.monotonic()

    def start(self) -> None:
        """Start a thread that dials."""
        name = f"ssh-service-dial-{self._slot.target.connection_id}"
        try:
            threading.Thread(target=self._run, name=name, daemon=True).start()
        except RuntimeError as exc:
            where = self._slot.target.connection_id
            error = SshConnectError(
                f"{where}: cannot connect: the system gives no more threads",
                connection_id=where,
                phase="connect",
            )
            error.__cause__ = exc
            self._on_failed(error)
        except BaseException as exc:  # no memory
            self._on_failed(exc)

    def _run(self) -> None:
        try:
            self._client = client = self._client_factory()
            transport = self._connect()
            try:
                client.made(transport)
            except BaseException:
                transport.close()
                raise
        except BaseException as exc:  # of any kind, because callers wait for the outcome
            self._on_failed(exc)
        else:
            self._on_made(client, transport)

    def _connect(self) -> SshTransport:
        target = self._slot.target
        deadline = self._began + target.connect_timeout
        return pacing.paced_dial(
            (target.hostname, target.port, target.key.route),
            deadline,
            lambda: self._attempt(deadline),
            self._is_wanted,
            connection_id=target.connection_id,
        )

    def _attempt(self, deadline: float) -> SshTransport:
        waited = time.monotonic() - self._began
        try:
            target = self._slot.target
            return (target.dialer or self._dialer)(
                target,
                deadline,
                open_tunnel=self._open_tunnel,
                on_started=self._on_stream_open,
                is_wanted=self._is_wanted,
            )
        except SshConnectError as exc:
            if exc.throttled:
                self._slots.count("drops")
            if isinstance(exc, SshConnectTimeout) and waited >= _REPORT_WAIT_ABOVE:
                limit = self._slot.target.connect_timeout
                exc.args = (
                    f"{exc}; {waited:.1f} s of its {limit:g} s were spent waiting for its turn",
                )
            raise

    def _is_wanted(self) -> bool:
        return not self._slot.is_retired

    def _on_stream_open(self, transport: SshTransport) -> None:
        if not self._slots.note_dialling(self._slot, transport):
            transport.close_nowait()

    def _on_made(self, client: SshClient, transport: SshTransport) -> None:
        slot, now = self._slot, time.monotonic()
        self._made_at = now
        kept = self._slots.store_connection(slot, transport, now)
        if _is_own_hook(client.connection_made, SshClient.connection_made):
            background.run_callback(self._call_connection_made, client, transport)
        else:
            slot.hook_done.set()
        name = slot.target.connection_id
        self._publish(events.ConnectionMade(name, now, now - self._began))
        transport.add_done_callback(lambda _, loss: self._on_ended(client, loss))
        if kept:
            _log.debug("%s: connected", name)
            slot.connection.settle((transport, client))
        else:
            transport.close()

    def _call_connection_made(self, client: SshClient, transport: SshTransport) -> None:
        try:
            client.connection_made(transport)
        finally:
            self._slot.hook_done.set()

    def _on_failed(self, cause: BaseException) -> None:
        slot, client, name = self._slot, self._client, self._slot.target.connection_id
        # If `close_slots` ended the dial, that is the reason, not the error of the dial.
        error = cache_closed_error() if slot.is_retired else _to_ssh_error(cause, name)
        _log.info("%s", error)
        self._slots.remove(slot)  # first, so that a hook can dial again
        if isinstance(client, SshClient):
            with contextlib.suppress(Exception):  # a subclass that forgot to call our __init__
                client.lost()
            background.run_callback(client.connection_lost, error)
        now, kind = time.monotonic(), type(error).__name__
        seconds = now - self._began
        self._publish(events.DialFailed(name, now, seconds, kind, str(error), error.phase))
        slot.connection.settle(error=error)

    def _on_ended(self, client: SshClient, loss: Optional[Exception]) -> None:
        self._slots.remove(self._slot, losses=int(loss is not None))
        client.lost()
        if _is_own_hook(client.connection_lost, SshClient.connection_lost):
            background.run_callback(client.connection_lost, loss)
        now, name = time.monotonic(), self._slot.target.connection_id
        why = (None, None) if loss is None else (type(loss).__name__, str(loss))
        self._publish(events.ConnectionEnded(name, now, now - self._made_at, *why))
        if loss is not None:
            _log.info("%s", loss)


def _is_own_hook(hook: Callable[..., Any], ours: Callable[..., Any]) -> bool:
    """Return whether a client has a hook of its own; ours repeats only what was done before."""
    return getattr(hook, "__func__", None) is not ours


def close_slots(slots: List[Slot]) -> None:
    """Close retired slots, and end their dials; callers that wait get the error at once."""
    for slot in slots:
        slot.connection.settle(error=cache_closed_error())
    for slot in slots:
        if slot.transport is None and slot.dialling is not None:
            slot.dialling.close_nowait()
    pacing.wake_waiters()  # so that dials that wait for their turn notice and end
    for transport in transports_of(slots):
        transport.close_nowait()


def transports_of(slots: List[Slot]) -> List[SshTransport]:
    """Return the connections of slots, youngest first: a tunnel is closed before its jump host."""
    youngest = sorted(slots, key=lambda slot: slot.made_at, reverse=True)
    return [slot.transport for slot in youngest if slot.transport is not None]


def cache_closed_error() -> SshCacheClosed:
    """Return the error of what the end of the cache prevented."""
    return SshCacheClosed("the connection cache was closed")


def _to_ssh_error(error: BaseException, connection_id: str) -> SshServiceError:
    """Return an exception of a dialer or a client as an error that can be copied per waiter."""
    if isinstance(error, SshServiceError):
        return error
    kind = SshConfigError if isinstance(error, ValueError) else SshConnectError
    ours = kind(
        f"{connection_id}: {type(error).__name__}: {error}",
        connection_id=connection_id,
        phase="connect",
    )
    if isinstance(ours, SshConnectError):
        ours.permanent = isinstance(error, PROGRAMMING_ERRORS)
    ours.__cause__ = error
    return ours
