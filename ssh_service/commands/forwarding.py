"""The sink of a session channel that runs a command."""

from __future__ import annotations

from ssh_service.transport import ChannelSink


class ForwardingSink(ChannelSink):
    """Passes messages to a command; subclasses handle `on_open` and `on_close` themselves."""

    def forward_to(self, command: ChannelSink) -> None:
        """Pass all messages to a command from now on."""
        # The command's bound methods replace those of this object.  A method that called them
        # would cost one more call per message, on the connection's reader thread.
        self.auto_window = command.auto_window
        self.on_reply = command.on_reply  # type: ignore[method-assign]
        self.on_data = command.on_data  # type: ignore[method-assign]
        self.on_stderr = command.on_stderr  # type: ignore[method-assign]
        self.on_eof = command.on_eof  # type: ignore[method-assign]
        self.on_exit_status = command.on_exit_status  # type: ignore[method-assign]
        self.on_exit_signal = command.on_exit_signal  # type: ignore[method-assign]
        self.on_writable = command.on_writable  # type: ignore[method-assign]
