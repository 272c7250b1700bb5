"""
Sending: after the first key exchange, all messages of a connection pass here, in order.

One thread at a time holds the send lock (paramiko's `clear_to_send_lock`), and none during a key
exchange.  A message that cannot be sent at once waits in the `SendQueue`; the thread that releases
the lock sends it.
"""

from __future__ import annotations

import os
import threading
import time
from typing import ContextManager, List, Optional, Sequence

from paramiko.common import MSG_CHANNEL_CLOSE, cMSG_DISCONNECT
from paramiko.message import Message
from paramiko.ssh_exception import SSHException

from ssh_service.errors import reason_of
from ssh_service.interruptions import is_interruption
from ssh_service.locks import Lock, RLock
from ssh_service.transport import reaper
from ssh_service.transport.lifecycle import DISCONNECT_BY_APPLICATION, LifecycleTransport
from ssh_service.transport.lock_free import LockFreeEvent
from ssh_service.transport.outbound import SendState
from ssh_service.transport.packets import message
from ssh_service.transport.send_queue import Batch, SendQueue
from ssh_service.transport.text import printable
from ssh_service.transport.wire import Wire

# Seconds a key exchange may take once the connection is in use.
REKEY_TIMEOUT = 30.0
# Bytes that are written together at most, but for the last message of them.
_MAX_BATCH_BYTES = 96 * 1024
# Messages that may wait before the connection counts as congested: more than threads that happen
# to send at once leave.
_MAX_WAITING_MESSAGES = 16


class SendingTransport(LifecycleTransport):
    """
    The layer of `SshTransport` that sends messages.

    Notes
    -----
    Thread safety.  Every method may be called from any thread.

    Guarantees.  Messages of one channel leave in order, nothing after its CLOSE.  The reader
    never waits for another thread.  An interrupted write ends the connection.
    """

    def __init__(self, wire: Wire, connection_id: str) -> None:
        self._send_queue = SendQueue()
        self._write_lock = RLock()  # held while packets are made and written
        super().__init__(wire, connection_id)
        self.clear_to_send_lock = Lock()
        self._replace_clear_to_send()
        self.packetizer.wants_to_write = self._wants_to_write

    def _after_fork_in_child(self) -> None:
        super()._after_fork_in_child()
        self.clear_to_send_lock = Lock()
        self._replace_clear_to_send()
        self._write_lock = RLock()
        self._send_queue = SendQueue()

    def _replace_clear_to_send(self) -> None:
        self.clear_to_send = LockFreeEvent()
        self._can_send = self.clear_to_send.is_set  # False while keys are being exchanged

    def send_nowait(self, m: Message, send_state: Optional[SendState] = None) -> None:
        """Send a small message without blocking, even in a key exchange or with a full network."""
        queue = self._send_queue
        queue.append((m, send_state))
        if not queue.batches.get(threading.get_ident()):
            self._flush_or_submit()

    def send_all_nowait(
        self, messages: Sequence[Message], send_state: Optional[SendState] = None
    ) -> None:
        """Send some messages of one channel as `send_nowait` does, in one piece."""
        queue = self._send_queue
        queue.extend([(m, send_state) for m in messages])
        if not queue.batches.get(threading.get_ident()):
            self._flush_or_submit()

    @property
    def is_congested(self) -> bool:
        """Whether messages wait for the network or a key exchange: more would only pile up."""
        return bool(self._wire.backlog) or len(self._send_queue) > _MAX_WAITING_MESSAGES

    def flush(self) -> None:
        """Send waiting messages, as far as that is possible without blocking."""
        self._flush()

    def batch(self, defer: bool = False) -> ContextManager[None]:
        """
        Return a context manager: messages that this thread sends meanwhile leave in one piece.

        With `defer` (for the reader thread), a single message may wait a moment for others.
        """
        return Batch(self, self._send_queue, defer)

    def _flush_or_submit(self) -> None:
        """Send the queue, or let another thread do so."""
        if not self._flush() and threading.current_thread() is not self:
            # The reader may be waiting only for input, and would not notice.
            reaper.submit(self)

    def _flush(self) -> bool:
        """
        Send the queue; a thread that holds the send lock does so when it releases it.

        Return False if the network has no room for the rest.
        """
        try:
            return self._send_queued()
        except (OSError, EOFError, SSHException) as exc:
            if is_interruption(exc):
                self._abort_torn_write(exc)
                raise
            # The reader notifies the users.
        except BaseException as exc:
            self._abort_torn_write(exc)
            raise
        return True

    def _send_queued(self) -> bool:
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
        return True

    def _abort_torn_write(self, exc: BaseException) -> None:
        """
        End the connection after an interrupted write: docs/paramiko_repairs.md#torn-calls.

        Half a packet may have been written, or a packet was made and not written; another thread's
        message may be left in the queue, or the send lock may be left taken.  Called before the
        lock is released, as the server could not decrypt the next packet.
        """
        self.abort(self._loss_error("reset", f"writing failed: {printable(reason_of(exc))}"))

    def _send_batch_locked(self) -> None:
        """Write queued messages in one piece, as far as the network has room."""
        first_sends: List[SendState] = []
        with self._write_lock:
            self.packetizer.cork()
            # A key exchange begins under the send lock, so not during the loop.
            can_send = self._can_send()
            while can_send and self.packetizer.corked < _MAX_BATCH_BYTES:
                try:
                    entry = self._send_queue.pop(0)
                except IndexError:
                    break
                if entry[1] is not None and not entry[1].may_have_sent:
                    first_sends.append(entry[1])
                self._transmit_locked(*entry)
            try:
                self.packetizer.uncork(wait=False)
            except (OSError, EOFError):
                for send_state in first_sends:  # a socket has written nothing; a channel may have
                    send_state.may_have_sent = not self._wire.is_socket
                raise

    def _transmit_all_locked(
        self, messages: Sequence[Message], send_state: Optional[SendState]
    ) -> None:
        """Write messages of one channel in one piece, blocking as needed."""
        if len(messages) == 1:
            self._transmit_locked(messages[0], send_state)
            return
        with self._write_lock:
            self.packetizer.cork()
            for m in messages:
                self._transmit_locked(m, send_state)
            self.packetizer.uncork(wait=True)

    def _send_message(self, data: Message) -> None:
        # Messages that need no send lock (key exchange, login) must not interrupt a batch.
        with self._write_lock:
            if self._wire._closed:  # an interrupted write may have left a lock of paramiko's taken
                raise EOFError("the connection is closed")
            self.packetizer.send_message(data)

    def _has_unsent(self) -> bool:
        return bool(self._send_queue or self._wire.backlog)

    def _wants_to_write(self) -> bool:
        # What is queued and not encrypted yet is about to be sent by another thread.
        unsent = self._wire.backlog if self._wire.is_socket else self._has_unsent()
        return bool(unsent) and not self._send_queue.flush_at and self._can_send()

    def _is_usable(self) -> bool:
        return bool(self.active and not self._wire._closed and self._pid == os.getpid())

    def _drain_locked(self) -> None:
        while self._send_queue and self._can_send():
            try:
                entry = self._send_queue.pop(0)
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
                self._flush_or_submit()  # messages that were queued meanwhile
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
                pass  # the connection ends in any case
            finally:
                self.clear_to_send_lock.release()
