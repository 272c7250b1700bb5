"""How paramiko's own classes come to share connections, and cease to."""

from __future__ import annotations

import threading

import paramiko

from ssh_service.drop_in.clients import connect
from ssh_service.drop_in.target import plain_connect
from ssh_service.transport import repair_new_transports

_lock = threading.Lock()


def install() -> None:
    """Have `paramiko.SSHClient` share connections, and `paramiko.Transport` repaired."""
    with _lock:
        paramiko.SSHClient.connect = connect
        repair_new_transports(True)


def uninstall() -> None:
    """Undo `install`; clients that are connected go on until they are closed."""
    with _lock:
        if vars(paramiko.SSHClient)["connect"] is connect:
            paramiko.SSHClient.connect = plain_connect
        repair_new_transports(False)
