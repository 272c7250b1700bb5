"""mlos_bench's own services, which use asyncssh on an event loop in a thread."""

from __future__ import annotations

import importlib.metadata
from typing import Any, List, Sequence

from mlos_bench.services.remote.ssh.ssh_fileshare import SshFileShareService
from mlos_bench.services.remote.ssh.ssh_host_service import SshHostService

from benchmarks.peers.base import Peer
from benchmarks.target import Target

__all__ = ["PEERS"]


def _settings(target: Target) -> Any:
    return {
        "ssh_hostname": target.host,
        "ssh_port": target.port,
        "ssh_username": target.username,
        "ssh_priv_key_path": target.client_key,
    }


class _Mlos(Peer):
    """SshHostService and SshFileShareService."""

    name = "mlos_bench"

    @staticmethod
    def version() -> str:
        """Tell which version is measured."""
        versions = [
            f"{name} {importlib.metadata.version(name)}" for name in ("mlos_bench", "asyncssh")
        ]
        return ", ".join(versions)

    def connect(self) -> None:
        """Enter the services' contexts; the first command dials."""
        self._host, self._share = SshHostService(), SshFileShareService()
        self._host.__enter__()
        self._share.__enter__()
        self.run("true")

    def close(self) -> None:
        """Leave the contexts, which ends the connections of all such services."""
        self._share.__exit__(None, None, None)
        self._host.__exit__(None, None, None)

    def _submit(self, target: Target, command: str) -> Any:
        return self._host.remote_exec([command], _settings(target), {})[1]

    def _result(self, pending: Any) -> str:
        status, result = self._host.get_remote_exec_results(pending)
        if not status.is_succeeded():
            raise RuntimeError(f"{status}: {result}")
        return str(result["stdout"])

    def run(self, command: str) -> str:
        """Run a command."""
        return self._result(self._submit(self.target, command))

    def upload(self, local: str, remote: str) -> None:
        """Copy there."""
        self._share.upload(_settings(self.target), local, remote)

    def download(self, remote: str, local: str) -> None:
        """Copy here."""
        self._share.download(_settings(self.target), remote, local)

    @classmethod
    def dial_all(cls, targets: Sequence[Target], command: str) -> List[str]:
        """Submit all, then wait for all."""
        peer = cls(targets[0])
        with SshHostService() as peer._host:
            pending = [peer._submit(target, command) for target in targets]
            return [peer._result(each) for each in pending]


PEERS = [_Mlos]
