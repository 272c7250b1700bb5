"""SFTP without SSH: copies over a session, and a server made up by a test."""

from __future__ import annotations

import contextlib
import os
import struct
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

from ssh_service.copying import run_copy
from ssh_service.copying.context import CopyContext
from ssh_service.copying.options import Options
from ssh_service.copying.plan import CopyPlan
from ssh_service.copying.running import begin as begin_copy
from ssh_service.copying.sftp import protocol
from ssh_service.copying.sftp.client import negotiate
from ssh_service.copying.sftp.session import SftpChannel, SftpSession
from ssh_service.copying.sftp.time_limits import TimeLimits
from ssh_service.errors import SshTransferError
from tests.common import PATIENCE


def upload(session: SftpSession, source: Any, target: Any, **options: Any) -> Optional[CopyPlan]:
    return _copy(session, True, source, target, options)


def download(session: SftpSession, source: Any, target: Any, **options: Any) -> Optional[CopyPlan]:
    return _copy(session, False, source, target, options)


def _copy(
    session: SftpSession, is_upload: bool, source: Any, target: Any, options: Dict[str, Any]
) -> Optional[CopyPlan]:
    def begin(context: CopyContext) -> Any:
        return begin_copy(is_upload, context).run(os.fsencode(source), os.fsencode(target))

    limits = TimeLimits.from_now(
        options.pop("timeout", None), options.pop("stall_timeout", PATIENCE)
    )
    progress = options.pop("progress", None)
    shell = options.pop("shell", None)
    return run_copy(session, begin, Options(**options).check(), limits, progress, shell)


def check(error: BaseException, code: int, path: Any) -> None:
    """Check that an error of a copy has this errno, and names this path."""
    assert isinstance(error, SshTransferError)
    assert (error.errno, error.filename) == (code, str(path))
    assert repr(str(path)) in str(error)


Request = Tuple[int, int, bytes]


class MadeUpServer(SftpChannel):
    """
    A server whose every answer the test makes up.

    `answer` is called with the kind, the request id and the rest of each request; it returns the
    packets to send back.
    """

    def __init__(
        self,
        answer: Callable[[int, int, bytes], bytes],
        extensions: Optional[Dict[bytes, bytes]] = None,
    ) -> None:
        self._answer = answer
        self._extensions = extensions or {}
        self._received = b""
        self.requests: List[Request] = []
        self.closed = False
        self.session = SftpSession(self)

    def send_some(self, data: memoryview) -> int:
        self._received += bytes(data)
        replies = b""
        while len(self._received) >= 4:
            (size,) = struct.unpack_from(">I", self._received)
            if len(self._received) < 4 + size:
                break
            packet, self._received = self._received[4 : 4 + size], self._received[4 + size :]
            replies += self._reply(packet)
        if replies:
            self.session.feed(replies)
        return len(data)

    def _reply(self, packet: bytes) -> bytes:
        if packet[0] == protocol.INIT:
            pairs = b"".join(string(k) + string(v) for k, v in self._extensions.items())
            return frame(protocol.VERSION_REPLY, 3, pairs)
        request_id = struct.unpack_from(">I", packet, 1)[0]
        self.requests.append((packet[0], request_id, packet[5:]))
        return self._answer(packet[0], request_id, packet[5:])

    def close(self) -> None:
        self.closed = True

    @contextlib.contextmanager
    def ready(self) -> Iterator[SftpSession]:
        negotiate(self.session, PATIENCE)
        yield self.session


def string(value: bytes) -> bytes:
    return struct.pack(">I", len(value)) + value


def frame(kind: int, request_id: int, payload: bytes) -> bytes:
    return struct.pack(">IBI", 5 + len(payload), kind, request_id) + payload


def status(request_id: int, code: int, text: bytes = b"") -> bytes:
    payload = struct.pack(">I", code) + string(text) + string(b"")
    return frame(protocol.STATUS, request_id, payload)


def attributes(mode: int, size: int = 0, mtime: int = 1_600_000_000) -> bytes:
    return struct.pack(">IQIII", 1 | 4 | 8, size, mode, mtime, mtime)
