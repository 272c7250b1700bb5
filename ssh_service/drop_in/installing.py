"""Make paramiko's own classes share connections, and undo it."""

from __future__ import annotations

import paramiko

from ssh_service.drop_in.clients import connect
from ssh_service.drop_in.target import plain_connect
from ssh_service.locks import Lock
from ssh_service.transport import repair_new_transports

_lock = Lock()


def install() -> None:
    """Make `paramiko.SSHClient` share connections, and repair `paramiko.Transport`."""
    with _lock:
        paramiko.SSHClient.connect = connect
        repair_new_transports(True)


def uninstall() -> None:
    """Undo `install`; connected clients keep working until they are closed."""
    with _lock:
        if vars(paramiko.SSHClient)["connect"] is connect:
            paramiko.SSHClient.connect = plain_connect
        repair_new_transports(False)
