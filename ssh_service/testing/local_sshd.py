"""
A throw-away OpenSSH server on loopback, for tests.

`Sshd` starts the machine's own ``sshd`` as the current user, with keys, configuration and log in
one folder.  To simulate network faults, it can cut its connections or stop answering.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Set, Union

from ssh_service.testing import process_tree
from ssh_service.testing.local_server import LocalServer, require_posix

__all__ = ["Sshd", "find_sshd"]

_POLL_INTERVAL = 0.01
"""Seconds between two checks of a condition that must be polled."""

_TIMEOUT = 10.0
"""Seconds to wait for a server to start or stop before raising an error."""

_PROGRAM_VARIABLE = "SSH_SERVICE_SSHD"
"""The environment variable that names the program."""

_TOKEN_VARIABLE = "SSH_SERVICE_SSHD_SESSION"
"""The environment variable that marks a server's sessions, so that `Sshd.stop` finds them."""


def find_sshd() -> Optional[str]:
    """
    Return the path of the machine's ``sshd``; None if it or ``ssh-keygen`` is missing.

    The environment variable ``SSH_SERVICE_SSHD`` selects another ``sshd``, by an absolute path.

    Raises
    ------
    FileNotFoundError
        The variable is not the absolute path of a program.
    """
    if shutil.which("ssh-keygen") is None:
        return None
    chosen = os.environ.get(_PROGRAM_VARIABLE)
    if chosen:
        if not (os.path.isabs(chosen) and shutil.which(chosen)):
            raise FileNotFoundError(
                f"{_PROGRAM_VARIABLE}: expected the absolute path of an sshd, got {chosen!r}"
            )
        return chosen
    path = os.environ.get("PATH", os.defpath)
    return shutil.which("sshd", path=os.pathsep.join([path, "/usr/sbin", "/usr/local/sbin"]))


class _PortTaken(RuntimeError):
    pass


