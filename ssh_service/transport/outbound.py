"""What the messages of one channel have in common, so that they leave in order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from paramiko.message import Message

if TYPE_CHECKING:
    from ssh_service.transport.transport import SshTransport


class SendState:
    """What orders the messages of one channel: the object, never its number, which is re-used."""

    __slots__ = ("may_have_sent", "close_sent")

    def __init__(self) -> None:
        self.close_sent = False  # guarded by the transport's gate
        # Guarded by the gate, except for a look when the connection has ended: whether a message
        # may have left.  Set before one is written, taken back where that failed altogether.
        self.may_have_sent = False


class TaggedTransport:
    """
    What a channel sees as its transport: tags each message with the channel it belongs to.

    See docs/paramiko_repairs.md#message-after-close and
    docs/paramiko_repairs.md#reused-channel-number.
    """

    __slots__ = ("_send_state", "transport")

    transport: "SshTransport"

    def __init__(self, transport: "SshTransport", send_state: SendState) -> None:
        object.__setattr__(self, "transport", transport)
        object.__setattr__(self, "_send_state", send_state)

    def _send_user_message(self, m: Message) -> None:
        self.transport._send_user_message(m, self._send_state)

    # In everything else it is the transport itself, also for `isinstance`, ``==`` and assignment.

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)

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
