"""The command ``shell``, after the command line was parsed."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import sys
import threading
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

from ssh_service.cli.local_terminal import EscapeFilter, LocalTerminal
from ssh_service.cli.report import escape_control_characters, in_options
from ssh_service.cli.targets import connect_parameters
from ssh_service.connections.cache import SshClientCache
from ssh_service.errors import SshConfigError, SshServiceError
from ssh_service.fleet.hosts import connect_params
from ssh_service.locks import Lock
from ssh_service.transport import SshChannel

__all__ = ["run"]

# The exit status where there is none of the host's, as ssh's.
_NO_STATUS = 255
_MAX_READ = 32 * 1024
# Seconds to wait for the exit status after the end of the output.
_STATUS_TIMEOUT = 10.0
_STDIN, _STDOUT, _STDERR = 0, 1, 2
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def run(host: str, command: Tuple[str, ...], **options: Any) -> int:
    """Run a shell or a command on a host, connected to this terminal; return its exit status."""
    connect = connect_params(host, connect_parameters(options, [host]))
    cache = SshClientCache()
    try:
        with cache.lease(connect) as (transport, _):
            return _Session(transport.open_session(), " ".join(command)).run()
    except SshConfigError:
        raise
    except SshServiceError as error:
        _say(in_options(str(error)))
        return _NO_STATUS
    finally:
        cache.cleanup()


class _Session:
    """
    A session on a channel, connected to the standard streams.

    The main thread only waits, for signals and for the end; daemon threads copy the streams, so
    that a blocked one holds up neither the others nor a signal.
    """

    def __init__(self, channel: SshChannel, command: str) -> None:
        self._channel, self._command = channel, command
        self._terminal = LocalTerminal(_STDIN) if os.isatty(_STDIN) else None
        self._signals: List[int] = []
        self._closing = False  # by `~.`, or as the output cannot be written
        self._left = False  # by `~.`
        self._error: Optional[Exception] = None
        self._open_outputs = 2  # changed only under _lock
        self._lock = Lock()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)

    def run(self) -> int:
        try:
            with self._handle_signals():
                try:
                    self._request()
                    number = self._wait()
                finally:
                    if self._terminal:
                        self._terminal.restore()
            return 128 + number if number else self._status()
        finally:
            self._channel.close()

    @contextlib.contextmanager
    def _handle_signals(self) -> Iterator[None]:
        """Let signals wake the main thread, and raise nothing."""
        numbers: List[int] = [*_ENDING]
        if self._terminal:
            numbers += [signal.SIGWINCH, signal.SIGTSTP, signal.SIGCONT]
        before: Dict[int, Any] = {}
        descriptor = signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        try:
            for number in numbers:
                before[number] = signal.signal(number, self._on_signal)
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(descriptor)

    def _on_signal(self, number: int, _: Any) -> None:
        self._signals.append(number)

    def _request(self) -> None:
        """Request the terminal and the shell, and begin to copy."""
        channel = self._channel
        if self._terminal:
            width, height = self._terminal.size()
            channel.get_pty(os.environ.get("TERM") or "dumb", width, height)
            self._terminal.enter_raw()
        if self._command:
            channel.exec_command(self._command)
        else:
            channel.invoke_shell()
        for function, *arguments in (
            (self._copy_input,),
            (self._copy, channel.recv, _STDOUT),
            (self._copy, channel.recv_stderr, _STDERR),
        ):
            threading.Thread(target=function, args=arguments, daemon=True).start()

    def _wait(self) -> int:
        """Wait for the end; return the number of the signal that caused it, or 0."""
        while self._open_outputs and not self._closing:
            select.select([self._wake_read], [], [])
            os.read(self._wake_read, _MAX_READ)
            while self._signals:
                number = self._signals.pop(0)
                if number in _ENDING:
                    return number
                self._handle(number)
        return 0

    def _handle(self, number: int) -> None:
        terminal = self._terminal
        if terminal is None:
            return
        if number == signal.SIGTSTP:
            terminal.restore()
            os.kill(os.getpid(), signal.SIGSTOP)
        if number != signal.SIGWINCH:  # another program may have used the terminal
            terminal.enter_raw()
        with contextlib.suppress(SshServiceError, OSError):  # the session has just ended
            self._channel.resize_pty(*terminal.size())

    def _status(self) -> int:
        if self._error is not None or self._left:
            if self._terminal:  # the cursor is behind the host's prompt
                with contextlib.suppress(OSError):
                    _write(_STDERR, b"\n")
            _say("connection closed" if self._error is None else str(self._error))
            return _NO_STATUS
        if self._closing:
            return _NO_STATUS
        status = self._channel.recv_exit_status(_STATUS_TIMEOUT)
        signalled = self._channel.exit_signal
        if signalled is not None:
            _say(f"ended by signal {signalled[0]}")
            return 128 + getattr(signal, f"SIG{signalled[0]}", 127)
        return status if status >= 0 else _NO_STATUS

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # full: the main thread is to wake anyway
            os.write(self._wake_write, b"\0")

    def _copy(self, receive: Callable[[int], bytes], target: int) -> None:
        try:
            for data in iter(lambda: receive(_MAX_READ), b""):
                _write(target, data)
        except SshServiceError as error:
            self._error = error
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                self._error = OSError(f"cannot write the output: {error.strerror}")
            self._closing = True  # otherwise, nobody reads the output
        with self._lock:
            self._open_outputs -= 1
        self._wake()

    def _copy_input(self) -> None:
        with contextlib.suppress(OSError):  # the session, or the terminal, is gone
            self._send_input()

    def _send_input(self) -> None:
        escapes = EscapeFilter() if self._terminal else None
        for data in iter(lambda: _read(_STDIN), b""):
            leave = False
            if escapes is not None:
                data, leave = escapes.feed(data)
            if data:
                self._channel.sendall(data)
            if leave:
                self._left = self._closing = True
                self._wake()
                return
        self._channel.shutdown_write()


def _read(descriptor: int) -> bytes:
    while True:
        try:
            return os.read(descriptor, _MAX_READ)
        except BlockingIOError:  # another program made the terminal non-blocking
            select.select([descriptor], [], [])


def _write(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:
            select.select([], [descriptor], [])


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        escaped = escape_control_characters(text.encode("utf-8", "backslashreplace")).decode()
        print(f"ssh-service: {escaped}", file=sys.stderr, flush=True)
