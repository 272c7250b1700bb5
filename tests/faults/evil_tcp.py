"""Servers on loopback that accept a connection and then are no SSH server, each in its way."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import threading
from typing import Callable, Dict, Iterator, List

BANNER = b"SSH-2.0-evil_tcp\r\n"
_LIMIT = 60.0
"""Seconds after which a server lets go of a connection, whatever happens."""


class Visit:
    """One connection to an `EvilTcp`, as its behaviour sees it."""

    def __init__(self, sock: socket.socket, over: threading.Event) -> None:
        self.sock = sock
        self.over = over

    def linger(self, seconds: float = _LIMIT) -> bool:
        """Wait; tell whether to go on after it."""
        return not self.over.wait(seconds)

    def repeat(self, data: bytes, pause: float = 0.0) -> None:
        """Send the same again and again, until the peer or the test ends it."""
        while self.linger(pause):
            self.sock.sendall(data)


def mute(visit: Visit) -> None:
    """Say nothing."""
    visit.linger()


def close_at_once(visit: Visit) -> None:
    """Leave."""


def reset_at_once(visit: Visit) -> None:
    """Leave by a reset."""
    visit.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def garbage(visit: Visit) -> None:
    """Send bytes that are no text."""
    visit.sock.sendall(bytes(range(128, 256)) * 64)
    visit.linger()


def http(visit: Visit) -> None:
    """Be a web server."""
    visit.sock.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")


def ssh_1_5(visit: Visit) -> None:
    """Speak a version of the protocol that nobody speaks any more."""
    visit.sock.sendall(b"SSH-1.5-evil_tcp\r\n")
    visit.linger()


def drip(visit: Visit) -> None:
    """Send a byte now and then, so that a time-out that restarts with each never comes."""
    visit.repeat(b"x", pause=0.05)


def hundred_lines(visit: Visit) -> None:
    """Send line after line before the identification."""
    visit.repeat(b"a line of text\r\n", pause=0.02)


def endless_line(visit: Visit) -> None:
    """Send a line that does not end."""
    visit.repeat(b"x" * 65536)


def silent_after_banner(visit: Visit) -> None:
    """Identify itself, and say nothing more."""
    visit.sock.sendall(BANNER)
    visit.linger()


def half_kexinit(visit: Visit) -> None:
    """Stop in the middle of the first packet."""
    visit.sock.sendall(BANNER + struct.pack(">IB", 1020, 10) + b"\x14" + b"\0" * 500)
    visit.linger()


def ignore_flood(visit: Visit) -> None:
    """Send IGNORE without end instead of a key exchange."""
    visit.sock.sendall(BANNER)
    visit.repeat(packet(b"\x02" + b"\0\0\0\x04spam"))


def huge_packet(visit: Visit) -> None:
    """Announce a packet of 4 GiB, and send and send."""
    visit.sock.sendall(BANNER + b"\xff\xff\xff\xfc\x04\x14")
    visit.repeat(b"\0" * 65536)


def throttling(visit: Visit) -> None:
    """Drop the connection as sshd does that has too many."""
    visit.sock.sendall(b"Exceeded MaxStartups\r\n")


def packet(payload: bytes) -> bytes:
    """Frame a payload as it is before the first key exchange."""
    padding = 8 - (len(payload) + 5) % 8 + 8
    return struct.pack(">IB", len(payload) + padding + 1, padding) + payload + b"\0" * padding


class EvilTcp:
    """
    Listen on 127.0.0.1 and let `behaviour` deal with each connection; a context manager.

    Attributes
    ----------
    host, port
        Where.
    accepted : int
        How many connections there were.
    """

    host = "127.0.0.1"

    def __init__(self, behaviour: Callable[[Visit], None]) -> None:
        self._behaviour = behaviour
        self._over = threading.Event()
        self._threads: List[threading.Thread] = []
        self._listener = socket.create_server((self.host, 0), backlog=256)
        self.port = int(self._listener.getsockname()[1])
        self.accepted = 0

    def __enter__(self) -> "EvilTcp":
        self._spawn(self._accept)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        for thread in self._threads:
            thread.join(10)
        self._listener.close()

    def _spawn(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, name="evil-tcp", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._over.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            self._spawn(self._visit, sock)

    def _visit(self, sock: socket.socket) -> None:
        # The end of the peer wakes one that waits, so that no thread outlives its connection.
        gone = threading.Event()
        with sock:
            sock.settimeout(10)
            with contextlib.suppress(OSError):
                self._behaviour(Visit(sock, _Either(self._over, gone, sock)))


class _Either(threading.Event):
    """Set when the test is over, or the peer has left."""

    def __init__(self, over: threading.Event, gone: threading.Event, sock: socket.socket) -> None:
        super().__init__()
        self._over, self._gone, self._sock = over, gone, sock

    def is_set(self) -> bool:
        return self._over.is_set() or self._has_left()

    def _has_left(self) -> bool:
        try:
            self._sock.setblocking(False)
            try:
                return not self._sock.recv(65536)
            except BlockingIOError:
                return False
            finally:
                self._sock.settimeout(10)
        except OSError:
            return True

    def wait(self, timeout: "float | None" = None) -> bool:
        left = _LIMIT if timeout is None else timeout
        while True:
            if self._has_left() or self._over.wait(min(left, 0.05)):
                return True
            left -= 0.05
            if left <= 0:
                return False


@contextlib.contextmanager
def black_hole() -> Iterator[int]:
    """Give a port whose queue of connections is full, so that no SYN is answered."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind((EvilTcp.host, 0))
        listener.listen(0)
        address = listener.getsockname()
        for _ in range(16):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            code = sock.connect_ex(address)
            if code not in (0, errno.EINPROGRESS):
                raise OSError(code, "the queue cannot be filled")
        yield int(address[1])


NO_SSH_SERVER: Dict[str, Callable[[Visit], None]] = {
    behaviour.__name__: behaviour
    for behaviour in (
        mute,
        close_at_once,
        reset_at_once,
        garbage,
        http,
        ssh_1_5,
        drip,
        hundred_lines,
        endless_line,
        silent_after_banner,
        half_kexinit,
        ignore_flood,
        huge_packet,
        throttling,
    )
}
