"""Servers and login shells nobody here wrote: dropbear, and OpenSSH with any login shell."""

from __future__ import annotations

import base64
import contextlib
import functools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Iterator, Optional

import pytest

from ssh_service.testing import process_tree
from ssh_service.testing.local_server import LocalServer
from ssh_service.testing.pytest_plugin import Sshd
from tests.common import eventually, require_part

# A login shell as of a switch or a management board: a few words, and no POSIX shell at all.
APPLIANCE = """\
#!/bin/sh
[ "$1" = -c ] || exit 2
case $2 in
    "show version") echo "FakeOS 1.0";;
    "ping "*) exec sleep "${2#ping }";;
    "crash") kill -s SEGV $$;;
    *) echo "% Unknown command: $2"; exit 1;;
esac
"""

# Gives a server an /etc/passwd and an /etc/shells of its own, in a mount namespace of its own.
_WITH_FILES = (
    'mount --bind "$1" /etc/passwd && mount --bind "$2" /etc/shells && shift 2 && exec "$@"'
)


def find_shell(name: str) -> str:
    """Return the path of a shell; skip the test where it is missing."""
    path = shutil.which(name)
    require_part(path, f"needs {name} (Debian: apt install {name})")
    return str(path)


def make_appliance(folder: Path) -> str:
    """Write the shell of an appliance, and return its path."""
    return str(make_program(folder / "appliance", APPLIANCE))


def make_ash(folder: Path) -> str:
    """Make busybox's shell a program of its own, as on small systems, and return its path."""
    busybox = find_shell("busybox")
    return str(make_program(folder / "ash", f'#!/bin/sh\nexec {busybox} ash "$@"\n'))


def make_program(path: Path, text: str) -> Path:
    """Write a script that can be run."""
    path.write_text(text)
    path.chmod(0o755)
    return path


@functools.lru_cache(maxsize=None)
def _can_mount() -> bool:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        return False
    command = ["unshare", "--mount", "mount", "--bind", "/etc/passwd", "/etc/passwd"]
    return subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0


class OwnFiles:
    """An /etc/passwd with one user, root, and the shell and the home that are wanted."""

    def __init__(self, folder: Path, shell: str, home: Optional[Path] = None) -> None:
        if not _can_mount():
            pytest.skip("needs root and mount namespaces, for an /etc/passwd of the server's own")
        self.home = home or folder / "home"
        self.home.mkdir(mode=0o700, exist_ok=home is not None)
        self._passwd, self._shells = folder / "passwd", folder / "shells"
        others = "".join(
            f"{user.pw_name}:x:{user.pw_uid}:{user.pw_gid}::{user.pw_dir}:{user.pw_shell}\n"
            for user in pwd.getpwall()
            if user.pw_uid  # sshd wants its own
        )
        self._passwd.write_text(f"root:x:0:0:root:{self.home}:{shell}\n{others}")
        self._shells.write_text(f"/bin/sh\n{shell}\n")

    def run(self, *command: str) -> "list[str]":
        """Return the command with these files in place."""
        files = (str(self._passwd), str(self._shells))
        return ["unshare", "--mount", "sh", "-c", _WITH_FILES, "sh", *files, *command]

    def end_processes(self) -> None:
        """End what logins have left running; they are the ones with this home."""
        process_tree.send_signal(process_tree.started_with(f"HOME={self.home}"), signal.SIGKILL)


@contextlib.contextmanager
def sshd_with_shell(folder: Path, shell: str) -> Iterator[Sshd]:
    """Start an OpenSSH server whose user, root, has a login shell."""
    from ssh_service.testing import local_sshd

    program = local_sshd.find_sshd()
    require_part(program, "needs OpenSSH's sshd (Debian: apt install openssh-server)")
    files = OwnFiles(folder, shell)
    quoted = " ".join(f"'{part}'" for part in files.run(str(program)))
    wrapper = make_program(folder / "sshd", f'#!/bin/sh\nexec {quoted} "$@"\n')
    try:
        with Sshd(folder, sshd=str(wrapper)) as server:
            server.username = "root"
            yield server
    finally:
        files.end_processes()


