"""One command: what is sent for it, what comes of it, and its fate."""

from __future__ import annotations

import sys
import threading
import time
import warnings
import weakref
from typing import Any, Callable, List, Mapping, Optional, Sequence, Tuple

from ssh_service import background
from ssh_service.commands import process_group, script
from ssh_service.commands.left_running import Left, LeftRunning, ending
from ssh_service.commands.output import CallbackOutput, Output
from ssh_service.commands.process_group import Helper, RemoteGroup, Reply
from ssh_service.commands.result import CommandFuture, CompletedProcess
from ssh_service.commands.script import Script
from ssh_service.commands.stdin import Stdin
from ssh_service.commands.terminal import TerminalInput
from ssh_service.errors import (
    SshCommandCancelled,
    SshCommandError,
    SshCommandTimeout,
    SshConfigError,
    SshConnectionLost,
    SshConnectTimeout,
    SshOutputLimitError,
    SshServiceError,
    SshSessionRefused,
    copy_for_raise,
)
from ssh_service.event_trackers import CommandTracker
from ssh_service.events import Subscriber
from ssh_service.transport import ChannelSink, SshChannel
from ssh_service.transport.lock_free import LockFreeEvent

# What a command hears from the channel it runs on, whoever opened that.
HEARD = (
    "on_reply",
    "on_data",
    "on_stderr",
    "on_eof",
    "on_exit_status",
    "on_exit_signal",
    "on_writable",
)
# Seconds from TERM to KILL, and from KILL to giving up on hearing of the end.
_TERM_PATIENCE = 1.0
_KILL_PATIENCE = 0.5
# The same where a script of ours does it, which takes a session, and perhaps a connection.
_SCRIPT_PATIENCE = 0.9
# Seconds for a script of our own that is run beside a command.
_HELPER_TIMEOUT = 10.0
# Signals that end a process which has not asked for them; what gets one before it was sent is not.
_FATAL = ("KILL", "TERM", "INT", "HUP", "QUIT", "ABRT")


