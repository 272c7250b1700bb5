"""Runs a command on a transport that no pool manages."""

from __future__ import annotations

import functools
import time
from typing import Callable, Optional

from ssh_service import background, known_servers
from ssh_service.commands.command import Command, HelperCommand
from ssh_service.commands.forwarding import ForwardingSink
from ssh_service.commands.process_group import Helper, OnHelperOutput
from ssh_service.commands.sudo import Sudo
from ssh_service.errors import (
    SshCacheClosed,
    SshConnectionLost,
    SshServiceError,
    SshSessionRefused,
)
from ssh_service.transport import SshChannel, SshTransport

# Seconds until the next request while others hold all of the server's sessions; doubled each time.
_MIN_RETRY_INTERVAL, _MAX_RETRY_INTERVAL = 0.002, 0.1
# Seconds for which requests are repeated if the server opened sessions before, but now refuses
# one although none is open: OpenSSH frees a session a moment after its end.
_REFUSAL_TIMEOUT = 10.0


def start_on_transport(transport: SshTransport, command: Command) -> None:
    """
    Run a command over a connection in a session of its own; its future receives the outcome.

    If the server refuses another session, the command waits, up to its timeout, until other users
    of the connection (a pool, a copy, the user's code) hold fewer sessions.
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


def _run_helper(
    transport: SshTransport, text: str, reply: OnHelperOutput, sudo: Optional[Sudo] = None
) -> None:
    """Run a helper script in another session, as soon as the server opens one."""
    find_pool: Callable[[], Optional[Helper]] = transport.extras.get("helpers", _no_pool)
    pool = find_pool()
    if pool is not None:  # a pool can close its spare session, and dial another connection
        pool(text, reply, sudo=sudo)
    elif known_servers.runs_one_command(transport.remote_version):
        reply(None)
    else:
        helper = HelperCommand(text, transport.connection_id, reply, sudo)
        start_on_transport(transport, helper)


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
        """Request a session, unless the command is done."""
        if self._command.is_done:
            return
        try:
            self._transport.start_session(_UnpooledSession(self, self._command))
        except SshConnectionLost as error:
            self._command.settle_unsent(error)

    def refused(self, refusal: SshSessionRefused) -> None:
        """Retry or give up; on a worker thread, because the reader thread must not wait."""
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
    """A session that starts its command as soon as it is open."""

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
        """Settle the command, or request another session if the server refused this one."""
        lost = isinstance(error, SshConnectionLost)
        if not self._command.unsend(self._channel, lost):
            self._command.on_close(error)
        elif isinstance(error, SshSessionRefused):
            self._request.refused(error)
        else:
            where = self._command.connection_id
            closed = SshCacheClosed(f"{where}: the session was closed at once")
            self._command.settle_unsent(error or closed)
