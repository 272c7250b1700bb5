"""
`dial`: from connect parameters to an authenticated connection.

One deadline covers all steps, in this order: load the keys, open a stream, exchange keys, verify
the host key, and only then offer credentials.
"""

from __future__ import annotations

import logging
import socket
import time
from typing import Any, Callable, Optional, Set, Tuple

import paramiko

from ssh_service import algorithms
from ssh_service.connect.authentication import authenticate
from ssh_service.connect.credentials import Credentials
from ssh_service.connect.proxy_command import ProxySocket
from ssh_service.connect.routes import NetworkStream, OpenTunnel, open_stream
from ssh_service.errors import (
    SshConnectError,
    SshConnectionLost,
    SshConnectTimeout,
    SshServiceError,
    reason_of,
)
from ssh_service.known_hosts import host_name
from ssh_service.params import ConnectParams
from ssh_service.transport import SshTransport, printable

__all__ = ["dial"]

_log = logging.getLogger(__name__)

# How paramiko names the kinds of algorithms in its error about missing common algorithms.
_PARAMIKO_TERMS = {
    "encryption_algs": "ciphers",
    "kex_algs": "kex algorithm",
    "mac_algs": "macs",
    "server_host_key_algs": "host key",
    "compression_algs": "compression",
}

# The hosts for which the warning about unchecked keys was logged.  A set's `add` and `in` are
# atomic; at worst, a race logs the warning twice.
_warned_unchecked: Set[Tuple[str, ...]] = set()


def dial(
    target: ConnectParams,
    deadline: float,
    *,
    open_tunnel: Optional[OpenTunnel] = None,
    on_started: Optional[Callable[[SshTransport], None]] = None,
    is_wanted: Callable[[], bool] = lambda: True,
) -> SshTransport:
    """
    Make an authenticated connection.

    Parameters
    ----------
    target : ConnectParams
        The resolved destination, from `params.resolve`.
    deadline : float
        The monotonic instant by which all steps must be done, including jump hosts.
    open_tunnel : Optional[OpenTunnel]
        ``open_tunnel(hop, deadline) -> (transport, release)`` returns the connection to a jump
        host; `release` is called when the new connection has ended.  None: dial each hop for this
        connection only.
    on_started : Optional[Callable[[SshTransport], None]]
        Called with the transport once there is a stream.  To abort the dial, close this transport.
    is_wanted : Callable[[], bool]
        Returns whether a caller still waits; called a few times a second until there is a stream.

    Returns
    -------
    SshTransport
        The authenticated connection.

    Raises
    ------
    SshConfigError
        A key file named in the parameters cannot be used.
    SshHostKeyError
        The host key is not trusted; no credential was sent.
    SshAuthError
        The server refused every credential.
    SshConnectTimeout
        The deadline passed; `phase` is ``resolve``, ``tcp``, ``banner``, ``kex`` or ``auth``.
    SshConnectError
        The connection could not be made for another reason.

    Notes
    -----
    Guarantees.  On any failure the socket is closed and the threads of the attempt end.
    """
    credentials = Credentials(target, deadline)
    stream = open_stream(target, deadline, open_tunnel or _dial_hop, is_wanted)
    transport: Optional[SshTransport] = None
    try:
        transport = _start(target, stream)
        if on_started is not None:
            on_started(transport)
        if target.login_timeout is not None:
            deadline = min(deadline, time.monotonic() + target.login_timeout)
        _verify_host_key(transport, target, deadline)
        authenticate(transport, target, credentials, deadline)
    except BaseException as error:
        _discard(transport, stream)
        if isinstance(error, SshConnectError):
            error.args = (f"{error}{_error_detail(error, target, stream)}",)
        is_ours = isinstance(error, SshServiceError) and not isinstance(error, SshConnectionLost)
        if is_ours or not isinstance(error, Exception):
            raise
        raise _translate(error, target, deadline) from error
    transport.add_done_callback(lambda *_: stream.release())
    return transport


def _start(target: ConnectParams, stream: NetworkStream) -> SshTransport:
    trust = target.known_hosts
    wanted = trust.algorithms(target.server_host_key_algs, target.host_key_names)
    available = algorithms.supported("server_host_key_algs")
    return SshTransport(
        stream.sock,
        connection_id=target.connection_id,
        keepalive_interval=target.keepalive_interval,
        keepalive_count_max=target.keepalive_count_max,
        ciphers=target.encryption_algs,
        kex=target.kex_algs,
        macs=target.mac_algs,
        key_types=[name for name in wanted if name in available],
        compression=target.compression_algs,
    )


def _verify_host_key(transport: SshTransport, target: ConnectParams, deadline: float) -> None:
    key = transport.handshake(deadline)
    trust = target.known_hosts
    if trust.policy == "off" and not trust.pins and not trust.is_deliberate:
        _warn_unchecked(target)
    certificate = getattr(key, "public_blob", None)
    trust.verify(
        key.get_name(),
        key.asbytes(),
        target.host_key_names,
        certificate=certificate.key_blob if certificate else None,
        principal=target.host_key_alias or target.hostname,
        address=host_name(target.hostname, target.port),
        connection_id=target.connection_id,
        deadline=deadline,
    )


def _warn_unchecked(target: ConnectParams) -> None:
    if target.host_key_names not in _warned_unchecked:
        _warned_unchecked.add(target.host_key_names)
        _log.warning(
            "%s: the host key is not checked: set known_hosts (a service: ssh_known_hosts_path)"
            " to a known_hosts file, or the host key policy to 'off' if that is meant",
            target.connection_id,
        )


def _dial_hop(
    target: ConnectParams, deadline: float
) -> Tuple[paramiko.Transport, Callable[[], None]]:
    transport = dial(target, deadline)
    return transport, transport.close_nowait  # called on a reader thread, which must not wait


def _discard(transport: Optional[SshTransport], stream: NetworkStream) -> None:
    """Close the transport and the stream, whatever the state of the attempt."""
    try:
        if transport is not None:
            transport.close()
    finally:
        try:
            stream.sock.close()
        finally:
            stream.release()


def _error_detail(error: SshConnectError, target: ConnectParams, stream: NetworkStream) -> str:
    """Return details for an error that were not known when it was raised."""
    if isinstance(error.__cause__, paramiko.ssh_exception.IncompatiblePeer):
        for kind, words in _PARAMIKO_TERMS.items():
            if f"no acceptable {words}" in str(error):
                return f"; {kind} was {', '.join(getattr(target, kind))}"
    if isinstance(stream.sock, ProxySocket) and error.phase in ("banner", "kex"):
        said = stream.sock.last_stderr_line()
        return f"; the proxy command wrote: {said}" if said else ""
    return ""


def _translate(error: BaseException, target: ConnectParams, deadline: float) -> SshConnectError:
    """Translate an exception of paramiko or the system into one of our errors."""
    where = target.connection_id
    timed_out = isinstance(error, socket.timeout) or time.monotonic() >= deadline
    cls: Any = SshConnectTimeout if timed_out else SshConnectError
    reason = printable(reason_of(error))
    translated = cls(f"{where}: cannot connect: {reason}", connection_id=where, phase="kex")
    translated.errno = error.errno if isinstance(error, OSError) else None
    return translated  # type: ignore[no-any-return]
