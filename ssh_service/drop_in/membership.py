"""A client's use of a shared connection: its lease, its sessions and its trust."""

from __future__ import annotations

import contextlib
import logging
import socket
import sys
from typing import List, Optional

from paramiko.ssh_exception import SSHException

from ssh_service import background
from ssh_service.connections.cache import SshClientCache
from ssh_service.connections.entries import Lease
from ssh_service.drop_in.patience import wait_for_dial
from ssh_service.drop_in.sharing import sharing
from ssh_service.drop_in.target import ClientDialError, ClientTarget, may_share
from ssh_service.drop_in.trust import OtherKeyType
from ssh_service.errors import SshConnectError, SshConnectTimeout, SshServiceError, reason_of
from ssh_service.sessions.pool import SessionPool
from ssh_service.sessions.request import SessionRequest
from ssh_service.transport import SshChannel, SshTransport, TransportView

_log = logging.getLogger(__name__)

# Unlimited: threads that wait for each other, as plain paramiko allows, must all get sessions.
_MAX_CONNECTIONS = sys.maxsize
_strand = background.Strand()


class Membership:
    """
    A client's lease of a connection, through which it opens sessions.

    Parameters
    ----------
    target : ClientTarget
        The destination of the client.

    Notes
    -----
    Thread safety.  Every method may be called from any thread.

    Guarantees.  The client's own rules check the host key of every connection that the client
    gets, before anything is sent over it.  The lease is released exactly once, also if this object
    is garbage-collected.
    """

    def __init__(self, target: ClientTarget) -> None:
        self.target = target
        self._cache: SshClientCache = sharing.cache
        self._linger = sharing.linger
        self._token = sharing.next_token()
        # The last lease is in use; earlier ones are released.  Single operations are atomic.
        self._leases: List[Lease] = []
        self._trusted = b""  # the host key that the client has accepted

    def __del__(self) -> None:
        if getattr(self, "_leases", None):  # otherwise the constructor was interrupted
            background.submit_from_destructor(
                _strand, _leave, self.target, self._token, self._linger
            )

    # The connection.

    def connect(self) -> SshTransport:
        """
        Lease a connection, and dial it if necessary.

        Raises
        ------
        Exception
            The exceptions of `paramiko.SSHClient.connect`.
        """
        sharing.join(self.target.base, self._token)
        while True:
            transport = self._acquire()
            if transport is not None:
                return transport

    def _acquire(self) -> Optional[SshTransport]:
        """Lease a connection; return None if the caller must try again."""
        target = self.target
        lease = self._cache.request(target, idle_timeout=self._linger)
        self._leases.append(lease)
        mine = lease.slot.target is target
        try:
            if not mine:
                wait_for_dial(lease.slot, target)
            self._cache.lender.wait(lease, target, None)
            transport = lease.connection.result()[0]
            if not mine:
                self._judge(transport)
        except OtherKeyType:
            lease.release(self._linger)
            target.key_types = target.trust.known_types()
            return None
        except ClientDialError as failure:
            lease.release()
            # Use the lease's own error: the raised one is a copy for this caller.
            if mine:
                raise failure.original from failure.original.__cause__
            if may_share(failure, target, lease.slot.target):
                raise failure.copy_original() from failure
            return None
        except SshConnectTimeout as timeout:
            lease.release()
            raise socket.timeout("timed out") from timeout
        except BaseException as error:
            lease.release(self._linger)
            if isinstance(error, SshServiceError) and not isinstance(error, SSHException):
                raise SSHException(str(error)) from error  # the cache was closed
            raise
        self._trusted = transport.get_remote_server_key().asbytes()
        return transport

    def _judge(self, transport: SshTransport) -> None:
        self.target.trust.judge(transport, any_type=not self.target.key_types)

    def reconnect(self, view: TransportView) -> SshTransport:
        """
        Return a new connection to replace a lost one.

        Raises
        ------
        Exception
            The exceptions of `paramiko.SSHClient.connect`; also if the view was closed meanwhile.
        """
        before = list(self._leases)
        try:
            transport = self.connect()
        finally:
            for lease in before:
                lease.release(self._linger)
                with contextlib.suppress(ValueError):  # another thread has removed it
                    self._leases.remove(lease)
        if view.is_closed:  # it may have been closed before there was a lease to release
            self.release()
            raise SSHException("SSH session not active")
        return transport

    def release(self) -> None:
        """Release the lease."""
        sharing.leave(self.target.base, self._token, self._linger)
        # A connection whose sharing was ended is not given to another client.
        lifetime = None if self.target.is_current() else 0.0
        for lease in list(self._leases):
            lease.release(self._linger, lifetime)

    # Sessions.

    def open_session(
        self,
        view: TransportView,
        window_size: Optional[int],
        max_packet_size: Optional[int],
        timeout: float,
    ) -> SshChannel:
        """Open a session on any connection of the destination, as the session pool does."""
        target, cache = self.target, self._cache
        pool = cache.session_pool(target.key, lambda: SessionPool(cache, target))
        request = SessionRequest(target.connection_id, view.lend, window_size, max_packet_size)
        pool.submit(request, _MAX_CONNECTIONS, self._linger, None, target)
        try:
            channel = request.wait(timeout)
        except SshConnectError as error:
            raise _original(error) from error
        except SshServiceError as error:
            if isinstance(error, SSHException):
                raise
            raise SSHException(str(error)) from error
        if channel is None:
            raise SSHException("Timeout opening channel.")
        try:
            self._check(channel.connection)
        except BaseException:
            channel.close()
            raise
        if not view.connection.is_active() and not view.is_closed:
            self._adopt(view)
        return channel

    def _check(self, connection: SshTransport) -> None:
        """Check the host key of an additional connection, unless it is the trusted one."""
        if connection.get_remote_server_key().asbytes() != self._trusted:
            self.target.trust.judge(connection, any_type=False)

    def _adopt(self, view: TransportView) -> None:
        """Attach the view to a live connection, if its own was lost."""
        try:
            view.connection = self.reconnect(view)
        except (SSHException, OSError) as error:
            # The session works anyway, and the next call tries again.
            _log.info("%s: not connected anew: %s", self.target.connection_id, reason_of(error))


def _leave(target: ClientTarget, token: int, linger: float) -> None:
    sharing.leave(target.base, token, linger)


def _original(error: SshConnectError) -> BaseException:
    if isinstance(error, ClientDialError):
        return error.copy_original()
    return error
