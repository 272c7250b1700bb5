"""Signals to a command, and its termination from this side: TERM, KILL, then no more waiting."""

from __future__ import annotations

import time
from typing import Any, Callable, List, Optional, Set

from ssh_service import background
from ssh_service.commands import process_group
from ssh_service.commands.process_group import Helper, OnHelperOutput, RemoteGroup
from ssh_service.commands.result import CompletedProcess
from ssh_service.commands.sudo import Sudo
from ssh_service.errors import (
    SshCommandCancelled,
    SshCommandError,
    SshCommandTimeout,
    SshConnectTimeout,
    SshServiceError,
)
from ssh_service.locks import Lock
from ssh_service.transport import ChannelSink, SshChannel
from ssh_service.transport.lock_free import LockFreeEvent

# Seconds from TERM to KILL, and from KILL until we stop waiting for the end.
_TERM_TIMEOUT = 1.0
_KILL_TIMEOUT = 0.5
# Replaces `_KILL_TIMEOUT` if a helper script sends the signals: it needs a session, and perhaps a
# connection.
_SCRIPT_TIMEOUT = 0.9
# Seconds after the start of a command in which signals are held back: OpenSSH reports the start as
# soon as it has forked, and loses signals until the new process leads a process group.
_FORK_TIME = 0.25
# Signals whose default action ends a process: a command that gets one of them before it was sent
# is never sent.
_FATAL_SIGNALS = ("KILL", "TERM", "INT", "HUP", "QUIT", "ABRT")


