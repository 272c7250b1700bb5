"""`SshClient`: one connection, with hooks for when it is made and when it is lost."""

from __future__ import annotations

from typing import Any, Dict, Optional, Tuple

from paramiko import Transport

from ssh_service import params
from ssh_service.transport.lock_free import LockFreeEvent


class SshClient:
    """
    One connection of the cache, and the hooks for its beginning and its end.

    Subclass it and give the subclass to `SshClientCache` (``client_factory``) to be called when
    connections are made and lost.

    Parameters
    ----------
    *args, **kwargs : Any
        Accepted for subclasses' sake.

    Notes
    -----
    Thread safety.  Every method may be called from any thread.

    Guarantees.  A client lives for one connection: a reconnect makes a new one.  The cache calls
    `connection_made` and `connection_lost` on its callback thread, each at most once and in this
    order; a dial that failed calls only `connection_lost`.  `connection` and ``repr`` are up to
    date before a hook is called, whether or not the hook calls its base class.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # No lock: an exception of a signal's handler could leave it taken, and the connection's
        # reader would wait for it.  Single operations on a dict are atomic.
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
            The connection, or None if it was lost (or could not be made).

        Raises
        ------
        TimeoutError
            It was neither made nor lost in that time.
        """
        if timeout is not None:
            timeout = max(0.0, timeout)  # which makes 0 of NaN, too
        if not self._settled.wait(timeout):
            raise TimeoutError(f"no connection was made or lost within {timeout:g} s")
        return None if self._is_lost else self._made.get("is", (None, None))[1]

    def made(self, connection: Transport) -> None:
        """
        Note that the connection was made; the cache calls this before the hook.

        Parameters
        ----------
        connection : paramiko.Transport
            Authenticated.
        """
        self._made.setdefault("is", (self.id_from_connection(connection), connection))
        if self._is_lost:
            self._made.clear()
        self._settled.set()

    def lost(self) -> None:
        """Note that the connection has ended; the cache calls this before the hook."""
        self._is_lost = True
        self._made.clear()
        self._settled.set()

    def connection_made(self, conn: Transport) -> None:
        """
        Handle the new connection; a hook for subclasses, called after it is made.

        Parameters
        ----------
        conn : paramiko.Transport
            The connection.
        """
        self.made(conn)

    def connection_lost(self, exc: Optional[BaseException]) -> None:
        """
        Handle the end of the connection; a hook, called also if it could not be made.

        Parameters
        ----------
        exc : Optional[BaseException]
            Why; None only for a clean end: we closed it, or the server disconnected.
        """
        self.lost()

    @staticmethod
    def id_from_connection(connection: Transport) -> str:
        """
        Name a connection for people.

        Parameters
        ----------
        connection : paramiko.Transport
            An `SshTransport` keeps the name of its destination, also after its end.

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
        Name a destination for people.

        Parameters
        ----------
        connect_params : Union[str, Mapping[str, Any], Host]
            As for `SshClientCache.get_client_connection`.

        Returns
        -------
        str
            ``user@host:port``, with user and port resolved as they are for connecting.

        Raises
        ------
        SshConfigError
            A parameter is missing, unknown or wrong.
        """
        connect_params = params.conceal(connect_params)
        return params.resolve(connect_params).connection_id
