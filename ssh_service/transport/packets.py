"""paramiko's `Packetizer` on a `Wire`, with limits on what a peer may send."""

from __future__ import annotations

import struct
import time
import zlib
from typing import Any, Callable, List, Optional, Tuple

from cryptography.exceptions import InvalidTag
from paramiko.common import MSG_EXT_INFO, MSG_NAMES, MSG_USERAUTH_INFO_REQUEST
from paramiko.message import Message
from paramiko.packet import NeedRekeyException
from paramiko.ssh_exception import SSHException

from ssh_service.transport.aead import AeadPacketizer
from ssh_service.transport.wire import Buffer, Wire

# OpenSSH's PACKET_MAX_SIZE; paramiko has no limit: see docs/paramiko_repairs.md#packet-size
PACKET_MAX_SIZE = 256 * 1024
# Messages that begin with a count of items: see docs/paramiko_repairs.md#announced-counts
_COUNTED_MESSAGES = (MSG_EXT_INFO, MSG_USERAUTH_INFO_REQUEST)
# Bytes a server may send before its identification line (RFC 4253 section 4.2); paramiko has no
# limit: see docs/paramiko_repairs.md#identification-lines
BANNER_MAX_SIZE = 8 * 1024
_UINT32 = struct.Struct(">I")


class _StrictMessage(Message):  # type: ignore[misc]
    """A message whose fields must not extend beyond its end."""

    def get_bytes(self, n: int) -> bytes:
        """Return the next `n` bytes; raise if there are fewer."""
        data = bytes(self.packet.read(n))
        if len(data) < n:
            raise SSHException(f"truncated message: expected {n} more bytes, got {len(data)}")
        return data


class Inflater:
    """paramiko's `ZlibDecompressor`, bounded: see docs/paramiko_repairs.md#compressed-size."""

    def __init__(self) -> None:
        self._z = zlib.decompressobj()

    def __call__(self, data: bytes) -> bytes:
        """Inflate a packet."""
        out = self._z.decompress(data, PACKET_MAX_SIZE)
        if self._z.unconsumed_tail:
            raise SSHException(f"a packet decompresses to more than {PACKET_MAX_SIZE} bytes")
        return out