class Terminable(ChannelSink):
    """
    A command that can be signalled, cancelled and timed out; the base class of `Command`.

    Users' threads call `cancel`, `abandon` and `signal`.  These take no lock and send nothing, but
    hand the work over to a worker thread, because a signal handler can raise an exception at any
    point of a user's thread.
    """

    def __init__(
        self,
        connection_id: str,
        timeout: Optional[float],
        sudo: Optional[Sudo] = None,
        terminal: bool = False,
    ) -> None:
        self.connection_id = connection_id
        # Runs the calls that users' threads hand over; None: the command was not submitted yet.
        self.strand: Optional[background.Strand] = None
        # Set when the command is submitted.  `waits_for` returns the phase for a timeout error;
        # `run_helper` runs a helper script in another session.
        self.waits_for: Callable[[], str] = lambda: "queue"
        self.run_helper: Helper = no_helper
        # The commands of a cache that are being ended: it waits for them before it closes.
        self.being_ended: Set[Any] = set()  # changed only by atomic operations
        # Why the command ends: an error of ours, or None if it ended by itself.  Only the first
        # item counts; `append` is atomic.
        self._end_causes: List[Optional[SshCommandError]] = []
        self._timeout = timeout
        self._group = RemoteGroup(connection_id.startswith("root@"), sudo, terminal)
        self._group_has_ended = False  # whether a helper script has reported this
        # Reader thread only: the channel is closed, but the process group may still run.
        self._is_closed = False
        self._lock = Lock()
        self._channel: Optional[SshChannel] = None  # guarded by _lock
        self._is_terminating = False  # guarded by _lock
        self._is_requested = False  # guarded by _lock: the exec request was sent
        # guarded by _lock: those before the start, to be sent after each exec request
        self._early_signals: List[str] = []
        self._holds_signals = True  # in the first time of the command, until KILL
        self._held_signals: List[str] = []  # guarded by _lock: to be sent after `_FORK_TIME`
        # guarded by _lock: when the server reported the start; None: it has not yet
        self._started_at: Optional[float] = None
        self._is_done = False  # guarded by _lock
        self._timers: List[background.Timer] = []  # guarded by _lock

    @property
    def is_done(self) -> bool:
        """Whether the command has its outcome, or must not be sent any more."""
        return self._is_done or bool(self._end_causes)

    @property
    def has_outcome(self) -> bool:
        """Whether the command has its outcome."""
        return self._is_done

    @property
    def is_sent(self) -> bool:
        """Whether the script may have reached the server."""
        return self._channel is not None

    def _cancelled(self, why: str) -> SshCommandCancelled:
        return SshCommandCancelled(
            f"{self.connection_id}: {why}", connection_id=self.connection_id
        )

    def cancel(self) -> bool:
        """Cancel the command; return False if it is done, or is already being ended."""
        error = self._cancelled("the command was cancelled")
        done = LockFreeEvent()
        self._add_end_cause(error)
        # Also for a second call: the first one may have been interrupted before this line.
        self._hand_over(self._start_termination, done)
        if self._end_causes[0] is not error:
            return False
        if not background.is_worker_thread():
            done.wait(_TERM_TIMEOUT)  # a command that was never sent has its outcome afterwards
        return True

    def abandon(self) -> None:
        """Cancel the command without waiting, because an exception interrupted its caller."""
        self._add_end_cause(self._cancelled("its caller gave up, and with it the command"))
        self._hand_over(self._start_termination)

    def _on_timeout(self) -> None:
        limit = f"{self._timeout:g} s"
        where, phase = self.connection_id, self.waits_for()
        if phase == "queue":
            text = f"{where}: the command was not sent within {limit} (waiting for a session)"
            error: SshServiceError = SshCommandTimeout(text, connection_id=where, phase=phase)
        else:
            text = f"{where}: not connected within {limit} (phase: {phase})"
            error = SshConnectTimeout(text, connection_id=where, phase=phase)
        if self._settle(error=error, unless_sent=True):
            return
        text = f"{self.connection_id}: the command did not end within {limit}"
        self._terminate(SshCommandTimeout(text, connection_id=self.connection_id))

    def _terminate(self, error: SshCommandError) -> None:
        """End the command with an error; called on a worker, timer or reader thread."""
        self._add_end_cause(error)
        self._start_termination()

    def _add_end_cause(self, error: SshCommandError) -> None:
        self._end_causes.append(error)
        self.being_ended.add(self)

    @property
    def _end_cause(self) -> Optional[SshCommandError]:
        """The error that ends the command; None if it ended by itself, or is not being ended."""
        return self._end_causes[0] if self._end_causes else None

    def _start_termination(self, done: Optional[LockFreeEvent] = None) -> None:
        """Settle the command if it was never sent; otherwise send TERM, and KILL later."""
        try:
            error = self._end_cause
            if error is None or self._settle(error=error, unless_sent=True):
                return
            with self._lock:
                if self._is_done or self._is_terminating:
                    return
                self._is_terminating = True
            background.delay_exit(self)
            # `on_close` settles the command: only a CLOSE that arrives from now on proves that the
            # process ended because of the signal.
            try:
                self._signal("TERM")
            finally:  # also if the signal cannot be sent
                self.set_timer(_TERM_TIMEOUT, self._kill)
        finally:
            if self._is_done:
                self.being_ended.discard(self)
            if done is not None:
                done.set()

    def _kill(self) -> None:
        try:
            self._holds_signals = False  # whatever the server did until now, this is the last
            self._send_held_signals()
            self._signal("KILL")
        finally:
            timeout = _SCRIPT_TIMEOUT if self._group.ends_by_script else _KILL_TIMEOUT
            self.set_timer(timeout, self._stop_waiting)

    def _on_group_ended(self) -> None:
        """Record that a helper script found no process of the group."""
        self._group_has_ended = True
        error = self._end_cause
        if self._is_closed and error is not None:
            error.ended = True
            self._settle(error=error)

    def _stop_waiting(self) -> None:
        error = self._end_cause
        if error is not None:
            error.ended = True if self._group_has_ended else None
        self._settle(error=error)
        # Only now: the reply to our CLOSE must not look like the end of the process.
        self._close_channel()

    def _hand_over(self, function: Callable[..., None], *args: Any) -> None:
        if self.strand is None:
            function(*args)
        else:
            background.submit(self.strand, function, *args)

    def set_timer(self, seconds: float, function: Callable[[], None]) -> None:
        """Call a function after some seconds, unless the command is done; it must not block."""
        timer = background.call_at(time.monotonic() + seconds, function)
        with self._lock:
            # Append, do not replace: the timer may already have fired and set the next one.
            self._timers.append(timer)
            is_done = self._is_done
        if is_done:  # `_settle` ran meanwhile, without this timer in the list
            timer.cancel()

    def signal(self, name: str) -> None:
        """
        Send a signal to the remote process group, as soon as the command has been sent.

        A command that gets a fatal signal before it was sent is never sent.  For OpenSSH, signals
        in the first quarter of a second of a command are held back.

        Raises
        ------
        SshConfigError
            `name` is not the name of a signal without ``SIG``.
        """
        process_group.check_signal(name)
        self._hand_over(self._signal, name)

    def _signal(self, name: str) -> None:
        with self._lock:
            if self._is_done:  # the process id may have been reused
                return
            channel = self._channel
            early = not self._is_requested
            if early or self._started_at is None:
                self._early_signals.append(name)
        if channel is not None and not early:
            self._send_signal(channel, name)
        elif channel is None and name in _FATAL_SIGNALS:
            self._settle(process=self._killed(name), unless_sent=True)

    def _send_signal(self, channel: SshChannel, name: str) -> None:
        if self._group.ends_by_script and self._is_terminating:
            self._group.end(channel, name, self.run_helper, self._on_group_ended)
        elif not (self._group.may_miss_signals and self._hold_back(name)):
            self._group.signal(channel, name, self.run_helper)

    def _hold_back(self, name: str) -> bool:
        """Hold back a signal if the command has only just been started."""
        with self._lock:
            left = self._time_to_hold_locked() if self._holds_signals else 0.0
            if left == 0.0 and not self._held_signals:
                return False
            self._held_signals.append(name)
        if left is not None:
            self.set_timer(left, self._release_signals)
        return True

    def _time_to_hold_locked(self) -> Optional[float]:
        """Return for how many seconds signals are held back; None: the start is not reported."""
        if self._started_at is None:
            return None
        return max(0.0, self._started_at + _FORK_TIME - time.monotonic())

    def _on_started(self) -> None:
        """Record that the server has started the command; called on the reader thread."""
        with self._lock:
            self._started_at = time.monotonic()
            holds = bool(self._held_signals)
        if holds:
            self.set_timer(_FORK_TIME, self._release_signals)

    def _release_signals(self) -> None:
        self._hand_over(self._send_held_signals)  # after a signal that is being sent

    def _send_held_signals(self) -> None:
        with self._lock:
            names, self._held_signals = self._held_signals, []
            channel = self._channel
            if self._is_done or channel is None or not self._is_requested:
                return  # they are early signals, and follow the request that is sent again
        for name in names:
            self._group.signal(channel, name, self.run_helper)

    def _close_channel(self) -> None:
        if self._channel is not None:
            self._channel.close_when_open()

    # Methods that `Command` defines.

    def _settle(
        self,
        process: Optional[CompletedProcess] = None,
        error: Optional[BaseException] = None,
        unless_sent: bool = False,
    ) -> bool:
        """
        Set the outcome.

        Return False if there already was one, or if `unless_sent` is set and the command was sent.
        """
        raise NotImplementedError

    def _killed(self, signal: str) -> CompletedProcess:
        """Return the outcome of a command that a signal ended before it was sent."""
        raise NotImplementedError


def no_helper(text: str, reply: OnHelperOutput, sudo: Optional[Sudo] = None) -> None:
    """Reply that no helper script was run: the command is done, or was not submitted."""
    reply(None)
