"""The destination of a paramiko client, and its dial, which uses paramiko's own code."""

from __future__ import annotations

import copy
import shlex
import threading
from typing import Any, Callable, Dict, Optional, Tuple, Union

import paramiko
from paramiko.ssh_exception import AuthenticationException, BadHostKeyException, SSHException

from ssh_service.connections.entries import Target
from ssh_service.drop_in.identity import algorithms_identity, credentials_identity, name_digest
from ssh_service.drop_in.sharing import sharing
from ssh_service.drop_in.trust import Trust
from ssh_service.errors import SshConnectError, reason_of
from ssh_service.params import ConnectKey, connection_id
from ssh_service.secret import Secret
from ssh_service.transport import (
    DropInTransport,
    SshChannel,
    SshTransport,
    TransportView,
    close_proxy,
)

# Seconds of silence after which a keepalive is sent on a shared connection.
_KEEPALIVE = 15.0
# The system's approximate time limit for a TCP connection, and paramiko's own limits; in seconds.
_TCP_TIMEOUT, _BANNER_TIMEOUT, HANDSHAKE_TIMEOUT, _AUTH_TIMEOUT = 135.0, 15.0, 15.0, 30.0

# paramiko's own method, also while `install` is in effect.
plain_connect = paramiko.SSHClient.connect


class ClientDialError(SshConnectError):
    """
    A dial on behalf of a client failed.

    Attributes
    ----------
    original : BaseException
        The exception that paramiko raised.
    is_distrust : bool
        Whether the client does not trust the host key; another client may trust it.
    """

    original: BaseException
    is_distrust = False

    def copy_original(self) -> BaseException:
        """Return a copy of paramiko's exception, for a client that waited for the dial."""
        try:
            return copy.copy(self.original)
        except Exception:  # noqa: B902  (not every exception can be copied)
            return self.original


_this_thread = threading.local()


def is_asking_policy() -> bool:
    """Return whether this thread is dialling and currently calls a policy."""
    return getattr(_this_thread, "asks", False)


class PartialLogin(AuthenticationException):  # type: ignore[misc]
    """The server requires more than `connect` can offer; the program may continue by itself."""


class Route:
    """
    How a client reaches its server: directly, by a proxy command, or through another client.

    Parameters
    ----------
    sock : Any
        The argument of `connect`: None, a `paramiko.ProxyCommand`, or another client's channel.
    """

    def __init__(self, sock: Any) -> None:
        self._given: Dict[str, Any] = {} if sock is None else {"sock": sock}  # can be taken once
        self._command: Optional[str] = None
        self._hop: Optional[Target] = None
        self._address: Any = None
        self.identity: Tuple[Any, ...] = ("direct",)
        if isinstance(sock, paramiko.ProxyCommand):
            self._command = " ".join(shlex.quote(part) for part in sock.cmd)
            self.identity = ("proxy", name_digest(*sock.cmd))
        elif sock is not None:
            self._hop, self._address = sock.get_transport().owner.target, sock.destination
            self.identity = ("channel", self._hop.key, self._address)

    @staticmethod
    def is_known(sock: Any) -> bool:
        """Return whether the route can be compared with others, and opened again."""
        if not sock or type(sock) is paramiko.ProxyCommand:
            return True
        return (
            isinstance(sock, SshChannel)
            and isinstance(sock.get_transport(), TransportView)
            and isinstance(sock.destination, tuple)
        )

    def open(self, open_tunnel: Any, deadline: float) -> Tuple[Any, Callable[[], None]]:
        """Return what to connect over (None: TCP), and a function that releases it."""
        given = self._given.pop("sock", None)
        if self._hop is not None:
            hop, release = open_tunnel(self._hop, deadline)
            try:
                if given is not None and given.connection is hop and not given.closed:
                    given.get_transport().give_away(given)
                    return given, release
                self._close(given)
                return hop.open_channel("direct-tcpip", self._address), release
            except BaseException:
                release()
                raise
        if self._command is not None and given is None:
            given = paramiko.ProxyCommand(self._command)
        return given, _nothing

    def close_unused(self) -> None:
        """Close the client's `sock`, which its connection does not need."""
        self._close(self._given.pop("sock", None))

    @staticmethod
    def _close(sock: Any) -> None:
        if isinstance(sock, paramiko.ProxyCommand):
            close_proxy(sock)
        elif sock is not None:
            sock.close()


