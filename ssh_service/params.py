"""
What makes two connections different: connect parameters, resolved once, and their key.

`resolve` joins what the caller gave with what ssh_config says, the caller's word first, and
refuses everything it does not understand.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shlex
import socket
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Tuple, Union

import paramiko

from ssh_service import algorithms, settings, ssh_config
from ssh_service.errors import SshConfigError
from ssh_service.known_hosts import POLICIES, HostKeyTrust, host_name
from ssh_service.secret import Secret, keyed_digest
from ssh_service.ssh_config import HostConfig, Value

__all__ = ["SETTINGS", "ConnectKey", "ConnectParams", "resolve"]

SETTINGS = (
    "host",
    "port",
    "username",
    "password",
    "client_keys",
    "passphrase",
    "identities_only",
    "agent_path",
    "kbdint_handler",
    "preferred_auth",
    "known_hosts",
    "host_key_policy",
    "host_key_alias",
    "host_key_fingerprints",
    "config",
    "config_exec",
    "tunnel",
    "proxy_command",
    "family",
    "local_addr",
    "encryption_algs",
    "kex_algs",
    "mac_algs",
    "server_host_key_algs",
    "compression_algs",
    "connect_timeout",
    "login_timeout",
    "keepalive_interval",
    "keepalive_count_max",
)

_AUTH_METHODS = ("publickey", "password", "keyboard-interactive")
_DEFAULT_IDENTITIES = ("id_rsa", "id_ecdsa", "id_ecdsa_sk", "id_ed25519", "id_ed25519_sk")
_MAX_HOPS = 16
_FAMILIES = {"any": 0, "inet": int(socket.AF_INET), "inet6": int(socket.AF_INET6)}
_ALGORITHM_KEYWORDS = {
    "encryption_algs": "ciphers",
    "kex_algs": "kexalgorithms",
    "mac_algs": "macs",
    "server_host_key_algs": "hostkeyalgorithms",
}
_MISSING = object()

Hidden = Union[None, Secret, Callable[[], Any]]
# A path, a key in hand, the text of a key file, or one of those with its certificate's path.
KeySource = Union[str, paramiko.PKey, Secret, Tuple[Any, str]]


class ConnectKey(NamedTuple):
    """
    Everything that makes two connections different; equal keys may share one.

    Secrets are in it as keyed digests of this process only.
    """

    destination: Tuple[str, str, int, str]
    credentials: Tuple[Any, ...]
    host_keys: Tuple[Any, ...]
    route: Tuple[Any, ...]
    algorithms: Tuple[Any, ...]
    keepalive: Tuple[Optional[float], int]

    def __repr__(self) -> str:
        host, _, port, username = self.destination
        return f"<ConnectKey {username}@{host}:{port}>"


@dataclass(frozen=True)
class ConnectParams:
    """
    One destination and everything needed to dial it; made by `resolve`.

    Attributes
    ----------
    host : str
        As the caller typed it (an alias of ssh_config, perhaps).
    hostname : str
        The name or address to dial.
    port : int
        TCP port.
    username : str
        The login name.
    client_keys : Union[None, Tuple[KeySource, ...], Callable[[], Any]]
        The caller's keys; None for ssh's own order (`identity_files`).
    identity_files : Tuple[str, ...]
        Identity files of ssh_config, or ssh's default names; need not exist.
    identities_configured : bool
        Whether `identity_files` are ssh_config's.
    certificate_files : Tuple[str, ...]
        ``CertificateFile`` of ssh_config.
    identities_only : bool
        Whether an agent offers only keys that are named by file too.
    agent_path : Optional[str]
        The agent's socket; None for no agent.
    password : Hidden
        A `Secret`, or a callable asked at each dial.
    passphrase : Hidden
        Of encrypted key files; as `password`.
    kbdint_handler : Optional[Callable[..., Any]]
        ``handler(name, instructions, [(prompt, echo), ...]) -> [answer, ...]``.
    preferred_auth : Tuple[str, ...]
        Methods to try, in order.
    known_hosts : HostKeyTrust
        How the host key is judged.
    host_key_alias : Optional[str]
        The name the host key is filed under.
    tunnel : Union[None, ConnectParams, paramiko.Transport]
        The jump host, or a connection in hand to go through.
    proxy_command : Optional[str]
        A command whose stdin and stdout are the connection.
    family : int
        A `socket` address family; 0 for any.
    local_addr : Optional[Tuple[str, int]]
        The address to dial from.
    encryption_algs, kex_algs, mac_algs, server_host_key_algs, compression_algs : Tuple[str, ...]
        Algorithms to offer, in order.
    connect_timeout : float
        Seconds from the name to authenticated, jump hosts included.
    login_timeout : Optional[float]
        Seconds from TCP connected to authenticated, within `connect_timeout`.
    keepalive_interval : Optional[float]
        Seconds of silence before the server is asked for a sign of life; None for never.
    keepalive_count_max : int
        Unanswered questions after which the connection is lost.

    Notes
    -----
    *Thread safety*: immutable.
    """

    host: str
    hostname: str
    port: int
    username: str
    client_keys: Union[None, Tuple[KeySource, ...], Callable[[], Any]]
    identity_files: Tuple[str, ...]
    identities_configured: bool
    certificate_files: Tuple[str, ...]
    identities_only: bool
    agent_path: Optional[str]
    password: Hidden
    passphrase: Hidden
    kbdint_handler: Optional[Callable[..., Any]]
    preferred_auth: Tuple[str, ...]
    known_hosts: HostKeyTrust
    host_key_alias: Optional[str]
    tunnel: Union[None, ConnectParams, paramiko.Transport]
    proxy_command: Optional[str]
    family: int
    local_addr: Optional[Tuple[str, int]]
    encryption_algs: Tuple[str, ...]
    kex_algs: Tuple[str, ...]
    mac_algs: Tuple[str, ...]
    server_host_key_algs: Tuple[str, ...]
    compression_algs: Tuple[str, ...]
    connect_timeout: float
    login_timeout: Optional[float]
    keepalive_interval: Optional[float]
    keepalive_count_max: int

    @property
    def connection_id(self) -> str:
        """The connection's name for people: ``user@host:port``."""
        return f"{self.username}@{self.host}:{self.port}"

    @property
    def host_key_policy(self) -> str:
        """``strict``, ``accept-new`` or ``off``."""
        return self.known_hosts.policy

    @property
    def host_key_names(self) -> Tuple[str, ...]:
        """The names the host key may be filed under; a new one goes under the first."""
        if self.host_key_alias is not None:
            return (self.host_key_alias.lower(),)
        # ssh too takes a key it knows for the host at port 22, whatever the port.
        names = (host_name(self.hostname, self.port), self.hostname.lower())
        return names[:1] if names[0] == names[1] else names

    @functools.cached_property
    def key(self) -> ConnectKey:
        """What the cache compares; reads the key files' state the first time it is asked."""
        tunnel = self.tunnel.key if isinstance(self.tunnel, ConnectParams) else self.tunnel
        return ConnectKey(
            destination=(self.host, self.hostname, self.port, self.username),
            credentials=(
                _client_keys_identity(self),
                self.certificate_files,
                self.identities_only,
                self.agent_path,
                _hidden_identity(self.password),
                _hidden_identity(self.passphrase),
                _object_identity(self.kbdint_handler),
                self.preferred_auth,
            ),
            host_keys=(self.known_hosts, self.host_key_alias),
            route=(tunnel, self.proxy_command, self.family, self.local_addr),
            algorithms=tuple(getattr(self, kind) for kind in algorithms.KINDS),
            keepalive=(self.keepalive_interval, self.keepalive_count_max),
        )


