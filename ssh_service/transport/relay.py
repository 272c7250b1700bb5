"""A real socket in front of a socket-like object, such as a `paramiko.ProxyCommand`."""

from __future__ import annotations

import contextlib
import os
import select
import selectors
import socket
import subprocess
import sys
import threading
from typing import Any, Optional

from paramiko.proxy import ProxyCommand
from paramiko.ssh_exception import ProxyCommandFailure

from ssh_service.locks import Lock

# Bytes of one read.
_READ_SIZE = 64 * 1024
# Seconds between checks whether the relay has been stopped; the same as paramiko's interval.
_POLL_INTERVAL = 0.1
# Seconds that a proxy command has to end, after its output has ended or it was terminated.
_EXIT_TIMEOUT = 0.5
# Bytes of a proxy command's stderr that are kept for the error message.
_MAX_STDERR_BYTES = 1024


class Relay:
    """
    Two threads that copy bytes between a real socket and a socket-like object.

    The transport waits for its socket with `poll`, and never in the middle of a write.  An object
    with only `send`, `recv`, `settimeout` and `close` supports neither, so it gets two threads.

    Parameters
    ----------
    sock : Any
        The connected socket-like object, closed when the relay ends.

    Attributes
    ----------
    socket : socket.socket
        The transport's end.
    error : Optional[BaseException]
        Why the socket-like object failed, if it did.

    Notes
    -----
    Thread safety.  `stop` may be called from any thread, more than once.
    """

    def __init__(self, sock: Any) -> None:
        self.error: Optional[BaseException] = None
        self._sock = _adapter(sock)
        self._pid = os.getpid()
        self._lock = Lock()
        self._started = False  # guarded by _lock
        self._stopped = False  # guarded by _lock; set once, so it may be read without
        self.socket, self._relay_end = socket.socketpair()
        self._inbound = threading.Thread(
            target=self._copy_in, name="ssh-service-relay-in", daemon=True
        )
        self._outbound = threading.Thread(
            target=self._copy_out, name="ssh-service-relay-out", daemon=True
        )

    def start(self) -> None:
        """Start the threads, unless `stop` was called before."""
        with self._lock:
            self._started = not self._stopped
            if self._started:
                self._inbound.start()
                self._outbound.start()

    def stop(self) -> None:
        """End both threads; the caller shuts down the transport's end."""
        with self._lock:
            never_used = not self._started and not self._stopped
            self._stopped = True
        self._sock.interrupt()
        if never_used:  # otherwise the sending thread closes them
            self._sock.close()
            self._relay_end.close()

    def discard(self) -> None:
        """Return the socket-like object to its owner; only before `start`."""
        self.socket.close()
        self._relay_end.close()

    def release(self) -> None:
        """Close the descriptors in a forked child, which does not have the threads."""
        if self._pid != os.getpid():
            self._relay_end.close()

    def _copy_in(self) -> None:
        try:
            while not self._stopped:
                data = self._sock.receive()
                if data is None:
                    continue
                if not data:
                    break
                self._relay_end.sendall(data)
        except Exception as error:
            self._failed(error)
        finally:
            _shut_down(self._relay_end, socket.SHUT_WR)

    def _copy_out(self) -> None:
        try:
            while True:
                view = memoryview(self._relay_end.recv(_READ_SIZE))
                if not view:
                    break
                while view and not self._stopped:
                    view = view[self._sock.send(view) :]
        except Exception as error:
            self._failed(error)
            _shut_down(self._relay_end, socket.SHUT_RDWR)
        finally:
            self.stop()
            self._inbound.join()
            self._sock.close()
            self._relay_end.close()

    def _failed(self, error: Exception) -> None:
        if not self._stopped and self.error is None:
            self.error = error


def close_proxy(proxy: ProxyCommand) -> None:
    """End a proxy command that no transport has used, and close its pipes, too."""
    process = _ProxyProcess(proxy)
    process.interrupt()
    process.close()


def _shut_down(sock: socket.socket, how: int) -> None:
    try:
        sock.shutdown(how)
    except OSError:
        pass  # the other end was closed first


def _adapter(sock: Any) -> Any:
    ssl = sys.modules.get("ssl")  # imported where there is a TLS socket
    if isinstance(sock, ProxyCommand):
        return _ProxyProcess(sock)
    if ssl is not None and isinstance(sock, ssl.SSLSocket):
        return _TlsSocket(sock, ssl)
    return _SocketLike(sock)


