"""
The reaper: one thread of the process for sends that no other thread of a connection will make.

It closes channels that were garbage collected, and sends messages that were deferred while the
network was full.  It also handles forks: a child has neither this thread nor any reader thread.
"""

from __future__ import annotations

import os
import queue
import threading
import weakref
from typing import Optional, Protocol, Set, Tuple

from paramiko.message import Message

from ssh_service.locks import Lock
from ssh_service.transport.outbound import SendState

# Seconds between attempts to send the deferred messages of a transport.
_RETRY_INTERVAL = 0.05


class Sender(Protocol):
    """What the reaper needs of a transport."""

    def send_nowait(self, m: Message, send_state: Optional[SendState] = None) -> None:
        """Send a message without blocking."""

    def _flush(self) -> bool:
        """Send the deferred messages; return False if the network is full."""

    def _flush_or_submit(self) -> None:
        """Send the deferred messages, or let the reaper do so."""

    def _after_fork_in_child(self) -> None:
        """Invalidate the connection."""


# A message to send, or None to send the transport's deferred messages.
PendingSend = Tuple[Sender, Optional[Message], Optional[SendState]]

_queue: "queue.SimpleQueue[PendingSend]" = queue.SimpleQueue()
_lock = Lock()
_thread: Optional[threading.Thread] = None  # guarded by _lock
# (No WeakSet: an exception of a signal handler would be lost in its callbacks.)
_transports: "Set[weakref.ref[Sender]]" = set()


def register(transport: Sender) -> None:
    """Serve a transport: its submitted sends, and its invalidation in a forked child."""
    global _thread
    with _lock:
        if _thread is None or not _thread.is_alive():
            _thread = threading.Thread(target=_run, name="ssh-service-reaper", daemon=True)
            _thread.start()
    for known in list(_transports):
        if known() is None:
            _transports.discard(known)
    _transports.add(weakref.ref(transport))


def unregister(transport: Sender) -> None:
    """Undo `register`: the transport is not ours any more."""
    _transports.discard(weakref.ref(transport))


def submit(
    transport: Sender,
    m: Optional[Message] = None,
    send_state: Optional[SendState] = None,
) -> None:
    """Hand a send to the reaper; takes no lock, so destructors may call it under any lock."""
    _queue.put((transport, m, send_state))  # which is documented as safe in a destructor


def _run() -> None:
    blocked: Set[Sender] = set()
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
    # A child does not have the threads that may hold these locks: docs/paramiko_repairs.md#fork
    global _queue, _lock, _thread
    _queue, _lock, _thread = queue.SimpleQueue(), Lock(), None
    for known in list(_transports):
        transport = known()
        if transport is not None:
            transport._after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