# --- identities -----------------------------------------------------------------------------


class _Same:
    """Stands for an object that cannot be hashed: equal to itself only."""

    def __init__(self, thing: Any) -> None:
        self.thing = thing

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.thing is self.thing

    def __hash__(self) -> int:
        return id(self.thing)


def _object_identity(thing: Any) -> Any:
    try:
        hash(thing)
    except TypeError:
        return _Same(thing)
    return thing  # equality, not identity: `vault.password` is a new bound method each time


def _hidden_identity(value: Hidden) -> Any:
    return value.digest if isinstance(value, Secret) else _object_identity(value)


def _client_keys_identity(params: ConnectParams) -> Any:
    if params.client_keys is None:
        return tuple(_source_identity(path) for path in params.identity_files)
    if callable(params.client_keys):
        return _object_identity(params.client_keys)
    return tuple(_source_identity(source) for source in params.client_keys)


def _source_identity(source: KeySource) -> Any:
    if isinstance(source, str):
        return (source, _file_identity(source), _file_identity(source + "-cert.pub"))
    if isinstance(source, Secret):
        return source.digest
    if isinstance(source, tuple):
        return (_source_identity(source[0]), source[1], _file_identity(source[1]))
    certificate = getattr(source, "public_blob", None)
    blob = certificate.key_blob if certificate else b""
    return (source.get_name(), hashlib.sha256(source.asbytes() + blob).hexdigest())


