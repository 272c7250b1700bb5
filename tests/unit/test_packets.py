"""Packets: what may come is bounded, and what no server may say ends the connection."""

from __future__ import annotations

import socket
import struct
import time
import zlib
from typing import Iterator, List, Tuple

import pytest
from paramiko.ssh_exception import SSHException

from ssh_service.transport.keepalive import KeepaliveTimeout
from ssh_service.transport.packets import (
    BANNER_MAX_SIZE,
    PACKET_MAX_SIZE,
    Inflater,
    SshPacketizer,
    message,
)
from ssh_service.transport.wire import Wire
from tests.common import Outcome, within
from tests.faults.evil_tcp import packet

Ends = Tuple[SshPacketizer, socket.socket]


@pytest.fixture
def ends() -> Iterator[Ends]:
    ours, theirs = socket.socketpair()
    wire = Wire(ours, stall_timeout=5)
    with theirs:
        yield SshPacketizer(wire), theirs
    wire.close()
    wire.release()


def test_read_all_joins_what_comes_in_pieces_and_keeps_what_is_beyond(ends: Ends) -> None:
    packetizer, peer = ends
    reading = Outcome(lambda: (packetizer.read_all(5), packetizer.read_all(3)))
    for byte in b"abcdefgh!!":
        peer.sendall(bytes([byte]))
    assert reading.wait().value == (b"abcde", b"fgh")
    assert packetizer.read_all(2) == b"!!"
    assert packetizer.read_all(0) == b""


def test_a_burst_of_packets_is_read_without_a_call_to_the_system_for_each(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    packetizer, peer = ends
    peer.sendall(b"".join(packet(b"\x02" + bytes([n])) for n in range(100)))
    calls: List[int] = []
    receive = packetizer._wire.recv
    monkeypatch.setattr(packetizer._wire, "recv", lambda *args: calls.append(1) or receive(*args))
    assert [packetizer.read_message()[1].asbytes()[0] for _ in range(100)] == list(range(100))
    assert len(calls) == 1


def test_the_end_of_the_stream_is_an_end_of_file(ends: Ends) -> None:
    packetizer, peer = ends
    peer.sendall(b"ab")
    peer.close()
    with pytest.raises(EOFError):
        packetizer.read_all(3)


@pytest.mark.parametrize("size", [PACKET_MAX_SIZE + 1, 2**32 - 4, 100 * 1024 * 1024])
def test_a_packet_larger_than_may_be_is_refused_before_it_is_waited_for(
    ends: Ends, size: int
) -> None:
    """Paramiko believes any length, and allocates it."""
    packetizer, peer = ends
    peer.sendall(struct.pack(">IB", size, 4) + b"\x02" * 3)
    with pytest.raises(SSHException, match="announced a packet of|Invalid packet blocking"):
        packetizer.read_message()


def test_an_identification_is_read_with_the_lines_before_it(ends: Ends) -> None:
    packetizer, peer = ends
    peer.sendall(b"welcome \xff\r\nSSH-2.0-x\r\n" + packet(b"\x02x"))
    assert packetizer.readline(0) == "welcome \\xff"
    assert packetizer.readline(0) == "SSH-2.0-x"
    assert packetizer.banner == ["welcome \\xff", "SSH-2.0-x"]
    assert packetizer.read_message()[0] == 2


def test_a_line_that_does_not_end_is_cut_off(ends: Ends) -> None:
    packetizer, peer = ends
    peer.sendall(b"x" * (BANNER_MAX_SIZE + 1))
    with pytest.raises(SSHException, match="no SSH identification in the first 8192 bytes"):
        packetizer.readline(0)


def test_identification_sent_byte_by_byte_times_out(ends: Ends) -> None:
    """Paramiko's time-out begins anew with each byte."""
    packetizer, peer = ends
    began = time.monotonic()
    packetizer.deadline = began + 0.3

    def drip() -> None:
        while not reading.is_over():
            peer.sendall(b"x")
            time.sleep(0.02)

    reading = Outcome(lambda: packetizer.readline(60))
    dripping = Outcome(drip)
    assert isinstance(reading.wait().error, SSHException)
    within(0.3, began)
    dripping.wait()


def test_reader_can_be_stopped_before_it_waits(ends: Ends) -> None:
    packetizer, _ = ends
    waits = iter([0.01, 0.01])

    def before_wait() -> float:
        for wait in waits:
            return wait
        raise KeepaliveTimeout("nothing heard")

    packetizer.before_wait = before_wait
    with pytest.raises(KeepaliveTimeout):
        packetizer.read_all(1)


def test_a_message_of_a_type_nobody_knows_is_answered_and_passed_over(ends: Ends) -> None:
    """Paramiko dies of a KeyError."""
    packetizer, peer = ends
    packetizer._initial_kex_done = True
    unknown: List[int] = []
    packetizer.on_unknown_message = unknown.append
    peer.sendall(packet(b"\xc0what") + packet(b"\xc1is it") + packet(b"\x02\x07"))
    kind, known = packetizer.read_message()
    assert (kind, known.asbytes()) == (2, b"\x07")
    assert unknown == [0, 1]


def test_during_the_first_key_exchange_every_packet_is_shown_to_paramiko(ends: Ends) -> None:
    """Strict-kex has to refuse it."""
    packetizer, peer = ends
    packetizer.on_unknown_message = lambda seqno: None
    peer.sendall(packet(b"\xc0what"))
    assert packetizer.read_message()[0] == 0xC0


@pytest.mark.parametrize("kind", [b"\x07", b"\x3c"])  # EXT_INFO, USERAUTH_INFO_REQUEST
def test_a_count_beyond_what_the_message_holds_is_refused(ends: Ends, kind: bytes) -> None:
    """Paramiko would read four billion empty items, for hours, of a message of five bytes."""
    packetizer, peer = ends
    peer.sendall(packet(kind + b"\xff\xff\xff\xff" + b"\0\0\0\x01a\0\0\0\x01b"))
    counted = packetizer.read_message()[1]
    assert counted.get_int() == 2**32 - 1
    assert (counted.get_text(), counted.get_text()) == ("a", "b")
    with pytest.raises(SSHException, match="truncated message: expected 4 more bytes, got 0"):
        counted.get_text()


def test_other_messages_may_leave_out_what_comes_last(ends: Ends) -> None:
    """Servers do leave out the language of a DISCONNECT."""
    packetizer, peer = ends
    peer.sendall(packet(b"\x01\0\0\0\x0b"))
    short = packetizer.read_message()[1]
    assert (short.get_int(), short.get_string()) == (11, b"")


def test_decompressed_data_is_limited_to_a_packet() -> None:
    engine = zlib.compressobj()
    small, bomb = b"x" * 1000, b"\0" * (64 * 1024 * 1024)
    inflate = Inflater()
    assert inflate(engine.compress(small) + engine.flush(zlib.Z_SYNC_FLUSH)) == small
    packed = engine.compress(bomb) + engine.flush(zlib.Z_SYNC_FLUSH)
    assert len(packed) < PACKET_MAX_SIZE
    with pytest.raises(SSHException, match="decompresses to more than 262144 bytes"):
        inflate(packed)


def test_message_writes_each_type_in_its_wire_form() -> None:
    built = message(b"\x50", True, 7, "text", b"bytes").asbytes()
    assert built == b"\x50\x01\0\0\0\x07\0\0\0\x04text\0\0\0\x05bytes"
