"""
A TCP proxy on loopback that injects network faults on request.

One thread forwards the bytes of all connections, unchanged until a fault is requested.  The
directions are ``to_server`` and ``to_client``.
"""

from __future__ import annotations

import collections
import concurrent.futures
import selectors
import socket
import struct
import threading
import time
from typing import Any, Callable, Deque, Dict, List, Optional, Set, Tuple, Union

from ssh_service.testing.local_server import LocalServer

__all__ = ["FaultProxy"]

_DIRECTIONS = ("to_server", "to_client")

_CHUNK = 64 * 1024
"""The maximum number of bytes per read."""

_BUFFER = 4 * 1024 * 1024
"""The number of bytes buffered per direction of a connection, before the proxy stops reading."""

_TIMEOUT = 10.0
"""Seconds to wait for the proxy's thread before raising an error."""


_Call = Tuple[Callable[[], object], "concurrent.futures.Future[None]"]


class _Stream:
    """One direction of a connection: bytes from `source` to `sink`, with times to send them."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source = source
        self.sink = sink
        self.queue: Deque[Tuple[float, bytes]] = collections.deque()
        self.queued = 0
        self.at_eof = False  # the source has ended; the sink gets EOF once the queue is empty
        self.finished = False
        self.limit: Optional[int] = None  # the number of bytes that may still be forwarded
        self.corrupt: Optional[int] = None  # the number of bytes before the one to invert

    def due(self) -> Optional[float]:
        """Return the time of the next action for the sink; None if there is none."""
        if self.finished:
            return None
        if self.queue:
            return self.queue[0][0]
        return 0.0 if self.at_eof else None


class _Link:
    """One connection: two sockets, two streams."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.sockets = (client, server)
        self.streams = {
            "to_server": _Stream(client, server),
            "to_client": _Stream(server, client),
        }


