"""A command on a connection that is not a cache's to share out."""

from __future__ import annotations

from typing import Optional

from ssh_service.command import HEARD, Command
from ssh_service.errors import SshCacheClosed, SshConnectionLost, SshServiceError
from ssh_service.transport import ChannelSink, SshChannel, SshTransport


def begin(transport: SshTransport, command: Command) -> None:
    """
    Have a command run over a connection, in a session of its own; its future tells of its fate.

    Parameters
    ----------
    transport : SshTransport
        The connection.
    command : Command
        Not begun yet.
    """
    try:
        transport.start_session(_Session(command))
    except SshConnectionLost as error:
        command.fail(error)


class _Session(ChannelSink):
    """The session; it starts the command as soon as it is open."""

    def __init__(self, command: Command) -> None:
        self._command = command
        self._channel: Optional[SshChannel] = None  # reader thread only
        self.gives_back = command.gives_back
        for name in HEARD:
            setattr(self, name, getattr(command, name))

    def opened(self, channel: SshChannel) -> None:
        """Send the script."""
        self._channel = channel
        if not self._command.start(channel):
            channel.close()

    def closed(self, error: Optional[SshServiceError]) -> None:
        """Settle the command."""
        lost = isinstance(error, SshConnectionLost)
        if self._command.take_back(self._channel, lost):
            where = self._command.connection_id
            closed = SshCacheClosed(f"{where}: the session was closed at once")
            self._command.fail(error or closed)
        else:
            self._command.closed(error)
