"""One run of a script: what is sent, what is received, and its outcome."""

from __future__ import annotations

import atexit
import functools
import os
import sys
import warnings
import weakref
from typing import Any, Callable, List, Mapping, Optional, Sequence, Set, Tuple

from ssh_service import background
from ssh_service.commands import script
from ssh_service.commands.files import FileOutput
from ssh_service.commands.left_running import LeftProcess, LeftRunning, cleanup_script
from ssh_service.commands.marks import MarkFilter
from ssh_service.commands.output import CallbackOutput, Output
from ssh_service.commands.process_group import OnHelperOutput
from ssh_service.commands.result import CommandFuture, CompletedProcess
from ssh_service.commands.script import Script, StrPath
from ssh_service.commands.stdin import InputSource, Stdin
from ssh_service.commands.sudo import Sudo
from ssh_service.commands.sudo_input import HeldInput, SudoInput
from ssh_service.commands.terminal import TerminalInput
from ssh_service.commands.termination import Terminable, no_helper
from ssh_service.commands.working_directory import WorkingDirectory, check_cwd
from ssh_service.errors import (
    SshCommandError,
    SshCommandTimeout,
    SshConfigError,
    SshConnectionLost,
    SshOutputLimitError,
    SshServiceError,
    SshSessionRefused,
    SshStdioError,
    copy_for_raise,
)
from ssh_service.event_trackers import CommandTracker
from ssh_service.events import Subscriber
from ssh_service.transport import SshChannel

# Seconds that a helper script may take.
_HELPER_TIMEOUT = 10.0
# Commands whose future a caller has, for a warning at the exit of the program.  A destructor would
# be too late for this warning: by then, modules have been cleared.  (Not a WeakSet: its callbacks
# would swallow an exception of a signal handler, such as KeyboardInterrupt.)
_taken: "Set[weakref.ref[Command]]" = set()


