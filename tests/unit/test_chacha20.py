"""Packets of chacha20-poly1305: as OpenSSH defines them, and nothing of an altered one is used."""

from __future__ import annotations

import logging
import socket
import zlib
from typing import Any, Iterator, List, Tuple

import pytest
from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from paramiko.compress import ZlibCompressor
from paramiko.message import Message
from paramiko.packet import Packetizer
from paramiko.ssh_exception import SSHException

from ssh_service import algorithms
from ssh_service.transport.chacha20 import ChaCha20Poly1305
from ssh_service.transport.packets import PACKET_MAX_SIZE, Inflater, SshPacketizer
from ssh_service.transport.wire import Wire

KEY = bytes(range(64))
PAYLOADS = [b"\x5e" + b"x" * size for size in (0, 1, 3, 4, 5, 100, 32768)]
# By asyncssh 2.24, and by PROTOCOL.chacha20poly1305 in plain Python.
NUMBER, HEAD, PACKET = 7, b"\0\0\0\x20", b"\x06\x5ea message of SSH, to be sealed"
SEALED = bytes.fromhex(
    "a39afc8a2e18746323e6592d0d0aded0b8e9f37f67fa1c160a8c1de1254a68ba"
    "e13f66301a334dda31731f0ae55c9ef6ed9a9e1c"
)

Ends = Tuple[SshPacketizer, SshPacketizer]


@pytest.fixture
def ends() -> Iterator[Ends]:
    wires = [Wire(sock, stall_timeout=5) for sock in socket.socketpair()]
    left, right = (SshPacketizer(wire) for wire in wires)
    for packetizer in (left, right):
        packetizer._initial_kex_done = True
        set_keys(packetizer)
    yield left, right
    for wire in wires:
        wire.close()
        wire.release()


def set_keys(packetizer: Any) -> None:
    packetizer.set_inbound_cipher(ChaCha20Poly1305(KEY), 8, None, 16, None, aead=True)
    packetizer.set_outbound_cipher(ChaCha20Poly1305(KEY), 8, None, 16, None, aead=True)
    packetizer.reset_seqno_in()
    packetizer.reset_seqno_out()


def exchange(ends: Ends, payload: bytes) -> Message:
    ends[0].send_message(Message(payload))
    kind, m = ends[1].read_message()
    assert bytes([kind]) + m.asbytes() == payload
    return m


def test_a_packet_is_sealed_as_others_seal_it() -> None:
    cipher = ChaCha20Poly1305(KEY)
    assert cipher.encrypt(NUMBER, HEAD, PACKET) == SEALED
    assert cipher.decrypt_length(NUMBER, SEALED[:4]) == len(PACKET)
    assert cipher.decrypt(NUMBER, SEALED[:4], SEALED[4:]) == PACKET


@pytest.mark.parametrize("at", [0, 3, 4, -17, -16, -1])
def test_an_altered_packet_is_not_decrypted(at: int) -> None:
    """Neither with another length, nor under another number."""
    altered = bytearray(SEALED)
    altered[at] ^= 1
    head, rest = bytes(altered[:4]), bytes(altered[4:])
    for number, *parts in ((NUMBER, head, rest), (NUMBER + 1, SEALED[:4], SEALED[4:])):
        with pytest.raises(InvalidTag):
            ChaCha20Poly1305(KEY).decrypt(number, *parts)


def test_packets_arrive_in_order_under_their_numbers(ends: Ends) -> None:
    for number, payload in enumerate(PAYLOADS):
        assert exchange(ends, payload).seqno == number
    left, right = ends
    assert left._Packetizer__sent_bytes == right._Packetizer__received_bytes
    assert left._Packetizer__sent_packets == right._Packetizer__received_packets == len(PAYLOADS)


def test_packets_may_be_compressed_and_shown(ends: Ends, caplog: pytest.LogCaptureFixture) -> None:
    ends[0].set_outbound_compressor(ZlibCompressor())
    ends[1].set_inbound_compressor(Inflater())
    for packetizer in ends:
        packetizer.set_log(logging.getLogger("packets"))
        packetizer.set_hexdump(True)
    with caplog.at_level(logging.DEBUG):
        for payload in PAYLOADS:
            exchange(ends, payload)
    assert ends[0]._Packetizer__sent_bytes < 1000
    assert "OUT: " in caplog.text and "IN: " in caplog.text


