"""
How a connection ends: by whom, why, and who is told.

Whoever is the first to see a reason decides it, once.  The reader thread, which any end wakes,
then tells everyone.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from typing import Any, Callable, List, Optional

import paramiko
from paramiko.message import Message

from ssh_service.errors import SshConnectionLost, copy_for_raise, reason_of
from ssh_service.transport.keepalive import KeepaliveTimeout
from ssh_service.transport.packets import SshPacketizer
from ssh_service.transport.text import make_printable, printable
from ssh_service.transport.wire import Wire

# Seconds `close` waits for the reader thread; it ends at once unless the machine is starved.
_CLOSE_TIMEOUT = 2.0
DISCONNECT_BY_APPLICATION = 11  # RFC 4253 section 11.1

DoneCallback = Callable[[Any, Optional[SshConnectionLost]], None]


class LifecycleTransport(paramiko.Transport):  # type: ignore[misc]
    """
    What ends a `SshTransport`.

    Parameters
    ----------
    wire : Wire
        Where the bytes go to, and come from.
    connection_id : str
        ``user@host:port``, for people.

    Notes
    -----
    Thread safety.  Every method may be called from any thread.

    Guarantees.  There is one reason, and everyone is told it once.
    """

    def __init__(self, wire: Wire, connection_id: str) -> None:
        self.connection_id = connection_id
        self._wire = wire
        self._pid = os.getpid()
        self._reader_error: Optional[BaseException] = None  # which ended it
        self._disconnect_text: Optional[str] = None  # reader thread only: the server's DISCONNECT
        self._peer_closed = False  # the peer has ended the stream; set once, by whoever sees it
        self._end_lock = threading.Lock()
        self._close_reason: Optional[SshConnectionLost] = (
            None  # guarded by _end_lock: why we end it
        )
        self._loss: Optional[SshConnectionLost] = None  # guarded by _end_lock
        self._ended = False  # guarded by _end_lock
        self._callbacks: List[DoneCallback] = []  # guarded by _end_lock
        super().__init__(wire, packetizer_class=SshPacketizer)

    # Whether, and why.

    def is_active(self) -> bool:
        """Tell whether the connection can be used, by this process."""
        return (
            bool(self.active)
            and self._close_reason is None
            and not self._peer_closed
            and self._pid == os.getpid()
            and not sys.is_finalizing()
        )

    def probe(self) -> bool:
        """
        Tell, by a look at the socket, whether what is sent now could still be answered.

        An end that has come, but that the reader thread has not seen yet, makes the connection
        inactive; what came before it is still read.
        """
        if self._wire.has_peer_closed():
            self._peer_closed = True
        return self.is_active()

    @property
    def loss(self) -> Optional[SshConnectionLost]:
        """Why the connection ended; None while it lives and after a clean end."""
        with self._end_lock:
            return self._loss

    def add_done_callback(self, callback: DoneCallback) -> None:
        """
        Call `callback` once when the connection has ended.

        Parameters
        ----------
        callback : Callable[[SshTransport, Optional[SshConnectionLost]], None]
            Called on the reader thread (at once, on the caller's, if it has ended already), with
            the reason of the loss, or None after a clean end.  It must not wait.
        """
        with self._end_lock:
            if not self._ended:
                self._callbacks.append(callback)
                return
            loss = self._loss
        callback(self, loss)

    def _loss_error(self, reason: str, text: str, **attributes: Any) -> SshConnectionLost:
        return SshConnectionLost(
            f"{self.connection_id}: {text}",
            reason=reason,
            connection_id=self.connection_id,
            **attributes,
        )

    def _fork_error(self) -> SshConnectionLost:
        return self._loss_error(
            "fork", "this connection belongs to the parent process", sent=False
        )

    def _ended_error(self) -> SshConnectionLost:
        with self._end_lock:
            reason = self._loss or self._close_reason
        return (
            copy_for_raise(reason)
            if reason
            else self._loss_error("unknown", "the connection has ended")
        )

    # By us.

    def close(self) -> None:
        """Say goodbye and end the connection; what is in flight ends with an error at once."""
        self.close_nowait()
        if self.is_alive() and threading.current_thread() is not self:
            self.join(_CLOSE_TIMEOUT)

    def close_nowait(self) -> None:
        """Do as `close` does, without waiting for the reader thread to end."""
        self._end(
            self._loss_error("closed", "the connection was closed on this side"), polite=True
        )

    def abort(self, error: SshConnectionLost) -> None:
        """Drop the connection for a reason."""
        self._end(error, polite=False)

    def _end(self, error: SshConnectionLost, polite: bool) -> None:
        if self._pid != os.getpid():
            # A shutdown would cut the parent's connection: see docs/paramiko_repairs.md#fork
            self._wire.release()
            return
        with self._end_lock:
            first = self._close_reason is None and not self._ended
            if first:
                self._close_reason = error
        if first and polite:
            self._send_disconnect()
        self._wire.close()  # wakes the reader, which tells everyone and gives the socket back
        if self.ident is None:  # there is no reader yet
            self._wire.release()
            self._on_ended()

    def _send_disconnect(self) -> None:
        """Tell the server, where that can be done without waiting."""
        raise NotImplementedError

    def atfork(self) -> None:
        """Let go of the connection without a word to the server, after a fork of this process."""
        # paramiko's closes the socket first, which would cut the other process's connection.
        self._end(
            self._loss_error("closed", "the connection was closed on this side"), polite=False
        )

    def stop_thread(self) -> None:
        """Do nothing: paramiko calls this when the interpreter ends, and so do sockets."""
        # Closing it here would tell everyone, in a process that is about to be gone, that the
        # server closed the connection, and daemon threads would print that as they die: see
        # docs/paramiko_repairs.md#interpreter-exit

    def _after_fork_in_child(self) -> None:
        """Become useless, in a forked child: threads that it has not may hold all of these."""
        self._end_lock = threading.Lock()
        self._close_reason = self._loss = self._fork_error()
        self._ended, self._callbacks = True, []

    # By the server or the network, as the reader thread sees it.

    def run(self) -> None:
        """Read until the connection ends, then tell everyone; `start_client` starts this."""
        try:
            self._wire.start()
            super().run()
        except Exception as error:
            # paramiko could not format the exception that ended it (an OSError without a number):
            # see docs/paramiko_repairs.md#error-without-text
            self.saved_exception = error.__context__ or error
            with contextlib.suppress(ValueError):  # paramiko skipped this, too
                paramiko.transport._active_threads.remove(self)
            if self.auth_handler is not None:
                self.auth_handler.abort()
        finally:
            self._on_ended()
            # paramiko does this only where it was the first to see the end: not if this side hung
            # up at that moment.
            if self.completion_event is not None:
                self.completion_event.set()

    @property
    def saved_exception(self) -> Optional[BaseException]:
        """What ended the reader, as paramiko keeps it: whoever asks first takes it away."""
        return self._saved

    @saved_exception.setter
    def saved_exception(self, error: Optional[BaseException]) -> None:
        # A property, so that the reason is still known after `get_exception` took it: see
        # docs/paramiko_repairs.md#shared-exception
        # A login that was refused is kept there as well, and ends nothing: it is not raised, but
        # made for whoever logs in.
        self._saved = error
        if error is not None and error.__traceback__ is not None:
            make_printable(error)
            self._reader_error = error

    def _parse_disconnect(self, m: Message) -> None:
        code, text = m.get_int(), printable(m.get_string().decode("utf-8", "backslashreplace"))
        self._disconnect_text = f"{text or 'no reason given'} (code {code})"
        if code == DISCONNECT_BY_APPLICATION:
            with self._end_lock:
                if self._close_reason is None:
                    self._close_reason = self._loss_error(
                        "goodbye", f"the server left: {self._disconnect_text}"
                    )

    def _reader_loss(self) -> SshConnectionLost:
        error = self._reader_error
        if self._disconnect_text is not None:
            return self._loss_error(
                "disconnect", f"the server said goodbye: {self._disconnect_text}"
            )
        if error is None:
            return self._loss_error("protocol", "the server sent what no SSH server may send")
        if isinstance(error, KeepaliveTimeout):
            lost = self._loss_error("silence", str(error))
        elif isinstance(error, EOFError):
            lost = self._loss_error("eof", "the server closed the connection")
        elif isinstance(error, OSError):
            lost = self._loss_error(
                "reset", f"the connection failed: {printable(reason_of(error))}"
            )
        else:
            lost = self._loss_error(
                "protocol", f"protocol violation: {printable(reason_of(error))}"
            )
        lost.__cause__ = error
        return lost

    def _on_ended(self) -> None:
        with self._end_lock:
            if self._ended:
                return
            reason = self._close_reason or self._reader_loss()
            clean = reason.reason in ("closed", "goodbye")
            self._ended, self._loss = True, None if clean else reason
            callbacks, self._callbacks = self._callbacks, []
        self.active = False
        self._wire.close()
        self._release_waiters(reason)
        for callback in callbacks:
            try:
                callback(self, self._loss)
            except Exception:  # the others have to be told all the same
                self.logger.exception("%s: a done callback failed", self.connection_id)
        # Once the last writer has gone, the number may be re-used.  One that a signal's handler
        # tore away from the gate has left it closed: see docs/paramiko_repairs.md#torn-calls
        self.clear_to_send_lock.acquire(timeout=_CLOSE_TIMEOUT / 2)
        self._wire.release()
        self.clear_to_send_lock.release()

    def _release_waiters(self, reason: SshConnectionLost) -> None:
        """Release whoever waits for something of this connection; each part adds its own."""
        self.clear_to_send.set()  # whoever waits for a key exchange finds the connection ended
