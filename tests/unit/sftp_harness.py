"""SFTP without SSH: OpenSSH's own sftp-server as a subprocess, or a server made up by a test."""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess
import threading
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

from ssh_service.copying import run_copy
from ssh_service.copying.downloading import Download
from ssh_service.copying.options import Options
from ssh_service.copying.sftp import protocol
from ssh_service.copying.sftp.client import negotiate
from ssh_service.copying.sftp.session import SftpChannel, SftpSession
from ssh_service.copying.sftp.time_limits import TimeLimits
from ssh_service.copying.shell_command import ProcessChannel, ShellProcess
from ssh_service.copying.uploading import Upload
from ssh_service.errors import SshTransferError
from tests.common import PATIENCE


class PipeStream(SftpChannel):
    """The pipes of a server that runs as a subprocess."""

    def __init__(self, program: str, cwd: Path) -> None:
        self.process = subprocess.Popen(
            [program, "-e"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=cwd,
            bufsize=0,
        )
        self.session = SftpSession(self)
        self.reader = threading.Thread(target=self._read, name="test-reader")
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        while True:
            chunk = os.read(self.process.stdout.fileno(), 65536)
            if not chunk:
                break
            self.session.feed(chunk)
        self.session.mark_ended(None)

    def send_some(self, data: memoryview) -> int:
        assert self.process.stdin is not None
        return os.write(self.process.stdin.fileno(), data[:65536])

    def close(self) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()

    def end(self) -> None:
        self.close()
        self.process.wait(PATIENCE)
        self.reader.join(PATIENCE)
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextlib.contextmanager
def real_session(program: str, cwd: Path) -> Iterator[SftpSession]:
    """Give a session of an sftp-server that begins in a folder."""
    stream = PipeStream(program, cwd)
    try:
        negotiate(stream.session, PATIENCE)
        yield stream.session
    finally:
        stream.end()


def upload(session: SftpSession, source: Any, target: Any, **options: Any) -> None:
    _copy(
        session,
        lambda context: Upload(context).run(os.fsencode(source), os.fsencode(target)),
        options,
    )


def download(session: SftpSession, source: Any, target: Any, **options: Any) -> None:
    _copy(
        session,
        lambda context: Download(context).run(os.fsencode(source), os.fsencode(target)),
        options,
    )


def _copy(session: SftpSession, begin: Any, options: Dict[str, Any]) -> None:
    limits = TimeLimits.from_now(
        options.pop("timeout", None), options.pop("stall_timeout", PATIENCE)
    )
    progress = options.pop("progress", None)
    shell = options.pop("shell", None)
    run_copy(session, begin, Options(**options).check(), limits, progress, shell)


class Shell:
    """The shell beside an SFTP server: runs what a copy asks for, here."""

    def __init__(self, cwd: Path, path: Optional[str] = None) -> None:
        self.cwd = cwd
        self.environment = {"PATH": path or os.environ["PATH"]}
        self.prologue = b""
        self.commands: List[bytes] = []
        self.readers: List[threading.Thread] = []

    def wait(self) -> None:
        """Wait until all that was started has ended; a copy that failed may not have."""
        for reader in self.readers:
            reader.join(PATIENCE)

    def __call__(self, command: bytes, process: ShellProcess) -> None:
        self.commands.append(command)
        process.channel = _LocalCommand(self, self.prologue + command, process)


class _LocalCommand(ProcessChannel):
    def __init__(self, shell: Shell, command: bytes, process: ShellProcess) -> None:
        self._process = process
        self._running = subprocess.Popen(
            ["/bin/sh", "-c", command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=shell.cwd,
            env=shell.environment,
            bufsize=0,
        )
        shell.readers.append(threading.Thread(target=self._read, name="test-command"))
        shell.readers[-1].start()

    def _read(self) -> None:
        with self._running as running:
            assert running.stdout is not None
            for chunk in iter(lambda: os.read(running.stdout.fileno(), 32768), b""):
                self._process.feed(chunk)
        self._process.on_exit(running.returncode)

    def send_some(self, data: memoryview) -> int:
        assert self._running.stdin is not None
        try:
            return os.write(self._running.stdin.fileno(), data[:65536])
        except (OSError, ValueError):
            return 0

    def send_eof(self) -> None:
        assert self._running.stdin is not None
        with contextlib.suppress(OSError):
            self._running.stdin.close()

    def adjust_window(self, size: int) -> None:
        """Nothing: the pipe keeps the bounds."""

    def close(self) -> None:
        self.send_eof()


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
