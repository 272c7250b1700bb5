"""A command whose stdin and stdout are the connection."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import threading
from typing import Optional

from ssh_service.errors import SshConnectError

__all__ = ["ProxySocket"]

_log = logging.getLogger(__name__)


class ProxySocket(socket.socket):
    """
    A socket whose other end is the stdin and stdout of a command.

    A true socket, so that the transport can treat it as any other.  Closing it ends the command.
    """

    _process: Optional[subprocess.Popen[bytes]] = None

    @classmethod
    def start(cls, command: str, connection_id: str) -> ProxySocket:
        """
        Run a proxy command.

        Parameters
        ----------
        command : str
            For the shell, tokens expanded.
        connection_id : str
            For logs and errors.

        Returns
        -------
        ProxySocket
            Connected to the command.

        Raises
        ------
        SshConnectError
            It could not be started.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = subprocess.Popen(
                    ["/bin/sh", "-c", "exec " + command],
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=subprocess.PIPE,
                    start_new_session=True,  # Ctrl-C here is not meant for it
                )
            except BaseException as error:
                ours.close()
                if not isinstance(error, (OSError, ValueError)):
                    raise
                raise SshConnectError(
                    f"{connection_id}: the proxy command cannot be started: {error}",
                    connection_id=connection_id,
                    phase="tcp",
                ) from error
        sock = cls(fileno=ours.detach())
        sock._process = process
        threading.Thread(
            target=_watch_proxy,
            args=(process, connection_id),
            name=f"ssh-service-proxy-{connection_id}",
            daemon=True,
        ).start()
        return sock

    def close(self) -> None:
        """Close the stream and end the command."""
        super().close()
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            try:
                os.killpg(process.pid, signal.SIGTERM)  # a pipeline is more than one process
            except ProcessLookupError:
                pass  # it ended just now


def _watch_proxy(process: subprocess.Popen[bytes], connection_id: str) -> None:
    """Log what the command says, and leave no zombie."""
    assert process.stderr is not None
    with process.stderr as stderr:
        for line in stderr:
            _log.debug("%s: proxy command: %r", connection_id, line[:200])
    process.wait()
