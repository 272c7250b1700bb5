"""The stream from an SFTP server, cut into packets."""

from __future__ import annotations

import re
import struct
from typing import List, NamedTuple, Optional

from ssh_service.copying.sftp.protocol import MAX_PACKET, Pieces, ProtocolError

__all__ = ["Packet", "PacketReader"]

_HEAD = struct.Struct(">IBI")
# The first piece of a packet has at least its head and the number after that, if there is one.
_BEGINNING = 13
# Far below what one call of the system takes (IOV_MAX).
_MAX_PIECES = 256
# The server's hello: its size, its kind, a version.
_HELLO = re.compile(rb"\0[\0-\x04]..\x02\0\0\0[\0-\x0f]", re.DOTALL)
# Bytes that a profile may print before it.
_MAX_NOISE = 64 * 1024


class Packet(NamedTuple):
    """One packet from the server, taken out of the stream."""

    kind: int
    request_id: int  # of a hello, which has none: the version
    pieces: Pieces

    @property
    def body(self) -> bytes:
        """All that comes after the request id, in one piece."""
        return b"".join(self.pieces)


class PacketReader:
    """
    Cuts a stream, which comes in chunks of any size, into packets.

    Data that spans chunks is never put together: it is going to be written to a file, and that
    takes pieces as well.

    Parameters
    ----------
    after_noise : bool
        Whether something else may come before the first packet, which is the hello then.
    """

    def __init__(self, after_noise: bool = False) -> None:
        self._noise: Optional[bytes] = b"" if after_noise else None  # None once packets come
        self._head = b""  # the first bytes of a packet, while they are too few to tell its size
        self._unfinished: Optional[Packet] = None  # of which there are some pieces
        self._missing = 0  # bytes of that

    @property
    def unfinished(self) -> Optional[int]:
        """The request id of the packet of which a part has come, if there is one."""
        return None if self._unfinished is None else self._unfinished.request_id

    def feed(self, chunk: bytes) -> List[Packet]:
        """Take a chunk in; give the packets that it completes, in order."""
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
                raise ProtocolError(f"a packet of {size} bytes, 5 to {MAX_PACKET} are allowed")
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
        """Add what belongs to a packet of which some has come; tell how much that is."""
        size = min(self._missing, len(chunk))
        pieces = packet.pieces
        pieces.append(memoryview(chunk)[:size])
        if len(pieces) > _MAX_PIECES:  # from a server that sends crumbs
            pieces[:] = [memoryview(b"".join(pieces))]
        self._missing -= size
        return size

    def _without_noise(self, data: bytes) -> bytes:
        """Give what comes from the hello on: what a profile prints comes before it."""
        self._noise = None
        if data.startswith(b"\0"):  # the size of a packet; no text begins like that
            return data
        match = _HELLO.search(data)
        if match is not None:
            return data[match.start() :]
        if len(data) > _MAX_NOISE:
            raise ProtocolError("the server says a lot, but no version: no SFTP server?")
        self._noise = data
        return b""
