"""SFTP packets: what we write, what we read, and what we refuse to read."""

from __future__ import annotations

import random
import struct
from typing import Any, Callable, List

import pytest

from ssh_service.copying.sftp import decode, encode, protocol
from ssh_service.copying.sftp.packets import Packet, PacketReader
from ssh_service.copying.sftp.protocol import Attributes, ProtocolError
from tests.unit.sftp_harness import attributes, frame, status, string


def test_a_request_begins_with_its_length_kind_and_id() -> None:
    packet = encode.stat(7, b"/etc")
    assert packet == struct.pack(">IBI", 5 + 4 + 4, protocol.STAT, 7) + string(b"/etc")


def test_a_write_holds_handle_offset_and_data() -> None:
    packet = encode.write(1, b"h", 1 << 40, b"data")
    assert packet[9:] == string(b"h") + struct.pack(">Q", 1 << 40) + string(b"data")


def test_unset_attributes_are_omitted() -> None:
    packet = encode.setstat(1, b"", Attributes(mode=0o644))
    assert packet[13:] == struct.pack(">II", 4, 0o644)


@pytest.mark.parametrize(
    ("times", "sent"),
    [((1, 2), (1, 2)), ((-5, 1 << 40), (0, 0xFFFFFFFF))],
)
def test_times_that_do_not_fit_become_the_nearest_that_do(times: Any, sent: Any) -> None:
    packet = encode.setstat(1, b"", Attributes(atime=times[0], mtime=times[1]))
    assert packet[13:] == struct.pack(">III", 8, *sent)


def test_names_are_read_with_their_attributes_and_without_what_is_for_people() -> None:
    told = attributes(0o100644, 5, 1234)
    body = struct.pack(">I", 1) + string(b"\xff name") + string(b"-rw-r--r-- ...") + told
    (name,) = decode.names(body)
    assert name.filename == b"\xff name"
    assert name.attributes == Attributes(size=5, mode=0o100644, atime=1234, mtime=1234)


def test_extended_attributes_are_skipped() -> None:
    body = struct.pack(">III", 4 | 0x80000000, 0o600, 1) + string(b"key") + string(b"value")
    assert decode.attributes(body) == Attributes(mode=0o600)


def test_a_status_without_text_is_read() -> None:
    assert decode.status(struct.pack(">I", 4)) == (4, "")


def test_a_status_text_that_is_no_utf8_is_shown_all_the_same() -> None:
    assert decode.status(status(1, 4, b"\xff")[9:]) == (4, "\\xff")


TOO_SHORT: List[Callable[[], Any]] = [
    lambda: decode.status(b"\0"),
    lambda: decode.status(struct.pack(">II", 4, 9) + b"few"),
    lambda: decode.handle(struct.pack(">I", 5) + b"four"),
    lambda: decode.attributes(struct.pack(">I", 1) + b"\0"),
    lambda: decode.attributes(struct.pack(">II", 0x80000000, 0xFFFFFFFF)),
    lambda: decode.names(struct.pack(">I", 0xFFFFFFFF)),
    lambda: decode.data([memoryview(struct.pack(">I", 5) + b"four")]),
    lambda: decode.data([memoryview(struct.pack(">I", 3) + b"four")]),
    lambda: decode.limits(b"\0" * 31),
    lambda: decode.space(b"\0" * 87),
    lambda: decode.extensions(b"\0\0\0\1"),
    lambda: decode.handle(string(b"h" * 257)),
]


@pytest.mark.parametrize("read", TOO_SHORT)
def test_reply_shorter_than_announced_is_a_protocol_error(read: Callable[[], Any]) -> None:
    with pytest.raises(ProtocolError):
        read()


def plain(packets: List[Packet]) -> List[Any]:
    return [(packet.kind, packet.request_id, packet.body) for packet in packets]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 10, 100, 4096, 10**6])
def test_a_stream_cut_anywhere_gives_the_same_packets(size: int) -> None:
    chance = random.Random(size)
    sent = [
        (
            (protocol.DATA, number, string(bytes([number]) * chance.choice([0, 1, 50, 5000])))
            if number % 3
            else (protocol.STATUS, number, status(number, 0)[9:])
        )
        for number in range(100)
    ]
    stream = b"".join(frame(*packet) for packet in sent)
    reader = PacketReader()
    whole: List[Packet] = []
    for start in range(0, len(stream), size):
        whole += reader.feed(stream[start : start + size])
    received = plain(whole)
    assert received == sent
    assert all(len(bytes(packet.pieces[0])) >= 4 for packet in whole)
    assert reader.unfinished is None


def test_reader_reports_a_partly_received_reply() -> None:
    reader = PacketReader()
    reader.feed(frame(protocol.DATA, 77, bytes(1000))[:500])
    assert reader.unfinished == 77


@pytest.mark.parametrize("size", [0, 4, protocol.MAX_PACKET + 1, 0xFFFFFFFF])
def test_a_packet_of_an_absurd_size_is_refused_before_it_comes(size: int) -> None:
    with pytest.raises(ProtocolError):
        PacketReader().feed(struct.pack(">I", size) + bytes(5))
