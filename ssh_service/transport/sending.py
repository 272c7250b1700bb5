"""
The gate: all that leaves a connection after its first key exchange passes here, in order.

One thread at a time holds it (`clear_to_send_lock`, paramiko's), and none while keys are being
exchanged.  What cannot be sent at once is deferred, and sent by whoever leaves the gate.
"""

from __future__ import annotations

import collections
import os
import threading
import time
from typing import ContextManager, Deque, List, Optional, Sequence, Set, Tuple

from paramiko.common import MSG_CHANNEL_CLOSE, cMSG_DISCONNECT
from paramiko.message import Message
from paramiko.ssh_exception import SSHException

from ssh_service.errors import reason_of
from ssh_service.interruptions import is_interruption
from ssh_service.transport import reaper
from ssh_service.transport.lifecycle import DISCONNECT_BY_APPLICATION, LifecycleTransport
from ssh_service.transport.lock_free import LockFreeEvent
from ssh_service.transport.outbound import SendState
from ssh_service.transport.packets import message
from ssh_service.transport.text import printable
from ssh_service.transport.wire import Wire

# Seconds a key exchange may take once the connection is in use.
REKEY_TIMEOUT = 30.0
# Seconds for which a message that is in no hurry waits for others.
_COALESCE_DELAY = 0.002
# Bytes of small messages that leave in one piece; what is writable takes as many without waiting.
_MAX_BATCH_BYTES = 2048


