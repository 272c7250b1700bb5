"""Hussh: Rust, by way of libssh2 for one host and of russh for many."""

from __future__ import annotations

import importlib.metadata
import os
from typing import List, Sequence

import hussh
from hussh.aio import AsyncConnection
from hussh.multi_conn import MultiConnection

from benchmarks.peers.base import Peer
from benchmarks.target import Target

__all__ = ["PEERS"]


class _Hussh(Peer):
    """Connection for one host, which a thread has to itself; MultiConnection for many."""

    name = "Hussh"
    keeps_times = False
    serves_threads = False

    @staticmethod
    def version() -> str:
        """Tell which version is measured."""
        return importlib.metadata.version("hussh")

    def connect(self) -> None:
        """Make the connection."""
        target = self.target
        self._connection = hussh.Connection(
            target.host,
            port=target.port,
            username=target.username,
            private_key=target.client_key,
        )

    def close(self) -> None:
        """End the connection."""
        self._connection.close()

    def run(self, command: str) -> str:
        """Run a command."""
        return str(self._connection.execute(command).stdout)

    def upload(self, local: str, remote: str) -> None:
        """Copy there, by SFTP."""
        if os.path.isdir(local):
            self._connection.sftp_put_dir(local, remote, fail_fast=True)
        else:
            self._connection.sftp_write(local, remote)

    def download(self, remote: str, local: str) -> None:
        """Copy here, by SFTP."""
        if os.path.isdir(remote):  # the server is this machine
            self._connection.sftp_get_dir(remote, local, fail_fast=True)
        else:
            self._connection.sftp_read(remote, local)

    @classmethod
    def dial_all(cls, targets: Sequence[Target], command: str) -> List[str]:
        """Let it do what it has for many hosts."""
        connections = [
            AsyncConnection(
                target.host,
                port=target.port,
                username=target.username,
                key_path=target.client_key,
            )
            for target in targets
        ]
        with MultiConnection(connections, batch_size=len(targets)) as all_of_them:
            results = all_of_them.execute(command)
        return [str(result.stdout) for result in results.values()]


PEERS = [_Hussh]
