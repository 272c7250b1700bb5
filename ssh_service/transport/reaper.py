"""
The reaper: one thread of the process, for what no other thread of a connection will do.

It closes channels that were forgotten, and sends what was deferred while the network had no room.
A forked child has neither it nor any reader thread, so here is what becomes of a fork, too.
"""

from __future__ import annotations

import os
import queue
import threading
import weakref
from typing import TYPE_CHECKING, Optional, Set, Tuple

from paramiko.message import Message

from ssh_service.transport.outbound import SendState

if TYPE_CHECKING:
    from ssh_service.transport.sending import SendingTransport

# Seconds between two looks at whether a transport with deferred messages can write again.
_RETRY_INTERVAL = 0.05

# A message to send, or None where a transport only has to be asked to send what it deferred.
PendingSend = Tuple["SendingTransport", Optional[Message], Optional[SendState]]

_queue: "queue.SimpleQueue[PendingSend]" = queue.SimpleQueue()
_lock = threading.Lock()
_thread: Optional[threading.Thread] = None  # guarded by _lock
_transports: "weakref.WeakSet[SendingTransport]" = weakref.WeakSet()


def register(transport: SendingTransport) -> None:
    """
    See to it that chores of `transport` are done, and that a forked child lets go of it.

    Parameters
    ----------
    transport : SendingTransport
        Ready to be used.
    """
    global _thread
    with _lock:
        if _thread is None or not _thread.is_alive():
            _thread = threading.Thread(target=_run, name="ssh-service-reaper", daemon=True)
            _thread.start()
    _transports.add(transport)


def submit(
    transport: SendingTransport,
    m: Optional[Message] = None,
    send_state: Optional[SendState] = None,
) -> None:
    """
    Leave a chore to the reaper, without taking a lock: destructors may do so, under any lock.

    Parameters
    ----------
    transport : SendingTransport
        The connection.
    m : Optional[Message]
        What to send; None where only what was deferred has to be sent.
    send_state : Optional[SendState]
        The channel that the message belongs to.
    """
    _queue.put((transport, m, send_state))  # which is documented as safe in a destructor


def _run() -> None:
    blocked: Set[SendingTransport] = set()
    while True:
        try:
            transport, m, send_state = _queue.get(timeout=_RETRY_INTERVAL if blocked else None)
        except queue.Empty:
            blocked = {transport for transport in blocked if not transport._flush()}
            continue
        if m is None:
            blocked.add(transport)
        else:
            transport.send_nowait(m, send_state)
        del transport, m, send_state


def _after_fork_in_child() -> None:
    # A child has neither the parent's threads nor their locks: docs/paramiko_repairs.md#fork
    global _queue, _lock, _thread
    _queue, _lock, _thread = queue.SimpleQueue(), threading.Lock(), None
    for transport in list(_transports):
        transport._after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