class Command(Terminable):
    """
    One run of a script on a session channel.

    Parameters
    ----------
    text : Union[str, Iterable[str]]
        The script, or its lines.
    env : Optional[Mapping[str, Any]]
        Environment variables for the script; values are converted by `str`.
    shell : Optional[str]
        Path of the shell that runs the script; None: the user's login shell.
    connection_id : str
        ``user@host:port``.
    cwd : Union[None, str, os.PathLike]
        The folder that the script runs in; None: the user's home directory.
    sudo : Optional[Sudo]
        The options of sudo, which runs the script; None: it is run without sudo.
    is_command : bool
        Whether the script is one command with its arguments, quoted, which sudo runs itself.
    resembles_args : bool
        Whether the script was a list that looks like one command with its arguments.
    timeout : Optional[float]
        Seconds from now until the command must have ended, the time in the queue included; None:
        no limit.
    stdin : bytes
        The first part of the script's stdin.
    more_stdin : bool
        Whether more may be written to stdin later; if not, end of file follows `stdin`.
    stdout, stderr : Optional[Output]
        Receives the stream; None: an `Output` that keeps it without a limit.
    pty : bool
        Whether to allocate a terminal; stderr then arrives within stdout.
    encoding : Optional[str]
        The encoding of the outcome's text; None: UTF-8.
    run_callback : Optional[Callable[..., None]]
        Runs users' functions, in order; None: a `background.callback_runner` of the command's own.
    left_running : Optional[LeftRunning]
        The processes that earlier commands left running.  This command ends them first, and adds
        those that it leaves itself; None: neither.

    Raises
    ------
    SshConfigError
        A parameter is invalid.

    Notes
    -----
    Thread safety.  The methods of `ChannelSink` must be called on the reader thread, all others
    may be called from any thread.

    Guarantees.  The script is sent at most once.  The future receives exactly one outcome, in
    every case: completed, signalled, lost, timed out, cancelled, or never sent.

    The methods that users' threads call (`cancel`, `abandon`, `signal`) take no lock and send
    nothing.  They hand the work over to a thread of ours, because a signal handler can raise an
    exception anywhere in a user's thread.
    """

    def __init__(
        self,
        text: Script,
        env: Optional[Mapping[str, Any]],
        shell: Optional[str],
        connection_id: str,
        *,
        cwd: Optional[StrPath] = None,
        sudo: Optional[Sudo] = None,
        is_command: bool = False,
        resembles_args: bool = False,
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
        super().__init__(connection_id, timeout, sudo, bool(pty))
        self._run_callback = run_callback  # None: made at first use
        self._future_taken = False  # whether a caller has the future
        future = CommandFuture(self)
        self._future = weakref.ref(future)
        self._kept_future: Optional[CommandFuture] = future  # until `take_future`
        # Set by the pool: the place in the queue, and whether this is the second attempt (after
        # one that sent nothing).
        self.ticket = 0
        self.retried = False
        self.max_connections, self.fails_with_dial = 1, False
        self._tracker: Optional[CommandTracker] = None  # set once, before the command is submitted
        # Guarded by _lock: set when the outcome is published.
        self._outcome: Optional[Tuple[Optional[CompletedProcess], Optional[BaseException]]] = None
        self._text, self._env = script.join(text, is_command), script.check_environment(env)
        if is_command and shell is None and script.needs_posix_shell(self._text, self._env):
            shell = "/bin/sh"  # any login shell can start it
        self._encoding = encoding or "utf-8"
        self.resembles_args = resembles_args
        self.stdin = Stdin(stdin, more_stdin, connection_id, terminal=pty)
        self.stdin.request_pump = lambda: self._hand_over(self.stdin.pump)
        held = HeldInput(self.stdin, connection_id) if sudo is not None and is_command else None
        source: InputSource = held or self.stdin
        self._terminal = TerminalInput(source, connection_id) if pty else None
        self._input: InputSource = self._terminal or source
        self._shell, self._left_running = shell, left_running
        self._left_to_end: List[LeftProcess] = []
        if left_running is not None:
            self._left_to_end = left_running.take(needs_posix=not self._env and shell is None)
        self._cwd = None if cwd is None else WorkingDirectory(check_cwd(cwd))
        self._sudo: Optional[SudoInput] = None
        if sudo is not None:
            self._input = self._sudo = SudoInput(
                sudo,
                self._input,
                held,
                connection_id,
                terminal=pty,
                waits_for_sudo=not is_command or sudo.password is not None,
                refuse=self._terminate,
                run_callback=self.run_callback,
                set_timer=self.set_timer,
            )
        self._delivery = self._deliver(sudo, is_command)
        # The stream with the marks of our scripts, and what removes them, in the scripts' order.
        self._marked = 0 if pty else 1
        filters: List[Optional[MarkFilter]] = [self._terminal or self._group, self._cwd]
        filters.insert(len(filters) if is_command else 0, self._sudo)
        self._filters: List[MarkFilter] = [one for one in filters if one is not None]
        self.outputs = (stdout or Output(), stderr or Output())
        self._calls_back = False  # whether output goes to a user's function
        for output in self.outputs:
            if isinstance(output, CallbackOutput):
                output.run_callback = self.run_callback
                self._calls_back = True
            if isinstance(output, FileOutput):
                output.on_failure = self.fail
        self.auto_window = self.outputs[0].auto_window and self.outputs[1].auto_window
        self._exit_status: Optional[int] = None
        self._exit_signal: Optional[Tuple[str, bool, str, str]] = None
        self._eof = False
        self._refused: Optional[str] = None  # the phase in which the server refused the command
        self._awaits_terminal = False  # whether the next reply is to the request for a terminal
        self._failures: List[SshStdioError] = []  # of the user's files; `append` is atomic
        self._ended_channels: List[SshChannel] = []  # guarded by _lock: must not be used any more
        if timeout is not None:
            self.set_timer(timeout, self._on_timeout)

    def _deliver(self, sudo: Optional[Sudo], is_command: bool) -> script.Delivery:
        text, shell = self._text, self._shell
        wrap: Optional[Callable[[str], str]] = None
        if sudo is not None and self._sudo is not None:
            mark = self._sudo.mark_start
            if is_command:
                self._sudo.hide(text)
                text = sudo.script(text, bool(self._env), mark, self._terminal is not None)
                shell = "/bin/sh"
            else:
                wrap = functools.partial(sudo.wrap, shell=shell, start=mark)
        return script.deliver(
            text if self._cwd is None else self._cwd.enter(text),
            self._env,
            shell,
            self._prologue,
            "" if self._terminal is None else self._terminal.before,
            bool(self._left_to_end),
            wrap,
        )

    def _prologue(self) -> str:
        """Return the first commands of a script that is sent over stdin."""
        own = self._group.prologue() if self._terminal is None else self._terminal.prologue
        return own + cleanup_script(self._left_to_end)

    def watch(self, subscribers: Sequence[Subscriber]) -> None:
        """Publish the command's events to subscribers; must be called before it is submitted."""
        out, err = self.outputs
        tracker = CommandTracker(
            self.connection_id, subscribers, lambda: (out.received, err.received)
        )
        with self._lock:
            self._tracker, outcome = tracker, self._outcome
        if outcome is not None:  # the command timed out before it was submitted
            background.run_callback(tracker.publish_ended, *outcome)

    # The future.

    @property
    def future(self) -> CommandFuture:
        """The future of the outcome; raises `RuntimeError` if it was dropped."""
        future = self._future()
        if future is None:
            raise RuntimeError("the future was dropped")
        return future

    def take_future(self) -> CommandFuture:
        """Return the future to a caller; if it is dropped before it is done, end the command."""
        future, self._kept_future, self._future_taken = self.future, None, True
        _taken.add(weakref.ref(self))
        return future

    def keep_future(self) -> None:
        """Keep the future alive until it is done, because it has a done-callback."""
        future = self._future()
        if not self._is_done:
            self._kept_future = future

    def on_future_dropped(self) -> None:
        """End the command because its future was dropped; called by the future's destructor."""
        _taken.discard(weakref.ref(self))
        if self.strand is not None and self._is_attended() and not sys.is_finalizing():
            message = "a running command was dropped, and is ended"
            cause = self._cancelled("its future was dropped, and with it the command")
            self._add_end_cause(cause)
            background.submit_from_destructor(self.strand, self._start_termination)
            self._warn_of_future(message, stacklevel=4)

    def on_exit(self) -> None:
        """Warn that the program ends before this command, if a caller has its future."""
        if self.strand is not None and self._is_attended() and not self._is_done:
            self._warn_of_future(
                "the program ended before a command did, which may still run on the host",
                stacklevel=3,
            )

    def _is_attended(self) -> bool:
        """Return whether a caller has the future, and the command is not being ended yet."""
        return self._future_taken and not self._end_causes

    def _warn_of_future(self, message: str, stacklevel: int) -> None:
        warnings.warn(
            f"{self.connection_id}: {message}; wait for its result, or cancel it",
            ResourceWarning,
            stacklevel=stacklevel,
        )

    def run_callback(self, function: Callable[..., Any], *args: Any) -> None:
        """Run a user's function on a callback thread, in the order of this command's calls."""
        if self._run_callback is None:
            with self._lock:
                self._run_callback = self._run_callback or background.callback_runner()
        self._run_callback(function, *args)

    def fail(self, error: SshStdioError) -> None:
        """End the command, because a file of the user's cannot be used; on a thread of ours."""
        error.connection_id, error.args = self.connection_id, (f"{self.connection_id}: {error}",)
        self._failures.append(error)
        self._terminate(error)

    # Called by the pool.

    def start(self, channel: SshChannel) -> bool:
        """
        Send the script over an open channel.

        Return False if nothing was sent, because the command already has its outcome or was
        unsent.
        """
        with self._lock:
            if self._is_done or self._end_causes or channel in self._ended_channels:
                return False
            self._channel = channel  # from here on, the command counts as sent
            if self._tracker is not None:
                self._tracker.record_sent()
        if self._tracker is not None:
            background.run_callback(self._tracker.publish_sent)
        if self._terminal is None:
            self._send(channel)
        else:  # the script must not run without a terminal: send it after the server's reply
            self._awaits_terminal = True
            channel.request_pty()
        return True

    def _send(self, channel: SshChannel) -> None:
        delivery = self._delivery.for_server(channel.get_transport().remote_version)
        self._group.begin(channel, bool(delivery.preamble) and self._terminal is None)
        channel.request_exec(delivery.command)
        self._input.start(channel, delivery.preamble)
        with self._lock:
            self._is_requested = True
            early, self._held_signals = list(self._early_signals), []
        for name in early:
            self._send_signal(channel, name)

    def unsend(self, channel: Optional[SshChannel], lost: bool = False) -> bool:
        """
        Undo a send that has not left yet, so that the command can be sent again.

        Return False if the script may have been sent.
        """
        with self._lock:
            started = self._channel is not None
            left = channel is None or channel.has_sent or not lost
            # With `pty`, the script is sent only after the server has granted the terminal.
            if started and (self._is_terminating or (left and not self._awaits_terminal)):
                return False
            self._channel, self._awaits_terminal, self._is_requested = None, False, False
            self._started_at = None
            if channel is not None:
                self._ended_channels.append(channel)
        if started and not self.stdin.unsend():
            self.retried = True  # part of stdin was sent, so the command cannot be sent again
        return True

    def settle_unsent(self, error: BaseException) -> None:
        """Settle the command with an error, unless it was sent."""
        own = copy_for_raise(error)
        own.__cause__ = error
        self._settle(error=own, unless_sent=True)

    def is_empty(self) -> bool:
        """Return whether there is nothing to run, and no folder to enter."""
        return self._cwd is None and script.is_empty(self._text)

    def settle_empty(self) -> None:
        """Settle a command with an empty script, which needs no server, as successful."""
        self._exit_status = 0
        self._settle(process=self._process())

    # Called by the channel, on the reader thread.

    def on_reply(self, ok: bool) -> None:
        """Send the script once there is a terminal; close the channel if a request is refused."""
        awaits_terminal, self._awaits_terminal = self._awaits_terminal, False
        if not ok:
            self._refused = "pty" if awaits_terminal else "exec"
        channel = self._channel
        if ok and channel is not None and not awaits_terminal:
            self._on_started()
            self._group.on_started(channel, self.run_helper)
        elif ok and channel is not None and self._end_cause is None:
            self._send(channel)
        else:
            self._close_channel()

    def on_data(self, chunk: bytes) -> None:
        """Handle data of stdout."""
        self._put(0, self._strip(chunk) if self._marked == 0 else chunk)

    def on_stderr(self, chunk: bytes) -> None:
        """Handle data of stderr."""
        self._put(1, self._strip(chunk) if self._marked == 1 else chunk)

    def on_eof(self) -> None:
        """Record that the output is complete."""
        self._eof = True

    def on_exit_status(self, status: int) -> None:
        """Record the exit status."""
        self._exit_status = status

    def on_exit_signal(self, name: str, core_dumped: bool, text: str) -> None:
        """Record the signal that ended the process."""
        self._exit_status, self._exit_signal = -1, (name, core_dumped, text, "")

    def on_writable(self) -> None:
        """Send more of stdin."""
        self._input.pump()

    def on_close(self, error: Optional[SshServiceError]) -> None:
        """Settle the command, after all of its output."""
        self._put(self._marked, self._strip(b"", final=True))
        if self._is_done:
            return  # this CLOSE answers ours, and does not prove that the process has ended
        has_status = self._exit_status is not None
        cause = self._end_cause
        if cause is not None:
            if self._may_outlive_channel():
                # Processes that the command started may still run: the helper script reports
                # their end, or `_stop_waiting` gives up.
                self._is_closed = True
                if self._is_terminating and error is None and not self._group_has_ended:
                    return
                cause.ended = True if self._group_has_ended else None
            else:
                cause.ended = True if has_status or error is None else None
            self._settle(error=cause)
        elif self._refused is not None:
            what = "to give a terminal" if self._refused == "pty" else "to run a command"
            refusal = f"{self.connection_id}: the server refused {what}"
            self._settle(
                error=SshSessionRefused(
                    refusal, connection_id=self.connection_id, phase=self._refused
                )
            )
        elif error is None or (has_status and self._eof):
            not_run = self._why_not_run()
            if not_run is None:
                self._settle(process=self._process())
            else:
                self._settle(error=not_run)
        else:
            self._settle(error=copy_for_raise(error))

    def _may_outlive_channel(self) -> bool:
        """Return whether processes of the command may still run after the channel was closed."""
        # With a terminal, servers close the channel when the first process has ended, such as the
        # shell that started sudo.
        if not self._is_requested or self._refused is not None:
            return False
        sudo_refused = self._sudo is not None and not self._sudo.may_run
        return self._group.may_outlive_shell and not sudo_refused

    def _why_not_run(self) -> Optional[SshCommandError]:
        """Return the error if the command has ended before the script began."""
        error: Optional[SshCommandError] = None
        if self._cwd is not None:
            error = self._cwd.error(self.connection_id)
        if error is None and self._sudo is not None:
            has_output = self._marked == 1 and bool(self.outputs[0].received)
            error = self._sudo.error_at_end(self._exit_status, has_output)
        return error

    def _send_signal(self, channel: SshChannel, name: str) -> None:
        if self._sudo is None or self._sudo.may_run:
            super()._send_signal(channel, name)
        else:
            self._sudo.give_up()

    def _strip(self, chunk: bytes, final: bool = False) -> bytes:
        """Remove marks from a chunk of output; with `final`, hold back nothing any more."""
        for marks in self._filters:
            chunk = marks.strip(chunk)
            if final:
                chunk += marks.flush()
        return chunk

    def _put(self, number: int, chunk: bytes) -> None:
        if self._is_done:
            return  # output after the outcome is dropped
        output = self.outputs[number]
        channel = None if self.auto_window else self._channel
        if chunk and not output.put(chunk, channel):
            text = f"{self.connection_id}: the command wrote more than {output.limit} bytes to "
            text += ("stdout", "stderr")[number]
            self._terminate(SshOutputLimitError(text, connection_id=self.connection_id))
        if channel is not None and output.auto_window:
            channel.adjust_window(len(chunk))

    # The outcome.

    def _killed(self, signal: str) -> CompletedProcess:
        return CompletedProcess(self._text, self._env, b"", b"", -1, (signal, False, "", ""))

    def _process(self) -> CompletedProcess:
        return CompletedProcess(
            self._text,
            self._env,
            self.outputs[0].joined(),
            self.outputs[1].joined(),
            self._exit_status,
            self._exit_signal,
            self._encoding,
            self.connection_id,
            self.resembles_args,
        )

    def _settle(
        self,
        process: Optional[CompletedProcess] = None,
        error: Optional[BaseException] = None,
        unless_sent: bool = False,
    ) -> bool:
        with self._lock:
            if self._is_done or (unless_sent and self.is_sent):
                return False
            self._is_done = True  # from here on `start` sends nothing
            if self._tracker is not None:
                self._tracker.record_done()
            timers, self._timers = self._timers, []
            self._ended_channels = []
        background.allow_exit(self)
        self.being_ended.discard(self)
        self._end_causes.append(None)
        if process is None:
            self._note_left_running(error)
        cause = self._end_cause
        if cause is not None and error is not cause:  # cancelled while it was being settled
            cause.ended = self._is_known_to_have_ended(process, error)
            error = cause
        for timer in timers:
            timer.cancel()
        self._input.end()
        for output in self.outputs:
            output.end()
        if error is not None:
            self._describe_error(error)
        if self._calls_back:
            # Queued after the last call of the user's function, as it uses the same queue.
            self.run_callback(self._publish_outcome, process, error)
        else:
            self._publish_outcome(process, error)
        return True

    def _is_known_to_have_ended(
        self, process: Optional[CompletedProcess], error: Optional[BaseException]
    ) -> Optional[bool]:
        """Return True if this outcome proves that all of the command has ended, otherwise None."""
        if process is None:
            return getattr(error, "ended", None)
        return True if self.is_sent and not self._may_outlive_channel() else None

    def _note_left_running(self, error: Optional[BaseException]) -> None:
        """Pass on to the next command the processes that this one leaves, or did not end."""
        if self._left_running is None:
            return
        self._left_running.add(*self._left_to_end)
        known = self._group.process
        if known is not None and not getattr(error, "ended", None):
            self._left_running.add(LeftProcess(known, self._shell))

    def _describe_error(self, error: BaseException) -> None:
        """Add the output so far, the phase and the fate of the process to an error."""
        if isinstance(error, (SshConnectionLost, SshCommandError)) and self.is_sent:
            error.process = self._process()
        elif isinstance(error, SshCommandError):
            error.phase = "queue"
            if not isinstance(error, SshCommandTimeout):  # whose message already says so
                error.args = (f"{error}; it was not sent",)
        if isinstance(error, SshConnectionLost):
            error.sent, error.phase = self.is_sent, "run" if self.is_sent else "open"
            if self.is_sent:
                error.args = (f"{error}; the remote process may still run",)
        elif isinstance(error, SshCommandError) and self.is_sent and error is self._end_cause:
            fate = "was ended" if error.ended else "may still run"
            error.args = (f"{error}; the remote process {fate}",)

    def _publish_outcome(
        self, process: Optional[CompletedProcess], error: Optional[BaseException]
    ) -> None:
        if process is not None and self._failures:  # the end of the output could not be written
            error = self._failures[0]
            error.process, error.ended = process, self._is_known_to_have_ended(process, None)
            process = None
        with self._lock:
            self._outcome, tracker = (process, error), self._tracker
        future = self._future()
        if self._future_taken:
            self._kept_future = None
        _taken.discard(weakref.ref(self))
        # Drop the references that kept the pool alive, and with it the cache.
        self.run_helper, self.waits_for = no_helper, _run_phase
        if tracker is not None:  # before the caller can cause further events
            background.run_callback(tracker.publish_ended, process, error)
        if future is None:
            pass  # no caller waits for the outcome
        elif error is not None:
            future.set_exception(error)
        else:
            future.set_result(process)


class HelperCommand(Command):
    """A helper script, run in another session."""

    def __init__(
        self,
        text: str,
        connection_id: str,
        reply: OnHelperOutput,
        sudo: Optional[Sudo] = None,
    ) -> None:
        super().__init__(text, None, "/bin/sh", connection_id, sudo=sudo, timeout=_HELPER_TIMEOUT)
        self._reply = reply

    def _send_signal(self, channel: SshChannel, name: str) -> None:
        channel.send_signal(name)  # no helper is run to end a helper

    def _publish_outcome(
        self, process: Optional[CompletedProcess], error: Optional[BaseException]
    ) -> None:
        super()._publish_outcome(process, error)
        ran = process is not None and process.exit_status == 0
        self._reply(process.stdout_bytes if process is not None and ran else None)


def _run_phase() -> str:
    return "run"


def check_seconds(name: str, seconds: Optional[float], *, zero: bool = True) -> None:
    """
    Check a number of seconds; None is valid, and 0 is unless `zero` is False.

    Raises
    ------
    SshConfigError
        `seconds` is negative, NaN, a boolean, not a number, or larger than a float can be.
    """
    if seconds is None:
        return
    try:
        is_number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
        if is_number and float(seconds) >= 0 and (zero or seconds):
            return
        got = f"{seconds!r:.40}"
    except OverflowError:
        got = "an integer that is too large"
    right = "0 or more" if zero else "more than 0"
    raise SshConfigError(f"{name}: expected {right} seconds, got {got}")


def _warn_of_those_left() -> None:
    for taken in list(_taken):
        command = taken()
        if command is not None:
            command.on_exit()


atexit.register(_warn_of_those_left)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_taken.clear)
