"""
Forwards: ports and Unix sockets whose connections are carried over SSH, and survive its losses.

| module | contents |
|---|---|
| `addresses` | the addresses that a forward listens on and leads to |
| `selector_thread` | the one thread for all local sockets |
| `windows` | the receive windows, which limit how much servers send ahead |
| `stream` | a local socket and a channel, with the bytes carried between them |
| `socks`, `local_stream` | the negotiation with SOCKS clients; streams of local programs |
| `listener`, `connector` | a listening local socket; a connecting one |
| `link` | the connection of a forward: leased, lost, dialled again |
| `counts` | numbers of streams in words |
| `forwarder` | the common part of the three kinds of forwards |
| `local_forwarder`, `remote_forwarder` | the three kinds |
| `forward` | `Forward`, the public class |
"""

from __future__ import annotations

import os
from typing import Any, Optional, Type, Union

from ssh_service import api, params
from ssh_service.connections.cache import SshClientCache, check_cache
from ssh_service.errors import SshConfigError
from ssh_service.forwarding.addresses import Address, parse_listen, parse_target
from ssh_service.forwarding.forward import Bytes, Forward
from ssh_service.forwarding.forwarder import Forwarder
from ssh_service.forwarding.local_forwarder import LocalForwarder, SocksForwarder
from ssh_service.forwarding.remote_forwarder import RemoteForwarder
from ssh_service.params import Destination

__all__ = ["Bytes", "Forward", "forward_local", "forward_remote", "forward_socks"]

Where = Union[int, str, "os.PathLike[str]"]

# The default limit of concurrent streams per forward: processes often have 1024 descriptors.
MAX_STREAMS = 500


def forward_local(
    destination: Destination,
    to: Where,
    *,
    listen: Where = 0,
    keep: bool = False,
    max_streams: int = MAX_STREAMS,
    cache: Optional[SshClientCache] = None,
) -> Forward:
    """
    Listen on this machine, and forward each connection to a target that the server can reach.

    Like ``ssh -L``.  When this returns, the forward listens and its connection is established.

    Parameters
    ----------
    destination : Union[str, Mapping[str, Any], Host]
        The server: ``"[user@]host[:port]"``, settings such as
        ``{"host": "bastion", "username": "admin"}`` (`ssh_service.params.SETTINGS` lists all), or
        a `Host`.
    to : Union[int, str, os.PathLike]
        The target, seen from the server: ``"host:port"``, ``"[IPv6 address]:port"``, the path of a
        Unix socket on the server, or a port of the server itself (on its loopback, as
        ``"localhost:port"``).  Names are resolved there.
    listen : Union[int, str, os.PathLike]
        The address to listen on: a port of 127.0.0.1 (0: any free one), ``"address:port"`` (``*``:
        all addresses, with a warning in the log, as everyone who can reach them can use the
        forward), or the path of a Unix socket, which only this user may open.  A path must contain
        a slash.  A stale socket of this user is replaced; any other existing file is an error.
    keep : bool
        Whether to reconnect as soon as the connection is lost, with increasing delays between
        attempts.  False: reconnect when the next stream needs it.
    max_streams : int
        The maximum number of concurrent streams; further connections wait until one ends.
    cache : Optional[SshClientCache]
        The cache that the connection is taken from; None: `default_cache`.  The forward ends when
        the cache's connections are closed.

    Returns
    -------
    Forward
        The running forward; use it in a ``with`` block, or call `Forward.close`.  `Forward.port`
        is its port.

    Raises
    ------
    SshConfigError
        A parameter is invalid (a `ValueError`).
    SshForwardError
        The address is in use, is not an address of this machine, or needs a privilege (an
        `OSError`).
    SshConnectError
        The connection to the server could not be made.

    Notes
    -----
    Thread safety.  This may be called from any thread; all forwards and calls to a destination
    share one connection.

    If the server cannot reach the target, or does not permit it, the local connection is closed;
    an event and `Forward.last_error` have the server's message.

    Unix sockets have no reset: if the connection is lost, the local program sees the same
    end-of-file as after a complete answer.  If its protocol cannot distinguish the two, listen on
    a port.

    Examples
    --------
    >>> with ssh_service.forward_local("bastion", "db.internal:5432") as forward:
    ...     connection = psycopg.connect(host="127.0.0.1", port=forward.port)
    """
    destination = params.conceal(destination)
    target = parse_target(to, is_local=False)
    where = parse_listen(listen, is_local=True)
    return _open(LocalForwarder, destination, target, where, keep, max_streams, cache)