class Command(ChannelSink):
    """
    One run of a script on a session channel.

    Parameters
    ----------
    text : Union[str, Iterable[str]]
        The script, or its lines.
    env : Optional[Mapping[str, Any]]
        Environment variables for it; values go through `str`.
    shell : Optional[str]
        The shell to run it in; None takes the login shell.
    connection_id : str
        ``user@host:port``.
    timeout : Optional[float]
        Seconds from now, for the queue and the run.
    stdin : bytes
        What the script reads at first.
    more_stdin : bool
        Whether more may be written to `stdin`; otherwise the end of the file follows.
    stdout, stderr : Optional[Output]
        What becomes of what it writes; None keeps it.
    pty : bool
        Whether it gets a terminal; then stderr comes with stdout.
    encoding : Optional[str]
        The encoding of the text in its outcome; None takes UTF-8.
    left_running : Optional[LeftRunning]
        What earlier commands have left running, to be ended first; what this one leaves is added.

    Raises
    ------
    SshConfigError
        One of them is not what it may be.

    Notes
    -----
    Thread safety.  The methods of `ChannelSink` are for the reader thread, all else for any.

    Guarantees.  The script is sent at most once.  The future always gets its outcome, exactly
    once: completed, signalled, lost, timed out, cancelled, or never sent.

    What users' threads call (`cancel`, `abandon`, `signal`) takes no lock and sends nothing: it
    is handed over to a thread of ours, as an exception of a signal's handler can strike there.
    """

    def __init__(
        self,
        text: Script,
        env: Optional[Mapping[str, Any]],
        shell: Optional[str],
        connection_id: str,
        *,
        timeout: Optional[float] = None,
        stdin: bytes = b"",
        more_stdin: bool = False,
        stdout: Optional[Output] = None,
        stderr: Optional[Output] = None,
        pty: bool = False,
        encoding: Optional[str] = None,
        run_callback: Optional[Callable[..., None]] = None,
        left_running: Optional[LeftRunning] = None,
    ) -> None:
        check_seconds("timeout", timeout)
        if pty not in (True, False):
            raise SshConfigError(f"pty: expected True or False, got {pty!r}")
        background.require_threads()
        # Runs users' code, in order; made when it is needed first.
        self._run_callback = run_callback
        # What ends it: an error of ours, or None where it ends by itself.  The first counts;
        # `append` is atomic.
        self._fates: List[Optional[SshCommandError]] = []
        self._is_taken = False  # its future
        future = CommandFuture(self)
        self._future = weakref.ref(future)
        self._kept: Optional[CommandFuture] = future  # until somebody takes it
        self.connection_id = connection_id
        # Where users' threads leave what is to be done; None: it is nobody else's yet.
        self.strand: Optional[background.Strand] = None
        # The pool's: its place in the queue, whether it is on its second attempt (it was never
        # sent), and what it waits for, as the phase of a time-out.
        self.ticket = 0
        self.retried = False
        self.waits_for: Callable[[], str] = lambda: "queue"
        # How to run a command of our own beside it; set by who submits it.
        self.run_beside: Helper = _nowhere
        self._watch: Optional[CommandTracker] = None  # set once, before it is submitted
        # Guarded by _lock: what came of it, once that is told.
        self._outcome: Optional[Tuple[Optional[CompletedProcess], Optional[BaseException]]] = None
        self._text, self._env = script.join(text), script.check_environment(env)
        self._timeout = timeout
        self._encoding = encoding or "utf-8"
        self._group = RemoteGroup(connection_id.startswith("root@"))
        self._group_has_ended = False  # and we know
        self.stdin = Stdin(stdin, more_stdin, connection_id, terminal=pty)
        self.stdin.have_pumped = lambda: self._hand_over(self.stdin.pump)
        self._terminal = TerminalInput(self.stdin, connection_id) if pty else None
        self._shell, self._left_running = shell, left_running
        self._to_be_ended: List[Left] = []
        if left_running is not None:
            self._to_be_ended = left_running.take(needs_posix=not self._env and shell is None)
        self._delivery = script.deliver(
            self._text,
            self._env,
            shell,
            self._prologue,
            "" if self._terminal is None else self._terminal.before,
            bool(self._to_be_ended),
        )
        self.outputs = (stdout or Output(), stderr or Output())
        self._calls_back = False  # a function of the user's, with output
        for output in self.outputs:
            if isinstance(output, CallbackOutput):
                output.run_callback = self.run_callback
                self._calls_back = True
        self.auto_window = self.outputs[0].auto_window and self.outputs[1].auto_window
        self._exit_status: Optional[int] = None
        self._exit_signal: Optional[Tuple[str, bool, str, str]] = None
        self._eof = False
        self._refused: Optional[str] = None  # the phase in which the server refused the command
        self._awaits_terminal = False  # whether the next reply is to the request for a terminal
        self._lock = threading.Lock()
        self._channel: Optional[SshChannel] = None  # guarded by _lock
        self._ended_channels: List[SshChannel] = []  # guarded by _lock: not to be used any more
        self._is_being_ended = False  # guarded by _lock
        self._is_closed = False  # reader thread only: its channel, while its end is awaited
        self._is_requested = False  # guarded by _lock: the server was asked to run it
        self._early_signals: List[str] = []  # guarded by _lock: of before that
        self._over = False  # guarded by _lock
        self._timers: List[background.Timer] = []  # guarded by _lock
        if timeout is not None:
            self.set_timer(timeout, self._expire)

    def _prologue(self) -> str:
        """Write what a script that goes over stdin does first."""
        own = self._group.prologue() if self._terminal is None else self._terminal.prologue
        return own + ending(self._to_be_ended)

    def watch(self, subscribers: Sequence[Subscriber]) -> None:
        """
        Have subscribers told of it; before it is submitted.

        Parameters
        ----------
        subscribers : Sequence[Callable[[Event], Any]]
            Called on the callback thread.
        """
        out, err = self.outputs
        watch = CommandTracker(
            self.connection_id, subscribers, lambda: (out.received, err.received)
        )
        with self._lock:
            self._watch, outcome = watch, self._outcome
        if outcome is not None:  # its time was up before it began
            background.run_callback(watch.publish_ended, *outcome)

    # Its future.

    @property
    def future(self) -> CommandFuture:
        """Its outcome; nobody may have taken it, or still hold it."""
        future = self._future()
        if future is None:
            raise RuntimeError("the future was dropped")
        return future

    def take_future(self) -> CommandFuture:
        """
        Give its future away: where that is dropped before it is done, the command is ended.

        Returns
        -------
        CommandFuture
            Its outcome.
        """
        future, self._kept, self._is_taken = self.future, None, True
        return future

    def keep(self) -> None:
        """Keep the future, as somebody has a function called when it is done."""
        future = self._future()
        if not self._over:
            self._kept = future

    def drop(self) -> None:
        """End it, as its future was dropped; a destructor calls this."""
        if not self._is_taken or self._fates or self.strand is None:
            return
        self._fates.append(self._cancelled("its future was dropped, and with it the command"))
        background.submit_from_destructor(self.strand, self._carry_out)
        if sys.is_finalizing():  # no thread is left to end it
            message = "the program ended before a command did, which may still run on the host"
        else:
            message = "a command was dropped while it was under way, and is ended"
        warnings.warn(
            f"{self.connection_id}: {message}; wait for its result, or cancel it",
            ResourceWarning,
            stacklevel=3,
        )

    def run_callback(self, function: Callable[..., Any], *args: Any) -> None:
        """
        Run a user's code: in order for this command, beside that of all others.

        Parameters
        ----------
        function : Callable[..., Any]
            What it raises is logged.
        *args : Any
            Its arguments.
        """
        if self._run_callback is None:
            with self._lock:
                self._run_callback = self._run_callback or background.callback_runner()
        self._run_callback(function, *args)

    # What the pool calls.

    def start(self, channel: SshChannel) -> bool:
        """
        Send the script over an open channel.

        Parameters
        ----------
        channel : SshChannel
            A session channel with this command as its sink.

        Returns
        -------
        bool
            False if the command had its outcome already, or was taken back: nothing was sent.
        """
        with self._lock:
            if self._over or self._fates or channel in self._ended_channels:
                return False
            self._channel = channel  # from here on it counts as sent
            if self._watch is not None:
                self._watch.record_sent()
        if self._watch is not None:
            background.run_callback(self._watch.publish_sent)
        if self._terminal is None:
            self._send(channel)
        else:  # nothing is to run without it, so the script follows the server's answer
            self._awaits_terminal = True
            channel.request_pty()
        return True

    def _send(self, channel: SshChannel) -> None:
        delivery = self._delivery.for_server(channel.get_transport().remote_version)
        self._group.begin(channel, bool(delivery.preamble) and self._terminal is None)
        channel.request_exec(delivery.command)
        (self._terminal or self.stdin).start(channel, delivery.preamble)
        with self._lock:
            self._is_requested = True
            early = list(self._early_signals)
        for name in early:
            self._send_signal(channel, name)

    def take_back(self, channel: Optional[SshChannel], lost: bool = False) -> bool:
        """
        See to it that the script is not sent over a channel that has ended, if it was not yet.

        Parameters
        ----------
        channel : Optional[SshChannel]
            The channel; None where it was never open.
        lost : bool
            Whether it ended with its connection, so that what has not left never will.

        Returns
        -------
        bool
            False if the script may have been sent.
        """
        with self._lock:
            started = self._channel is not None
            left = channel is None or channel.has_sent or not lost
            # The script leaves only when there is a terminal, where it wants one.
            if started and (self._is_being_ended or (left and not self._awaits_terminal)):
                return False
            self._channel, self._awaits_terminal, self._is_requested = None, False, False
            if channel is not None:
                self._ended_channels.append(channel)
        if started and not self.stdin.take_back():
            self.retried = True  # part of what it reads has gone: there is no second attempt
        return True

    @property
    def over(self) -> bool:
        """Whether it has its outcome, or is not to be sent any more."""
        return self._over or bool(self._fates)

    @property
    def sent(self) -> bool:
        """Whether the script may have reached the server."""
        return self._channel is not None

    def fail(self, error: BaseException) -> None:
        """
        Settle a command that was never sent; one that was is left alone.

        Parameters
        ----------
        error : BaseException
            Why; it may be shared with other commands.
        """
        own = copy_for_raise(error)
        own.__cause__ = error
        self._settle(error=own, unless_sent=True)

    def is_empty(self) -> bool:
        """Tell whether there is nothing to run."""
        return script.is_empty(self._text)

    def succeed(self) -> None:
        """Settle a command that needs no server."""
        self._exit_status = 0
        self._settle(process=self._process())

    # What comes over the channel.

    def on_reply(self, ok: bool) -> None:
        """Go on once there is a terminal; give up where the server refuses that, or commands."""
        awaits_terminal, self._awaits_terminal = self._awaits_terminal, False
        if not ok:
            self._refused = "pty" if awaits_terminal else "exec"
        channel = self._channel
        if ok and channel is not None and not awaits_terminal:
            self._group.running(channel, self.run_beside)
        elif ok and channel is not None and self._cut_off is None:
            self._send(channel)
        else:
            self._close_channel()

    def on_data(self, chunk: bytes) -> None:
        """Take stdout."""
        self._put(0, chunk if self._terminal is None else self._terminal.strip(chunk))

    def on_stderr(self, chunk: bytes) -> None:
        """Take stderr."""
        self._put(1, self._group.strip(chunk))

    def on_eof(self) -> None:
        """Note that the output is complete."""
        self._eof = True

    def on_exit_status(self, status: int) -> None:
        """Note how the process ended."""
        self._exit_status = status

    def on_exit_signal(self, name: str, core_dumped: bool, text: str) -> None:
        """Note which signal ended the process."""
        self._exit_status, self._exit_signal = -1, (name, core_dumped, text, "")

    def on_writable(self) -> None:
        """Send more of stdin."""
        (self._terminal or self.stdin).pump()

    def on_close(self, error: Optional[SshServiceError]) -> None:
        """Settle the command, after all that it wrote."""
        self._put(1, self._group.rest())
        if self._terminal is not None:
            self._put(0, self._terminal.rest())
        if self._over:
            return  # this CLOSE answers our own, and proves nothing
        told = self._exit_status is not None
        cut_off = self._cut_off
        if cut_off is not None:
            if self._is_being_ended and self._group.outlives_shell and error is None:
                # What it started may run on.  The script that ends it will tell; see `_give_up`.
                self._is_closed = True
                if not self._group_has_ended:
                    return
            cut_off.ended = True if told or error is None else None
            self._settle(error=cut_off)
        elif self._refused is not None:
            what = "to give a terminal" if self._refused == "pty" else "to run a command"
            refusal = f"{self.connection_id}: the server refused {what}"
            self._settle(
                error=SshSessionRefused(
                    refusal, connection_id=self.connection_id, phase=self._refused
                )
            )
        elif error is None or (told and self._eof):
            self._settle(process=self._process())
        else:
            self._settle(error=copy_for_raise(error))

    def _put(self, number: int, chunk: bytes) -> None:
        if self._over:
            return  # nobody will see it
        output = self.outputs[number]
        channel = None if self.auto_window else self._channel
        if chunk and not output.put(chunk, channel):
            text = f"{self.connection_id}: the command wrote more than {output.limit} bytes to "
            text += ("stdout", "stderr")[number]
            self._cut(SshOutputLimitError(text, connection_id=self.connection_id))
        if channel is not None and output.auto_window:
            channel.adjust_window(len(chunk))

    # Cutting it off.

    def _cancelled(self, why: str) -> SshCommandCancelled:
        return SshCommandCancelled(
            f"{self.connection_id}: {why}", connection_id=self.connection_id
        )

    def cancel(self) -> bool:
        """
        End the command for its caller's sake.

        Returns
        -------
        bool
            False if it has its outcome already, or is being ended.
        """
        error = self._cancelled("the command was cancelled")
        done = LockFreeEvent()
        self._fates.append(error)
        self._hand_over(self._carry_out, done)  # each time, as the last may have been torn off
        if self._fates[0] is not error:
            return False
        if not background.is_worker_thread():
            done.wait(_TERM_PATIENCE)  # so that what was never sent has its outcome by now
        return True

    def abandon(self) -> None:
        """End the command without waiting, as an exception ends whoever waited for it."""
        self._fates.append(self._cancelled("its caller gave up, and with it the command"))
        self._hand_over(self._carry_out)

    def _expire(self) -> None:
        limit = f"{self._timeout:g} s"
        text = f"{self.connection_id}: the command was not sent within {limit}"
        if self.waits_for() == "queue":
            text += " (waiting for a session)"
            error: SshServiceError = SshCommandTimeout(
                text, connection_id=self.connection_id, phase="queue"
            )
        else:
            text += " (connecting)"
            error = SshConnectTimeout(text, connection_id=self.connection_id, phase="connect")
        if self._settle(error=error, unless_sent=True):
            return
        text = f"{self.connection_id}: the command did not end within {limit}"
        self._cut(SshCommandTimeout(text, connection_id=self.connection_id))

    def _cut(self, error: SshCommandError) -> None:
        """End it; on a thread of ours."""
        self._fates.append(error)
        self._carry_out()

    @property
    def _cut_off(self) -> Optional[SshCommandError]:
        """Why we end it."""
        fate: Optional[SshCommandError] = self._fates[0] if self._fates else None
        return fate

    def _carry_out(self, done: Optional[LockFreeEvent] = None) -> None:
        """End it as was decided; on a thread of ours."""
        try:
            error = self._cut_off
            if error is None or self._settle(error=error, unless_sent=True):
                return
            with self._lock:
                if self._over or self._is_being_ended:
                    return
                self._is_being_ended = True
            background.delay_exit(self)
            # Only what arrives from now on proves that the process ended because of us; `closed`
            # settles the command then.
            try:
                self._signal("TERM")
            finally:  # whatever comes of a signal, the end does
                self.set_timer(_TERM_PATIENCE, self._kill)
        finally:
            if done is not None:
                done.set()

    def _kill(self) -> None:
        try:
            self._signal("KILL")
        finally:
            patience = _SCRIPT_PATIENCE if self._group.is_reached else _KILL_PATIENCE
            self.set_timer(patience, self._give_up)

    def _note_group_end(self) -> None:
        """Take note that no process of it is left."""
        self._group_has_ended = True
        error = self._cut_off
        if self._is_closed and error is not None:
            error.ended = True
            self._settle(error=error)

    def _give_up(self) -> None:
        error = self._cut_off
        if error is not None:
            error.ended = True if self._group_has_ended else None
        self._settle(error=error)
        self._close_channel()  # after it, so that the answer to our CLOSE is not taken for a sign

    def _hand_over(self, function: Callable[..., None], *args: Any) -> None:
        if self.strand is None:
            function(*args)
        else:
            background.submit(self.strand, function, *args)

    def set_timer(self, seconds: float, function: Callable[[], None]) -> None:
        """
        Have a function of ours called, unless the command is over by then.

        Parameters
        ----------
        seconds : float
            From now.
        function : Callable[[], None]
            Must not wait.
        """
        timer = background.call_at(time.monotonic() + seconds, function)
        with self._lock:
            # Beside the others: it may be due, and have set the next one, before it stands here.
            self._timers.append(timer)
            over = self._over
        if over:  # it ended meanwhile, and knew of no timer to cancel
            timer.cancel()

    def signal(self, name: str) -> None:
        """
        Send a signal to the remote process group, or remember it until there is one.

        A command that was not sent yet, and gets a signal that ends processes, is never sent.

        Parameters
        ----------
        name : str
            Without ``SIG``.

        Raises
        ------
        SshConfigError
            That is no signal's name.
        """
        process_group.check_signal(name)
        self._hand_over(self._signal, name)

    def _signal(self, name: str) -> None:
        with self._lock:
            if self._over:  # a number that may be another process's by now
                return
            channel = self._channel
            early = not self._is_requested
            if early:
                self._early_signals.append(name)
        if channel is not None and not early:
            self._send_signal(channel, name)
        elif channel is None and name in _FATAL:
            died = CompletedProcess(self._text, self._env, b"", b"", -1, (name, False, "", ""))
            self._settle(process=died, unless_sent=True)

    def _send_signal(self, channel: SshChannel, name: str) -> None:
        if self._group.is_reached and self._is_being_ended:
            self._group.end(channel, self.run_beside, self._note_group_end)
        else:
            self._group.signal(channel, name, self.run_beside)

    def _close_channel(self) -> None:
        if self._channel is not None:
            self._channel.close_when_open()

    # Its outcome.

    def _process(self) -> CompletedProcess:
        return CompletedProcess(
            self._text,
            self._env,
            self.outputs[0].joined(),
            self.outputs[1].joined(),
            self._exit_status,
            self._exit_signal,
            self._encoding,
        )

    def _settle(
        self,
        process: Optional[CompletedProcess] = None,
        error: Optional[BaseException] = None,
        unless_sent: bool = False,
    ) -> bool:
        with self._lock:
            if self._over or (unless_sent and self.sent):
                return False
            self._over = True  # from here on `start` sends nothing
            if self._watch is not None:
                self._watch.record_done()
            timers, self._timers = self._timers, []
            self._ended_channels = []
        background.allow_exit(self)
        self._fates.append(None)
        if process is None:
            self._note_left_running(error)
        cut_off = self._cut_off
        if cut_off is not None and error is not cut_off:  # cancelled at the last moment
            cut_off.ended = True if self.sent else None
            error = cut_off
        for timer in timers:
            timer.cancel()
        (self._terminal or self.stdin).end()
        for output in self.outputs:
            output.end()
        if error is not None:
            self._complete(error)
        if self._calls_back:
            # After the last call of the user's function, which is in the same queue.
            self.run_callback(self._tell, process, error)
        else:
            self._tell(process, error)
        return True

    def _note_left_running(self, error: Optional[BaseException]) -> None:
        """Have the next command end what this one was to end, and what it leaves."""
        if self._left_running is None:
            return
        self._left_running.add(*self._to_be_ended)
        known = self._group.process
        if known is not None and not getattr(error, "ended", None):
            self._left_running.add(Left(known, self._shell))

    def _complete(self, error: BaseException) -> None:
        """Add to an error what is known of the command."""
        if isinstance(error, (SshConnectionLost, SshCommandError)) and self.sent:
            error.process = self._process()
        elif isinstance(error, SshCommandError):
            error.phase = "queue"
            if not isinstance(error, SshCommandTimeout):  # which says so itself
                error.args = (f"{error}; it was not sent",)
        if isinstance(error, SshConnectionLost):
            error.sent, error.phase = self.sent, "run" if self.sent else "open"
            if self.sent:
                error.args = (f"{error}; the remote process may still run",)
        elif isinstance(error, SshCommandError) and self.sent:
            fate = "was ended" if error.ended else "may still run"
            error.args = (f"{error}; the remote process {fate}",)

    def _tell(self, process: Optional[CompletedProcess], error: Optional[BaseException]) -> None:
        with self._lock:
            self._outcome, watch = (process, error), self._watch
        future = self._future()
        if self._is_taken:
            self._kept = None
        # What kept the pool, and with it the cache.
        self.run_beside, self.waits_for = _nowhere, _is_over
        if future is None:
            pass  # nobody wants to know
        elif error is not None:
            future.set_exception(error)
        else:
            future.set_result(process)
        if watch is not None:
            background.run_callback(watch.publish_ended, process, error)


