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

from ssh_service.transport.outbound import Outbound

if TYPE_CHECKING:
    from ssh_service.transport.sending import Gate

# Seconds between two looks at whether a transport with deferred messages can write again.
_LOOK_AGAIN = 0.05

# A message to send, or None where a transport only has to be asked to send what it deferred.
Chore = Tuple["Gate", Optional[Message], Optional[Outbound]]

_chores: "queue.SimpleQueue[Chore]" = queue.SimpleQueue()
_lock = threading.Lock()
_thread: Optional[threading.Thread] = None  # guarded by _lock
_served: "weakref.WeakSet[Gate]" = weakref.WeakSet()


def serve(transport: Gate) -> None:
    """
    See to it that chores of `transport` are done, and that a forked child lets go of it.

    Parameters
    ----------
    transport : Gate
        Ready to be used.
    """
    global _thread
    with _lock:
        if _thread is None or not _thread.is_alive():
            _thread = threading.Thread(target=_do_chores, name="ssh-service-reaper", daemon=True)
            _thread.start()
    _served.add(transport)


def leave(
    transport: Gate, m: Optional[Message] = None, outbound: Optional[Outbound] = None
) -> None:
    """
    Leave a chore to the reaper, without taking a lock: destructors may do so, under any lock.

    Parameters
    ----------
    transport : Gate
        The connection.
    m : Optional[Message]
        What to send; None where only what was deferred has to be sent.
    outbound : Optional[Outbound]
        The channel that the message belongs to.
    """
    _chores.put((transport, m, outbound))  # which is documented as safe in a destructor


def _do_chores() -> None:
    full: Set["Gate"] = set()
    while True:
        try:
            transport, m, outbound = _chores.get(timeout=_LOOK_AGAIN if full else None)
        except queue.Empty:
            full = {transport for transport in full if not transport._flush()}
            continue
        if m is None:
            full.add(transport)
        else:
            transport.post(m, outbound)
        del transport, m, outbound


def _forget_parent() -> None:
    # A child has neither the parent's threads nor their locks: docs/paramiko_repairs.md#fork
    global _chores, _lock, _thread
    _chores, _lock, _thread = queue.SimpleQueue(), threading.Lock(), None
    for transport in list(_served):
        transport._disown()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parent)
