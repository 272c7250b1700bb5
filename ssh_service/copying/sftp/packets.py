"""Splits the stream from an SFTP server into packets."""

from __future__ import annotations

import re
import struct
from typing import List, NamedTuple, Optional

from ssh_service.copying.sftp.protocol import MAX_PACKET, Pieces, ProtocolError

__all__ = ["Packet", "PacketReader"]

_HEAD = struct.Struct(">IBI")
# The first piece of a packet contains at least its header and the number that may follow it.
_BEGINNING = 13
# Far below the limit of one system call (IOV_MAX).
_MAX_PIECES = 256
# The version packet: its size, type and version.
_HELLO = re.compile(rb"\0[\0-\x04]..\x02\0\0\0[\0-\x0f]", re.DOTALL)
# The maximum size of a profile's output that is skipped, in bytes.
_MAX_NOISE = 64 * 1024


class Packet(NamedTuple):
    """One packet from the server."""

    kind: int
    request_id: int  # in a version packet, the version
    pieces: Pieces

    @property
    def body(self) -> bytes:
        """All data after the request id, in one piece."""
        return b"".join(self.pieces)


class PacketReader:
    """
    Splits a stream, which arrives in chunks of any size, into packets.

    Data that spans chunks is not joined, because it will be written to a file, for which pieces
    are sufficient.

    Parameters
    ----------
    after_noise : bool
        Whether other output may precede the first packet, which must then be the version packet.
    """

    def __init__(self, after_noise: bool = False) -> None:
        self._noise: Optional[bytes] = b"" if after_noise else None  # None once packets have begun
        self._head = b""  # the first bytes of a packet, too few for its size
        self._unfinished: Optional[Packet] = None  # a packet of which some pieces have arrived
        self._missing = 0  # bytes missing from the unfinished packet

    @property
    def unfinished(self) -> Optional[int]:
        """The request id of the packet that has arrived in part; None if there is none."""
        return None if self._unfinished is None else self._unfinished.request_id

    def feed(self, chunk: bytes) -> List[Packet]:
        """Receive a chunk; return the packets that it completes, in order."""
        if self._noise is not None:
            chunk = self._without_noise(self._noise + chunk)
        packets: List[Packet] = []
        at = 0
        if self._unfinished is not None:
            packet = self._unfinished
            at = self._go_on(packet, chunk)
            if self._missing:
                return packets
            packets.append(packet)
            self._unfinished = None
        elif self._head:
            chunk, self._head = self._head + chunk, b""
        end = len(chunk)
        while end - at >= 9:
            size, kind, request_id = _HEAD.unpack_from(chunk, at)
            if not 5 <= size <= MAX_PACKET:
                raise ProtocolError(f"packet size must be 5 to {MAX_PACKET}, got {size}")
            stop = at + 4 + size
            if stop > end and end - at < _BEGINNING:
                break
            packet = Packet(kind, request_id, [memoryview(chunk)[at + 9 : stop]])
            if stop > end:
                self._unfinished, self._missing = packet, stop - end
                return packets
            packets.append(packet)
            at = stop
        self._head = bytes(memoryview(chunk)[at:])
        return packets

    def _go_on(self, packet: Packet, chunk: bytes) -> int:
        """Append to the unfinished packet; return how many bytes of the chunk belong to it."""
        size = min(self._missing, len(chunk))
        pieces = packet.pieces
        pieces.append(memoryview(chunk)[:size])
        if len(pieces) > _MAX_PIECES:  # the server sends tiny chunks
            pieces[:] = [memoryview(b"".join(pieces))]
        self._missing -= size
        return size

    def _without_noise(self, data: bytes) -> bytes:
        """Return the data from the version packet on, without the output of a profile."""
        self._noise = None
        if data.startswith(b"\0"):  # the size of a packet; text does not start with a zero byte
            return data
        match = _HELLO.search(data)
        if match is not None:
            return data[match.start() :]
        if len(data) > _MAX_NOISE:
            raise ProtocolError("expected an SFTP version, got other output: no SFTP server?")
        self._noise = data
        return b""
