"""Packets of AEAD ciphers: AES-GCM by a shorter way than paramiko's, and chacha20-poly1305."""

from __future__ import annotations

import os
import struct
from logging import DEBUG
from typing import Tuple

from paramiko.message import Message
from paramiko.packet import Packetizer
from paramiko.ssh_exception import SSHException
from paramiko.util import format_binary

from ssh_service.transport.chacha20 import ChaCha20Poly1305

_UINT32 = struct.Struct(">I")
# The fixed field of an IV, and its invocation counter (RFC 5647 section 7.1).
_IV = struct.Struct(">IQ")
_MAX_COUNTER = (1 << 64) - 1
_MAX_SEQUENCE_NUMBER = (1 << 32) - 1
_TAG_SIZE = 16


class AeadPacketizer(Packetizer):  # type: ignore[misc]
    """
    Reads and writes packets; those of AEAD ciphers without paramiko's many steps.

    All state is paramiko's, whose own methods do the same for other ciphers.
    """

    _Packetizer__iv_in: bytes
    _Packetizer__iv_out: bytes
    _Packetizer__sequence_number_in: int
    _Packetizer__sequence_number_out: int

    def read_packet(self) -> Tuple[int, bytes, int]:
        """Read a packet; return its message's type, the rest of the message, and its number."""
        if not self._Packetizer__aead_in:
            kind, m = Packetizer.read_message(self)
            return kind, m.asbytes(), m.seqno
        engine = self._Packetizer__block_engine_in
        number = self._Packetizer__sequence_number_in
        head = self.read_all(_UINT32.size, check_rekey=True)
        if isinstance(engine, ChaCha20Poly1305):
            size = engine.decrypt_length(number, head)
            packet = engine.decrypt(number, head, self.read_all(size + _TAG_SIZE))
        else:
            size = _UINT32.unpack(head)[0]
            iv = self._Packetizer__iv_in
            packet = engine.decrypt(iv, self.read_all(size + _TAG_SIZE), head)
            self._Packetizer__iv_in = _next_iv(iv)
        self._Packetizer__sequence_number_in = (number + 1) & _MAX_SEQUENCE_NUMBER
        self._count_received(_UINT32.size + size + _TAG_SIZE)
        if self._Packetizer__dump_packets:
            self._log(DEBUG, format_binary(packet, "IN: "))
        end = size - packet[0] if packet else 0  # less the padding
        if end >= 2 and self._Packetizer__compress_engine_in is not None:
            packet = b"\0" + self._Packetizer__compress_engine_in(packet[1:end])
            end = len(packet)
        if end < 2:
            raise SSHException("a packet without a message")
        return packet[1], packet[2:end], number

    def _count_received(self, size: int) -> None:
        self._Packetizer__received_bytes += size
        self._Packetizer__received_packets += 1
        if self._Packetizer__need_rekey:
            self._Packetizer__received_bytes_overflow += size
            self._Packetizer__received_packets_overflow += 1
            if (
                self._Packetizer__received_packets_overflow >= self.REKEY_PACKETS_OVERFLOW_MAX
                or self._Packetizer__received_bytes_overflow >= self.REKEY_BYTES_OVERFLOW_MAX
            ):
                raise SSHException("Remote transport is ignoring rekey requests")
        elif (
            self._Packetizer__received_packets >= self.REKEY_PACKETS
            or self._Packetizer__received_bytes >= self.REKEY_BYTES
        ):
            self._request_new_keys()

    def send_message(self, data: Message) -> None:
        """Write a packet."""
        if not self._Packetizer__aead_out:
            super().send_message(data)
            return
        payload = data.asbytes()
        with self._Packetizer__write_lock:
            if self._Packetizer__compress_engine_out is not None:
                payload = self._Packetizer__compress_engine_out(payload)
            block_size = self._Packetizer__block_size_out
            padding = block_size + 3 - (len(payload) + 4) % block_size
            head = _UINT32.pack(1 + len(payload) + padding)
            packet = b"%c%b%b" % (padding, payload, os.urandom(padding))
            if self._Packetizer__dump_packets:
                self._log(DEBUG, format_binary(head + packet, "OUT: "))
            engine = self._Packetizer__block_engine_out
            number = self._Packetizer__sequence_number_out
            if isinstance(engine, ChaCha20Poly1305):
                out = engine.encrypt(number, head, packet)
            else:
                iv = self._Packetizer__iv_out
                out = head + engine.encrypt(iv, packet, head)
                self._Packetizer__iv_out = _next_iv(iv)
            self._Packetizer__sequence_number_out = (number + 1) & _MAX_SEQUENCE_NUMBER
            self.write_all(out)
            self._Packetizer__sent_bytes += len(out)
            self._Packetizer__sent_packets += 1
            if (
                self._Packetizer__sent_packets >= self.REKEY_PACKETS
                or self._Packetizer__sent_bytes >= self.REKEY_BYTES
            ) and not self._Packetizer__need_rekey:
                self._request_new_keys()

    def _request_new_keys(self) -> None:
        self._Packetizer__received_bytes_overflow = 0
        self._Packetizer__received_packets_overflow = 0
        self._trigger_rekey()


def _next_iv(iv: bytes) -> bytes:
    fixed, counter = _IV.unpack(iv)
    return _IV.pack(fixed, (counter + 1) & _MAX_COUNTER)
