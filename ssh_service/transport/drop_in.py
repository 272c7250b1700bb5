"""`DropInTransport`: ours with the constructor and the meaning of `paramiko.Transport`."""

from __future__ import annotations

import inspect
import socket
import time
from typing import Any, Dict, Optional, Tuple

import paramiko
from paramiko.message import Message

from ssh_service.algorithms import CHACHA20_POLY1305
from ssh_service.errors import SshSessionRefused
from ssh_service.transport import reaper
from ssh_service.transport.paramiko_check import check_paramiko
from ssh_service.transport.transport import SshTransport

# Seconds to wait for a channel, as in paramiko.
_CHANNEL_TIMEOUT = 3600.0
# What is kept when a transport becomes a server, which is not repaired.
_SERVER_STATE = (
    "server_key_dict",
    "subsystem_table",
    "banner_timeout",
    "handshake_timeout",
    "auth_timeout",
    "channel_timeout",
    "clear_to_send_timeout",
    "hostname",
    "local_version",
    "log_name",
    "logger",
    "_preferred_ciphers",
    "_preferred_macs",
    "_preferred_keys",
    "_preferred_pubkeys",
    "_preferred_kex",
    "_preferred_compression",
)
# The order of the ciphers in paramiko 3.5 to 5; any other order is a program's choice.
_PARAMIKO_CIPHERS = (
    *("aes128-ctr", "aes192-ctr", "aes256-ctr", "aes128-cbc", "aes192-cbc", "aes256-cbc"),
    *("3des-cbc", "aes128-gcm@openssh.com", "aes256-gcm@openssh.com"),
)
# The others need a MAC, which paramiko compares byte by byte.
_CIPHERS = tuple(sorted(_PARAMIKO_CIPHERS, key=lambda name: "gcm" not in name))
_BANNER = "Error reading SSH protocol banner"
_paramiko_init = paramiko.Transport.__init__


