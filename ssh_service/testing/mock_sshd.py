"""
An SSH server inside the process, for tests and for the demonstration: mock-ssh-server, repaired.

It needs no program of the machine but ``/bin/sh``.  From mock-ssh-server come the host key, the
authentication and the SFTP server (which knows neither times nor ``posix-rename@openssh.com``);
connections and commands are served here, because the original keeps a core busy while a command
runs, never passes the end of stdin on, can lose a command between two threads, and leaves
connections and threads behind.

Safety: it runs the commands it is sent, here, as the current user.  Each is a process group of its
own, so that a client may signal it, and is killed when its connection ends.
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
from typing import IO, Any, Callable, Iterator, List, Optional, Set, Tuple, Union

import paramiko

from ssh_service.testing.local_server import LocalServer

try:
    import mockssh
    import mockssh.server
    import mockssh.sftp
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "needs mock-ssh-server (pip install mock-ssh-server)", name=error.name
    ) from error

__all__ = ["MockSshd"]

_CHUNK = 32 * 1024

_TIMEOUT = 10.0
"""Seconds after which a thread that does not end is an error."""

_REPLY_DELAY = 0.05
"""Seconds for the reply to a request to go out, where the client sends nothing that proves it."""

_POLL_INTERVAL = 0.1
"""Seconds until the end of a connection is noticed and its commands are killed."""


class MockSshd(LocalServer):
    """
    An SSH server on 127.0.0.1 in this process; a context manager that closes it.

    Parameters
    ----------
    username : str
        The one user, who logs in by `client_key`.
    directory : Union[str, Path, None]
        Where the files go; a temporary folder of its own when missing.

    Attributes
    ----------
    host, port, username
        Where to connect, as whom.
    client_key, known_hosts
        Paths, as str.
    accepted : int
        How many connections there were in all.

    Notes
    -----
    *Thread safety*: every method may be called from any thread.
    *Guarantees*: after `close`, no thread, socket, temporary file or unfinished command of it is
    left.

    Examples
    --------
    >>> with MockSshd() as server:     # doctest: +SKIP
    ...     with cache.lease(server.connect_params) as (transport, client):
    ...         ...
    """

    def __init__(
        self,
        username: str = "mock",
        directory: Union[str, "os.PathLike[str]", None] = None,
    ) -> None:
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
        self._accepting = (
            threading.Event()
        )  # not set: what connects is accepted by the system alone
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
        """How many connections there are now."""
        with self._lock:
            return sum(connection.transport.is_active() for connection in self._connections)

    @property
    def running(self) -> bool:
        """Whether the listener is there (a frozen one is)."""
        return self._thread is not None

    # -- what happens to it ---------------------------------------------------------------------

    def cut(self) -> None:
        """End every connection without a word, and the commands that run over them."""
        with self._lock:
            ended, self._connections = self._connections, []
        for connection in ended:
            connection.end()

    def freeze(self, *, listener: bool = False) -> None:
        """
        Fall silent: clients hear nothing, not even an end; what their commands do goes on.

        Parameters
        ----------
        listener : bool
            Whether new connections stay mute, too.
        """
        if listener:
            self._accepting.clear()
        with self._lock:
            frozen = list(self._connections)
        for connection in frozen:
            connection.thawed.clear()

    def thaw(self) -> None:
        """Let what `freeze` stopped go on."""
        self._accepting.set()
        with self._lock:
            thawed = list(self._connections)
        for connection in thawed:
            connection.thawed.set()

    def stop(self) -> None:
        """End the listener, its connections and their commands; harmless when done before."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._stopping = True
            self._accepting.set()
            with contextlib.suppress(OSError):  # it wakes from its accept(), or has
                socket.create_connection((self.host, self.port), _TIMEOUT).close()
            thread.join(_TIMEOUT)
        self.cut()

    def restart(self) -> None:
        """Stop it if it runs, and start it again on the same port with the same keys."""
        self.stop()
        self._start()

    def close(self) -> None:
        """Stop it for good, and remove its files; harmless when done before."""
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
        connection = _Connection(self._mock, client)
        with self._lock:
            self._connections.append(connection)
            if not self._accepting.is_set():  # frozen while it came in
                connection.thawed.clear()
        connection.start()

    def _end_inactive(self) -> None:
        with self._lock:
            inactive = [each for each in self._connections if not each.transport.is_active()]
            self._connections = [each for each in self._connections if each not in inactive]
        for connection in inactive:
            connection.end()


class _Socket:
    """A socket that neither tells nor says anything while it is frozen."""

    def __init__(self, sock: socket.socket, thawed: threading.Event) -> None:
        self._sock, self._thawed = sock, thawed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def recv(self, size: int) -> bytes:
        data = self._sock.recv(size)
        self._thawed.wait()  # after it, as it may have been frozen meanwhile
        return data

    def send(self, data: bytes) -> int:
        self._thawed.wait()
        return self._sock.send(data)


