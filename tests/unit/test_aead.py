"""Packets of AES-GCM: what the shorter way writes and reads is what paramiko would."""

from __future__ import annotations

import socket
from typing import Any, Iterator, List, NamedTuple

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from paramiko.message import Message
from paramiko.packet import Packetizer
from paramiko.ssh_exception import SSHException

from ssh_service.transport.packets import SshPacketizer
from ssh_service.transport.wire import Wire

KEY = bytes(range(16))
# The counter turns over at the second packet; its carry does not reach the fixed field.
IV = b"\1\2\3\4" + b"\xff" * 7 + b"\xfe"
PAYLOADS = [b"\x5e" + b"x" * size for size in (0, 1, 3, 11, 12, 13, 100, 32768)]


class Ends(NamedTuple):
    """Our packetizer, and paramiko's at the other end."""

    ours: SshPacketizer
    theirs: Packetizer
    peer: socket.socket


@pytest.fixture
def ends() -> Iterator[Ends]:
    here, there = socket.socketpair()
    wire = Wire(here, stall_timeout=5)
    there.settimeout(5)
    both = SshPacketizer(wire), Packetizer(there)
    for packetizer in both:
        set_keys(packetizer, IV)
        packetizer._initial_kex_done = True
    with there:
        yield Ends(*both, there)
    wire.close()
    wire.release()


def set_keys(packetizer: Any, iv: bytes) -> None:
    packetizer.set_inbound_cipher(AESGCM(KEY), 16, None, 16, None, aead=True, iv_in=iv)
    packetizer.set_outbound_cipher(AESGCM(KEY), 16, None, 16, None, aead=True, iv_out=iv)


def state(packetizer: Packetizer, way: str) -> List[Any]:
    """Return what paramiko counts, in one direction ("in" or "out")."""
    counted = "received" if way == "in" else "sent"
    names = (f"iv_{way}", f"sequence_number_{way}", f"{counted}_bytes", f"{counted}_packets")
    return [getattr(packetizer, f"_Packetizer__{name}") for name in names]


@pytest.fixture(autouse=True)
def no_turnover(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let paramiko count as RFC 5647 says: its own counter is an OverflowError at its end."""

    def next_iv(self: Packetizer, iv: bytes) -> bytes:
        counter = (int.from_bytes(iv[4:], "big") + 1) % (1 << 64)
        return iv[:4] + counter.to_bytes(8, "big")

    monkeypatch.setattr(Packetizer, "_inc_iv_counter", next_iv)


def test_paramiko_reads_what_we_write(ends: Ends) -> None:
    for payload in PAYLOADS:
        ends.ours.send_message(Message(payload))
        kind, m = ends.theirs.read_message()
        assert bytes([kind]) + m.asbytes() == payload
    assert state(ends.ours, "out") == state(ends.theirs, "in")


def test_we_read_what_paramiko_writes(ends: Ends) -> None:
    for number, payload in enumerate(PAYLOADS):
        ends.theirs.send_message(Message(payload))
        kind, m = ends.ours.read_message()
        assert bytes([kind]) + m.asbytes() == payload
        assert m.seqno == number
    assert state(ends.ours, "in") == state(ends.theirs, "out")


@pytest.mark.parametrize("limit", ["REKEY_PACKETS", "REKEY_BYTES"])
def test_new_keys_are_due_when_they_would_be_with_paramiko(
    ends: Ends, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Packetizer, limit, {"REKEY_PACKETS": 3, "REKEY_BYTES": 100}[limit])
    due = []
    for _ in range(5):
        ends.ours.send_message(Message(b"\x5e" + b"x" * 20))
        ends.theirs.read_message()
        due.append(ends.ours.need_rekey())
    assert due[0] is False and due[-1] is True  # at the latest one packet after paramiko
    set_keys(ends.ours, IV)
    set_keys(ends.theirs, IV)
    assert not ends.ours.need_rekey()
    for _ in range(5):
        ends.theirs.send_message(Message(b"\x5e" + b"x" * 20))
        ends.ours.read_message()
    assert ends.ours.need_rekey()


def test_another_cipher_may_follow(ends: Ends) -> None:
    """Sequence numbers, which the MAC of other ciphers covers, go on."""
    for _ in range(3):
        ends.ours.send_message(Message(b"\x5e"))
        ends.theirs.read_message()
        ends.theirs.send_message(Message(b"\x5e"))
        ends.ours.read_message()
    for packetizer in (ends.ours, ends.theirs):
        packetizer.set_inbound_cipher(_Plain(), 16, _sha256(), 32, b"key")
        packetizer.set_outbound_cipher(_Plain(), 16, _sha256(), 32, b"key")
    ends.ours.send_message(Message(b"\x5ehello"))
    assert ends.theirs.read_message()[1].asbytes() == b"hello"
    ends.theirs.send_message(Message(b"\x5ehello"))
    assert ends.ours.read_message()[1].asbytes() == b"hello"


class _Plain:
    """A cipher that leaves everything as it is."""

    @staticmethod
    def update(data: bytes) -> bytes:
        return data


def _sha256() -> Any:
    import hashlib

    return hashlib.sha256


@pytest.mark.parametrize("at", [0, 3, 4, 20, -1])
def test_a_packet_that_was_changed_on_its_way_is_refused(ends: Ends, at: int) -> None:
    out: List[bytes] = []
    ends.theirs.write_all = out.append
    ends.theirs.send_message(Message(b"\x5e" + b"x" * 30))
    changed = bytearray(out[0])
    changed[at] ^= 1
    ends.peer.sendall(changed + bytes(300))
    with pytest.raises(SSHException):
        ends.ours.read_message()


@pytest.mark.parametrize("packet", [b"", b"\x0b" + bytes(15 - 4), b"\xff" + bytes(15)])
def test_a_packet_without_a_message_is_refused(ends: Ends, packet: bytes) -> None:
    head = len(packet).to_bytes(4, "big")
    ends.peer.sendall(head + AESGCM(KEY).encrypt(IV, packet, head))
    with pytest.raises(SSHException, match="without a message"):
        ends.ours.read_message()
