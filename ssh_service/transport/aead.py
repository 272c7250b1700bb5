"""A shorter way through paramiko's `Packetizer` for AES-GCM, the cipher of nearly all servers."""

from __future__ import annotations

import os
import struct
from typing import Tuple

from paramiko.message import Message
from paramiko.packet import Packetizer
from paramiko.ssh_exception import SSHException

_UINT32 = struct.Struct(">I")
# The fixed field of an IV, and its invocation counter (RFC 5647 section 7.1).
_IV = struct.Struct(">IQ")
_MAX_COUNTER = (1 << 64) - 1
_MAX_SEQUENCE_NUMBER = (1 << 32) - 1
_TAG_SIZE = 16


class AeadPacketizer(Packetizer):  # type: ignore[misc]
    """
    Reads and writes packets; those of AES-GCM without paramiko's many steps.

    All state is paramiko's, whose own methods take over for other ciphers, for compression, in the
    first key exchange, and when new keys are due.
    """

    _Packetizer__iv_in: bytes
    _Packetizer__iv_out: bytes
    _Packetizer__sequence_number_in: int
    _Packetizer__sequence_number_out: int

    def read_packet(self) -> Tuple[int, bytes, int]:
        """Read a packet; return its message's type, the rest of the message, and its number."""
        if (
            not self._Packetizer__aead_in
            or self._Packetizer__need_rekey
            or self._Packetizer__received_bytes >= self.REKEY_BYTES
            or self._Packetizer__received_packets >= self.REKEY_PACKETS
            or self._Packetizer__compress_engine_in is not None
            or self._Packetizer__dump_packets
            or not self._initial_kex_done
        ):
            kind, m = Packetizer.read_message(self)
            return kind, m.asbytes(), m.seqno
        head = self.read_all(_UINT32.size, check_rekey=True)
        size = _UINT32.unpack(head)[0]
        sealed = self.read_all(size + _TAG_SIZE)
        iv = self._Packetizer__iv_in
        packet = self._Packetizer__block_engine_in.decrypt(iv, sealed, head)
        fixed, counter = _IV.unpack(iv)
        self._Packetizer__iv_in = _IV.pack(fixed, (counter + 1) & _MAX_COUNTER)
        number = self._Packetizer__sequence_number_in
        self._Packetizer__sequence_number_in = (number + 1) & _MAX_SEQUENCE_NUMBER
        self._Packetizer__received_bytes += len(head) + len(sealed)
        self._Packetizer__received_packets += 1
        end = size - packet[0] if packet else 0  # less the padding
        if end < 2:
            raise SSHException("a packet without a message")
        return packet[1], packet[2:end], number

    def send_message(self, data: Message) -> None:
        """Write a packet."""
        if (
            not self._Packetizer__aead_out
            or self._Packetizer__sent_bytes >= self.REKEY_BYTES
            or self._Packetizer__sent_packets >= self.REKEY_PACKETS
            or self._Packetizer__compress_engine_out is not None
            or self._Packetizer__dump_packets
            or not self._initial_kex_done
        ):
            super().send_message(data)
            return
        payload = data.asbytes()
        with self._Packetizer__write_lock:
            block_size = self._Packetizer__block_size_out
            padding = block_size + 3 - (len(payload) + 4) % block_size
            head = _UINT32.pack(1 + len(payload) + padding)
            packet = b"%c%b%b" % (padding, payload, os.urandom(padding))
            iv = self._Packetizer__iv_out
            out = head + self._Packetizer__block_engine_out.encrypt(iv, packet, head)
            fixed, counter = _IV.unpack(iv)
            self._Packetizer__iv_out = _IV.pack(fixed, (counter + 1) & _MAX_COUNTER)
            number = self._Packetizer__sequence_number_out
            self._Packetizer__sequence_number_out = (number + 1) & _MAX_SEQUENCE_NUMBER
            self.write_all(out)
            self._Packetizer__sent_bytes += len(out)
            self._Packetizer__sent_packets += 1
