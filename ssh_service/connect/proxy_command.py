"""ProxyCommand: a command whose stdin and stdout are the stream to the server."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import IO, Optional

from ssh_service import background
from ssh_service.errors import SshConnectError
from ssh_service.transport import printable

__all__ = ["ProxySocket"]

_log = logging.getLogger(__name__)

_MAX_SHOWN_CHARS = 200  # the most characters of a line in logs and errors
_MAX_LINE_BYTES = 4096  # a longer line is split, because the command may never end it
# Seconds to wait for the rest of the stderr of a command that was ended.
_STDERR_TIMEOUT = 0.5
_KILL_DELAY = 1.0  # seconds from TERM to KILL
_CHUNK_SIZE = 64 * 1024


class ProxySocket(socket.socket):
    """
    A socket whose other end is the stdin and stdout of a command.

    It is a real socket, which the transport treats like any other.  `close` ends the command, but
    does not wait for its end.
    """

    _process: Optional[subprocess.Popen[bytes]] = None
    _watcher: Optional[_StderrLogger] = None

    @classmethod
    def start(cls, command: str, connection_id: str) -> ProxySocket:
        """
        Run a proxy command; the caller has already expanded its tokens.

        Raises
        ------
        SshConnectError
            The command could not be started.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = _start(command, theirs)
            except BaseException as error:
                ours.close()
                if not isinstance(error, (OSError, ValueError)):
                    raise
                raise SshConnectError(
                    f"{connection_id}: the proxy command cannot be started: {error}",
                    connection_id=connection_id,
                    phase="tcp",
                ) from error
        sock = cls(fileno=ours.detach())
        sock._process = process
        sock._watcher = _StderrLogger(process, connection_id)
        sock._watcher.start()
        return sock

    def last_stderr_line(self) -> str:
        """Return the last line of the command's stderr, shortened and escaped; "" if none."""
        if self._watcher is None:
            return ""
        self._watcher.join(_STDERR_TIMEOUT)
        return self._watcher.last_line

    def close(self) -> None:
        """Close the stream and end the command."""
        super().close()
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            _end(process)


if sys.platform == "win32":

    def _start(command: str, sock: socket.socket) -> subprocess.Popen[bytes]:
        # A program cannot have a socket of Python's as a stream: two threads carry the bytes.
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            creationflags=subprocess.CREATE_NEW_PROCESS_GROUP,  # as `start_new_session` below
        )
        carry(process, sock.dup())
        return process

    def _end(process: subprocess.Popen[bytes]) -> None:
        process.kill()

else:

    def _start(command: str, sock: socket.socket) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            ["/bin/sh", "-c", "exec " + command],
            stdin=sock.fileno(),
            stdout=sock.fileno(),
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C must not reach the command
        )

    def _end(process: subprocess.Popen[bytes]) -> None:
        background.delay_exit(process)
        try:
            is_signalled = _signal(process, signal.SIGTERM)
            if is_signalled:
                _signal(process, signal.SIGCONT)  # a stopped process gets TERM only now
                kill_at = time.monotonic() + _KILL_DELAY
                background.call_at(kill_at, functools.partial(_kill, process))
        except BaseException:
            background.allow_exit(process)
            raise
        if not is_signalled:
            background.allow_exit(process)

    def _kill(process: subprocess.Popen[bytes]) -> None:
        try:
            if process.returncode is None:  # else its id may be another process's by now
                _signal(process, signal.SIGKILL)
        finally:
            background.allow_exit(process)

    def _signal(process: subprocess.Popen[bytes], number: int) -> bool:
        """Signal all processes of a command; return False if there is none to be signalled."""
        try:
            os.killpg(process.pid, number)  # a pipeline is more than one process
        except ProcessLookupError:
            return False  # the command has just ended
        except PermissionError:
            # It runs as another user, by sudo for example; its stdin has just been closed.
            _log.debug("proxy command %d runs as another user: not signalled", process.pid)
            return False
        return True


def _write_all(pipe: IO[bytes], data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[pipe.write(rest) :]


def carry(process: subprocess.Popen[bytes], sock: socket.socket) -> None:
    """Carry bytes between a socket and the unbuffered pipes of a command; close all of them."""
    stdin, stdout = process.stdin, process.stdout
    assert stdin is not None and stdout is not None

    def send() -> None:
        with stdin as pipe, contextlib.suppress(OSError):
            for data in iter(lambda: sock.recv(_CHUNK_SIZE), b""):
                _write_all(pipe, data)

    def receive() -> None:
        with stdout as pipe, sock, contextlib.suppress(OSError):
            for data in iter(lambda: pipe.read(_CHUNK_SIZE), b""):
                sock.sendall(data)
            sock.shutdown(socket.SHUT_RDWR)  # also ends `send`

    for function in (send, receive):
        threading.Thread(target=function, name="ssh-service-proxy-pipe", daemon=True).start()


class _StderrLogger(threading.Thread):
    """Logs the command's stderr, then reaps the process."""

    def __init__(self, process: subprocess.Popen[bytes], connection_id: str) -> None:
        super().__init__(name=f"ssh-service-proxy-{connection_id}", daemon=True)
        self.last_line = ""
        self._process = process
        self._connection_id = connection_id

    def run(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as stderr:
            for line in iter(lambda: stderr.readline(_MAX_LINE_BYTES), b""):
                text = printable(line.decode("utf-8", "backslashreplace"), _MAX_SHOWN_CHARS)
                if text:
                    self.last_line = text
                    _log.debug("%s: proxy command: %s", self._connection_id, text)
        self._process.wait()
        background.allow_exit(self._process)