class ClientTarget:
    """
    The destination of one call of `connect`.

    Parameters
    ----------
    arguments : Dict[str, Any]
        The arguments of `connect`, complete.
    username : str
        The login name.
    trust : Trust
        The client's known host keys and policy.

    Attributes
    ----------
    key_types : Tuple[str, ...]
        Host key types that the connection must prefer; empty if any will do.
    failed_transport : Optional[DropInTransport]
        The transport of a failed login, for the client.
    is_abandoned : bool
        Whether the client has stopped waiting.
    """

    def __init__(self, arguments: Dict[str, Any], username: str, trust: Trust) -> None:
        self._arguments = {**arguments, "username": username, "transport_factory": None}
        self._arguments.pop("sock")
        for name in ("password", "passphrase"):
            if isinstance(arguments[name], (str, bytes)):
                self._arguments[name] = Secret(arguments[name])
        self.trust = trust
        self.username = username
        self.hostname: str = arguments["hostname"]
        self.port: int = arguments["port"]
        self.key_types: Tuple[str, ...] = ()
        self.failed_transport: Optional[DropInTransport] = None
        self.is_abandoned = False
        self.route = Route(arguments["sock"] or None)
        self.patience = (
            _TCP_TIMEOUT if arguments["timeout"] is None else arguments["timeout"],
            arguments["banner_timeout"] or _BANNER_TIMEOUT,
            arguments["auth_timeout"] or _AUTH_TIMEOUT,
        )
        self.base = ConnectKey(
            destination=(self.hostname, self.hostname, self.port, username),
            credentials=("paramiko", *credentials_identity(arguments)),
            host_keys=(),
            route=self.route.identity,
            algorithms=algorithms_identity(arguments, DropInTransport.preferences()),
            keepalive=(_KEEPALIVE, 0),
        )
        self._generation = sharing.generation(self.hostname, self.base)

    def is_current(self) -> bool:
        """Return whether a client that connects now could share the connection."""
        return sharing.generation(self.hostname, self.base) == self._generation

    def is_as_patient_as(self, other: ClientTarget) -> bool:
        """Return whether none of this client's time limits is shorter than the other's."""
        return all(mine >= theirs for mine, theirs in zip(self.patience, other.patience))

    def arguments(self) -> Dict[str, Any]:
        """Return the arguments of `connect`, with secrets in plain text."""
        return {
            name: _revealed(value) if isinstance(value, Secret) else value
            for name, value in self._arguments.items()
        }

    def __repr__(self) -> str:
        return f"<ClientTarget {self.connection_id}>"

    @property
    def key(self) -> ConnectKey:
        """The connect key; equal for clients that may share a connection."""
        return self.base._replace(host_keys=(self.key_types, self._generation))

    @property
    def connection_id(self) -> str:
        """``user@host:port``."""
        return connection_id(self.username, self.hostname, self.port)

    @property
    def connect_timeout(self) -> float:
        """Seconds that a dial may take."""
        return sum(self.patience) + HANDSHAKE_TIMEOUT

    @property
    def dialer(self) -> Callable[..., SshTransport]:
        """The function that dials, by paramiko's own code."""
        return _dial