def _file_identity(path: str) -> Optional[str]:
    try:
        facts = os.stat(path)
        return _content_digest(
            path, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_size, facts.st_ino
        )
    except OSError:
        return None  # what is wrong with it is told by the dial


@functools.lru_cache(maxsize=256)
def _content_digest(path: str, mtime_ns: int, ctime_ns: int, size: int, inode: int) -> str:
    with open(path, "rb") as file:
        return keyed_digest(file.read(1 << 20))


# --- resolving ------------------------------------------------------------------------------


def resolve(connect_params: Mapping[str, Any]) -> ConnectParams:
    """
    Turn connect parameters and ssh_config into one description of a connection.

    Parameters
    ----------
    connect_params : Mapping[str, Any]
        asyncssh's names (see `SETTINGS`).  ``host`` is required; everything else has a default,
        and what is not given is taken from ssh_config first.  Where it means nothing else, None
        is "not given".  ``known_hosts=None``: host keys are not checked, unless ssh_config asks
        for it; ``config=None``: no ssh_config is read; ``agent_path=None``: no agent;
        ``tunnel=None``: no jump host; ``keepalive_interval=None``: no keepalives.

    Returns
    -------
    ConnectParams
        Complete and checked.

    Raises
    ------
    SshConfigError
        A name is unknown, a value is of the wrong type or out of range, two settings contradict
        each other, or a file named here or in ssh_config cannot be used.
    """
    return _resolve(connect_params, ())


def _resolve(
    connect_params: Mapping[str, Any], hops: Tuple[Tuple[str, int, str], ...]
) -> ConnectParams:
    if not isinstance(connect_params, Mapping):
        raise settings.wrong("connect_params", connect_params, "a mapping of settings")
    return _Resolver(connect_params, hops).resolve()