class SshPacketizer(AeadPacketizer):
    """
    Read and write packets on a `Wire`.

    Parameters
    ----------
    wire : Wire
        The bytes in and out.

    Attributes
    ----------
    deadline : Optional[float]
        Monotonic instant by which the identification line must arrive.
    before_wait : Callable[[], Optional[float]]
        Called by the reader before it waits; returns for how many seconds it may, or raises.
    wants_to_write : Callable[[], bool]
        Returns whether the reader should wake when the wire becomes writable.
    may_begin_rekey : Callable[[], bool]
        Returns whether the reader may stop waiting when new keys are due: not during a key
        exchange, where the peer has to act.
    on_channel_message : Callable[[int, bytes], bool]
        Called with the type and the rest of each message, unless new keys are due; returns
        whether it handled the message, which then does not pass through paramiko's reader.
    on_unknown_message : Optional[Callable[[int], None]]
        Called with the sequence number of a message of unknown type.
    corked : int
        Bytes buffered since `cork`.
    banner : List[str]
        The lines the server sent before its identification.
    """

    def __init__(self, wire: Wire) -> None:
        super().__init__(wire)
        self._wire = wire
        self._chunk = b""  # received, not yet read from _position on
        self._position = 0
        self._corked: Optional[List[bytes]] = None  # guarded by the transport's send lock
        self.corked = 0  # guarded by it, too
        self.deadline: Optional[float] = None
        self.before_wait: Callable[[], Optional[float]] = _no_limit
        self.wants_to_write: Callable[[], bool] = bool
        self.may_begin_rekey: Callable[[], bool] = bool
        self.on_channel_message: Callable[[int, bytes], bool] = _handle_none
        self.on_unknown_message: Optional[Callable[[int], None]] = None
        self.banner: List[str] = []

    # paramiko's timer thread outlives a failed connect; `SshTransport.handshake` has a deadline
    # instead: see docs/paramiko_repairs.md#handshake-timeout

    def start_handshake(self, timeout: float) -> None:
        """Start no timer; see above."""

    def handshake_timed_out(self) -> bool:
        """Return False; see above."""
        return False

    def complete_handshake(self) -> None:
        """Stop no timer; see above."""

    def read_all(self, n: int, check_rekey: bool = False) -> bytes:
        """
        Read exactly `n` bytes.

        With `check_rekey`, the wait is interrupted if new keys are due.

        Raises
        ------
        EOFError
            The stream ended.
        SSHException
            `n` exceeds the packet limit, or the keepalives were not answered.
        """
        begin = self._position
        end = begin + n
        if begin <= end <= len(self._chunk):  # the common case: no system call, no join
            self._position = end
            return self._chunk[begin:end]
        return self._read_pieces(n, check_rekey)

    def _read_pieces(self, n: int, check_rekey: bool) -> bytes:
        if not 0 <= n <= PACKET_MAX_SIZE:
            raise SSHException(
                f"the server announced a packet of {n} bytes (limit: {PACKET_MAX_SIZE})"
            )
        parts = [self._chunk[self._position :]]
        self._chunk, self._position = b"", 0  # an idle connection keeps nothing
        missing = n - len(parts[0])
        while missing > 0:
            chunk = self._receive(check_rekey and missing == n)
            parts.append(chunk[:missing])
            self._chunk, self._position = chunk, min(missing, len(chunk))
            missing -= len(parts[-1])
        return b"".join(parts)

    def _receive(self, may_rekey: bool) -> bytes:
        while True:
            wait = self.before_wait()
            if may_rekey and self.need_rekey() and self.may_begin_rekey():
                raise NeedRekeyException()
            data = self._wire.recv(wait, self.wants_to_write())
            if data is None:
                continue
            if not data:
                raise EOFError("the server closed the connection")
            return data

    def write_all(self, out: Buffer) -> None:
        """
        Write an encrypted packet.

        Raises
        ------
        OSError
            The connection is closed, or the peer does not accept data.
        """
        # paramiko retries without end: see docs/paramiko_repairs.md#stalled-write
        if self._corked is None:
            self._wire.sendall(out)
        else:
            self._corked.append(bytes(out))
            self.corked += len(out)

    def cork(self) -> None:
        """Buffer writes until `uncork`; the transport's send lock is held."""
        self._corked, self.corked = [], 0

    def uncork(self, wait: bool = True) -> None:
        """
        Write the buffer in one piece: each write costs a system call here and a wake-up there.

        With `wait`, block until all of it is written.

        Raises
        ------
        OSError
            As from `write_all`.
        """
        corked, self._corked = self._corked or [], None
        data = corked[0] if len(corked) == 1 else b"".join(corked)
        (self._wire.sendall if wait else self._wire.send_nowait)(data)

    def readline(self, timeout: float) -> str:
        """
        Read a line before the first packet.

        `timeout` restarts with each byte and is ignored; `deadline` holds.

        Raises
        ------
        SSHException
            The deadline passed, or the server sent too much before its identification.
        EOFError
            The stream ended.
        """
        while b"\n" not in self._chunk:
            if sum(map(len, self.banner)) + len(self._chunk) > BANNER_MAX_SIZE:
                raise SSHException(
                    f"no SSH identification in the first {BANNER_MAX_SIZE} bytes of the server"
                )
            wait = None if self.deadline is None else self.deadline - time.monotonic()
            data = self._wire.recv(wait) if wait is None or wait > 0 else None
            if data is None:
                raise SSHException("the server did not identify itself in time")
            if not data:
                raise EOFError("the server closed the connection")
            self._chunk += data
        line, _, self._chunk = self._chunk.partition(b"\n")
        text = line.rstrip(b"\r").decode("utf-8", "backslashreplace")
        self.banner.append(text)
        return text

    def read_message(self) -> Tuple[int, Message]:
        """Read the next packet; return the message's type and the message."""
        while True:
            try:
                kind, rest, number = self.read_packet()
            except InvalidTag as error:  # see docs/paramiko_repairs.md#altered-packet
                raise SSHException("Mismatched MAC") from error
            # paramiko must see each packet of the first key exchange, for strict kex, and also
            # when new keys are due.
            if (
                self._initial_kex_done
                and not self._Packetizer__need_rekey
                and self.on_channel_message(kind, rest)
            ):
                continue
            # paramiko raises KeyError: see docs/paramiko_repairs.md#unknown-message
            if kind in MSG_NAMES or not self._initial_kex_done or self.on_unknown_message is None:
                message = (_StrictMessage if kind in _COUNTED_MESSAGES else Message)(rest)
                message.seqno = number
                return kind, message
            self.on_unknown_message(number)


def _no_limit() -> Optional[float]:
    return None


def _handle_none(kind: int, rest: bytes) -> bool:
    return False


class Fields:
    """
    The fields of a received message, in order (RFC 4251 section 5).

    Each method raises `SSHException` if the message ends before its field.
    """

    __slots__ = ("_data", "_at")

    def __init__(self, data: bytes, at: int = 0) -> None:
        self._data = data
        self._at = at

    def uint32(self) -> int:
        """Return the next field, a number."""
        at, self._at = self._at, self._at + _UINT32.size
        if self._at > len(self._data):
            raise _truncated_error()
        return int(_UINT32.unpack_from(self._data, at)[0])

    def boolean(self) -> bool:
        """Return the next field, a boolean."""
        at, self._at = self._at, self._at + 1
        if self._at > len(self._data):
            raise _truncated_error()
        return self._data[at] != 0

    def string(self) -> bytes:
        """Return the next field, a string."""
        at = self._at + _UINT32.size
        self._at = at + self.uint32()
        if self._at > len(self._data):
            raise _truncated_error()
        return self._data[at : self._at]


def _truncated_error() -> SSHException:
    return SSHException("truncated message: it ends within a field")


def message(kind: bytes, *fields: Any) -> Message:
    """Build a message; the fields are bool, int (uint32), str and bytes (RFC 4251 section 5)."""
    parts = [kind]
    for field in fields:
        if isinstance(field, bool):
            parts.append(b"\1" if field else b"\0")
        elif isinstance(field, int):
            parts.append(_UINT32.pack(field))
        else:
            text = field.encode() if isinstance(field, str) else field
            parts += (_UINT32.pack(len(text)), text)
    out = Message()
    out.add_bytes(b"".join(parts))  # at once: paramiko takes three to five calls for each field
    return out