class FaultProxy:
    """
    Forwards connections from a port of 127.0.0.1 to a server; a context manager.

    Parameters
    ----------
    host : Union[str, LocalServer]
        The server to forward connections to: an `Sshd`, a `MockSshd`, or a host name.
    port : Optional[int]
        The port, required if `host` is a name.

    Attributes
    ----------
    host : str
        The address that the proxy listens on: 127.0.0.1.
    port : int
        The port that the proxy listens on, chosen by the kernel.
    delay : float
        Latency in seconds, in each direction, for bytes read from now on; the bandwidth is not
        limited.
    slice_size : Optional[int]
        The maximum number of bytes forwarded at once; None: no limit.
    accepted : int
        The number of connections accepted so far.

    Notes
    -----
    *Thread safety*: every method may be called from any thread, and returns after it has taken
    effect.
    *Guarantees*: bytes keep their order; EOF is forwarded after the bytes before it; `close`
    leaves no thread and no socket behind.

    Examples
    --------
    >>> with FaultProxy(server) as proxy:
    ...     run(proxy.connect_params, "true")
    ...     proxy.freeze()
    """

    host = "127.0.0.1"

    def __init__(self, host: Union[str, LocalServer], port: Optional[int] = None) -> None:
        self._server: Optional[LocalServer] = None
        if isinstance(host, LocalServer):
            if port is not None:
                raise TypeError(f"port: expected none with a server, got {port!r}")
            self._server = host
            host, port = self._server.host, self._server.port
        elif port is None:
            raise TypeError("port: expected with a host, got none")
        self.delay = 0.0
        self.slice_size: Optional[int] = None
        self.accepted = 0
        self._target = (host, port)
        self._lock = threading.Lock()
        self._closing = False  # guarded by _lock
        self._calls: Deque[_Call] = collections.deque()  # guarded by _lock
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)
        # Only the proxy's thread uses the following fields; other threads use `_call`.
        self._links: List[_Link] = []
        self._frozen: Set[str] = set()
        self._limits: Dict[str, int] = {}
        self._corruptions: Dict[str, int] = {}
        self._at_limit: Callable[[_Link], None] = self._cut
        self._selector = selectors.DefaultSelector()
        self.port = 0
        self._listener: Optional[socket.socket] = None
        self._listen()
        if self._server is not None:
            self._server.trust_port(self.port)
        self._thread = threading.Thread(
            target=self._run, name=f"fault-proxy-{self.port}", daemon=True
        )
        self._thread.start()

    def __enter__(self) -> "FaultProxy":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<FaultProxy {self.port} -> {self._target[0]}:{self._target[1]}>"

    @property
    def connect_params(self) -> Dict[str, Any]:
        """The server's connect parameters, with the proxy's port; a new dict each time."""
        return {**self._require_server().connect_params, "port": self.port}

    @property
    def service_config(self) -> Dict[str, Any]:
        """The config of a service for the server, with the proxy's port; a new dict each time."""
        return {**self._require_server().service_config, "ssh_port": self.port}

    @property
    def target(self) -> Dict[str, Any]:
        """Parameters for a call of such a service; a new dict each time."""
        return self._require_server().target

    def _require_server(self) -> LocalServer:
        if self._server is None:
            raise RuntimeError(f"{self!r} knows only a host and a port: use FaultProxy(server)")
        return self._server

    @property
    def connections(self) -> int:
        """The number of open connections."""
        return len(self._links)

    # -- faults ---------------------------------------------------------------------------------

    def cut(self) -> None:
        """Close every connection at both ends, normally (FIN)."""
        self._call(lambda: self._end_all(reset=False))

    def reset(self) -> None:
        """Close every connection at both ends with a reset (RST)."""
        self._call(lambda: self._end_all(reset=True))

    def freeze(self, direction: str = "both") -> None:
        """Stop forwarding data and EOF, on existing and later connections."""
        names = _directions(direction)
        self._call(lambda: self._frozen.update(names))

    def thaw(self, direction: str = "both") -> None:
        """Forward the data held back by `freeze`, and continue."""
        names = _directions(direction)
        self._call(lambda: self._frozen.difference_update(names))

    def limit_after(self, count: int, direction: str = "both", *, then: str = "cut") -> None:
        """
        Close a connection after it has forwarded a number of further bytes.

        Parameters
        ----------
        count : int
            The number of bytes, counted per connection: for open ones from now on, and for later
            ones.
        direction : str
            The bytes that count: ``to_server``, ``to_client``, or ``both``, each separately.
        then : str
            How to close the connection: ``cut`` or ``reset``.
        """
        names = _directions(direction)
        action = {"cut": self._cut, "reset": self._reset}[then]

        def apply() -> None:
            self._at_limit = action
            for name in names:
                self._limits[name] = count
                for link in self._links:
                    link.streams[name].limit = count

        self._call(apply)

    def corrupt_at(self, offset: int, direction: str = "to_server") -> None:
        """Invert the byte that follows the next `offset` bytes, once per connection."""
        names = _directions(direction)

        def apply() -> None:
            for name in names:
                self._corruptions[name] = offset
                for link in self._links:
                    link.streams[name].corrupt = offset

        self._call(apply)

    def refuse(self) -> None:
        """Refuse new connections; open connections continue."""
        self._call(self._refuse)

    def admit(self) -> None:
        """Accept new connections again, on the same port."""
        self._call(self._listen)

    def heal(self) -> None:
        """Undo every fault: no delay, and nothing is frozen, limited, corrupted or refused."""
        self.delay = 0.0
        self.slice_size = None

        def apply() -> None:
            self._frozen.clear()
            self._limits.clear()
            self._corruptions.clear()
            for link in self._links:
                for stream in link.streams.values():
                    stream.limit = stream.corrupt = None
            self._listen()

        self._call(apply)

    def close(self) -> None:
        """Close every connection and the proxy; may be repeated."""
        with self._lock:
            self._closing = True
        self._wake()
        self._thread.join(_TIMEOUT)
        if self._thread.is_alive():
            raise RuntimeError(f"{self!r} did not end within {_TIMEOUT:g} s")
        self._wake_reader.close()
        self._wake_writer.close()

    # -- the proxy's thread ---------------------------------------------------------------------

    def _call(self, function: Callable[[], object]) -> None:
        """Run `function` on the proxy's thread and wait for it."""
        future: concurrent.futures.Future[None] = concurrent.futures.Future()
        with self._lock:
            if self._closing:
                raise RuntimeError(f"{self!r} is closed")
            self._calls.append((function, future))
        self._wake()
        future.result(_TIMEOUT)

    def _wake(self) -> None:
        try:
            self._wake_writer.send(b"\0")
        except OSError:
            pass  # the buffer is full, or the thread has ended: no need to wake it

    def _run(self) -> None:
        try:
            self._selector.register(self._wake_reader, selectors.EVENT_READ)
            while not self._closing:
                for key, _ in self._selector.select(self._update_selector()):
                    if key.fileobj is self._wake_reader:
                        self._wake_reader.recv(4096)
                self._run_calls()
                self._accept()
                for link in list(self._links):
                    self._transfer(link)
        finally:
            with self._lock:
                self._closing = True
            self._run_calls()
            self._refuse()
            self._end_all(reset=False)
            self._selector.close()

    def _run_calls(self) -> None:
        while True:
            with self._lock:
                if not self._calls:
                    return
                function, future = self._calls.popleft()
            try:
                function()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(None)

    def _update_selector(self) -> Optional[float]:
        """Register the sockets to wait for with the selector; return the timeout."""
        now = time.monotonic()
        timeout: Optional[float] = None
        wanted: Dict[socket.socket, int] = {}
        for link in self._links:
            for name, stream in link.streams.items():
                if not stream.at_eof and stream.queued < _BUFFER and name not in self._frozen:
                    wanted[stream.source] = wanted.get(stream.source, 0) | selectors.EVENT_READ
                due = stream.due()
                if due is None or name in self._frozen:
                    continue
                if due <= now:
                    wanted[stream.sink] = wanted.get(stream.sink, 0) | selectors.EVENT_WRITE
                else:
                    timeout = min(due - now, timeout if timeout is not None else due - now)
        for link in self._links:
            for sock in link.sockets:
                self._watch(sock, wanted.get(sock, 0))
        return timeout

    def _watch(self, sock: socket.socket, events: int) -> None:
        known = self._selector.get_map().get(sock)
        if known is None and events:
            self._selector.register(sock, events)
        elif known is not None and not events:
            self._selector.unregister(sock)
        elif known is not None and known.events != events:
            self._selector.modify(sock, events)

    def _accept(self) -> None:
        while self._listener is not None:
            try:
                client, _ = self._listener.accept()
            except BlockingIOError:
                return
            client.setblocking(False)
            self.accepted += 1
            try:
                server = socket.create_connection(self._target, timeout=_TIMEOUT)
            except OSError:
                _close(client, reset=True)
                continue
            for sock in (client, server):
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            link = _Link(client, server)
            for name, stream in link.streams.items():
                stream.limit = self._limits.get(name)
                stream.corrupt = self._corruptions.get(name)
            self._links.append(link)

    def _transfer(self, link: _Link) -> None:
        """Read and write without blocking; close the link if it has ended or reached its limit."""
        try:
            for name, stream in link.streams.items():
                if name not in self._frozen:
                    self._read(stream)
                    self._write(stream)
                if stream.limit == 0:
                    return self._at_limit(link)
        except OSError:  # one end reset it, so reset the other
            return self._reset(link)
        if all(stream.finished for stream in link.streams.values()):
            self._cut(link)

    def _read(self, stream: _Stream) -> None:
        if stream.at_eof or stream.queued >= _BUFFER:
            return
        try:
            data = stream.source.recv(_CHUNK)
        except BlockingIOError:
            return
        if not data:
            stream.at_eof = True
            return
        stream.queue.append((time.monotonic() + self.delay, data))
        stream.queued += len(data)

    def _write(self, stream: _Stream) -> None:
        due = stream.due()
        if due is None or due > time.monotonic():
            return
        if not stream.queue:
            stream.finished = True
            stream.sink.shutdown(socket.SHUT_WR)
            return
        data = stream.queue[0][1]
        sizes = [len(data), self.slice_size, stream.limit]
        data = data[: min(size for size in sizes if size is not None)]
        if stream.corrupt is not None and stream.corrupt < len(data):
            at = stream.corrupt
            data = data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]
        try:
            sent = stream.sink.send(data)
        except BlockingIOError:
            return
        time_due, whole = stream.queue.popleft()
        if sent < len(whole):
            stream.queue.appendleft((time_due, whole[sent:]))
        stream.queued -= sent
        if stream.limit is not None:
            stream.limit -= sent
        if stream.corrupt is not None:
            stream.corrupt = stream.corrupt - sent if stream.corrupt >= sent else None

    def _cut(self, link: _Link) -> None:
        self._end(link, reset=False)

    def _reset(self, link: _Link) -> None:
        self._end(link, reset=True)

    def _end(self, link: _Link, *, reset: bool) -> None:
        self._links.remove(link)
        for sock in link.sockets:
            self._watch(sock, 0)
            _close(sock, reset=reset)

    def _end_all(self, *, reset: bool) -> None:
        for link in list(self._links):
            self._end(link, reset=reset)

    def _refuse(self) -> None:
        if self._listener is not None:
            self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = None

    def _listen(self) -> None:
        if self._listener is not None:
            return
        listener = socket.socket()
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((self.host, self.port))
            listener.listen(128)
            listener.setblocking(False)
        except BaseException:
            listener.close()
            raise
        self.port = listener.getsockname()[1]
        self._selector.register(listener, selectors.EVENT_READ)
        self._listener = listener


def _directions(direction: str) -> Tuple[str, ...]:
    if direction == "both":
        return _DIRECTIONS
    if direction in _DIRECTIONS:
        return (direction,)
    raise ValueError(f"direction is one of both, {', '.join(_DIRECTIONS)}, not {direction!r}")


def _close(sock: socket.socket, *, reset: bool) -> None:
    try:
        if reset:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(_CHUNK):
                pass  # closing a socket with unread input would send a reset
    except OSError:
        pass  # no more data to read, or the peer has already closed
    finally:
        sock.close()
