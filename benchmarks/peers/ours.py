"""Ours."""

from __future__ import annotations

from typing import List, Sequence

import ssh_service
from benchmarks.measure import OURS
from benchmarks.peers.base import Peer
from benchmarks.target import Target
from ssh_service import SshClientCache, operations

__all__ = ["PEERS"]


class _Ours(Peer):
    """The verbs for programs, on a cache of their own."""

    name = OURS

    @staticmethod
    def version() -> str:
        """Tell which version is measured."""
        return str(getattr(ssh_service, "__version__", ""))

    def connect(self) -> None:
        """Make the connection."""
        self._cache = SshClientCache()
        self._cache.get_client_connection(self.target.connect_params)

    def close(self) -> None:
        """End the connection."""
        self._cache.cleanup()

    def run(self, command: str) -> str:
        """Run a command."""
        return ssh_service.run(self.target.connect_params, command, cache=self._cache).stdout

    def read(self, command: str) -> int:
        """Take the output as bytes."""
        done = ssh_service.run(self.target.connect_params, command, cache=self._cache)
        return len(done.stdout_bytes)

    def upload(self, local: str, remote_path: str) -> None:
        """Copy there."""
        ssh_service.upload(self.target.connect_params, local, remote_path, cache=self._cache)

    def download(self, remote_path: str, local: str) -> None:
        """Copy here."""
        ssh_service.download(self.target.connect_params, remote_path, local, cache=self._cache)

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