class _SocketLike:
    """An object with the socket methods that paramiko uses."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock

    def receive(self) -> Optional[bytes]:
        """Return bytes, b"" at the end, or None if nothing came for a moment."""
        try:
            self._sock.settimeout(_POLL_INTERVAL)
            return bytes(self._sock.recv(_READ_SIZE))
        except socket.timeout:
            return None

    def send(self, data: memoryview) -> int:
        """Send some bytes; return how many."""
        try:
            return int(self._sock.send(bytes(data)))
        except socket.timeout:
            return 0

    def interrupt(self) -> None:
        """Do nothing: no wait is longer than a moment."""

    def close(self) -> None:
        """Close it."""
        self._sock.close()


class _TlsSocket:
    """
    A TLS socket that one thread reads while another writes.

    OpenSSL allows only one call at a time on a connection, and most releases of Python do not
    serialize them: concurrent calls corrupt the stream.
    """

    def __init__(self, sock: Any, ssl: Any) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._lock = Lock()
        self._wants = {ssl.SSLWantReadError: False, ssl.SSLWantWriteError: True}

    def _call(self, method: Any, argument: Any) -> Any:
        """Return the result of a method; wait briefly and return None if it would block."""
        try:
            with self._lock:
                return method(argument)
        except tuple(self._wants) as error:
            is_write = self._wants[type(error)]
        _wait_briefly(self._sock, is_write)
        return None

    def receive(self) -> Optional[bytes]:
        """Return bytes, b"" at the end, or None if nothing came for a moment."""
        data: Optional[bytes] = self._call(self._sock.recv, _READ_SIZE)
        return data

    def send(self, data: memoryview) -> int:
        """Send some bytes; return how many."""
        return self._call(self._sock.send, data) or 0

    def interrupt(self) -> None:
        """Do nothing: no wait is longer than a moment."""

    def close(self) -> None:
        """Close it."""
        self._sock.close()


class _ProxyProcess:
    """
    A `paramiko.ProxyCommand`, through the pipes of its process.

    Its own `recv` never notices the end: see docs/paramiko_repairs.md#proxy-commands.
    """

    def __init__(self, proxy: ProxyCommand) -> None:
        self._command = " ".join(proxy.cmd)
        self._process = proxy.process
        self._stderr_tail = b""
        self._selector = selectors.DefaultSelector()
        for stream in (self._process.stdout, self._process.stderr):
            self._selector.register(stream, selectors.EVENT_READ)

    def receive(self) -> Optional[bytes]:
        """Return bytes of stdout, b"" at its end, or None after bytes of stderr."""
        for key, _ in self._selector.select():
            data = os.read(key.fd, _READ_SIZE)
            if key.fileobj is self._process.stdout:
                if not data:
                    self._check_status()
                return data
            self._stderr_tail = (self._stderr_tail + data)[-_MAX_STDERR_BYTES:]
            if not data:
                self._selector.unregister(key.fileobj)
        return None

    def _check_status(self) -> None:
        try:
            status = self._process.wait(_EXIT_TIMEOUT)
        except subprocess.TimeoutExpired:
            return  # it has only closed its stdout
        if status:
            said = self._stderr_tail.decode("utf-8", "backslashreplace").strip()
            raise ProxyCommandFailure(self._command, said or f"exit status {status}")

    def send(self, data: memoryview) -> int:
        """Send some bytes; return how many."""
        return os.write(self._process.stdin.fileno(), data)

    def interrupt(self) -> None:
        """Terminate the process, which ends every wait for it."""
        if self._process.poll() is None:
            # (Before Python 3.10 it is an error that another thread reaped it just now.)
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()

    def close(self) -> None:
        """Reap the process and close its pipes."""
        try:
            self._process.wait(_EXIT_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._selector.close()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            stream.close()


if sys.platform == "win32":

    def _wait_briefly(sock: Any, is_write: bool) -> None:
        select.select([] if is_write else [sock], [sock] if is_write else [], [], _POLL_INTERVAL)

else:

    def _wait_briefly(sock: Any, is_write: bool) -> None:
        poll = select.poll()  # select.select() cannot watch a descriptor above 1023
        poll.register(sock, select.POLLOUT if is_write else select.POLLIN)
        poll.poll(_POLL_INTERVAL * 1000)