class _Connection(mockssh.server.Handler):  # type: ignore[misc]
    """One connection: its transport, the commands it runs and the threads that serve them."""

    def __init__(self, server: mockssh.Server, client: Any) -> None:
        self.thawed = threading.Event()
        self.thawed.set()
        sock, address = client
        super().__init__(server, (_Socket(sock, self.thawed), address))
        self.transport.set_subsystem_handler("sftp", _SftpServer)
        self._lock = threading.Lock()
        self._threads: List[threading.Thread] = []  # guarded by _lock
        self._processes: Set[subprocess.Popen[bytes]] = set()  # guarded by _lock
        self._sessions: List[paramiko.Channel] = []  # guarded by _lock
        self._ended = False  # guarded by _lock

    def start(self) -> None:
        # Given an event, paramiko neither waits for the handshake nor raises when it fails.
        self.transport.start_server(event=threading.Event(), server=self)

    def end(self) -> None:
        """Close the connection, kill its commands, and see its threads off."""
        with self._lock:
            self._ended = True
            processes, threads = list(self._processes), list(self._threads)
        with contextlib.suppress(OSError):  # it is gone already
            self.transport.sock.shutdown(socket.SHUT_RDWR)
        self.thawed.set()  # after it, so that nothing held up gets out
        self.transport.close()
        for process in processes:
            _kill_group(process)
        deadline = time.monotonic() + _TIMEOUT
        for thread in [self.transport, *threads]:
            if thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                raise RuntimeError(f"{thread.name} did not end within {_TIMEOUT:g} s")

    def add_thread(self, thread: threading.Thread) -> None:
        """Count a thread among those that end with the connection."""
        with self._lock:
            self._threads = [t for t in self._threads if t.is_alive() or t.ident is None]
            self._threads.append(thread)

    # paramiko calls this on the transport's thread and sends the reply afterwards.
    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        self._spawn(self._serve, channel, command)
        return True

    def _spawn(self, target: Callable[..., None], *args: Any) -> threading.Thread:
        name = f"{target.__name__.strip('_')}-{self.transport.name}"
        thread = threading.Thread(target=target, args=args, name=name, daemon=True)
        self.add_thread(thread)
        thread.start()
        return thread

    def _serve(self, channel: paramiko.Channel, command: bytes) -> None:
        """Run one command to its end."""
        pipe = subprocess.PIPE
        with _closed_after(channel), subprocess.Popen(
            command, shell=True, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True
        ) as process:
            with self._lock:
                self._processes.add(process)
                ended = self._ended
            if ended:
                _kill_group(process)
            assert process.stdin and process.stdout and process.stderr
            replied = threading.Event()
            self._spawn(_copy_stdin, channel, process.stdin, replied)
            replied.wait(_REPLY_DELAY)
            stderr = self._spawn(_copy_output, process.stderr, channel.sendall_stderr)
            _copy_output(process.stdout, channel.sendall)
            stderr.join()
            status = process.wait()
            with self._lock:
                self._processes.discard(process)
            with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
                channel.shutdown_write()
                channel.send_exit_status(status if status >= 0 else 128 - status)
        self._keep_sessions()

    def _keep_sessions(self) -> None:
        """Take the channels that paramiko holds for us to accept, and let the closed ones go."""
        with self._lock:
            while True:
                channel = self.transport.accept(timeout=0)
                if channel is None:
                    break
                self._sessions.append(channel)
            self._sessions = [session for session in self._sessions if not session.closed]


class _SftpServer(mockssh.sftp.SFTPServer):  # type: ignore[misc]
    """mock-ssh-server's SFTP server, as a thread that ends with its connection."""

    def __init__(self, channel: paramiko.Channel, name: str, server: _Connection) -> None:
        super().__init__(channel, name, server)
        self.name = f"sftp-{server.transport.name}"
        self.daemon = True
        server.add_thread(self)


@contextlib.contextmanager
def _closed_after(channel: paramiko.Channel) -> Iterator[None]:
    """Close a channel at the end, in whatever state its connection is."""
    try:
        yield
    finally:
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            channel.close()


def _copy_stdin(channel: paramiko.Channel, stdin: IO[bytes], replied: threading.Event) -> None:
    """Give a command what the client sends, and then the end of it."""
    with contextlib.suppress(OSError, ValueError):  # it ended, and its pipe with it
        with stdin:
            while True:
                data = channel.recv(_CHUNK)
                # This came after the request, on the thread that replied to it: the reply is out.
                replied.set()
                if not data:
                    break
                stdin.write(data)
                stdin.flush()


def _copy_output(stream: IO[bytes], send: Callable[[bytes], None]) -> None:
    """Send what a command writes; when nobody takes it any more, close the pipe."""
    with contextlib.suppress(OSError, EOFError, paramiko.SSHException), stream:
        while True:
            data = os.read(stream.fileno(), _CHUNK)
            if not data:
                break
            send(data)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
