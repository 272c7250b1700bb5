"""
Forwards: ports and Unix sockets whose connections are carried over SSH, and outlive its losses.

| module | contents |
|---|---|
| `addresses` | where a forward listens and leads to |
| `selector_thread` | the one thread of all local sockets |
| `windows` | how much servers may send ahead |
| `stream` | a local socket and a channel, and what passes between them |
| `socks`, `local_stream` | the negotiation with clients of SOCKS; streams of local programs |
| `listener`, `connector` | a local socket that listens; one that connects |
| `link` | the connection of a forward: leased, lost, dialled again |
| `counts` | counts in words |
| `forwarder` | what the three kinds of forwards have in common |
| `local_forwarder`, `remote_forwarder` | the three kinds |
| `forward` | `Forward`, as users see it |
"""

from __future__ import annotations

import os
from typing import Any, Mapping, Optional, Type, Union

from ssh_service import api, params
from ssh_service.connections.cache import SshClientCache, check_cache
from ssh_service.errors import SshConfigError
from ssh_service.forwarding.addresses import Address, parse_listen, parse_target
from ssh_service.forwarding.forward import Bytes, Forward
from ssh_service.forwarding.forwarder import Forwarder
from ssh_service.forwarding.local_forwarder import LocalForwarder, SocksForwarder
from ssh_service.forwarding.remote_forwarder import RemoteForwarder

__all__ = ["Bytes", "Forward", "forward_local", "forward_remote", "forward_socks"]

Where = Union[int, str, "os.PathLike[str]"]

# The streams of one forward at once, by default: a process commonly has 1024 descriptors.
MAX_STREAMS = 500


def forward_local(
    destination: Mapping[str, Any],
    to: Where,
    *,
    listen: Where = 0,
    keep: bool = False,
    max_streams: int = MAX_STREAMS,
    cache: Optional[SshClientCache] = None,
) -> Forward:
    """
    Listen on this machine, and carry each connection to a target that the server reaches.

    This is ``ssh -L``.  When it returns, it listens and is connected.

    Parameters
    ----------
    destination : Mapping[str, Any]
        The server: connect parameters such as ``{"host": "bastion", "username": "admin"}``, of
        which only ``host`` is required (`ssh_service.params.resolve` lists all).
    to : Union[int, str, os.PathLike]
        The target, seen from the server: ``"host:port"``, ``"[IPv6 address]:port"``, the path of a
        Unix socket on the server, or a port of the server itself (on its loopback, as
        ``"localhost:port"``).  Names are resolved there.
    listen : Union[int, str, os.PathLike]
        Where to listen: a port of 127.0.0.1 (0: any free one), ``"address:port"`` (``*``: all
        addresses, with a warning in the log, as everyone who reaches them can use the forward), or
        the path of a Unix socket, which only this user may open.  A path must contain a slash; a
        socket of this user's that nobody listens on any more is replaced, any other file is not.
    keep : bool
        Whether to connect again as soon as the connection was lost, at growing intervals.  False:
        the next stream does.
    max_streams : int
        How many streams there may be at once; connections beyond it wait until one ends.
    cache : Optional[SshClientCache]
        The cache to take the connection from; None: `default_cache`.  The forward ends when the
        cache's connections are closed.

    Returns
    -------
    Forward
        Use it in a ``with`` block, or call `Forward.close`.  `Forward.port` is the port.

    Raises
    ------
    SshConfigError
        A parameter is invalid (a `ValueError`).
    SshForwardError
        The address is taken, not of this machine, or needs a privilege (an `OSError`).
    SshConnectError
        There is no connection to the server.

    Notes
    -----
    Thread safety.  This may be called from any thread; all forwards and calls to a destination
    share one connection.

    A target that the server cannot reach, or does not permit, ends the local connection, with the
    server's words in an event and in `Forward.last_error`.

    Unix sockets have no reset: if the connection is lost, the local program sees the same end as
    that of a complete answer.  Listen on a port if its protocol does not tell them apart.

    Examples
    --------
    >>> with ssh_service.forward_local({"host": "bastion"}, "db.internal:5432") as forward:
    ...     connection = psycopg.connect(host="127.0.0.1", port=forward.port)
    """
    destination = params.conceal(destination)
    target = parse_target(to, is_local=False)
    where = parse_listen(listen, is_local=True)
    return _open(LocalForwarder, destination, target, where, keep, max_streams, cache)


