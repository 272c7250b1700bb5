"""The client's side of a test: connections, and what runs over them."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Any, Dict, Iterator, List, Optional, Tuple

from ssh_service.connect import dial
from ssh_service.connections.cache import SshClientCache
from ssh_service.errors import SshServiceError
from ssh_service.params import resolve
from ssh_service.testing.pytest_plugin import FaultProxy, Sshd
from ssh_service.transport import ChannelSink, SshChannel, SshTransport
from tests.common import PATIENCE


@contextlib.contextmanager
def connected(port: int, **options: Any) -> Iterator[SshTransport]:
    """Connect to a server on loopback that lets everyone in."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    options.setdefault("keepalive_interval", None)
    transport = SshTransport(sock, connection_id=f"tester@evil:{port}", **options)
    try:
        transport.handshake(time.monotonic() + PATIENCE)
        transport.auth_none("tester")
        yield transport
    finally:
        transport.close()


def params_for(sshd: Sshd, proxy: Optional[FaultProxy] = None, **more: Any) -> Dict[str, Any]:
    """Return what it takes to connect to a server, through a proxy if there is one."""
    params = sshd.connect_params
    if proxy is not None:
        params.update(port=proxy.port, host_key_alias=f"[{sshd.host}]:{sshd.port}")
    params.update(more)
    return params


@contextlib.contextmanager
def dialled(sshd: Sshd, proxy: Optional[FaultProxy] = None, **more: Any) -> Iterator[SshTransport]:
    """Connect to a real server and log in."""
    transport = dial(resolve(params_for(sshd, proxy, **more)), time.monotonic() + PATIENCE)
    try:
        yield transport
    finally:
        transport.close()


@contextlib.contextmanager
def entered() -> Iterator[SshClientCache]:
    """Enter a cache, and exit it."""
    cache = SshClientCache()
    cache.enter()
    try:
        yield cache
    finally:
        cache.exit()


def execute(
    transport: SshTransport, command: str, stdin: bytes = b"", timeout: float = PATIENCE
) -> Tuple[int, bytes]:
    """Run a command the way paramiko's users do; return its status and output."""
    channel = transport.open_session(timeout=timeout)
    try:
        channel.settimeout(timeout)
        channel.exec_command(command)
        if stdin:
            channel.sendall(stdin)
        channel.shutdown_write()
        return drain(channel)
    finally:
        channel.close()


def drain(channel: SshChannel) -> Tuple[int, bytes]:
    """Read all that comes, and the exit status."""
    chunks: List[bytes] = []
    while True:
        chunk = channel.recv(65536)
        if not chunk:
            return channel.recv_exit_status(PATIENCE), b"".join(chunks)
        chunks.append(chunk)


class Collector(ChannelSink):
    """Keeps all that comes over a channel, and runs a command on it if given one."""

    def __init__(self, command: Optional[bytes] = None) -> None:
        self.command = command
        self.channel: Optional[SshChannel] = None
        self.out = bytearray()
        self.err = bytearray()
        self.statuses: List[int] = []
        self.signals: List[Tuple[str, bool, str]] = []
        self.saw_eof = False
        self.answers: List[bool] = []
        self.error: Optional[SshServiceError] = None
        self.ends = 0
        self.is_open = threading.Event()
        self.started = threading.Event()
        self.ended = threading.Event()

    def on_open(self, channel: SshChannel) -> None:
        self.channel = channel
        if self.command is not None:
            channel.request_exec(self.command)
        self.is_open.set()

    def on_reply(self, ok: bool) -> None:
        self.answers.append(ok)
        self.started.set()

    def on_data(self, chunk: bytes) -> None:
        self.out += chunk

    def on_stderr(self, chunk: bytes) -> None:
        self.err += chunk

    def on_eof(self) -> None:
        self.saw_eof = True

    def on_exit_status(self, status: int) -> None:
        self.statuses.append(status)

    def on_exit_signal(self, name: str, core_dumped: bool, text: str) -> None:
        self.signals.append((name, core_dumped, text))

    def on_close(self, error: Optional[SshServiceError]) -> None:
        self.error = error
        self.ends += 1
        self.ended.set()
