"""Where the benchmarks log in: a throw-away sshd on loopback, and the user it lets in."""

from __future__ import annotations

import contextlib
import getpass
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, Iterator, Mapping, NamedTuple, Optional

from ssh_service.testing.local_server import LocalServer
from ssh_service.testing.local_sshd import Sshd

__all__ = [
    "ANY_LOOPBACK",
    "CIPHER",
    "ROOT",
    "Target",
    "make_user",
    "serve",
    "shell_seconds",
]

CIPHER = "aes128-gcm@openssh.com"
"""What all that can choose a cipher use; for ours it is the first choice anyway."""


ROOT = str(Path(__file__).resolve().parents[1])
"""Where processes of the benchmarks' own start, to find their modules."""

ANY_LOOPBACK = {
    "ListenAddress": "0.0.0.0",
    "AllowUsers": "*@127.0.0.0/8",  # nobody from outside
    "MaxStartups": 2000,
}
"""Options of a server that is at each address of 127.0.0.0/8, and so seems to be many hosts."""

_ROOM = 2 << 30
"""Bytes that the large file and its copies may need."""


class _Address(NamedTuple):
    host: str
    port: int
    username: str
    client_key: str
    known_hosts: str
    folder: str


class Target(_Address, LocalServer):
    """
    Where to log in, and as whom.

    Attributes
    ----------
    folder : str
        A folder of ours on the server, which is this machine; the user may write in ``there``.
    """

    @property
    def connect_params(self) -> Dict[str, Any]:
        """The same, under asyncssh's names; nobody checks the host key, as mlos_bench does not."""
        return {**super().connect_params, "known_hosts": None}


def _roomy_folder() -> Optional[str]:
    """Give a folder in memory, if there is one: what is measured here is not the disk."""
    folder = "/dev/shm"
    usable = os.path.isdir(folder) and os.access(folder, os.W_OK)
    return folder if usable and shutil.disk_usage(folder).free > _ROOM else None


@contextlib.contextmanager
def serve(
    username: Optional[str] = None, options: Optional[Mapping[str, Any]] = None
) -> Iterator[Target]:
    """
    Run a server until the block ends.

    Parameters
    ----------
    username : Optional[str]
        Who logs in; None is the current user, another one needs root.
    options : Optional[Mapping[str, Any]]
        Lines of ``sshd_config`` that replace or extend those that are usual here.

    Yields
    ------
    Target
        Where it is.
    """
    username = username or getpass.getuser()
    user = pwd.getpwnam(username)
    if os.geteuid() not in (0, user.pw_uid):
        raise PermissionError(f"only root can let {username} in")
    with tempfile.TemporaryDirectory(prefix="ssh-service-bench-", dir=_roomy_folder()) as folder:
        os.chmod(folder, 0o755)  # the server reads authorized_keys as the user
        there = os.path.join(folder, "there")
        os.mkdir(there, 0o755)
        if os.geteuid() == 0:
            os.chown(there, user.pw_uid, user.pw_gid)
        usual = {"MaxStartups": 500, "MaxSessions": 100, "LogLevel": "ERROR"}
        with Sshd(folder, {**usual, **(options or {})}) as sshd:
            yield Target(sshd.host, sshd.port, username, sshd.client_key, sshd.known_hosts, folder)


def shell_seconds(username: str) -> float:
    """
    Time how long a user's login shell takes to run nothing, as sshd starts it.

    Parameters
    ----------
    username : str
        The user.

    Returns
    -------
    float
        Seconds; a plain /bin/sh needs one or two thousandths.
    """
    user = pwd.getpwnam(username)
    environment = {"HOME": user.pw_dir, "USER": username, "SHELL": user.pw_shell, "SHLVL": "1"}
    environment["PATH"] = os.defpath
    times = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run(
            [user.pw_shell, "-c", "true"], env=environment, cwd="/", check=False, timeout=30
        )
        times.append(time.perf_counter() - began)
    return min(times)


def make_user(username: str) -> None:
    """
    Make a login user with /bin/sh, so that no profile slows commands down; as root, on request.

    Parameters
    ----------
    username : str
        Its name; nothing happens if there is one.
    """
    with contextlib.suppress(KeyError):
        pwd.getpwnam(username)
        return
    if os.geteuid() != 0:
        raise PermissionError("only root can make a user")
    subprocess.run(["useradd", "--create-home", "--shell", "/bin/sh", username], check=True)
    # No password, but not locked either: sshd turns a locked user away.
    subprocess.run(["usermod", "--password", "*", username], check=True)
    print(f"made the user {username}, home {Path(pwd.getpwnam(username).pw_dir)}")