def test_a_packet_that_is_empty_once_decompressed_is_refused(ends: Ends) -> None:
    ends[0].send_message(Message(zlib.compress(b"")))
    ends[1].set_inbound_compressor(Inflater())
    with pytest.raises(SSHException, match="without a message"):
        ends[1].read_message()


def test_no_number_is_used_twice_with_one_key(ends: Ends) -> None:
    """New keys are due long before, unless a program has put paramiko's limits up."""
    for packetizer in ends:
        for way in ("in", "out"):
            setattr(packetizer, f"_Packetizer__sequence_number_{way}", (1 << 32) - 2)
    assert exchange(ends, b"\x5elast").seqno == (1 << 32) - 2
    with pytest.raises(SSHException, match="all sequence numbers"):
        ends[0].send_message(Message(b"\x5eone more"))
    for packetizer in ends:
        set_keys(packetizer)
    assert exchange(ends, b"\x5efirst").seqno == 0


@pytest.mark.parametrize("limit, value", [("REKEY_PACKETS", 3), ("REKEY_BYTES", 150)])
def test_new_keys_are_due_after_so_much(
    ends: Ends, limit: str, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Packetizer, limit, value)
    monkeypatch.setattr(Packetizer, f"{limit}_OVERFLOW_MAX", 2 * value)
    for number in range(1, 4):
        exchange(ends, b"\x5e" + b"x" * 20)
        assert [end.need_rekey() for end in ends] == [number == 3] * 2
    for packetizer in ends:
        set_keys(packetizer)
    with pytest.raises(SSHException, match="ignoring rekey requests"):
        for _ in range(20):
            exchange(ends, b"\x5e" + b"x" * 20)


@pytest.mark.parametrize("at", [0, 3, 4, 20, -1])
def test_an_altered_packet_ends_the_connection_as_in_paramiko(ends: Ends, at: int) -> None:
    """Its length, too, is bounded before anything is read by it."""
    out: List[Any] = []
    sender: Any = ends[0]
    sender.write_all = out.append
    sender.send_message(Message(b"\x5e" + b"x" * 30))
    altered = bytearray(out[0])
    altered[at] ^= 1
    sender._wire.sendall(altered + bytes(300))
    with pytest.raises(SSHException, match="announced a packet of|Mismatched MAC"):
        ends[1].read_message()


@pytest.mark.parametrize("size", [PACKET_MAX_SIZE, (1 << 32) - 1])
def test_a_length_over_the_limit_is_refused_at_once(ends: Ends, size: int) -> None:
    sealed = ChaCha20Poly1305(KEY).encrypt(0, size.to_bytes(4, "big"), b"")
    ends[0]._wire.sendall(sealed)
    with pytest.raises(SSHException, match=f"announced a packet of {size + 16} bytes"):
        ends[1].read_message()


@pytest.mark.parametrize("packet", [b"", b"\x07" + bytes(7), b"\xff" + bytes(7)])
def test_a_packet_without_a_message_is_refused(ends: Ends, packet: bytes) -> None:
    head = len(packet).to_bytes(4, "big")
    ends[0]._wire.sendall(ChaCha20Poly1305(KEY).encrypt(0, head, packet))
    with pytest.raises(SSHException, match="without a message"):
        ends[1].read_message()


def test_it_is_not_offered_where_openssl_does_not_have_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As in FIPS mode."""

    def refuse(*args: Any) -> None:
        raise UnsupportedAlgorithm("not in FIPS mode")

    assert algorithms.CHACHA20_POLY1305 in algorithms.supported("encryption_algs")
    monkeypatch.setattr(algorithms, "ChaCha20", refuse)
    has_it = algorithms.has_chacha20_poly1305.__wrapped__
    monkeypatch.setattr(algorithms, "has_chacha20_poly1305", has_it)
    names = algorithms.supported.__wrapped__("encryption_algs")
    assert algorithms.CHACHA20_POLY1305 not in names and "aes128-ctr" in names