class _Resolver:
    """One call of `resolve`: the caller's settings over those of ssh_config."""

    def __init__(self, given: Mapping[str, Any], hops: Tuple[Tuple[str, int, str], ...]) -> None:
        unknown = sorted(str(name) for name in given if name not in SETTINGS)
        if unknown:
            raise SshConfigError(
                f"unknown connect parameter {', '.join(map(repr, unknown))}; "
                f"those known are: {', '.join(SETTINGS)}"
            )
        self._given = given
        self._hops = hops
        self._tokens: Dict[str, str] = {}
        self._config = HostConfig()
        self._host = ""
        self._hostname = ""
        self._port = 22
        self._username = ""

    def resolve(self) -> ConnectParams:
        self._resolve_destination()
        tunnel, proxy_command = self._route()
        agent_path = self._agent_path()
        client_keys = self._client_keys()
        configured = self._config.all("identityfile")
        identities_only = self._switch("identities_only", "identitiesonly", False)
        connect_timeout = self._span("connect_timeout", "connecttimeout")
        login_timeout = self._span("login_timeout", None)
        return ConnectParams(
            host=self._host,
            hostname=self._hostname,
            port=self._port,
            username=self._username,
            client_keys=client_keys,
            identity_files=self._identity_files(configured),
            identities_configured=bool(configured),
            certificate_files=tuple(
                path
                for value in self._config.all("certificatefile")
                for path in self._config_paths(value)
            ),
            identities_only=identities_only,
            agent_path=agent_path,
            password=settings.hidden("password", self._given.get("password")),
            passphrase=settings.hidden("passphrase", self._given.get("passphrase")),
            kbdint_handler=self._handler("kbdint_handler"),
            preferred_auth=self._preferred_auth(),
            known_hosts=self._trust(),
            host_key_alias=self._host_key_alias(),
            tunnel=tunnel,
            proxy_command=proxy_command,
            family=self._family(),
            local_addr=self._local_addr(),
            encryption_algs=self._algorithms("encryption_algs"),
            kex_algs=self._algorithms("kex_algs"),
            mac_algs=self._algorithms("mac_algs"),
            server_host_key_algs=self._algorithms("server_host_key_algs"),
            compression_algs=self._compression(),
            connect_timeout=30.0 if connect_timeout is None else connect_timeout,
            login_timeout=login_timeout,
            keepalive_interval=self._keepalive_interval(),
            keepalive_count_max=self._keepalive_count_max(),
        )

    # --- where to

    def _resolve_destination(self) -> None:
        if self._given.get("host") is None:
            raise SshConfigError("host: not given, needs the name or address to connect to")
        host = settings.text("host", self._given["host"]).strip()
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        if host.startswith("-") or any(char.isspace() for char in host):
            raise settings.wrong("host", host, "a host name or address")
        given_port = self._get("port")
        port = None if given_port is None else settings.port("port", given_port)
        given_user = self._get("username")
        user = None if given_user is None else settings.text("username", given_user)
        allow_exec = settings.flag("config_exec", self._given.get("config_exec", False))
        files = self._given.get("config", ())
        if files is not None:
            self._config = ssh_config.lookup(
                host,
                settings.paths("config", files) or None,
                user=user,
                port=port,
                allow_exec=allow_exec,
            )
        self._host = host
        if port is None:
            value = self._config.get("port")
            port = 22 if value is None else settings.port(_named(value, "Port"), _one(value))
        if user is None:
            value = self._config.get("user")
            user = ssh_config.local_user() if value is None else _one(value)
        value = self._config.get("hostname")
        hostname = host
        if value is not None:
            tokens = {"h": host, "%": "%"}
            hostname = ssh_config.expand_tokens(_one(value), tokens, value.origin)
        self._hostname, self._port, self._username = hostname, port, user
        local_name = socket.gethostname()
        self._tokens = {
            "%": "%",
            "d": os.path.expanduser("~"),
            "h": hostname,
            "i": str(os.getuid()) if hasattr(os, "getuid") else "0",
            "k": hostname.lower(),
            "L": local_name.partition(".")[0],
            "l": local_name,
            "n": host,
            "p": str(port),
            "r": user,
            "u": ssh_config.local_user(),
        }
        alias = self._host_key_alias()
        if alias is not None:
            self._tokens["k"] = alias
        joined = "".join(self._tokens[letter] for letter in "lhpr")
        self._tokens["C"] = hashlib.sha1(joined.encode("utf-8", "surrogateescape")).hexdigest()

    def _host_key_alias(self) -> Optional[str]:
        given = self._get("host_key_alias")
        if given is not None:
            return settings.text("host_key_alias", given)
        value = self._config.get("hostkeyalias")
        return None if value is None else _one(value)

    def _family(self) -> int:
        given = self._get("family")
        if isinstance(given, int) and given in _FAMILIES.values():
            return int(given)
        if given is not None:
            return _FAMILIES[settings.choice("family", given, tuple(_FAMILIES))]
        value = self._config.get("addressfamily")
        if value is None:
            return 0
        word = _one(value).lower()
        return _FAMILIES[settings.choice(_named(value, "AddressFamily"), word, tuple(_FAMILIES))]

    def _local_addr(self) -> Optional[Tuple[str, int]]:
        given = self._get("local_addr")
        if isinstance(given, (tuple, list)) and len(given) == 2:
            source_port = given[1]
            if source_port != 0:
                source_port = settings.port("local_addr", source_port)
            return (settings.text("local_addr", given[0]) if given[0] else "", source_port)
        if given is not None:
            return (settings.text("local_addr", given), 0)
        value = self._config.get("bindaddress")
        return None if value is None else (_one(value), 0)

    # --- which way

    def _route(self) -> Tuple[Union[None, ConnectParams, paramiko.Transport], Optional[str]]:
        given_tunnel = self._given.get("tunnel", _MISSING)
        given_command = self._get("proxy_command")
        if given_tunnel not in (_MISSING, None, (), "none") and given_command is not None:
            raise SshConfigError("tunnel and proxy_command: both given, needs at most one")
        if given_command is not None:
            if isinstance(given_command, (list, tuple)):  # asyncssh takes an argument list too
                words = [settings.command("proxy_command", word) for word in given_command]
                return None, " ".join(shlex.quote(word) for word in words)
            return None, settings.command("proxy_command", given_command)
        if given_tunnel is None or given_tunnel == "none":
            return None, None
        if given_tunnel is not _MISSING and given_tunnel != ():
            return self._tunnel("tunnel", given_tunnel), None
        jump, command = self._config.get("proxyjump"), self._config.get("proxycommand")
        # As in ssh: the first of the two in the files counts.
        order = self._config.keywords()
        if jump and command and order.index("proxycommand") < order.index("proxyjump"):
            jump = None
        if jump is not None:
            text = _one(jump)
            if text.lower() != "none":
                return self._tunnel(_named(jump, "ProxyJump"), self._expand(jump, text)), None
            return None, None
        if command is not None and _one(command).lower() != "none":
            return None, self._expand(command, _one(command))
        return None, None

    def _tunnel(self, name: str, given: Any) -> Union[ConnectParams, paramiko.Transport]:
        if isinstance(given, paramiko.Transport):
            return given
        here = (self._hostname.lower(), self._port, self._username)
        # What code spells out ends by itself; what files say of each other may not.
        if (name != "tunnel" and here in self._hops) or len(self._hops) >= _MAX_HOPS:
            raise SshConfigError(
                f"{name}: the jump hosts of {self._host} lead in a circle or are too many"
            )
        hops = self._hops + (here,)
        if isinstance(given, Mapping):
            return _resolve(given, hops)
        if not isinstance(given, str) or not given.strip():
            raise settings.wrong(name, given, "user@host:port, connect parameters or a Transport")
        *before, last = [part.strip() for part in given.split(",")]
        hop = _parse_destination(name, last)
        for inherited in ("config", "config_exec", "passphrase", "agent_path", "kbdint_handler"):
            if inherited in self._given:
                hop[inherited] = self._given[inherited]
        for inherited in ("keepalive_interval", "keepalive_count_max"):
            if inherited in self._given:
                hop[inherited] = self._given[inherited]
        if before:
            hop["tunnel"] = ",".join(before)
        self._inherit_trust(hop)
        return _resolve(hop, hops)

    def _inherit_trust(self, hop: Dict[str, Any]) -> None:
        """Give a hop, which has a trust of its own, the files the caller named."""
        files = self._given.get("known_hosts")
        if files is not None and files not in ((), []):
            hop["known_hosts"] = files
            policy = self._get("host_key_policy")
            if policy is not None:
                hop["host_key_policy"] = policy

    # --- who we are

    def _client_keys(self) -> Union[None, Tuple[KeySource, ...], Callable[[], Any]]:
        given = self._get("client_keys")
        if given is None:
            return None
        if callable(given) and not isinstance(given, paramiko.PKey):
            return given  # type: ignore[no-any-return]
        return key_sources("client_keys", given)

    def _identity_files(self, configured: List[Value]) -> Tuple[str, ...]:
        if configured:
            found = [path for value in configured for path in self._config_paths(value)]
            return tuple(dict.fromkeys(found))
        home = os.path.expanduser("~/.ssh")
        return tuple(os.path.join(home, name) for name in _DEFAULT_IDENTITIES)

    def _agent_path(self) -> Optional[str]:
        if "agent_path" in self._given:
            given = self._given["agent_path"]
            return None if given in (None, ()) else settings.path("agent_path", given)
        value = self._config.get("identityagent")
        if value is not None:
            text = _one(value)
            if text.lower() == "none":
                return None
            if text == "SSH_AUTH_SOCK":
                return os.environ.get("SSH_AUTH_SOCK") or None
            if text.startswith("$") and not text.startswith("${"):
                return os.environ.get(text[1:]) or None
            return self._config_paths(value)[0]
        return os.environ.get("SSH_AUTH_SOCK") or None

    def _preferred_auth(self) -> Tuple[str, ...]:
        given = self._get("preferred_auth")
        if given is None:
            value = self._config.get("preferredauthentications")
            if value is None:
                return _AUTH_METHODS
            # The file serves ssh too: methods we do not have (gssapi) are passed over.
            wanted = [word.strip() for word in _one(value).split(",")]
            return tuple(word for word in wanted if word in _AUTH_METHODS)
        words = given.split(",") if isinstance(given, str) else given
        if not isinstance(words, (list, tuple)):
            raise settings.wrong("preferred_auth", given, "a list of " + ", ".join(_AUTH_METHODS))
        return tuple(settings.choice("preferred_auth", word, _AUTH_METHODS) for word in words)

    def _handler(self, name: str) -> Optional[Callable[..., Any]]:
        given = self._get(name)
        if given is not None and not callable(given):
            raise settings.wrong(name, given, "a callable")
        return given  # type: ignore[no-any-return]

    # --- whom we trust

    def _trust(self) -> HostKeyTrust:
        given = self._given.get("known_hosts", ())
        policy = self._get("host_key_policy")
        if policy is not None:
            policy = settings.choice("host_key_policy", policy, POLICIES)
        configured = self._configured_policy()
        pins = self._pins()
        if given is None:
            if policy in ("strict", "accept-new"):
                raise SshConfigError(
                    f"host_key_policy: {policy!r} given with known_hosts None, "
                    f"needs known_hosts (a file), or 'off'"
                )
            if pins:
                return HostKeyTrust("strict", (), pins)
            if policy == "off" or configured is None:
                return HostKeyTrust("off")
            # Nobody asked in code for less than the user's own ssh_config demands.
            return HostKeyTrust(configured, self._known_hosts_files())
        if isinstance(given, (list, tuple)) and not given:
            files = self._known_hosts_files()
            return HostKeyTrust(policy or configured or "strict", files, pins)
        files = settings.paths("known_hosts", given)
        policy = policy or "strict"
        for path in files:
            if policy == "strict" and not os.path.exists(path):
                raise SshConfigError(
                    f"known_hosts: file {path!r} does not exist; "
                    f"host_key_policy='accept-new' would create it"
                )
            if os.path.isdir(path):
                raise settings.wrong("known_hosts", path, "a file, not a folder")
        return HostKeyTrust(policy, files, pins)

    def _configured_policy(self) -> Optional[str]:
        value = self._config.get("stricthostkeychecking")
        if value is None:
            return None
        words = {
            "yes": "strict",
            "true": "strict",
            "ask": "strict",  # there is nobody to ask
            "accept-new": "accept-new",
            # ssh goes on even where a key changed; a library must not.
            "no": "accept-new",
            "false": "accept-new",
            "off": "accept-new",
        }
        name = _named(value, "StrictHostKeyChecking")
        return words[settings.choice(name, _one(value).lower(), tuple(words))]

    def _known_hosts_files(self) -> Tuple[str, ...]:
        home = os.path.expanduser("~/.ssh")
        defaults = {
            "userknownhostsfile": tuple(
                os.path.join(home, name) for name in ("known_hosts", "known_hosts2")
            ),
            "globalknownhostsfile": ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2"),
        }
        files: List[str] = []
        for keyword, names in defaults.items():
            value = self._config.get(keyword)
            if value is None:
                files.extend(names)
            elif [word.lower() for word in value.arguments] != ["none"]:
                files.extend(self._config_paths(value))
        return tuple(dict.fromkeys(files))

    def _pins(self) -> Tuple[str, ...]:
        given = self._get("host_key_fingerprints")
        if given is None:
            return ()
        pins = [given] if isinstance(given, str) else given
        if not isinstance(pins, (list, tuple)) or not pins:
            raise settings.wrong("host_key_fingerprints", given, "SHA256:... or a list of those")
        for pin in pins:
            if not isinstance(pin, str) or not pin.startswith("SHA256:") or len(pin) != 50:
                raise settings.wrong(
                    "host_key_fingerprints", pin, "SHA256: and 43 characters, as ssh-keygen -l"
                )
        return tuple(pins)

    # --- how we talk

    def _algorithms(self, kind: str) -> Tuple[str, ...]:
        given = self._get(kind)
        if given not in (None, ()):
            if not isinstance(given, str) and not (
                isinstance(given, (list, tuple)) and all(isinstance(n, str) for n in given)
            ):
                raise settings.wrong(kind, given, "a list of algorithm names")
            return algorithms.choose(kind, given)
        keyword = _ALGORITHM_KEYWORDS.get(kind)
        value = self._config.get(keyword) if keyword else None
        if value is None:
            return algorithms.default(kind)
        return algorithms.choose(kind, _one(value), origin=value.origin)

    def _compression(self) -> Tuple[str, ...]:
        if self._get("compression_algs") in (None, ()):
            value = self._config.get("compression")
            if value is not None and settings.flag(_named(value, "Compression"), _one(value)):
                return algorithms.choose("compression_algs", "zlib@openssh.com,zlib,none")
        return self._algorithms("compression_algs")

    def _keepalive_interval(self) -> Optional[float]:
        name = "keepalive_interval"
        if name in self._given:
            given = self._given[name]
            return None if given is None else settings.seconds(name, given, zero_is_off=True)
        value = self._config.get("serveraliveinterval")
        if value is None:
            return 15.0
        return settings.time_span(_named(value, "ServerAliveInterval"), _one(value)) or None

    def _keepalive_count_max(self) -> int:
        given = self._get("keepalive_count_max")
        if given is not None:
            return settings.positive_int("keepalive_count_max", given)
        value = self._config.get("serveralivecountmax")
        if value is None:
            return 3
        name, text = _named(value, "ServerAliveCountMax"), _one(value)
        return settings.positive_int(name, int(text) if text.isdigit() else text)

    def _span(self, name: str, keyword: Optional[str]) -> Optional[float]:
        given = self._get(name)
        if given is not None:
            return settings.seconds(name, given)
        value = self._config.get(keyword) if keyword else None
        if value is None or _one(value).lower() == "none":
            return None
        return settings.time_span(_named(value, keyword or name), _one(value)) or None

    # --- helpers

    def _get(self, name: str) -> Any:
        return self._given.get(name)

    def _switch(self, name: str, keyword: str, default: bool) -> bool:
        given = self._get(name)
        if given is not None:
            return settings.flag(name, given)
        value = self._config.get(keyword)
        return default if value is None else settings.flag(_named(value, keyword), _one(value))

    def _expand(self, value: Value, text: str) -> str:
        return ssh_config.expand_tokens(text, self._tokens, value.origin)

    def _config_paths(self, value: Value) -> Tuple[str, ...]:
        found = []
        for word in value.arguments:
            if word.lower() == "none":
                continue
            expanded = self._expand(value, ssh_config.expand_environment(word, value.origin))
            found.append(os.path.abspath(os.path.expanduser(expanded)))
        return tuple(found)