class Dropbear(LocalServer):
    """A dropbear of the test's own; a context manager that stops it."""

    def __init__(self, folder: Path, shell: str = "/bin/sh", *options: str) -> None:
        program = shutil.which("dropbear", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        require_part(program, "needs dropbear (Debian: apt install dropbear-bin)")
        require_part(shutil.which("dropbearkey"), "needs dropbearkey (Debian: dropbear-bin)")
        self._files = OwnFiles(folder, shell)
        self._command = [str(program), "-F", "-E", "-s", *options]
        self.home = self._files.home
        self.username = "root"
        self.client_key, self.known_hosts = str(folder / "client"), str(folder / "known_hosts")
        host_key = str(folder / "host_key")
        quiet = {"check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run(["dropbearkey", "-t", "ed25519", "-f", host_key], **quiet)  # type: ignore
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.client_key], check=True
        )
        (self.home / ".ssh").mkdir(mode=0o700)
        (self.home / ".ssh" / "authorized_keys").write_text(
            Path(self.client_key + ".pub").read_text()
        )
        shown = subprocess.run(
            ["dropbearkey", "-y", "-f", host_key], stdout=subprocess.PIPE, check=True
        ).stdout.decode()
        public = next(line for line in shown.splitlines() if line.startswith("ssh-ed25519"))
        self._key = " ".join(public.split()[:2])
        self._host_key, self._folder = host_key, folder
        self._process: Optional["subprocess.Popen[bytes]"] = None
        with socket.socket() as sock:
            sock.bind((self.host, 0))
            self.port = int(sock.getsockname()[1])
        Path(self.known_hosts).write_text(f"[{self.host}]:{self.port} {self._key}\n")

    def __enter__(self) -> "Dropbear":
        self.start()
        return self

    def start(self) -> None:
        """Start it; on the same port if it ran before."""
        listen = ["-p", f"{self.host}:{self.port}", "-r", self._host_key]
        listen += ["-P", str(self._folder / "dropbear.pid")]
        with open(self._folder / "dropbear.log", "wb") as log:
            self._process = subprocess.Popen(
                self._files.run(*self._command, *listen),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        eventually(self._listens, "dropbear listens")

    def _listens(self) -> bool:
        assert self._process is not None and self._process.poll() is None, self.log()
        with socket.socket() as sock:
            return sock.connect_ex((self.host, self.port)) == 0

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End it, and all that its sessions have left running."""
        process, self._process = self._process, None
        if process is not None:
            process_tree.kill_all(lambda: process_tree.descendants(process.pid))
            process.kill()
            process.wait(10)
        self._files.end_processes()

    def log(self) -> str:
        """Return what it has said."""
        return (self._folder / "dropbear.log").read_text(errors="replace")


class TinySshd(LocalServer):
    """A tinysshd of the test's own, with a process for each connection, as under inetd."""

    def __init__(self, folder: Path, program: Optional[str] = None) -> None:
        path = f"{os.environ.get('PATH', '')}:/usr/sbin"
        if os.geteuid() != 0:
            pytest.skip("needs root, as tinysshd's sessions are the user's")
        program = program or shutil.which("tinysshd", path=path)
        makekey = shutil.which("tinysshd-makekey", path=path)
        require_part(program and makekey, "needs tinysshd (Debian: apt install tinysshd)")
        # tinysshd wants no folder above the home that others may write to, as /tmp is.
        self._home = tempfile.TemporaryDirectory(prefix="ssh-service-tinysshd-", dir="/run")
        self._files = OwnFiles(folder, "/bin/sh", Path(self._home.name))
        sftp_server = "sftp=/usr/lib/openssh/sftp-server"
        command = [str(program), "-l", "-x", sftp_server, str(folder / "keys")]
        self._command = self._files.run(*command)
        subprocess.run([str(makekey), str(folder / "keys")], check=True)
        self.home = self._files.home
        self.username = "root"
        self.client_key, self.known_hosts = str(folder / "client"), str(folder / "known_hosts")
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.client_key], check=True
        )
        (self.home / ".ssh").mkdir(mode=0o700)
        shutil.copy(self.client_key + ".pub", self.home / ".ssh" / "authorized_keys")
        with socket.socket() as sock:
            sock.bind((self.host, 0))
            self.port = int(sock.getsockname()[1])
        # The 32 bytes of a key, after its type and their number.
        public = (folder / "keys" / "ed25519.pk").read_bytes()
        key = base64.b64encode(b"\0\0\0\x0bssh-ed25519\0\0\0 " + public).decode()
        Path(self.known_hosts).write_text(f"[{self.host}]:{self.port} ssh-ed25519 {key}\n")
        self._processes: "list[subprocess.Popen[bytes]]" = []

    def __enter__(self) -> "TinySshd":
        self.start()
        return self

    def start(self) -> None:
        """Start it; on the same port if it ran before."""
        self._listener = socket.create_server((self.host, self.port))
        self._thread = threading.Thread(target=self._serve, name="tinysshd")
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # it was shut down
                return
            with connection:
                self._processes.append(
                    subprocess.Popen(
                        self._command,
                        stdin=connection.fileno(),
                        stdout=connection.fileno(),
                        stderr=subprocess.DEVNULL,
                    )
                )

    def offers_strict_kex(self) -> bool:
        """Return whether it is of 2024 or later: earlier releases do not know it."""
        said = b""
        with socket.create_connection((self.host, self.port), timeout=10) as sock:
            sock.sendall(b"SSH-2.0-test\r\n")
            while b"hmac-sha2-256" not in said:
                said += sock.recv(4096)
        return b"kex-strict-s-v00@openssh.com" in said

    def __exit__(self, *exc_info: object) -> None:
        self.stop()
        self._home.cleanup()

    def stop(self) -> None:
        """End it, and all that its sessions have left running."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._listener.close()
        processes, self._processes = self._processes, []
        for process in processes:
            process.kill()
            process.wait(10)
        self._files.end_processes()


def litter(home: Path) -> "list[str]":
    """Return the files in a home that no login shell makes of its own accord."""
    ours = {".ssh", ".config", ".local", ".cache", ".zcompdump", ".sh_history", ".history"}
    return sorted(path.name for path in home.iterdir() if path.name not in ours)
