"""
A connection that threads can share: `paramiko.Transport`, repaired by overrides.

Each override names the section of docs/paramiko_repairs.md that explains it.
`ssh_service.transport.paramiko_check` verifies at first use that the installed paramiko still
calls the overridden methods.

The class is the top of a ladder, one layer a module: `LifecycleTransport` (how it ends),
`SendingTransport`, `GlobalRequestTransport`, `ChannelOpeningTransport`,
`ChannelAcceptingTransport`, `AuthenticatingTransport`, and here the reader thread, which
identifies both sides, exchanges keys and listens.
"""

from __future__ import annotations

import logging
import time
from typing import Any, Dict, List, Optional, Sequence, Tuple

import paramiko
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from paramiko.message import Message
from paramiko.ssh_exception import IncompatiblePeer, SSHException

from ssh_service import known_servers
from ssh_service.algorithms import CHACHA20_POLY1305, has_chacha20_poly1305
from ssh_service.errors import SshConnectError, SshConnectionLost, SshConnectTimeout, reason_of
from ssh_service.transport import reaper, sending
from ssh_service.transport.agreement import (
    check_ciphers,
    check_host_key,
    check_kex_init,
    server_offer,
    violation_of,
)
from ssh_service.transport.authenticating import AuthenticatingTransport
from ssh_service.transport.chacha20 import ChaCha20Poly1305
from ssh_service.transport.keepalive import KeepaliveMonitor
from ssh_service.transport.key_exchange import CURVE25519, Curve25519
from ssh_service.transport.lock_free import LockFreeEvent
from ssh_service.transport.packets import Inflater
from ssh_service.transport.paramiko_check import check_paramiko
from ssh_service.transport.text import printable
from ssh_service.transport.wire import Wire

# Seconds a write may stall if there is no keepalive.
_STALL_TIMEOUT = 120.0
# Seconds between checks whether a keepalive was set meanwhile.
_IDLE_CHECK_INTERVAL = 60.0
# Characters of a failed handshake's reason that are shown.
_MAX_OFFER = 2000
# Seconds for which paramiko's own login methods wait for the server.
_AUTH_TIMEOUT = 30.0
# OpenSSH sends these instead of its identification, for MaxStartups, and for PerSourcePenalties
# and PerSourceMaxStartups (sshd.c).
_THROTTLED = ("Exceeded MaxStartups", "Not allowed at this time")


