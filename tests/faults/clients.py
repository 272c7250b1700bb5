"""The client's side of a test: connections, commands, and what is left when they have ended."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple, Union

from ssh_service.connect import dial
from ssh_service.errors import SshServiceError
from ssh_service.params import resolve
from ssh_service.pytest_plugin import FaultProxy, Sshd
from ssh_service.transport import ChannelSink, SshChannel, SshTransport

PATIENCE = 20.0
"""Seconds after which a test gives up what must come."""


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
    chunks = []
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

    def opened(self, channel: SshChannel) -> None:
        self.channel = channel
        if self.command is not None:
            channel.request_exec(self.command)
        self.is_open.set()

    def replied(self, ok: bool) -> None:
        self.answers.append(ok)
        self.started.set()

    def data(self, chunk: bytes) -> None:
        self.out += chunk

    def stderr(self, chunk: bytes) -> None:
        self.err += chunk

    def eof(self) -> None:
        self.saw_eof = True

    def exit_status(self, status: int) -> None:
        self.statuses.append(status)

    def exit_signal(self, name: str, core_dumped: bool, text: str) -> None:
        self.signals.append((name, core_dumped, text))

    def closed(self, error: Optional[SshServiceError]) -> None:
        self.error = error
        self.ends += 1
        self.ended.set()


class Outcome:
    """A call on a thread of its own: what it returned or raised, and how long it took."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.value: Any = None
        self.error: Optional[BaseException] = None
        self._call = call
        self._ended_at = 0.0
        self._thread = threading.Thread(target=self._run, name="outcome", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.value = self._call()
        except BaseException as error:
            self.error = error
        self._ended_at = time.monotonic()

    def is_over(self) -> bool:
        return not self._thread.is_alive()

    def wait(self, timeout: float = PATIENCE) -> "Outcome":
        """Wait for its end, which must come."""
        self._thread.join(timeout)
        assert self.is_over(), f"still blocked after {timeout:g} s"
        return self

    def after(self, instant: float) -> float:
        """Say how many seconds after an instant it ended."""
        return self._ended_at - instant


def in_threads(count: int, work: Callable[[int], None], timeout: float = 120.0) -> None:
    """Do the same in many threads, and raise what the first of them raised."""
    outcomes = [Outcome(lambda number=number: work(number)) for number in range(count)]
    for outcome in outcomes:
        outcome.wait(timeout)
    for outcome in outcomes:
        if outcome.error is not None:
            raise outcome.error


def within(bound: float, began: float) -> None:
    """Assert that no more time has passed than twice a promised bound and a second."""
    took = time.monotonic() - began
    assert took <= 2 * bound + 1, f"{took:.2f} s where {bound:g} s were promised"


def eventually(condition: Callable[[], Any], what: str, timeout: float = PATIENCE) -> None:
    """Wait for something that has no event."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {timeout:g} s"
        time.sleep(0.01)


def resident() -> int:
    """Return the bytes of memory this process holds."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def descriptors() -> int:
    """Return how many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))


def run_python(
    code: str, *args: Union[str, int], timeout: float = 60.0
) -> "subprocess.CompletedProcess[str]":
    """Run a program in an interpreter of its own, with this folder's parent importable."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    path = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *map(str, args)],
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        timeout=timeout,
    )
