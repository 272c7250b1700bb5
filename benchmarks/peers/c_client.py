"""libssh2 with as little Python around it as can be: what C alone achieves."""

from __future__ import annotations

import importlib.metadata
import socket
from typing import Any, List

from ssh2.session import Session

from benchmarks.peers.base import Peer

__all__ = ["PEERS"]


class _CClient(Peer):
    """ssh2-python, with TCP_NODELAY; threads have a connection each, as libssh2 demands."""

    name = "ssh2 (C)"
    copies = False
    serves_threads = False

    @staticmethod
    def version() -> str:
        """Tell which version is measured."""
        return importlib.metadata.version("ssh2-python")

    def connect(self) -> None:
        """Make the connection."""
        self._socket = socket.create_connection((self.target.host, self.target.port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._session = Session()
        self._session.handshake(self._socket)
        self._session.userauth_publickey_fromfile(self.target.username, self.target.client_key)

    def close(self) -> None:
        """End the connection."""
        self._socket.close()

    def run(self, command: str) -> str:
        """Run a command."""
        return b"".join(_pieces(self._session, command)).decode()

    def read(self, command: str) -> int:
        """Keep the output as bytes."""
        return len(b"".join(_pieces(self._session, command)))


def _pieces(session: Any, command: str) -> List[bytes]:
    channel = session.open_session()
    channel.execute(command)
    pieces = []
    count, data = channel.read(65536)
    while count > 0:
        pieces.append(data)
        count, data = channel.read(65536)
    channel.wait_eof()
    channel.close()
    channel.wait_closed()
    return pieces


PEERS = [_CClient]
