"""
Where copies meet SSH: the channels they open on a connection.

One for SFTP, which all copies share and which is kept for the next; one for each command.
"""

from __future__ import annotations

import time
from typing import Optional

from ssh_service import background
from ssh_service.copying.recoverable_lock import LockOwner, RecoverableLock
from ssh_service.copying.sftp.client import negotiate
from ssh_service.copying.sftp.session import SessionEnded, SftpChannel, SftpSession
from ssh_service.copying.sftp.time_limits import Stalled, TimeLimits
from ssh_service.copying.shell_command import ProcessChannel, ShellProcess
from ssh_service.errors import SshServiceError, SshSessionRefused
from ssh_service.transport import ChannelSink, SshChannel, SshTransport, printable

__all__ = ["get_session", "start_command", "use_one_file_at_a_time"]

# Bytes the server may send before it must wait for us; what is asked for at once is bounded
# elsewhere, so this only must not be less.
_WINDOW = 16 * 1024 * 1024
# The fewer packets a download takes, the less there is to do for each.  OpenSSH's own limit,
# 256 KiB, counts what is around the data, too.
_MAX_PACKET = 128 * 1024
# The same for a command: what it may write before the copy has taken it.
_COMMAND_WINDOW = 2 * 1024 * 1024
# Seconds in which a script must say that it runs; a login shell may hang, or wait for a terminal.
_SHELL_START_TIMEOUT = 5.0
# Seconds to wait for a session where the server admits no more, and between two attempts.
_ADMISSION_TIMEOUT, _ADMISSION_RETRY_INTERVAL = 30.0, 0.05
# Bytes of what the server says before its hello that are kept for an error message.
_MAX_KEPT_OUTPUT = 1024


class _SessionSlot:
    """Where the session of one connection is kept; whoever opens one holds the lock meanwhile."""

    def __init__(self) -> None:
        self.opening = RecoverableLock()
        self.session: Optional[SftpSession] = None  # guarded by opening
        # Where the server mixes up files that are open at the same time.
        self.copy_lock: Optional[RecoverableLock] = None  # guarded by opening


class _Ended(Exception):
    """The server's program has ended."""


class _SftpSink(ChannelSink, SftpChannel):
    """The channel, as the session sees it; and the session, as the channel sees it."""

    def __init__(self, connection_id: str) -> None:
        self.session = SftpSession(self)
        self._connection_id = connection_id
        self._channel: Optional[SshChannel] = None
        # Reader thread only: what tells why there is no session.
        self._is_negotiated = False
        self._stdout = self._stderr = b""
        self._exit = ""

    # For the session.

    def send_some(self, data: memoryview) -> int:
        """Send what the window admits."""
        channel = self._channel
        return channel.send_some(data) if channel is not None else 0

    def close(self) -> None:
        """Close the channel."""
        channel = self._channel
        if channel is not None:
            channel.close_when_open()

    def set_in_use(self, used: bool) -> None:
        """Note whether a copy works on it; if none does, it may go with its connection."""
        channel = self._channel
        if channel is not None:
            channel.is_idle_spare = not used

    # For the channel, on the reader thread.

    def on_open(self, channel: SshChannel) -> None:
        """Ask for the subsystem."""
        self._channel = channel
        channel.request_subsystem("sftp")
        self.session.on_writable()

    def on_reply(self, ok: bool) -> None:
        """Note whether there is such a subsystem."""
        if not ok:
            self.session.mark_ended(
                SshSessionRefused(
                    f"{self._connection_id}: the server offers no SFTP",
                    connection_id=self._connection_id,
                )
            )
            self.close()

    def on_data(self, chunk: bytes) -> None:
        """Pass on what came."""
        if not self._is_negotiated:
            self._stdout = (self._stdout + chunk)[:_MAX_KEPT_OUTPUT]
        self.session.feed(chunk)
        self._is_negotiated = self._is_negotiated or self.session.is_negotiated

    def on_stderr(self, chunk: bytes) -> None:
        """Keep the server's first words: they may say why there is no session."""
        self._stderr = (self._stderr + chunk)[:_MAX_KEPT_OUTPUT]

    def on_exit_status(self, status: int) -> None:
        """Note how the server's program ended."""
        self._exit = f"exit status {status}"

    def on_exit_signal(self, name: str, core_dumped: bool, text: str) -> None:
        """Note how the server's program ended."""
        self._exit = f"signal {name}"

    def on_writable(self) -> None:
        """Pass on that there is room."""
        self.session.on_writable()

    def on_eof(self) -> None:
        """Note that no more replies will come."""
        if self._is_negotiated:
            self.session.mark_ended(self._reason())
            self.close()
        elif self._channel is not None:  # it is about to say why: see `greet`
            self._channel.send_eof()
            self.session.on_eof()

    def on_close(self, error: Optional[SshServiceError]) -> None:
        """Note the end."""
        self.session.mark_ended(error or self._reason())
        self._channel = None  # else a connection would be kept by what is kept for it

    def _reason(self) -> Exception:
        # A shell without the program says so on stderr; nologin and forced commands on stdout.
        words = (self._stderr or (b"" if self._is_negotiated else self._stdout)).strip()
        line = printable(words.decode("utf-8", "backslashreplace").partition("\n")[0])
        told = ", ".join(filter(None, (self._exit, line and f"the server said: {line}")))
        return _Ended("the server ended the SFTP session" + (f" ({told})" if told else ""))


