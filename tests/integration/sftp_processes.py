"""OpenSSH's own sftp-server as a subprocess, and a shell next to it; no SSH around them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from pathlib import Path
from typing import Iterator, List, Optional

from ssh_service.copying.sftp.client import negotiate
from ssh_service.copying.sftp.session import SftpChannel, SftpSession
from ssh_service.copying.shell_command import ProcessChannel, ShellProcess
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


class Shell:
    """The shell next to an SFTP server: runs the copy's commands on this machine."""

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
            stdout = running.stdout.fileno()
            for chunk in iter(lambda: os.read(stdout, 32768), b""):
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
