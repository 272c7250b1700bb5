"""Runs a command on a transport that no pool manages."""

from __future__ import annotations

import functools
import time
from typing import Callable, Optional

from ssh_service import background, known_servers
from ssh_service.commands.command import Command, HelperCommand
from ssh_service.commands.forwarding import ForwardingSink
from ssh_service.commands.process_group import Helper, OnHelperOutput
from ssh_service.errors import (
    SshCacheClosed,
    SshConnectionLost,
    SshServiceError,
    SshSessionRefused,
)
from ssh_service.transport import SshChannel, SshTransport

# Seconds until the server is asked again while others hold all of its sessions; doubled each time.
_MIN_RETRY_INTERVAL, _MAX_RETRY_INTERVAL = 0.002, 0.1
# Seconds for which a server is asked again that admitted sessions before, and now admits none
# though none is open; OpenSSH frees one a moment after its end.
_REFUSAL_TIMEOUT = 10.0


def start_on_transport(transport: SshTransport, command: Command) -> None:
    """
    Run a command over a connection in a session of its own; its future receives the outcome.

    Where the server admits no more sessions it waits, as long as its time-out allows, until others
    (a pool, a copy, code of the user's) hold fewer.
    """
    if not background.ensure_threads():
        where = transport.connection_id
        command.settle_unsent(
            SshConnectionLost(f"{where}: the system gives no more threads", sent=False)
        )
        return
    request = _SessionRequest(transport, command)
    command.strand = request.strand
    command.run_helper = functools.partial(_run_helper, transport)
    background.submit(request.strand, request.ask)


def _run_helper(transport: SshTransport, text: str, reply: OnHelperOutput) -> None:
    """Run a helper script in another session, as soon as there is one."""
    find_pool: Callable[[], Optional[Helper]] = transport.extras.get("helpers", _no_pool)
    pool = find_pool()
    if pool is not None:  # it can make room, and have another connection
        pool(text, reply)
    elif known_servers.runs_one_command(transport.remote_version):
        reply(None)
    else:
        start_on_transport(transport, HelperCommand(text, transport.connection_id, reply))


def _no_pool() -> Optional[Helper]:
    return None


class _SessionRequest:
    """Opens a session for a command, on worker threads."""

    def __init__(self, transport: SshTransport, command: Command) -> None:
        self.strand: background.Strand = transport.extras.setdefault(
            "commands", background.Strand()
        )
        self._transport = transport
        self._command = command
        self._pause = _MIN_RETRY_INTERVAL
        self._refused_since: Optional[float] = None  # with no session open

    def ask(self) -> None:
        """Ask for a session."""
        if self._command.is_done:
            return
        try:
            self._transport.start_session(_UnpooledSession(self, self._command))
        except SshConnectionLost as error:
            self._command.settle_unsent(error)

    def refused(self, refusal: SshSessionRefused) -> None:
        """Ask again, or give up; not on the reader thread, which is not to wait for others."""
        background.submit(self.strand, self._ask_again, refusal)

    def _ask_again(self, refusal: SshSessionRefused) -> None:
        transport, now = self._transport, time.monotonic()
        if transport.reclaim_idle_sessions():
            self.ask()
            return
        held = bool(transport.open_channel_count)
        since = now if self._refused_since is None else self._refused_since
        self._refused_since = None if held else since
        patient = bool(transport.session_peak) and now - since < _REFUSAL_TIMEOUT
        if not (held or patient):
            self._command.settle_unsent(refusal)
            return
        background.call_at(now + self._pause, lambda: background.submit(self.strand, self.ask))
        self._pause = min(2 * self._pause, _MAX_RETRY_INTERVAL)


class _UnpooledSession(ForwardingSink):
    """The session; it starts the command as soon as it is open."""

    def __init__(self, request: _SessionRequest, command: Command) -> None:
        self._request = request
        self._command = command
        self._channel: Optional[SshChannel] = None  # reader thread only
        self.forward_to(command)

    def on_open(self, channel: SshChannel) -> None:
        """Send the script."""
        self._channel = channel
        transport = channel.get_transport()
        transport.session_peak = max(1, transport.session_peak)
        if not self._command.start(channel):
            channel.close()

    def on_close(self, error: Optional[SshServiceError]) -> None:
        """Settle the command, or have it wait for another session."""
        lost = isinstance(error, SshConnectionLost)
        if not self._command.unsend(self._channel, lost):
            self._command.on_close(error)
        elif isinstance(error, SshSessionRefused):
            self._request.refused(error)
        else:
            where = self._command.connection_id
            closed = SshCacheClosed(f"{where}: the session was closed at once")
            self._command.settle_unsent(error or closed)
