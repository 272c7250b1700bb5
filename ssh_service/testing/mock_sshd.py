"""
An SSH server inside the process, for tests and the demonstration: mock-ssh-server, repaired.

The server needs no program except ``/bin/sh``.  mock-ssh-server provides the host key,
authentication and the SFTP server (which supports neither times nor ``posix-rename@openssh.com``).
Connections and commands are served here, because the original keeps a core busy while a command
runs, never passes on the end of stdin, can lose a command between two threads, and leaves
connections and threads behind.

Safety: the server runs the commands that it receives on this machine, as the current user, and
connects to where forwards lead.  Each command is a process group of its own, which a client may
signal, and which is killed when its connection ends.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Set, Tuple, Union

import paramiko

from ssh_service.testing.local_server import LocalServer, require_posix
from ssh_service.testing.mock_streams import (
    carry,
    closed_after,
    copy_output,
    copy_stdin,
    hang_up,
)

try:
    import mockssh
    import mockssh.server
    import mockssh.sftp
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"No module named {error.name!r}; install it with: pip install mock-ssh-server"
        " (in a checkout: pip install '.[testing]')",
        name=error.name,
    ) from error

__all__ = ["MockSshd"]

_TIMEOUT = 10.0
"""Seconds to wait for a thread to end before raising an error."""

_CONNECT_TIMEOUT = 5.0
"""Seconds to connect to where a forward leads."""

_REPLY_DELAY = 0.05
"""Seconds to wait until the reply to a request was sent, if no client data proves it earlier."""

_POLL_INTERVAL = 0.1
"""Seconds before a closed connection is noticed and its commands are killed."""


class MockSshd(LocalServer):
    """
    An SSH server on 127.0.0.1 in this process; a context manager that closes it.

    Parameters
    ----------
    username : str
        The login name of the only user, who logs in with `client_key`.
    directory : Union[str, Path, None]
        The folder for the server's files; None: a temporary folder.
    env : Mapping[str, str]
        Variables that commands get in addition to those of this process, such as ``HOME`` and
        ``XDG_STATE_HOME``, where jobs have their folders.

    Attributes
    ----------
    host, port, username
        The address and the login name.
    client_key, known_hosts
        Paths, as str.
    accepted : int
        The number of connections accepted so far.

    Notes
    -----
    *Thread safety*: every method may be called from any thread.
    *Guarantees*: after `close`, no thread, socket, temporary file or running command remains.

    Examples
    --------
    >>> with MockSshd() as server:
    ...     with cache.lease(server.connect_params) as (transport, client):
    ...         ...
    """

    def __init__(
        self,
        username: str = "mock",
        directory: Union[str, "os.PathLike[str]", None] = None,
        *,
        env: Optional[Mapping[str, str]] = None,
    ) -> None:
        require_posix()
        self._env = dict(env or {})
        self._temporary: Optional[tempfile.TemporaryDirectory[str]] = None
        if directory is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="mock-sshd-")
            directory = self._temporary.name
        self.username = username
        self.accepted = 0
        self.client_key = os.path.join(directory, "client_key")
        self.known_hosts = os.path.join(directory, "known_hosts")
        key = paramiko.ECDSAKey.generate(bits=256)
        key.write_private_key_file(self.client_key)
        self._mock = mockssh.Server({})
        self._mock.add_user(username, self.client_key, keytype=key.get_name())
        self._lock = threading.Lock()
        self._connections: List[_Connection] = []  # guarded by _lock
        self._stopping = False
        self._accepting = threading.Event()  # if not set, only the kernel accepts connections
        self._thread: Optional[threading.Thread] = None
        self.port = 0
        self._start()
        host_key = paramiko.RSAKey(filename=mockssh.server.SERVER_KEY_PATH)
        line = f"[{self.host}]:{self.port} {host_key.get_name()} {host_key.get_base64()}\n"
        Path(self.known_hosts).write_text(line)

    def __enter__(self) -> "MockSshd":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<MockSshd {self.username}@{self.host}:{self.port}>"

    @property
    def connections(self) -> int:
        """The number of open connections."""
        with self._lock:
            return sum(connection.transport.is_active() for connection in self._connections)

    @property
    def running(self) -> bool:
        """Whether the listener exists, including a frozen one."""
        return self._thread is not None

    # -- fault injection --------------------------------------------------------------------------

    def cut(self) -> None:
        """Close every connection without a disconnect message, and kill its commands."""
        with self._lock:
            ended, self._connections = self._connections, []
        for connection in ended:
            connection.end()

    def freeze(self, *, listener: bool = False) -> None:
        """
        Stop answering: clients receive nothing, not even EOF, while their commands continue.

        Parameters
        ----------
        listener : bool
            Whether new connections get no answer either.
        """
        if listener:
            self._accepting.clear()
        with self._lock:
            frozen = list(self._connections)
        for connection in frozen:
            connection.thawed.clear()

    def thaw(self) -> None:
        """Resume the connections that `freeze` has stopped."""
        self._accepting.set()
        with self._lock:
            thawed = list(self._connections)
        for connection in thawed:
            connection.thawed.set()

    def stop(self) -> None:
        """Close the listener and its connections, and kill their commands; may be repeated."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._stopping = True
            self._accepting.set()
            with contextlib.suppress(OSError):  # interrupts accept(), unless it has ended
                socket.create_connection((self.host, self.port), _TIMEOUT).close()
            thread.join(_TIMEOUT)
        self.cut()

    def restart(self) -> None:
        """Stop the server if it is running, and start it again with the same port and keys."""
        self.stop()
        self._start()

    def close(self) -> None:
        """Stop the server, and remove its files; may be repeated."""
        self.stop()
        if self._temporary is not None:
            self._temporary.cleanup()

    def _start(self) -> None:
        listener = socket.create_server((self.host, self.port), backlog=128)
        listener.settimeout(_POLL_INTERVAL)
        self.port = listener.getsockname()[1]
        self._stopping = False
        self._accepting.set()
        self._thread = threading.Thread(
            target=self._run, args=(listener,), name=f"mock-sshd-{self.port}", daemon=True
        )
        self._thread.start()

    def _run(self, listener: socket.socket) -> None:
        with listener:
            while not self._stopping:
                self._accepting.wait()
                try:
                    client = listener.accept()
                except socket.timeout:
                    pass
                else:
                    self._add_connection(client)
                self._end_inactive()

    def _add_connection(self, client: Tuple[socket.socket, Any]) -> None:
        if self._stopping:
            client[0].close()
            return
        self.accepted += 1
        connection = _Connection(self._mock, client, self._env)
        with self._lock:
            self._connections.append(connection)
            if not self._accepting.is_set():  # frozen while it was being accepted
                connection.thawed.clear()
        connection.start()

    def _end_inactive(self) -> None:
        with self._lock:
            inactive = [each for each in self._connections if not each.transport.is_active()]
            self._connections = [each for each in self._connections if each not in inactive]
        for connection in inactive:
            connection.end()


