"""
The channels that copies open on a connection.

All copies share one channel for SFTP, which is kept for the next copy; each command has its own.
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
from ssh_service.known_servers import is_openssh
from ssh_service.transport import ChannelSink, SshChannel, SshTransport, printable

__all__ = ["get_session", "start_command", "use_one_file_at_a_time"]

# The receive window.  It must not be smaller than the limits on data in flight.
_WINDOW = 16 * 1024 * 1024
# Large packets reduce work.  OpenSSH's own limit, 256 KiB, includes the headers.
_MAX_PACKET = 128 * 1024
# The receive window of a command: how much it may write before the copy has read it.
_COMMAND_WINDOW = 2 * 1024 * 1024
# Seconds for a script to print its first line; a login shell may hang, or need a terminal.
_SHELL_START_TIMEOUT = 5.0
# Seconds to wait for a session while the server's session limit is reached, and between attempts.
_ADMISSION_TIMEOUT, _ADMISSION_RETRY_INTERVAL = 30.0, 0.05
# How much output before the version packet is kept for an error message, in bytes.
_MAX_KEPT_OUTPUT = 1024


class _SessionSlot:
    """Holds the SFTP session of one connection."""

    def __init__(self) -> None:
        self.opening = RecoverableLock()
        self.session: Optional[SftpSession] = None  # guarded by opening
        # guarded by opening: set if the server confuses files that are open at the same time
        self.copy_lock: Optional[RecoverableLock] = None


class _Ended(Exception):
    """The server's program has exited."""


class _SftpSink(ChannelSink, SftpChannel):
    """Connects an SFTP session to its channel, in both directions."""

    def __init__(self, connection_id: str) -> None:
        self.session = SftpSession(self)
        self._connection_id = connection_id
        self._channel: Optional[SshChannel] = None
        # Reader thread only: the parts of an explanation why there is no session.
        self._is_negotiated = False
        self._stdout = self._stderr = b""
        self._exit = ""

    # Called by the session.

    def send_some(self, data: memoryview) -> int:
        """Send as much as the window allows."""
        channel = self._channel
        return channel.send_some(data) if channel is not None else 0

    def close(self) -> None:
        """Close the channel."""
        channel = self._channel
        if channel is not None:
            channel.close_when_open()

    def set_in_use(self, used: bool) -> None:
        """Allow an unused session to be closed if the server's session limit is reached."""
        channel = self._channel
        if channel is not None:
            channel.is_idle_spare = not used

    # Called by the channel, on the reader thread.

    def on_open(self, channel: SshChannel) -> None:
        """Request the subsystem."""
        self._channel = channel
        channel.request_subsystem("sftp")
        self.session.on_writable()

    def on_reply(self, ok: bool) -> None:
        """End the session if the server has no such subsystem."""
        if not ok:
            self.session.mark_ended(
                SshSessionRefused(
                    f"{self._connection_id}: the server offers no SFTP, or cannot start it now",
                    connection_id=self._connection_id,
                )
            )
            self.close()

    def on_data(self, chunk: bytes) -> None:
        """Pass data to the session."""
        if not self._is_negotiated:
            self._stdout = (self._stdout + chunk)[:_MAX_KEPT_OUTPUT]
        self.session.feed(chunk)
        self._is_negotiated = self._is_negotiated or self.session.is_negotiated

    def on_stderr(self, chunk: bytes) -> None:
        """Keep the first output, which may explain why there is no session."""
        self._stderr = (self._stderr + chunk)[:_MAX_KEPT_OUTPUT]

    def on_exit_status(self, status: int) -> None:
        """Record the exit status of the server's program."""
        self._exit = f"exit status {status}"

    def on_exit_signal(self, name: str, core_dumped: bool, text: str) -> None:
        """Record the signal that ended the server's program."""
        self._exit = f"signal {name}"

    def on_writable(self) -> None:
        """Let the session send more data."""
        self.session.on_writable()

    def on_eof(self) -> None:
        """End the session: no more replies will arrive."""
        if self._is_negotiated:
            self.session.mark_ended(self._reason())
            self.close()
        elif self._channel is not None:  # the reason follows: see `negotiate`
            self._channel.send_eof()
            self.session.on_eof()

    def on_close(self, error: Optional[SshServiceError]) -> None:
        """End the session."""
        self.session.mark_ended(error or self._reason())
        self._channel = None  # a stored session must not keep its connection alive

    def _reason(self) -> Exception:
        # If the program is missing, a shell reports it on stderr; nologin and forced commands use
        # stdout.
        words = (self._stderr or (b"" if self._is_negotiated else self._stdout)).strip()
        line = printable(words.decode("utf-8", "backslashreplace").partition("\n")[0])
        details = ", ".join(filter(None, (self._exit, line and f"the server said: {line}")))
        return _Ended("the server ended the SFTP session" + (f" ({details})" if details else ""))


