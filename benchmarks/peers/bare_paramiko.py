"""paramiko as its documentation shows it."""

from __future__ import annotations

import os
import stat
from typing import List, Sequence

import paramiko

from benchmarks.peers.base import Peer
from benchmarks.target import Target

__all__ = ["PEERS"]


class _Paramiko(Peer):
    """SSHClient.exec_command and SFTPClient; threads share the connection."""

    name = "paramiko"

    @staticmethod
    def version() -> str:
        """Tell which version is measured."""
        return str(paramiko.__version__)

    def connect(self) -> None:
        """Make the connection."""
        target = self.target
        self._client = paramiko.SSHClient()
        self._client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
        self._client.connect(
            target.host,
            target.port,
            target.username,
            key_filename=target.client_key,
            allow_agent=False,
            look_for_keys=False,
        )

    def close(self) -> None:
        """End the connection."""
        self._client.close()

    def run(self, command: str) -> str:
        """Run a command."""
        stdin, stdout, _ = self._client.exec_command(command)
        stdin.close()
        output = stdout.read().decode()
        stdout.channel.recv_exit_status()
        return str(output)

    def upload(self, local: str, remote: str) -> None:
        """Copy there, one file after the other."""
        with self._client.open_sftp() as sftp:
            if not os.path.isdir(local):
                return _put(sftp, local, remote)
            sftp.mkdir(remote)
            for name in os.listdir(local):
                _put(sftp, f"{local}/{name}", f"{remote}/{name}")
            _describe(sftp, local, remote)

    def download(self, remote: str, local: str) -> None:
        """Copy here, one file after the other."""
        with self._client.open_sftp() as sftp:
            if not stat.S_ISDIR(sftp.stat(remote).st_mode):
                return _get(sftp, remote, local)
            os.mkdir(local)
            for name in sftp.listdir(remote):
                _get(sftp, f"{remote}/{name}", f"{local}/{name}")
            _describe_here(sftp.stat(remote), local)

    @classmethod
    def dial_all(cls, targets: Sequence[Target], command: str) -> List[str]:
        """Give each host a thread."""
        from concurrent.futures import ThreadPoolExecutor

        def one(target: Target) -> str:
            with cls(target) as peer:
                return peer.run(command)

        with ThreadPoolExecutor(len(targets)) as pool:
            return list(pool.map(one, targets))


def _put(sftp: paramiko.SFTPClient, local: str, remote: str) -> None:
    sftp.put(local, remote)
    _describe(sftp, local, remote)


def _describe(sftp: paramiko.SFTPClient, local: str, remote: str) -> None:
    status = os.stat(local)
    sftp.chmod(remote, stat.S_IMODE(status.st_mode))
    sftp.utime(remote, (status.st_atime, status.st_mtime))


def _get(sftp: paramiko.SFTPClient, remote: str, local: str) -> None:
    sftp.get(remote, local)
    _describe_here(sftp.stat(remote), local)


def _describe_here(status: paramiko.SFTPAttributes, local: str) -> None:
    os.chmod(local, stat.S_IMODE(status.st_mode or 0))
    os.utime(local, (status.st_atime or 0, status.st_mtime or 0))


PEERS = [_Paramiko]
