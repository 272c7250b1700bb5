"""The bytes below the protocol: waits that last as long as they must, and not longer."""

from __future__ import annotations

import errno
import fcntl
import resource
import socket
import threading
import time
from typing import Iterator, Optional, Tuple

import pytest

from ssh_service.transport.wire import Wire, WriteStalled
from tests.common import Outcome, within

Ends = Tuple[Wire, socket.socket]


@pytest.fixture
def ends() -> Iterator[Ends]:
    ours, theirs = socket.socketpair()
    wire = Wire(ours, stall_timeout=0.3)
    with theirs:
        yield wire, theirs
    wire.close()
    wire.release()


def fill(wire: Wire) -> None:
    """Write until the network takes no more."""
    with pytest.raises(WriteStalled):
        wire.sendall(b"x" * 64 * 1024 * 1024)


def test_recv_returns_what_came_then_none_then_the_end(ends: Ends) -> None:
    wire, peer = ends
    before = wire.last_received
    peer.sendall(b"hello")
    assert wire.recv(5) == b"hello"
    assert wire.last_received > before
    assert wire.recv(0.01) is None
    peer.close()
    assert wire.recv(5) == b""


def test_a_wait_of_weeks_is_no_error_and_ends_with_the_first_byte(ends: Ends) -> None:
    wire, peer = ends  # poll() counts milliseconds in a C int: 25 days
    waiting = Outcome(lambda: wire.recv(1e12))
    peer.sendall(b"x")
    assert waiting.wait().value == b"x"


def test_recv_comes_back_when_something_could_be_written(ends: Ends) -> None:
    assert ends[0].recv(20, until_writable=True) is None


def test_close_wakes_a_thread_that_waits_for_bytes(ends: Ends) -> None:
    waiting = Outcome(lambda: ends[0].recv(None))
    ends[0].close()
    assert waiting.wait().value == b""


def test_close_wakes_a_thread_that_waits_to_write() -> None:
    ours, theirs = socket.socketpair()
    wire = Wire(ours, stall_timeout=60)
    with theirs:
        waiting = Outcome(lambda: wire.sendall(b"x" * 64 * 1024 * 1024))
        theirs.recv(1)
        wire.close()
        assert isinstance(waiting.wait().error, OSError)
        wire.release()


def test_close_keeps_the_descriptor_until_release(ends: Ends) -> None:
    wire, _ = ends
    wire.close()
    assert wire.fileno() >= 0  # its number could otherwise be another socket's by now
    wire.release()
    assert wire.fileno() == -1


def test_a_write_to_a_peer_that_takes_nothing_fails_after_the_limit(ends: Ends) -> None:
    """Paramiko's write retries for ever."""
    began = time.monotonic()
    with pytest.raises(WriteStalled, match="accepted no data for 0.3 s") as caught:
        ends[0].sendall(b"x" * 64 * 1024 * 1024)
    assert caught.value.errno == errno.ETIMEDOUT
    within(0.3, began)


def test_a_write_to_a_slow_peer_goes_on(ends: Ends) -> None:
    wire, peer = ends
    size = 4 * 1024 * 1024
    peer.settimeout(10)

    def read_slowly() -> int:
        left = size
        while left:
            left -= len(peer.recv(256 * 1024))
            time.sleep(0.02)  # it is the peer that is slow
        return left

    reading = Outcome(read_slowly)
    wire.sendall(b"x" * size)
    assert reading.wait().value == 0


def test_a_write_after_close_is_an_error(ends: Ends) -> None:
    ends[0].close()
    with pytest.raises(OSError):
        ends[0].sendall(b"x")


def test_deferred_message_precedes_the_next_one(ends: Ends) -> None:
    """The reader thread never waits for the peer; and half a packet is the end of a stream."""
    wire, peer = ends
    pieces = [bytes([number]) * 100_000 for number in range(100)]
    for piece in pieces:
        wire.send_nowait(piece)  # far more than there is room for
    assert wire.backlog and wire.would_block()
    peer.settimeout(10)
    reading = Outcome(lambda: receive(peer, 100 * 100_000 + 3))
    wire.sendall(b"end")
    assert not wire.backlog and not wire.would_block()
    assert reading.wait().value == b"".join(pieces) + b"end"


