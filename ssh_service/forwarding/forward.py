"""`Forward`, the public class of forwards."""

from __future__ import annotations

from typing import NamedTuple, Optional

from ssh_service.errors import SshConfigError
from ssh_service.forwarding.counts import streams_in_words
from ssh_service.forwarding.forwarder import Forwarder


class Bytes(NamedTuple):
    """
    The number of bytes that the streams of a forward have carried.

    Attributes
    ----------
    to_server, from_server : int
        The bytes in each direction.
    """

    to_server: int
    from_server: int


class Forward:
    """
    A port, or a Unix socket, whose connections are carried over SSH.

    `forward_local`, `forward_remote` and `forward_socks` return a forward.  It runs until `close`,
    the end of its ``with`` block or the end of its cache, even if no reference to it exists.

    Notes
    -----
    Thread safety.  Every method and attribute may be used from any thread.

    Guarantees.  No stream has a thread, and no stream delays another.  When the connection is
    lost, its streams are reset, so that they do not look complete, and the forward continues.  A
    local program on a Unix socket still sees an end-of-file, as Unix sockets have no reset; the
    `outcome` of `StreamEnded` is ``lost``.  After `close`, no socket and no channel is left on
    this machine, and some milliseconds later no lease; sshd keeps the socket's file of a
    `forward_remote` with a path.  A forked child neither accepts connections nor affects its
    parent's streams.
    """

    _is_in_block = False

    def __init__(self, forwarder: Forwarder) -> None:
        self._forwarder = forwarder

    def __repr__(self) -> str:
        forwarder = self._forwarder
        state = "closed" if self.closed else "closing" if forwarder.is_closing else "open"
        return (
            f"<{type(self).__name__} {self.kind} {self.address} -> {self.to}"
            f" over {forwarder.connection_id} ({state}, {streams_in_words(self.streams)})>"
        )

    @property
    def kind(self) -> str:
        """The kind of forward: ``local``, ``remote`` or ``socks``."""
        return self._forwarder.kind

    @property
    def to(self) -> str:
        """The target: ``host:port``, a path, or ``*`` for SOCKS, where clients name it."""
        return self._forwarder.to

    @property
    def address(self) -> str:
        """
        The address that the forward listens on: ``host:port``, or the path of a Unix socket.

        For `forward_remote`, the host is the requested one: without ``GatewayPorts``, sshd listens
        on its loopback instead, and does not report this.
        """
        return self._forwarder.address

    @property
    def port(self) -> Optional[int]:
        """The port that the forward listens on; None for a Unix socket."""
        return self._forwarder.port

    @property
    def streams(self) -> int:
        """The number of streams, including those that have not reached their target yet."""
        return self._forwarder.streams

    @property
    def bytes(self) -> Bytes:
        """The number of bytes carried so far, in each direction."""
        return Bytes(*self._forwarder.carried)

    @property
    def last_error(self) -> Optional[Exception]:
        """
        The latest error; None if there was none.

        Errors are a lost connection, a failed attempt to connect, a server that does not listen
        and a target that refused.  The error is set before the local program can notice the
        failure.  For a forward that has ended by itself, this is the reason.
        """
        return self._forwarder.last_error

    @property
    def closed(self) -> bool:
        """Whether the forward has ended: by `close`, with its cache, or in a forked child."""
        return self._forwarder.has_ended

    def close(self, drain: float = 5.0) -> None:
        """
        Stop listening immediately, and wait until all streams have ended.

        Parameters
        ----------
        drain : float
            Seconds for the streams to end by themselves; the remaining ones are then reset.

        Raises
        ------
        SshConfigError
            `drain` is not a valid number of seconds.

        Notes
        -----
        An exception while waiting, such as KeyboardInterrupt, resets the streams immediately.
        """
        if isinstance(drain, bool) or not isinstance(drain, (int, float)) or not drain >= 0:
            raise SshConfigError(f"drain: expected a number of seconds, got {drain!r}")
        self._forwarder.close(float(drain))

    def __enter__(self) -> "Forward":
        self._is_in_block = True
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
        self._is_in_block = False

    def __del__(self) -> None:
        if self._is_in_block:  # a signal handler's exception interrupted `__exit__`
            self._forwarder.give_up()