def key_sources(name: str, given: Any) -> Tuple[KeySource, ...]:
    """
    Read the forms in which keys may be given.

    Parameters
    ----------
    name : str
        The setting's name.
    given : Any
        A path, a `paramiko.PKey`, the bytes (or a `Secret`) of a key file, a pair of one of
        those and the path of its certificate, or a list of all that.

    Returns
    -------
    Tuple[KeySource, ...]
        Paths are absolute, key texts are `Secret`.

    Raises
    ------
    SshConfigError
        It is something else.
    """
    if isinstance(given, list) or (isinstance(given, tuple) and not _is_pair(given)):
        return tuple(source for one in given for source in key_sources(name, one))
    if _is_pair(given):
        (source,) = key_sources(name, given[0])
        return ((source, settings.path(name, given[1])),)
    if isinstance(given, (paramiko.PKey, Secret)):
        return (given,)
    if isinstance(given, bytes):
        return (Secret(given),)
    if isinstance(given, str) and "PRIVATE KEY-----" in given:
        return (Secret(given),)
    if isinstance(given, (str, os.PathLike)):
        return (settings.path(name, given),)
    raise SshConfigError(
        f"{name}: a {type(given).__name__} given, needs a path, a paramiko.PKey, "
        f"a callable that returns one, or a list of those"
    )


def _is_pair(given: Any) -> bool:
    """Tell a key with its certificate from two keys: only the former has a certificate's name."""
    return (
        isinstance(given, tuple)
        and len(given) == 2
        and isinstance(given[1], (str, os.PathLike))
        and str(given[1]).endswith("-cert.pub")
    )


def _parse_destination(name: str, text: str) -> Dict[str, Any]:
    for prefix in ("ssh://",):
        if text.startswith(prefix):
            text = text[len(prefix) :].rstrip("/")
    user, at, rest = text.rpartition("@")
    host, port = rest, ""
    if rest.startswith("["):
        host, bracket, tail = rest[1:].partition("]")
        port = tail[1:] if tail.startswith(":") else tail
        if not bracket:
            host = ""
    elif rest.count(":") == 1:
        host, _, port = rest.partition(":")
    if not host or (at and not user):
        raise settings.wrong(name, text, "user@host:port; user and port may be left out")
    found: Dict[str, Any] = {"host": host}
    if user:
        found["username"] = user
    if port:
        found["port"] = settings.port(name, port)
    return found


def _one(value: Value) -> str:
    return value.arguments[0]


def _named(value: Value, keyword: str) -> str:
    return f"{value.origin}: {keyword}"