class _ProcessSink(ChannelSink, ProcessChannel):
    """Connects a process in the server's shell with its channel."""

    auto_window = False

    def __init__(self, command: bytes, process: ShellProcess) -> None:
        self._command = command
        self._process = process
        self._channel: Optional[SshChannel] = None
        self._open = False
        self._status: Optional[int] = None

    def start_on(self, transport: SshTransport) -> None:
        """Open the channel."""
        self._channel = transport.start_session(
            self, window_size=_COMMAND_WINDOW, max_packet_size=_MAX_PACKET
        )

    # Called by the process.

    def send_some(self, data: memoryview) -> int:
        """Send as much as the window allows."""
        channel = self._channel
        return channel.send_some(data) if channel is not None and self._open else 0

    def send_eof(self) -> None:
        """Close the command's stdin."""
        if self._channel is not None:
            self._channel.send_eof()

    def adjust_window(self, size: int) -> None:
        """Allow the command to write `size` more bytes."""
        if self._channel is not None:
            self._channel.adjust_window(size)

    def close(self) -> None:
        """Close the channel, and with it the command's stdin."""
        if self._channel is not None:
            self._channel.close_when_open()

    # Called by the channel, on the reader thread.

    def on_open(self, channel: SshChannel) -> None:
        """Request the command."""
        self._channel = channel
        channel.request_exec(self._command)

    def on_reply(self, ok: bool) -> None:
        """Start to send input, or close the channel if the server refuses the command."""
        if not ok:
            self.close()
            return
        # Not earlier: proftpd closes the connection if it receives data for a command that it
        # refuses.
        self._open = True
        self._process.on_writable()

    def on_data(self, chunk: bytes) -> None:
        """Pass output to the process."""
        self._process.feed(chunk)

    def on_stderr(self, chunk: bytes) -> None:
        """Discard stderr."""
        self.adjust_window(len(chunk))

    def on_exit_status(self, status: int) -> None:
        """Record the exit status."""
        self._status = status

    def on_writable(self) -> None:
        """Let the process send more data."""
        self._process.on_writable()

    def on_close(self, error: Optional[SshServiceError]) -> None:
        """Report the end to the process."""
        self._process.refused = isinstance(error, SshSessionRefused) and error.code != 0
        self._process.on_exit(None if error else self._status)


def start_command(transport: SshTransport, command: bytes, process: ShellProcess) -> None:
    """Start a command in the server's shell; `process` receives its output and its end."""
    stream = _ProcessSink(command, process)
    process.channel = stream
    stream.start_on(transport)
    # Called on the clock thread; it does not block.
    background.call_at(time.monotonic() + _SHELL_START_TIMEOUT, process.fail_unless_ready)


def get_session(transport: SshTransport, limits: TimeLimits) -> SftpSession:
    """Return the SFTP session of a connection; open a new one if there is none or it has ended."""
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
    """Limit new sessions to one copy at a time, with one open file."""
    slot: _SessionSlot = transport.extras["sftp"]
    owner = LockOwner()
    try:
        slot.opening.acquire(owner, None)
        if slot.copy_lock is None:
            slot.copy_lock = RecoverableLock()
    finally:
        slot.opening.release(owner)


def _open(transport: SshTransport, limits: TimeLimits) -> SftpSession:
    """Open a session; wait and retry while the server's session limit is reached."""
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
                raise  # the server admits no session at all: there is none that could be closed
        time.sleep(_ADMISSION_RETRY_INTERVAL)


def _open_once(transport: SshTransport, limits: TimeLimits) -> SftpSession:
    stream = _SftpSink(transport.connection_id)
    stream.session.facts.connection_id = transport.connection_id
    if is_openssh(transport.remote_version):
        stream.session.facts.resolves_links = False
    channel = transport.start_session(stream, window_size=_WINDOW, max_packet_size=_MAX_PACKET)
    try:
        negotiate(stream.session, limits.stall_timeout, limits.deadline)
    except BaseException:
        channel.close_when_open()
        raise
    transport.session_peak = max(1, transport.session_peak)
    # If the server's session limit is reached, an idle SFTP session is closed for one that is
    # needed.
    transport.reclaimers["sftp"] = stream.session.close_if_idle
    return stream.session