def test_deferred_messages_leave_with_the_next_pass(ends: Ends) -> None:
    wire, peer = ends
    while not wire.backlog:
        wire.send_nowait(b"x" * 100_000)
    peer.setblocking(False)
    began = time.monotonic()
    while wire.backlog and time.monotonic() < began + 10:
        receive(peer, 1 << 30)
        wire.send_nowait(b"")
    assert not wire.backlog


def receive(peer: socket.socket, size: int) -> bytes:
    """Take so many bytes, or as many as there are."""
    out = bytearray()
    while len(out) < size:
        try:
            out += peer.recv(1 << 20)
        except BlockingIOError:
            break
    return bytes(out)


def test_nothing_is_sent_after_close(ends: Ends) -> None:
    ends[0].close()
    with pytest.raises(OSError):
        ends[0].send_nowait(b"x")


def test_writable_is_correct_and_never_raises(ends: Ends) -> None:
    wire, _ = ends
    assert wire.writable()
    fill(wire)
    assert not wire.writable()
    wire._sock.close()  # as the reader may, between two steps of this thread
    assert not wire.writable()
    assert wire.has_peer_closed()
    wire.close()
    assert not wire.writable()


def test_connection_end_is_seen_before_all_data_is_read(ends: Ends) -> None:
    wire, peer = ends
    assert not wire.has_peer_closed()
    peer.sendall(b"last words")
    assert not wire.has_peer_closed()
    peer.close()
    assert wire.has_peer_closed()
    assert wire.recv(5) == b"last words"


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (2048, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_descriptors")
def test_descriptors_above_1023_work(ends: Ends) -> None:
    """select() cannot watch them."""
    ours, peer = socket.socketpair()
    with ours, peer:
        number = fcntl.fcntl(ours.fileno(), fcntl.F_DUPFD, 1100)
        wire = Wire(socket.socket(fileno=number), stall_timeout=1)
        assert wire.fileno() > 1023
        assert wire.writable()
        wire.sendall(b"there")
        assert peer.recv(5) == b"there"
        peer.sendall(b"back")
        assert wire.recv(5) == b"back"
        wire.release()


class FakeChannel:
    """A channel of a connection to a jump host: one time-out for both directions."""

    def __init__(self) -> None:
        self.timeout: Optional[float] = None
        self.window = threading.Event()
        self.sent = b""
        self.closed = False

    def settimeout(self, timeout: Optional[float]) -> None:
        self.timeout = timeout

    def send_ready(self) -> bool:
        return self.window.is_set() or self.closed

    def send(self, data: bytes) -> int:
        if self.closed:
            return 0
        if not self.window.wait(self.timeout):
            raise socket.timeout
        self.sent += data
        return len(data)

    def recv(self, size: int) -> bytes:
        time.sleep(min(self.timeout or 0.0, 0.2))
        raise socket.timeout

    def close(self) -> None:
        self.closed = True


def test_over_a_jump_host_the_readers_time_out_does_not_cut_a_write_short() -> None:
    """A channel has one time-out, and two threads that would set it."""
    channel = FakeChannel()
    wire = Wire(channel, stall_timeout=20)
    writing = Outcome(lambda: wire.sendall(b"x" * 100000))
    for _ in range(10):
        assert wire.recv(None, until_writable=True) is None  # waits 0.05 s at most
    assert not writing.is_over()
    channel.window.set()
    assert writing.wait().error is None
    assert channel.sent == b"x" * 100000


def test_over_a_jump_host_a_write_stalls_and_ends_like_any_other() -> None:
    channel = FakeChannel()
    wire = Wire(channel, stall_timeout=0.2)
    with pytest.raises(WriteStalled):
        wire.sendall(b"x")
    wire.close()
    with pytest.raises(OSError):
        Wire(channel, stall_timeout=0.2).sendall(b"x")


def test_over_a_jump_host_the_readers_wait_is_no_longer_than_asked() -> None:
    channel = FakeChannel()
    wire = Wire(channel, stall_timeout=1)
    wire.recv(0.01, until_writable=True)
    assert channel.timeout == 0.01
