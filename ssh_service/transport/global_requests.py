"""
Global requests of both sides, and their replies (RFC 4254 section 4).

Replies carry no number: they belong to the requests in the order of sending.
"""

from __future__ import annotations

import socket
from typing import Any, Callable, List, Optional, Sequence

from paramiko.common import cMSG_GLOBAL_REQUEST, cMSG_REQUEST_FAILURE, cMSG_UNIMPLEMENTED
from paramiko.message import Message
from paramiko.ssh_exception import SSHException

from ssh_service.errors import SshConnectionLost
from ssh_service.transport.lock_free import LockFreeEvent
from ssh_service.transport.outbound import SendState
from ssh_service.transport.packets import message
from ssh_service.transport.sending import SendingTransport
from ssh_service.transport.wire import Wire

# Replies to the server that may be waiting to be sent.
_MAX_PENDING_REPLIES = 4096
# Seconds to wait for the server's reply.
_REPLY_TIMEOUT = 30.0


class PendingReply:
    """
    The reply to one global request, for a waiting thread.

    Parameters
    ----------
    on_answer : Optional[Callable[[Optional[Message]], None]]
        Called on the reader thread with the reply, before the server's next message.

    Attributes
    ----------
    answer : Optional[Message]
        The reply; None if the server refused or the connection ended.
    done : LockFreeEvent
        Set with the reply, or once none will come.
    """

    def __init__(self, on_answer: Optional[Callable[[Optional[Message]], None]] = None) -> None:
        self.answer: Optional[Message] = None
        self.done = LockFreeEvent()
        self.on_answer = on_answer


class PendingReplies:
    """
    The expected replies to global requests, in order.

    paramiko mixes up the replies: see docs/paramiko_repairs.md#global-request-replies.

    Notes
    -----
    Thread safety.  Every method may be called from any thread; `ask` in the order of sending.
    """

    __slots__ = ("_open",)

    def __init__(self) -> None:
        self._open: List[Optional[PendingReply]] = []

    def ask(self, pending: Optional[PendingReply]) -> None:
        """Record that a request is being sent; None if its reply is to be ignored."""
        self._open.append(pending)

    def answered(self, answer: Optional[Message]) -> None:
        """Assign a reply to the oldest request."""
        try:
            pending = self._open.pop(0)
        except IndexError:
            return  # there was no request
        if pending is not None:
            pending.answer = answer
            if pending.on_answer is not None:
                pending.on_answer(answer)
            pending.done.set()

    def end(self) -> None:
        """Release all waiting threads: no reply will come."""
        while self._open:
            self.answered(None)


class GlobalRequestTransport(SendingTransport):
    """
    What asks and answers for `SshTransport`.

    Notes
    -----
    Thread safety.  Every method may be called from any thread.
    """

    def __init__(self, wire: Wire, connection_id: str) -> None:
        self._pending_replies = PendingReplies()
        self._replies_due = 0  # reader thread only
        self._replies_sent = 0  # guarded by the send lock
        super().__init__(wire, connection_id)
        self.packetizer.on_unknown_message = self._reply_unimplemented

    def _release_waiters(self, reason: SshConnectionLost) -> None:
        super()._release_waiters(reason)
        self._pending_replies.end()

    # Our requests.

    def global_request(
        self, kind: str, data: Optional[Sequence[Any]] = None, wait: bool = True
    ) -> Optional[Message]:
        """
        Make a global request (RFC 4254 section 4), as `paramiko.Transport.global_request`.

        Parameters
        ----------
        kind : str
            Its name.
        data : Optional[Sequence[Any]]
            Its fields.
        wait : bool
            Whether to wait for the reply.

        Returns
        -------
        Optional[Message]
            The reply to this very request; None if the server refused, or `wait` is False.

        Raises
        ------
        socket.timeout
            The server did not reply, although it is alive.
        SshConnectionLost
            The connection has ended.
        """
        if wait:
            return self._request(kind, data or ())
        m = message(cMSG_GLOBAL_REQUEST, kind, False)
        m.add(*(data or ()))
        self._send_user_message(m)
        return None

    def _request(
        self,
        kind: str,
        data: Sequence[Any],
        on_answer: Optional[Callable[[Optional[Message]], None]] = None,
    ) -> Optional[Message]:
        m = message(cMSG_GLOBAL_REQUEST, kind, True)
        m.add(*data)
        pending = PendingReply(on_answer)
        m.on_sent = lambda: self._pending_replies.ask(pending)
        self._send_user_message(m)
        answered = pending.done.wait(_REPLY_TIMEOUT)
        if not self.is_active():
            raise self._ended_error()
        if not answered:
            raise socket.timeout(f"no reply to a global request within {_REPLY_TIMEOUT:g} s")
        return pending.answer

    def _send_keepalive(self) -> None:
        m = message(cMSG_GLOBAL_REQUEST, "keepalive@openssh.com", True)
        m.on_sent = lambda: self._pending_replies.ask(None)
        self.send_nowait(m)

    def _parse_request_success(self, m: Message) -> None:
        self._pending_replies.answered(m)

    def _parse_request_failure(self, m: Message) -> None:
        self._pending_replies.answered(None)

    # The server's requests.  paramiko replies during a key exchange: see
    # docs/paramiko_repairs.md#reply-during-a-rekey

    def _parse_global_request(self, m: Message) -> None:
        m.get_text()
        if m.get_boolean():
            self._reply(message(cMSG_REQUEST_FAILURE))

    def _reply_unimplemented(self, seqno: int) -> None:
        self._reply(message(cMSG_UNIMPLEMENTED, seqno))

    def _reply(self, m: Message, send_state: Optional[SendState] = None) -> None:
        """Reply to the server, with a limit on unsent replies."""
        self._replies_due += 1
        if self._replies_due - self._replies_sent > _MAX_PENDING_REPLIES:
            raise SSHException(
                f"the server reads no replies: more than {_MAX_PENDING_REPLIES} are waiting"
            )
        m.on_sent = self._on_reply_sent
        self.send_nowait(m, send_state)

    def _on_reply_sent(self) -> None:
        self._replies_sent += 1
