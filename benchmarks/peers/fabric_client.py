"""Fabric."""

from __future__ import annotations

from typing import List, Sequence

import fabric

from benchmarks.peers.base import Peer
from benchmarks.target import Target

__all__ = ["PEERS"]


def _connection(target: Target) -> fabric.Connection:
    return fabric.Connection(
        target.host,
        user=target.username,
        port=target.port,
        connect_kwargs={
            "key_filename": target.client_key,
            "allow_agent": False,
            "look_for_keys": False,
        },
    )


def _run(connection: fabric.Connection, command: str) -> str:
    return str(connection.run(command, hide=True, in_stream=False).stdout)


class _Fabric(Peer):
    """Connection; a thread has one of its own, as in its ThreadingGroup."""

    name = "Fabric"
    keeps_times = False
    copies_trees = False
    serves_threads = False
    reads_much = False  # it looks through all that came with each kilobyte that comes

    @staticmethod
    def version() -> str:
        """Tell which version is measured."""
        return str(fabric.__version__)

    def connect(self) -> None:
        """Make the connection."""
        self._connection = _connection(self.target)
        self._connection.open()

    def close(self) -> None:
        """End the connection."""
        self._connection.close()

    def run(self, command: str) -> str:
        """Run a command."""
        return _run(self._connection, command)

    def upload(self, local: str, remote: str) -> None:
        """Copy a file there."""
        self._connection.put(local, remote)

    def download(self, remote: str, local: str) -> None:
        """Copy a file here."""
        self._connection.get(remote, local)

    @classmethod
    def dial_all(cls, targets: Sequence[Target], command: str) -> List[str]:
        """Use a group."""
        group = fabric.ThreadingGroup.from_connections(map(_connection, targets))
        try:
            results = group.run(command, hide=True, in_stream=False)
            return [str(result.stdout) for result in results.values()]
        finally:
            group.close()


PEERS = [_Fabric]
