"""The sink of a session channel that runs a command."""

from __future__ import annotations

from ssh_service.transport import ChannelSink


class ForwardingSink(ChannelSink):
    """Passes what arrives to a command; a subclass handles `on_open` and `on_close` itself."""

    def forward_to(self, command: ChannelSink) -> None:
        """Pass everything that arrives from now on to a command."""
        # The command's bound methods replace this object's: a method that called them would cost
        # one more call for each message, on the connection's reader thread.
        self.auto_window = command.auto_window
        self.on_reply = command.on_reply  # type: ignore[method-assign]
        self.on_data = command.on_data  # type: ignore[method-assign]
        self.on_stderr = command.on_stderr  # type: ignore[method-assign]
        self.on_eof = command.on_eof  # type: ignore[method-assign]
        self.on_exit_status = command.on_exit_status  # type: ignore[method-assign]
        self.on_exit_signal = command.on_exit_signal  # type: ignore[method-assign]
        self.on_writable = command.on_writable  # type: ignore[method-assign]
