"""OpenSSH's own programs over one multiplexed connection."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from typing import List, Sequence

from benchmarks.peers.base import Peer
from benchmarks.target import CIPHER, Target

__all__ = ["PEERS"]

if shutil.which("ssh") is None:
    raise ImportError("there is no ssh (Debian: apt install openssh-client)")

_PATIENCE = 20.0


def options(target: Target) -> List[str]:
    """
    Give ssh's options for a server.

    Parameters
    ----------
    target : Target
        The server.

    Returns
    -------
    List[str]
        All but the port and the host.
    """
    found = ["-F", "none", "-i", target.client_key, "-c", CIPHER]
    for option in (
        "BatchMode=yes",
        "IdentitiesOnly=yes",
        "StrictHostKeyChecking=no",
        "UserKnownHostsFile=/dev/null",
        "LogLevel=ERROR",
    ):
        found += ["-o", option]
    return found


class _OpenSsh(Peer):
    """ssh and scp; each command is a process."""

    name = "OpenSSH"

    @staticmethod
    def version() -> str:
        """Tell which version is measured."""
        said = subprocess.run(["ssh", "-V"], stderr=subprocess.PIPE, check=True).stderr
        return said.decode().split(",")[0].strip()

    def connect(self) -> None:
        """Start the master; wait until it can be shared."""
        self._folder = tempfile.TemporaryDirectory(prefix="sshmux")
        self._socket = os.path.join(self._folder.name, "s")
        self.shared = [*options(self.target), "-o", f"ControlPath={self._socket}"]
        self._host = f"{self.target.username}@{self.target.host}"
        port = str(self.target.port)
        self._master = subprocess.Popen(
            ["ssh", *self.shared, "-p", port, "-M", "-N", self._host], stdin=subprocess.DEVNULL
        )
        self._ssh = ["ssh", *self.shared, "-p", port, self._host]
        deadline = time.monotonic() + _PATIENCE
        while not os.path.exists(self._socket):
            if self._master.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the shared connection did not come up")
            time.sleep(0.01)

    def close(self) -> None:
        """End the master."""
        self._master.terminate()
        self._master.wait(_PATIENCE)
        self._folder.cleanup()

    def run(self, command: str) -> str:
        """Run a command."""
        return subprocess.run(
            [*self._ssh, command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True
        ).stdout.decode()

    def read(self, command: str) -> int:
        """Throw the output away, over a connection of its own: the least that can be done."""
        alone = ["ssh", *options(self.target), "-p", str(self.target.port), self._host]
        subprocess.run(
            [*alone, command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True
        )
        return -1

    def _copy(self, source: str, target: str) -> None:
        command = ["scp", "-q", "-p", "-r", *self.shared, "-P", str(self.target.port)]
        subprocess.run([*command, source, target], stdin=subprocess.DEVNULL, check=True)

    def upload(self, local: str, remote: str) -> None:
        """Copy there by scp."""
        self._copy(local, f"{self._host}:{remote}")

    def download(self, remote: str, local: str) -> None:
        """Copy here by scp."""
        self._copy(f"{self._host}:{remote}", local)

    @classmethod
    def dial_all(cls, targets: Sequence[Target], command: str) -> List[str]:
        """Start a process for each."""
        running = [
            subprocess.Popen(
                ["ssh", *options(target), "-p", str(target.port)]
                + [f"{target.username}@{target.host}", command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
            )
            for target in targets
        ]
        return [process.communicate()[0].decode() for process in running]


class _Sftp(_OpenSsh):
    """The sftp program; copies alone."""

    name = "sftp"
    runs_commands = False

    def _batch(self, line: str) -> None:
        command = ["sftp", "-q", *self.shared, "-P", str(self.target.port), "-b", "-", self._host]
        subprocess.run(
            command, input=line.encode(), stdout=subprocess.DEVNULL, check=True, timeout=600
        )

    def upload(self, local: str, remote: str) -> None:
        """Copy there."""
        if os.path.isdir(local):  # it does not make the folder under another name by itself
            self._batch(f"mkdir {remote}\nput -p -r {local}/. {remote}/")
        else:
            self._batch(f"put -p {local} {remote}")

    def download(self, remote: str, local: str) -> None:
        """Copy here."""
        if os.path.isdir(remote):  # the server is this machine
            os.mkdir(local)
            self._batch(f"get -p -r {remote}/. {local}/")
        else:
            self._batch(f"get -p {remote} {local}")


class _Rsync(_OpenSsh):
    """The rsync program over the multiplexed connection; copies alone."""

    name = "rsync -a"
    runs_commands = False
    copies_again = True

    def _copy(self, source: str, target: str, *options: str) -> None:
        shell = " ".join(["ssh", *self.shared, "-p", str(self.target.port)])
        command = ["rsync", "-a", "--whole-file", *options, "-e", shell]
        subprocess.run([*command, source, target], stdin=subprocess.DEVNULL, check=True)

    def upload(self, local: str, remote: str) -> None:
        """Copy there."""
        end = "/" if os.path.isdir(local) else ""
        self._copy(local + end, f"{self._host}:{remote}")

    def download(self, remote: str, local: str) -> None:
        """Copy here."""
        end = "/" if os.path.isdir(remote) else ""
        self._copy(f"{self._host}:{remote}{end}", local)

    def upload_again(self, local: str, remote: str, everything: bool) -> None:
        """Copy a folder's content there again."""
        self._copy(f"{local}/", f"{self._host}:{remote}", *_again(everything))

    def download_again(self, remote: str, local: str, everything: bool) -> None:
        """Copy a folder's content here again."""
        self._copy(f"{self._host}:{remote}/", local, *_again(everything))


def _again(everything: bool) -> List[str]:
    return ["--ignore-times"] if everything else []


PEERS = [_OpenSsh, _Sftp] + ([_Rsync] if shutil.which("rsync") else [])