def forward_socks(
    destination: Mapping[str, Any],
    *,
    listen: Where = 0,
    keep: bool = False,
    max_streams: int = MAX_STREAMS,
    cache: Optional[SshClientCache] = None,
) -> Forward:
    """
    Listen on this machine as a SOCKS proxy, whose connections are made by the server.

    This is ``ssh -D``: SOCKS 4, 4a and 5, without authentication and without UDP.  Names that
    clients send are resolved by the server (``socks5h://`` in curl and requests).

    Parameters
    ----------
    destination : Mapping[str, Any]
        The server: connect parameters such as ``{"host": "bastion", "username": "admin"}``, of
        which only ``host`` is required (`ssh_service.params.resolve` lists all).
    listen : Union[int, str, os.PathLike]
        Where to listen: a port of 127.0.0.1 (0: any free one), ``"address:port"`` (``*``: all
        addresses, with a warning in the log, as everyone who reaches them can use the proxy), or
        the path of a Unix socket, which only this user may open.
    keep : bool
        Whether to connect again as soon as the connection was lost, at growing intervals.  False:
        the next stream does.
    max_streams : int
        How many streams there may be at once; connections beyond it wait until one ends.
    cache : Optional[SshClientCache]
        The cache to take the connection from; None: `default_cache`.  The forward ends when the
        cache's connections are closed.

    Returns
    -------
    Forward
        Use it in a ``with`` block, or call `Forward.close`.

    Raises
    ------
    SshConfigError
        A parameter is invalid (a `ValueError`).
    SshForwardError
        The address is taken, not of this machine, or needs a privilege (an `OSError`).
    SshConnectError
        There is no connection to the server.

    Notes
    -----
    Thread safety.  This may be called from any thread.

    A client has 30 s for its request; only one more second once `max_streams` is reached.

    Examples
    --------
    >>> with ssh_service.forward_socks({"host": "bastion"}) as proxy:
    ...     requests.get(url, proxies={"https": f"socks5h://127.0.0.1:{proxy.port}"})
    """
    destination = params.conceal(destination)
    where = parse_listen(listen, is_local=True)
    return _open(SocksForwarder, destination, None, where, keep, max_streams, cache)


def forward_remote(
    destination: Mapping[str, Any],
    to: Where,
    *,
    listen: Where = 0,
    max_streams: int = MAX_STREAMS,
    cache: Optional[SshClientCache] = None,
) -> Forward:
    """
    Let the server listen, and carry each connection to a target that this machine reaches.

    This is ``ssh -R``.  When it returns, the server listens.  When the connection is lost, it is
    made again, at growing intervals, and the server asked to listen again.

    Parameters
    ----------
    destination : Mapping[str, Any]
        The server: connect parameters such as ``{"host": "bastion", "username": "admin"}``, of
        which only ``host`` is required (`ssh_service.params.resolve` lists all).
    to : Union[int, str, os.PathLike]
        The target, seen from this machine: ``"host:port"``, ``"[IPv6 address]:port"``, the path of
        a Unix socket, or a port of this machine's loopback.
    listen : Union[int, str, os.PathLike]
        Where the server listens: a port of its 127.0.0.1 (0: any free one, see `Forward.port`),
        ``"address:port"`` (``*``: all addresses, which sshd allows only with ``GatewayPorts``), or
        the path of a Unix socket on the server.  sshd does not remove this file when the forward
        ends or is lost, and refuses to listen where one is, unless its configuration has
        ``StreamLocalBindUnlink yes``: otherwise remove it yourself before each use.
    max_streams : int
        How many streams there may be at once; connections beyond it are refused.
    cache : Optional[SshClientCache]
        The cache to take the connection from; None: `default_cache`.  The forward ends when the
        cache's connections are closed.

    Returns
    -------
    Forward
        Use it in a ``with`` block, or call `Forward.close`.  `Forward.port` is the server's port.

    Raises
    ------
    SshConfigError
        A parameter is invalid (a `ValueError`).
    SshSessionRefused
        The server does not listen: the port is taken, the socket's file exists, or it does not
        permit it.
    SshConnectError
        There is no connection to the server.

    Notes
    -----
    Thread safety.  This may be called from any thread.

    After a loss, the server's half-dead session may hold the port for a while.  The forward asks
    for it again until it is free; `Forward.last_error` and events say so.  If any free port was
    asked for, the one that was given first is asked for, and another one only if that stays taken;
    an event says so, too.

    A target on a Unix socket sees the same end whether the connection was lost or complete, as
    Unix sockets have no reset.

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
        raise SshConfigError(f"keep must be True or False, got {keep!r}")
    if isinstance(max_streams, bool) or not isinstance(max_streams, int) or max_streams < 1:
        raise SshConfigError(f"max_streams must be an integer >= 1, got {max_streams!r}")
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
    except BaseException:  # also what comes when it is open: nobody has it
        forwarder.give_up()
        raise
