"""The order of the messages of one channel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from paramiko.message import Message

if TYPE_CHECKING:
    from ssh_service.transport.transport import SshTransport


class SendState:
    """What one channel has sent; identifies the channel, as numbers are reused."""

    __slots__ = ("may_have_sent", "close_sent")

    def __init__(self) -> None:
        self.close_sent = False  # guarded by the transport's send lock
        # Guarded by the send lock; may be read once the connection has ended.  Set before a
        # message is written, cleared if nothing of it was written.
        self.may_have_sent = False


class TaggedTransport:
    """
    The transport as a channel sees it: adds the channel's `SendState` to each message.

    See docs/paramiko_repairs.md#message-after-close and
    docs/paramiko_repairs.md#reused-channel-number.
    """

    __slots__ = ("_send_state", "connection", "transport")

    connection: "SshTransport"  # which sends
    transport: Any  # as users see it: the connection, or a view of it

    def __init__(self, connection: "SshTransport", send_state: SendState) -> None:
        object.__setattr__(self, "connection", connection)
        object.__setattr__(self, "transport", connection)
        object.__setattr__(self, "_send_state", send_state)

    def show(self, view: Any) -> None:
        """Stand for a view of the connection from now on."""
        object.__setattr__(self, "transport", view)

    def _send_user_message(self, m: Message) -> None:
        self.connection._send_user_message(m, self._send_state)

    def _set_x11_handler(self, handler: Any) -> None:
        before = self.connection._x11_handler
        self.connection._set_x11_handler(self._own(handler, before))

    def _set_forward_agent_handler(self, handler: Any) -> None:
        before = self.connection._forward_agent_handler
        self.connection._set_forward_agent_handler(self._own(handler, before))

    def _own(self, handler: Any, before: Any) -> Any:
        """Return a handler for the view alone; once that is closed, the one before is called."""
        if self.transport is self.connection:
            return handler
        return self.transport.own_handler(handler, before)

    # Everything else is the transport's, including `isinstance`, ``==`` and assignment.

    def __getattr__(self, name: str) -> Any:
        # A view may stand for another connection than the channel's.
        return getattr(self.connection if name.startswith("_") else self.transport, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.transport, name, value)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return type(self.transport)

    def __eq__(self, other: object) -> bool:
        return self.transport is (other.transport if type(other) is TaggedTransport else other)

    def __hash__(self) -> int:
        return hash(self.transport)

    def __repr__(self) -> str:
        return repr(self.transport)
