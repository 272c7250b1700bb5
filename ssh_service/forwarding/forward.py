"""`Forward`, as users see it."""

from __future__ import annotations

from typing import NamedTuple, Optional

from ssh_service.errors import SshConfigError
from ssh_service.forwarding.counts import streams_in_words
from ssh_service.forwarding.forwarder import Forwarder


class Bytes(NamedTuple):
    """
    How many bytes the streams of a forward have carried.

    Attributes
    ----------
    to_server, from_server : int
        In each direction, seen from this side.
    """

    to_server: int
    from_server: int


class Forward:
    """
    A port, or a Unix socket, whose connections are carried over SSH.

    `forward_local`, `forward_remote` and `forward_socks` return one; it lives until `close`, the
    end of its ``with`` block, or that of its cache, also if nobody refers to it.

    Notes
    -----
    Thread safety.  Every method and attribute may be used from any thread.

    Guarantees.  No stream has a thread, and none delays another.  When the connection is lost, its
    streams are reset, never ended as if they were complete, and the forward stays.  A local
    program on a Unix socket sees an end all the same, as those have no reset; the `outcome` of
    `StreamEnded` is ``lost``.  After `close`, nothing is left of it here: no socket, no channel,
    and some milliseconds later no lease; of `forward_remote` with a path, sshd leaves the file.  A
    forked child neither accepts nor harms the streams of its parent.
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
        """``local``, ``remote`` or ``socks``."""
        return self._forwarder.kind

    @property
    def to(self) -> str:
        """What it leads to: ``host:port``, a path, or ``*`` for SOCKS, whose clients choose."""
        return self._forwarder.to

    @property
    def address(self) -> str:
        """
        Where it listens: ``host:port``, or the path of a Unix socket.

        The host of `forward_remote` is the one that was asked for: without ``GatewayPorts``, sshd
        listens on its loopback instead, and does not say so.
        """
        return self._forwarder.address

    @property
    def port(self) -> Optional[int]:
        """The port it listens on; None for a Unix socket."""
        return self._forwarder.port

    @property
    def streams(self) -> int:
        """How many streams there are now, with those that do not reach their target yet."""
        return self._forwarder.streams

    @property
    def bytes(self) -> Bytes:
        """How many bytes were carried since the beginning, in each direction."""
        return Bytes(*self._forwarder.carried)

    @property
    def last_error(self) -> Optional[Exception]:
        """
        The latest error; None until the first.

        A lost connection, one that could not be made, a server that does not listen, a target that
        refused.  It is set before the local program can notice.  A forward that has ended by
        itself keeps the reason here.
        """
        return self._forwarder.last_error

    @property
    def closed(self) -> bool:
        """Whether it has ended: by `close`, with its cache, or in a forked child."""
        return self._forwarder.has_ended

    def close(self, drain: float = 5.0) -> None:
        """
        Stop listening at once, and return when all streams have ended.

        Parameters
        ----------
        drain : float
            Seconds for the streams to end by themselves; those that are left are reset.

        Raises
        ------
        SshConfigError
            `drain` is not a number of seconds.

        Notes
        -----
        An exception while waiting, such as Ctrl-C, resets the streams at once.
        """
        if isinstance(drain, bool) or not isinstance(drain, (int, float)) or not drain >= 0:
            raise SshConfigError(f"drain must be a number of seconds, got {drain!r}")
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