class _Dialler(paramiko.SSHClient):  # type: ignore[misc]
    """A client of our own, which logs in on behalf of another client."""

    def __init__(self, target: ClientTarget) -> None:
        super().__init__()
        self._target = target
        self._system_host_keys = target.trust.system_host_keys
        self._host_keys = target.trust.host_keys
        self._policy = self
        self.is_distrust = False

    def missing_host_key(self, client: Any, hostname: str, key: Any) -> None:
        """Call the policy of the other client."""
        _this_thread.asks = True
        try:
            self._target.trust.ask(self._transport, key)
        except BaseException:
            self.is_distrust = True
            raise
        finally:
            _this_thread.asks = False

    def dial(self, arguments: Dict[str, Any], sock: Any, on_started: Any) -> SshTransport:
        """Connect, log in and return the transport."""

        def make(sock: Any, **options: Any) -> SshTransport:
            transport = DropInTransport(sock, **options)
            transport.set_shared_ciphers()
            transport.connection_id = self._target.connection_id
            transport.is_shared = True
            if on_started is not None:
                on_started(transport)
            return transport

        try:
            plain_connect(self, **{**arguments, "sock": sock, "transport_factory": make})
        finally:
            if self._agent is not None:
                self._agent.close()
        if not self._transport.is_authenticated():
            raise PartialLogin("the server wants more credentials")
        return self.take_transport()  # type: ignore[return-value]  # it is there now

    def take_transport(self) -> Optional[DropInTransport]:
        """Return the transport and forget it; None if there is none yet."""
        transport: Optional[DropInTransport] = self._transport
        self._transport: Any = None
        return transport


def _dial(
    target: ClientTarget,
    deadline: float,
    *,
    open_tunnel: Any,
    on_started: Any = None,
    is_wanted: Any = None,
) -> SshTransport:
    """Make a connection as `paramiko.SSHClient.connect` does."""
    dialler = _Dialler(target)
    release: Callable[[], None] = _nothing
    try:
        sock, release = target.route.open(open_tunnel, deadline)
        transport = dialler.dial(target.arguments(), sock, on_started)
    except BaseException as error:
        failed = dialler.take_transport()
        ours = ClientDialError(
            f"{target.connection_id}: cannot connect: {reason_of(error)}",
            connection_id=target.connection_id,
        )
        ours.original = error
        ours.is_distrust = dialler.is_distrust or isinstance(error, BadHostKeyException)
        ours.throttled = failed is not None and failed.was_throttled
        if failed is None or not failed.is_active() or target.is_abandoned:
            if failed is not None:
                failed.close()
            release()
        else:
            # As in paramiko, the client keeps it after a failed login, and may try another method.
            failed.is_shared = False
            failed.add_done_callback(lambda *_: release())
            target.failed_transport = failed
        raise ours from error
    transport.add_done_callback(lambda *_: release())
    transport.set_keepalive(_KEEPALIVE)
    sharing.count_login()
    return transport


def _revealed(secret: Secret) -> Union[str, bytes]:
    return secret.reveal_bytes() if secret.is_bytes else secret.reveal()


def end_sharing(host: Optional[str]) -> int:
    """
    Exclude existing connections to a host (None: to any host) from sharing with later clients.

    Return the number of these connections; unused ones are closed.
    """
    cache = sharing.cache
    shared = [
        (slot, slot.target)
        for slot in cache.lender.slots.all_slots()
        if isinstance(slot.target, ClientTarget) and slot.target.is_current()
    ]
    sharing.end_sharing(host)
    outdated = [slot for slot, target in shared if not target.is_current()]
    for slot in outdated:
        if not slot.leases:
            lease = cache.renew(slot)
            if lease is not None:
                lease.release(0.0, 0.0)
    return len(outdated)


def _nothing() -> None:
    """Do nothing: there is nothing to release."""


def may_share(failure: ClientDialError, own: ClientTarget, other: Any) -> bool:
    """Return whether this client's own dial would fail in the same way as the other client's."""
    patient = isinstance(other, ClientTarget) and other.is_as_patient_as(own)
    known = isinstance(failure.original, (SSHException, OSError))
    partial = isinstance(failure.original, PartialLogin)  # each client continues by itself
    return known and patient and not failure.is_distrust and not partial