def forward_socks(
    destination: Destination,
    *,
    listen: Where = 0,
    keep: bool = False,
    max_streams: int = MAX_STREAMS,
    cache: Optional[SshClientCache] = None,
) -> Forward:
    """
    Listen on this machine as a SOCKS proxy; the server makes the connections.

    Like ``ssh -D``: SOCKS 4, 4a and 5, without authentication and without UDP.  The server
    resolves the names that clients send (``socks5h://`` in curl and requests).

    Parameters
    ----------
    destination : Union[str, Mapping[str, Any], Host]
        The server: ``"[user@]host[:port]"``, settings such as
        ``{"host": "bastion", "username": "admin"}`` (`ssh_service.params.SETTINGS` lists all), or
        a `Host`.
    listen : Union[int, str, os.PathLike]
        The address to listen on: a port of 127.0.0.1 (0: any free one), ``"address:port"`` (``*``:
        all addresses, with a warning in the log, as everyone who can reach them can use the
        proxy), or the path of a Unix socket, which only this user may open.
    keep : bool
        Whether to reconnect as soon as the connection is lost, with increasing delays between
        attempts.  False: reconnect when the next stream needs it.
    max_streams : int
        The maximum number of concurrent streams; further connections wait until one ends.
    cache : Optional[SshClientCache]
        The cache that the connection is taken from; None: `default_cache`.  The forward ends when
        the cache's connections are closed.

    Returns
    -------
    Forward
        The running forward; use it in a ``with`` block, or call `Forward.close`.

    Raises
    ------
    SshConfigError
        A parameter is invalid (a `ValueError`).
    SshForwardError
        The address is in use, is not an address of this machine, or needs a privilege (an
        `OSError`).
    SshConnectError
        The connection to the server could not be made.

    Notes
    -----
    Thread safety.  This may be called from any thread.

    A client must send its request within 30 s, or within one second once `max_streams` is reached.

    Examples
    --------
    >>> with ssh_service.forward_socks({"host": "bastion"}) as proxy:
    ...     requests.get(url, proxies={"https": f"socks5h://127.0.0.1:{proxy.port}"})
    """
    destination = params.conceal(destination)
    where = parse_listen(listen, is_local=True)
    return _open(SocksForwarder, destination, None, where, keep, max_streams, cache)


def forward_remote(
    destination: Destination,
    to: Where,
    *,
    listen: Where = 0,
    max_streams: int = MAX_STREAMS,
    cache: Optional[SshClientCache] = None,
) -> Forward:
    """
    Let the server listen, and forward each connection to a target that this machine can reach.

    Like ``ssh -R``.  When this returns, the server listens.  If the connection is lost, it is made
    again, with increasing delays between attempts, and the server is asked again to listen.

    Parameters
    ----------
    destination : Union[str, Mapping[str, Any], Host]
        The server: ``"[user@]host[:port]"``, settings such as
        ``{"host": "bastion", "username": "admin"}`` (`ssh_service.params.SETTINGS` lists all), or
        a `Host`.
    to : Union[int, str, os.PathLike]
        The target, seen from this machine: ``"host:port"``, ``"[IPv6 address]:port"``, the path of
        a Unix socket, or a port of this machine's loopback.
    listen : Union[int, str, os.PathLike]
        The address that the server listens on: a port of its 127.0.0.1 (0: any free one, see
        `Forward.port`), ``"address:port"`` (``*``: all addresses, which sshd allows only with
        ``GatewayPorts``), or the path of a Unix socket on the server.  sshd does not remove the
        socket's file when the forward ends or is lost, and refuses to listen if the file exists,
        unless its configuration has ``StreamLocalBindUnlink yes``: otherwise remove the file
        before each use.
    max_streams : int
        The maximum number of concurrent streams; further connections are refused.
    cache : Optional[SshClientCache]
        The cache that the connection is taken from; None: `default_cache`.  The forward ends when
        the cache's connections are closed.

    Returns
    -------
    Forward
        The running forward; use it in a ``with`` block, or call `Forward.close`.  `Forward.port`
        is the server's port.

    Raises
    ------
    SshConfigError
        A parameter is invalid (a `ValueError`).
    SshSessionRefused
        The server does not listen: the port is in use, the socket's file exists, or the server
        does not permit it.
    SshConnectError
        The connection to the server could not be made.

    Notes
    -----
    Thread safety.  This may be called from any thread.

    After a lost connection, the server's old session may hold the port for a while.  The forward
    repeats its request until the port is free; `Forward.last_error` and events report this.  If
    `listen` has port 0, the forward requests the port that the server chose first; if that stays
    in use, it requests any other port, which an event reports.

    A target on a Unix socket sees the same end-of-file after a complete connection and after a
    lost one, as Unix sockets have no reset.

    Examples
    --------
    >>> with ssh_service.forward_remote({"host": "web01"}, 8000, listen=8080) as forward:
    ...     print(f"port {forward.port} of web01 leads to port 8000 of this machine")
    """
    destination = params.conceal(destination)
    target = parse_target(to, is_local=True)
    where = parse_listen(listen, is_local=False)
    return _open(RemoteForwarder, destination, target, where, True, max_streams, cache)


def _open(
    kind: Type[Forwarder],
    destination: Any,
    to: Optional[Address],
    listen: Address,
    keep: bool,
    max_streams: int,
    cache: Optional[SshClientCache],
) -> Forward:
    if not isinstance(keep, bool):
        raise SshConfigError(f"keep: expected True or False, got {keep!r}")
    if isinstance(max_streams, bool) or not isinstance(max_streams, int) or max_streams < 1:
        raise SshConfigError(f"max_streams: expected an integer >= 1, got {max_streams!r}")
    check_cache(cache)
    target = params.resolve_concealed(destination)
    forwarder = kind(
        api.default_cache() if cache is None else cache,
        target,
        to,
        listen,
        keep=keep,
        max_streams=max_streams,
        idle_timeout=api.IDLE_TIMEOUT if cache is None else None,
    )
    forward = Forward(forwarder)
    try:
        forwarder.open()
        return forward
    except BaseException:  # also an exception after the opening: the caller does not have it
        forwarder.give_up()
        raise
