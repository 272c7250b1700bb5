"""Ours."""

from __future__ import annotations

from typing import List, Sequence

import ssh_service
from benchmarks.measure import OURS
from benchmarks.peers.base import Peer
from benchmarks.target import Target
from ssh_service import Host, SshClientCache, operations

__all__ = ["PEERS"]


class _Ours(Peer):
    """A `Host` on a cache of its own, as other clients have an object for their connection."""

    name = OURS
    copies_again = True

    @staticmethod
    def version() -> str:
        """Tell which version is measured."""
        return str(getattr(ssh_service, "__version__", ""))

    def connect(self) -> None:
        """Make the connection."""
        self._cache = SshClientCache()
        self._host = Host(self.target.connect_params, cache=self._cache)
        self._cache.get_client_connection(self._host)

    def close(self) -> None:
        """End the connection."""
        self._cache.cleanup()

    def run(self, command: str) -> str:
        """Run a command."""
        return self._host.run(command).stdout

    def read(self, command: str) -> int:
        """Take the output as bytes."""
        return len(self._host.run(command).stdout_bytes)

    def upload(self, local: str, remote_path: str) -> None:
        """Copy there."""
        self._host.upload(local, remote_path)

    def download(self, remote_path: str, local: str) -> None:
        """Copy here."""
        self._host.download(remote_path, local)

    def upload_again(self, local: str, remote_path: str, everything: bool) -> None:
        """Copy a folder's content there again."""
        self._host.upload(local, remote_path, contents=True, update=not everything)

    def download_again(self, remote_path: str, local: str, everything: bool) -> None:
        """Copy a folder's content here again."""
        self._host.download(remote_path, local, contents=True, update=not everything)

    @classmethod
    def dial_all(cls, targets: Sequence[Target], command: str) -> List[str]:
        """Submit all, then wait for all."""
        cache = SshClientCache()
        try:
            futures = [
                operations.submit(cache, target.connect_params, command) for target in targets
            ]
            return [future.result().stdout for future in futures]
        finally:
            cache.cleanup()


PEERS = [_Ours]
