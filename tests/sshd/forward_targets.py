"""Targets for the tests of forwards, and checks of what is left behind."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Any, Callable, Iterator, List, Optional, Type, Union

from ssh_service import SshClientCache, events
from ssh_service.testing.pytest_plugin import Sshd
from tests.common import PATIENCE, eventually

Address = Any


def echo(client: socket.socket) -> None:
    """Send back what comes, until the client's end of it, and then end."""
    while True:
        data = client.recv(65536)
        if not data:
            return
        client.sendall(data)


def answer_after_eof(client: socket.socket) -> None:
    """Answer once the client has sent all."""
    size = 0
    while True:
        data = client.recv(65536)
        if not data:
            break
        size += len(data)
    client.sendall(f"{size} bytes".encode())


class Target:
    """
    A server on loopback or on a Unix socket, with a thread for each client.

    Attributes
    ----------
    port : int
        Where it listens.
    clients : List[socket.socket]
        Connections so far.
    ended : List[str]
        For each client whose handler has returned: ``eof``, or the error's name.
    """

    def __init__(
        self, handle: Callable[[socket.socket], None], path: Optional[str] = None
    ) -> None:
        if path is None:
            self._listener = socket.create_server(("127.0.0.1", 0), backlog=1000)
            self.port = self._listener.getsockname()[1]
        else:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(path)
            self._listener.listen(1000)
        self._handle = handle
        self._threads: List[threading.Thread] = []
        self.clients: List[socket.socket] = []
        self.ended: List[str] = []
        self._thread = threading.Thread(target=self._accept, name="target", daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client = self._listener.accept()[0]
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(client,), daemon=True)
            self.clients.append(client)
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        how = "eof"
        with client:
            try:
                self._handle(client)
            except OSError as error:
                how = type(error).__name__
        self.ended.append(how)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(PATIENCE)
        for client in self.clients:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE)


@contextlib.contextmanager
def target(
    handle: Callable[[socket.socket], None] = echo, path: Optional[str] = None
) -> Iterator[Target]:
    """Serve clients."""
    server = Target(handle, path)
    try:
        yield server
    finally:
        server.close()


def connect(to: Union[int, None, str, Address]) -> socket.socket:
    """Connect to a port of loopback, or to a Unix socket."""
    if isinstance(to, str):
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(PATIENCE)
        client.connect(to)
        return client
    assert isinstance(to, int)
    client = socket.create_connection(("127.0.0.1", to), PATIENCE)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def ask(to: Union[int, None, str], text: bytes = b"hello") -> bytes:
    """Send a text, end the sending, and return the whole answer."""
    with connect(to) as client:
        client.sendall(text)
        client.shutdown(socket.SHUT_WR)
        return read_all(client)


def read_all(client: socket.socket) -> bytes:
    """Read to the end, which must be one."""
    return b"".join(iter(lambda: client.recv(65536), b""))


class Seen:
    """The events of a cache."""

    def __init__(self, cache: SshClientCache) -> None:
        self.all: List[events.Event] = []
        cache.subscribe(self.all.append)

    def of(self, kind: Type[events.Event]) -> List[Any]:
        """Return those of a class, so far."""
        return [event for event in self.all if isinstance(event, kind)]

    def wait_for(self, kind: Type[events.Event], count: int = 1) -> Any:
        """Wait for so many of a class, and return the last."""
        eventually(lambda: len(self.of(kind)) >= count, f"{count} times {kind.__name__}")
        return self.of(kind)[-1]


def channels(cache: SshClientCache, sshd: Sshd) -> int:
    """Return how many channels the connection to a server has; it must be there."""
    with cache.lease(sshd.connect_params) as (transport, _):
        return len(transport._channels)
