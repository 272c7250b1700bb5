"""The server that peers log in to, and a home folder in which their defaults lead there."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from pathlib import Path
from typing import Dict, Iterator

from ssh_service.testing.local_sshd import Sshd

__all__ = ["Server", "serve"]


class Server:
    """
    A throw-away sshd, and the environment of programs that shall log in there.

    Attributes
    ----------
    host, port, username, client_key, known_hosts
        Where to connect, and as which user.
    home, scratch, words : str
        A home with a key, a known_hosts and a config; a folder; a file of many lines.
    """

    def __init__(self, sshd: Sshd, folder: Path) -> None:
        self._sshd = sshd
        self.host = sshd.host
        self.port = sshd.port
        self.username = sshd.username
        self.client_key = sshd.client_key
        self.known_hosts = sshd.known_hosts
        self.home = str(folder / "home")
        self.scratch = str(folder / "scratch")
        self.words = str(folder / "words")
        Path(self.scratch).mkdir()
        Path(self.words).write_text("".join(f"word{number}\n" for number in range(50_000)))
        ssh = folder / "home" / ".ssh"
        ssh.mkdir(parents=True, mode=0o700)
        shutil.copy(sshd.client_key, ssh / "id_ed25519")
        shutil.copy(sshd.client_key + ".pub", ssh / "id_ed25519.pub")
        shutil.copy(sshd.known_hosts, ssh / "known_hosts")
        (ssh / "config").write_text(f"Host localhost 127.0.0.1\n  Port {sshd.port}\n")

    def mark(self) -> None:
        """Count logins from now on."""
        self._sshd.mark()

    def logins(self) -> int:
        """Return the number of logins since the last `mark`."""
        return self._sshd.logins()

    def environment(self) -> Dict[str, str]:
        """Return the environment of a program: ours, with the home, and without an agent."""
        variables = {
            **os.environ,
            "HOME": self.home,
            "PATH": os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]]),
            "LOGNAME": self.username,
            "PEER_HOST": self.host,
            "PEER_PORT": str(self.port),
            "PEER_USER": self.username,
            "PEER_KEY": self.client_key,
            "PEER_KNOWN_HOSTS": self.known_hosts,
            "PEER_SCRATCH": self.scratch,
        }
        for name in ("SSH_AUTH_SOCK", "CI", "TRAVIS", "CIRCLECI"):
            variables.pop(name, None)
        return variables


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[Server]:
    """Run a server until the block ends; the folder must be empty."""
    (folder / "sshd").mkdir()
    # Shells on terminals read a profile, which is to be quick and the same everywhere.
    with Sshd(folder / "sshd", {"SetEnv": f"HOME={folder}/home SHLVL=1"}) as sshd:
        yield Server(sshd, folder)
