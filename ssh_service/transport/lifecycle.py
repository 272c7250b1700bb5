"""
How a connection ends: by this side, by the server, or by the network.

The first thread that sees a reason sets it.  The reader thread, which any end wakes, then notifies
all users.
"""

from __future__ import annotations

import contextlib
import os
import struct
import sys
import threading
import zlib
from typing import Any, Optional

import paramiko
from paramiko.message import Message
from paramiko.ssh_exception import SSHException

from ssh_service.errors import SshConnectionLost, copy_for_raise, reason_of
from ssh_service.transport.agreement import violation_of
from ssh_service.transport.end_state import DoneCallback, EndState
from ssh_service.transport.keepalive import KeepaliveTimeout
from ssh_service.transport.packets import SshPacketizer
from ssh_service.transport.text import make_printable, printable
from ssh_service.transport.wire import Wire

# Seconds for which `close` waits for the reader thread, which ends at once on a healthy machine.
_CLOSE_TIMEOUT = 2.0
# What parsers of messages raise, paramiko's and those of the libraries below it.
_PARSER_ERRORS = (ValueError, LookupError, struct.error, zlib.error)
DISCONNECT_BY_APPLICATION = 11  # RFC 4253 section 11.1


class LifecycleTransport(paramiko.Transport):  # type: ignore[misc]
    """
    What ends a `SshTransport`.

    Parameters
    ----------
    wire : Wire
        Where the bytes go to, and come from.
    connection_id : str
        ``user@host:port``, for messages.

    Notes
    -----
    Thread safety.  Every method may be called from any thread.

    Guarantees.  There is one reason, and everyone is notified once.
    """

    def __init__(self, wire: Wire, connection_id: str) -> None:
        self.connection_id = connection_id
        self._wire = wire
        self._pid = os.getpid()
        self._reader_error: Optional[BaseException] = None  # which ended it
        self._disconnect_text: Optional[str] = None  # reader thread only: the server's DISCONNECT
        # The peer has closed the stream, or is about to; only ever set.
        self._peer_closed = False
        self._end_state = EndState()
        super().__init__(wire, packetizer_class=SshPacketizer)

    # State.

    def is_active(self) -> bool:
        """
        Return whether this process can use the connection.

        False once it has ended or is being closed, in a forked child, and once the exiting
        interpreter has ended the reader thread.
        """
        return (
            bool(self.active)
            and self._end_state.reason is None
            and not self._peer_closed
            and self._pid == os.getpid()
            and not sys.is_finalizing()
        )

    def probe(self) -> bool:
        """
        Check the socket; return whether a message sent now could still be answered.

        If the peer has closed the stream, the connection becomes inactive at once, but the reader
        thread still reads what came before.
        """
        if self._wire.has_peer_closed():
            self._peer_closed = True
        return self.is_active()

    def expect_end(self) -> None:
        """Become inactive, since the peer is about to close the stream."""
        self._peer_closed = True

    @property
    def loss(self) -> Optional[SshConnectionLost]:
        """Why the connection ended; None while it lives and after a clean end."""
        return self._end_state.loss

    def add_done_callback(self, callback: DoneCallback) -> None:
        """
        Call `callback` once when the connection has ended.

        Parameters
        ----------
        callback : Callable[[SshTransport, Optional[SshConnectionLost]], None]
            Called on the reader thread, or at once on the caller's if the connection has ended,
            with the reason of the loss, or None after a clean end.  It must not block.
        """
        if not self._end_state.add_callback(callback):
            callback(self, self._end_state.loss)

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
        reason = self._end_state.reason
        if reason is None:
            return self._loss_error("unknown", "the connection has ended")
        return copy_for_raise(reason)

    # An end by this side.

    def close(self) -> None:
        """Send DISCONNECT and end the connection; pending calls fail at once."""
        self.close_nowait()
        if self.is_alive() and threading.current_thread() is not self:
            self.join(_CLOSE_TIMEOUT)

    def close_nowait(self) -> None:
        """Close without waiting for the reader thread to end."""
        self._end(
            self._loss_error("closed", "the connection was closed on this side"), polite=True
        )

    def abort(self, error: SshConnectionLost) -> None:
        """End the connection without DISCONNECT; `error` is the reason that users get."""
        self._end(error, polite=False)

    def _end(self, error: SshConnectionLost, polite: bool) -> None:
        if self._pid != os.getpid():
            # A shutdown would cut the parent's connection: see docs/paramiko_repairs.md#fork
            self._wire.release()
            return
        if self._end_state.begin(error) and polite:
            self._send_disconnect()
        self._wire.close()  # wakes the reader, which notifies the users and closes the descriptor
        if self.ident is None:  # the reader was not started
            self._wire.release()
            self._on_ended()

    def _send_disconnect(self) -> None:
        """Send DISCONNECT, if that is possible without blocking."""
        raise NotImplementedError

    def atfork(self) -> None:
        """Release the connection without a message to the server, after a fork of this process."""
        # paramiko closes the socket first, which would end the other process's connection.
        self._end(
            self._loss_error("closed", "the connection was closed on this side"), polite=False
        )

    def stop_thread(self) -> None:
        """Do nothing: paramiko calls this at the exit of the interpreter, which closes sockets."""
        # Closing it here would notify users in an exiting process that the server closed the
        # connection, and daemon threads would print that: see
        # docs/paramiko_repairs.md#interpreter-exit

    def _after_fork_in_child(self) -> None:
        """Invalidate in a forked child: threads that no longer exist may hold these locks."""
        self._end_state = EndState()
        self._end_state.complete(self._fork_error())

    # An end by the server or the network, on the reader thread.

    def run(self) -> None:
        """Read until the connection ends, then notify its users; started by `start_client`."""
        try:
            self._wire.start()
            super().run()
        except Exception as error:
            # paramiko could not format the exception that ended it (an OSError without a number):
            # see docs/paramiko_repairs.md#error-without-text
            self.saved_exception = error.__context__ or error
            with contextlib.suppress(ValueError):  # which paramiko skipped, too
                paramiko.transport._active_threads.remove(self)
            if self.auth_handler is not None:
                self.auth_handler.abort()
        finally:
            self._on_ended()
            # paramiko does this only if it was the first to see the end, not if this side closed
            # the connection at that moment.
            if self.completion_event is not None:
                self.completion_event.set()

    @property
    def saved_exception(self) -> Optional[BaseException]:
        """The exception that ended the reader; paramiko's `get_exception` takes it away."""
        return self._saved

    @saved_exception.setter
    def saved_exception(self, error: Optional[BaseException]) -> None:
        # A property, so that the reason is still known after `get_exception` took it: see
        # docs/paramiko_repairs.md#shared-exception
        # A refused login is stored here as well, but does not end the connection; it was not
        # raised, and so has no traceback.
        self._saved = error
        if error is not None and error.__traceback__ is not None:
            make_printable(error)
            self._reader_error = error
            if isinstance(error, _PARSER_ERRORS):
                # See docs/paramiko_repairs.md#malformed-message
                self._saved = SSHException(printable(violation_of(error)))
                self._saved.__cause__ = error

    def _parse_disconnect(self, m: Message) -> None:
        code, text = m.get_int(), printable(m.get_string().decode("utf-8", "backslashreplace"))
        self._disconnect_text = f"{text or 'no reason given'} (code {code})"
        if code == DISCONNECT_BY_APPLICATION:
            self._end_state.begin(
                self._loss_error("goodbye", f"the server disconnected: {self._disconnect_text}")
            )

    def _reader_loss(self) -> SshConnectionLost:
        error = self._reader_error
        if self._disconnect_text is not None:
            return self._loss_error(
                "disconnect", f"the server disconnected: {self._disconnect_text}"
            )
        if error is None:
            return self._loss_error("protocol", "the server violated the SSH protocol")
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
        end = self._end_state
        callbacks = end.complete(end.reason or self._reader_loss())
        if callbacks is None or end.reason is None:
            return
        self.active = False
        self._wire.close()
        self._release_waiters(end.reason)
        for callback in callbacks:
            try:
                callback(self, end.loss)
            except Exception:  # the other callbacks must still run
                self.logger.exception("%s: a done callback failed", self.connection_id)
        # After the last writer, the descriptor's number may be reused.  A writer that was
        # interrupted by a signal handler has left the send lock taken: see
        # docs/paramiko_repairs.md#torn-calls
        self.clear_to_send_lock.acquire(timeout=_CLOSE_TIMEOUT / 2)
        self._wire.release()
        self.clear_to_send_lock.release()

    def _release_waiters(self, reason: SshConnectionLost) -> None:
        """Release all threads that wait for this connection; each layer adds its own."""
        self.clear_to_send.set()  # for threads that wait for a key exchange
