"""
Packets in and out: paramiko's cipher work over our own wire, with bounds on what a peer may say.

Only the input and output of paramiko's `Packetizer` are replaced here; everything that encrypts,
authenticates and counts stays paramiko's.
"""

from __future__ import annotations

import struct
import time
import zlib
from typing import Any, Callable, List, Optional, Tuple

from paramiko.common import MSG_EXT_INFO, MSG_NAMES, MSG_USERAUTH_INFO_REQUEST
from paramiko.message import Message
from paramiko.packet import NeedRekeyException, Packetizer
from paramiko.ssh_exception import SSHException

from ssh_service.transport.wire import Buffer, Wire

# OpenSSH's PACKET_MAX_SIZE; paramiko has no limit: see docs/paramiko_repairs.md#packet-size
PACKET_MAX_SIZE = 256 * 1024
# Messages with a count of items in front: see docs/paramiko_repairs.md#announced-counts
_COUNTED_MESSAGES = (MSG_EXT_INFO, MSG_USERAUTH_INFO_REQUEST)
# Bytes a server may send before its identification line (RFC 4253 section 4.2); paramiko has no
# limit: see docs/paramiko_repairs.md#identification-lines
BANNER_MAX_SIZE = 8 * 1024
_UINT32 = struct.Struct(">I")


class _StrictMessage(Message):  # type: ignore[misc]
    """A message that can be read to its end, not beyond it."""

    def get_bytes(self, n: int) -> bytes:
        """Return the next bytes; fewer than `n` are an error."""
        data = bytes(self.packet.read(n))
        if len(data) < n:
            raise SSHException("a message announces more than it holds")
        return data


class Inflater:
    """paramiko's `ZlibDecompressor`, bounded: see docs/paramiko_repairs.md#compressed-size."""

    def __init__(self) -> None:
        self._z = zlib.decompressobj()

    def __call__(self, data: bytes) -> bytes:
        """Inflate a packet."""
        out = self._z.decompress(data, PACKET_MAX_SIZE)
        if self._z.unconsumed_tail:
            raise SSHException("a packet is too large once decompressed")
        return out


class SshPacketizer(Packetizer):  # type: ignore[misc]
    """
    Read and write packets on a `Wire`.

    Parameters
    ----------
    wire : Wire
        Where the bytes come from and go to.

    Attributes
    ----------
    deadline : Optional[float]
        The monotonic instant by which the identification line must have come.
    before_wait : Callable[[], Optional[float]]
        Called by the reader before it waits; says for how many seconds it may, or raises.
    wants_to_write : Callable[[], bool]
        Says whether the reader should wake as soon as something could be written.
    may_begin_rekey : Callable[[], bool]
        Says whether the reader may be torn from its wait when new keys are due: not while they are
        being exchanged, as then it is the peer's turn.
    on_unknown_message : Optional[Callable[[int], None]]
        Called with the sequence number of a message of a type nobody knows.
    corked : int
        How many bytes are kept since `cork`.
    banner : List[str]
        The lines the server sent before its identification.
    """

    def __init__(self, wire: Wire) -> None:
        super().__init__(wire)
        self._wire = wire
        self._chunk = b""  # received but not yet asked for, from _position on
        self._position = 0
        self._corked: Optional[List[bytes]] = None  # guarded by the transport's gate
        self.corked = 0  # guarded by it, too
        self.deadline: Optional[float] = None
        self.before_wait: Callable[[], Optional[float]] = _no_limit
        self.wants_to_write: Callable[[], bool] = bool
        self.may_begin_rekey: Callable[[], bool] = bool
        self.on_unknown_message: Optional[Callable[[int], None]] = None
        self.banner: List[str] = []

    # paramiko's timer thread outlives a failed connect; `SshTransport.handshake` has a deadline
    # instead: see docs/paramiko_repairs.md#handshake-timeout

    def start_handshake(self, timeout: float) -> None:
        """Start no timer; see above."""

    def handshake_timed_out(self) -> bool:
        """Say no; see above."""
        return False

    def complete_handshake(self) -> None:
        """Stop no timer; see above."""

    def read_all(self, n: int, check_rekey: bool = False) -> bytes:
        """
        Read exactly `n` bytes.

        Parameters
        ----------
        n : int
            How many bytes.
        check_rekey : bool
            Whether the wait may be given up because new keys are due.

        Returns
        -------
        bytes
            The bytes.

        Raises
        ------
        EOFError
            The stream ended.
        SSHException
            More was asked for than a packet may hold, or the peer fell silent.
        """
        if not 0 <= n <= PACKET_MAX_SIZE:
            raise SSHException(f"the server announced a packet of {n} bytes")
        end = self._position + n
        if end <= len(self._chunk):  # the common case: no system call, no join
            out = self._chunk[self._position : end]
            self._position = end
            return out
        parts = [self._chunk[self._position :]]
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
        Write a packet.

        Parameters
        ----------
        out : bytes
            The packet, encrypted.

        Raises
        ------
        OSError
            The connection is closed, or the peer takes nothing any more.
        """
        # paramiko's retries without end: see docs/paramiko_repairs.md#stalled-write
        if self._corked is None:
            self._wire.sendall(out)
        else:
            self._corked.append(bytes(out))
            self.corked += len(out)

    def cork(self) -> None:
        """Keep what is written from now on, for `uncork`; the transport's gate is held."""
        self._corked, self.corked = [], 0

    def uncork(self, wait: bool = True) -> None:
        """
        Write what was kept, at once: each write costs a system call here and a wake-up there.

        Parameters
        ----------
        wait : bool
            Whether the call may wait until the network has room for all of it.

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
        Read a line of what comes before the first packet.

        Parameters
        ----------
        timeout : float
            Ignored, as it begins anew with each byte; `deadline` holds.

        Returns
        -------
        str
            The line, without its end.

        Raises
        ------
        SSHException
            The time is up, or the server talks too much.
        EOFError
            The stream ended.
        """
        while b"\n" not in self._chunk:
            if sum(map(len, self.banner)) + len(self._chunk) > BANNER_MAX_SIZE:
                raise SSHException("the server talks, but not SSH")
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
        """
        Read the next packet.

        Returns
        -------
        Tuple[int, Message]
            The message's type, and the message.
        """
        while True:
            kind, message = super().read_message()
            if kind in _COUNTED_MESSAGES:
                message.__class__ = _StrictMessage
            # paramiko raises KeyError: see docs/paramiko_repairs.md#unknown-message
            # In the first key exchange it must see every packet, so that strict-kex can refuse it.
            if kind in MSG_NAMES or not self._initial_kex_done or self.on_unknown_message is None:
                return kind, message
            self.on_unknown_message(message.seqno)


def _no_limit() -> Optional[float]:
    return None


def message(kind: bytes, *fields: Any) -> Message:
    """
    Build a message.

    Parameters
    ----------
    kind : bytes
        The message type, one byte.
    *fields : Any
        bool, int (uint32), str and bytes, each added in its wire form (RFC 4251 section 5).

    Returns
    -------
    Message
        Ready to be sent.
    """
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
