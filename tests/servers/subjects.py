"""The servers that the checks are run against, each on loopback and ended with its block."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import (
    Any,
    Callable,
    ContextManager,
    Dict,
    FrozenSet,
    Iterator,
    List,
    NamedTuple,
    Optional,
)

from ssh_service.testing import process_tree
from ssh_service.testing.local_sshd import Sshd, find_sshd
from tests.common import eventually, find_program
from tests.servers import Dropbear, TinySshd, make_ash, sshd_with_shell

__all__ = ["SUBJECTS", "Missing", "Running", "Subject", "in_root"]

_PROGRAMS = Path(__file__).parent / "programs"
_ROOTS = Path(__file__).parents[1] / "roots" / "root.sh"

# What a check may need; a server that lacks one gets a dash in these rows.
_ALL = frozenset(
    [
        "commands",
        "signals",
        "terminals",
        "jobs",
        "copies",
        "attributes",
        "checksums",
        "forwards",
        "remote forwards",
    ]
)
_SFTP = frozenset(["copies", "attributes"])


# Debian 12's is too old: it has no strict key exchange.
_TINYSSHD_RELEASE = "trixie"


class Missing(Exception):
    """A server that is not on this machine; the text says how to get it."""


class Running(NamedTuple):
    """A server that runs: how to log in, its version, and how to start it anew."""

    destination: Dict[str, Any]
    version: str
    restart: Callable[[], None]


class Subject(NamedTuple):
    """A column of the table."""

    name: str
    offers: FrozenSet[str]
    start: Callable[[Path], ContextManager[Running]]
    # The server's own limits: the check's name, and the reason.
    limits: Dict[str, str]
    # The release of Debian in whose root the checks are run; None: on this machine.
    release: Optional[str] = None


def _params(server: Any) -> Dict[str, Any]:
    # The proxy has another port, and each check one of its own: the key is known by an alias.
    key = " ".join(Path(server.known_hosts).read_text().split()[1:3])
    Path(server.known_hosts).write_text(f"server {key}\n")
    return {**server.connect_params, "host_key_alias": "server"}


@contextlib.contextmanager
def _openssh(folder: Path, sshd: Optional[str] = None, **options: Any) -> Iterator[Running]:
    program = sshd or find_sshd()
    if program is None:
        raise Missing("needs OpenSSH's sshd (Debian: apt install openssh-server)")
    # As sshd is configured when it is installed.
    as_installed = {"MaxSessions": 10, "MaxStartups": "10:30:100", **options}
    with Sshd(folder, as_installed, sshd=program) as server:
        yield Running(_params(server), _banner(server.port), server.restart)


def in_root(*arguments: str) -> str:
    """Run `tests/roots/root.sh`, and return what it prints."""
    if os.geteuid() != 0:
        raise Missing("needs root, for a folder with another release of Debian")
    if shutil.which("debootstrap") is None:
        raise Missing("needs debootstrap (Debian: apt install debootstrap)")
    done = subprocess.run(
        [str(_ROOTS), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    if not done.stdout:
        raise Missing(done.stderr.decode().strip()[-1000:])
    return done.stdout.decode()


@contextlib.contextmanager
def _openssh_of(release: str, folder: Path) -> Iterator[Running]:
    sshd = in_root("sshd", release).strip()
    with _openssh(folder, sshd) as running:
        yield running


@contextlib.contextmanager
def _openssh_sftp_only(folder: Path) -> Iterator[Running]:
    with _openssh(folder, ForceCommand="internal-sftp", AllowTcpForwarding=False) as running:
        yield running


@contextlib.contextmanager
def _busybox(folder: Path) -> Iterator[Running]:
    if shutil.which("busybox") is None:
        raise Missing("needs busybox (Debian: apt install busybox)")
    with sshd_with_shell(folder, make_ash(folder)) as server:
        yield Running(_params(server), _banner(server.port), server.restart)


@contextlib.contextmanager
def _dropbear(folder: Path) -> Iterator[Running]:
    if find_program("dropbear") is None:
        raise Missing("needs dropbear (Debian: apt install dropbear-bin)")
    with Dropbear(folder) as server:

        def restart() -> None:
            server.stop()
            server.start()

        yield Running(_params(server), _banner(server.port), restart)


@contextlib.contextmanager
def _tinysshd(folder: Path) -> Iterator[Running]:
    if find_program("tinysshd-makekey") is None:
        raise Missing("needs tinysshd (Debian: apt install tinysshd)")
    with TinySshd(folder, in_root("tinysshd", _TINYSSHD_RELEASE).strip()) as server:

        def restart() -> None:
            server.stop()
            server.start()

        # It announces a random word.
        yield Running(_params(server), f"tinyssh of Debian {_TINYSSHD_RELEASE}", restart)


class _Program:
    """A server that is one process, with one key for the server and one for the user."""

    def __init__(self, folder: Path, command: List[str]) -> None:
        self._folder, self._command = folder, command
        for name in ("host_key", "client_key"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)],
                check=True,
            )
        shutil.copy(folder / "client_key.pub", folder / "authorized_keys")
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port = int(sock.getsockname()[1])
        key = " ".join((folder / "host_key.pub").read_text().split()[:2])
        self.known_hosts = str(folder / "known_hosts")
        Path(self.known_hosts).write_text(f"server {key}\n")

    @property
    def connect_params(self) -> Dict[str, Any]:
        return {
            "host": "127.0.0.1",
            "port": self.port,
            "username": "root" if os.geteuid() == 0 else os.environ.get("USER", "user"),
            "client_keys": [str(self._folder / "client_key")],
            "known_hosts": self.known_hosts,
            "config": None,
        }

    def start(self) -> None:
        with open(self._folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                [*self._command, str(self.port), str(self._folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        eventually(self._listens, f"{self._command[0]} listens")

    def _listens(self) -> bool:
        if self._process.poll() is not None:
            raise Missing((self._folder / "log").read_text(errors="replace")[-1000:])
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        pid = self._process.pid
        process_tree.kill_all(lambda: [pid, *process_tree.descendants(pid)])
        self._process.wait(10)

    def restart(self) -> None:
        self.stop()
        self.start()


@contextlib.contextmanager
def _program(folder: Path, command: List[str]) -> Iterator[Running]:
    server = _Program(folder, command)
    server.start()
    try:
        yield Running(_params(server), _banner(server.port), server.restart)
    finally:
        server.stop()


@contextlib.contextmanager
def _python_program(name: str, module: str, folder: Path) -> Iterator[Running]:
    found = subprocess.run([sys.executable, "-c", f"import {module}"], stderr=subprocess.DEVNULL)
    if found.returncode:
        raise Missing(f"needs {module.partition('.')[0]} (pip install {module.partition('.')[0]})")
    with _program(folder, [sys.executable, str(_PROGRAMS / name)]) as running:
        yield running


@contextlib.contextmanager
def _erlang(folder: Path) -> Iterator[Running]:
    escript = shutil.which("escript")
    if escript is None:
        raise Missing("needs Erlang (Debian: apt install erlang-base erlang-ssh)")
    with _program(folder, [escript, str(_PROGRAMS / "erlang_server.escript")]) as running:
        yield running


@contextlib.contextmanager
def _proftpd(folder: Path) -> Iterator[Running]:
    program = find_program("proftpd")
    if program is None or os.geteuid() != 0:
        raise Missing("needs root and proftpd (Debian: proftpd-core, proftpd-mod-crypto)")
    with _program(folder, [sys.executable, str(_PROGRAMS / "proftpd.py"), program]) as running:
        yield running


def _banner(port: int) -> str:
    """Return the name and version that a server announces."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        line = sock.makefile("rb").readline(256).decode("ascii", "replace").strip()
    return line.partition("-")[2].partition("-")[2]