class _Socket:
    """A socket that neither receives nor sends while it is frozen."""

    def __init__(self, sock: socket.socket, thawed: threading.Event) -> None:
        self._sock, self._thawed = sock, thawed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def recv(self, size: int) -> bytes:
        data = self._sock.recv(size)
        self._thawed.wait()  # after recv(), because it may have been frozen in the meantime
        return data

    def send(self, data: bytes) -> int:
        self._thawed.wait()
        return self._sock.send(data)


class _Connection(mockssh.server.Handler):  # type: ignore[misc]
    """One connection: its transport, its commands, and the threads that serve them."""

    def __init__(self, server: mockssh.Server, client: Any, env: Mapping[str, str]) -> None:
        self.thawed = threading.Event()
        self.thawed.set()
        sock, address = client
        super().__init__(server, (_Socket(sock, self.thawed), address))
        addresses = (*address[:2], *sock.getsockname()[:2])
        self._env = {"SSH_CONNECTION": " ".join(map(str, addresses)), **env}
        self.transport.set_subsystem_handler("sftp", _SftpServer)
        self._lock = threading.Lock()
        self._threads: List[threading.Thread] = []  # guarded by _lock
        self._processes: Set[subprocess.Popen[bytes]] = set()  # guarded by _lock
        self._sessions: List[paramiko.Channel] = []  # guarded by _lock
        self._targets: Set[socket.socket] = set()  # guarded by _lock
        # Of forwards, by channel id: the channels, once paramiko has queued them.
        self._streams: Dict[int, Optional[paramiko.Channel]] = {}  # guarded by _lock
        self._ended = False  # guarded by _lock

    def start(self) -> None:
        # With an event, paramiko neither waits for the handshake nor raises if it fails.
        self.transport.start_server(event=threading.Event(), server=self)

    def end(self) -> None:
        """Close the connection, kill its commands, and join its threads."""
        with self._lock:
            self._ended = True
            processes, threads = list(self._processes), list(self._threads)
            targets = list(self._targets)
        with contextlib.suppress(OSError):  # already closed
            self.transport.sock.shutdown(socket.SHUT_RDWR)
        self.thawed.set()  # after the shutdown, so that no held-back data is sent
        self.transport.close()
        for process in processes:
            _kill_group(process)
        for target in targets:
            hang_up(target)
        deadline = time.monotonic() + _TIMEOUT
        for thread in [self.transport, *threads]:
            if thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                raise RuntimeError(f"{thread.name} did not end within {_TIMEOUT:g} s")

    def add_thread(self, thread: threading.Thread) -> None:
        """Register a thread that ends with the connection."""
        with self._lock:
            self._threads = [t for t in self._threads if t.is_alive() or t.ident is None]
            self._threads.append(thread)

    # paramiko calls this on the transport's thread and sends the reply afterwards.
    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        self._spawn(self._serve, channel, command)
        return True

    def check_channel_direct_tcpip_request(
        self, chanid: int, origin: Any, destination: Tuple[str, int]
    ) -> int:
        """Connect to where a forward leads."""
        try:
            target = socket.create_connection(destination, _CONNECT_TIMEOUT)
        except OSError:
            return int(paramiko.OPEN_FAILED_CONNECT_FAILED)
        target.settimeout(None)
        with self._lock:
            self._targets.add(target)
            self._streams[chanid] = None
            ended = self._ended
        if ended:
            hang_up(target)
        self._spawn(self._carry, chanid, target)
        return int(paramiko.OPEN_SUCCEEDED)

    def _spawn(self, target: Callable[..., None], *args: Any) -> threading.Thread:
        name = f"{target.__name__.strip('_')}-{self.transport.name}"
        thread = threading.Thread(target=target, args=args, name=name, daemon=True)
        self.add_thread(thread)
        thread.start()
        return thread

    def _serve(self, channel: paramiko.Channel, command: bytes) -> None:
        """Run one command until it ends."""
        pipe = subprocess.PIPE
        with closed_after(channel), subprocess.Popen(
            command,
            shell=True,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            env={**os.environ, **self._env},
            start_new_session=True,
        ) as process:
            with self._lock:
                self._processes.add(process)
                ended = self._ended
            if ended:
                _kill_group(process)
            assert process.stdin and process.stdout and process.stderr
            replied = threading.Event()
            self._spawn(copy_stdin, channel, process.stdin, replied)
            replied.wait(_REPLY_DELAY)
            stderr = self._spawn(copy_output, process.stderr, channel.sendall_stderr)
            copy_output(process.stdout, channel.sendall)
            stderr.join()
            status = process.wait()
            with self._lock:
                self._processes.discard(process)
            with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
                channel.shutdown_write()
                channel.send_exit_status(status if status >= 0 else 128 - status)
        while self._keep_channel(0):
            pass

    def _carry(self, chanid: int, target: socket.socket) -> None:
        """Carry the bytes of one stream of a forward, until both ends have ended."""
        with target:
            channel = self._stream(chanid)
            if channel is not None:
                carry(channel, target, self._spawn)
        with self._lock:
            self._targets.discard(target)

    def _stream(self, chanid: int) -> Optional[paramiko.Channel]:
        """Wait for a forward's channel, which paramiko queues once it has confirmed it."""
        while True:
            with self._lock:
                channel = self._streams[chanid]
                if channel is not None or not self.transport.is_active():
                    return self._streams.pop(chanid)
            self._keep_channel(_POLL_INTERVAL)

    def _keep_channel(self, timeout: float) -> bool:
        """Accept a channel that paramiko has queued, if there is one, and drop closed sessions."""
        channel = self.transport.accept(timeout)
        with self._lock:
            if channel is not None:
                if channel.get_id() in self._streams:
                    self._streams[channel.get_id()] = channel
                else:
                    self._sessions.append(channel)
            self._sessions = [session for session in self._sessions if not session.closed]
        return channel is not None


class _SftpServer(mockssh.sftp.SFTPServer):  # type: ignore[misc]
    """mock-ssh-server's SFTP server, in a thread that ends with its connection."""

    def __init__(self, channel: paramiko.Channel, name: str, server: _Connection) -> None:
        super().__init__(channel, name, server)
        self.name = f"sftp-{server.transport.name}"
        self.daemon = True
        server.add_thread(self)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
