"""Opens the stream to a server: directly, through a jump host, or by a proxy command."""

from __future__ import annotations

import time
from typing import Any, Callable, NamedTuple, Tuple

import paramiko

from ssh_service.connect.proxy_command import ProxySocket
from ssh_service.connect.tcp import connect_tcp
from ssh_service.errors import SshConnectError, SshConnectTimeout, copy_for_raise, reason_of
from ssh_service.params import ConnectParams
from ssh_service.transport import printable

__all__ = ["NetworkStream", "OpenTunnel", "open_stream"]

# open_tunnel(hop, deadline) -> (authenticated transport, release)
OpenTunnel = Callable[[ConnectParams, float], Tuple[paramiko.Transport, Callable[[], None]]]


class NetworkStream(NamedTuple):
    """A connected stream, and the function to call once it is no longer needed."""

    sock: Any
    release: Callable[[], None]


def _no_release() -> None:
    """Do nothing: this stream needs no release."""


def open_stream(
    target: ConnectParams,
    deadline: float,
    open_tunnel: OpenTunnel,
    is_wanted: Callable[[], bool] = lambda: True,
) -> NetworkStream:
    """
    Connect to the SSH port of a target, by the route of its parameters, until the deadline.

    Raises
    ------
    SshConnectError
        The server cannot be reached; `errno` is that of the system's error, if there is one.
    SshConnectTimeout
        The deadline passed, in phase ``resolve`` or ``tcp``.
    """
    if isinstance(target.tunnel, paramiko.Transport):
        return _open_tunnel_stream(target.tunnel, _no_release, target, deadline)
    if target.tunnel is not None:
        try:
            transport, release = open_tunnel(target.tunnel, deadline)
        except SshConnectError as error:
            raise _of_jump_host(error, target) from error
        try:
            return _open_tunnel_stream(transport, release, target, deadline)
        except BaseException:
            release()
            raise
    if target.proxy_command is not None:
        return NetworkStream(
            ProxySocket.start(target.proxy_command, target.connection_id), _no_release
        )
    return NetworkStream(connect_tcp(target, deadline, is_wanted), _no_release)


def _of_jump_host(error: SshConnectError, target: ConnectParams) -> SshConnectError:
    """Return the error of a jump host, with the name of the target host added."""
    where = f"{getattr(target.tunnel, 'connection_id', None)}: "
    text = str(error)
    labelled = copy_for_raise(error)
    if text.startswith(where):  # else the error already names another jump host on the way
        labelled.args = (f"{where[:-2]} (jump host of {target.host}): {text[len(where) :]}",)
    return labelled


def _open_tunnel_stream(
    transport: paramiko.Transport,
    release: Callable[[], None],
    target: ConnectParams,
    deadline: float,
) -> NetworkStream:
    left = deadline - time.monotonic()
    jump = getattr(transport, "connection_id", "the jump host")
    try:
        if left <= 0:
            raise TimeoutError
        channel = transport.open_channel(
            "direct-tcpip", (target.hostname, target.port), ("127.0.0.1", 0), timeout=left
        )
    except Exception as error:  # ours, paramiko's, or that of a user's own transport
        if time.monotonic() >= deadline:
            raise SshConnectTimeout(
                f"{target.connection_id}: no answer through {jump} in time",
                connection_id=target.connection_id,
                phase="tcp",
            ) from error
        reason = printable(reason_of(error))
        raise SshConnectError(
            f"{target.connection_id}: {jump} cannot connect to "
            f"{target.hostname}:{target.port}: {reason}",
            connection_id=target.connection_id,
            phase="tcp",
        ) from error
    return NetworkStream(TunnelSocket(channel), release)


class TunnelSocket:
    """
    A socket-like object for a channel of the connection to a jump host.

    Parameters
    ----------
    channel : paramiko.Channel
        An open channel of type ``direct-tcpip``.
    """

    def __init__(self, channel: paramiko.Channel) -> None:
        self._channel = channel

    def close(self) -> None:
        """Close the channel, whatever the state of the connection to the jump host."""
        try:
            self._channel.close()
        except (EOFError, OSError, paramiko.SSHException):
            pass  # the connection to the jump host has ended, and its channels with it

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)