class SendingTransport(LifecycleTransport):
    """
    What sends for `SshTransport`.

    Notes
    -----
    Thread safety.  Every method may be called from any thread.

    Guarantees.  Messages of one channel leave in order, nothing after its CLOSE.  The reader
    never waits for another thread.  A write that is torn ends the connection.
    """

    def __init__(self, wire: Wire, connection_id: str) -> None:
        # Messages to go out as soon as the gate is free; a deque's append is atomic.
        self._deferred: Deque[Tuple[Message, Optional[SendState]]] = collections.deque()
        self._flush_at = 0.0  # reader thread only: when it sends what waits for company
        self._write_lock = threading.RLock()  # held while packets are made and written
        self._batches = threading.local()  # which `batch` the thread is in
        super().__init__(wire, connection_id)
        self._replace_clear_to_send()
        self.packetizer.wants_to_write = self._wants_to_write

    def _after_fork_in_child(self) -> None:
        super()._after_fork_in_child()
        self.clear_to_send_lock = threading.Lock()
        self._replace_clear_to_send()
        self._write_lock = threading.RLock()
        self._deferred.clear()

    def _replace_clear_to_send(self) -> None:
        self.clear_to_send = LockFreeEvent()
        self._can_send = self.clear_to_send.is_set  # False while keys are being exchanged

    def send_nowait(self, m: Message, send_state: Optional[SendState] = None) -> None:
        """Send a small message without blocking, even in a key exchange or with a full network."""
        self._deferred.append((m, send_state))
        if not self._batches.__dict__.get("groups"):
            self._flush_or_submit()

    def batch(self, defer: bool = False) -> ContextManager[None]:
        """Send what this thread posts meanwhile in one piece, at the end."""
        return _Batch(self, defer)

    def _flush_later(self) -> None:
        if len(self._deferred) > 1:
            self._flush()
        else:
            self._flush_at = time.monotonic() + _COALESCE_DELAY

    def _time_to_flush(self, now: float) -> float:
        """Say for how many seconds what is deferred may wait still; on the reader thread."""
        if now >= self._flush_at or not self._deferred:
            self._flush_at = 0.0
        return max(0.0, self._flush_at - now)

    def _flush_or_submit(self) -> None:
        """Send what is deferred, or see to it that another thread does."""
        if not self._flush() and threading.current_thread() is not self:
            # The reader may be waiting for bytes alone, and not know that there is more to do.
            reaper.submit(self)

    def _flush(self) -> bool:
        """Send what is deferred, unless the gate is taken: whoever holds it does so at the end."""
        try:
            while self._has_unsent() and self._can_send() and self._is_usable():
                if self._wire.would_block():
                    return not self._is_usable()
                if not self.clear_to_send_lock.acquire(False):
                    return True
                try:
                    self._send_batch_locked()
                except BaseException as exc:
                    self._abort_torn_write(exc)
                    raise
                finally:
                    self.clear_to_send_lock.release()
        except (OSError, EOFError, SSHException) as exc:
            if is_interruption(exc):
                self._abort_torn_write(exc)
                raise
            # The reader tells everyone.
        except BaseException as exc:
            self._abort_torn_write(exc)
            raise
        return True

    def _abort_torn_write(self, exc: BaseException) -> None:
        """
        End the connection after an interrupted write: docs/paramiko_repairs.md#torn-calls.

        Half a packet may be out, or one that was made was not written; a message of another
        thread's may lie where nobody looks for it, or the gate have been left closed.  Called
        before the gate is opened, as whatever came next would be garbage to the server.
        """
        self.abort(self._loss_error("reset", f"writing failed: {printable(reason_of(exc))}"))

    def _send_batch_locked(self) -> None:
        """Send deferred messages, in one piece, that the network has room for."""
        first_sends: List[SendState] = []
        with self._write_lock:
            self.packetizer.cork()
            while self._can_send() and self.packetizer.corked < _MAX_BATCH_BYTES:
                try:
                    entry = self._deferred.popleft()
                except IndexError:
                    break
                if entry[1] is not None and not entry[1].may_have_sent:
                    first_sends.append(entry[1])
                self._transmit_locked(*entry)
            try:
                self.packetizer.uncork(wait=False)
            except (OSError, EOFError):
                for (
                    send_state
                ) in first_sends:  # a socket took no byte; a channel may have taken some
                    send_state.may_have_sent = not self._wire.is_socket
                raise

    def _transmit_all_locked(
        self, messages: Sequence[Message], send_state: Optional[SendState]
    ) -> None:
        """Send messages of one channel, in one piece, for however long that takes."""
        if len(messages) == 1:
            self._transmit_locked(messages[0], send_state)
            return
        with self._write_lock:
            self.packetizer.cork()
            for m in messages:
                self._transmit_locked(m, send_state)
            self.packetizer.uncork(wait=True)

    def _send_message(self, data: Message) -> None:
        with self._write_lock:  # what passes by the gate (a key exchange, a login) keeps its place
            if self._wire._closed:  # a torn write may have left a lock of paramiko's taken
                raise EOFError("the connection is closed")
            super()._send_message(data)

    def _has_unsent(self) -> bool:
        return bool(self._deferred or self._wire.backlog)

    def _wants_to_write(self) -> bool:
        return not self._flush_at and self._has_unsent() and self._can_send()

    def _is_usable(self) -> bool:
        return bool(self.active and not self._wire._closed and self._pid == os.getpid())

    def _drain_locked(self) -> None:
        while self._deferred and self._can_send():
            try:
                entry = self._deferred.popleft()
            except IndexError:
                return
            self._transmit_locked(*entry)

    def _transmit_locked(self, m: Message, send_state: Optional[SendState]) -> None:
        on_sent = getattr(m, "on_sent", None)
        if on_sent is not None:
            on_sent()
        if send_state is not None:
            if send_state.close_sent:
                return  # see docs/paramiko_repairs.md#message-after-close
            send_state.close_sent = m.asbytes()[0] == MSG_CHANNEL_CLOSE
            send_state.may_have_sent = True
        self._send_message(m)

    def _send_user_message(self, m: Message, send_state: Optional[SendState] = None) -> None:
        self._send_user_messages((m,), send_state)

    def _send_user_messages(
        self, messages: Sequence[Message], send_state: Optional[SendState] = None
    ) -> None:
        if self._pid != os.getpid():
            raise self._fork_error()
        if threading.current_thread() is self:
            for m in messages:
                # The reader never waits: see docs/paramiko_repairs.md#rekey-deadlock
                self.send_nowait(m, send_state)
            return
        deadline = time.monotonic() + REKEY_TIMEOUT
        while True:
            ready = self.clear_to_send.wait(max(0.0, deadline - time.monotonic()))
            if not self._is_usable():
                raise self._ended_error()
            if not ready:
                self.abort(
                    self._loss_error(
                        "protocol", f"no end of a key exchange in {REKEY_TIMEOUT:g} s"
                    )
                )
                raise self._ended_error()
            try:
                with self.clear_to_send_lock:
                    if not self._can_send():
                        continue
                    try:
                        self._drain_locked()
                        self._transmit_all_locked(messages, send_state)
                    except BaseException as exc:
                        self._abort_torn_write(exc)
                        raise
                self._flush_or_submit()  # what came meanwhile, and nobody else will send
            except (OSError, EOFError, SSHException) as exc:
                if is_interruption(exc):
                    self._abort_torn_write(exc)
                    raise
                raise self._ended_error() from exc
            except BaseException as exc:
                self._abort_torn_write(exc)
                raise
            return

    def _send_disconnect(self) -> None:
        if not (self.active and self._can_send() and self._wire.writable()):
            return
        if self.clear_to_send_lock.acquire(False):
            try:
                with self._write_lock:
                    self.packetizer.cork()
                    self._send_message(message(cMSG_DISCONNECT, DISCONNECT_BY_APPLICATION, "", ""))
                    self.packetizer.uncork(wait=False)
            except (OSError, EOFError, SSHException):
                pass  # it is being ended anyway, and everyone is told so
            finally:
                self.clear_to_send_lock.release()


class _Batch:
    """See `SendingTransport.batch`; a class, as a generator costs twice as much."""

    _begun = False

    def __init__(self, transport: SendingTransport, defer: bool) -> None:
        self._transport = transport
        self._in_no_hurry = defer
        self._groups: Set[int] = transport._batches.__dict__.setdefault("groups", set())

    def __enter__(self) -> None:
        self._begun = True
        self._groups.add(id(self))

    def __exit__(self, *exc_info: object) -> None:
        self._groups.discard(id(self))
        if not self._groups and self._in_no_hurry:
            self._transport._flush_later()
        elif not self._groups:
            self._transport._flush_or_submit()
        self._begun = False

    def __del__(self) -> None:
        # A signal's handler tore its thread out of `__exit__`: without this, nothing
        # that the thread posts would leave any more.
        if self._begun:
            self._groups.discard(id(self))
            reaper.submit(self._transport)
