"""parallel-ssh."""

from __future__ import annotations

import importlib.metadata
from typing import List, Sequence

from pssh.clients import ParallelSSHClient, SSHClient
from pssh.config import HostConfig

from benchmarks.peers.base import Peer
from benchmarks.target import Target

__all__ = ["PEERS"]


def _client(target: Target) -> SSHClient:
    return SSHClient(
        target.host,
        user=target.username,
        port=target.port,
        pkey=target.client_key,
        allow_agent=False,
        identity_auth=False,
    )


def _run(client: SSHClient, command: str) -> str:
    output = client.run_command(command)
    text = "".join(line + "\n" for line in output.stdout)
    client.wait_finished(output)
    return text


class _Pssh(Peer):
    """SSHClient for one host, ParallelSSHClient for many; gevent wants a client a thread."""

    name = "parallel-ssh"
    keeps_times = False
    serves_threads = False  # clients belong to their thread's event loop

    @staticmethod
    def version() -> str:
        """Tell which version is measured."""
        return importlib.metadata.version("parallel-ssh")

    def connect(self) -> None:
        """Make the connection."""
        self._client = _client(self.target)

    def close(self) -> None:
        """End the connection."""
        self._client.disconnect()

    def run(self, command: str) -> str:
        """Run a command."""
        return _run(self._client, command)

    def upload(self, local: str, remote: str) -> None:
        """Copy there."""
        self._client.copy_file(local, remote, recurse=True)

    def download(self, remote: str, local: str) -> None:
        """Copy here."""
        self._client.copy_remote_file(remote, local, recurse=True)

    @classmethod
    def dial_all(cls, targets: Sequence[Target], command: str) -> List[str]:
        """Let it do what it is for."""
        first = targets[0]
        client = ParallelSSHClient(
            [target.host for target in targets],
            user=first.username,
            pkey=first.client_key,
            allow_agent=False,
            identity_auth=False,
            pool_size=len(targets),
            host_config=[HostConfig(port=target.port) for target in targets],
        )
        outputs = client.run_command(command)
        client.join(outputs)
        return ["".join(line + "\n" for line in output.stdout) for output in outputs]


PEERS = [_Pssh]