class Sshd(LocalServer):
    """
    A real ``sshd`` on 127.0.0.1; a context manager that stops it.

    The server runs as the current user, who is the only user who can log in, with `client_key`.
    Nothing outside `directory` is read or written, except ``/run/sshd``, which sshd requires when
    it runs as root.  The listener ends no later than this process, even if the process is killed.

    Parameters
    ----------
    directory : Union[str, Path]
        The folder for keys, configuration and log; it must exist.
    options : Optional[Mapping[str, Any]]
        Lines of ``sshd_config`` that replace or extend the default ones.  A list results in
        several lines with one name, None removes a line, and booleans become yes and no.
    sshd : Optional[str]
        The path of the program; None: the result of `find_sshd`.

    Attributes
    ----------
    host, port, username
        The address and the login name.
    client_key, known_hosts, authorized_keys, host_key, config_file, log_file
        Paths, as str.

    Raises
    ------
    FileNotFoundError
        There is no ``sshd`` on this machine.
    RuntimeError
        The server did not start; the message contains its log.

    Examples
    --------
    >>> with Sshd(tmp_path, options={"MaxSessions": 10}) as server:
    ...     subprocess.run(server.ssh_command("true"), check=True)
    """

    def __init__(
        self,
        directory: Union[str, "os.PathLike[str]"],
        options: Optional[Mapping[str, Any]] = None,
        *,
        sshd: Optional[str] = None,
    ) -> None:
        require_posix()
        program = sshd or find_sshd()
        if program is None:
            raise FileNotFoundError("needs OpenSSH's sshd (Debian: apt install openssh-server)")
        folder = Path(directory).resolve()
        self._program = program
        self._options = dict(options or {})
        self._process: Optional["subprocess.Popen[bytes]"] = None
        self._pid_file = folder / "sshd.pid"
        self._token = f"{os.getpid()}-{threading.get_ident():x}-{time.monotonic_ns():x}"
        self._mark = 0
        self._frozen: Set[int] = set()
        self.username = getpass.getuser()
        self.config_file = str(folder / "sshd_config")
        self.log_file = str(folder / "sshd.log")
        self.host_key = str(folder / "host_key")
        self.client_key = str(folder / "client_key")
        self.authorized_keys = str(folder / "authorized_keys")
        self.known_hosts = str(folder / "known_hosts")
        for key in (self.host_key, self.client_key):
            _generate_key(key)
        shutil.copyfile(self.client_key + ".pub", self.authorized_keys)
        Path(self.log_file).touch()
        while True:
            self.port = _free_port()
            try:
                self._start()
                break
            except _PortTaken:
                continue  # another process has taken the port: try another one
        host_key = " ".join(Path(self.host_key + ".pub").read_text().split()[:2])
        Path(self.known_hosts).write_text(f"[{self.host}]:{self.port} {host_key}\n")

    def __enter__(self) -> "Sshd":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = "running" if self.running else "stopped"
        return f"<Sshd {self.username}@{self.host}:{self.port} {state}>"

    def ssh_command(self, *command: str) -> List[str]:
        """Return the command line with which OpenSSH's client runs `command` on this server."""
        options = ("BatchMode=yes", "IdentitiesOnly=yes", f"UserKnownHostsFile={self.known_hosts}")
        argv = ["ssh", "-F", "none", "-i", self.client_key, "-p", str(self.port)]
        for option in options:
            argv += ["-o", option]
        return [*argv, f"{self.username}@{self.host}", *command]

    # -- observing --------------------------------------------------------------------------------

    def mark(self) -> None:
        """Make `log` and `logins` ignore everything up to this moment."""
        self._mark = os.path.getsize(self.log_file)

    def log(self) -> str:
        """Return the server's log since its creation, or since the last `mark`."""
        with open(self.log_file, "rb") as file:
            file.seek(self._mark)
            return file.read().decode("utf-8", "backslashreplace")

    def logins(self) -> int:
        """Return the number of successful logins since its creation, or since the last `mark`."""
        return len(re.findall(r"^Accepted \S+ for ", self.log(), re.MULTILINE))

    @property
    def running(self) -> bool:
        """Whether the listener exists, including a frozen one."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> Optional[int]:
        """The listener's process id; None if the server is stopped."""
        return self._process.pid if self._process is not None and self.running else None

    def session_pids(self) -> List[int]:
        """Return the sshd processes that serve connections, without the commands they run."""
        return [] if self.pid is None else process_tree.descendants(self.pid, name="sshd")

    # -- fault injection --------------------------------------------------------------------------

    def cut(self) -> None:
        """Kill the processes that serve connections, so that every client loses its connection."""
        with self._listener_stopped():
            victims = process_tree.kill_all(self.session_pids)
            self._frozen.difference_update(victims)
        _wait_for(
            lambda: not any(map(process_tree.is_alive, victims)), "killed sessions are still there"
        )

    def freeze(self, *, listener: bool = False) -> None:
        """
        Stop the processes that serve connections; their clients receive nothing, not even EOF.

        When this returns, all of these processes have stopped, including new ones.

        Parameters
        ----------
        listener : bool
            Whether to stop the listener as well: the kernel still accepts new connections, but
            they get no answer.
        """
        with self._listener_stopped(for_good=listener):
            self._frozen.update(process_tree.stop_all(self.session_pids))

    def thaw(self) -> None:
        """Continue the processes that `freeze` has stopped."""
        if self.pid is not None:
            # A session that was stopped in exec() may already have the name of its command.
            found = process_tree.descendants(self.pid)
            frozen = self._frozen.intersection(found).union(self.session_pids())
            self._frozen.clear()
            process_tree.send_signal([*frozen, self.pid], signal.SIGCONT)

    @contextlib.contextmanager
    def _listener_stopped(self, *, for_good: bool = False) -> Iterator[None]:
        """Stop the listener temporarily, so that it starts no session that the caller misses."""
        pid = self.pid
        if pid is None:
            yield
            return
        was_frozen = pid in self._frozen
        process_tree.stop_all(lambda: [pid])
        try:
            yield
        finally:
            if for_good or was_frozen:
                self._frozen.add(pid)
            else:
                process_tree.send_signal([pid], signal.SIGCONT)

    def stop(self) -> None:
        """Kill the listener, its sessions and everything that their commands left running."""
        process, self._process = self._process, None
        self._frozen.clear()
        if process is None:
            return
        process_tree.cancel_kill_on_exit(self._watch)
        if process.poll() is None:
            pid = process.pid
            process_tree.kill_all(lambda: [pid, *process_tree.descendants(pid)])
        process.wait(_TIMEOUT)
        left_running = process_tree.started_with(f"{_TOKEN_VARIABLE}={self._token}")
        process_tree.send_signal(left_running, signal.SIGKILL)

    def restart(self) -> None:
        """Stop the server if it is running, and start it again with the same port and keys."""
        self.stop()
        deadline = time.monotonic() + _TIMEOUT
        while True:
            try:
                return self._start()
            except _PortTaken:  # by an outgoing connection of another process, which will end
                if time.monotonic() > deadline:
                    raise
                time.sleep(_POLL_INTERVAL)

    def _start(self) -> None:
        if os.geteuid() == 0:
            os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
        Path(self.config_file).write_text("".join(self._config_lines()))
        if self._pid_file.exists():
            self._pid_file.unlink()
        log_start = os.path.getsize(self.log_file)
        # sshd logs to the file given by -E, but reports an invalid configuration on stderr.
        with open(self.log_file, "ab") as log:
            process = subprocess.Popen(
                [self._program, "-D", "-f", self.config_file, "-E", self.log_file],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            # sshd writes this file once it is listening.
            _wait_for(
                lambda: self._pid_file.exists() or process.poll() is not None,
                "sshd did not come up",
            )
            if process.poll() is not None:
                raise RuntimeError(f"sshd ended with status {process.returncode}")
        except BaseException as error:
            process.kill()
            process.wait(_TIMEOUT)
            with open(self.log_file, "rb") as file:
                file.seek(log_start)
                log_text = file.read().decode("utf-8", "backslashreplace").strip()
            if isinstance(error, RuntimeError):
                kind = _PortTaken if "Address already in use" in log_text else RuntimeError
                raise kind(f"{error}; its log:\n{log_text}") from None
            raise
        self._watch = process_tree.kill_on_exit(process.pid)
        self._process = process

    def _config_lines(self) -> Iterator[str]:
        lines: Dict[str, Any] = {
            "Port": self.port,
            "ListenAddress": self.host,
            "HostKey": self.host_key,
            "AuthorizedKeysFile": self.authorized_keys,
            "PidFile": self._pid_file,
            "LogLevel": "DEBUG1",
            "StrictModes": False,
            "UsePAM": False,
            "UseDNS": False,
            "PermitRootLogin": True,
            "PasswordAuthentication": False,
            "KbdInteractiveAuthentication": False,
            "PermitUserRC": False,
            "PrintMotd": False,
            "PrintLastLog": False,
            "MaxSessions": 100,
            "MaxStartups": 200,
            "Subsystem": "sftp internal-sftp",
            # With SHLVL set, bash does not read the user's ~/.bashrc.
            "SetEnv": f"{_TOKEN_VARIABLE}={self._token} SHLVL=1",
        }
        # OpenSSH 9.8 and later blocks addresses after failed logins; here, all clients share one
        # address.
        if _supports(self._program, "PerSourcePenalties=no", self.host_key):
            lines["PerSourcePenalties"] = False
        spelling = {name.lower(): name for name in lines}
        for name, value in self._options.items():
            lines[spelling.get(name.lower(), name)] = value
        for name, value in lines.items():
            for item in value if isinstance(value, (list, tuple)) else [value]:
                if item is not None:
                    text = {True: "yes", False: "no"}[item] if isinstance(item, bool) else item
                    yield f"{name} {text}\n"


def _generate_key(path: str) -> None:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "throw-away", "-f", path],
        check=True,
        stdin=subprocess.DEVNULL,
    )


def _supports(program: str, option: str, host_key: str) -> bool:
    """Return whether an sshd supports an option; the check needs a host key."""
    result = subprocess.run(
        [program, "-T", "-f", os.devnull, "-h", host_key, "-o", option],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=_TIMEOUT,
    )
    return result.returncode == 0


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind((Sshd.host, 0))
        return int(sock.getsockname()[1])


def _wait_for(condition: Callable[[], bool], message: str) -> None:
    deadline = time.monotonic() + _TIMEOUT
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{message} within {_TIMEOUT:g} s")
        time.sleep(_POLL_INTERVAL)
