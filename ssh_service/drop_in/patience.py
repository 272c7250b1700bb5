"""The time limits of a client that waits for a connection which another client dials."""

from __future__ import annotations

import socket
import time
from typing import Any

from paramiko.ssh_exception import AuthenticationException, SSHException

from ssh_service.connections.entries import Slot
from ssh_service.drop_in.target import HANDSHAKE_TIMEOUT, ClientTarget

# Seconds between two checks of the dial's progress.
_INTERVAL = 0.1


def wait_for_dial(slot: Slot, own: ClientTarget) -> None:
    """
    Wait for another client's dial, applying this client's own time limits to each step.

    Raises
    ------
    OSError, SSHException
        The error that this client's own dial would have raised by now.
    """
    theirs = slot.target
    if isinstance(theirs, ClientTarget) and own.is_as_patient_as(theirs):
        return  # the other dial times out first
    connecting, identifying, logging_in = own.patience
    limits = {
        "connect": connecting,
        "banner": min(connecting, identifying),
        "kex": min(connecting, HANDSHAKE_TIMEOUT),
        "auth": logging_in,
    }
    step, began = "", 0.0
    while not slot.connection.done():
        now, before, step = time.monotonic(), step, slot.dial_phase
        began = began if step == before else now
        left = began + limits[step] - now
        if left <= 0:
            raise _too_late(step)
        slot.connection.wait(min(left, _INTERVAL))


def _too_late(step: str) -> Any:
    """Return the exception that paramiko raises for a timeout in this step."""
    if step == "connect":
        return socket.timeout("timed out")
    if step == "banner":
        return SSHException(
            "Error reading SSH protocol banner: the server did not identify itself in time"
        )
    if step == "kex":
        return SSHException("Key-exchange timed out waiting for key negotiation")
    return AuthenticationException("Authentication timeout.")