class _ProcessSink(ChannelSink, ProcessChannel):
    """One command in the server's shell: the channel, as its process sees it."""

    auto_window = False

    def __init__(self, command: bytes, process: ShellProcess) -> None:
        self._command = command
        self._process = process
        self._channel: Optional[SshChannel] = None
        self._open = False
        self._status: Optional[int] = None

    def start_on(self, transport: SshTransport) -> None:
        """Ask for a session."""
        self._channel = transport.start_session(
            self, window_size=_COMMAND_WINDOW, max_packet_size=_MAX_PACKET
        )

    # For the process.

    def send_some(self, data: memoryview) -> int:
        """Send what the window admits."""
        channel = self._channel
        return channel.send_some(data) if channel is not None and self._open else 0

    def send_eof(self) -> None:
        """Let the command find the end of its input."""
        if self._channel is not None:
            self._channel.send_eof()

    def adjust_window(self, size: int) -> None:
        """Let the command write as much again."""
        if self._channel is not None:
            self._channel.adjust_window(size)

    def close(self) -> None:
        """Close the channel; the server lets the command find the end of its input."""
        if self._channel is not None:
            self._channel.close_when_open()

    # For the channel, on the reader thread.

    def on_open(self, channel: SshChannel) -> None:
        """Ask for the command."""
        self._channel = channel
        channel.request_exec(self._command)

    def on_reply(self, ok: bool) -> None:
        """Give up what the server will not run, else let the input follow."""
        if not ok:
            self.close()
            return
        # Not before: proftpd ends the connection over data for a command that it will not run.
        self._open = True
        self._process.on_writable()

    def on_data(self, chunk: bytes) -> None:
        """Pass on what came."""
        self._process.feed(chunk)

    def on_stderr(self, chunk: bytes) -> None:
        """Throw it away."""
        self.adjust_window(len(chunk))

    def on_exit_status(self, status: int) -> None:
        """Note how it ended."""
        self._status = status

    def on_writable(self) -> None:
        """Pass on that there is room."""
        self._process.on_writable()

    def on_close(self, error: Optional[SshServiceError]) -> None:
        """Pass on the end."""
        self._process.refused = isinstance(error, SshSessionRefused) and error.code != 0
        self._process.on_exit(None if error else self._status)


def start_command(transport: SshTransport, command: bytes, process: ShellProcess) -> None:
    """
    Start a command in the server's shell.

    Parameters
    ----------
    transport : SshTransport
        The connection.
    command : bytes
        The command line.
    process : ShellProcess
        Told of all that comes of it, and of the end, however it ended.
    """
    stream = _ProcessSink(command, process)
    process.channel = stream
    stream.start_on(transport)
    # On the clock's thread, which it does not hold up.
    background.call_at(time.monotonic() + _SHELL_START_TIMEOUT, process.fail_unless_ready)


def get_session(transport: SshTransport, limits: TimeLimits) -> SftpSession:
    """
    Give the SFTP session of a connection; open it the first time, or if it has ended.

    Parameters
    ----------
    transport : SshTransport
        The connection.
    limits : TimeLimits
        How long it may take; without limits, as long as the connection lives.

    Returns
    -------
    SftpSession
        Shared with all other copies on this connection.
    """
    slot: _SessionSlot = transport.extras.setdefault("sftp", _SessionSlot())
    owner = LockOwner()
    try:
        if not slot.opening.acquire(owner, limits.next_wait()):
            limits.raise_if_expired()
            raise Stalled()
        if slot.session is None or not slot.session.is_usable:
            slot.session = _open(transport, limits)
            slot.session.copy_lock = slot.copy_lock
        return slot.session
    finally:
        slot.opening.release(owner)


def use_one_file_at_a_time(transport: SshTransport) -> None:
    """Open sessions from now on that hold one file open at a time, of one copy."""
    slot: _SessionSlot = transport.extras["sftp"]
    owner = LockOwner()
    try:
        slot.opening.acquire(owner, None)
        if slot.copy_lock is None:
            slot.copy_lock = RecoverableLock()
    finally:
        slot.opening.release(owner)


def _open(transport: SshTransport, limits: TimeLimits) -> SftpSession:
    """Open a session; where the server admits no more, wait until those in use are fewer."""
    wait = limits.next_wait()
    deadline = time.monotonic() + (_ADMISSION_TIMEOUT if wait is None else wait)
    while True:
        try:
            return _open_once(transport, limits)
        except SessionEnded as ended:
            refusal = ended.reason
            full = isinstance(refusal, SshSessionRefused) and refusal.code != 0
            if not full or time.monotonic() >= deadline:
                raise
            if not (
                transport.reclaim_idle_sessions()
                or transport.open_channel_count
                or transport.session_peak
            ):
                raise  # it admits none: nobody has, or had, one that could be given back
        time.sleep(_ADMISSION_RETRY_INTERVAL)


def _open_once(transport: SshTransport, limits: TimeLimits) -> SftpSession:
    stream = _SftpSink(transport.connection_id)
    stream.session.facts.connection_id = transport.connection_id
    channel = transport.start_session(stream, window_size=_WINDOW, max_packet_size=_MAX_PACKET)
    try:
        negotiate(stream.session, limits.stall_timeout, limits.deadline)
    except BaseException:
        channel.close_when_open()
        raise
    transport.session_peak = max(1, transport.session_peak)
    # Where the server admits few sessions, whoever needs one is given that of an idle SFTP.
    transport.reclaimers["sftp"] = stream.session.close_if_idle
    return stream.session