class SshTransport(AuthenticatingTransport):
    """
    One SSH connection, safe to share between threads.

    Parameters
    ----------
    sock : socket.socket, paramiko.Channel, paramiko.ProxyCommand or the like
        Connected to the server; owned by the transport from now on.  An object of another type
        needs the methods `send`, `recv`, `settimeout` and `close`.
    connection_id : str
        ``user@host:port``, for messages.
    keepalive_interval : Optional[float]
        Seconds of silence after which a keepalive is sent; None or 0 for never.
    keepalive_count_max : int
        The connection is lost after ``interval * count`` seconds without any byte.
    ciphers, kex, macs, key_types, compression : Optional[Sequence[str]]
        Algorithms to offer, best first; None for paramiko's defaults.

    Raises
    ------
    ValueError
        The installed paramiko does not know an algorithm.

    Notes
    -----
    Thread safety.  Every method may be called from any thread, `handshake` once.

    Guarantees.  Messages of one channel leave in order, nothing after its CLOSE.  The reader
    thread never waits for another thread, so a re-key under load completes.  A silent peer is
    noticed in every state; every channel and the done callbacks are notified at once.  After a
    fork, the child can neither use nor harm the parent's connection.
    """

    # See docs/paramiko_repairs.md#curve25519-has-one-name
    _kex_info = {
        **paramiko.Transport._kex_info,
        **dict.fromkeys(CURVE25519, Curve25519),
    }

    # See docs/paramiko_repairs.md#chacha20-poly1305
    _cipher_info = dict(paramiko.Transport._cipher_info)
    if has_chacha20_poly1305():
        _cipher_info[CHACHA20_POLY1305] = {
            "class": ChaCha20Poly1305,
            "block-size": 8,
            "iv-size": 0,
            "key-size": ChaCha20Poly1305.key_size,
            "is_aead": True,
        }

    # paramiko decompresses a packet without a limit.
    _compression_info = {
        name: (deflater, deflater and Inflater)
        for name, (deflater, _) in paramiko.Transport._compression_info.items()
    }

    def __init__(
        self,
        sock: Any,
        *,
        connection_id: str,
        keepalive_interval: Optional[float] = 15.0,
        keepalive_count_max: int = 3,
        ciphers: Optional[Sequence[str]] = None,
        kex: Optional[Sequence[str]] = None,
        macs: Optional[Sequence[str]] = None,
        key_types: Optional[Sequence[str]] = None,
        compression: Optional[Sequence[str]] = None,
    ) -> None:
        check_paramiko()
        self._keepalive_monitor = KeepaliveMonitor(keepalive_interval or 0.0, keepalive_count_max)
        self._ready_key: Optional[X25519PrivateKey] = None  # for the first key exchange
        self._rekey_started_at: Optional[float] = None  # reader thread only
        # Events of threads that wait for the next key exchange, and for the current one.
        self._rekey_waiters: List[LockFreeEvent] = []
        self._current_rekey_waiters: List[LockFreeEvent] = []  # reader thread only
        self.extras: Dict[str, Any] = {}  # objects of other packages that live as long as this
        super().__init__(
            Wire(sock, self._keepalive_monitor.limit or _STALL_TIMEOUT), connection_id
        )
        self.name = f"ssh-service-reader-{connection_id}"
        self.set_log_channel("ssh_service.transport")
        self.packetizer.before_wait = self._before_wait
        self.packetizer.may_begin_rekey = lambda: not self.in_kex
        self.auth_timeout = _AUTH_TIMEOUT
        offered = {
            "ciphers": ciphers,
            "kex": kex,
            "digests": macs,
            "key_types": key_types,
            "compression": compression,
        }
        options = self.get_security_options()
        try:
            for name, algorithms in offered.items():
                if algorithms is not None:
                    setattr(options, name, tuple(algorithms))
        except ValueError:
            self._wire.detach()
            raise
        reaper.register(self)

    # Representation and logging.

    def __repr__(self) -> str:
        state = "active" if self.is_active() else "ended"
        return f"<{type(self).__name__} {self.connection_id} ({state})>"

    def _log(self, level: int, msg: Any, *args: Any) -> None:
        # paramiko logs tracebacks at ERROR: see docs/paramiko_repairs.md#log-noise
        # The server's words are cut and escaped: see docs/paramiko_repairs.md#servers-text
        if self.logger.isEnabledFor(logging.DEBUG):
            for line in msg if isinstance(msg, list) else [msg % args if args else msg]:
                self.logger.debug("%s: %s", self.connection_id, printable(str(line)))

    # Handshake and authentication.

    def handshake(self, deadline: float) -> paramiko.PKey:
        """
        Start the reader thread, exchange identifications and keys; return the host key.

        The key is proven to be the server's, but not yet verified against known hosts.  `deadline`
        is a monotonic instant; paramiko's own timeouts do not hold: see
        docs/paramiko_repairs.md#handshake-timeout.

        Raises
        ------
        SshConnectTimeout
            The deadline passed; `phase` is ``banner`` or ``kex``.
        SshConnectError
            The peer is not an SSH 2 server, or there is no common algorithm.
        """
        self.packetizer.deadline = deadline
        if not CURVE25519.isdisjoint(self.preferred_kex):
            self._ready_key = X25519PrivateKey.generate()  # on this thread: see `key_exchange`
        done = LockFreeEvent()
        began = time.monotonic()
        self.start_client(event=done)
        finished = done.wait(max(0.0, deadline - began))
        if self.initial_kex_done and self.active:
            return self.host_key
        phase = "kex" if self.remote_version else "banner"
        cause = self._reader_error
        if not finished or time.monotonic() >= deadline:
            raise SshConnectTimeout(
                f"{self.connection_id}: not connected within {deadline - began:.1f} s"
                f" (phase: {phase}){self._server_text()}",
                connection_id=self.connection_id,
                phase=phase,
            ) from cause
        text = printable(
            violation_of(cause) if cause else "the server closed the connection", _MAX_OFFER
        )
        error = SshConnectError(
            f"{self.connection_id}: {text} (phase: {phase}){self._server_text()}",
            connection_id=self.connection_id,
            phase=phase,
        )
        error.permanent = isinstance(cause, IncompatiblePeer)
        error.throttled = self.was_throttled
        raise error from cause

    def take_key(self) -> Optional[X25519PrivateKey]:
        """Return the key for the first key exchange, and None for later ones; reader thread."""
        key, self._ready_key = self._ready_key, None
        return key

    @property
    def was_throttled(self) -> bool:
        """Whether the server said, instead of its identification, that it has no room now."""
        return any(line.startswith(_THROTTLED) for line in self.packetizer.banner)

    def _server_text(self) -> str:
        # "Exceeded MaxStartups" comes instead of the identification: see
        # docs/paramiko_repairs.md#refusal-in-words
        said = " ".join(line for line in self.packetizer.banner if not line.startswith("SSH-"))
        if self._disconnect_text:
            said = self._disconnect_text
        return f"; the server said: {printable(said)}" if said else ""

    def _check_banner(self) -> None:
        try:
            super()._check_banner()
        except SSHException as error:
            cause = error.__context__  # paramiko appends its text to its own message
            if cause is None or isinstance(error, IncompatiblePeer):
                raise
            raise SSHException(f"no SSH identification: {reason_of(cause)}") from cause

    @property
    def preferred_ciphers(self) -> Tuple[str, ...]:
        """
        The ciphers to offer: chacha20-poly1305 only together with strict key exchange.

        It is the last one unless the server certainly has that, as the connection would fail
        although there is another cipher in common.
        """
        names: Tuple[str, ...] = super().preferred_ciphers
        if CHACHA20_POLY1305 not in names:
            return names
        if self.advertise_strict_kex and known_servers.has_strict_kex(self.remote_version):
            return names
        others = tuple(name for name in names if name != CHACHA20_POLY1305)
        return (*others, CHACHA20_POLY1305) if self.advertise_strict_kex else others

    def _parse_kex_init(self, m: Message) -> None:
        check_kex_init(m)
        try:
            super()._parse_kex_init(m)
            check_ciphers((self.local_cipher, self.remote_cipher), self.agreed_on_strict_kex)
        except IncompatiblePeer as error:
            m.rewind()
            offer = server_offer(str(error), self._really_parse_kex_init(m))
            raise IncompatiblePeer(f"{error}; their offer: {offer}") from None

    def _parse_debug(self, m: Message) -> None:
        # sshd sends two such messages for each login, which paramiko formats byte by byte.
        if self.logger.isEnabledFor(logging.DEBUG):
            super()._parse_debug(m)

    def _filter_algorithm(self, type_: str) -> Any:
        # paramiko asks for these lists eighteen times in each key exchange.
        if not self.disabled_algorithms:
            return tuple(getattr(self, f"_preferred_{type_}"))
        return super()._filter_algorithm(type_)

    def _auth_trigger(self) -> None:
        super()._auth_trigger()
        # paramiko keeps them: see docs/paramiko_repairs.md#kept-credentials
        self.auth_handler.password = self.auth_handler.private_key = None
        self.auth_handler.interactive_handler = None

    def _parse_ext_info(self, m: Message) -> None:
        super()._parse_ext_info(m)
        # Let a server that accepts no RSA signature refuse an RSA key itself: see
        # docs/paramiko_repairs.md#rsa-refused
        listed = self.server_extensions.get("server-sig-algs", b"")
        ours = [name for name in self.preferred_pubkeys if "rsa" in name]
        if listed and ours and set(ours).isdisjoint(listed.decode("latin-1").split(",")):
            self.server_extensions["server-sig-algs"] = listed + b"," + ours[0].encode()

    # Host key and re-keying.

    def _verify_key(self, host_key: bytes, sig: bytes) -> None:
        check_host_key(self.host_key_type, host_key, sig)
        trusted = (
            self.host_key
        )  # paramiko forgets it: docs/paramiko_repairs.md#host-key-at-a-rekey
        super()._verify_key(host_key, sig)
        if trusted is not None and trusted.asbytes() != self.host_key.asbytes():
            self.abort(
                self._loss_error("host key", "the server showed another host key at a re-key")
            )
            raise SSHException("the server showed another host key")

    def renegotiate_keys(self) -> None:
        """
        Exchange keys again, and wait for an exchange that began after the call.

        Raises
        ------
        SshConnectionLost
            The connection has ended, or the server did not complete the exchange.
        """
        done = LockFreeEvent()
        self._rekey_waiters.append(done)
        if self.is_active():  # otherwise there is no reader thread to set it
            self._send_keepalive()  # wakes the reader, which begins
            limit = 2 * sending.REKEY_TIMEOUT  # another exchange may be in progress
            if not done.wait(limit):
                self.abort(self._loss_error("protocol", f"no new keys in {limit:g} s"))
        if not self.is_active():
            raise self._ended_error()

    def _send_kex_init(self) -> None:
        if self.initial_kex_done:
            self._rekey_started_at = time.monotonic()
        while self._rekey_waiters:
            self._current_rekey_waiters.append(self._rekey_waiters.pop(0))
        super()._send_kex_init()

    def _parse_newkeys(self, m: Message) -> None:
        super()._parse_newkeys(m)
        self._ready_key = None  # of another type than the server's
        self._rekey_started_at = None
        waiting, self._current_rekey_waiters = self._current_rekey_waiters, []
        for latch in waiting:
            latch.set()

    def _release_waiters(self, reason: SshConnectionLost) -> None:
        while self._rekey_waiters:
            self._current_rekey_waiters.append(self._rekey_waiters.pop(0))
        for latch in self._current_rekey_waiters:
            latch.set()
        super()._release_waiters(reason)

    # The reader's waits.

    def _before_wait(self) -> Optional[float]:
        """Do what is due before the reader waits; return for how many seconds it may wait."""
        now = time.monotonic()
        waits = []
        if self._rekey_waiters and not self.in_kex:
            # Only on this thread: see docs/paramiko_repairs.md#concurrent-rekeys
            self.packetizer._trigger_rekey()
        queue = self._send_queue
        soon = queue.time_to_flush(now) if queue.flush_at else 0.0
        if soon:
            waits.append(soon)
        elif queue or self._wire.backlog:
            self._flush()
        if self._rekey_started_at is not None:
            waits.append(self._rekey_started_at + sending.REKEY_TIMEOUT - now)
            if waits[-1] <= 0:
                raise SSHException(f"no end of a key exchange in {sending.REKEY_TIMEOUT:g} s")
        if self._keepalive_monitor.limit and self.authenticated:
            ask, patience = self._keepalive_monitor.check(now, self._wire.last_received)
            if ask:
                self._send_keepalive()
            waits.append(patience)
        return max(0.0, min(waits)) if waits else _IDLE_CHECK_INTERVAL

    @property
    def keepalive_interval(self) -> float:
        """Seconds of silence after which a keepalive is sent; 0 for never."""
        return self._keepalive_monitor.interval

    def set_keepalive(self, interval: float) -> None:
        """
        Change the keepalive interval; the count stays the same.

        Parameters
        ----------
        interval : float
            Seconds of silence after which a keepalive is sent; 0 for never.

        Notes
        -----
        The interval applies from the server's next message, which is requested at once.  Without
        keepalives before, and without a message, it applies within a minute.
        """
        self._keepalive_monitor.set_interval(float(interval))
        self._wire.stall_timeout = self._keepalive_monitor.limit or _STALL_TIMEOUT
        self._send_keepalive()