class DropInTransport(SshTransport):
    """
    `paramiko.Transport`, repaired: same constructor, same calls, same exceptions.

    Parameters
    ----------
    sock : Union[socket.socket, Tuple[str, int], str]
        Connected to the server, or an object like a socket; or the address to connect to, as
        ``(host, port)`` or ``"host:port"``.
    default_window_size, default_max_packet_size : Optional[int]
        Bytes, for channels that name none; None: paramiko's defaults.
    disabled_algorithms : Optional[Mapping[str, Sequence[str]]]
        Algorithms not to use, by kind: ``ciphers``, ``macs``, ``keys``, ``pubkeys``, ``kex``.
    server_sig_algs, strict_kex : bool
        As in paramiko.
    **others : Any
        Other arguments of the installed paramiko: with ``gss_kex`` (before paramiko 5) or
        ``packetizer_class``, the transport is paramiko's own.

    Attributes
    ----------
    is_shared : bool
        Whether others use the connection, too: then nothing is sent that could end it.

    Raises
    ------
    SSHException, OSError
        The address cannot be reached.

    Notes
    -----
    Thread safety.  Every method may be called from any thread.

    There is no keepalive until `set_keepalive`.  `start_server` makes it paramiko's own transport.
    """

    def __init__(
        self,
        sock: Any,
        default_window_size: Optional[int] = None,
        default_max_packet_size: Optional[int] = None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        options = _bind(default_window_size, default_max_packet_size, *args, **kwargs)
        if options.get("gss_kex") or options.get("packetizer_class"):
            self.__class__ = paramiko.Transport
            _paramiko_init(self, sock, **options)
            return
        hostname = None
        if isinstance(sock, str) or type(sock) is tuple:
            opener = paramiko.Transport.__new__(paramiko.Transport)
            _paramiko_init(opener, sock)  # its thread is never started
            sock, hostname = opener.sock, opener.hostname
        if isinstance(sock, socket.socket) and sock.family in (socket.AF_INET, socket.AF_INET6):
            # See docs/paramiko_repairs.md#nagles-delay
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._drop_in_options = options
        self._kex_deadline: Optional[float] = None
        self.is_shared = False
        super().__init__(sock, connection_id=_peer_name(sock), keepalive_interval=None)
        self.hostname = hostname
        self.set_log_channel("paramiko.transport")  # where programs look for it
        self.channel_timeout = _CHANNEL_TIMEOUT
        for name in ("default_window_size", "default_max_packet_size"):
            if name in options:
                setattr(self, name, options[name])
        self.disabled_algorithms = options.get("disabled_algorithms") or {}
        self.server_sig_algs = options.get("server_sig_algs", True)
        self.advertise_strict_kex = options.get("strict_kex", True)

    @classmethod
    def preferences(cls) -> Tuple[Any, ...]:
        """Return the algorithms that new transports offer, which programs may change."""
        kinds = ("ciphers", "macs", "keys", "pubkeys", "kex", "compression")
        return tuple(getattr(cls, f"_preferred_{kind}") for kind in kinds)

    def set_shared_ciphers(self) -> None:
        """
        Offer AES-GCM first, and chacha20-poly1305 last.

        An order of the program's own is left as it is, and a program that disables ciphers gets
        none that it does not know.
        """
        if self.preferences()[0] != _PARAMIKO_CIPHERS:
            return
        self._preferred_ciphers = _CIPHERS
        if CHACHA20_POLY1305 in self._cipher_info and not self.disabled_algorithms.get("ciphers"):
            self._preferred_ciphers += (CHACHA20_POLY1305,)

    def __repr__(self) -> str:
        text: str = paramiko.Transport.__repr__(self)
        return text

    def start_client(self, event: Any = None, timeout: Optional[float] = None) -> None:
        """Do as `paramiko.Transport.start_client`; every wait of it ends."""
        now = time.monotonic()
        self.packetizer.deadline = now + self.banner_timeout
        self._kex_deadline = now + self.banner_timeout + self.handshake_timeout
        super().start_client(event=event, timeout=timeout)

    def _check_banner(self) -> None:
        try:
            paramiko.Transport._check_banner(self)
        except paramiko.SSHException as error:
            # Programs look for its words in the exception; the cause follows without a space.
            cause = str(error.__context__ or "")
            if not cause or str(error) != _BANNER + cause:
                raise
            raise paramiko.SSHException(f"{_BANNER}: {cause}") from error.__context__

    def _before_wait(self) -> Optional[float]:
        wait = super()._before_wait()
        if self._kex_deadline is None or self.initial_kex_done:
            return wait
        left = self._kex_deadline - time.monotonic()
        if left <= 0:
            raise EOFError("no end of the first key exchange")
        return left if wait is None else min(wait, left)

    def start_server(self, event: Any = None, server: Any = None) -> None:
        """Do as `paramiko.Transport.start_server`, as paramiko's own transport from here on."""
        if type(self) is not DropInTransport:
            raise paramiko.SSHException(
                "only paramiko's own Transport can be subclassed for a server:"
                f" derive {type(self).__name__} from the paramiko package's class"
            )
        kept = {name: value for name, value in vars(self).items() if name in _SERVER_STATE}
        options, sock = self._drop_in_options, self._wire.detach()
        reaper.unregister(self)
        self.__dict__.clear()
        self.__class__ = paramiko.Transport
        _paramiko_init(self, sock, **options)
        self.__dict__.update(kept)
        self.packetizer.set_log(self.logger)
        self.start_server(event=event, server=server)

    def _fields(self, kind: str, dest_addr: Any, src_addr: Any) -> Tuple[Any, ...]:
        try:
            return super()._fields(kind, dest_addr, src_addr)
        except SshSessionRefused:  # of an unknown kind; in paramiko, the server says so
            if self.is_shared:
                raise
            return ()

    def _find_forward(self, kind: str, m: Message) -> Tuple[Any, Any, Any]:
        forward, here, origin = super()._find_forward(kind, m)
        if forward is None and kind == "forwarded-tcpip" and not self.is_shared:
            forward = self._forwards.newest()  # as in paramiko, whatever the address
        return forward, here, origin

    def close(self) -> None:
        """Close the connection; who reads from a channel of it reads its end, as in paramiko."""
        if self.is_active():
            for channel in self._channels.values():
                channel.close()
        super().close()


def _bind(
    window_size: Optional[int], packet_size: Optional[int], *args: Any, **kwargs: Any
) -> Dict[str, Any]:
    """Return the arguments of the constructor by name; those without a value are left out."""
    signature = inspect.signature(_paramiko_init)
    bound = signature.bind(None, None, window_size, packet_size, *args, **kwargs)
    options = dict(list(bound.arguments.items())[2:])
    return {name: value for name, value in options.items() if value is not None}


def _peer_name(sock: Any) -> str:
    try:
        host, port = sock.getpeername()[:2]
    except Exception:  # an object like a socket need not have it
        return "transport"
    return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"


# Transports that paramiko itself makes, while `repair_new_transports` is in force.


def repair_new_transports(wanted: bool) -> None:
    """Have new objects of `paramiko.Transport` itself, not of its subclasses, repaired or not."""
    if wanted:
        check_paramiko()  # makes transports of paramiko's
    init = _init_repaired if wanted else _paramiko_init
    paramiko.Transport.__init__ = init


def _init_repaired(self: Any, *args: Any, **kwargs: Any) -> None:
    if type(self) is paramiko.Transport:
        self.__class__ = DropInTransport
        DropInTransport.__init__(self, *args, **kwargs)
    else:
        _paramiko_init(self, *args, **kwargs)