def _of(start: Callable[..., ContextManager[Running]], *args: Any) -> Callable[..., Any]:
    return lambda folder: start(*args, folder)


_UNSIGNALLED = (
    "it passes on no signal, and processes can be found only by the client's own address,"
    " which the proxy of these checks hides"
)

SUBJECTS: List[Subject] = [
    Subject("OpenSSH", _ALL, _openssh, {}),
    Subject("OpenSSH of Debian 11", _ALL, _of(_openssh_of, "bullseye"), {}),
    Subject("OpenSSH of Debian 13", _ALL, _openssh, {}, "trixie"),
    Subject("OpenSSH of sid", _ALL, _openssh, {}, "sid"),
    Subject("OpenSSH, SFTP only", _SFTP, _openssh_sftp_only, {}),
    Subject("OpenSSH, busybox", _ALL, _busybox, {}),
    Subject("dropbear", _ALL, _dropbear, {}),
    Subject(
        "tinysshd",
        _ALL - {"forwards", "remote forwards"},
        _tinysshd,
        {
            "one login for all of them": "it ends the connection after each command",
            "a timeout ends the processes": _UNSIGNALLED,
            "cancelling ends the processes": _UNSIGNALLED,
        },
    ),
    Subject("proftpd", _SFTP, _proftpd, {}),
    Subject(
        "asyncssh",
        _ALL - {"terminals"},  # its programs are given none
        _of(_python_program, "asyncssh_server.py", "asyncssh"),
        {},
    ),
    Subject(
        "Twisted Conch",
        _ALL,
        _of(_python_program, "conch_server.py", "twisted.conch"),
        {
            'symbolic links (`links="keep"`)': "it makes relative links absolute",
            "a forward of a remote port": "it closes the connection if asked for any free port",
        },
    ),
    Subject(
        "Erlang",
        _SFTP | {"forwards", "remote forwards"},  # its commands are Erlang's
        _erlang,
        {'symbolic links (`links="keep"`)': "it makes relative links absolute"},
    ),
]