class HelperCommand(Command):
    """
    A script of ours that is run beside a command.

    Parameters
    ----------
    text : str
        For a POSIX shell.
    connection_id : str
        ``user@host:port``.
    reply : Callable[[Optional[bytes]], None]
        Gets its stdout; None where it was not run to its end.
    """

    def __init__(self, text: str, connection_id: str, reply: Reply) -> None:
        super().__init__(text, None, "/bin/sh", connection_id, timeout=_HELPER_TIMEOUT)
        self._reply = reply

    def _send_signal(self, channel: SshChannel, name: str) -> None:
        channel.send_signal(name)  # no script is run for the sake of one of ours

    def _tell(self, process: Optional[CompletedProcess], error: Optional[BaseException]) -> None:
        super()._tell(process, error)
        ran = process is not None and process.exit_status == 0
        self._reply(process.stdout_bytes if process is not None and ran else None)


def _is_over() -> str:
    return "run"


def _nowhere(text: str, reply: Reply) -> None:
    """Run nothing: the command is over, or nobody has it yet."""
    reply(None)


def check_seconds(name: str, seconds: Optional[float]) -> None:
    """
    Refuse what is no number of seconds.

    Parameters
    ----------
    name : str
        Of the parameter.
    seconds : Optional[float]
        None: no limit.

    Raises
    ------
    SshConfigError
        It is negative, NaN, no number at all, or larger than a float can be.
    """
    if seconds is None:
        return
    try:
        if isinstance(seconds, (int, float)) and float(seconds) >= 0:
            return
        got = f"{seconds!r:.40}"
    except OverflowError:
        got = "an integer that is too large"
    raise SshConfigError(f"{name}: expected seconds, got {got}")
