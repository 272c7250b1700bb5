"""`SshClient`: one connection, with hooks that are called when it is made and when it is lost."""

from __future__ import annotations

from typing import Any, Dict, Optional, Tuple

from paramiko import Transport

from ssh_service import params
from ssh_service.transport.lock_free import LockFreeEvent


class SshClient:
    """
    One connection of the cache, with hooks for its beginning and its end.

    To handle these, override `connection_made` and `connection_lost` in a subclass, and pass the
    subclass to `SshClientCache` as ``client_factory``.

    Parameters
    ----------
    *args, **kwargs : Any
        Ignored; subclasses may pass any arguments.

    Notes
    -----
    Thread safety.  Every method may be called from any thread.

    Guarantees.  Each client belongs to one connection: a reconnect makes a new client.  The cache
    calls `connection_made` and `connection_lost` on its callback thread, each at most once and in
    this order; after a failed dial it calls only `connection_lost`.  `connection` and ``repr`` are
    up to date before a hook is called, even if the hook does not call its base class.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # No lock: a signal handler's exception could leave it taken, and the connection's reader
        # thread would wait for it.  Single operations on a dict are atomic.
        self._settled = LockFreeEvent()
        self._made: Dict[str, Tuple[str, Transport]] = {}  # at most one
        self._is_lost = False

    def __repr__(self) -> str:
        if self._is_lost:
            return "LOST"
        return self._made.get("is", ("INIT", None))[0]

    def connection(self, timeout: Optional[float] = None) -> Optional[Transport]:
        """
        Wait until the connection is made or lost.

        Parameters
        ----------
        timeout : Optional[float]
            Seconds to wait; None: no limit.

        Returns
        -------
        Optional[paramiko.Transport]
            The connection; None if it was lost or could not be made.

        Raises
        ------
        TimeoutError
            The connection was neither made nor lost within `timeout`.
        """
        if timeout is not None:
            timeout = max(0.0, timeout)  # this also turns NaN into 0
        if not self._settled.wait(timeout):
            raise TimeoutError(f"no connection was made or lost within {timeout:g} s")
        return None if self._is_lost else self._made.get("is", (None, None))[1]

    def made(self, connection: Transport) -> None:
        """
        Record that the connection was made; the cache calls this before the hook.

        Parameters
        ----------
        connection : paramiko.Transport
            The authenticated connection.
        """
        self._made.setdefault("is", (self.id_from_connection(connection), connection))
        if self._is_lost:
            self._made.clear()
        self._settled.set()

    def lost(self) -> None:
        """Record that the connection has ended; the cache calls this before the hook."""
        self._is_lost = True
        self._made.clear()
        self._settled.set()

    def connection_made(self, conn: Transport) -> None:
        """
        Handle the new connection; a hook for subclasses, called on the callback thread.

        Parameters
        ----------
        conn : paramiko.Transport
            The authenticated connection.
        """
        self.made(conn)

    def connection_lost(self, exc: Optional[BaseException]) -> None:
        """
        Handle the end of the connection; a hook for subclasses, called on the callback thread.

        It is also called if the connection could not be made.

        Parameters
        ----------
        exc : Optional[BaseException]
            The reason.  None only for a clean end: this side closed the connection, or the server
            sent a disconnect message.
        """
        self.lost()

    @staticmethod
    def id_from_connection(connection: Transport) -> str:
        """
        Return the name of a connection, for messages.

        Parameters
        ----------
        connection : paramiko.Transport
            The connection.  If it has ended, only an `SshTransport` still has its name.

        Returns
        -------
        str
            ``user@host:port``; an IPv6 address is in brackets, as in a URL.
        """
        known = getattr(connection, "connection_id", None)
        if known is not None:
            return str(known)
        host, port = connection.getpeername()[:2]
        return params.connection_id(connection.get_username(), host, port)

    @staticmethod
    def id_from_params(connect_params: params.Destination) -> str:
        """
        Return the name of a destination, for messages.

        Parameters
        ----------
        connect_params : Union[str, Mapping[str, Any], Host]
            ``"[user@]host[:port]"``, settings, or a `Host`; see
            `ssh_service.params.resolve`.

        Returns
        -------
        str
            ``user@host:port``, with user and port resolved as for a connection.

        Raises
        ------
        SshConfigError
            A parameter is missing, unknown or invalid.
        """
        connect_params = params.conceal(connect_params)
        return params.resolve(connect_params).connection_id
